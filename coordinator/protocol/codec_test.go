package protocol

import (
	"bytes"
	"errors"
	"flag"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"picket.internal/acl"
)

var update = flag.Bool("update", false, "rewrite the golden frames")

// testBodies is one body of each type.
func testBodies(t testing.TB) map[string]any {
	hello, ch := testHello(), testChallenge()
	report := Report{
		Facts:       Facts{Hostname: "laptop", OS: "linux (debian 13)", Arch: "amd64", Version: "0.1"},
		Certificate: []byte{1, 2, 3}, Endpoints: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:51820"), netip.MustParseAddrPort("[2001:db8::1]:51820")},
	}
	proof := Proof{Report: report} // of a node that serves no routes, as older ones write it
	report.Routes = []netip.Prefix{netip.MustParsePrefix("10.33.0.0/16"), netip.MustParsePrefix("::/0")}
	report.Relay = OwnRelay
	proof.Sign(hello, ch, testDevice)
	m, _ := signed(t, 0, nil, testEntries(t, testContent()), 5)
	return map[string]any{
		TypeHello: hello, TypeChallenge: ch, TypeProof: proof, TypeMap: *m,
		TypeHints:    Hints{Hints: []Hint{{Node: "n2", Endpoints: report.Endpoints, Online: true, Relay: "ber-1"}}, Check: []string{"ber-1"}},
		TypeLive:     Live{Time: testTime},
		TypeProblem:  Problem{Code: CodeRemoved, Message: "an operator removed this node: run `picket up` to join again"},
		TypeReport:   report,
		TypeReceipt:  testReceipt(),
		TypeResync:   Resync{},
		TypeEvidence: Evidence{Kind: "egress-bypass", Peer: "n2", Count: 7, Flow: "100.64.0.2 -> 100.64.0.1:22/tcp"},
		TypeLogout:   Logout{},
		TypeAskFlows: AskFlows{Ask: 3, Max: MaxFlows},
		TypeFlows:    testFlows(),
		TypeSeek:     Seek{Node: "n2"},
		TypeSought:   Sought{Node: "n2", Endpoints: report.Endpoints},

		TypeRelayPass: RelayPass{Pass: []byte{1, 2, 3}},
	}
}

func testFlows() Flows {
	return Flows{Ask: 3, Total: 12, Truncated: true, Flows: []FlowCount{
		{Peer: "n2", Out: true, Local: netip.MustParseAddr("100.64.0.1"), Remote: netip.MustParseAddr("100.64.0.2"), Proto: acl.TCP, Port: 5432, Count: 7},
		{Peer: "n2", Local: netip.MustParseAddr("fd00::1"), Remote: netip.MustParseAddr("fd00::2"), Proto: acl.ICMPv6, Count: 1},
	}}
}

// TestLargestFlowsFitAFrame: the longest answer that may be asked for is one that the coordinator reads.
func TestLargestFlowsFitAFrame(t *testing.T) {
	f := Flows{Ask: math.MaxUint64, Total: MaxLiveFlows, Truncated: true}
	for range MaxFlows {
		f.Flows = append(f.Flows, FlowCount{
			Peer: acl.NodeID(strings.Repeat("n", maxNodeID)), Out: true, Local: netip.MustParseAddr("fd7a:1111:2222:3333:4444:5555:6666:7777"),
			Remote: netip.MustParseAddr("fd7a:1111:2222:3333:4444:5555:6666:7777"), Proto: acl.UDP, Port: 65535, Count: MaxLiveFlows,
		})
	}
	frame, err := EncodeFrame(TypeFlows, f)
	if err != nil || len(frame) > MaxNodeFrame {
		t.Errorf("%d bytes, of at most %d; %v", len(frame), MaxNodeFrame, err)
	}
}

