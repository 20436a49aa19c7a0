package acl

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tailscale/hujson"
	"pgregory.net/rapid"
)

func TestPolicyOver1MiBIsRefusedUnread(t *testing.T) {
	_, err := Parse([]byte(strings.Repeat("[", 50<<20)))
	want := "the policy has 52428800 bytes: at most 1048576 (1 MiB) are read"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Without the scan this is no failing test but a dead process: hujson's recursion overflows the stack (R33).
func TestPolicyNestedAMillionDeepIsRefused(t *testing.T) {
	for _, text := range []string{
		strings.Repeat("[", maxText),
		strings.Repeat(`{"a":`, maxText/5),
		`{"a":"[[\"", /* "[ */ "b": ` + strings.Repeat("[", maxText-100),
		"// \"\n" + strings.Repeat("[", maxText-100),
		`"\\"` + strings.Repeat("[", maxText-100),
		strings.Repeat("]", maxText/2) + strings.Repeat("[", maxText/2),
	} {
		_, err := Parse([]byte(text))
		if err == nil {
			t.Errorf("%.30s… is accepted", text)
		}
	}
}

func TestDepthIsCountedAsTheParserCounts(t *testing.T) {
	for text, deep := range map[string]bool{
		strings.Repeat("[", 64) + strings.Repeat("]", 64):                                   false,
		strings.Repeat("[", 65) + strings.Repeat("]", 65):                                   true,
		strings.Repeat("[", 63) + `{"a": "[[[\"[["}` + strings.Repeat("]", 63):              false,
		strings.Repeat("[", 64) + "/* [[[ */ // [[[\n" + strings.Repeat("]", 64):            false,
		"[" + strings.Repeat("[],", 200) + "]":                                              false,
		strings.Repeat("[", 60) + "//" + strings.Repeat("[", 9) + "\n[[[[[":                 true,
		strings.Repeat("[", 60) + "/*" + strings.Repeat("[", 9) + "*/ [[[[" + `"]]]]", [`:   true,
		strings.Repeat("[", 60) + `"\\", [[[[[`:                                             true,
		strings.Repeat("[", 60) + `"\"", "[[[[[[", 1` + strings.Repeat("]", 60):             false,
		strings.Repeat("[", 60) + "/**/" + strings.Repeat("[", 4) + strings.Repeat("]", 64): false,
	} {
		if got := tooDeep([]byte(text)) >= 0; got != deep {
			t.Errorf("%s: too deep %v, want %v", text, got, deep)
		}
	}
}

// hostile are texts within the bound that are made to cost more than they weigh.
func hostile() map[string]string {
	fill := func(head, tail string, each func(i int) string) string {
		var b strings.Builder
		b.WriteString(head)
		for i := 0; b.Len() < maxText-len(tail)-1200; i++ {
			b.WriteString(each(i))
		}
		return b.String() + tail
	}
	return map[string]string{
		"empty lists":          fill("[", "]", func(int) string { return "[]," }),
		"one string":           `"` + strings.Repeat("a", maxText-10) + `"`,
		"unknown fields":       fill("{", "}", func(i int) string { return fmt.Sprintf(`"x%d":0,`, i) }),
		"one field many times": fill("{", "}", func(int) string { return `"acls":0,` }),
		"groups in groups": fill(`{"groups":{"group:0":["a@x.org"],`, "}}", func(i int) string {
			return fmt.Sprintf(`"group:%d":["group:%d","group:%d"],`, i+1, i, i)
		}),
		"one user in many groups": fill(`{"groups":{`, "}}", func(i int) string { return fmt.Sprintf(`"group:%d":["a@x.org"],`, i) }),
		"tags owning tags": fill(`{"tagOwners":{"tag:a0":[],`, "}}", func(i int) string {
			return fmt.Sprintf(`"tag:a%d":["tag:a%d"],`, i+1, i)
		}),
		"unknown names among many": fill(`{"groups":{`, `},"grants":[{"src":[`+strings.Repeat(`"group:enginering",`, 5000)+`],"dst":["*"],"ip":["*"]}]}`,
			func(i int) string {
				if i > 20000 {
					return strings.Repeat(" ", 1000)
				}
				return fmt.Sprintf(`"group:engineer%d":[],`, i)
			}),
		"unknown logins": fill(`{"grants":[{"src":[`, `],"dst":["*"],"ip":["*"]}]}`, func(i int) string { return fmt.Sprintf(`"u%d",`, i) }),
		"sources by ports": fill(`{"acls":[{"action":"accept","src":[`, `]}]}`, func(i int) string {
			switch half := 30000; {
			case i < half:
				return fmt.Sprintf(`"u%d@x.org",`, i)
			case i == half:
				return `"*"],"dst":[`
			default:
				return fmt.Sprintf(`"*:%d",`, i%lastPort+1)
			}
		}),
		"every second port": fill(`{"grants":[{"src":["*"],"dst":["*"],"ip":[`, `]}]}`, func(i int) string { return fmt.Sprintf(`"tcp:%d",`, i*2%lastPort+1) }),
		"every second port of an acl": fill(`{"acls":[{"action":"accept","src":["*"],"dst":["*:`, `1"]}]}`, func(i int) string {
			return fmt.Sprintf("%d,", i*2%lastPort+1)
		}),
		"many small rules":  fill(`{"grants":[`, `]}`, func(int) string { return `{"src":["*"],"dst":["*"],"ip":["*"]},` }),
		"many broken rules": fill(`{"grants":[`, `]}`, func(int) string { return `{},` }),
		"rules alike":       `{"grants":[` + strings.Repeat(`{"dst":["*"],"ip":["22"],"src":[`+strings.Repeat(`"a@x.org","b@x.org",`, 10000)+`]},`, 2) + `]}`,
		"rules of many users": fill(`{"grants":[{"dst":["*"],"ip":["22"],"src":[`, `]}]}`, func(i int) string {
			if i == 25000 {
				return `"*"]},{"dst":["*"],"ip":["22"],"src":[`
			}
			return fmt.Sprintf(`"u%d@x.org",`, i%25000)
		}),
		"many tests of many rules": fill(`{"grants":[`, `]}`, func(i int) string {
			switch {
			case i < 10000:
				return `{"src":["*"],"dst":["*"],"ip":["tcp:22"]},`
			case i == 10000:
				return `],"tests":[`
			}
			return `{"src":"a@x.org","accept":["b@x.org:23"]},`
		}),
		"many tests of a large group": fill(`{"groups":{"group:a":[`, `]}`, func(i int) string {
			switch {
			case i < 30000:
				return fmt.Sprintf(`"u%d@x.org",`, i)
			case i == 30000:
				return `]},"grants":[{"src":["group:a"],"dst":["autogroup:self"],"ip":["*"]}],"tests":[`
			}
			return `{"src":"group:a","deny":["group:a:23"],"srcPostureAttrs":{}},`
		}),
		"ipsets doubling": fill(`{"ipsets":{"ipset:0":["10.0.0.0/8"],`, "}}", func(i int) string {
			return fmt.Sprintf(`"ipset:%d":["ipset:%d","ipset:%d"],`, i+1, i, i)
		}),
		"ipsets growing, the last first": fill(`{"ipsets":{"ipset:20001":[],`, "}}", func(i int) string {
			if i > 20000 {
				return strings.Repeat(" ", 1000)
			}
			return fmt.Sprintf(`"ipset:%d":["ipset:%d","10.%d.%d.%d"],`, i, i+1, i>>15&255, i>>7&255, i<<1&255)
		}),
		"a large ipset in many": fill(`{"ipsets":{"ipset:a":["1::1-f000::1","add 0.0.0.1-9.255.255.254"],`, "}}", func(i int) string {
			return fmt.Sprintf(`"ipset:%d":["add ipset:a","remove ipset:a"],`, i)
		}),
		"a circle of ipsets": fill(`{"ipsets":{"ipset:a":["ipset:0"],`, `"ipset:30000":["ipset:a"]}}`, func(i int) string {
			if i >= 30000 {
				return strings.Repeat(" ", 1000)
			}
			return fmt.Sprintf(`"ipset:%d":["ipset:%d"],`, i, i+1)
		}),
		"ranges of many networks": fill(`{"ipsets":{"ipset:a":[`, `]}}`, func(i int) string {
			return fmt.Sprintf(`"%x::1-%x:ffff:ffff:ffff:ffff:ffff:ffff:fffe",`, i%0xfeff+1, i%0xfeff+1)
		}),
		"a network full of holes": fill(`{"ipsets":{"ipset:a":["add 2000::/3",`, `]}}`, func(i int) string {
			return fmt.Sprintf(`"remove 2000:%x:%x::1",`, i>>8, i&255)
		}),
		"adding and removing in turn": fill(`{"ipsets":{"ipset:a":[`, `]}}`, func(i int) string {
			return fmt.Sprintf(`"%s 11.%d.%d.%d",`, []string{"add", "remove"}[i%2], i>>14&255, i>>6&255, i<<2&255)
		}),
		"a large ipset in many rules": fill(`{"ipsets":{"ipset:a":["1::1-f000::1"]},"grants":[`, `]}`, func(int) string {
			return `{"src":["ipset:a"],"dst":["*"],"ip":["22"]},`
		}),
		"a large ipset in one rule": fill(`{"ipsets":{"ipset:a":["1::1-f000::1"]},"nodeAttrs":[{"target":[`, `]}]}`, func(int) string { return `"ipset:a",` }),
		"postures of many assertions": fill(`{"postures":{`, "}}", func(i int) string {
			return fmt.Sprintf(`"posture:%d":[%s],`, i, strings.Repeat(`"custom:a == 'b'",`, maxAssertions))
		}),
		"one long list": fill(`{"postures":{"posture:a":["custom:a IN [`, `1]"]}}`, func(i int) string { return fmt.Sprintf("%d,", i) }),
		"lists of values": fill(`{"postures":{`, "}}", func(i int) string {
			return fmt.Sprintf(`"posture:%d":["custom:a IN [%s1]"],`, i, strings.Repeat("0,", 500))
		}),
		"many postures of a rule": fill(`{"postures":{"posture:a":["custom:a"]},"grants":[{"src":["*"],"dst":["*"],"ip":["*"],"srcPosture":[`, `]}]}`,
			func(int) string { return `"posture:a",` }),
		"many routers' tags": fill(`{"tagOwners":{`, `]}]}`, func(i int) string {
			switch {
			case i < 30000:
				return fmt.Sprintf(`"tag:t%d":[],`, i)
			case i == 30000:
				return `},"grants":[{"src":["*"],"dst":["10.0.0.0/8"],"ip":["*"],"via":[`
			}
			return fmt.Sprintf(`"tag:t%d",`, (i-30001)%30000)
		}),
		"logins of one at oneself": fill(`{"ssh":[{"action":"accept","users":["root"],"src":[`, `]}]}`, func(i int) string {
			if i == 45000 {
				return `],"dst":[`
			}
			return `"a@x.org",`
		}),
		"many SSH tests of many rules": fill(`{"ssh":[`, `]}`, func(i int) string {
			switch {
			case i < 5000:
				return `{"action":"check","src":["autogroup:member"],"dst":["autogroup:self"],"users":["root"]},`
			case i == 5000:
				return `],"sshTests":[`
			}
			return `{"src":"a@x.org","dst":["autogroup:self"],"deny":["x"]},`
		}),
		"one capability's parameters": fill(`{"nodeAttrs":[{"target":["*"],"app":{"x.org/cap":[`, `]}}]}`, func(int) string { return `{"b":[{"a":"\u0041"}],"a":{}},` }),
		"deep parameters": fill(`{"nodeAttrs":[{"target":["*"],"app":{"x.org/cap":[`, `]}}]}`, func(int) string {
			return strings.Repeat("[", 50) + strings.Repeat("]", 50) + ","
		}),
		"app of many grants": fill(`{"grants":[`, `]}`, func(int) string { return `{"src":["*"],"dst":["*","autogroup:tagged"],"app":{"x.org/cap":[{}]}},` }),
	}
}

// maxMemory bounds what reading, joining and testing a policy may have allocated when it is done, in bytes, the dead included.
const maxMemory = 3 << 29

func TestHostilePoliciesCostLittle(t *testing.T) {
	d := mustDirectory(t, viewDirectory)
	for name, text := range hostile() {
		t.Run(name, func(t *testing.T) {
			if len(text) > maxText {
				t.Fatalf("the text has %d bytes", len(text))
			}
			start, before := cpuTime(), allocated()
			if p, err := Parse([]byte(text)); err == nil {
				c := mustCompile(t, p, d)
				for _, n := range d.Nodes {
					c.View(n.ID)
				}
				p.Test(d, now)
				p.WarningsFor(d)
			}
			// Several times what the slowest takes.
			if took := cpuTime() - start; took > 6*time.Second*slowness {
				t.Errorf("took %s", took)
			}
			t.Logf("%d bytes: %s, %d MiB", len(text), cpuTime()-start, (allocated()-before)>>20)
			if n := allocated() - before; n > maxMemory {
				t.Errorf("allocated %d MiB", n>>20)
			}
		})
	}
}

// allocated is how many bytes the process has allocated so far.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// What would multiply is refused in words, not half compiled.
func TestPoliciesThatMultiplyAreRefused(t *testing.T) {
	texts := hostile()
	for name, want := range map[string]string{
		"sources by ports":               "line 1, column 1: the rules come to ",
		"a circle of ipsets":             "contains itself: ipset:",
		"ipsets growing, the last first": "the ipsets come to more than 500000 networks while they are worked out: use larger networks, and fewer removals",
		"a large ipset in many":          "the ipsets come to more than 500000 networks while they are worked out",
		"ranges of many networks":        "line 1, column 12: the ipsets come to more than 500000 networks while they are worked out",
		"a network full of holes":        "the ipsets come to more than 500000 networks while they are worked out",
		"adding and removing in turn":    "the ipsets come to more than 500000 networks while they are worked out",
		"a large ipset in many rules":    "the ipsets that rules name come to more than 500000 networks: use larger networks, or name the set in fewer rules",
		"a large ipset in one rule":      "the ipsets that rules name come to more than 500000 networks",
		"postures of many assertions":    "the postures compare with more than 10000 values",
		"lists of values":                "has 1014 postures, at most 1000 are read",
		"one long list":                  "it is longer than 4096 bytes",
		"one capability's parameters":    "nodeAttrs[0].app has ",
	} {
		if _, err := Parse([]byte(texts[name])); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %.200v, want %s", name, err, want)
		}
	}
}

