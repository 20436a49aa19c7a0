package relayhttp

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"picket.internal/coordinator/clientaddr"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
	"picket.internal/wgtun/relay"
)

// world is a relay behind the handler, on plain HTTP: as behind a proxy that ends TLS.
type world struct {
	t       *testing.T
	key     key.CoordinatorPrivate
	relay   *relay.Server
	handler *Handler
	http    *httptest.Server
}

func newWorld(t *testing.T, c Config) *world {
	t.Helper()
	w := &world{t: t, key: key.NewCoordinator()}
	w.relay = relay.NewServer(relay.ServerConfig{Coordinator: w.key.Public(), Network: "net", Name: "near"})
	w.handler = New(w.relay, c)
	w.http = httptest.NewUnstartedServer(w.handler)
	ctx, cancel := context.WithCancel(context.Background())
	w.http.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	w.http.Start()
	t.Cleanup(func() {
		cancel()
		w.http.Close()
	})
	return w
}

func (w *world) dial(ctx context.Context) (net.Conn, error) {
	ws, _, err := websocket.Dial(ctx, w.http.URL+protocol.PathRelay, nil)
	if err != nil {
		return nil, err
	}
	return websocket.NetConn(w.t.Context(), ws, websocket.MessageBinary), nil
}

// client runs a client of the relay, whose pass names the peers.
func (w *world) client(device key.DevicePrivate, receive func(relay.Address, []byte), peers ...relay.Address) *relay.Client {
	w.t.Helper()
	pass := relay.NewPass("net", device.Public(), peers, time.Now())
	signed := pass.Sign(w.key)
	c := relay.NewClient(relay.ClientConfig{
		Name: "near", Network: "net", Dial: w.dial, Device: device, Pass: func() []byte { return signed }, Receive: receive,
	})
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		<-done
	})
	w.eventually("connect", func() bool { return c.Status().Connected })
	return c
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(end) {
			w.t.Fatalf("it never came to: %s", what)
		}
		time.Sleep(2 * time.Millisecond) // real sockets: there is nothing to wait on
	}
}

