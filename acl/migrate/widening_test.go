package migrate

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tailscale/hujson"
	"pgregory.net/rapid"

	"picket.internal/acl"
)

// original is a policy as Tailscale and Headscale read it, by a reading of its own: encoding/json does not mind case, and takes null for
// absent. Whatever it does not understand allows nothing.
type original struct {
	Groups map[string][]string
	Hosts  map[string]string
	ACLs   *[]originalRule
	Grants *[]originalRule
}

type originalRule struct {
	Proto                      string
	Src, Users, Dst, Ports, IP []string
	SrcPosture                 []string
	TimeOfDay                  string
}

func (o *original) has(sel string, n acl.Node, login string) bool {
	sel = strings.TrimSpace(sel)
	name, domain, isUser := strings.Cut(sel, "@")
	local, _, _ := strings.Cut(login, "@")
	addr := n.Addresses[0]
	switch {
	case sel == "*":
		return true
	case strings.HasPrefix(sel, "group:"):
		return o.inGroup(sel, n, login, 0)
	case strings.HasPrefix(sel, "tag:"):
		return slices.Contains(n.Tags, sel)
	case strings.HasPrefix(sel, "autogroup:member"):
		return len(n.Tags) == 0 && login != ""
	case sel == "autogroup:tagged":
		return len(n.Tags) > 0
	case o.Hosts[sel] != "":
		sel = o.Hosts[sel]
	case isUser && domain != "":
		return len(n.Tags) == 0 && login == sel
	case isUser || strings.Trim(sel, "0123456789./") != "":
		return len(n.Tags) == 0 && local == name
	}
	if p, err := netip.ParsePrefix(sel); err == nil {
		return p.Contains(addr)
	}
	a, err := netip.ParseAddr(sel)
	return err == nil && a == addr
}

func (o *original) inGroup(group string, n acl.Node, login string, depth int) bool {
	return depth < 5 && slices.ContainsFunc(o.Groups[group], func(m string) bool {
		if strings.HasPrefix(m, "group:") {
			return o.inGroup(m, n, login, depth+1)
		}
		return o.has(m, n, login)
	})
}

func inPorts(list string, port uint16) bool {
	for part := range strings.SplitSeq(list, ",") {
		from, to, ranged := strings.Cut(part, "-")
		if !ranged {
			to = from
		}
		a, err1 := strconv.Atoi(from)
		b, err2 := strconv.Atoi(to)
		if part == "*" || err1 == nil && err2 == nil && a <= int(port) && int(port) <= b {
			return true
		}
	}
	return false
}

// allows reports whether src may open a flow to dst. A ping passes wherever any rule applies.
func (o *original) allows(src, dst acl.Node, from, to string, proto acl.Proto, port uint16) bool {
	if o.ACLs == nil && o.Grants == nil {
		return true
	}
	fits := func(name string) bool {
		p, ok := acl.ParseProto(strings.ToLower(name))
		return name == "" || ok && p == proto
	}
	rules := func(list *[]originalRule) []originalRule {
		if list == nil {
			return nil
		}
		return slices.DeleteFunc(slices.Clone(*list), func(r originalRule) bool {
			return r.TimeOfDay != "" || len(r.SrcPosture) > 0 || !slices.ContainsFunc(slices.Concat(r.Src, r.Users), func(s string) bool { return o.has(s, src, from) })
		})
	}
	for _, r := range rules(o.ACLs) {
		for _, d := range slices.Concat(r.Dst, r.Ports) {
			at := strings.LastIndexByte(d, ':')
			if at >= 0 && o.has(d[:at], dst, to) && (proto == acl.ICMP || fits(r.Proto) && inPorts(d[at+1:], port)) {
				return true
			}
		}
	}
	for _, r := range rules(o.Grants) {
		if !slices.ContainsFunc(r.Dst, func(d string) bool { return o.has(d, dst, to) }) {
			continue
		}
		for _, c := range r.IP {
			name, ports, hasProto := strings.Cut(c, ":")
			if !hasProto {
				name, ports = "", name
			}
			if proto == acl.ICMP || fits(name) && inPorts(ports, port) {
				return true
			}
		}
	}
	return false
}