// Tests that are not run must not count as passed.
func TestWhatIsNotTestedFails(t *testing.T) {
	for name, want := range map[string]string{
		"many tests of many rules":     "not run to its end, nor any after it: the tests come to more than 20000000 comparisons",
		"many tests of a large group":  "not run to its end, nor any after it: the tests come to more than 20000000 comparisons",
		"many SSH tests of many rules": "not run, nor any after it: the tests come to more than 10000000 comparisons",
	} {
		failures := mustParse(t, hostile()[name]).Test(&Directory{}, now)
		if len(failures) == 0 || !strings.HasSuffix(failures[len(failures)-1].Message, want) {
			t.Errorf("%s: %d failures, want the last to be: %s", name, len(failures), want)
		}
	}
}

func TestErrorsBeyondAHundredAreCountedOnly(t *testing.T) {
	for n, last := range map[int]string{
		100:    "line 1, column 210: grants[99] must be an object { … }, not a number",
		101:    "and 1 more errors",
		5000:   "and 4900 more errors",
		500000: "and 499900 more errors",
	} {
		_, err := Parse([]byte(`{"grants":[` + strings.Repeat("1,", n) + `]}`))
		all, _ := err.(Errors)
		if len(all) != min(n, maxReported+1) || all[len(all)-1].String() != last {
			t.Errorf("%d errors: %d reported, the last is %s, want %s", n, len(all), all[len(all)-1], last)
		}
	}
}

