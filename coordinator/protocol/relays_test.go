package protocol

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const testPrint = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"

func TestRelaysInAMap(t *testing.T) {
	c := testContent()
	c.Relays = []Relay{
		{Name: "ber-1", URL: "https://ber-1.example.com:8443", Fingerprint: testPrint},
		{Name: OwnRelay},
		{Name: "zrh", URL: "https://[2001:db8::1]", Reflect: []uint16{3478, 3479}},
	}
	e := testEntries(t, c)
	if got := string(e["relay/ber-1"]); got != `{"name":"ber-1","url":"https://ber-1.example.com:8443","fingerprint":"`+testPrint+`"}` {
		t.Errorf("the entry is %s", got)
	}
	if got := string(e["relay/zrh"]); got != `{"name":"zrh","url":"https://[2001:db8::1]","reflect":[3478,3479]}` {
		t.Errorf("the entry is %s", got)
	}
	got, err := Decode(e)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(c, got, cmpAddrs); d != "" {
		t.Error(d)
	}
}

// A relay that cannot be read costs that relay, and not the map.
func TestDecodeLeavesOutRelays(t *testing.T) {
	for name, data := range map[string]string{
		"another's name": `{"name":"r2","url":"https://r.example"}`,
		"no URL":         `{"name":"r1"}`,
		"http":           `{"name":"r1","url":"http://r.example"}`,
		"a password":     `{"name":"r1","url":"https://me:pw@r.example"}`,
		"a path":         `{"name":"r1","url":"https://r.example/x"}`,
		"a fingerprint":  `{"name":"r1","url":"https://r.example#` + testPrint + `"}`,
		"no host":        `{"name":"r1","url":"https://:443"}`,
		"not its form":   `{"name":"r1","url":["https://r.example"]}`,
		"short print":    `{"name":"r1","url":"https://r.example","fingerprint":"AAEC"}`,
		"port 0":         `{"name":"r1","url":"https://r.example","reflect":[0]}`,
		"a port twice":   `{"name":"r1","url":"https://r.example","reflect":[1,1]}`,
		"three ports":    `{"name":"r1","url":"https://r.example","reflect":[1,2,3]}`,
		"port 65536":     `{"name":"r1","url":"https://r.example","reflect":[65536]}`,
		"no JSON":        `of a newer version`,
	} {
		t.Run(name, func(t *testing.T) {
			e := testEntries(t, testContent())
			e["relay/r1"] = []byte(data)
			got, err := Decode(e)
			if err != nil || len(got.Relays) != 0 {
				t.Errorf("%v, %v", got.Relays, err)
			}
		})
	}
	e := testEntries(t, testContent())
	e["relay/r1"] = []byte(`{"name":"r1","url":"https://r.example","weight":3}`)
	if got, err := Decode(e); err != nil || len(got.Relays) != 1 {
		t.Errorf("with a member of a newer version: %v, %v", got.Relays, err)
	}
}

func TestCheckRelay(t *testing.T) {
	for _, r := range []Relay{
		{}, {Name: "Upper", URL: "https://r.example"}, {Name: OwnRelay, URL: "https://r.example"}, {Name: OwnRelay, Fingerprint: testPrint}, {Name: OwnRelay, Reflect: []uint16{1}},
		{Name: "r", URL: "https://" + strings.Repeat("a.", 300) + "example"}, {Name: "r", URL: "https://r.example/"}, {Name: "r", URL: "https://r.example?x"},
		{Name: "r", URL: "https://r.example", Fingerprint: strings.Repeat("A", 43)},
	} {
		if CheckRelay(r) == nil {
			t.Errorf("%+v is taken", r)
		}
	}
}

func TestReflectorsOfARelay(t *testing.T) {
	for _, c := range []struct {
		relay Relay
		want  []Reflector
	}{
		{Relay{URL: "https://r.example:8443", Reflect: []uint16{1, 2}}, []Reflector{{Host: "r.example", Port: 1}, {Host: "r.example", Port: 2}}},
		{Relay{URL: "https://[2001:db8::1]", Reflect: []uint16{1}}, []Reflector{{Host: "2001:db8::1", Port: 1}}},
		{Relay{URL: "https://r.example"}, nil},
		{Relay{Name: OwnRelay}, nil},
	} {
		if d := cmp.Diff(c.want, c.relay.Reflectors()); d != "" {
			t.Errorf("%+v: %s", c.relay, d)
		}
	}
}

func TestRelaysAreBounded(t *testing.T) {
	c := testContent()
	for i := range MaxRelays + 1 {
		c.Relays = append(c.Relays, Relay{Name: "r" + strings.Repeat("x", i%60) + string(rune('a'+i/60)), URL: "https://r.example"})
	}
	if _, err := c.Encode(); err == nil {
		t.Error("a map with too many relays is made")
	}
}
