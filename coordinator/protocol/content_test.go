package protocol

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"picket.internal/acl"
	"picket.internal/wgtun/key"
)

var cmpAddrs = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{}), cmpopts.EquateEmpty()}

func TestContentRoundTrip(t *testing.T) {
	want := testContent()
	got, err := Decode(testEntries(t, want))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, cmpAddrs); d != "" {
		t.Error(d)
	}
}

// TestContentRefused changes one thing in good content: Encode refuses to make it and Decode refuses to read it.
func TestContentRefused(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	for name, change := range map[string]func(*Content){
		"an IPv4-mapped address":                func(c *Content) { c.Peers[0].Addresses[0] = addr("::ffff:100.64.0.2") },
		"an address with a zone":                func(c *Content) { c.Peers[0].Addresses[0] = addr("fd00::2%eth0") },
		"no address":                            func(c *Content) { c.Peers[0].Addresses = nil },
		"an invalid address":                    func(c *Content) { c.Self.Addresses[0] = netip.Addr{} },
		"an address outside the overlay":        func(c *Content) { c.Peers[0].Addresses[0] = addr("8.8.8.8") },
		"more addresses than a node may have":   func(c *Content) { c.Peers[0].Addresses = make([]netip.Addr, maxAddresses+1) },
		"a peer with this node's address":       func(c *Content) { c.Peers[0].Addresses[0] = addr("100.64.0.1") },
		"two peers with one address":            func(c *Content) { p := c.Peers[0]; p.Node = "n3"; c.Peers = append(c.Peers, p) },
		"one address twice":                     func(c *Content) { c.Self.Addresses[1] = c.Self.Addresses[0] },
		"this node among its peers":             func(c *Content) { c.Peers[0].Node = "n1"; c.Peers[0].Addresses[0] = addr("100.64.0.9") },
		"a route with host bits":                func(c *Content) { c.Peers[0].Routes = []netip.Prefix{netip.PrefixFrom(addr("10.1.2.3"), 8)} },
		"a mapped route":                        func(c *Content) { c.Peers[0].Routes = []netip.Prefix{prefix("::ffff:10.0.0.0/104")} },
		"a route inside the overlay":            func(c *Content) { c.Peers[0].Routes = []netip.Prefix{prefix("100.64.7.0/24")} },
		"a peer without a device key":           func(c *Content) { c.Peers[0].Device = key.DevicePublic{} },
		"a peer without a certificate":          func(c *Content) { c.Peers[0].Certificate = nil },
		"a certificate too large":               func(c *Content) { c.Peers[0].Certificate = make([]byte, key.MaxCertificateSize+1) },
		"a name that is no label":               func(c *Content) { c.Peers[0].Name = "db.evil" },
		"a name with a newline":                 func(c *Content) { c.Peers[0].Name = "db\n127.0.0.1 bank" },
		"an upper-case name":                    func(c *Content) { c.Self.Name = "Laptop" },
		"a name that looks like an option":      func(c *Content) { c.Self.Name = "-oProxyCommand" },
		"no name":                               func(c *Content) { c.Self.Name = "" },
		"a login that acts on terminals":        func(c *Content) { c.Self.Login = "alice\x1b[2J" },
		"a tag that acts on terminals":          func(c *Content) { c.Peers[0].Tags[0] = "tag:\r" },
		"a posture that acts on terminals":      func(c *Content) { c.Peers[0].Postures = []string{"posture:\x1b[2J"} },
		"a posture that is none":                func(c *Content) { c.Peers[0].Postures = []string{"tag:db"} },
		"a posture without a name":              func(c *Content) { c.Peers[0].Postures = []string{"posture:"} },
		"a posture beyond all bound":            func(c *Content) { c.Peers[0].Postures = []string{"posture:" + strings.Repeat("a", 255)} },
		"a posture twice":                       func(c *Content) { c.Peers[0].Postures = []string{"posture:a", "posture:a"} },
		"postures out of order":                 func(c *Content) { c.Peers[0].Postures = []string{"posture:b", "posture:a"} },
		"more postures than a policy has":       func(c *Content) { c.Peers[0].Postures = numberedPostures(acl.MaxPostures + 1) },
		"a node id that is none":                func(c *Content) { c.Self.Node = "../n1" },
		"a peer that never expires":             func(c *Content) { c.Peers[0].Expires = time.Time{} },
		"no overlay":                            func(c *Content) { c.Network.Overlay = nil },
		"a reflector without a port":            func(c *Content) { c.Network.Reflectors = []Reflector{{Host: "stun.example"}} },
		"a reflector that is no host":           func(c *Content) { c.Network.Reflectors = []Reflector{{Host: "stun.example/x", Port: 1}} },
		"a reflector at a group's address":      func(c *Content) { c.Network.Reflectors = []Reflector{{Host: "224.0.0.1", Port: 1}} },
		"more reflectors than are read":         func(c *Content) { c.Network.Reflectors = slices.Repeat([]Reflector{{Port: 1}}, MaxReflectors+1) },
		"an overlay with host bits":             func(c *Content) { c.Network.Overlay[0] = netip.PrefixFrom(addr("100.64.0.1"), 10) },
		"more roles than a node may have":       func(c *Content) { c.Self.Roles = make([]acl.RoleID, maxRoles+1) },
		"more routes than a node may have":      func(c *Content) { c.Self.Routes = make([]netip.Prefix, maxRoutes+1) },
		"a policy file's name beyond all bound": func(c *Content) { c.Network.Policy.File = strings.Repeat("a", maxText+1) },
	} {
		t.Run(name, func(t *testing.T) {
			c := testContent()
			change(&c)
			if _, err := c.Encode(); err == nil {
				t.Error("encoded")
			}
			if got, err := Decode(raw(t, c)); !errors.Is(err, ErrMalformed) {
				t.Errorf("decoded %d peers, error %v", len(got.Peers), err)
			}
		})
	}
}

