package picket_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"picket.internal/picket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	nowhere = "https://127.0.0.1:1"
	authKey = "picket-key-0123456789abcdef0123"
)

// TestStartRefuses says in words of this package what to do, and leaves nothing running and nothing locked.
func TestStartRefuses(t *testing.T) {
	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	taken, err := net.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := filepath.Join(t.TempDir(), "state")
	for _, c := range []struct {
		config picket.Config
		want   string
	}{
		{picket.Config{}, "Config.Dir is empty"},
		{picket.Config{Dir: open}, "lets other users in"},
		{picket.Config{Dir: "picket_test.go"}, "is not a directory: name another one in Config.Dir"},
		{picket.Config{Dir: dir}, "give Config.Coordinator"},
		{picket.Config{Dir: dir, Coordinator: nowhere}, "give Config.AuthKey"},
		{picket.Config{Dir: dir, Coordinator: "picket.example.com", AuthKey: authKey}, "join string"},
		{picket.Config{Dir: dir, Coordinator: nowhere, AuthKey: "secret"}, "this is no auth key"},
		{picket.Config{Dir: dir, Coordinator: nowhere, AuthKey: authKey, Name: "My Laptop"}, "cannot be a node's name"},
		{picket.Config{Dir: dir, Port: uint16(taken.LocalAddr().(*net.UDPAddr).Port)}, "give another Config.Port"},
	} {
		n, err := picket.Start(t.Context(), c.config)
		if err == nil {
			n.Close()
			t.Errorf("%+v started", c.config)
			continue
		}
		if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "--") || !strings.HasPrefix(err.Error(), "picket: ") {
			t.Errorf("%+v: %v, want %q", c.config, err, c.want)
		}
	}
}

// TestStartEndsWithItsContext, and says what it waited for.
func TestStartEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and answers nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n, err := picket.Start(ctx, picket.Config{Dir: filepath.Join(t.TempDir(), "state"), Coordinator: "https://" + l.Addr().String(), AuthKey: authKey})
	if err == nil {
		n.Close()
		t.Fatal("it started without a coordinator")
	}
	if !strings.Contains(err.Error(), "deadline") || !strings.Contains(err.Error(), "coordinator") {
		t.Errorf("%v", err)
	}
}
