//go:build linux

package integration

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"picket.internal/integration/lab"
)

// gitHost serves the folder of bare repositories over https as git's own server program does, to whoever has the token.
func gitHost(t *testing.T, root, token string) (base, ca string) {
	t.Helper()
	out, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Skip("git is not installed (apt-get install git)")
	}
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"),
		Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null",
			"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
	}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != token {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, file(t, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
}

// file writes a file that only its owner may read.
func file(t *testing.T, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestWebhook keeps the policy at a Git host over https, polled once an hour: a signed webhook has a push in force at once, and a
// forged one does nothing.
func TestWebhook(t *testing.T) {
	const token, hookSecret = "a-token-of-the-git-host", "0123456789abcdef0123456789abcdef"
	w, ctx := world(t, true)
	repo, err := lab.NewPolicyRepo(ctx, filepath.Join(t.TempDir(), "work"))
	if err != nil {
		t.Fatal(err)
	}
	n := &network{World: w, t: t, ctx: ctx, policy: repo}
	first := n.commit(policyFor(`"tcp:1"`))
	root := t.TempDir()
	_, err = repo.Git(ctx, "clone", "-q", "--bare", repo.Dir, filepath.Join(root, "policy.git"))
	n.must(err)
	_, err = repo.Git(ctx, "remote", "add", "origin", filepath.Join(root, "policy.git"))
	n.must(err)
	base, ca := gitHost(t, root, token)
	n.coordinator, err = n.host("coordinator").StartCoordinator(ctx, "--policy-repo", base+"/policy.git", "--policy-ca", ca,
		"--policy-token", file(t, []byte(token+"\n")), "--policy-poll", "1h", "--webhook-secret", file(t, []byte(hookSecret)))
	n.must(err)
	n.eventually("the first commit is in force", func() error { return n.commitInForce(first) })

	second := n.commit(policyFor(`"tcp:2"`))
	_, err = repo.Git(ctx, "push", "-q", "origin", "main")
	n.must(err)
	if status := n.hook("0123456789abcdef0123456789abcdeX"); status < 400 {
		t.Errorf("a forged webhook was answered with status %d", status)
	}
	time.Sleep(300 * time.Millisecond) // a fetch it had set off would have been through
	if n.commitInForce(second) == nil {
		t.Error("a forged webhook had the policy fetched")
	}
	began := time.Now()
	if status := n.hook(hookSecret); status >= 300 {
		t.Errorf("the webhook was answered with status %d", status)
	}
	n.eventually("the push is in force", func() error { return n.commitInForce(second) })
	t.Logf("in force %v after the webhook", time.Since(began).Round(time.Millisecond))
}

// hook posts what GitHub posts, signed with key: the status.
func (n *network) hook(key string) int {
	n.t.Helper()
	body := []byte(`{"ref":"refs/heads/main"}`)
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write(body)
	req, err := http.NewRequestWithContext(n.ctx, http.MethodPost, n.coordinator.URL+"/picket/v1/webhook", bytes.NewReader(body))
	n.must(err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	resp, err := client.Do(req)
	n.must(err)
	resp.Body.Close()
	return resp.StatusCode
}

func (n *network) commitInForce(id string) error {
	var st struct {
		Commit string
		Errors []string
	}
	if err := n.coordinator.JSON(n.ctx, &st, "policy", "status"); err != nil {
		return err
	}
	if st.Commit != id {
		return fmt.Errorf("commit %s is in force, not %s; errors %q", st.Commit, id, st.Errors)
	}
	return nil
}
