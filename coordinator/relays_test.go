package coordinator_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/relay"
)

// relaying has the coordinator relay.
func relaying(c *coordinator.Config) { c.Relay = true }

func (d *device) place() relay.Address { return relay.AddressOf(string(testNetwork), d.key.Public()) }

// nextPass takes messages up to the next pass, and opens it.
func (d *device) nextPass() (*relay.Pass, []byte) {
	d.n.t.Helper()
	signed := d.next(protocol.TypeRelayPass).(protocol.RelayPass).Pass
	p, err := relay.OpenPass(signed, d.n.config.Key.Public(), string(testNetwork), time.Now())
	if err != nil {
		d.n.t.Fatal(err)
	}
	return p, signed
}

func TestPassNamesThePeersOfTheMap(t *testing.T) {
	n := newNet(t, relaying)
	n.policy.set(`{"tagOwners": {"tag:db": ["autogroup:member"], "tag:web": ["autogroup:member"]},
		"grants": [{"src": ["tag:web"], "dst": ["tag:db"], "ip": ["*"]}]}`, "c0ffee0000000000000000000000000000000002")
	n.reload("")
	web, db, alone := n.device("web").joinTagged("tag:web"), n.device("db").joinTagged("tag:db"), n.device("web2").joinTagged("tag:web")
	web.connect()
	db.connect()
	alone.connect()
	p, _ := web.nextPass()
	if p.Device != web.key.Public() || !p.Names(db.place()) || p.Names(alone.place()) {
		t.Errorf("the pass of web: %+v", p)
	}
	if life := time.Until(p.NotAfter); life > relay.PassLife || life < relay.PassLife-time.Minute {
		t.Errorf("it holds for %s", life)
	}
	if p, _ := db.nextPass(); !p.Names(web.place()) || !p.Names(alone.place()) {
		t.Errorf("the pass of db: %+v", p)
	}
	if _, err := n.RemoveNode(n.ctx, operator, "web2"); err != nil {
		t.Fatal(err)
	}
	if p, _ := db.nextPass(); !p.Names(web.place()) || p.Names(alone.place()) {
		t.Errorf("the pass of db after a removal: %+v", p)
	}
}

// A pass does not outlive what it stands for.
func TestPassEndsWithTheAdmission(t *testing.T) {
	n := newNet(t, relaying, func(c *coordinator.Config) { c.TagNodeLife = 2 * time.Minute })
	web := n.device("web").joinTagged("tag:web").connect()
	if p, _ := web.nextPass(); p.NotAfter.After(web.content.Self.Expires) {
		t.Errorf("the pass ends %s, the admission %s", p.NotAfter, web.content.Self.Expires)
	}
}

func TestNoPassWithoutRelaysOrInQuarantine(t *testing.T) {
	for name, c := range map[string]struct {
		relay, quarantine bool
	}{"no relay": {false, false}, "quarantined": {true, true}} {
		t.Run(name, func(t *testing.T) {
			n := newNet(t, func(config *coordinator.Config) { config.Relay = c.relay })
			n.device("db").joinTagged("tag:db").connect()
			web := n.device("web").joinTagged("tag:web")
			if c.quarantine {
				if _, err := n.QuarantineNode(n.ctx, operator, "web", true); err != nil {
					t.Fatal(err)
				}
			}
			web.connect()
			for range 10 {
				ctx, cancel := context.WithTimeout(n.ctx, 50*time.Millisecond)
				out, err := web.session.Next(ctx)
				cancel()
				if out.Type == protocol.TypeRelayPass {
					t.Fatal("a pass is sent")
				}
				if errors.Is(err, context.DeadlineExceeded) {
					break
				}
			}
			if c.quarantine && len(web.content.Relays) != 0 {
				t.Errorf("its map names %v", web.content.Relays)
			}
		})
	}
}

// client is a device's connection to the coordinator's own relay.
type client struct {
	*relay.Client
	mu  sync.Mutex
	got []string
}

func (c *client) received() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.got)
}

// atRelay connects d, with the pass it is sent next.
func (d *device) atRelay() *client {
	d.n.t.Helper()
	_, signed := d.nextPass()
	c := &client{}
	c.Client = relay.NewClient(relay.ClientConfig{
		Name: protocol.OwnRelay, Network: string(testNetwork), Device: d.key, Pass: func() []byte { return signed },
		Dial: func(context.Context) (net.Conn, error) {
			here, there := net.Pipe()
			go func() { _ = d.n.Relay().Serve(d.n.ctx, there) }()
			return here, nil
		},
		Receive: func(_ relay.Address, b []byte) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.got = append(c.got, string(b))
		},
	})
	ctx, cancel := context.WithCancel(d.n.ctx)
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	d.n.t.Cleanup(func() { cancel(); <-done })
	waitFor(d.n.t, "the relay's welcome", func() bool { return c.Status().Connected })
	return c
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited for %s in vain", what)
		}
	}
}

