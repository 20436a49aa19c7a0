package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/coordinator/keydir"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/control"
	"picket.internal/wgtun/key"
	"picket.internal/wgtun/relay"
)

// fakeCoordinator says who it is, and nothing else.
func fakeCoordinator(t *testing.T) (*keydir.Dir, protocol.Join) {
	t.Helper()
	dir, err := keydir.Open(filepath.Join(t.TempDir(), "c"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	certificates, err := dir.Certificates([]string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client, _ := protocol.ParseClientNonce(r.URL.Query().Get("nonce"))
		i, err := protocol.SignInfo(protocol.InfoBody{
			Version: protocol.Version, Network: dir.Network, Coordinator: dir.Key.Public(), Client: client, Nonce: make([]byte, 32), Time: time.Now(),
		}, dir.Key)
		if err != nil {
			t.Error(err)
		}
		body, _ := protocol.Marshal(i)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	}))
	cert, err := certificates.Get(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return dir, protocol.Join{URL: s.URL, Fingerprint: dir.Key.Public().Fingerprint()}
}

// lines is output that is read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// startRelay runs a relay named fra until the test ends, and returns where nodes find it, by what it printed.
func startRelay(t *testing.T, join protocol.Join) protocol.Join {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	l.Close()
	s := relaySettings{join: join, name: "fra"}
	s.dir, s.listen, s.url, s.logger = filepath.Join(t.TempDir(), "r"), at, &url.URL{Scheme: "https", Host: at}, slog.New(slog.DiscardHandler)
	out, done := &lines{}, make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- runRelay(ctx, s, out) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the relay ended with %v", err)
		}
	})
	waitFor(t, "the relay to start", func() bool { return strings.Contains(out.String(), "Relaying for the network") })
	_, print, ok := strings.Cut(strings.SplitN(out.String(), "\n", 3)[1], "--fingerprint ")
	if !ok {
		t.Fatalf("no fingerprint in %s", out)
	}
	j, err := protocol.ParseJoin(s.url.String() + "#" + print)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(2 * time.Millisecond) // real sockets: there is nothing to wait on
	}
}

// relayClient connects a device to the relay with a pass that k signed, for peers.
func relayClient(t *testing.T, at protocol.Join, network protocol.NetworkID, k key.CoordinatorPrivate, device key.DevicePrivate, receive func(relay.Address, []byte), peers ...relay.Address) *relay.Client {
	t.Helper()
	door, err := control.New(control.Config{Join: at})
	if err != nil {
		t.Fatal(err)
	}
	pass := relay.NewPass(string(network), device.Public(), peers, time.Now())
	signed := pass.Sign(k)
	c := relay.NewClient(relay.ClientConfig{
		Name: "fra", Network: string(network), Dial: door.Relay, Device: device, Pass: func() []byte { return signed }, Receive: receive,
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
		door.Close()
	})
	return c
}

// A relay elsewhere carries between nodes of its coordinator's network, which find it by the fingerprint that it printed.
func TestRelayElsewhere(t *testing.T) {
	dir, join := fakeCoordinator(t)
	at := startRelay(t, join)
	a, b := key.NewDevice(), key.NewDevice()
	addrA, addrB := relay.AddressOf(string(dir.Network), a.Public()), relay.AddressOf(string(dir.Network), b.Public())
	got := make(chan relay.Address, 1)
	sender := relayClient(t, at, dir.Network, dir.Key, a, func(relay.Address, []byte) {}, addrB)
	receiver := relayClient(t, at, dir.Network, dir.Key, b, func(from relay.Address, _ []byte) { got <- from }, addrA)
	waitFor(t, "both to connect", func() bool { return sender.Status().Connected && receiver.Status().Connected })
	if !sender.Send(addrB, []byte("hello")) {
		t.Fatal("not sent")
	}
	select {
	case from := <-got:
		if from != addrA {
			t.Error("it came from another address than its sender's")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("nothing came")
	}
}

// Passes of anybody else than the coordinator of the join string, or of another network, open nothing.
func TestRelayElsewhereRefusesStrangers(t *testing.T) {
	dir, join := fakeCoordinator(t)
	at := startRelay(t, join)
	for name, c := range map[string]*relay.Client{
		"another coordinator's pass": relayClient(t, at, dir.Network, key.NewCoordinator(), key.NewDevice(), nil),
		"another network's pass":     relayClient(t, at, "other", dir.Key, key.NewDevice(), nil),
	} {
		waitFor(t, name+" to be refused", func() bool { return strings.Contains(c.Status().Err, "pass") })
		if c.Status().Connected {
			t.Errorf("%s was let in", name)
		}
	}
}

// Each minute a line says what changed; without change there is none.
func TestStatsAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := relay.NewServer(relay.ServerConfig{Coordinator: key.NewCoordinator().Public(), Network: "net", Name: "fra"})
		out := &lines{}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- logStats(ctx, server, slog.New(slog.NewTextHandler(out, nil))) }()
		time.Sleep(5 * statsEvery)
		synctest.Wait()
		if out.String() != "" {
			t.Errorf("nothing happened, but the log says %s", out)
		}
		here, there := net.Pipe()
		here.Close()
		_ = server.Serve(ctx, there)
		time.Sleep(5 * statsEvery)
		synctest.Wait()
		if n := strings.Count(out.String(), "refused=1"); n != 1 {
			t.Errorf("%d lines about one refusal: %s", n, out)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
