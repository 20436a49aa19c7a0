//go:build linux

package opsocket

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

// fake answers a few calls and remembers who asked; the others are never reached here.
type fake struct {
	API
	actor coordinator.Actor
	err   error
}

func (f *fake) Nodes(_ context.Context, a coordinator.Actor) ([]coordinator.NodeView, error) {
	f.actor = a
	return []coordinator.NodeView{{Name: "web-1"}}, f.err
}

func (f *fake) AddUser(_ context.Context, _ coordinator.Actor, login string, r coordinator.Role) (coordinator.User, string, error) {
	return coordinator.User{Login: login, Role: r}, "token", nil
}

// served starts a server; its socket's folder is open to all, so that only the server's own checks are tried.
func served(t *testing.T, api API) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ops")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "operator.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, l, Handler(api, "https://picket.example", slog.New(slog.NewTextHandler(io.Discard, nil))))
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path
}

func TestCall(t *testing.T) {
	api := &fake{}
	client := NewClient(served(t, api))
	nodes, err := NodesList.Do(t.Context(), client, None{})
	if err != nil || len(nodes) != 1 || nodes[0].Name != "web-1" {
		t.Errorf("nodes %+v, %v", nodes, err)
	}
	if api.actor.Kind != coordinator.ActorOperator || !strings.HasPrefix(api.actor.Name, "uid ") {
		t.Errorf("actor %+v", api.actor)
	}
	added, err := UsersAdd.Do(t.Context(), client, AddUser{Login: "bob@example.com", Role: coordinator.RoleMember})
	if err != nil || added.Token != "token" || added.URL != "https://picket.example" {
		t.Errorf("added %+v, %v", added, err)
	}
}

func (f *fake) PolicyImpact(_ context.Context, _ coordinator.Actor, text []byte) (coordinator.Impact, error) {
	return coordinator.Impact{Live: len(text)}, f.err
}

// A whole policy fits the one call that takes one, and no more.
func TestPolicyFitsItsCall(t *testing.T) {
	client := NewClient(served(t, &fake{}))
	if i, err := PolicyImpact.Do(t.Context(), client, protocol.PolicyText{Text: make([]byte, 1<<20)}); err != nil || i.Live != 1<<20 {
		t.Errorf("1 MiB: %+v, %v", i, err)
	}
	if _, err := PolicyImpact.Do(t.Context(), client, protocol.PolicyText{Text: make([]byte, 2<<20)}); err == nil {
		t.Error("2 MiB were read")
	}
}

func TestRefusalKeepsItsCode(t *testing.T) {
	api := &fake{err: &coordinator.Error{Code: coordinator.CodeNotFound, Message: "no node x"}}
	_, err := NodesList.Do(t.Context(), NewClient(served(t, api)), None{})
	var e *coordinator.Error
	if !errors.As(err, &e) || e.Code != coordinator.CodeNotFound || e.Message != "no node x" {
		t.Errorf("error %v", err)
	}
}

func TestBadRequests(t *testing.T) {
	client := NewClient(served(t, &fake{}))
	for _, c := range []struct{ name, body string }{
		{"not JSON", "hello"},
		{"unknown field", `{"ref":"a","actor":"root"}`},
		{"trailing data", `{"ref":"a"}{"ref":"b"}`},
		{"oversized", `{"ref":"` + strings.Repeat("x", maxRequest) + `"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := client.http.Post("http://coordinator/v1/"+NodesShow.Name, "application/json", bytes.NewReader([]byte(c.body)))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			if r.StatusCode != http.StatusBadRequest {
				t.Errorf("status %d", r.StatusCode)
			}
		})
	}
}

func TestNobodyThere(t *testing.T) {
	_, err := NodesList.Do(t.Context(), NewClient(filepath.Join(t.TempDir(), "none.sock")), None{})
	var e *coordinator.Error
	if !errors.As(err, &e) || e.Code != protocol.CodeUnavailable || !strings.Contains(err.Error(), "picket-coordinator serve") {
		t.Errorf("error %v", err)
	}
}

func TestListen(t *testing.T) {
	path := served(t, &fake{})
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket mode %v, %v", info.Mode(), err)
	}
	if _, err := Listen(path); !errors.Is(err, ErrInUse) {
		t.Errorf("second Listen: %v", err)
	}
	stale := filepath.Join(t.TempDir(), "stale.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if l, err := Listen(stale); err != nil {
		t.Errorf("a stale socket was not replaced: %v", err)
	} else {
		l.Close()
	}
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("keep me"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(plain); err == nil {
		t.Error("a plain file was replaced")
	}
}

// TestOtherUserRefused connects as nobody, with the socket's mode opened on purpose: the kernel's word alone must keep it out.
func TestOtherUserRefused(t *testing.T) {
	if os.Getenv("OPSOCKET_CALL") != "" {
		_, err := NodesList.Do(t.Context(), NewClient(os.Getenv("OPSOCKET_CALL")), None{})
		var e *coordinator.Error
		if !errors.As(err, &e) || e.Code != coordinator.CodeForbidden {
			t.Fatalf("as another user: %v", err)
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become another user")
	}
	api := &fake{}
	path := served(t, api)
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(filepath.Dir(path), "test") // where nobody may read it
	text, err := os.ReadFile(self)
	if err == nil {
		err = os.WriteFile(copied, text, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(copied, "-test.run=^TestOtherUserRefused$", "-test.v")
	cmd.Dir = "/"
	cmd.Env = []string{"OPSOCKET_CALL=" + path}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS")) {
		t.Errorf("%v\n%s", err, out)
	}
	if api.actor.Kind != "" {
		t.Errorf("the call went through as %+v", api.actor)
	}
}
