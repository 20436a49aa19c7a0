package coordinator_test

import (
	"bytes"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

func TestRenameRefuses(t *testing.T) {
	n := newNet(t)
	n.device("a").joinTagged("tag:db")
	n.device("b").joinTagged("tag:db")
	for name, code := range map[string]string{
		"":                      coordinator.CodeInvalid,
		"A":                     coordinator.CodeInvalid,
		"a.b":                   coordinator.CodeInvalid,
		"-a":                    coordinator.CodeInvalid,
		"a-":                    coordinator.CodeInvalid,
		"a b":                   coordinator.CodeInvalid,
		"a\n127.0.0.1 bank":     coordinator.CodeInvalid,
		"ä":                     coordinator.CodeInvalid,
		strings.Repeat("a", 64): coordinator.CodeInvalid,
		"localhost":             coordinator.CodeInvalid,
		"wpad":                  coordinator.CodeInvalid,
		"n0123456789abcdef":     coordinator.CodeInvalid,
		"b":                     coordinator.CodeConflict,
	} {
		_, err := n.RenameNode(n.ctx, operator, "a", name)
		wantCode(t, "the name "+name, err, code)
	}
	_, err := n.RenameNode(n.ctx, operator, "nope", "c")
	wantCode(t, "no such node", err, coordinator.CodeNotFound)
	before, _ := n.Enforced(n.ctx, operator, 0)
	if _, err := n.RenameNode(n.ctx, operator, "a", "a"); err != nil {
		t.Errorf("its own name: %v", err)
	}
	if after, _ := n.Enforced(n.ctx, operator, 0); after.Generation != before.Generation {
		t.Error("renaming to the same name changed every map")
	}
}

func TestConcurrentRenamesLeaveOneOwner(t *testing.T) {
	n := newNet(t)
	refs := make([]string, 20)
	for i := range refs {
		refs[i] = string(n.device("x").joinTagged("tag:db").node())
	}
	var wg sync.WaitGroup
	var won atomic.Int32
	for _, ref := range refs {
		wg.Go(func() {
			if _, err := n.RenameNode(n.ctx, operator, ref, "primary"); err == nil {
				won.Add(1)
			} else {
				wantCode(t, "the others", err, coordinator.CodeConflict)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d nodes are called primary", won.Load())
	}
}

func TestHostNamesBecomeLabels(t *testing.T) {
	n := newNet(t)
	_, text, err := n.CreateAuthKey(n.ctx, operator, coordinator.NewAuthKey{Tags: []string{"tag:db"}, Reusable: true})
	if err != nil {
		t.Fatal(err)
	}
	for i, hostname := range []string{"", " ", "\x00\x01", strings.Repeat("x", 300), "a\nb", "../../etc/passwd", "$(reboot)", "пример", "localhost", "Bob's MacBook Pro", "web.example.com"} {
		d := n.device(hostname)
		a, err := d.enrol(text)
		if err != nil {
			t.Errorf("%q: %v", hostname, err)
			continue
		}
		if protocol.CheckName(a.Admitted.Name) != nil {
			t.Errorf("%d: %q became %q", i, hostname, a.Admitted.Name)
		}
	}
	long := n.device(strings.Repeat("x", 300))
	a, err := long.enrol(text)
	if err != nil || len(a.Admitted.Name) > 63 || !strings.HasSuffix(a.Admitted.Name, "-2") {
		t.Errorf("a second of 300 characters: %+v, %v", a.Admitted, err)
	}
}

func TestQuarantine(t *testing.T) {
	n := newNet(t)
	a := n.device("a").joinTagged("tag:db").connect()
	b := n.device("b").joinTagged("tag:db").connect()
	a.until("know b", hasPeer("b"))
	b.until("know a", hasPeer("a"))
	change, err := n.QuarantineNode(n.ctx, operator, "a", true)
	if err != nil {
		t.Fatal(err)
	}
	b.until("lose a", lacksPeer("a"))
	a.until("be alone", func(c protocol.Content) bool { return c.Self.Quarantined })
	if len(a.content.Peers)+len(a.content.Rules) > 0 {
		t.Errorf("a quarantined node knows peers %v and %d rules", a.peers(), len(a.content.Rules))
	}
	again, err := n.QuarantineNode(n.ctx, operator, "a", true)
	if err != nil || again.Generation != change.Generation {
		t.Errorf("quarantined again: %+v, %v", again, err)
	}
	// It stays so whatever the node does.
	a.session.Close()
	if e, err := a.enrol(""); err != nil || e.Admitted.Node != a.node() {
		t.Fatal(err)
	}
	a.connect()
	if !a.content.Self.Quarantined || len(a.content.Peers) > 0 {
		t.Error("enrolling again ended the quarantine")
	}
	if _, err := n.QuarantineNode(n.ctx, operator, "a", false); err != nil {
		t.Fatal(err)
	}
	a.until("know b again", hasPeer("b"))
	b.until("know a again", hasPeer("a"))
}

func TestStateSurvivesRestart(t *testing.T) {
	n := newNet(t)
	alice := n.admin()
	a := n.device("a").join(alice).connect()
	n.device("b").joinTagged("tag:db").connect()
	a.until("know b", hasPeer("b"))
	held := a.entries
	n.stop()
	n.start()
	if err := a.attach(); err != nil {
		t.Fatal(err)
	}
	if m := a.nextMap(); m.Base == 0 || len(m.Put) > 0 || len(a.entries) != len(held) {
		t.Errorf("after a restart with nothing changed: base %d, %d entries", m.Base, len(m.Put))
	}
	for id := range held {
		if !bytes.Equal(held[id], a.entries[id]) {
			t.Errorf("entry %s differs after a restart", id)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	n := newNet(t)
	n.device("a").joinTagged("tag:db")
	for name, change := range map[string]func(*coordinator.Config){
		"no store":                     func(c *coordinator.Config) { c.Store = nil },
		"no key":                       func(c *coordinator.Config) { c.Key = coordinator.Config{}.Key },
		"no network":                   func(c *coordinator.Config) { c.Network = "" },
		"no salt":                      func(c *coordinator.Config) { c.Salt = nil },
		"a URL without host":           func(c *coordinator.Config) { c.URL = "picket" },
		"a URL that ends in a slash":   func(c *coordinator.Config) { c.URL = "https://picket.example/" },
		"IPv6 as IPv4 overlay":         func(c *coordinator.Config) { c.Overlay4 = c.Overlay6 },
		"an overlay with host bits":    func(c *coordinator.Config) { c.Overlay4 = netip.MustParsePrefix("100.64.0.1/10") },
		"no IPv6 overlay":              func(c *coordinator.Config) { c.Overlay6 = netip.Prefix{} },
		"an IPv6 overlay of a /112":    func(c *coordinator.Config) { c.Overlay6 = netip.MustParsePrefix("fd7a::/112") },
		"a lease longer than believed": func(c *coordinator.Config) { c.Lease = 2 * protocol.MaxLease },
		"an overlay without its nodes": func(c *coordinator.Config) { c.Overlay4 = netip.MustParsePrefix("10.0.0.0/8") },
		"another coordinator's key":    func(c *coordinator.Config) { c.Key = newKey() },
	} {
		config := n.config
		change(&config)
		if _, err := coordinator.New(n.ctx, config); err == nil {
			t.Errorf("New takes %s", name)
		}
	}
}