var network = func() *acl.Directory {
	d := &acl.Directory{}
	for i, u := range []string{"alice@corp.example", "bob@corp.example", "eve@example.org"} {
		d.Users = append(d.Users, acl.User{ID: acl.UserID(u), Login: u})
		d.Nodes = append(d.Nodes, acl.Node{ID: acl.NodeID(fmt.Sprint("u", i)), Owner: acl.UserID(u), Addresses: []netip.Addr{netip.AddrFrom4([4]byte{100, 64, 0, byte(i + 1)})}})
	}
	for i, tags := range [][]string{{"tag:web"}, {"tag:db"}, {"tag:web", "tag:db"}} {
		d.Nodes = append(d.Nodes, acl.Node{ID: acl.NodeID(fmt.Sprint("t", i)), Tags: tags, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{100, 64, 1, byte(i + 1)})}})
	}
	return d
}()

// wider returns a flow that the imported policy allows and the original does not; "" when there is none.
func wider(text, imported []byte) (string, error) {
	std, err := hujson.Standardize(slices.Clone(text))
	if err != nil {
		return "", err
	}
	o := &original{}
	if err := json.Unmarshal(std, o); err != nil {
		return "", err
	}
	p, err := acl.Parse(imported)
	if err != nil {
		return "", err
	}
	c, err := acl.Compile(p, network, nil)
	if err != nil {
		return "", err
	}
	rs := c.Ruleset()
	for _, a := range network.Nodes {
		for _, b := range network.Nodes {
			for _, q := range []acl.Flow{{Proto: acl.TCP, Port: 22}, {Proto: acl.TCP, Port: 85}, {Proto: acl.UDP, Port: 443}, {Proto: acl.ICMP}, {Proto: 47}} {
				q.Src, q.Dst = a.Addresses[0], b.Addresses[0]
				if a.ID != b.ID && rs.Allows(q, time.Now()).Allow && !o.allows(a, b, string(a.Owner), string(b.Owner), q.Proto, q.Port) {
					return fmt.Sprintf("%v", q), nil
				}
			}
		}
	}
	return "", nil
}