// numberedPostures are n names in order.
func numberedPostures(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("posture:p%06d", i))
	}
	return names
}

// A node reads over a member of a peer that it does not know, so the coordinator may say more one day: an older node met postures that way.
func TestUnknownMemberOfAPeer(t *testing.T) {
	e := testEntries(t, testContent())
	e["peer/n2"] = []byte(strings.Replace(string(e["peer/n2"]), `"name"`, `"mood":["good"],"name"`, 1))
	if got, err := Decode(e); err != nil || len(got.Peers) != 1 || got.Peers[0].Name != "db" {
		t.Errorf("read %+v, error %v", got.Peers, err)
	}
}

// As many postures as a policy can have, and none, which is left out.
func TestPosturesOfPeers(t *testing.T) {
	for _, n := range []int{0, 1, acl.MaxPostures} {
		c := testContent()
		c.Peers[0].Postures = numberedPostures(n)
		e := testEntries(t, c)
		if said := strings.Contains(string(e["peer/n2"]), `"postures"`); said != (n > 0) {
			t.Errorf("the entry of a peer with %d postures names them: %v", n, said)
		}
		if got, err := Decode(e); err != nil || !slices.Equal(got.Peers[0].Postures, c.Peers[0].Postures) {
			t.Errorf("%d postures: read %v, error %v", n, got.Peers, err)
		}
	}
}

// raw encodes without any check.
func raw(t *testing.T, c Content) Entries {
	t.Helper()
	e := Entries{}
	add := func(id EntryID, v any) {
		data, err := Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		e[id] = data
	}
	add(entrySelf, c.Self)
	add(entryNetwork, c.Network)
	for _, p := range c.Peers {
		add(EntryID(peerPrefix+string(p.Node)), p)
	}
	return e
}

