package coordinator_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

func TestTwoNodesMeet(t *testing.T) {
	n := newNet(t)
	alice := n.admin()
	laptop := n.device("laptop").join(alice).connect()
	if got := laptop.peers(); len(got) != 0 {
		t.Errorf("a lone node has peers %v", got)
	}
	db := n.device("db").joinTagged("tag:db").connect()
	laptop.until("know db", hasPeer("db"))
	db.until("know laptop", hasPeer("laptop"))
	p := db.content.Peers[0]
	if p.Login != alice.Login || p.Device != laptop.key.Public() || !bytes.Equal(p.Certificate, laptop.cert) || p.OS != "linux" {
		t.Errorf("db sees %+v", p)
	}
	if got, want := laptop.content.Network.Policy.Commit, n.policy.found.Commit; got != want {
		t.Errorf("policy commit %q, want %q", got, want)
	}
}

// R30: nothing is told of a node without a permitted flow.
func TestMapsNameOnlyPermittedPeers(t *testing.T) {
	n := newNet(t)
	n.policy.set(`{"tagOwners": {"tag:db": ["autogroup:member"], "tag:web": ["autogroup:member"]},
		"grants": [{"src": ["tag:web"], "dst": ["tag:db"], "ip": ["tcp:5432"]}]}`, "c1")
	n.reload("")
	web := n.device("web").joinTagged("tag:web").connect()
	db := n.device("db").joinTagged("tag:db").connect()
	other := n.device("other").join(n.admin()).connect()
	web.until("know db", hasPeer("db"))
	db.until("know web", hasPeer("web"))
	// A later change makes sure that each has seen everything before it.
	if _, err := n.RenameNode(n.ctx, operator, "other", "stranger"); err != nil {
		t.Fatal(err)
	}
	other.until("be renamed", func(c protocol.Content) bool { return c.Self.Name == "stranger" })
	for _, d := range []*device{web, db, other} {
		for d.generation < other.generation {
			d.nextMap()
		}
	}
	if len(web.peers())+len(db.peers()) != 2 || len(other.peers()) != 0 {
		t.Errorf("peers: web %v, db %v, other %v", web.peers(), db.peers(), other.peers())
	}
	for id, data := range other.entries {
		if bytes.Contains(data, []byte(web.admitted.Addresses[0].String())) || bytes.Contains(data, []byte("5432")) {
			t.Errorf("entry %s of a stranger's map tells of others: %s", id, data)
		}
	}
}

func TestHintsOnlyOfPermittedPeers(t *testing.T) {
	n := newNet(t)
	n.policy.set(`{"tagOwners": {"tag:db": ["autogroup:member"], "tag:web": ["autogroup:member"]},
		"grants": [{"src": ["tag:web"], "dst": ["tag:web"], "ip": ["*"]}]}`, "c1")
	n.reload("")
	a := n.device("a").joinTagged("tag:web").connect()
	b := n.device("b").joinTagged("tag:web").connect()
	c := n.device("c").joinTagged("tag:db").connect()
	a.until("know b", hasPeer("b"))
	h := a.next(protocol.TypeHints).(protocol.Hints)
	if len(h.Hints) != 1 || h.Hints[0].Node != b.node() || !h.Hints[0].Online || len(h.Hints[0].Endpoints) != 1 {
		t.Errorf("hints %+v", h)
	}
	r := b.report()
	r.Endpoints = []netip.AddrPort{
		netip.MustParseAddrPort("192.0.2.77:1"), netip.MustParseAddrPort("224.0.0.1:1"), netip.MustParseAddrPort("0.0.0.0:1"),
		netip.MustParseAddrPort("100.64.1.1:1"), netip.MustParseAddrPort("192.0.2.77:0"),
	}
	if err := b.session.Report(n.ctx, r); err != nil {
		t.Fatal(err)
	}
	h = a.next(protocol.TypeHints).(protocol.Hints)
	if diff := cmp.Diff("[192.0.2.77:1]", fmt.Sprint(h.Hints[0].Endpoints)); diff != "" {
		t.Errorf("endpoints: %s", diff)
	}
	b.session.Close()
	if h = a.next(protocol.TypeHints).(protocol.Hints); h.Hints[0].Online {
		t.Errorf("after Close: %+v", h)
	}
	ctx, cancel := context.WithTimeout(n.ctx, 200*time.Millisecond)
	defer cancel()
	for {
		out, err := c.session.Next(ctx)
		if err != nil {
			break
		}
		if out.Type == protocol.TypeHints {
			t.Errorf("a node without peers got %+v", out.Body)
		}
	}
}

