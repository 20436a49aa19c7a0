package coordinator_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

// Revocation waits for nothing (R21): with a disk that takes no writes, removal and quarantine take effect at the nodes all the same, the
// error says that they are not on disk, and they get there when they can.
func TestRevocationWithoutDisk(t *testing.T) {
	for name, revoke := range map[string]func(n *testnet, d *device, p *person) (coordinator.Change, error){
		"remove": func(n *testnet, d *device, p *person) (coordinator.Change, error) {
			return n.RemoveNode(n.ctx, operator, "laptop")
		},
		"quarantine": func(n *testnet, d *device, p *person) (coordinator.Change, error) {
			return n.QuarantineNode(n.ctx, p.actor(), "laptop", true)
		},
		"remove user": func(n *testnet, d *device, p *person) (coordinator.Change, error) {
			return n.RemoveUser(n.ctx, operator, p.Login)
		},
		"logout": func(n *testnet, d *device, p *person) (coordinator.Change, error) {
			return coordinator.Change{}, d.session.Logout(n.ctx)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T, n *testnet) {
				n.run()
				alice := n.admin()
				laptop := n.device("laptop").join(alice).connect()
				db := n.device("db").joinTagged("tag:db").connect()
				db.until("know laptop", hasPeer("laptop"))
				n.faults.full.Store(true)
				change, err := revoke(n, laptop, alice)
				wantCode(t, "the revocation", err, protocol.CodeUnavailable)
				if err == nil || !strings.Contains(err.Error(), "not on disk") || !strings.Contains(err.Error(), "full") {
					t.Errorf("the error says %v", err)
				}
				db.until("lose laptop", lacksPeer("laptop"))
				if name != "logout" && db.generation < change.Generation {
					t.Errorf("at generation %d, want %d", db.generation, change.Generation)
				}
				if name == "quarantine" {
					laptop.until("be alone", func(c protocol.Content) bool { return c.Self.Quarantined && len(c.Peers) == 0 })
				} else {
					wantCode(t, "the node's session", laptop.ended(), protocol.CodeRemoved)
				}
				if name == "remove user" {
					_, err := n.UserByID(n.ctx, alice.ID)
					wantCode(t, "the account", err, coordinator.CodeNotFound)
				}
				if _, err := n.RenameNode(n.ctx, operator, "db", "db2"); err == nil {
					t.Error("an ordinary change went through")
				}
				held := db.generation

				n.faults.full.Store(false)
				time.Sleep(10 * time.Second)
				synctest.Wait()
				records, err := n.Audit(n.ctx, operator, 1, 0)
				if err != nil || records[0].Generation <= held {
					t.Errorf("on disk is %+v, %v; the nodes hold generation %d", records, err, held)
				}
				if _, err := n.RenameNode(n.ctx, operator, "db", "db2"); err != nil {
					t.Fatal(err)
				}
				db.until("be renamed", func(c protocol.Content) bool { return c.Self.Name == "db2" })
				if hasPeer("laptop")(db.content) {
					t.Error("the next change brought the victim back")
				}
			})
		})
	}
}

func TestEmergencyStillNeedsARight(t *testing.T) {
	n := newNet(t)
	bob := n.member("bob@example.com")
	n.device("db").joinTagged("tag:db")
	for _, fault := range []*atomic.Bool{&n.faults.full, &n.faults.dead} {
		fault.Store(true)
		for _, a := range []coordinator.Actor{bob.actor(), {}, {Kind: coordinator.ActorUser, User: "u0"}} {
			if _, err := n.RemoveNode(n.ctx, a, "db"); !refused(err, true) {
				t.Errorf("%s: %v", a, err)
			}
		}
	}
	if _, err := n.Node(n.ctx, operator, "db"); err != nil {
		t.Errorf("the node is gone: %v", err)
	}
}