func TestDecodeRefusesEntries(t *testing.T) {
	good := testEntries(t, testContent())
	for name, c := range map[string]struct {
		id   EntryID
		data string
		want error
	}{
		"no self":                        {"self", "", ErrMalformed},
		"no network":                     {"network", "", ErrMalformed},
		"self is no object":              {"self", "[]", ErrMalformed},
		"self twice over":                {"self", string(good["self"]) + string(good["self"]), ErrMalformed},
		"a member twice":                 {"self", strings.Replace(string(good["self"]), `"name"`, `"name":"x","name"`, 1), ErrMalformed},
		"broken UTF-8":                   {"self", strings.Replace(string(good["self"]), "alice", "al\xffce", 1), ErrMalformed},
		"a peer under another's id":      {"peer/n3", string(good["peer/n2"]), ErrMalformed},
		"a peer without an id":           {"peer/", string(good["peer/n2"]), ErrMalformed},
		"a peer that is no object":       {"peer/n2", `"n2"`, ErrMalformed},
		"a peer nested beyond all bound": {"peer/n2", `{"x":` + strings.Repeat("[", 1<<20), ErrMalformed},
		"an unknown restriction":         {"!ceiling/0", "{}", ErrRestriction},
		"a deny of nothing":              {"!deny/1", "{}", ErrRestriction},
		"a deny that is no JSON":         {"!deny/1", "deny all", ErrRestriction},
		"a deny without a place":         {"!deny/x", string(good["!deny/0"]), ErrRestriction},
		"an unknown member of a deny":    {"!deny/1", strings.Replace(string(good["!deny/0"]), `{"ref"`, `{"except":[7],"ref"`, 1), ErrRestriction},
		"a deny of a mapped prefix":      {"!deny/1", strings.Replace(string(good["!deny/0"]), `"dst":{`, `"dst":{"prefixes":["::ffff:10.0.0.0/104"],`, 1), ErrRestriction},
		"an unknown restriction, empty":  {"!", "", ErrRestriction},
	} {
		t.Run(name, func(t *testing.T) {
			e := maps.Clone(good)
			delete(e, "peer/n2") // so that a peer put in its place does not clash with it
			if e[c.id] = []byte(c.data); c.data == "" && c.want != ErrRestriction {
				delete(e, c.id)
			}
			if _, err := Decode(e); !errors.Is(err, c.want) {
				t.Errorf("error is %v, want %v", err, c.want)
			}
		})
	}
}

