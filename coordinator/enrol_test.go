package coordinator_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

func TestEnrolRefuses(t *testing.T) {
	n := newNet(t)
	for _, tc := range []struct {
		name, code string
		change     func(*protocol.EnrolBody)
		sign       func(protocol.EnrolBody, *device) protocol.Enrol
	}{
		{name: "another network", code: protocol.CodeBadRequest, change: func(b *protocol.EnrolBody) { b.Network = "net-other" }},
		{name: "another coordinator", code: protocol.CodeBadRequest, change: func(b *protocol.EnrolBody) { b.Coordinator = key.NewCoordinator().Public() }},
		{name: "no nonce of this coordinator", code: protocol.CodeBadRequest, change: func(b *protocol.EnrolBody) { b.Nonce = make([]byte, 32) }},
		{name: "a nonce whose time was changed", code: protocol.CodeBadRequest, change: func(b *protocol.EnrolBody) { b.Nonce[7]++ }},
		{name: "another device's key (possession is not proved)", code: protocol.CodeBadRequest,
			sign: func(b protocol.EnrolBody, d *device) protocol.Enrol {
				e, _ := protocol.SignEnrol(b, d.key)
				b.Device = key.NewDevice().Public()
				e.Body, _ = protocol.Marshal(b)
				return e
			}},
		{name: "an unknown auth key", code: protocol.CodeAuthKey, change: func(b *protocol.EnrolBody) { b.AuthKey = "picket-key-aaaa-bbbb" }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := n.device("x")
			b := d.enrolBody("")
			if tc.change != nil {
				tc.change(&b)
			}
			e, err := protocol.SignEnrol(b, d.key)
			if err != nil {
				t.Fatal(err)
			}
			if tc.sign != nil {
				e = tc.sign(b, d)
			}
			_, err = n.Enrol(n.ctx, e, home)
			wantCode(t, "Enrol", err, tc.code)
		})
	}
	d := n.device("x")
	b := d.enrolBody("")
	if _, err := d.send(b); err != nil {
		t.Fatal(err)
	}
	_, err := d.send(b)
	wantCode(t, "the same request again", err, protocol.CodeBadRequest)
	nodes, _ := n.Nodes(n.ctx, operator)
	if len(nodes) != 0 {
		t.Errorf("refusals admitted %v", nodes)
	}
}

func TestEnrolAgainIsTheSameNode(t *testing.T) {
	n := newNet(t)
	alice := n.admin()
	d := n.device("laptop").join(alice)
	a, err := d.enrol("")
	if err != nil || a.Admitted == nil || a.Admitted.Node != d.node() || a.Admitted.Owner != alice.Login {
		t.Errorf("again: %+v, %v", a, err)
	}
	s := n.device("db")
	_, text, err := n.CreateAuthKey(n.ctx, operator, coordinator.NewAuthKey{Tags: []string{"tag:db"}})
	if err != nil {
		t.Fatal(err)
	}
	first, err := s.enrol(text)
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.enrol(text) // the answer was lost: the key, spent on this very device, still answers
	if err != nil || again.Admitted.Node != first.Admitted.Node {
		t.Errorf("again with its key: %+v, %v", again, err)
	}
	_, err = n.device("thief").enrol(text)
	wantCode(t, "the spent key on another device", err, protocol.CodeAuthKey)
	_, err = d.enrol(text)
	wantCode(t, "a person's device with an auth key", err, coordinator.CodeConflict)
}