func TestDeltasMerge(t *testing.T) {
	n := newNet(t)
	a := n.device("a").joinTagged("tag:db").connect()
	if a.nextDelta(t, func() { n.device("b").joinTagged("tag:db") }) == 0 {
		t.Error("a later map came whole")
	}
	a.session.Resync()
	if m := a.nextMap(); m.Base != 0 || len(m.Put) == 0 {
		t.Errorf("after Resync: base %d, %d entries", m.Base, len(m.Put))
	}
	a.session.Close()
	if err := a.attach(); err != nil {
		t.Fatal(err)
	}
	if m := a.nextMap(); m.Base != a.generation || len(m.Put)+len(m.Remove) != 0 {
		t.Errorf("a node that holds the map already got base %d, put %d, remove %d", m.Base, len(m.Put), len(m.Remove))
	}
	a.session.Close()
	a.entries = protocol.Entries{"self": []byte("{}")}
	if err := a.attach(); err != nil {
		t.Fatal(err)
	}
	a.entries, a.generation = nil, 0
	if m := a.nextMap(); m.Base != 0 {
		t.Errorf("a node that holds another map got a delta on %d", m.Base)
	}
}

// nextDelta returns the base of the map that change brings.
func (d *device) nextDelta(t *testing.T, change func()) uint64 {
	t.Helper()
	change()
	return d.nextMap().Base
}

func TestAttachRefuses(t *testing.T) {
	n := newNet(t)
	a := n.device("a").joinTagged("tag:db")
	b := n.device("b").joinTagged("tag:db").connect()
	gone := n.device("gone").joinTagged("tag:db")
	if _, err := n.RemoveNode(n.ctx, operator, "gone"); err != nil {
		t.Fatal(err)
	}
	other := n.config
	other.Key = key.NewCoordinator()
	type parts struct {
		hello     protocol.Hello
		challenge protocol.Challenge
		proof     protocol.Proof
		signer    key.DevicePrivate
	}
	for _, tc := range []struct {
		name, code string
		who        *device
		hello      func(*protocol.Hello)
		rest       func(*parts)
	}{
		{"another version", protocol.CodeVersion, a, nil, func(p *parts) { p.hello.Version = 99 }},
		{"a node id that never was", protocol.CodeUnknownNode, a, func(h *protocol.Hello) { h.Node = "n0000000000000000" }, nil},
		{"another node's id under the own key (R2)", protocol.CodeUnknownNode, a, func(h *protocol.Hello) { h.Node = b.node() }, nil},
		{"another node's key without having it", protocol.CodeUnknownNode, a, func(h *protocol.Hello) { h.Node, h.Device = b.node(), b.key.Public() }, nil},
		{"a removed node", protocol.CodeRemoved, gone, nil, nil},
		{"a removed node's id under another key", protocol.CodeUnknownNode, a, func(h *protocol.Hello) { h.Node = gone.node() }, nil},
		{"a proof for another challenge", protocol.CodeUnknownNode, a, nil, func(p *parts) { p.proof.Signature[0] ^= 1 }},
		{"a challenge of another coordinator", protocol.CodeBadRequest, a, nil, func(p *parts) { p.challenge.Sign(p.hello, other.Key) }},
		{"an old challenge", protocol.CodeBadRequest, a, nil, func(p *parts) {
			p.challenge.Time = p.challenge.Time.Add(-protocol.NonceLife - time.Minute)
			p.challenge.Sign(p.hello, n.config.Key)
			p.proof.Sign(p.hello, p.challenge, p.signer)
		}},
		{"a generation from the future", protocol.CodeUnavailable, a, func(h *protocol.Hello) { h.Generation, h.Digest = 1<<40, make([]byte, 32) }, nil},
		{"no certificate", protocol.CodeBadRequest, a, nil, func(p *parts) { p.proof.Report.Certificate = nil }},
		{"another node's certificate", protocol.CodeBadRequest, a, nil, func(p *parts) { p.proof.Report.Certificate = b.cert }},
		{"an expired certificate", protocol.CodeClock, a, nil, func(p *parts) {
			p.proof.Report.Certificate = key.Certificate{Node: string(a.node()), Serial: 9, Tunnel: key.NewTunnel().Public(), Probe: key.NewProbe().Public(),
				NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)}.Sign(a.key)
		}},
		{"a certificate for ten years", protocol.CodeBadRequest, a, nil, func(p *parts) {
			p.proof.Report.Certificate = key.Certificate{Node: string(a.node()), Serial: 9, Tunnel: key.NewTunnel().Public(), Probe: key.NewProbe().Public(),
				NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(10 * 365 * 24 * time.Hour)}.Sign(a.key)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := parts{hello: tc.who.hello(), signer: tc.who.key}
			if tc.hello != nil {
				tc.hello(&p.hello)
			}
			var err error
			if p.challenge, err = n.Challenge(p.hello); err != nil {
				t.Fatal(err)
			}
			p.proof = protocol.Proof{Report: tc.who.report()}
			p.proof.Sign(p.hello, p.challenge, tc.who.key)
			if tc.rest != nil {
				tc.rest(&p)
			}
			s, err := n.Attach(n.ctx, p.hello, p.challenge, p.proof, netip.AddrPort{})
			if s != nil {
				s.Close()
			}
			wantCode(t, "Attach", err, tc.code)
		})
	}
}