// At the coordinator's own relay a pass is not enough: what the world in force does not let meet is not carried, and who is cut off is gone
// when the call returns, whatever pass it still holds.
func TestOwnRelayFollowsTheWorld(t *testing.T) {
	n := newNet(t, relaying)
	web, db := n.device("web").joinTagged("tag:web"), n.device("db").joinTagged("tag:db")
	web.connect()
	db.connect()
	web.until("a peer", hasPeer("db"))
	db.until("a peer", hasPeer("web"))
	a, b := web.atRelay(), db.atRelay()
	a.Send(db.place(), []byte("hello"))
	waitFor(t, "a datagram", func() bool { return b.received() == 1 })

	n.policy.set(`{"tagOwners": {"tag:db": ["autogroup:member"], "tag:web": ["autogroup:member"]}, "grants": []}`, "c0ffee0000000000000000000000000000000003")
	n.reload("")
	a.Send(db.place(), []byte("forbidden"))
	waitFor(t, "a refusal", func() bool { return n.Relay().Stats().Forbidden == 1 })

	n.policy.set(openPolicy, "c0ffee0000000000000000000000000000000004")
	n.reload("")
	a.Send(db.place(), []byte("again"))
	waitFor(t, "a datagram", func() bool { return b.received() == 2 })

	if _, err := n.QuarantineNode(n.ctx, operator, "db", true); err != nil {
		t.Fatal(err)
	}
	if got := n.Relay().Stats().Clients; got > 1 {
		t.Errorf("%d clients after a quarantine", got)
	}
	waitFor(t, "the return of the client", func() bool { return n.Relay().Stats().Clients == 2 }) // its pass holds yet
	b.Send(web.place(), []byte("from quarantine"))
	a.Send(db.place(), []byte("into quarantine"))
	waitFor(t, "refusals", func() bool { return n.Relay().Stats().Forbidden == 3 })
	if a.received() != 0 || b.received() != 2 {
		t.Errorf("%q, %q", a.got, b.got)
	}
}

// So it is when the database does not work.
func TestRemovalDropsFromTheRelayWithoutStorage(t *testing.T) {
	n := newNet(t, relaying)
	web, db := n.device("web").joinTagged("tag:web"), n.device("db").joinTagged("tag:db")
	web.connect()
	db.connect()
	web.until("a peer", hasPeer("db"))
	db.until("a peer", hasPeer("web"))
	a, b := web.atRelay(), db.atRelay()
	n.faults.dead.Store(true)
	if _, err := n.RemoveNode(n.ctx, operator, "web"); err == nil {
		t.Error("no word of the storage's failure")
	}
	if got := n.Relay().Stats().Clients; got != 1 {
		t.Errorf("%d clients after a removal", got)
	}
	waitFor(t, "the return of the client", func() bool { return n.Relay().Stats().Clients == 2 }) // both passes hold yet
	waitFor(t, "its welcome", func() bool { return a.Status().Connected })
	a.Send(db.place(), []byte("from one removed"))
	waitFor(t, "a refusal", func() bool { return n.Relay().Stats().Forbidden == 1 })
	if b.received() != 0 {
		t.Errorf("%q", b.got)
	}
}

func TestRelaysAreNamedByMaps(t *testing.T) {
	n := newNet(t, relaying)
	web := n.device("web").joinTagged("tag:web").connect()
	if d := cmp.Diff(web.content.Relays, []protocol.Relay{{Name: protocol.OwnRelay}}); d != "" {
		t.Errorf("at first %s", d)
	}
	added := protocol.Relay{Name: "ber-1", URL: "https://ber-1.example.com", Reflect: []uint16{3478, 3479}}
	if _, err := n.AddRelay(n.ctx, operator, added); err != nil {
		t.Fatal(err)
	}
	web.until("the new relay", func(c protocol.Content) bool {
		return cmp.Equal(c.Relays, []protocol.Relay{added, {Name: protocol.OwnRelay}})
	})
	if got, err := n.Relays(n.ctx, operator); err != nil || len(got) != 2 || !cmp.Equal(got[1].Relay, added) || got[1].By == "" {
		t.Errorf("the list is %+v, %v", got, err)
	}
	for _, r := range []protocol.Relay{added, {Name: protocol.OwnRelay}, {Name: "x", URL: "http://x.example"}, {URL: "https://x.example"}, {Name: "x", URL: "https://x.example", Reflect: []uint16{0}}} {
		_, err := n.AddRelay(n.ctx, operator, r)
		wantCode(t, "AddRelay", err, coordinator.CodeInvalid)
	}
	_, err := n.RemoveRelay(n.ctx, operator, "none")
	wantCode(t, "RemoveRelay of none", err, coordinator.CodeNotFound)
	if _, err := n.RemoveRelay(n.ctx, operator, "ber-1"); err != nil {
		t.Fatal(err)
	}
	web.until("no other relay", func(c protocol.Content) bool { return len(c.Relays) == 1 })
	if got := n.actions(); !slices.Contains(got, "relay.add") || !slices.Contains(got, "relay.remove") {
		t.Errorf("the audit log has %v", got)
	}
}