func TestClientsMeet(t *testing.T) {
	w := newWorld(t, Config{})
	a, b := key.NewDevice(), key.NewDevice()
	addrA, addrB := relay.AddressOf("net", a.Public()), relay.AddressOf("net", b.Public())
	got := make(chan string, 10)
	sender := w.client(a, func(relay.Address, []byte) {}, addrB)
	w.client(b, func(from relay.Address, d []byte) { got <- fmt.Sprint(from == addrA, " ", len(d)) }, addrA)
	big := make([]byte, relay.MaxDatagram)
	_, _ = rand.Read(big)
	if !sender.Send(addrB, big) {
		t.Fatal("not sent")
	}
	select {
	case m := <-got:
		if m != "true 9216" {
			t.Errorf("got %s", m)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("nothing came")
	}
	w.eventually("no login under way", func() bool { return w.handler.opening.Held() == 0 })
}

// A pass with as many peers as a pass may name comes through the bound on messages.
func TestLargestPass(t *testing.T) {
	w := newWorld(t, Config{})
	peers := make([]relay.Address, relay.MaxPeers)
	for i := range peers {
		_, _ = rand.Read(peers[i][:])
	}
	w.client(key.NewDevice(), nil, peers...)
}

func TestRefusals(t *testing.T) {
	w := newWorld(t, Config{})
	for name, c := range map[string]struct {
		method, path, origin string
		status               int
		says                 string
	}{
		"another path":   {"GET", "/", "", 404, "this is a relay"},
		"a POST":         {"POST", protocol.PathRelay, "", 405, "GET only"},
		"a browser":      {"GET", protocol.PathRelay, "https://evil.example", 403, "not for pages in a browser"},
		"no WebSocket":   {"GET", protocol.PathRelay, "", 426, "WebSocket"},
		"path with more": {"GET", protocol.PathRelay + "/x", "", 404, "this is a relay"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), c.method, w.http.URL+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.origin != "" {
			r.Header.Set("Origin", c.origin)
			r.Header.Set("Connection", "Upgrade")
			r.Header.Set("Upgrade", "websocket")
			r.Header.Set("Sec-WebSocket-Version", "13")
			r.Header.Set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body := make([]byte, 1024)
		n, _ := resp.Body.Read(body)
		resp.Body.Close()
		if resp.StatusCode != c.status || !strings.Contains(string(body[:n]), c.says) {
			t.Errorf("%s: %d %s", name, resp.StatusCode, body[:n])
		}
	}
}

// Strangers who connect and say nothing take up their own address's places only, and those who have logged in take up none.
func TestOpeningIsBounded(t *testing.T) {
	w := newWorld(t, Config{
		Limits: Limits{Opening: 3, OpeningOf: 2}, TrustedProxies: clientaddr.Proxies{netip.MustParsePrefix("127.0.0.0/8")},
	})
	from := func(addr string) (*websocket.Conn, int) {
		ws, resp, err := websocket.Dial(t.Context(), w.http.URL+protocol.PathRelay, &websocket.DialOptions{HTTPHeader: http.Header{"X-Forwarded-For": {addr}}})
		if err != nil {
			return nil, resp.StatusCode
		}
		t.Cleanup(func() { _ = ws.CloseNow() })
		return ws, resp.StatusCode
	}
	for range 5 {
		w.client(key.NewDevice(), nil) // from one address, all of them
	}
	first, _ := from("192.0.2.1")
	if _, s := from("192.0.2.1"); s != http.StatusSwitchingProtocols {
		t.Errorf("a second of one address: %d", s)
	}
	if _, s := from("192.0.2.1"); s != http.StatusTooManyRequests {
		t.Errorf("a third of one address: %d", s)
	}
	if _, s := from("192.0.2.2"); s != http.StatusSwitchingProtocols {
		t.Errorf("one of another address: %d", s)
	}
	if _, s := from("192.0.2.3"); s != http.StatusTooManyRequests {
		t.Errorf("a fourth of all: %d", s)
	}
	_ = first.CloseNow()
	w.eventually("a free place", func() bool { return w.handler.opening.Held() == 2 })
	if _, s := from("192.0.2.3"); s != http.StatusSwitchingProtocols {
		t.Errorf("after one had left: %d", s)
	}
}

// Requests are paced by address.
func TestPace(t *testing.T) {
	w := newWorld(t, Config{
		Limits: Limits{PerSecond: 0.001, Burst: 2}, TrustedProxies: clientaddr.Proxies{netip.MustParsePrefix("127.0.0.0/8")},
	})
	for i, c := range []struct {
		from      string
		throttled bool
	}{{"192.0.2.1", false}, {"192.0.2.1", false}, {"192.0.2.2", false}, {"192.0.2.1", true}, {"192.0.2.2", false}} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.http.URL+protocol.PathRelay, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Forwarded-For", c.from)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.StatusCode == http.StatusTooManyRequests; got != c.throttled {
			t.Errorf("request %d, of %s: %d", i, c.from, resp.StatusCode)
		}
	}
}

// A message larger than any of a client's ends the connection before the relay has read it all.
func TestMessagesAreBounded(t *testing.T) {
	w := newWorld(t, Config{})
	ws, _, err := websocket.Dial(t.Context(), w.http.URL+protocol.PathRelay, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.CloseNow() }()
	device := key.NewDevice()
	pass := relay.NewPass("net", device.Public(), nil, time.Now())
	conn := websocket.NetConn(t.Context(), ws, websocket.MessageBinary)
	signed := pass.Sign(w.key)
	c := relay.NewClient(relay.ClientConfig{
		Name: "near", Network: "net", Device: device, Pass: func() []byte { return signed }, Receive: func(relay.Address, []byte) {},
		Dial: func(context.Context) (net.Conn, error) { return conn, nil },
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _ = c.Run(ctx) }()
	w.eventually("connect", func() bool { return c.Status().Connected })
	// Pings, each of which the relay takes: what ends the connection is the size of the message.
	ping := append([]byte{6, 0, 0, 8}, make([]byte, 8)...)
	_ = ws.Write(ctx, websocket.MessageBinary, []byte(strings.Repeat(string(ping), (maxMessage+len(ping))/len(ping)+1)))
	w.eventually("be dropped", func() bool { return w.relay.Stats().Clients == 0 })
}