func TestReportRefusesOlderSerial(t *testing.T) {
	n := newNet(t)
	a := n.device("a").joinTagged("tag:db").connect()
	first := a.report()
	a.newCertificate()
	if err := a.session.Report(n.ctx, a.report()); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "an older certificate", a.session.Report(n.ctx, first), protocol.CodeBadRequest)
	a.serial--
	a.newCertificate()
	wantCode(t, "another certificate of the same serial", a.session.Report(n.ctx, a.report()), protocol.CodeBadRequest)
}

func TestSameReportChangesNothing(t *testing.T) {
	n := newNet(t)
	a := n.device("a").joinTagged("tag:db").connect()
	before := len(n.actions())
	for range 50 {
		if err := a.session.Report(n.ctx, a.report()); err != nil {
			t.Fatal(err)
		}
	}
	if after := len(n.actions()); after != before {
		t.Errorf("%d audit records for nothing new", after-before)
	}
}

// T15: one node cannot make everybody's maps churn, not even by reconnecting.
func TestReportChurnIsThrottled(t *testing.T) {
	n := newNet(t)
	a := n.device("a").joinTagged("tag:db").connect()
	var err error
	for i := 0; i < 40 && err == nil; i++ {
		a.newCertificate()
		if i%3 == 0 {
			a.session.Close()
			err = a.attach()
		} else {
			err = a.session.Report(n.ctx, a.report())
		}
	}
	wantCode(t, "40 certificates in a row", err, protocol.CodeThrottled)
}

func TestNewerSessionReplacesOlder(t *testing.T) {
	n := newNet(t)
	a := n.device("a").joinTagged("tag:db").connect()
	old := a.session
	if err := a.attach(); err != nil {
		t.Fatal(err)
	}
	_, err := old.Next(n.ctx)
	wantCode(t, "the older session", err, protocol.CodeReplaced)
	old.Close() // must not take the newer one with it
	v, err := n.Node(n.ctx, operator, "a")
	if err != nil || !v.Online {
		t.Errorf("after the older session was closed: %+v, %v", v, err)
	}
	if !slices.Contains(n.actions(), "node.session-replaced") {
		t.Errorf("no audit record of the second session: %v", n.actions())
	}
}

func TestEnforcedWaitsForOnlineNodes(t *testing.T) {
	n := newNet(t)
	a := n.device("a").joinTagged("tag:db").connect()
	n.device("asleep").joinTagged("tag:db").connect().session.Close()
	n.device("victim").joinTagged("tag:db").connect().follow()
	change, err := n.RemoveNode(n.ctx, operator, "victim")
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(n.ctx, 50*time.Millisecond)
	defer cancel()
	e, err := n.Enforced(short, operator, change.Generation)
	if err != nil || e.Done {
		t.Fatalf("before the receipt: %+v, %v", e, err)
	}
	a.until("lose victim", lacksPeer("victim"))
	for a.generation < change.Generation {
		a.nextMap()
	}
	if err := a.session.Receipt(n.ctx, a.receipt(3)); err != nil {
		t.Fatal(err)
	}
	e, err = n.Enforced(n.ctx, operator, change.Generation)
	if err != nil || !e.Done || len(e.Nodes) != 2 {
		t.Fatalf("after the receipt: %+v, %v", e, err)
	}
	on, off := e.Nodes[0], e.Nodes[1]
	if on.Name != "a" || !on.Enforced || on.Cut != 3 || on.After <= 0 || !on.Online {
		t.Errorf("the online node: %+v", on)
	}
	if off.Online || off.Enforced || !off.LeaseEnds.After(time.Now()) {
		t.Errorf("the offline node: %+v", off)
	}
	_, err = n.Enforced(n.ctx, operator, change.Generation+100)
	wantCode(t, "a generation that is not there yet", err, coordinator.CodeInvalid)
}