// A quarantine that is not on disk can be lifted, and stays lifted.
func TestLiftQuarantineThatIsNotOnDisk(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		n.run()
		a := n.device("a").joinTagged("tag:db").connect()
		b := n.device("b").joinTagged("tag:db").connect()
		b.until("know a", hasPeer("a"))
		n.faults.full.Store(true)
		_, err := n.QuarantineNode(n.ctx, operator, "a", true)
		wantCode(t, "quarantine", err, protocol.CodeUnavailable)
		b.until("lose a", lacksPeer("a"))
		_, err = n.QuarantineNode(n.ctx, operator, "a", false)
		wantCode(t, "lifting it", err, protocol.CodeUnavailable)
		n.faults.full.Store(false)
		if _, err := n.QuarantineNode(n.ctx, operator, "a", false); err != nil {
			t.Fatal(err)
		}
		b.until("know a again", hasPeer("a"))
		time.Sleep(30 * time.Second)
		if v, err := n.Node(n.ctx, operator, "a"); err != nil || v.Quarantined {
			t.Errorf("later: %+v, %v", v, err)
		}
		a.until("be free", func(c protocol.Content) bool { return !c.Self.Quarantined && len(c.Peers) == 1 })
	})
}

// A commit whose reading back fails still reaches the nodes.
// A revocation that is not on disk yet stands when the node's row is written for another reason, and read with the next change.
func TestRevokedNodeDoesNotComeBackWithItsRow(t *testing.T) {
	n := newNet(t)
	web, db := n.device("web").joinTagged("tag:web").connect(), n.device("db").joinTagged("tag:db").connect()
	n.faults.full.Store(true)
	if _, err := n.RemoveNode(n.ctx, operator, "db"); err == nil {
		t.Fatal("the disk was full")
	}
	n.faults.full.Store(false)
	db.session.Close() // notes in its row when it was here
	if _, err := n.RenameNode(n.ctx, operator, "web", "www"); err != nil {
		t.Fatal(err)
	}
	if nodes, err := n.Nodes(n.ctx, operator); err != nil || len(nodes) != 1 {
		t.Errorf("%d nodes, %v", len(nodes), err)
	}
	web.until("lose db", lacksPeer("db"))
	if n.Undoubted() {
		t.Error("the next change is read by itself, though what is in force is not on disk")
	}
}

func TestRevocationWhenReadingFails(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		n.run()
		n.device("a").joinTagged("tag:db").connect()
		b := n.device("b").joinTagged("tag:db").connect()
		b.until("know a", hasPeer("a"))
		n.faults.reads.Store(true)
		_, err := n.RemoveNode(n.ctx, operator, "a")
		wantCode(t, "removal", err, protocol.CodeUnavailable)
		b.until("lose a", lacksPeer("a"))
		n.faults.reads.Store(false)
		time.Sleep(10 * time.Second)
		nodes, err := n.Nodes(n.ctx, operator)
		if err != nil || len(nodes) != 1 {
			t.Errorf("%+v, %v", nodes, err)
		}
	})
}

// With a full disk, what was reads and streams goes on: a known node with nothing new to say connects.
func TestKnownNodeConnectsWithoutDisk(t *testing.T) {
	n := newNet(t)
	a := n.device("a").joinTagged("tag:db").connect()
	a.session.Close()
	n.faults.full.Store(true)
	if err := a.attach(); err != nil {
		t.Errorf("a known node: %v", err)
	}
	a.nextMap()
}

// A disk that hangs delays a revocation by a stated time, and the caller's going away does not stop it.
func TestRevocationWhenStorageHangs(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		n.device("a").joinTagged("tag:db").connect()
		b := n.device("b").joinTagged("tag:db").connect()
		b.until("know a", hasPeer("a"))
		n.faults.hangs.Store(true)
		ctx, cancel := context.WithCancel(n.ctx)
		cancel()
		start := time.Now()
		_, err := n.RemoveNode(ctx, operator, "a")
		wantCode(t, "removal", err, protocol.CodeUnavailable)
		b.until("lose a", lacksPeer("a"))
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("it took %s", took)
		}
		n.faults.hangs.Store(false)
	})
}
