package localapi

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// dialAs connects from a thread that has taken on another effective user; the thread dies with the goroutine.
func dialAs(uid uintptr, path string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	out := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlock
		keep := ^uintptr(0)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uid, keep); errno != 0 {
			out <- result{err: errno}
			return
		}
		c, err := net.Dial("unix", path)
		out <- result{c, err}
	}()
	r := <-out
	return r.conn, r.err
}

// TestServer_refusesAnotherUser opens the socket's mode, as if the guard of the file system had failed: the credentials still refuse.
func TestServer_refusesAnotherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("taking on another user needs root")
	}
	path := serve(t, &fakeAgent{})
	if _, err := dialAs(65534, path); !errors.Is(err, os.ErrPermission) {
		t.Errorf("connecting to a socket of mode 0600: %v, want permission denied", err)
	}
	for dir := filepath.Dir(path); dir != "/"; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o001 == 0 {
			os.Chmod(dir, info.Mode().Perm()|0o011)
		}
	}
	os.Chmod(path, 0o666)
	for _, request := range []string{
		"GET /v1/status HTTP/1.1\nHost: picket\nConnection: close\n\n",
		"POST /v1/down HTTP/1.1\nHost: picket\nConnection: close\nContent-Length: 2\n\n{}",
		"POST /v1/flows HTTP/1.1\nHost: picket\nConnection: close\nContent-Length: 2\n\n{}",
		"POST /v1/denials HTTP/1.1\nHost: picket\nConnection: close\nContent-Length: 2\n\n{}",
		"POST /v1/capture HTTP/1.1\nHost: picket\nConnection: close\nContent-Length: 2\n\n{}",
		"POST /v1/dial HTTP/1.1\nHost: picket\nConnection: close\nContent-Length: 2\n\n{}",
		"POST /v1/up HTTP/1.1\nHost: picket\nConnection: close\nContent-Length: 2\n\n{}",
	} {
		c, err := dialAs(65534, path)
		if err != nil {
			t.Fatal(err)
		}
		if status, body := exchange(t, c, request); status != 403 || !strings.Contains(body, "user 65534 may not command") {
			t.Errorf("%q: %d %s, want 403", request, status, body)
		}
		c.Close()
	}
}
