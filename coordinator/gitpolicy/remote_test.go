package gitpolicy

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// bare clones r into a bare repository and has later pushes go there.
func (r *repo) bare() string {
	r.t.Helper()
	root := r.t.TempDir()
	dir := filepath.Join(root, "policy.git")
	r.git("clone", "-q", "--bare", r.dir, dir)
	r.git("-C", dir, "config", "receive.denyDeleteCurrent", "ignore")
	r.git("remote", "add", "origin", dir)
	return dir
}

// secret writes a file only its owner may read.
func secret(t *testing.T, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// overHTTPS serves a folder of repositories as git's own server program does, asking for the token "s3cret".
func overHTTPS(t *testing.T, root string) (base, ca string) {
	t.Helper()
	out, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Skip("git is not installed (apt-get install git)")
	}
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
	}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if _, password, _ := req.BasicAuth(); password != "s3cret" {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if strings.HasPrefix(req.URL.Path, "/moved/") {
			http.Redirect(w, req, "https://elsewhere.example"+strings.TrimPrefix(req.URL.RequestURI(), "/moved"), http.StatusFound)
			return
		}
		backend.ServeHTTP(w, req)
	}))
	t.Cleanup(srv.Close)
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	return srv.URL, secret(t, cert)
}

func TestHTTPS(t *testing.T) {
	r := newRepo(t)
	first := r.commit("policy.hujson", []byte(policyOne), "one")
	dir := r.bare()
	base, ca := overHTTPS(t, filepath.Dir(dir))
	config := Config{Location: base + "/policy.git", Branch: "main", Path: "policy.hujson", CA: ca,
		Token: secret(t, []byte("s3cret\n")), CacheDir: filepath.Join(t.TempDir(), "cache")}
	s, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	walkRemote(t, r, s, first)

	t.Run("wrong token", func(t *testing.T) {
		c := config
		c.Token = secret(t, []byte("wrong"))
		refuseFetch(t, c, "--policy-token")
	})
	t.Run("unknown certificate", func(t *testing.T) {
		c := config
		c.CA = ""
		refuseFetch(t, c, "certificate")
	})
	t.Run("no such repository", func(t *testing.T) {
		c := config
		c.Location = base + "/other.git"
		refuseFetch(t, c, "is not there")
	})
	t.Run("redirect to another host keeps the token", func(t *testing.T) {
		c := config
		c.Location = base + "/moved/policy.git"
		refuseFetch(t, c, "it redirects to elsewhere.example") // not merely: is not found
	})
}

func refuseFetch(t *testing.T, c Config, want string) {
	t.Helper()
	c.CacheDir = filepath.Join(t.TempDir(), "cache")
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Fetch(t.Context(), "")
	refused(t, err, want)
	if err != nil && strings.Contains(err.Error(), "s3cret") {
		t.Errorf("the refusal shows the token: %v", err)
	}
}

// walkRemote follows a remote through commits, a rewrite, a vanished branch and a file too large, and checks that only news is fetched.
func walkRemote(t *testing.T, r *repo, s *Source, first string) {
	t.Helper()
	got, err := s.Fetch(t.Context(), "")
	if err != nil || got.Commit != first || string(got.Text) != policyOne {
		t.Fatalf("first fetch: %+v, %v", got, err)
	}
	second := r.commit("policy.hujson", []byte("{}"), "two")
	r.git("push", "-q", "origin", "main")
	if got, err = s.Fetch(t.Context(), first); err != nil || got.Commit != second || got.Rewritten {
		t.Errorf("second fetch: %+v, %v", got, err)
	}
	if got, err = s.Fetch(t.Context(), second); err != nil || got.Commit != second {
		t.Errorf("fetch without news: %+v, %v", got, err)
	}
	r.git("reset", "-q", "--hard", first)
	third := r.commit("policy.hujson", []byte("{ }"), "three")
	r.git("push", "-q", "--force", "origin", "main")
	if got, err = s.Fetch(t.Context(), second); err != nil || got.Commit != third || !got.Rewritten {
		t.Errorf("after a forced push: %+v, %v", got, err)
	}
	r.commit("policy.hujson", bytes.Repeat([]byte("// x\n"), 10<<20), "huge")
	r.git("push", "-q", "origin", "main")
	_, err = s.Fetch(t.Context(), third)
	refused(t, err, "bytes")
	r.git("push", "-q", "origin", "main:other", ":main")
	_, err = s.Fetch(t.Context(), third)
	refused(t, err, "has no branch main")
}

func TestEmptyRemote(t *testing.T) {
	r := newRepo(t)
	root := t.TempDir()
	r.git("init", "-q", "--bare", filepath.Join(root, "policy.git"))
	base, ca := overHTTPS(t, root)
	refuseFetch(t, Config{Location: base + "/policy.git", Branch: "main", Path: "policy.hujson", CA: ca, Token: secret(t, []byte("s3cret"))}, "is empty")
}

