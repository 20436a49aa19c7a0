package portmap

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

var home = Gateway{Router: netip.MustParseAddr("192.0.2.1"), Own: netip.MustParseAddr("192.0.2.7")}

func TestPCPQuestion(t *testing.T) {
	p := &pcp{nonce: [12]byte([]byte("abcdefghijkl"))}
	want := "02010000" + "00001c20" + "00000000000000000000ffffc0000207" + "6162636465666768696a6b6c" + "11000000" + "a029a02a" + "00000000000000000000ffff00000000"
	if got := hex.EncodeToString(p.mapping(home, 41001, 41002, life)); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// granted is an answer to the question above: outside 198.51.100.4:5000 for an hour.
func granted(p *pcp) []byte {
	b := p.mapping(home, 41001, 5000, time.Hour)
	b[1] |= 0x80
	clear(b[8:24])
	copy(b[56:], []byte{198, 51, 100, 4})
	return b
}

func TestPCPAnswers(t *testing.T) {
	p := newPCP(dialer{})
	l, err := p.read(granted(p), 41001)
	if err != nil || l.outside != netip.MustParseAddrPort("198.51.100.4:5000") || l.life != time.Hour {
		t.Fatalf("%+v, %v", l, err)
	}
	change := func(at int, to byte) []byte { b := granted(p); b[at] = to; return b }
	for name, b := range map[string][]byte{
		"short":           granted(p)[:40],
		"a question":      change(1, 1),
		"another nonce":   change(24, granted(p)[24]+1),
		"another port":    change(41, 0),
		"another version": change(0, 1),
		"TCP":             change(36, 6),
		"refused":         change(3, 2),
		"no life":         append(append(granted(p)[:4:4], 0, 0, 0, 0), granted(p)[8:]...),
	} {
		if l, err := p.read(b, 41001); err == nil {
			t.Errorf("%s: %+v", name, l)
		}
	}
}

func TestNATPMPAnswers(t *testing.T) {
	if got := hex.EncodeToString(pmpQuestion(41001, 41002, life)); got != "00010000"+"a029a02a"+"00001c20" {
		t.Errorf("question %s", got)
	}
	good, _ := hex.DecodeString("00810000" + "00000001" + "a0291388" + "00000e10")
	if l, err := pmpRead(good, netip.MustParseAddr("198.51.100.4")); err != nil || l.outside != netip.MustParseAddrPort("198.51.100.4:5000") || l.life != time.Hour {
		t.Errorf("%+v, %v", l, err)
	}
	for name, text := range map[string]string{"refused": "00810002" + "00000001", "no life": "00810000" + "00000001" + "a0291388" + "00000000"} {
		b, _ := hex.DecodeString(text)
		if !pmpFits(b, pmpMapUDP, 16) {
			t.Errorf("%s: not read as an answer", name)
		} else if l, err := pmpRead(b, home.Router); err == nil {
			t.Errorf("%s: %+v", name, l)
		}
	}
	for name, text := range map[string]string{"empty": "", "short": "00810000" + "00000001", "another opcode": "00820000" + "00000001" + "a0291388" + "00000e10", "PCP": "02810000"} {
		if b, _ := hex.DecodeString(text); pmpFits(b, pmpMapUDP, 16) {
			t.Errorf("%s is an answer", name)
		}
	}
}

func TestUPnPNamesNoOtherHost(t *testing.T) {
	at := func(location string) []byte {
		return []byte("HTTP/1.1 200 OK\r\nST: x\r\nLOCATION: " + location + "\r\n\r\n")
	}
	if u, ok := location(at("http://192.0.2.1:5000/d.xml"), home.Router); !ok || u.Path != "/d.xml" {
		t.Errorf("the gateway's own is refused: %v", u)
	}
	for _, l := range []string{
		"http://192.0.2.9:5000/d.xml", "http://127.0.0.1/d.xml", "http://gateway.example/d.xml", "https://192.0.2.1/d.xml", "file:///etc/passwd",
		"http://u:p@192.0.2.1/", "http://169.254.169.254/latest", "http://192.0.2.1.evil.example/", "", "http://[::ffff:192.0.2.1]/",
	} {
		if u, ok := location(at(l), home.Router); ok {
			t.Errorf("%q is followed: %v", l, u)
		}
	}
	if _, ok := location([]byte("HTTP/1.1 302 Found\r\nLOCATION: http://192.0.2.1/\r\n\r\n"), home.Router); ok {
		t.Error("an answer that is none is followed")
	}
}

// description names a control URL, under a base when there is one.
func description(base, control string) []byte {
	if base != "" {
		base = "<URLBase>" + base + "</URLBase>"
	}
	return []byte(`<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0">` + base + `<device><deviceList><device><deviceList><device><serviceList><service>` +
		`<serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>` + control + `</controlURL></service></serviceList></device></deviceList></device></deviceList></device></root>`)
}

func TestUPnPDescriptions(t *testing.T) {
	at, _ := url.Parse("http://192.0.2.1:5000/a/d.xml")
	c, err := readDescription(description("", "/ctl"), at, home.Router)
	if err != nil || c.url.String() != "http://192.0.2.1:5000/ctl" {
		t.Errorf("%v, %v", c.url, err)
	}
	for name, body := range map[string][]byte{
		"commands elsewhere":           description("", "http://192.0.2.9/ctl"),
		"a base elsewhere":             description("http://192.0.2.9/", "/ctl"),
		"by a path that names a host":  description("", "//192.0.2.9/ctl"),
		"no service":                   []byte(`<root><device/></root>`),
		"no XML":                       []byte("\x00\x01"),
		"cut short":                    description("", "/ctl")[:80],
		"nested deeper than is walked": []byte("<root>" + strings.Repeat("<device><deviceList>", 20000)),
	} {
		if c, err := readDescription(body, at, home.Router); err == nil {
			t.Errorf("%s: %v", name, c.url)
		}
	}
}

func FuzzAnswers(f *testing.F) {
	p := newPCP(dialer{})
	f.Add(granted(p))
	f.Add(description("", "/ctl"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nLOCATION: http://192.0.2.1/\r\n\r\n"))
	at, _ := url.Parse("http://192.0.2.1:5000/")
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = refusal(b)
		if p.fits(b, 41001) {
			_, _ = p.read(b, 41001)
		}
		if pmpFits(b, pmpMapUDP, 16) {
			_, _ = pmpRead(b, home.Router)
		}
		if u, ok := location(b, home.Router); ok && u.Hostname() != home.Router.String() {
			t.Errorf("a search leads to %v", u)
		}
		if c, err := readDescription(b, at, home.Router); err == nil && c.url.Hostname() != home.Router.String() {
			t.Errorf("a description leads to %v", c.url)
		}
		_, _ = readReply(b)
	})
}

// gateway answers PCP's questions at an address of the loopback network, as say has it.
func gateway(t *testing.T, router netip.Addr, say func(question []byte) [][]byte) {
	t.Helper()
	c, err := net.ListenPacket("udp4", netip.AddrPortFrom(router, askPort).String())
	if err != nil {
		t.Skipf("the port that gateways have cannot be had: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			for _, b := range say(append([]byte(nil), buf[:n]...)) {
				_, _ = c.WriteTo(b, from)
			}
		}
	}()
}