func TestReceiptRefuses(t *testing.T) {
	n := newNet(t)
	a := n.device("a").joinTagged("tag:db").connect()
	b := n.device("b").joinTagged("tag:db").connect()
	good := a.receipt(0)
	for name, spoil := range map[string]func(*protocol.Receipt){
		"another node's signature":      func(r *protocol.Receipt) { r.Sign(testNetwork, a.node(), b.key) },
		"a signature of something else": func(r *protocol.Receipt) { r.Cut++ },
		"another digest": func(r *protocol.Receipt) {
			r.Digest = make([]byte, 32)
			r.Sign(testNetwork, a.node(), a.key)
		},
	} {
		r := good
		spoil(&r)
		wantCode(t, name, a.session.Receipt(n.ctx, r), protocol.CodeBadRequest)
	}
	if err := a.session.Receipt(n.ctx, good); err != nil {
		t.Error(err)
	}
}

// TestReceiptForAMapNotSentCountsForNothing: one may be on its way from an earlier session; it must neither end this one nor be believed.
func TestReceiptForAMapNotSentCountsForNothing(t *testing.T) {
	n := newNet(t)
	a := n.device("a").joinTagged("tag:db").connect()
	r := a.receipt(0)
	r.Generation += 10
	r.Sign(testNetwork, a.node(), a.key)
	if err := a.session.Receipt(n.ctx, r); err != nil {
		t.Error(err)
	}
	if v, err := n.Node(n.ctx, operator, "a"); err != nil || v.Generation != 0 {
		t.Errorf("believed: generation %d, %v", v.Generation, err)
	}
}

func TestReceiptsSurviveRestart(t *testing.T) {
	n := newNet(t)
	ctx, cancel := context.WithCancel(n.ctx)
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	a := n.device("a").joinTagged("tag:db").connect()
	if err := a.session.Receipt(n.ctx, a.receipt(0)); err != nil {
		t.Fatal(err)
	}
	a.session.Close()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	n.stop()
	n.start()
	v, err := n.Node(n.ctx, operator, "a")
	if err != nil || v.Generation != a.generation || v.Online || !v.LeaseEnds.After(time.Now()) {
		t.Errorf("after a restart: %+v, %v", v, err)
	}
}

// What an earlier session sent is enforced until its lease ends: whoever looks while sessions come and go, with or without a map, finds it so.
func TestLeaseIsKnownWhileSessionsComeAndGo(t *testing.T) {
	n := newNet(t)
	a := n.device("a").joinTagged("tag:db").connect()
	over := make(chan struct{})
	wrong := make(chan string, 1)
	go func() {
		defer close(wrong)
		for {
			select {
			case <-over:
				return
			default:
			}
			if v, err := n.Node(n.ctx, operator, "a"); err != nil || !v.LeaseEnds.After(time.Now()) {
				wrong <- fmt.Sprintf("%+v, %v", v, err)
				return
			}
		}
	}()
	for range 300 {
		a.session.Close()
		if err := a.attach(); err != nil {
			t.Fatal(err)
		}
	}
	close(over)
	if v, ok := <-wrong; ok {
		t.Errorf("a lease that holds is not known: %s", v)
	}
}

func TestEvidenceIsRecordedWithinBounds(t *testing.T) {
	n := newNet(t)
	a := n.device("a").joinTagged("tag:db").connect()
	b := n.device("b").joinTagged("tag:db").connect()
	wantCode(t, "an unknown kind", a.session.Evidence(n.ctx, protocol.Evidence{Kind: "gossip", Peer: b.node()}), protocol.CodeBadRequest)
	wantCode(t, "an unknown peer", a.session.Evidence(n.ctx, protocol.Evidence{Kind: "egress-bypass", Peer: "nobody"}), protocol.CodeBadRequest)
	for range 100 {
		if err := a.session.Evidence(n.ctx, protocol.Evidence{Kind: "egress-bypass", Peer: b.node(), Count: 2, Flow: "tcp \x1b[31m to 22\n"}); err != nil {
			t.Fatal(err)
		}
	}
	count := 0
	records, _ := n.Audit(n.ctx, operator, 1000, 0)
	for _, r := range records {
		if r.Action == "node.evidence" {
			count++
			if r.Object != string(b.node()) || r.Detail != "egress-bypass by b, 2 packets, e.g. tcp [31m to 22" {
				t.Errorf("record %+v", r)
			}
		}
	}
	if count == 0 || count > 6 {
		t.Errorf("100 pieces of evidence made %d records", count)
	}
	v, err := n.Node(n.ctx, operator, "b")
	if err != nil || v.Bypass == nil || v.Bypass.By != "a" || v.Bypass.Flow != "tcp [31m to 22" {
		t.Errorf("node b is shown as %+v, %v", v.Bypass, err)
	}
	if v, err := n.Node(n.ctx, operator, "a"); err != nil || v.Bypass != nil {
		t.Errorf("node a is shown as %+v, %v", v.Bypass, err)
	}
}

