//go:build unix

package wgtun

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"picket.internal/wgtun/key"
)

// running returns a tunnel that is up, with one peer, outside any bubble: real sockets block real time.
func running(t *testing.T) (*Tunnel, Peer) {
	t.Helper()
	tunnel := idle(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tunnel.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-tunnel.Ready()
	p := newPeer("b", "100.64.0.2")
	p.Routes = prefixes("10.0.0.0/8")
	if _, err := tunnel.Apply(State{Self: "me", Peers: []Peer{p}, NotAfter: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	return tunnel, p
}

// serveOn answers on l until the test ends.
func serveOn(t *testing.T, tunnel *Tunnel, l net.Listener) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tunnel.ServeUAPI(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("ServeUAPI:", err)
		}
	})
}

func TestUAPI(t *testing.T) {
	tunnel, p := running(t)
	directory := t.TempDir()
	l, err := listenUAPI(directory, "picket0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, tunnel, l)
	ask := func(request string) string {
		c, err := net.Dial("unix", filepath.Join(directory, "picket0.sock"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(c, request)
		_ = c.(*net.UnixConn).CloseWrite()
		answer, _ := io.ReadAll(c)
		return string(answer)
	}
	before, _ := tunnel.roster.engine.IpcGet()
	stranger := hexKey(key.NewTunnel().Public())
	for _, test := range []struct{ name, request, want string }{
		{"set adds no peer", "set=1\npublic_key=" + stranger + "\nallowed_ip=0.0.0.0/0\n\n", "errno=1\n\n"},
		{"set takes no key", "set=1\nprivate_key=" + stranger + "\n\n", "errno=1\n\n"},
		{"set replaces no peers", "set=1\nreplace_peers=true\n\n", "errno=1\n\n"},
		{"an unknown operation", "put=1\n\n", "errno=71\n\n"},
		{"another version", "get=2\n\n", "errno=71\n\n"},
		{"a get with lines", "get=1\npublic_key=" + stranger + "\n\n", "errno=71\n\n"},
		{"a get without its end", "get=1\n", ""},
		{"nothing", "", ""},
		{"an endless line", strings.Repeat("x", 2*uapiLineLimit) + "\n\n", ""},
		{"an endless set", "set=1\n" + strings.Repeat("public_key=00\n", uapiRequest/14+10) + "\n", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := ask(test.request); got != test.want {
				t.Errorf("answer %q, want %q", got, test.want)
			}
		})
	}
	if after, _ := tunnel.roster.engine.IpcGet(); after != before {
		t.Error("a refused request changed the device")
	}
	got := ask("get=1\n\nget=1\n\n")
	peer := "public_key=" + hexKey(p.Tunnel) + "\nprotocol_version=1\nlast_handshake_time_sec=0\nlast_handshake_time_nsec=0\n" +
		"tx_bytes=0\nrx_bytes=0\npersistent_keepalive_interval=0\nallowed_ip=100.64.0.2/32\nallowed_ip=10.0.0.0/8\n"
	answer := before + peer + "errno=0\n\n"
	if got != answer+answer {
		t.Errorf("two gets on one connection answered\n%q", got)
	}
	if strings.Contains(before, "public_key=") {
		t.Errorf("the device has a peer that nobody has woken:\n%s", before)
	}
}

func TestUAPIBoundsItsConnections(t *testing.T) {
	tunnel, _ := running(t)
	directory := t.TempDir()
	l, err := listenUAPI(directory, "picket0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, tunnel, l)
	path := filepath.Join(directory, "picket0.sock")
	for range uapiConnections {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, "get=1\n\n")
		if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(c, "get=1\n\n")
	if answer, _ := io.ReadAll(c); len(answer) != 0 {
		t.Errorf("one connection too many was answered with %d bytes", len(answer))
	}
}

func TestUAPIBeforeTheDeviceIsUp(t *testing.T) {
	if got := idle(t).answerUAPI(getOperation); got != "errno=19\n\n" {
		t.Errorf("answer %q", got)
	}
}

func TestListenUAPIRefuses(t *testing.T) {
	directory := t.TempDir()
	for _, name := range []string{"", ".", "..", "a/b", "../a", ".hidden"} {
		if l, err := listenUAPI(directory, name); err == nil {
			l.Close()
			t.Errorf("name %q was accepted", name)
		}
	}
	l, err := listenUAPI(directory, "busy")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := listenUAPI(directory, "busy"); !errors.Is(err, ErrUAPIBusy) {
		t.Errorf("a served name: %v", err)
	}
}

func TestListenUAPIReplacesWhatADeadProgramLeft(t *testing.T) {
	directory := t.TempDir()
	path := filepath.Join(directory, "left.sock")
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	old.SetUnlinkOnClose(false)
	old.Close()
	l, err := listenUAPI(directory, "left")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	l.Close()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket outlives its listener: %v", err)
	}
}

func FuzzUAPIRequest(f *testing.F) {
	f.Add("get=1\n\n")
	f.Add("set=1\npublic_key=00\n\n")
	f.Add("get=1\nx\n\n")
	f.Fuzz(func(t *testing.T, request string) {
		in := bufio.NewReaderSize(strings.NewReader(request), uapiLineLimit)
		operation, err := readUAPIRequest(in)
		if err == nil && operation != "" && !strings.HasPrefix(request, operation) {
			t.Errorf("%q read as %q", request, operation)
		}
	})
}

func FuzzDeviceStats(f *testing.F) {
	f.Add("listen_port=51820\npublic_key=" + hex.EncodeToString(make([]byte, 32)) + "\nlast_handshake_time_sec=1\nlast_handshake_time_nsec=2\ntx_bytes=3\nrx_bytes=4\n")
	f.Add("public_key=0\nrx_bytes=-1\nlisten_port=99999\n")
	f.Fuzz(func(t *testing.T, text string) { parseDeviceStats(text) })
}

func TestParseDeviceStats(t *testing.T) {
	k := key.NewTunnel().Public()
	peers := parseDeviceStats("private_key=00\nlisten_port=51820\npublic_key=" + hexKey(k) +
		"\nlast_handshake_time_sec=10\nlast_handshake_time_nsec=20\ntx_bytes=30\nrx_bytes=40\nallowed_ip=10.0.0.0/8\n")
	if c := peers[k]; !c.handshake().Equal(time.Unix(10, 20)) || c.tx != 30 || c.rx != 40 {
		t.Errorf("parsed %+v", peers)
	}
	if !parseDeviceStats("public_key=" + hexKey(k) + "\nlast_handshake_time_sec=0\nlast_handshake_time_nsec=0\n")[k].handshake().IsZero() {
		t.Error("no handshake yet reads as one")
	}
}