// TestFramesGolden pins the bytes of every message type, both ways. Rewrite them with -update, and think of the other side's version.
func TestFramesGolden(t *testing.T) {
	for typ := range bodies {
		t.Run(typ, func(t *testing.T) {
			body, ok := testBodies(t)[typ]
			if !ok {
				t.Fatal("no example of this type")
			}
			got, err := EncodeFrame(typ, body)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", "frame-"+typ+".json")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(got)); d != "" {
				t.Error(d)
			}
			back, err := DecodeFrame(want)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(Message{typ, body}, back, cmpAddrs); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestDecodeFrameRefuses(t *testing.T) {
	good := map[string]string{}
	for typ, body := range testBodies(t) {
		frame, err := EncodeFrame(typ, body)
		if err != nil {
			t.Fatal(err)
		}
		good[typ] = string(frame)
	}
	sub := func(typ, old, new string) string {
		s := strings.Replace(good[typ], old, new, 1)
		if s == good[typ] {
			t.Fatalf("%q is not in the %s", old, typ)
		}
		return s
	}
	for name, frame := range map[string]string{
		"nothing":                        "",
		"no object":                      `"hello"`,
		"no type":                        `{"body":{}}`,
		"an empty type":                  `{"type":"","body":{}}`,
		"a type of 33 bytes":             `{"type":"` + strings.Repeat("x", 33) + `","body":{}}`,
		"a type that is no text":         `{"type":7,"body":{}}`,
		"no body":                        `{"type":"resync"}`,
		"a null body":                    `{"type":"resync","body":null}`,
		"a list for a body":              `{"type":"resync","body":[]}`,
		"two types":                      `{"type":"resync","type":"logout","body":{}}`,
		"two bodies":                     `{"type":"resync","body":{},"body":{}}`,
		"something behind it":            good[TypeResync] + "{}",
		"broken UTF-8":                   sub(TypeEvidence, "100.64.0.2", "100\xff"),
		"1 MB of brackets":               `{"type":"report","body":` + strings.Repeat("[", 1<<20),
		"deep inside an unknown field":   `{"type":"resync","body":{"x":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}}`,
		"more than a frame may have":     `{"type":"resync","body":{}}` + strings.Repeat(" ", MaxServerFrame),
		"a hello with a short nonce":     sub(TypeHello, `"nonce":"qqqq`, `"nonce":"`),
		"a hello without a node":         sub(TypeHello, `"n1"`, `""`),
		"a hello with a path for a node": sub(TypeHello, `"n1"`, `"../n1"`),
		"a hello with another's key":     sub(TypeHello, `"device:`, `"tunnel:`),
		"a hello with a digest of none":  sub(TypeHello, `"generation":5`, `"generation":0`),
		"a negative generation":          sub(TypeHello, `"generation":5`, `"generation":-5`),
		"a challenge unsigned":           sub(TypeChallenge, `"signature":"`, `"x":"`),
		"a challenge of the year 9000":   sub(TypeChallenge, "2026-", "9000-"),
		"a proof without a certificate":  sub(TypeProof, `"AQID"`, `""`),
		"an endpoint without a port":     sub(TypeReport, `192.0.2.1:51820`, `192.0.2.1:0`),
		"a mapped endpoint":              sub(TypeReport, `192.0.2.1:51820`, `[::ffff:192.0.2.1]:51820`),
		"an endpoint with a zone":        sub(TypeReport, `192.0.2.1:51820`, `[fe80::1%eth0]:51820`),
		"33 endpoints":                   sub(TypeReport, `"192.0.2.1:51820"`, `"192.0.2.1:51820"`+strings.Repeat(`,"192.0.2.1:51820"`, 32)),
		"a route with host bits":         sub(TypeReport, `10.33.0.0/16`, `10.33.0.1/16`),
		"half the internet as a route":   sub(TypeReport, `10.33.0.0/16`, `0.0.0.0/1`),
		"65 routes":                      sub(TypeReport, `"10.33.0.0/16"`, `"10.33.0.0/16"`+strings.Repeat(`,"10.33.0.0/16"`, 63)),
		"a host name of 2,000 bytes":     sub(TypeReport, `"laptop"`, `"`+strings.Repeat("a", 2000)+`"`),
		"a report of an unfit relay":     sub(TypeReport, `"relay":"home"`, `"relay":"../x"`),
		"a hint of an unfit relay":       sub(TypeHints, `"relay":"ber-1"`, `"relay":"BER"`),
		"an empty pass":                  sub(TypeRelayPass, `"pass":"AQID"`, `"pass":""`),
		"a receipt of generation 0":      sub(TypeReceipt, `"generation":5`, `"generation":0`),
		"a receipt from the future":      sub(TypeReceipt, `"applied":1500000`, `"applied":-1`),
		"a receipt with text for number": sub(TypeReceipt, `"applied":1500000`, `"applied":"1ms"`),
		"evidence against nobody":        sub(TypeEvidence, `"n2"`, `""`),
		"a map without a signature":      sub(TypeMap, `"signature":"`, `"x":"`),
		"a relay to check that is none":  sub(TypeHints, `"check":["ber-1"]`, `"check":["BER"]`),
		"too many relays to check":       sub(TypeHints, `"check":["ber-1"]`, `"check":["r"`+strings.Repeat(`,"r"`, MaxRelays)+`]`),
		"a hint for nobody":              sub(TypeHints, `"n2"`, `"N2"`),
		"a live of year 0":               sub(TypeLive, "2026-", "0000-"),
		"a question without a number":    sub(TypeAskFlows, `"ask":3`, `"ask":0`),
		"a question for no flows":        sub(TypeAskFlows, `"max":4096`, `"max":0`),
		"a question for 4,097 flows":     sub(TypeAskFlows, `"max":4096`, `"max":4097`),
		"flows for no question":          sub(TypeFlows, `"ask":3`, `"ask":0`),
		"4,097 flows":                    sub(TypeFlows, `"flows":[`, `"flows":[`+strings.Repeat(`{"peer":"n2","local":"100.64.0.1","remote":"100.64.0.2","proto":6,"port":1,"count":1},`, 4095)),
		"more flows than listed":         sub(TypeFlows, `"truncated":true,`, ``),
		"fewer flows than listed":        sub(TypeFlows, `"total":12`, `"total":7`),
		"more flows than a node has":     sub(TypeFlows, `"total":12`, `"total":1048577`),
		"no flow":                        sub(TypeFlows, `"count":7`, `"count":0`),
		"a count that overflows":         sub(TypeFlows, `"count":7`, `"count":18446744073709551615`),
		"flows with nobody":              sub(TypeFlows, `"n2"`, `""`),
		"flows from a mapped address":    sub(TypeFlows, `"100.64.0.1"`, `"::ffff:100.64.0.1"`),
		"flows from nowhere":             sub(TypeFlows, `"100.64.0.1"`, `""`),
		"flows to a zone":                sub(TypeFlows, `"fd00::2"`, `"fd00::2%eth0"`),
		"flows between two families":     sub(TypeFlows, `"fd00::2"`, `"100.64.0.2"`),
		"flows to a port of ICMP":        sub(TypeFlows, `"proto":6`, `"proto":1`),
	} {
		t.Run(name, func(t *testing.T) {
			m, err := DecodeFrame([]byte(frame))
			if !errors.Is(err, ErrMalformed) || m.Body != nil {
				t.Errorf("decoded as %v, error %v", m, err)
			}
		})
	}
}

func TestDecodeFrameIgnores(t *testing.T) {
	m, err := DecodeFrame([]byte(`{"type":"weather","body":"sunny","x":1}`))
	if err != nil || m.Type != "weather" || m.Body != nil {
		t.Errorf("a type of a newer version: %v, %v", m, err)
	}
	m, err = DecodeFrame([]byte(`{"type":"live","body":{"time":"2026-11-24T12:00:00.25Z","mood":"good"}}`))
	if d := cmp.Diff(Message{TypeLive, Live{testTime}}, m); err != nil || d != "" {
		t.Errorf("a field of a newer version: %v %s", err, d)
	}
}

func TestEncodeFrameRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		typ  string
		body any
	}{
		"an unknown type":            {"weather", Live{}},
		"a body of another type":     {TypeLive, Problem{}},
		"no body":                    {TypeLive, nil},
		"a nil pointer":              {TypeLive, (*Live)(nil)},
		"more than a frame may have": {TypeMap, Map{Header: make([]byte, MaxServerFrame)}},
	} {
		if _, err := EncodeFrame(c.typ, c.body); err == nil {
			t.Errorf("%s was encoded", name)
		}
	}
	if a, err := EncodeFrame(TypeLive, &Live{testTime}); err != nil || !bytes.Contains(a, []byte("2026")) {
		t.Errorf("a pointer to a body: %s, %v", a, err)
	}
}

func TestAnswersRefused(t *testing.T) {
	ticket := `"id":"t","secret":"s","url":"https://x/login","code":"BCDF-GHJK","expires":"2026-11-24T12:00:00Z"`
	admission := `"node":"n1","name":"laptop","addresses":["100.64.0.1"],"expires":"2026-11-24T12:00:00Z"`
	for name, c := range map[string]struct {
		into any
		text string
	}{
		"neither admission nor ticket":       {new(EnrolAnswer), `{}`},
		"admission and ticket":               {new(EnrolAnswer), `{"ticket":{` + ticket + `},"admitted":{` + admission + `}}`},
		"a login page without TLS":           {new(EnrolAnswer), `{"ticket":{` + strings.Replace(ticket, "https", "http", 1) + `}}`},
		"a code that acts on the terminal":   {new(EnrolAnswer), `{"ticket":{` + strings.Replace(ticket, "BCDF", `\u001b[2J`, 1) + `}}`},
		"a ticket without a secret":          {new(EnrolAnswer), `{"ticket":{` + strings.Replace(ticket, `"s"`, `""`, 1) + `}}`},
		"an admission without an address":    {new(EnrolAnswer), `{"admitted":{` + strings.Replace(admission, `"100.64.0.1"`, "", 1) + `}}`},
		"an admission under a broken name":   {new(EnrolAnswer), `{"admitted":{` + strings.Replace(admission, "laptop", "lap top", 1) + `}}`},
		"an admission with a mapped address": {new(EnrolAnswer), `{"admitted":{` + strings.Replace(admission, "100.64", "::ffff:100.64", 1) + `}}`},
		"approved without an admission":      {new(WaitAnswer), `{"state":"approved"}`},
		"an admission without approval":      {new(WaitAnswer), `{"state":"denied","admitted":{` + admission + `}}`},
		"an enrolment without a signature":   {new(Enrol), `{"body":"AAAA"}`},
		"a wait with a secret of 2,000":      {new(Wait), `{"ticket":"t","secret":"` + strings.Repeat("a", 2000) + `"}`},
	} {
		if err := Unmarshal([]byte(c.text), c.into); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for text, into := range map[string]any{`{"ticket":{` + ticket + `}}`: new(EnrolAnswer), `{"state":"approved","admitted":{` + admission + `}}`: new(WaitAnswer), `{"state":"pending"}`: new(WaitAnswer)} {
		if err := Unmarshal([]byte(text), into); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// FuzzDecodeFrame: what decodes encodes again and then decodes to the same.
func FuzzDecodeFrame(f *testing.F) {
	files, err := filepath.Glob("testdata/frame-*.json")
	if err != nil || len(files) != len(bodies) {
		f.Fatalf("%d golden frames for %d types: %v", len(files), len(bodies), err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		m, err := DecodeFrame(frame)
		if err != nil || m.Body == nil {
			return
		}
		again, err := EncodeFrame(m.Type, m.Body)
		if err != nil {
			t.Fatal(err)
		}
		back, err := DecodeFrame(again)
		if err != nil {
			t.Fatal(err)
		}
		once, err := EncodeFrame(back.Type, back.Body)
		if err != nil || !bytes.Equal(once, again) {
			t.Fatalf("%s became %s (%v)", again, once, err)
		}
	})
}

func FuzzOpenInfo(f *testing.F) {
	i := testInfo(f, func(*InfoBody) {})
	f.Add([]byte(i.Body))
	f.Fuzz(func(t *testing.T, body []byte) {
		i := Info{Body: body, Signature: testCoordinator.Sign(ContextInfo, body)}
		if b, err := OpenInfo(i, bytes.Repeat([]byte{0xcc}, 32), testCoordinator.Public().Fingerprint()); err == nil && (b.Network == "" || b.Time.Before(time.Unix(0, 0))) {
			t.Fatalf("%+v", b)
		}
	})
}
