package reflector

import (
	"bytes"
	"context"
	"encoding/hex"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"
)

// asked is a request as nodes send it: a SOFTWARE attribute (RFC 8489 section 14.14) makes it RequestSize bytes long.
func asked(transaction string) []byte {
	b, _ := hex.DecodeString("000100182112a442")
	b = append(b, transaction...)
	b = append(b, 0x80, 0x22, 0, 20)
	return append(b, "picket reflect probe"...)
}

// The addresses and their masked forms are those of RFC 5769 sections 2.2 and 2.3.
func TestAnswerIsThatOfTheRFC(t *testing.T) {
	transaction, _ := hex.DecodeString("b7e7a701bc34d686fa87dfae")
	for from, want := range map[string]string{
		"192.0.2.1:32853": "0101000c2112a442b7e7a701bc34d686fa87dfae" + "002000080001a147e112a643",
		"[2001:db8:1234:5678:11:2233:4455:6677]:32853": "010100182112a442b7e7a701bc34d686fa87dfae" + "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9",
	} {
		if got := hex.EncodeToString(answer(nil, transaction, netip.MustParseAddrPort(from))); got != want {
			t.Errorf("from %s: %s, want %s", from, got, want)
		}
	}
}

func TestRequestsAreRefused(t *testing.T) {
	good := asked("abcdefghijkl")
	if _, ok := request(good); !ok {
		t.Fatal("the good request is refused")
	}
	change := func(at int, to ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], to)
		return b
	}
	for name, b := range map[string][]byte{
		"empty":                         {},
		"shorter than the answer":       append(change(2, 0, 0)[:20:20], []byte{}...),
		"an answer":                     change(0, 1, 1),
		"an indication":                 change(0, 0, 0x11),
		"another cookie":                change(4, 0),
		"a length that is not its own":  change(2, 0, 20),
		"longer than it says":           append(bytes.Clone(good), 0, 0, 0, 0),
		"an attribute beyond its end":   change(22, 0, 24),
		"an attribute to be understood": change(20, 0, 6),
		"a WireGuard handshake":         append([]byte{1, 0, 0, 0}, make([]byte, 144)...),
	} {
		if _, ok := request(b); ok {
			t.Errorf("%s is answered", name)
		}
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(asked("abcdefghijkl"))
	f.Fuzz(func(t *testing.T, b []byte) {
		transaction, ok := request(b)
		if !ok {
			return
		}
		if out := answer(nil, transaction, netip.MustParseAddrPort("[2001:db8::1]:1")); len(out) > len(b) {
			t.Errorf("an answer of %d bytes to %d", len(out), len(b))
		}
	})
}

func TestLimitCountsByNetwork(t *testing.T) {
	l := newLimiter()
	allowed := 0
	for i := range 2 * sourceBurst {
		if l.allow(netip.MustParseAddr("2001:db8:1:2::" + strconv.FormatInt(int64(i), 16))) {
			allowed++
		}
	}
	if allowed < sourceBurst || allowed > sourceBurst+sourceBurst/2 {
		t.Errorf("%d answers to one /64 at once", allowed)
	}
	if !l.allow(netip.MustParseAddr("192.0.2.1")) {
		t.Error("another source is limited by that")
	}
}

// TestAnswersFromTheAddressAsked asks two addresses of one wildcard socket.
func TestAnswersFromTheAddressAsked(t *testing.T) {
	s, err := Listen(t.Context(), ":0", ":0")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(s.Ports()); n != 2 {
		t.Fatalf("%d ports", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	for _, to := range []string{"127.0.0.1", "127.0.0.9"} {
		ask(t, netip.AddrPortFrom(netip.MustParseAddr(to), s.Ports()[1]))
	}
	if s.Stats().Answered != 2 || s.Stats().Malformed != 2 {
		t.Errorf("%+v", s.Stats())
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// ask sends a request that is too short, and then a proper one, which alone must be answered, from where it went.
func ask(t *testing.T, to netip.AddrPort) {
	t.Helper()
	c, err := net.Dial("udp4", to.String()) // takes datagrams from there alone
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	short := asked("too-short---")[:20]
	short[3] = 0
	for _, b := range [][]byte{short, asked("abcdefghijkl")} {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatalf("no answer from %s: %v", to, err)
	}
	local, _ := netip.ParseAddrPort(c.LocalAddr().String())
	if want := answer(nil, []byte("abcdefghijkl"), local); !bytes.Equal(buf[:n], want) {
		t.Errorf("%x, want %x", buf[:n], want)
	}
}