// words are what wild policies are made of: what may stand somewhere, and what may not.
var words = []string{
	"*", "a@x.org", "B@x.org", "user:*@x.org", "group:g", "group:none", "tag:t", "tag:u", "autogroup:member", "autogroup:tagged", "autogroup:self",
	"autogroup:internet", "autogroup:danger-all", "autogroup:shared", "autogroup:admin", "autogroup:nonroot", "10.0.0.1", "10.0.0.0/8", "fd7a::/64", "100.64.0.0/10",
	"100.64.0.1", "::ffff:10.0.0.1", "h", "host:h", "ipset:s", "ipset:n", "svc:x", "posture:p", "posture:q", "", " ", ":", "22", "tcp:22", "80-90", "icmp:*", "47:*", "*:*",
	"tag:t:22", "a@x.org:0", "10.0.0.1:22", "[fd7a::1]:80,443", "autogroup:self:*", "ipset:s:1-65535", "add 10.0.0.0/8", "remove ipset:s", "add 10.0.0.1-10.0.0.9",
	"remove host:h", "::1-ffff::", "custom:a == 'b'", "node:osVersion >= '13.4'", "custom:a NOT IN [1, 2]", "custom:a NOT SET", "accept", "check", "deny", "root",
	"localpart:*@x.org", "1h", "always", "15m", "low", "all", "2027-12-31T18:00Z", "example.com/cap", "mon-fri", "UTC", "because", "icmp",
}

