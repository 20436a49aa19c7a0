package path

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/chacha20poly1305"

	"picket.internal/wgtun/key"
)

// fixed are two identities whose keys are counted bytes, so that golden files stay the same.
func fixed(t testing.TB) (alice, bob identity) {
	t.Helper()
	one := func(first string) (i identity) {
		if err := i.probe.UnmarshalText([]byte("probe-private:" + strings.Repeat(first, key.Size))); err != nil {
			t.Fatal(err)
		}
		i.public = i.probe.Public()
		return i
	}
	return one("11"), one("22")
}

func boxes(t testing.TB) (alice, bob *box) {
	t.Helper()
	a, b := fixed(t)
	alice, err := newBox(a, b.public)
	if err != nil {
		t.Fatal(err)
	}
	bob, err = newBox(b, a.public)
	if err != nil {
		t.Fatal(err)
	}
	return alice, bob
}

var goldens = []struct {
	file    string
	message message
}{
	{"ping.hex", message{kind: ping, transaction: transaction{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, sequence: 0x0102030405060708, tunnel: key.TunnelPublic{0x31, 0x32}}},
	{"pong4.hex", message{kind: pong, transaction: transaction{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, observed: netip.MustParseAddrPort("192.0.2.1:41641"), tunnel: key.TunnelPublic{0x41}, greets: true}},
	{"pong6.hex", message{kind: pong, transaction: transaction{12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1}, observed: netip.MustParseAddrPort("[2001:db8::1]:1")}},
}

// goldenNonce is what all golden probes are sealed under.
var goldenNonce = [chacha20poly1305.NonceSizeX]byte{0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8}

// readGolden returns the two lines of a golden file: the body in clear, and the probe.
func readGolden(t testing.TB, file string) (body, probe []byte) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(text))
	if len(lines) != 2 {
		t.Fatalf("%s has %d lines", file, len(lines))
	}
	for i, out := range []*[]byte{&body, &probe} {
		if *out, err = hex.DecodeString(lines[i]); err != nil {
			t.Fatal(err)
		}
	}
	return body, probe
}