// TestMapperKeepsAndGivesBack: what is no answer is not heard, the true one is taken, a useless address is not told, and the end gives back.
func TestMapperKeepsAndGivesBack(t *testing.T) {
	router := netip.MustParseAddr("127.77.0.1")
	var mu sync.Mutex
	given := 0
	outside := [4]byte{198, 51, 100, 4}
	gateway(t, router, func(q []byte) [][]byte {
		if len(q) != pcpMapSize || q[1] != pcpMap {
			return nil
		}
		a := append([]byte(nil), q...)
		a[1] |= 0x80
		mu.Lock()
		copy(a[44:], append([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, outside[:]...))
		if binary.BigEndian.Uint32(q[4:]) == 0 {
			given++
		}
		mu.Unlock()
		forged := append([]byte(nil), a...)
		forged[24] ^= 1
		return [][]byte{{}, {pcpVersion, pcpMap, 0, 0}, forged, a}
	})
	changed := make(chan struct{}, 16)
	m := New(Config{
		Gateway: func() (Gateway, error) { return Gateway{router, netip.MustParseAddr("127.0.0.1")}, nil },
		Usable:  func(a netip.AddrPort) bool { return !a.Addr().IsLoopback() },
		Changed: func(context.Context) { changed <- struct{}{} }, Logger: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	m.SetPort(41001)
	await(t, changed)
	if s := m.Status(); s.Protocol != "PCP" || s.Outside != netip.MustParseAddrPort("198.51.100.4:41001") || time.Until(s.Until) < time.Hour {
		t.Errorf("%+v", s)
	}
	mu.Lock()
	outside = [4]byte{127, 0, 0, 1}
	mu.Unlock()
	m.Refresh()
	await(t, changed)
	if s := m.Status(); s.Protocol != "" || s.Failed == nil || !strings.Contains(s.Failed.Error(), "none that a peer could reach") {
		t.Errorf("a loopback address is told: %+v", s)
	}
	mu.Lock()
	outside = [4]byte{198, 51, 100, 5}
	before := given
	mu.Unlock()
	m.Refresh()
	await(t, changed)
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if given <= before {
		t.Error("the mapping was not given back")
	}
}

func await(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(20 * time.Second):
		t.Fatal("nothing changed")
	}
}

// TestNoGateway says why.
func TestNoGateway(t *testing.T) {
	changed := make(chan struct{}, 1)
	m := New(Config{Gateway: func() (Gateway, error) { return Gateway{}, errors.New("this host has no default gateway") }, Logger: slog.New(slog.DiscardHandler),
		Changed: func(context.Context) { changed <- struct{}{} }})
	m.SetPort(1)
	if wait := m.keep(t.Context()); wait != again || fmt.Sprint(m.Status().Failed) != "this host has no default gateway" {
		t.Errorf("%v, %+v", wait, m.Status())
	}
}