// TestDecodeSkipsRule: a rule that this build cannot read whole allows nothing, is named, and does not spoil the rest of the map.
func TestDecodeSkipsRule(t *testing.T) {
	good := string(testEntries(t, testContent())["rule/0"])
	for name, c := range map[string]struct {
		id   EntryID
		data string
	}{
		"an unknown member (it could restrict)":        {"rule/1", strings.Replace(good, `{"ref"`, `{"onlyOnTuesdays":true,"ref"`, 1)},
		"an unknown member of an end":                  {"rule/1", strings.Replace(good, `"src":{`, `"src":{"except":[7],`, 1)},
		"an unknown member of its ports":               {"rule/1", strings.Replace(good, `"proto"`, `"odd":true,"proto"`, 1)},
		"a case variant of a member":                   {"rule/1", strings.Replace(good, `"ref"`, `"UNTIL":1,"ref"`, 1)},
		"a member twice":                               {"rule/1", strings.Replace(good, `"ports"`, `"ports":[],"ports"`, 1)},
		"a port that is no port":                       {"rule/1", strings.Replace(good, "5432", "65536", 1)},
		"a port as text":                               {"rule/1", strings.Replace(good, "5432", `"5432"`, 1)},
		"a prefix with host bits":                      {"rule/1", strings.Replace(good, `"src":{`, `"src":{"prefixes":["10.1.2.3/8"],`, 1)},
		"a mapped prefix":                              {"rule/1", strings.Replace(good, `"dst":{`, `"dst":{"prefixes":["::ffff:10.0.0.0/104"],`, 1)},
		"no JSON":                                      {"rule/1", "allow all"},
		"a place that is no number":                    {"rule/x", good},
		"a place written in a second way":              {"rule/01", good},
		"a negative place":                             {"rule/-1", good},
		"nested beyond all bound (1 MB)":               {"rule/1", `{"ref":` + strings.Repeat("[", 1<<20)},
		"an unknown member of a restriction it states": {"rule/1", strings.Replace(good, `"ref"`, `"restrictions":[{"kind":"x","unless":"y"}],"ref"`, 1)},
	} {
		t.Run(name, func(t *testing.T) {
			if c.data == good && c.id == "rule/1" {
				t.Fatal("the case changes nothing")
			}
			e := testEntries(t, testContent())
			e[c.id] = []byte(c.data)
			got, err := Decode(e)
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Skipped) != 1 || got.Skipped[0].ID != c.id || got.Skipped[0].Reason == "" {
				t.Errorf("skipped %v", got.Skipped)
			}
			got.Skipped = nil
			if d := cmp.Diff(testContent(), got, cmpAddrs); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestDecodeKeepsRestriction: a rule's restriction of an unknown kind reaches acl as it is, which then lets the rule allow nothing.
func TestDecodeKeepsRestriction(t *testing.T) {
	c := testContent()
	c.Rules[0].Restrictions = []acl.Restriction{{Kind: "phase-of-moon", Value: "full"}}
	got, err := Decode(testEntries(t, c))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(c.Rules, got.Ruleset().Rules, cmpAddrs); d != "" {
		t.Error(d)
	}
}

func TestDecodeIgnores(t *testing.T) {
	e := testEntries(t, testContent())
	e["relay/r1"] = []byte("of a newer version")
	e["self"] = []byte(strings.Replace(string(e["self"]), "{", `{"birthday":"today",`, 1))
	e["peer/n2"] = []byte(strings.Replace(string(e["peer/n2"]), `"linux"`, `"linux\u001b[2J"`, 1))
	want := testContent()
	want.Peers[0].OS = "linux[2J"
	got, err := Decode(e)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, cmpAddrs); d != "" {
		t.Error(d)
	}
}

// TestRulesKeepOrder: eleven rules, because as text "rule/10" sorts before "rule/2".
func TestRulesKeepOrder(t *testing.T) {
	c := testContent()
	for i := 1; i < 11; i++ {
		r := c.Rules[0]
		r.Ref.Index = i
		c.Rules = append(c.Rules, r)
	}
	got, err := Decode(testEntries(t, c))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(c, got, cmpAddrs); d != "" {
		t.Error(d)
	}
}

func TestRulesetSubjects(t *testing.T) {
	c := testContent()
	want := []acl.Subject{c.Self.Subject, c.Peers[0].Subject}
	if d := cmp.Diff(want, c.Ruleset().Subjects, cmpAddrs); d != "" {
		t.Error(d)
	}
}

func TestEncodeRefusesPeerTwice(t *testing.T) {
	c := testContent()
	c.Peers = append(c.Peers, c.Peers[0])
	if _, err := c.Encode(); err == nil {
		t.Error("encoded two peers of one id")
	}
}

// FuzzDecode: content that decodes has no address twice, encodes again, and means the same then.
func FuzzDecode(f *testing.F) {
	e := testEntries(f, testContent())
	f.Add([]byte(e["self"]), []byte(e["network"]), []byte(e["peer/n2"]), []byte(e["rule/0"]))
	f.Add([]byte("{}"), []byte("{}"), []byte("{}"), []byte("{}"))
	f.Fuzz(func(t *testing.T, self, network, peer, rule []byte) {
		c, err := Decode(Entries{"self": self, "network": network, "peer/n2": peer, "rule/0": rule})
		if err != nil {
			return
		}
		seen := map[netip.Addr]bool{}
		for _, s := range c.Ruleset().Subjects {
			for _, a := range s.Addresses {
				if seen[a] || a.Is4In6() || a.Zone() != "" {
					t.Fatalf("address %s", a)
				}
				seen[a] = true
			}
		}
		again, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := Decode(again)
		if err != nil {
			t.Fatal(err)
		}
		c.Skipped = nil
		if d := cmp.Diff(c, back, cmpAddrs, cmpopts.EquateApproxTime(0)); d != "" {
			t.Fatal(d)
		}
	})
}
