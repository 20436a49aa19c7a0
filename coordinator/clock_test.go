package coordinator_test

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

// inTime runs fn in fake time, with the coordinator's Run going when fn calls n.run.
func inTime(t *testing.T, fn func(t *testing.T, n *testnet), adjust ...func(*coordinator.Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { fn(t, newNet(t, adjust...)) })
}

func TestTicketsExpire(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		alice := n.admin()
		tk := n.device("x").ticket()
		time.Sleep(protocol.TicketLife)
		_, err := n.Approve(n.ctx, alice.actor(), tk.ID, tk.Code)
		wantCode(t, "the right code after ten minutes", err, coordinator.CodeTicketOver)
		a, err := n.Wait(n.ctx, protocol.Wait{Ticket: tk.ID, Secret: tk.Secret})
		if err != nil || a.State != protocol.TicketExpired {
			t.Errorf("the device is told %+v, %v", a, err)
		}
	})
}

func TestWaitIsHeldForItsTime(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		tk := n.device("x").ticket()
		start := time.Now()
		a, err := n.Wait(n.ctx, protocol.Wait{Ticket: tk.ID, Secret: tk.Secret})
		if held := time.Since(start); err != nil || a.State != protocol.TicketPending || held != protocol.WaitHold {
			t.Errorf("%+v, %v after %s", a, err, held)
		}
	})
}

func TestSetupLinksAndKeysExpire(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		_, link, err := n.AddUser(n.ctx, operator, "bob@example.com", coordinator.RoleMember)
		if err != nil {
			t.Fatal(err)
		}
		_, key, err := n.CreateAuthKey(n.ctx, operator, coordinator.NewAuthKey{Tags: []string{"tag:db"}})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		_, err = n.device("x").enrol(key)
		wantCode(t, "an auth key after its hour", err, protocol.CodeAuthKey)
		time.Sleep(72 * time.Hour)
		_, err = n.Invitation(n.ctx, link)
		wantCode(t, "a setup link after three days", err, coordinator.CodeNotFound)
	})
}

func TestNoncesExpire(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		d := n.device("x")
		b := d.enrolBody("")
		time.Sleep(protocol.NonceLife + time.Millisecond)
		_, err := d.send(b)
		wantCode(t, "a request with an old nonce", err, protocol.CodeBadRequest)
	})
}

func TestTriesAreForgotten(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		p := n.admin()
		for range 5 {
			wantCode(t, "a wrong password", n.signIn(p, func(s *coordinator.SignIn) { s.Password = "wrong password" }), coordinator.CodeSignIn)
		}
		time.Sleep(4 * time.Minute)
		wantCode(t, "within the five minutes", n.signIn(p, nil), protocol.CodeThrottled)
		time.Sleep(time.Minute + time.Second)
		if err := n.signIn(p, nil); err != nil {
			t.Errorf("after five minutes: %v", err)
		}
	})
}

// Expiry ends a node's session and its place in others' maps on time; its owner, and nobody else, brings the same node back.
func TestNodesExpire(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		n.run()
		alice, bob := n.admin(), n.member("bob@example.com")
		laptop := n.device("laptop").join(alice).connect()
		db := n.device("db").joinTagged("tag:db").connect()
		db.until("know laptop", hasPeer("laptop"))
		was, start := laptop.admitted, time.Now()
		wantCode(t, "the session at the end", laptop.ended(), protocol.CodeExpired)
		if ran := time.Since(start); ran > time.Hour || ran < time.Hour-time.Second {
			t.Errorf("it ended after %s", ran)
		}
		db.until("lose laptop", lacksPeer("laptop"))
		if late := time.Since(was.Expires); late > time.Second {
			t.Errorf("others heard %s late", late)
		}
		wantCode(t, "attaching after the end", laptop.attach(), protocol.CodeExpired)

		tk := laptop.ticket()
		_, err := n.Approve(n.ctx, bob.actor(), tk.ID, tk.Code)
		wantCode(t, "another person taking the device over", err, coordinator.CodeConflict)
		_, err = n.Approve(n.ctx, alice.actor(), tk.ID, tk.Code)
		if err != nil {
			t.Fatal(err)
		}
		a, err := n.Wait(n.ctx, protocol.Wait{Ticket: tk.ID, Secret: tk.Secret})
		if err != nil || a.Admitted.Node != was.Node || a.Admitted.Addresses[0] != was.Addresses[0] {
			t.Errorf("renewed: %+v, %v", a, err)
		}
		laptop.connect()
		db.until("know laptop again", hasPeer("laptop"))
		if !slices.Contains(n.actions(), "node.expire") {
			t.Error("no audit record of the expiry")
		}
	}, func(c *coordinator.Config) { c.UserNodeLife = time.Hour })
}