// fieldNames are those of every object of the language.
var fieldNames = strings.Fields(`src dst ip app via srcPosture mfa session risk hours until approval offlineFor log action proto users ports reason accept allow deny check
	srcPostureAttrs checkPeriod acceptEnv recorder enforceRecorder target attr ipPool by for days from to tz routes exitNode services`)

// drawValue is JSON of about the right shape: a rule, a list of words, a word.
func drawValue(t *rapid.T, depth int) any {
	switch rapid.IntRange(0, 9).Draw(t, "shape") {
	case 0:
		return rapid.SampledFrom([]any{nil, true, 7, -1.5, map[string]any{}, []any{}}).Draw(t, "odd")
	case 1, 2:
		return rapid.SampledFrom(words).Draw(t, "word")
	case 3, 4:
		if depth > 0 {
			return drawObject(t, depth, fieldNames, 7)
		}
	}
	out := []any{}
	for range rapid.IntRange(0, 4).Draw(t, "length") {
		out = append(out, rapid.SampledFrom(words).Draw(t, "word"))
	}
	return out
}

func drawObject(t *rapid.T, depth int, names []string, most int) map[string]any {
	out := map[string]any{}
	for _, name := range rapid.SliceOfN(rapid.SampledFrom(names), 0, most).Draw(t, "names") {
		out[name] = drawValue(t, depth-1)
	}
	return out
}

