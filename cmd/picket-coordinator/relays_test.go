package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"picket.internal/coordinator"
	"picket.internal/coordinator/keydir"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/control"
	"picket.internal/wgtun/key"
	"picket.internal/wgtun/relay"
)

// served runs serve on loopback until the test ends, and returns its join string and what its directory holds.
func served(t *testing.T, relays bool) (protocol.Join, *keydir.Dir) {
	t.Helper()
	short, err := os.MkdirTemp("", "pc") // a socket's name has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(short) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	l.Close()
	s := settings{
		dir: filepath.Join(short, "d"), listen: at, url: &url.URL{Scheme: "https", Host: at}, lease: time.Hour, relay: relays,
		overlay4: netip.MustParsePrefix("100.64.0.0/10"), overlay6: netip.MustParsePrefix("fd70:696b:6574::/48"),
		logger: slog.New(slog.DiscardHandler),
	}
	s.policy.breaker = coordinator.Breaker{Off: true}
	s.policy.poll = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	out, in := io.Pipe()
	go func() { done <- serve(ctx, s, in); in.Close() }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	var text strings.Builder
	b := make([]byte, 4096)
	for !strings.Contains(text.String(), "Serving ") {
		n, err := out.Read(b)
		text.Write(b[:n])
		if err != nil {
			t.Fatalf("serve ended, having said %q", text.String())
		}
	}
	_, rest, _ := strings.Cut(text.String(), "Join string: ")
	line, _, _ := strings.Cut(rest, "\n")
	join, err := protocol.ParseJoin(line)
	if err != nil {
		t.Fatal(err)
	}
	return join, keysIn(t, s.dir)
}

// keysIn reads a copy of a coordinator's directory: the directory itself is locked.
func keysIn(t *testing.T, from string) *keydir.Dir {
	t.Helper()
	to := t.TempDir()
	if err := os.Chmod(to, 0o700); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !f.Type().IsRegular() || strings.Contains(f.Name(), "lock") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(from, f.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, f.Name()), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	d, err := keydir.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// The port for nodes relays, by WebSocket, for who shows a pass; not with --relay=off.
func TestServeRelays(t *testing.T) {
	for name, on := range map[string]bool{"on": true, "off": false} {
		t.Run(name, func(t *testing.T) {
			join, dir := served(t, on)
			c, err := control.New(control.Config{Join: join})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(c.Close)
			device := key.NewDevice()
			p := relay.NewPass(string(dir.Network), device.Public(), nil, time.Now())
			node := relay.NewClient(relay.ClientConfig{
				Name: protocol.OwnRelay, Network: string(dir.Network), Device: device, Dial: c.Relay,
				Pass: func() []byte { return p.Sign(dir.Key) }, Receive: func(relay.Address, []byte) {},
			})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); _ = node.Run(ctx) }()
			t.Cleanup(func() { cancel(); <-done })
			for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
				s := node.Status()
				if s.Connected && on || s.Err != "" && !on {
					break
				}
				if s.Err != "" || s.Connected || time.Now().After(end) {
					t.Fatalf("%+v", s)
				}
			}
		})
	}
}
