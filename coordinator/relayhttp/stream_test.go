package relayhttp

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/relay"
)

// serve is a relay that is one function.
type serve func(net.Conn) error

func (f serve) Serve(_ context.Context, c net.Conn) error { return f(c) }

// dialed is a WebSocket to a handler over TLS, whose listener is a relay's.
func dialed(t *testing.T, f serve) *websocket.Conn {
	t.Helper()
	s := httptest.NewUnstartedServer(New(f, Config{}))
	s.Listener = relay.PromptListener(s.Listener)
	s.StartTLS()
	t.Cleanup(s.Close)
	ws, _, err := websocket.Dial(t.Context(), s.URL+protocol.PathRelay, &websocket.DialOptions{HTTPClient: s.Client()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	ws.SetReadLimit(-1)
	return ws
}

// The messages that the stream makes by itself are what the library reads, whatever their length, and the library's own may come between.
func TestMessagesOfAnyLength(t *testing.T) {
	lengths := []int{1, 125, 126, 4096, 16 << 10, 65535, 65536, 100000}
	ws := dialed(t, func(c net.Conn) error {
		for _, n := range lengths {
			if _, err := c.Write(bytes.Repeat([]byte{byte(n)}, n)); err != nil {
				return err
			}
		}
		_, err := io.Copy(io.Discard, c) // answers pings
		return err
	})
	for _, n := range lengths {
		kind, b, err := ws.Read(t.Context())
		if err != nil || kind != websocket.MessageBinary || !bytes.Equal(b, bytes.Repeat([]byte{byte(n)}, n)) {
			t.Fatalf("%d bytes as %v for %d: %v", len(b), kind, n, err)
		}
	}
	go func() { _, _, _ = ws.Read(t.Context()) }() // sees the pong
	if err := ws.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// What the stream reads is messages end to end, and the client's goodbye is the end; text is refused.
func TestReading(t *testing.T) {
	for name, c := range map[string]struct {
		kind websocket.MessageType
		want string
		err  string
	}{
		"binary": {websocket.MessageBinary, "one, two", ""},
		"text":   {websocket.MessageText, "", "binary"},
	} {
		type outcome struct {
			text string
			err  error
		}
		read := make(chan outcome, 1)
		ws := dialed(t, func(c net.Conn) error {
			b, err := io.ReadAll(c)
			read <- outcome{string(b), err}
			return err
		})
		for _, m := range []string{"one, ", "", "two"} {
			_ = ws.Write(t.Context(), c.kind, []byte(m))
		}
		_ = ws.Close(websocket.StatusNormalClosure, "")
		got := <-read
		if got.text != c.want || (got.err != nil) != (c.err != "") || got.err != nil && !strings.Contains(got.err.Error(), c.err) {
			t.Errorf("%s: %q, %v", name, got.text, got.err)
		}
	}
}

// Control frames in moderation are answered; a flood of them, which no rate of the relay's counts, ends the connection.
func TestControlFramesAreBounded(t *testing.T) {
	over := make(chan error, 1)
	ws := dialed(t, func(c net.Conn) error {
		_, err := io.Copy(io.Discard, c)
		over <- err
		return err
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		_, _, _ = ws.Read(context.Background()) // sees the pongs
	}()
	for i := range controlBurst {
		if err := ws.Ping(ctx); err != nil {
			t.Fatalf("ping %d: %v", i, err)
		}
	}
	var err error
	for range 10 {
		if err = ws.Ping(ctx); err != nil {
			break
		}
	}
	if err == nil {
		t.Fatal("a client may ping as it likes")
	}
	if err := <-over; err == nil {
		t.Error("it ended as if the client had said goodbye")
	}
}

// The relay finds below the stream what writes without waiting.
func TestPromptIsFound(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there is no such thing here")
	}
	found := make(chan bool, 1)
	dialed(t, func(c net.Conn) error {
		below, _ := c.(*stream).NetConn().(*tls.Conn)
		_, ok := below.NetConn().(*relay.Prompt)
		found <- ok
		return nil
	})
	if !<-found {
		t.Error("there is none")
	}
}

var _ http.Hijacker = (*hijack)(nil)