// likely is an entry that has what its section demands, and more.
func likely(t *rapid.T, required map[string]any) map[string]any {
	out := map[string]any{}
	if rapid.IntRange(0, 15).Draw(t, "wild") == 0 {
		out = drawObject(t, 2, fieldNames, 3)
	}
	for name, value := range required {
		if from, ok := value.([]string); ok {
			value = rapid.SliceOfN(rapid.SampledFrom(from), 1, 4).Draw(t, name)
		}
		out[name] = value
	}
	return out
}

// Whatever a policy holds, reading, joining, viewing and testing it ends, and does not panic.
func TestNoPolicyPanics(t *testing.T) {
	d := mustDirectory(t, viewDirectory)
	d.Nodes[6].Routes = append(d.Nodes[6].Routes, netip.MustParsePrefix("0.0.0.0/0"))
	read, taken := 0, 0
	src := []string{"*", "a@x.org", "alice@example.com", "user:*@x.org", "group:g", "tag:t", "10.0.0.0/8", "h", "ipset:s", "ipset:n", "autogroup:member", "autogroup:danger-all", "autogroup:admin"}
	dst := append([]string{"autogroup:internet", "svc:x"}, src[:len(src)-2]...)
	rapid.Check(t, func(t *rapid.T) {
		entries := map[string]map[string]any{
			"grants":    {"src": src, "dst": dst, "ip": []string{"*", "tcp:22", "80-90", "icmp:*", "47:*"}},
			"denies":    {"src": src, "dst": dst, "ip": []string{"*", "tcp:22"}, "reason": "because"},
			"acls":      {"action": "accept", "src": src, "dst": []string{"*:*", "tag:t:22", "10.0.0.1:22", "ipset:s:1-65535"}},
			"tests":     {"src": "a@x.org", "accept": []string{"tag:t:22", "10.0.0.1:22", "b@x.org:1"}, "deny": []string{"tag:u:22", "h:9"}},
			"ssh":       {"action": "check", "src": []string{"a@x.org", "group:g"}, "dst": []string{"tag:t", "autogroup:self"}, "users": []string{"root", "localpart:*@x.org", "autogroup:nonroot"}},
			"sshTests":  {"src": "a@x.org", "dst": []string{"tag:t", "autogroup:self", "10.0.0.1"}, "deny": []string{"root", "a"}},
			"nodeAttrs": {"target": src[:9]},
		}
		policy := map[string]any{
			"groups": map[string]any{"group:g": []string{"a@x.org", "b@x.org"}, "group:none": []string{}}, "tagOwners": map[string]any{"tag:t": []string{"tag:u"}, "tag:u": []string{"group:g", "tag:t"}},
			"hosts": map[string]any{"h": "10.0.0.7"}, "postures": map[string]any{"posture:p": []string{"custom:a NOT SET"}, "posture:q": []string{"node:os == 'linux'"}},
			"ipsets": map[string]any{
				"ipset:s": rapid.SliceOfN(rapid.SampledFrom([]string{"add 10.0.0.0/8", "remove 10.1.0.0/16", "add 10.0.0.1-10.0.0.9", "remove host:h", "add ::1-ffff::", "add autogroup:internet"}), 0, 5).Draw(t, "s"),
				"ipset:n": rapid.SliceOfN(rapid.SampledFrom([]string{"add ipset:s", "remove ipset:s", "add 192.0.2.1", "remove ::1-ffff::"}), 0, 4).Draw(t, "n"),
			},
		}
		for section, required := range entries {
			list := []any{}
			for range rapid.IntRange(0, 3).Draw(t, section) {
				list = append(list, likely(t, required))
			}
			policy[section] = list
		}
		for name, value := range drawObject(t, 2, []string{"groups", "ipsets", "autoApprovers", "postures", "defaultSrcPosture", "nodeAttrs", "derpMap", "tests"}, rapid.IntRange(0, 1).Draw(t, "more")) {
			policy[name] = value
		}
		text, err := json.Marshal(policy)
		if err != nil {
			t.Fatal(err)
		}
		read++
		p, err := Parse(text)
		if err != nil {
			return
		}
		taken++
		c, err := Compile(p, d, testSalt)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range d.Nodes {
			c.View(n.ID)
		}
		p.Test(d, now)
		p.WarningsFor(d)
		for i := range d.Nodes {
			p.ApprovesRoute(&d.Nodes[i], d.Users[0], netip.MustParsePrefix("10.0.0.0/8"))
		}
	})
	if taken*20 < read {
		t.Errorf("only %d of %d policies were taken", taken, read)
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range hostile() {
		f.Add([]byte(text[:2000]))
	}
	f.Add([]byte(viewPolicy))
	for _, text := range goldenPolicies(f) {
		f.Add(text)
	}
	d := mustDirectory(f, viewDirectory)
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse(text)
		if (err == nil) != (p != nil) {
			t.Fatalf("policy %v with error %v", p, err)
		}
		if err != nil {
			if all, ok := err.(Errors); !ok || len(all) == 0 {
				t.Fatalf("refused with %T, %v", err, err)
			}
			return
		}
		c := mustCompile(t, p, d)
		for _, n := range d.Nodes {
			if _, ok := c.View(n.ID); !ok {
				t.Fatalf("no view for %s", n.ID)
			}
		}
		p.Test(d, now)
		p.Warnings()
		p.WarningsFor(d)
	})
}

// FuzzDepth holds the scan to what hujson then does: no text that passes may nest deeper than the bound.
func FuzzDepth(f *testing.F) {
	f.Add([]byte(`{"a": "[", /* ] */ "b": [[]] // ]` + "\n}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 4096 || tooDeep(text) >= 0 {
			return
		}
		v, _ := hujson.Parse(text)
		if d := depthOf(&v); d > maxDepth {
			t.Fatalf("depth %d passes", d)
		}
	})
}

func depthOf(v *hujson.Value) (deepest int) {
	switch x := v.Value.(type) {
	case *hujson.Array:
		for i := range x.Elements {
			deepest = max(deepest, depthOf(&x.Elements[i]))
		}
		return deepest + 1
	case *hujson.Object:
		for i := range x.Members {
			deepest = max(deepest, depthOf(&x.Members[i].Value))
		}
		return deepest + 1
	}
	return 0
}
