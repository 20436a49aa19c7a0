package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	xproxy "golang.org/x/net/proxy"
)

// fakeNetwork has one peer, db at 100.64.0.2, whose port 7 echoes and whose every other port refuses. It notes what was dialled.
type fakeNetwork struct {
	mu      sync.Mutex
	dialled []string
	peers   atomic.Pointer[netip.AddrPort] // the address of a socket that was opened for a peer
}

var overlay = netip.MustParsePrefix("100.64.0.0/10")

func (*fakeNetwork) Resolve(name string) (netip.Addr, error) {
	switch name {
	case "db":
		return netip.MustParseAddr("100.64.0.2"), nil
	case "evil": // as if a map's name led out of the overlay
		return netip.MustParseAddr("127.0.0.1"), nil
	}
	return netip.Addr{}, errors.New("no peer has that name")
}
func (*fakeNetwork) Overlay(a netip.Addr) bool { return overlay.Contains(a) }
func (n *fakeNetwork) Dial(_ context.Context, to netip.AddrPort) (net.Conn, error) {
	n.mu.Lock()
	n.dialled = append(n.dialled, to.String())
	n.mu.Unlock()
	if to.Port() != 7 {
		return nil, errors.New("connection refused")
	}
	near, far := net.Pipe()
	go func() {
		io.Copy(far, far)
		far.Close()
	}()
	return near, nil
}

func (n *fakeNetwork) DialUDP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return n.Dial(ctx, to)
}
func (n *fakeNetwork) dials() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.dialled)
}
func (n *fakeNetwork) FromPeer(from netip.AddrPort) bool {
	peer := n.peers.Load()
	return peer != nil && *peer == from
}

func serve(t *testing.T, make func(Network, *slog.Logger) *Proxy) (*fakeNetwork, string) {
	t.Helper()
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &fakeNetwork{}
	ctx, cancel := context.WithCancel(context.Background())
	done := newDone()
	go func() { done <- make(n, slog.New(slog.DiscardHandler)).Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return n, l.Addr().String()
}

func newDone() chan error { return make(chan error, 1) }

func echo(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Fatalf("echoed %q, %v", b, err)
	}
}

// exchange sends bytes and returns all that comes back until the proxy closes or falls silent.
func exchange(t *testing.T, address string, send []byte) []byte {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Second))
	c.Write(send)
	answer, _ := io.ReadAll(c)
	return answer
}

func TestSOCKS5_refuses(t *testing.T) {
	greeting := "\x05\x01\x00"
	for _, test := range []struct {
		outcome string
		send    string
		want    string
	}{
		{"SOCKS4", "\x04\x01\x00\x50\x64\x40\x00\x02\x00", ""},
		{"authentication demanded", "\x05\x01\x02", "\x05\xff"},
		{"BIND", greeting + "\x05\x02\x00\x01\x64\x40\x00\x02\x00\x07", "\x05\x00\x05\x07"},
		{"UDP ASSOCIATE for somebody else", greeting + "\x05\x03\x00\x01\x64\x40\x00\x02\x00\x07", "\x05\x00\x05\x02"},
		{"unknown address type", greeting + "\x05\x01\x00\x09", "\x05\x00\x05\x08"},
		{"the internet", greeting + "\x05\x01\x00\x01\x01\x01\x01\x01\x00\x07", "\x05\x00\x05\x02"},
		{"this host", greeting + "\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x07", "\x05\x00\x05\x02"},
		{"this host as IPv4-mapped", greeting + "\x05\x01\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x7f\x00\x00\x01\x00\x07", "\x05\x00\x05\x02"},
		{"a name that is no peer's", greeting + "\x05\x01\x00\x03\x07example\x00\x07", "\x05\x00\x05\x02"},
		{"an empty name", greeting + "\x05\x01\x00\x03\x00\x00\x07", "\x05\x00\x05\x02"},
		{"a name with a zone", greeting + "\x05\x01\x00\x03\x0afd7a::1%lo\x00\x07", "\x05\x00\x05\x02"},
		{"a name that leads out of the overlay", greeting + "\x05\x01\x00\x03\x04evil\x00\x07", "\x05\x00\x05\x02"},
		{"port 0", greeting + "\x05\x01\x00\x01\x64\x40\x00\x02\x00\x00", "\x05\x00\x05\x02"},
	} {
		t.Run(test.outcome, func(t *testing.T) {
			n, address := serve(t, NewSOCKS5)
			got := exchange(t, address, []byte(test.send))
			if !bytes.HasPrefix(got, []byte(test.want)) || (test.want == "" && len(got) > 0) {
				t.Errorf("answered %x, want %x", got, test.want)
			}
			if len(n.dials()) > 0 {
				t.Errorf("dialled %v", n.dials())
			}
		})
	}
}