func TestTaggedNodeExpires(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		n.run()
		db := n.device("db").joinTagged("tag:db").connect()
		was := db.admitted
		time.Sleep(time.Hour + time.Minute)
		_, err := db.enrol("")
		wantCode(t, "a tagged node without a key", err, protocol.CodeExpired)
		_, text, err := n.CreateAuthKey(n.ctx, operator, coordinator.NewAuthKey{Tags: []string{"tag:web"}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = db.enrol(text)
		wantCode(t, "with a key of other tags", err, coordinator.CodeConflict)
		if db.joinTagged("tag:db"); db.node() != was.Node {
			t.Errorf("it came back as %s, was %s", db.node(), was.Node)
		}
	}, func(c *coordinator.Config) { c.TagNodeLife = time.Hour })
}

// A lease is renewed every sixth of its time, for the same generation, and ends at most with the node's admission.
func TestLeaseIsRenewed(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		d := n.device("laptop").join(n.admin()).connect()
		first := d.header
		if got := first.NotAfter.Sub(first.Issued); got != 50*time.Minute {
			t.Errorf("the lease is %s", got)
		}
		start := time.Now()
		m := d.nextMap()
		if waited := time.Since(start); waited < 8*time.Minute || waited > 9*time.Minute {
			t.Errorf("renewed after %s", waited)
		}
		if m.Base != first.Generation || len(m.Put)+len(m.Remove) > 0 || d.generation != first.Generation || !d.header.NotAfter.After(first.NotAfter) {
			t.Errorf("renewed by base %d, %d entries, %+v", m.Base, len(m.Put), d.header)
		}
		for d.header.NotAfter.Before(d.admitted.Expires) {
			d.next(protocol.TypeMap)
		}
		if !d.header.NotAfter.Equal(d.admitted.Expires) {
			t.Errorf("near its end the lease runs to %s, the admission to %s", d.header.NotAfter, d.admitted.Expires)
		}
		wantCode(t, "the end", d.ended(), protocol.CodeExpired)
	}, func(c *coordinator.Config) { c.Lease, c.UserNodeLife = 50*time.Minute, 3*time.Hour })
}

// What takes something away reaches sessions without waiting to be joined by other changes; fake time shows any wait there is.
func TestNarrowingIsNotDelayed(t *testing.T) {
	for name, narrow := range map[string]func(n *testnet) error{
		"removal":    func(n *testnet) error { _, err := n.RemoveNode(n.ctx, operator, "db"); return err },
		"quarantine": func(n *testnet) error { _, err := n.QuarantineNode(n.ctx, operator, "db", true); return err },
		"policy": func(n *testnet) error {
			n.policy.set("{}", "c2")
			_, _, err := n.ReloadPolicy(n.ctx, operator, "")
			return err
		},
		"user": func(n *testnet) error { _, err := n.RemoveUser(n.ctx, operator, "root@example.com"); return err },
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T, n *testnet) {
				alice := n.admin()
				web := n.device("web").joinTagged("tag:web").connect()
				if name == "user" {
					n.device("db").join(alice).connect()
				} else {
					n.device("db").joinTagged("tag:db").connect()
				}
				web.until("know db", hasPeer("db"))
				heard := make(chan time.Time, 1)
				go func() {
					web.until("lose db", lacksPeer("db"))
					heard <- time.Now()
				}()
				time.Sleep(time.Second)
				start := time.Now()
				if err := narrow(n); err != nil {
					t.Fatal(err)
				}
				if delay := (<-heard).Sub(start); delay != 0 {
					t.Errorf("delayed by %s", delay)
				}
			})
		})
	}
}

func TestSignOfLife(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		d := n.device("db").joinTagged("tag:db").connect()
		d.next(protocol.TypeLive)
		for range 20 {
			start := time.Now()
			d.next(protocol.TypeLive)
			if quiet := time.Since(start); quiet > protocol.LiveInterval {
				t.Fatalf("nothing was said for %s", quiet)
			}
		}
	})
}

// Addresses rest for 30 days, or for as long as a certificate could be believed.
func TestAddressesRest(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		d := n.device("a").joinTagged("tag:db")
		n.device("b").joinTagged("tag:db")
		if _, err := n.RemoveNode(n.ctx, operator, "a"); err != nil {
			t.Fatal(err)
		}
		try := func() error {
			_, text, err := n.CreateAuthKey(n.ctx, operator, coordinator.NewAuthKey{Tags: []string{"tag:db"}})
			if err != nil {
				t.Fatal(err)
			}
			a, err := n.device("c").enrol(text)
			if err == nil && a.Admitted.Addresses[0] != d.admitted.Addresses[0] {
				t.Errorf("got %s", a.Admitted.Addresses[0])
			}
			return err
		}
		time.Sleep(29 * 24 * time.Hour)
		wantCode(t, "after 29 days", try(), protocol.CodeExhausted)
		time.Sleep(24*time.Hour + time.Second)
		if err := try(); err != nil {
			t.Errorf("after 30 days: %v", err)
		}
	}, func(c *coordinator.Config) { c.Overlay4 = netip.MustParsePrefix("10.0.0.4/30") })
}