// A server that names branches without end is not listened to for ever.
func TestEndlessRefs(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
		fmt.Fprint(w, "001e# service=git-upload-pack\n0000")
		for i := range 2 * maxRefs / 64 {
			line := fmt.Sprintf("%040d refs/heads/%010d\n", 1, i)
			if i == 0 {
				line = fmt.Sprintf("%040d refs/heads/first\x00ofs-delta\n", 1)
			}
			if _, err := fmt.Fprintf(w, "%04x%s", len(line)+4, line); err != nil {
				return
			}
		}
		<-t.Context().Done()
	}))
	t.Cleanup(srv.Close)
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	refuseFetch(t, Config{Location: srv.URL + "/policy.git", Branch: "main", Path: "policy.hujson", CA: secret(t, cert)}, "more than 16777216 bytes")
}

// overSSH runs a real sshd on a loopback port, with throw-away keys.
func overSSH(t *testing.T) (port int, key, knownHosts string) {
	t.Helper()
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		if sshd = "/usr/sbin/sshd"; !exists(sshd) {
			t.Skip("sshd is not installed (apt-get install openssh-server)")
		}
	}
	if os.Geteuid() == 0 { // sshd insists on its privilege separation folder
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Skipf("cannot make /run/sshd: %v", err)
		}
	}
	dir := t.TempDir()
	keygen(t, filepath.Join(dir, "host"))
	keygen(t, filepath.Join(dir, "client"))
	if err := os.Rename(filepath.Join(dir, "client.pub"), filepath.Join(dir, "authorized")); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	conf := fmt.Sprintf("Port %d\nListenAddress 127.0.0.1\nHostKey %s/host\nAuthorizedKeysFile %s/authorized\nStrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n", port, dir, dir)
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(sshd, "-D", "-e", "-f", filepath.Join(dir, "conf"))
	log := &bytes.Buffer{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("sshd: %s", log)
		}
	})
	waitForPort(t, port)
	public, err := os.ReadFile(filepath.Join(dir, "host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	return port, filepath.Join(dir, "client"), secret(t, fmt.Appendf(nil, "[127.0.0.1]:%d %s", port, public))
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

func keygen(t *testing.T, path string) {
	t.Helper()
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path).CombinedOutput(); err != nil {
		t.Skipf("ssh-keygen: %v %s (apt-get install openssh-client)", err, out)
	}
}

func waitForPort(t *testing.T, port int) {
	t.Helper()
	for range 200 {
		if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			c.Close()
			return
		}
		time.Sleep(20 * time.Millisecond) // another program's start cannot be waited for otherwise
	}
	t.Fatal("sshd does not listen")
}

func TestSSH(t *testing.T) {
	r := newRepo(t)
	first := r.commit("policy.hujson", []byte(policyOne), "one")
	dir := r.bare()
	port, key, known := overSSH(t)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	config := Config{Location: fmt.Sprintf("ssh://%s@127.0.0.1:%d%s", me.Username, port, dir), Branch: "main", Path: "policy.hujson",
		SSHKey: key, KnownHosts: known, CacheDir: filepath.Join(t.TempDir(), "cache")}
	s, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	walkRemote(t, r, s, first)

	t.Run("host key changed", func(t *testing.T) {
		other := filepath.Join(t.TempDir(), "other")
		keygen(t, other)
		public, _ := os.ReadFile(other + ".pub")
		c := config
		c.KnownHosts = secret(t, fmt.Appendf(nil, "[127.0.0.1]:%d %s", port, public))
		refuseFetch(t, c, "another host key")
	})
	t.Run("host unknown", func(t *testing.T) {
		c := config
		c.KnownHosts = secret(t, []byte("# nobody\n"))
		refuseFetch(t, c, "has no key for")
	})
	t.Run("key not accepted", func(t *testing.T) {
		other := filepath.Join(t.TempDir(), "other")
		keygen(t, other)
		c := config
		c.SSHKey = other
		refuseFetch(t, c, "deploy key")
	})
}

func TestSilentServerTimesOut(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	key := filepath.Join(t.TempDir(), "key")
	keygen(t, key)
	c := Config{Location: "ssh://git@" + l.Addr().String() + "/policy.git", Branch: "main", Path: "policy.hujson", SSHKey: key,
		KnownHosts: secret(t, []byte("# nobody\n")), CacheDir: filepath.Join(t.TempDir(), "cache")}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := timeoutContext(t, 300*time.Millisecond)
	defer cancel()
	_, err = s.Fetch(ctx, "")
	refused(t, err, "did not answer in time")
	_, err = s.Fetch(t.Context(), "")
	refused(t, err, "earlier fetch")
}