func TestRelaysAreLimited(t *testing.T) {
	n := newNet(t)
	for i := range protocol.MaxRelays - 1 {
		if _, err := n.AddRelay(n.ctx, operator, protocol.Relay{Name: "r" + string(rune('a'+i/26)) + string(rune('a'+i%26)), URL: "https://r.example"}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := n.AddRelay(n.ctx, operator, protocol.Relay{Name: "more", URL: "https://r.example"})
	wantCode(t, "AddRelay", err, coordinator.CodeInvalid)
}

// A node that held a map before its coordinator relayed gets another generation with the relay in it.
func TestOwnRelayTurnedOn(t *testing.T) {
	n := newNet(t)
	web := n.device("web").joinTagged("tag:web").connect()
	n.stop()
	n.config.Relay = true
	n.start()
	web.connect()
	if len(web.content.Relays) != 1 {
		t.Errorf("its map names %v", web.content.Relays)
	}
}

// Peers hear at which relay a node is found, if there is such a relay.
func TestHomeRelayReachesPeers(t *testing.T) {
	n := newNet(t, relaying)
	web, db := n.device("web").joinTagged("tag:web"), n.device("db").joinTagged("tag:db")
	web.connect()
	db.connect()
	web.until("a peer", hasPeer("db"))
	says := func(relay string) {
		r := db.report()
		r.Relay = relay
		if err := db.session.Report(n.ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	hint := func() string {
		for {
			for _, h := range web.next(protocol.TypeHints).(protocol.Hints).Hints {
				if h.Node == db.node() && h.Online {
					return h.Relay
				}
			}
		}
	}
	says(protocol.OwnRelay)
	for hint() != protocol.OwnRelay {
	}
	says("made-up")
	if got := hint(); got != "" {
		t.Errorf("the hint says %q", got)
	}
}

// Nodes whose home is said to be dead are told to ask it, once in ten seconds at most; others, and of relays that no map names, hear nothing.
func TestDoubtedRelay(t *testing.T) {
	n := newNet(t, relaying)
	if _, err := n.AddRelay(n.ctx, operator, protocol.Relay{Name: "fra", URL: "https://fra.example.com"}); err != nil {
		t.Fatal(err)
	}
	web, db := n.device("web").joinTagged("tag:web"), n.device("db").joinTagged("tag:db")
	web.connect()
	db.connect()
	home := func(d *device, relay string) {
		r := d.report()
		r.Relay = relay
		if err := d.session.Report(n.ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	home(web, "fra")
	home(db, protocol.OwnRelay)
	checks := func(d *device) (out []string) { // of all that is ready to be sent
		ctx, cancel := context.WithTimeout(n.ctx, 300*time.Millisecond)
		defer cancel()
		for {
			o, err := d.session.Next(ctx)
			if err != nil {
				return out
			}
			if h, ok := o.Body.(protocol.Hints); ok {
				out = append(out, h.Check...)
			}
		}
	}
	n.DoubtRelay("made-up")
	n.DoubtRelay("fra")
	n.DoubtRelay("fra")
	if got := checks(web); !slices.Equal(got, []string{"fra"}) {
		t.Errorf("the node whose home it is was told of %q", got)
	}
	if got := checks(db); len(got) != 0 {
		t.Errorf("another node was told of %q", got)
	}
	for i := range 3 * protocol.MaxRelays { // which leave no room for what was told
		n.DoubtRelay(fmt.Sprint("made-up-", i))
	}
	n.DoubtRelay("fra") // too soon
	if got := checks(web); len(got) != 0 {
		t.Errorf("told again of %q", got)
	}
}

// The list says what is heard of each relay; without anybody who listens it says nothing.
func TestRelayPresence(t *testing.T) {
	n := newNet(t, relaying)
	if got, err := n.Relays(n.ctx, operator); err != nil || got[0].Presence != nil {
		t.Errorf("%+v, %v", got, err)
	}
	n.stop()
	heard := coordinator.RelayPresence{Heard: true, Clients: 41, Version: "v1"}
	n.config.RelayPresence = func(name string) coordinator.RelayPresence {
		if name == "fra" {
			return heard
		}
		return coordinator.RelayPresence{}
	}
	n.start()
	for _, name := range []string{"ams", "fra"} {
		if _, err := n.AddRelay(n.ctx, operator, protocol.Relay{Name: name, URL: "https://r.example.com"}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := n.Relays(n.ctx, operator)
	if err != nil || len(got) != 3 {
		t.Fatalf("%+v, %v", got, err)
	}
	if p := got[0].Presence; p == nil || !p.Heard || !p.Alive {
		t.Errorf("of its own relay: %+v", p)
	}
	if *got[1].Presence != (coordinator.RelayPresence{}) || *got[2].Presence != heard {
		t.Errorf("%+v, %+v", got[1].Presence, got[2].Presence)
	}
}