func drawOriginal(t *rapid.T) string {
	pick := func(from ...string) []string {
		return rapid.SliceOfN(rapid.SampledFrom(from), 0, 3).Draw(t, "some")
	}
	sels := []string{"alice", "bob@", "eve@example.org", "group:a", "group:b", "group:gone", "tag:web", "tag:db ", "tag:gone", "autogroup:members", "autogroup:tagged", "*",
		"db", "bad name", "sloppy", "0.0.0.0/0", "100.64.1.0/24", "100.64.0.1", "posture:x", ""}
	var acls, grants []map[string]any
	for range rapid.IntRange(0, 3).Draw(t, "acls") {
		r := map[string]any{"action": "accept", "src": pick(sels...)}
		var dst []string
		for _, s := range pick(sels...) {
			dst = append(dst, s+":"+rapid.SampledFrom([]string{"*", "22", "080-090", "22,443", "0", "x"}).Draw(t, "ports"))
		}
		r["dst"] = dst
		switch rapid.IntRange(0, 8).Draw(t, "more") {
		case 0:
			r["timeOfDay"] = "night"
		case 1:
			r["srcPosture"] = pick("posture:x", "posture:bad", "posture:gone")
		case 2:
			r["srcPosture"] = nil
		case 3, 4:
			r["Proto"] = rapid.SampledFrom([]string{"TCP", "udp", "", "gre", "icmp", "nonsense"}).Draw(t, "proto")
		}
		acls = append(acls, r)
	}
	for range rapid.IntRange(0, 2).Draw(t, "grants") {
		g := map[string]any{"src": pick(sels...), "dst": pick(sels...), "ip": pick("*", "tcp:22,443", "UDP:443", "080-090", "icmp", "gre:*", "22")}
		if rapid.IntRange(0, 3).Draw(t, "via") == 0 {
			g["srcPosture"] = pick("posture:x", "posture:bad")
		}
		grants = append(grants, g)
	}
	doc := map[string]any{
		"groups":    map[string]any{"group:a": pick("alice", "bob@", "group:b", "nonsense:x"), "group:b": pick("eve@example.org", "group:a", "group:gone", "*")},
		"hosts":     map[string]string{"db": "100.64.1.2", "bad name": "100.64.1.1", "sloppy": "100.64.0.9/24"},
		"tagOwners": map[string]any{"tag:web": pick("alice", "group:a", "group:gone"), "tag:db": []string{}},
		"postures":  map[string]any{"posture:x": []string{"node:os == 'linux'"}, "posture:bad": []string{"node:os == 'linux'", "gibberish"}},
	}
	if acls != nil || rapid.Bool().Draw(t, "empty") {
		doc["ACLs"] = acls
		if acls == nil {
			doc["ACLs"] = []any{}
		}
	}
	if grants != nil {
		doc["grants"] = grants
	}
	b, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestImportNeverWidens(t *testing.T) {
	imported := 0
	rapid.Check(t, func(rt *rapid.T) {
		text := drawOriginal(rt)
		r, err := Import([]byte(text), Options{Origin: Headscale, Domain: "corp.example", KeepAllowAll: rapid.Bool().Draw(rt, "keep")})
		if err != nil {
			if asErrors(err) == nil {
				rt.Fatal(err)
			}
			return
		}
		imported++
		flow, err := wider([]byte(text), r.Text)
		if err != nil || flow != "" {
			rt.Fatalf("%v allowed, %v\n%s\nbecame\n%s", flow, err, text, r.Text)
		}
	})
	t.Log(imported, "imported")
	if imported == 0 {
		t.Error("nothing was imported")
	}
}

// A file without anything odd means the same, pings apart.
func TestImportKeepsMeaning(t *testing.T) {
	text := []byte(`{
		"groups": {"group:a": ["alice", "bob@"]}, "hosts": {"db": "100.64.1.2"}, "tagOwners": {"tag:web": [], "tag:db": []},
		"acls": [
			{"action": "accept", "src": ["group:a"], "dst": ["tag:web:80-90", "db:22"]},
			{"action": "accept", "src": ["tag:web"], "dst": ["tag:db:*"], "proto": ""},
		],
		"grants": [{"src": ["eve@example.org"], "dst": ["*"], "ip": ["443,22"]}],
	}`)
	r, err := Import(text, Options{Origin: Headscale, Domain: "corp.example"})
	if err != nil {
		t.Fatal(err)
	}
	std, err := hujson.Standardize(slices.Clone(text))
	if err != nil {
		t.Fatal(err)
	}
	o := &original{}
	if err := json.Unmarshal(std, o); err != nil {
		t.Fatal(err)
	}
	p, err := acl.Parse(r.Text)
	if err != nil {
		t.Fatal(err)
	}
	c, err := acl.Compile(p, network, nil)
	if err != nil {
		t.Fatal(err)
	}
	allowed := 0
	for _, a := range network.Nodes {
		for _, b := range network.Nodes {
			for _, q := range []acl.Flow{{Proto: acl.TCP, Port: 22}, {Proto: acl.TCP, Port: 85}, {Proto: acl.UDP, Port: 443}, {Proto: acl.ICMP}} {
				q.Src, q.Dst = a.Addresses[0], b.Addresses[0]
				want := o.allows(a, b, string(a.Owner), string(b.Owner), q.Proto, q.Port)
				if got := c.Ruleset().Allows(q, time.Now()).Allow; got != want {
					t.Errorf("%v: %v, want %v", q, got, want)
				} else if got {
					allowed++
				}
			}
		}
	}
	if allowed < 20 {
		t.Errorf("only %d flows", allowed)
	}
}

func FuzzImport(f *testing.F) {
	for _, seed := range []string{
		`{"groups": {"group:a": ["alice@", "group:a"]}, "ACLs": [{"Action": "accept", "Users": ["group:a"], "Ports": ["*:080"]}]}`,
		`{"acls": [{"action": "accept", "src": ["x"], "dst": ["0.0.0.0/0:*", "*:1"]}, null, 3], "grants": [{"src": ["*"], "ip": ["1,2"]}]}`,
		`{"hosts": {"a b": "1.2.3.4"}, "postures": {"posture:x": []}, "ssh": [{}], "autoApprovers": {"routes": {"x": ["y"]}}}`, `[`, `{"a": "\ud800"}`,
	} {
		f.Add([]byte(seed), "example.com", true)
	}
	f.Fuzz(func(t *testing.T, text []byte, domain string, headscale bool) {
		o := Options{Origin: Tailscale, Domain: domain}
		if headscale {
			o.Origin = Headscale
		}
		r, err := Import(text, o)
		if err != nil {
			return
		}
		if _, err := acl.Parse(r.Text); err != nil {
			t.Errorf("%s\nbecame\n%s\nwhich does not parse: %v", text, r.Text, err)
		}
	})
}