func TestProbeBytesAreThoseOfTheGoldenFiles(t *testing.T) {
	alice, bob := boxes(t)
	a, b := fixed(t)
	for _, tt := range goldens {
		t.Run(tt.file, func(t *testing.T) {
			made, sealed := tt.message.append(nil), alice.sealWith(goldenNonce, tt.message)
			if os.Getenv("PICKET_UPDATE_GOLDEN") != "" {
				text := hex.EncodeToString(made) + "\n" + hex.EncodeToString(sealed) + "\n"
				if err := os.WriteFile(filepath.Join("testdata", tt.file), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			body, probe := readGolden(t, tt.file)
			if diff := cmp.Diff(body, made); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(probe, sealed); diff != "" {
				t.Error(diff)
			}
			if got := hintIn(probe, b.public); got != hintFor(b.public, a.public) {
				t.Errorf("hint %x", got)
			}
			got, ok := bob.open(probe)
			if !ok {
				t.Fatal("the receiver cannot open it")
			}
			if got != tt.message {
				t.Errorf("got %+v, want %+v", got, tt.message)
			}
		})
	}
}

func TestProbeHasThePublishedLayout(t *testing.T) {
	_, probe := readGolden(t, "ping.hex")
	body, _ := readGolden(t, "pong6.hex")
	if len(probe) != 128 || !bytes.Equal(probe[:4], []byte("pkt\x02")) || !bytes.Equal(probe[12:36], goldenNonce[:]) {
		t.Errorf("probe %x", probe)
	}
	if len(body) != 76 || body[0] != 2 || !bytes.Equal(body[4:16], []byte{12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1}) ||
		netip.AddrFrom16([16]byte(body[24:40])) != netip.MustParseAddr("2001:db8::1") || body[40] != 0 || body[41] != 1 {
		t.Errorf("body %x", body)
	}
	if looksLikeWireGuard(probe) || probe[0]>>6 == 0 {
		t.Error("passes for a WireGuard or STUN message")
	}
}

func TestProbeIsOpenedByNobodyElse(t *testing.T) {
	alice, bob := boxes(t)
	_, b := fixed(t)
	stranger := identity{probe: key.NewProbe()}
	stranger.public = stranger.probe.Public()
	forger, err := newBox(stranger, b.public)
	if err != nil {
		t.Fatal(err)
	}
	m := goldens[0].message
	for _, tt := range []struct {
		name   string
		opener *box
		probe  []byte
	}{
		{"sealed with another probe key", bob, forger.seal(m)},
		{"reflected to its sender", alice, alice.seal(m)},
		{"of unknown type", bob, alice.seal(message{kind: 3})},
	} {
		if got, ok := tt.opener.open(tt.probe); ok {
			t.Errorf("%s: opened as %+v", tt.name, got)
		}
	}
	for i := range probeSize {
		p := alice.seal(m)
		p[i] ^= 1
		if got, ok := bob.open(p); ok {
			t.Errorf("byte %d changed: opened as %+v", i, got)
		}
	}
}

func TestProbeOfTwoSendingsSharesNothingButTheMagic(t *testing.T) {
	alice, _ := boxes(t)
	m := goldens[0].message
	p, q := alice.seal(m), alice.seal(m)
	for name, r := range map[string][2]int{"hint": {offsetHint, offsetNonce}, "nonce": {offsetNonce, offsetBody}, "body": {offsetBody, offsetBody + hintSize}} {
		if bytes.Equal(p[r[0]:r[1]], q[r[0]:r[1]]) {
			t.Errorf("%s repeats: an observer can link probes", name)
		}
	}
}

func TestLowOrderProbeKeyIsRefused(t *testing.T) {
	a, _ := fixed(t)
	if _, err := newBox(a, key.ProbePublic{}); err == nil {
		t.Error("agreed on a secret that everybody knows")
	}
}

func TestWindowTakesEachSequenceOnce(t *testing.T) {
	var w window
	for _, tt := range []struct {
		sequence uint64
		want     bool
	}{
		{0, false}, {100, true}, {100, false}, {99, true}, {99, false}, {37, true}, {36, false},
		{101, true}, {38, true}, {38, false}, {37, false}, {200, true}, {101, false}, {137, true}, {136, false}, {199, true}, {1 << 63, true}, {200, false},
	} {
		if got := w.take(tt.sequence); got != tt.want {
			t.Errorf("take(%d) = %v", tt.sequence, got)
		}
	}
}

func FuzzProbe(f *testing.F) {
	for _, g := range goldens {
		_, probe := readGolden(f, g.file)
		f.Add(probe, uint16(41641))
		f.Add(probe[:127], uint16(1))
	}
	f.Add([]byte("pkt\x02"), uint16(0))
	f.Add(initiation(), uint16(7))
	alice, bob := fixed(f)
	opener := mustBox(f, bob, alice)
	b := New(Config{Inner: endpointsOnly{}, Tunnel: key.TunnelPublic{0x51}, Probe: bob.probe})
	f.Fuzz(func(t *testing.T, datagram []byte, port uint16) {
		b.SetPeer(Peer{Tunnel: key.TunnelPublic{0x31, 0x32}, Probe: alice.public})
		defer b.RemovePeer(key.TunnelPublic{0x31, 0x32})
		ep, _ := b.inner.ParseEndpoint(netip.AddrPortFrom(addrA, port).String())
		sizes := []int{len(datagram)}
		genuine := false
		if len(datagram) == probeSize {
			_, genuine = opener.open(bytes.Clone(datagram))
		}
		b.sift([][]byte{datagram}, sizes, []connEndpoint{ep})
		if sizes[0] != 0 {
			t.Error("handed up from an address bound to nobody")
		}
		if !genuine && (len(b.outbox) != 0 || b.Stats().Live != 0) {
			t.Error("what does not authenticate was answered, or left state")
		}
		for len(b.outbox) > 0 {
			<-b.outbox
		}
	})
}

func FuzzMessage(f *testing.F) {
	for _, g := range goldens {
		f.Add(g.message.append(nil))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) != bodySize {
			return
		}
		m, ok := parseMessage(body)
		if !ok {
			return
		}
		if again, ok := parseMessage(m.append(nil)); !ok || again != m {
			t.Errorf("%+v read back as %+v", m, again)
		}
	})
}

func mustBox(t testing.TB, self, other identity) *box {
	t.Helper()
	b, err := newBox(self, other.public)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
