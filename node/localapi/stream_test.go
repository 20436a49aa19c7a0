package localapi

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// Dial joins to a TCP port of this host.
func (*fakeAgent) Dial(_ context.Context, d Dial) (Conn, error) {
	if d.Peer != "db" {
		return nil, errors.New("no peer is called that")
	}
	c, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(d.Port)})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// far gives the port of a listener, and what comes in there.
func far(t *testing.T) (uint16, func() *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return uint16(l.Addr().(*net.TCPAddr).Port), func() *net.TCPConn {
		c, err := l.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		return c
	}
}

func open(t *testing.T, c *Client, port uint16) *Stream {
	t.Helper()
	s, err := c.Dial(t.Context(), Dial{"db", port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestStream_endsEachWayApart(t *testing.T) {
	c := NewClient(serve(t, &fakeAgent{}))
	port, accept := far(t)
	s := open(t, c, port)
	peer := accept()
	long := strings.Repeat("0123456789", 20_000) // of many pieces
	go func() {
		io.WriteString(s, long)
		s.CloseWrite()
	}()
	if got, err := io.ReadAll(peer); err != nil || string(got) != long {
		t.Errorf("the peer got %d bytes, %v, want %d and the end", len(got), err, len(long))
	}
	go func() {
		io.WriteString(peer, long)
		peer.CloseWrite()
	}()
	if got, err := io.ReadAll(s); err != nil || string(got) != long {
		t.Errorf("the client got %d bytes, %v, want %d and the end", len(got), err, len(long))
	}
}

func TestStream_tellsCutFromEnded(t *testing.T) {
	c := NewClient(serve(t, &fakeAgent{}))
	port, accept := far(t)
	s := open(t, c, port)
	peer := accept()
	peer.SetLinger(0)
	peer.Close()
	if _, err := io.ReadAll(s); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("after the peer's reset: %v, want io.ErrUnexpectedEOF", err)
	}
	s = open(t, c, port)
	peer = accept()
	s.Close()
	if _, err := io.ReadAll(peer); err == nil {
		t.Error("the peer takes a client that went away for one that has finished")
	}
}

func TestStream_refused(t *testing.T) {
	c := NewClient(serve(t, &fakeAgent{}))
	if _, err := c.Dial(t.Context(), Dial{"elsewhere", 1}); err == nil || err.Error() != "no peer is called that" {
		t.Errorf("got %v, want the agent's sentence alone", err)
	}
	if _, err := NewClient(t.TempDir()+"/none").Dial(t.Context(), Dial{"db", 1}); !errors.Is(err, ErrNoAgent) {
		t.Errorf("got %v, want ErrNoAgent", err)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	c := NewClient(serve(t, &fakeAgent{}))
	port, accept := far(t)
	for range maxStreams {
		open(t, c, port)
		accept()
	}
	if _, err := c.Dial(t.Context(), Dial{"db", port}); err == nil || !strings.Contains(err.Error(), "connections run over this socket already") {
		t.Errorf("one more: %v", err)
	}
}