// R4: two hundred devices race for one single-use key; one wins.
func TestSingleUseKeyAdmitsOne(t *testing.T) {
	n := newNet(t)
	_, text, err := n.CreateAuthKey(n.ctx, operator, coordinator.NewAuthKey{Tags: []string{"tag:db"}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var won, refused atomic.Int32
	for range 200 {
		d := n.device("racer")
		b := d.enrolBody(text)
		wg.Go(func() {
			a, err := d.send(b)
			var e *coordinator.Error
			switch {
			case err == nil && a.Admitted != nil:
				won.Add(1)
			case errors.As(err, &e) && e.Code == protocol.CodeAuthKey:
				refused.Add(1)
			default:
				t.Errorf("%+v, %v", a, err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || refused.Load() != 199 {
		t.Errorf("%d won, %d were refused", won.Load(), refused.Load())
	}
	keys, err := n.AuthKeys(n.ctx, operator)
	if err != nil || keys[0].Uses != 1 || keys[0].State != "spent" {
		t.Errorf("the key: %+v, %v", keys, err)
	}
}

func TestAuthKeyRefuses(t *testing.T) {
	n := newNet(t)
	admin := n.admin()
	second := func() *person {
		_, token, err := n.AddUser(n.ctx, operator, "second@example.com", coordinator.RoleAdmin)
		if err != nil {
			t.Fatal(err)
		}
		return n.setup(token, "second@example.com")
	}()
	make := func(a coordinator.Actor, k coordinator.NewAuthKey) (coordinator.AuthKey, string) {
		t.Helper()
		row, text, err := n.CreateAuthKey(n.ctx, a, k)
		if err != nil {
			t.Fatal(err)
		}
		return row, text
	}
	db := coordinator.NewAuthKey{Tags: []string{"tag:db"}}

	row, revoked := make(operator, db)
	if err := n.RevokeAuthKey(n.ctx, operator, row.ID); err != nil {
		t.Fatal(err)
	}
	_, err := n.device("x").enrol(revoked)
	wantCode(t, "a revoked key", err, protocol.CodeAuthKey)
	wantCode(t, "revoking again", n.RevokeAuthKey(n.ctx, operator, row.ID), coordinator.CodeNotFound)

	// R26: removing who made a key makes it useless.
	_, orphan := make(second.actor(), db)
	if _, err := n.RemoveUser(n.ctx, admin.actor(), second.Login); err != nil {
		t.Fatal(err)
	}
	_, err = n.device("x").enrol(orphan)
	wantCode(t, "the key of a removed admin", err, protocol.CodeAuthKey)
	if keys, err := n.AuthKeys(n.ctx, operator); err != nil || keys[0].By != second.actor().String() || keys[0].State != "revoked" {
		t.Errorf("the key of a removed admin is %+v, %v", keys[0], err)
	}

	// R26: and so does a role that was lost.
	_, demoted := make(admin.actor(), db)
	n.demote(admin)
	_, err = n.device("x").enrol(demoted)
	wantCode(t, "the key of one who is no admin any more", err, protocol.CodeAuthKey)
	_, _, err = n.CreateAuthKey(n.ctx, admin.actor(), db)
	wantCode(t, "a new key of one who is no admin any more", err, coordinator.CodeForbidden)

	_, untagged := make(operator, db)
	_, text := make(operator, db)
	_, err = n.device("x").enrol(text[:len(text)-1])
	wantCode(t, "a key cut short", err, protocol.CodeAuthKey)
	n.policy.set(`{"tagOwners": {"tag:web": ["autogroup:member"]}}`, "c2")
	n.reload("")
	_, err = n.device("x").enrol(untagged)
	wantCode(t, "a key whose tag left the policy", err, protocol.CodeAuthKey)

	for name, k := range map[string]coordinator.NewAuthKey{
		"no tags":               {},
		"a tag nobody defined":  {Tags: []string{"tag:nope"}},
		"a life below nothing":  {Tags: []string{"tag:web"}, Life: -time.Second},
		"a life of a year":      {Tags: []string{"tag:web"}, Life: 366 * 24 * time.Hour},
		"more tags than anyone": {Tags: strings.Split(strings.Repeat("tag:web ", 17)+"tag:web", " ")},
	} {
		_, _, err := n.CreateAuthKey(n.ctx, operator, k)
		wantCode(t, name, err, coordinator.CodeInvalid)
	}
}

func TestReusableKey(t *testing.T) {
	n := newNet(t)
	_, text, err := n.CreateAuthKey(n.ctx, operator, coordinator.NewAuthKey{Tags: []string{"tag:db"}, Reusable: true})
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for range 3 {
		a, err := n.device("Web Server").enrol(text)
		if err != nil {
			t.Fatal(err)
		}
		names[a.Admitted.Name] = true
	}
	if !names["web-server"] || !names["web-server-2"] || !names["web-server-3"] {
		t.Errorf("names %v", names)
	}
}

func TestTicketRefuses(t *testing.T) {
	n := newNet(t)
	alice, bob := n.admin(), n.member("bob@example.com")
	approve := func(p *person, tk protocol.Ticket, code string) error {
		_, err := n.Approve(n.ctx, p.actor(), tk.ID, code)
		return err
	}

	tk := n.device("x").ticket()
	for left := 4; left >= 1; left-- {
		err := approve(alice, tk, "BBBB-BBBB")
		wantCode(t, "a wrong code", err, coordinator.CodeWrongCode)
	}
	wantCode(t, "the fifth wrong code", approve(alice, tk, "BBBB-BBBB"), coordinator.CodeTicketOver)
	wantCode(t, "the right code on a spoiled ticket", approve(alice, tk, tk.Code), coordinator.CodeTicketOver)
	a, err := n.Wait(n.ctx, protocol.Wait{Ticket: tk.ID, Secret: tk.Secret})
	if err != nil || a.State != protocol.TicketSpoiled || a.Message == "" {
		t.Errorf("the device is told %+v, %v", a, err)
	}

	tk = n.device("y").ticket()
	if err := n.DenyTicket(n.ctx, bob.actor(), tk.ID); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "a denied ticket", approve(alice, tk, tk.Code), coordinator.CodeTicketOver)
	if a, _ := n.Wait(n.ctx, protocol.Wait{Ticket: tk.ID, Secret: tk.Secret}); a.State != protocol.TicketDenied {
		t.Errorf("the device is told %+v", a)
	}

	d := n.device("z")
	old := d.ticket()
	newer := d.ticket()
	wantCode(t, "a ticket that a newer one replaced", approve(alice, old, old.Code), coordinator.CodeTicketOver)
	wantCode(t, "the newer ticket with the older code", approve(alice, newer, old.Code), coordinator.CodeWrongCode)
	if err := approve(alice, newer, strings.ToLower(strings.ReplaceAll(newer.Code, "-", " "))); err != nil {
		t.Errorf("the code typed carelessly: %v", err)
	}
	wantCode(t, "a ticket used before", approve(alice, newer, newer.Code), coordinator.CodeTicketOver)

	tk = n.device("w").ticket()
	wantCode(t, "an operator, who is no person", func() error { _, err := n.Approve(n.ctx, operator, tk.ID, tk.Code); return err }(), coordinator.CodeForbidden)
	_, err = n.Wait(n.ctx, protocol.Wait{Ticket: tk.ID, Secret: "guess"})
	wantCode(t, "waiting with a wrong secret", err, coordinator.CodeTicketOver)
	_, err = n.Wait(n.ctx, protocol.Wait{Ticket: "nope"})
	wantCode(t, "waiting for no ticket", err, coordinator.CodeTicketOver)
	wantCode(t, "no such ticket", approve(alice, protocol.Ticket{ID: "nope"}, "x"), coordinator.CodeNotFound)
}

// R15: nobody fills the table of pending logins.
func TestOpenTicketsAreBounded(t *testing.T) {
	n := newNet(t)
	var err error
	count := 0
	for ; count < 100 && err == nil; count++ {
		_, err = n.device("x").enrol("")
	}
	wantCode(t, "a 31st login from one address", err, protocol.CodeThrottled)
	if count != 31 {
		t.Errorf("refused at the %dth", count)
	}
	d := n.device("x")
	e, _ := protocol.SignEnrol(d.enrolBody(""), d.key)
	if _, err := n.Enrol(n.ctx, e, office); err != nil {
		t.Errorf("from elsewhere: %v", err)
	}
	six := func(s string) error {
		d := n.device("x")
		e, _ := protocol.SignEnrol(d.enrolBody(""), d.key)
		_, err := n.Enrol(n.ctx, e, netip.MustParseAddr(s))
		return err
	}
	for i := range 30 {
		if err := six(fmt.Sprintf("2001:db8:1:1::%x", i+1)); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, "a 31st from one IPv6 /64", six("2001:db8:1:1:ffff::1"), protocol.CodeThrottled)
}

// A device key is one owner's for good: nobody else takes the node over (R2, R3).
func TestAnotherPersonCannotTakeANode(t *testing.T) {
	n := newNet(t)
	bob := n.member("bob@example.com")
	d := n.device("x")
	tk := d.ticket()
	_, text, err := n.CreateAuthKey(n.ctx, operator, coordinator.NewAuthKey{Tags: []string{"tag:db"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.enrol(text); err != nil { // the device became a tagged node while its ticket was open
		t.Fatal(err)
	}
	_, err = n.Approve(n.ctx, bob.actor(), tk.ID, tk.Code)
	wantCode(t, "approving a device that is a tagged node", err, coordinator.CodeConflict)
}

func TestConcurrentApprovalsAdmitOnce(t *testing.T) {
	n := newNet(t)
	people := []*person{n.admin(), n.member("bob@example.com"), n.member("eve@example.com")}
	tk := n.device("x").ticket()
	var wg sync.WaitGroup
	var won atomic.Int32
	for i := range 30 {
		wg.Go(func() {
			if _, err := n.Approve(n.ctx, people[i%3].actor(), tk.ID, tk.Code); err == nil {
				won.Add(1)
			} else {
				wantCode(t, "the others", err, coordinator.CodeTicketOver)
			}
		})
	}
	wg.Wait()
	nodes, _ := n.Nodes(n.ctx, operator)
	if won.Load() != 1 || len(nodes) != 1 {
		t.Errorf("%d approvals, %d nodes", won.Load(), len(nodes))
	}
}

func TestWaitWakesAtOnce(t *testing.T) {
	n := newNet(t)
	alice := n.admin()
	tk := n.device("x").ticket()
	got := make(chan protocol.WaitAnswer, 1)
	go func() {
		a, err := n.Wait(n.ctx, protocol.Wait{Ticket: tk.ID, Secret: tk.Secret})
		if err != nil {
			t.Error(err)
		}
		got <- a
	}()
	if _, err := n.Approve(n.ctx, alice.actor(), tk.ID, tk.Code); err != nil {
		t.Fatal(err)
	}
	select {
	case a := <-got:
		if a.State != protocol.TicketApproved || a.Admitted == nil || a.Admitted.Owner != alice.Login {
			t.Errorf("%+v", a)
		}
	case <-time.After(5 * time.Second):
		t.Error("the waiter was not woken")
	}
	ctx, cancel := context.WithCancel(n.ctx)
	cancel()
	other := n.device("y").ticket()
	if _, err := n.Wait(ctx, protocol.Wait{Ticket: other.ID, Secret: other.Secret}); err == nil {
		t.Error("waiting goes on after its context ended")
	}
}

func TestTicketViewSaysWhatIsJudged(t *testing.T) {
	n := newNet(t)
	bob := n.member("bob@example.com")
	d := n.device("x")
	d.facts.Hostname = "evil\x1b[2J\nhost"
	tk := d.ticket()
	v, err := n.Ticket(n.ctx, bob.actor(), tk.ID)
	if err != nil {
		t.Fatal(err)
	}
	if v.Hostname != "evilhost" || v.From != home || v.Owner != bob.Login || v.State != protocol.TicketPending || v.Device != d.key.Public().Short() {
		t.Errorf("%+v", v)
	}
	_, err = n.Ticket(n.ctx, coordinator.Actor{}, tk.ID)
	wantCode(t, "nobody looking", err, coordinator.CodeForbidden)
}

func TestAddressesRunOut(t *testing.T) {
	n := newNet(t, func(c *coordinator.Config) { c.Overlay4 = netip.MustParsePrefix("10.9.8.0/29") })
	_, text, err := n.CreateAuthKey(n.ctx, operator, coordinator.NewAuthKey{Tags: []string{"tag:db"}, Reusable: true})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[netip.Addr]bool{}
	for range 6 { // of 8, less the first and the last
		a, err := n.device("x").enrol(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, addr := range a.Admitted.Addresses {
			if seen[addr] || !n.config.Overlay4.Contains(addr) && !n.config.Overlay6.Contains(addr) {
				t.Errorf("address %s", addr)
			}
			seen[addr] = true
		}
	}
	_, err = n.device("x").enrol(text)
	wantCode(t, "a seventh node", err, protocol.CodeExhausted)
	if _, err := n.RemoveNode(n.ctx, operator, "x"); err != nil {
		t.Fatal(err)
	}
	_, err = n.device("x").enrol(text)
	wantCode(t, "a removed node's address at once", err, protocol.CodeExhausted)
}

func TestRemovedDeviceComesBackAsAnother(t *testing.T) {
	n := newNet(t)
	d := n.device("x").joinTagged("tag:db").connect()
	was := d.admitted
	if _, err := n.RemoveNode(n.ctx, operator, string(was.Node)); err != nil {
		t.Fatal(err)
	}
	d.joinTagged("tag:db")
	if d.admitted.Node == was.Node || d.admitted.Addresses[0] == was.Addresses[0] {
		t.Errorf("was %+v, is %+v", was, d.admitted)
	}
}