func TestLogout(t *testing.T) {
	n := newNet(t)
	a := n.device("a").joinTagged("tag:db").connect()
	b := n.device("b").joinTagged("tag:db").connect()
	b.until("know a", hasPeer("a"))
	if err := a.session.Logout(n.ctx); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "a report after logout", a.session.Report(n.ctx, a.report()), protocol.CodeRemoved)
	wantCode(t, "a receipt after logout", a.session.Receipt(n.ctx, a.receipt(0)), protocol.CodeRemoved)
	wantCode(t, "the session after logout", a.ended(), protocol.CodeRemoved)
	b.until("lose a", lacksPeer("a"))
	wantCode(t, "attaching again", a.attach(), protocol.CodeRemoved)
}

func TestConcurrentChangesEndInOneWorld(t *testing.T) {
	n := newNet(t)
	a := n.device("a").joinTagged("tag:db").connect()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { n.device("x").joinTagged("tag:web") })
	}
	wg.Wait()
	if _, err := n.RenameNode(n.ctx, operator, "a", "b"); err != nil {
		t.Fatal(err)
	}
	a.until("be renamed", func(c protocol.Content) bool { return c.Self.Name == "b" })
	nodes, err := n.Nodes(n.ctx, operator)
	if err != nil || len(nodes) != 21 {
		t.Errorf("%d nodes, %v", len(nodes), err)
	}
}

// A node's next certificate is of the same device and probe key, with a larger serial and a tunnel key that nobody else has.
func TestReportRefusesNextCertificate(t *testing.T) {
	n := newNet(t)
	a := n.device("a").joinTagged("tag:db").connect()
	b := n.device("b").joinTagged("tag:db").connect()
	open := func(d *device) key.Certificate {
		c, err := key.OpenCertificate(d.cert, string(d.node()), d.key.Public(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	certA, certB := open(a), open(b)
	sign := func(k key.DevicePrivate, change func(c *key.Certificate)) []byte {
		c := certA
		c.Serial, c.Tunnel = c.Serial+1, key.NewTunnel().Public()
		change(&c)
		return c.Sign(k)
	}
	for outcome, next := range map[string][]byte{
		"signed by another device":       sign(key.NewDevice(), func(*key.Certificate) {}),
		"of the present serial":          sign(a.key, func(c *key.Certificate) { c.Serial-- }),
		"of the present tunnel key":      sign(a.key, func(c *key.Certificate) { c.Tunnel = certA.Tunnel }),
		"with another node's tunnel key": sign(a.key, func(c *key.Certificate) { c.Tunnel = certB.Tunnel }),
		"with another probe key":         sign(a.key, func(c *key.Certificate) { c.Probe = key.NewProbe().Public() }),
		"of another node":                sign(a.key, func(c *key.Certificate) { c.Node = string(b.node()) }),
		"for more than a year":           sign(a.key, func(c *key.Certificate) { c.NotAfter = c.NotAfter.Add(400 * 24 * time.Hour) }),
	} {
		r := a.report()
		r.Next = next
		wantCode(t, outcome, a.session.Report(n.ctx, r), protocol.CodeBadRequest)
	}
	r := a.report()
	r.Next = sign(a.key, func(*key.Certificate) {})
	if err := a.session.Report(n.ctx, r); err != nil {
		t.Fatal(err)
	}
	taken, err := key.OpenCertificate(r.Next, string(a.node()), a.key.Public(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	thief := b.report()
	c := certB
	c.Serial, c.Tunnel = c.Serial+1, taken.Tunnel
	thief.Certificate = c.Sign(b.key)
	wantCode(t, "another node's next key", b.session.Report(n.ctx, thief), protocol.CodeBadRequest)
	r.Certificate, r.Next = r.Next, nil
	if err := a.session.Report(n.ctx, r); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(n.actions(), "node.rotate") {
		t.Errorf("no record of the change: %v", n.actions())
	}
}