func TestSOCKS5_connects(t *testing.T) {
	n, address := serve(t, NewSOCKS5)
	d, err := xproxy.SOCKS5("tcp", address, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"db:7", "100.64.0.2:7"} {
		c, err := d.Dial("tcp", to)
		if err != nil {
			t.Fatalf("%s: %v", to, err)
		}
		echo(t, c)
		c.Close()
	}
	if _, err := d.Dial("tcp", "db:8"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a refused connection: %v", err)
	}
	if got := strings.Join(n.dials(), " "); got != "100.64.0.2:7 100.64.0.2:7 100.64.0.2:8" {
		t.Errorf("dialled %s", got)
	}
}

func TestHTTP_refuses(t *testing.T) {
	for _, test := range []struct {
		outcome string
		send    string
		want    string
	}{
		{"an ordinary request", "GET http://db:7/ HTTP/1.1\r\nHost: db:7\r\n\r\n", "HTTP/1.1 405 "},
		{"no HTTP", "hello\r\n\r\n", "HTTP/1.1 400 "},
		{"the internet", "CONNECT 1.1.1.1:7 HTTP/1.1\r\nHost: 1.1.1.1:7\r\n\r\n", "HTTP/1.1 403 "},
		{"this host", "CONNECT localhost:7 HTTP/1.1\r\nHost: localhost:7\r\n\r\n", "HTTP/1.1 403 "},
		{"a name that leads out of the overlay", "CONNECT evil:7 HTTP/1.1\r\nHost: evil:7\r\n\r\n", "HTTP/1.1 403 "},
		{"no port", "CONNECT db HTTP/1.1\r\nHost: db\r\n\r\n", "HTTP/1.1 400 "},
		{"port with a sign", "CONNECT db:+7 HTTP/1.1\r\nHost: db:+7\r\n\r\n", "HTTP/1.1 400 "},
		{"port too large", "CONNECT db:65536 HTTP/1.1\r\nHost: db:65536\r\n\r\n", "HTTP/1.1 400 "},
		{"a body", "CONNECT db:7 HTTP/1.1\r\nHost: db:7\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 400 "},
		{"an endless head", "CONNECT db:7 HTTP/1.1\r\nX: " + strings.Repeat("x", 2*maxRequestHead), "HTTP/1.1 400 "},
	} {
		t.Run(test.outcome, func(t *testing.T) {
			n, address := serve(t, NewHTTP)
			if got := exchange(t, address, []byte(test.send)); !bytes.HasPrefix(got, []byte(test.want)) {
				t.Errorf("answered %q, want %q", got, test.want)
			}
			if len(n.dials()) > 0 {
				t.Errorf("dialled %v", n.dials())
			}
		})
	}
}

func TestHTTP_connects(t *testing.T) {
	_, address := serve(t, NewHTTP)
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(c, "CONNECT db:7 HTTP/1.1\r\nHost: db:7\r\n\r\nearly")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v, %v", resp, err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(r, b); err != nil || string(b) != "early" {
		t.Errorf("what was sent early came back as %q, %v", b, err)
	}
	echo(t, c)
	client := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: address})}
	_, err = client.RoundTrip(mustRequest(t, "https://db:8/"))
	if err == nil || !strings.Contains(err.Error(), "Bad Gateway") {
		t.Errorf("a refused connection through net/http: %v", err)
	}
}

func mustRequest(t *testing.T, u string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, u, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestListen_refuses(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0", "example.org:0", "127.0.0.1", ""} {
		if l, err := Listen(t.Context(), address); err == nil {
			l.Close()
			t.Errorf("%q was opened", address)
		}
	}
	l, err := Listen(t.Context(), "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Listen(t.Context(), l.Addr().String()); err == nil || !strings.Contains(err.Error(), "name another port") {
		t.Errorf("a port in use: %v", err)
	}
}

func FuzzSOCKS5(f *testing.F) {
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x03\x02db\x00\x07"))
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x01\x64\x40\x00\x02\x00\x07"))
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x04\xfd\x7a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x07"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(in), io.Discard}
		if greet(r) != nil {
			return
		}
		_, host, port, err := readRequest(r)
		if err != nil {
			return
		}
		onlyOverlay(t, host, port)
	})
}

func FuzzConnect(f *testing.F) {
	f.Add([]byte("CONNECT db:7 HTTP/1.1\r\nHost: db:7\r\n\r\n"))
	f.Add([]byte("CONNECT [fd7a::1]:7 HTTP/1.1\r\nHost: x\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		host, port, err := readConnect(bufio.NewReader(bytes.NewReader(in)))
		if err == nil {
			onlyOverlay(t, host, port)
		}
	})
}

func onlyOverlay(t *testing.T, host string, port uint16) {
	p := &Proxy{network: &fakeNetwork{}}
	if to, err := p.target(host, port); err == nil && (!overlay.Contains(to.Addr()) || to.Port() == 0) {
		t.Errorf("%q:%d leads to %s", host, port, to)
	}
}
