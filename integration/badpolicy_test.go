//go:build linux

package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"picket.internal/integration/lab"
)

// maxCoordinator is what a coordinator may take of memory at most, in KiB, whatever a repository holds.
const maxCoordinator = 300 << 10

// TestBadPolicies commits one bad policy after the other under a live connection: each is refused with its reason on the command line, in
// the status, on the page and in the log; the old policy stays in force, and the next good commit is taken as if nothing had been.
func TestBadPolicies(t *testing.T) {
	w := newWorking(t)
	admin := w.people["alice"]
	commit := func(text string) func() string { return func() string { return w.commit(text) } }
	git := func(args ...string) {
		_, err := w.policy.Git(w.ctx, args...)
		w.must(err)
	}
	good := w.head()
	for _, c := range []struct {
		name  string
		make  func() string // the id of the bad commit; "" when there is none
		words []string
	}{
		{"syntax error", commit(rootlessPolicy + "\n]"), []string{"line 8, column 1: "}},
		{"comma forgotten", commit("{\n\t\"groups\": {}\n\t\"grants\": [],\n}"), []string{"line 3, column 2: "}},
		{"not text", commit("\xff\xfe\x00"), []string{"line 1, column 1: ", "UTF-8"}},
		{"nothing in the file", commit(""), []string{"line 1, column 1: "}},
		{"unknown group", commit(strings.Replace(rootlessPolicy, `"src": ["group:dba"`, `"src": ["group:dbs"`, 1)), []string{"line 5, column ", "group:dbs", "did you mean `group:dba`"}},
		{"unknown field", commit(strings.Replace(rootlessPolicy, `"grants"`, `"grant"`, 1)), []string{"line 4, column 2: ", "did you mean `grants`?"}},
		{"one field twice", commit(strings.Replace(rootlessPolicy, `"dst":`, `"src": ["*"], "dst":`, 1)), []string{"line 5, column ", "src"}},
		{"failing test", commit(withTests(`{"src": "alice@example.com", "accept": ["tag:db:22"]}`)), []string{"line 7, column ", "alice@example.com", "tag:db:22"}},
		{"test that denies what is allowed", commit(withTests(`{"src": "alice@example.com", "deny": ["tag:db:25432"]}`)), []string{"line 7, column ", "tag:db:25432"}},
		{"50 MB", commit(rootlessPolicy + strings.Repeat("// a line of nothing much, over and over\n", 50_000_000/41)), []string{"50000213 bytes", "at most 1048576"}},
		{"1 MB of brackets", commit(strings.Repeat("[", 1_000_000)), []string{"line 1, column ", "deep"}},
		{"file gone from the commit", func() string {
			git("rm", "-q", "policy.hujson")
			git("commit", "-q", "-m", "drop it")
			return w.head()
		}, []string{"policy.hujson", "--policy-path"}},
		{"branch vanished", func() string { git("checkout", "-q", "-B", "other"); git("branch", "-D", "main"); return "" }, []string{"no branch main", "push it again", "--policy-branch"}},
		{"repository gone", func() string {
			w.must(os.Rename(filepath.Join(w.policy.Dir, ".git"), filepath.Join(w.policy.Dir, "away")))
			return ""
		}, []string{"is gone: bring it back", "--policy-repo"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			w.refused(t, admin, c.make(), c.words)
			w.undisturbed(t, good)
			if away := filepath.Join(w.policy.Dir, "away"); c.name == "repository gone" {
				w.must(os.Rename(away, filepath.Join(w.policy.Dir, ".git")))
			}
			git("checkout", "-q", "-f", "-B", "main", good)
			w.operate("policy", "reload")
			if out := w.operate("policy", "status"); strings.Contains(out, "NOT in force") {
				t.Errorf("the error outlives its mending:\n%s", out)
			}
		})
	}
	w.t = t
	if kib := w.peakMemory(); kib > maxCoordinator {
		t.Errorf("the coordinator took %d MiB of memory", kib>>10)
	}
	w.commit(strings.Replace(rootlessPolicy, "25432\"", "25432\", \"tcp:25433\"", 1))
	w.operate("policy", "reload", "--wait")
	w.undisturbed(t, w.head())
}

// withTests is the good policy with a test in it that is not.
func withTests(test string) string {
	return strings.TrimSuffix(rootlessPolicy, "}") + `	"tests": [` + test + "],\n}"
}

func (n *network) head() string {
	n.t.Helper()
	id, err := n.policy.Git(n.ctx, "rev-parse", "HEAD")
	n.must(err)
	return id
}

// refused asks for the newest policy, and checks all places that say why it is not in force.
func (w *working) refused(t *testing.T, admin *lab.Person, bad string, words []string) {
	t.Helper()
	_, err := w.coordinator.CLI(w.within(10*time.Second), "policy", "reload", "--wait")
	says(t, err, 1, "the newer policy was refused", "the old one stays in force")
	_, page, err := admin.Open(w.ctx, w.coordinator.URL+"/policy")
	w.must(err)
	log := strings.ReplaceAll(w.coordinator.Output(), `\"`, `"`)
	for where, text := range map[string]string{
		"policy status": w.operate("policy", "status"),
		"the page":      page,
		"the log":       log[max(0, strings.LastIndex(log, "a newer policy is not in force")):],
	} {
		for _, want := range append(words, bad[:min(12, len(bad))]) {
			if !strings.Contains(text, want) {
				t.Errorf("%s does not say %q:\n%s", where, want, lastLines(text))
			}
		}
	}
}

func lastLines(text string) string {
	if len(text) > 1500 {
		return "…" + text[len(text)-1500:]
	}
	return text
}

// peakMemory is the most the coordinator ever took, in KiB (proc(5), VmHWM).
func (n *network) peakMemory() int {
	n.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.coordinator.Cmd.Process.Pid))
	n.must(err)
	_, after, _ := strings.Cut(string(text), "VmHWM:")
	kib, err := strconv.Atoi(strings.Fields(after)[0])
	n.must(err)
	return kib
}

// TestRewrittenHistory force-pushes: the new history is refused until an operator names the very commit to take.
func TestRewrittenHistory(t *testing.T) {
	w := newWorking(t)
	before := w.commit(strings.Replace(rootlessPolicy, "25432\"", "25432\", \"tcp:22\"", 1))
	w.operate("policy", "reload", "--wait")
	w.undisturbed(t, before)
	_, err := w.policy.Git(w.ctx, "reset", "-q", "--hard", "HEAD~1")
	w.must(err)
	forced := w.commit(strings.Replace(rootlessPolicy, "25432\"", "25432\", \"tcp:23\"", 1))

	w.refused(t, w.people["alice"], forced, []string{"history was rewritten", "policy reload --accept " + forced})
	w.undisturbed(t, before)
	_, err = w.coordinator.CLI(w.ctx, "policy", "reload", "--accept", before)
	says(t, err, 1, "the newer policy was refused")
	w.undisturbed(t, before)
	w.operate("policy", "reload", "--accept", forced, "--wait")
	w.undisturbed(t, forced)
	if log := w.operate("audit", "list"); !strings.Contains(log, "policy.commit") || !strings.Contains(log, forced) {
		t.Errorf("the audit log does not name the commit that was accepted:\n%s", lastLines(log))
	}
}

// TestEmptyRepository starts a coordinator on a repository without a commit: it serves, nothing may pass, it says what to do, and the first
// commit comes into force by itself.
func TestEmptyRepository(t *testing.T) {
	world, ctx := world(t, true)
	n := &network{World: world, t: t, ctx: ctx, people: map[string]*lab.Person{}, nodes: map[string]*lab.Node{}}
	var err error
	n.policy, err = lab.NewPolicyRepo(ctx, filepath.Join(t.TempDir(), "policy"))
	n.must(err)
	n.coordinator, err = n.host("coordinator").StartCoordinator(ctx, "--policy-repo", n.policy.Dir)
	n.must(err)
	var out string
	n.eventually("the status says so", func() error {
		out, err = n.coordinator.CLI(ctx, "policy", "status")
		if err == nil && !strings.Contains(out, "is empty") {
			err = fmt.Errorf("it says %s", out)
		}
		return err
	})
	for _, want := range []string{"no policy in force: nothing may pass", "is empty: commit a policy file on branch main"} {
		if !strings.Contains(out, want) {
			t.Errorf("policy status does not say %q:\n%s", want, out)
		}
	}
	alice := n.laptop("alice")
	n.seesOnly(alice)
	id := n.commit(rootlessPolicy)
	n.eventually("the first commit is in force", func() error {
		out, err := n.coordinator.CLI(ctx, "policy", "status")
		if err == nil && !strings.Contains(out, id) {
			err = errors.New(out)
		}
		return err
	})
}

// TestBadPolicySources starts the coordinator on what is no repository, and on files: each refusal comes before anything is made.
func TestBadPolicySources(t *testing.T) {
	w, ctx := world(t, true)
	n := &network{World: w, t: t, ctx: ctx}
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	n.must(os.Mkdir(plain, 0o700))
	for _, c := range []struct {
		name  string
		args  []string
		words []string
	}{
		{"no such path", []string{"--policy-repo", filepath.Join(dir, "none")}, []string{"there is no ", "--policy-repo"}},
		{"no repository", []string{"--policy-repo", plain}, []string{"is no Git repository", "git init", "--policy-file"}},
		{"unencrypted", []string{"--policy-repo", "http://example.com/p.git"}, []string{"https"}},
		{"an option for a branch", []string{"--policy-repo", plain, "--policy-branch", "--upload-pack=x"}, []string{"is no branch name"}},
		{"path that leads out", []string{"--policy-repo", plain, "--policy-path", "../../etc/passwd"}, []string{"is no path inside a repository"}},
		{"no certificate", []string{"--tls-cert", filepath.Join(dir, "none"), "--tls-key", filepath.Join(dir, "none")}, []string{"cannot use --tls-cert", "no such file"}},
		{"secret too short", []string{"--policy-repo", plain, "--webhook-secret", n.file("short")}, []string{"shorter than 16 characters", "openssl rand -hex 32"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := filepath.Join(t.TempDir(), "coordinator")
			args := append([]string{filepath.Join(programs, "picket-coordinator"), "serve", "--dir", at, "--listen", "127.0.0.1:0", "--url", "https://127.0.0.1"}, c.args...)
			_, err := n.host("coordinator").Run(n.within(5*time.Second), args...)
			says(t, err, 1, c.words...)
			if _, err := os.Stat(at); err == nil {
				t.Error("a directory for the coordinator was made")
			}
		})
	}
}

// file makes a file with that text.
func (n *network) file(text string) string {
	n.t.Helper()
	path := filepath.Join(n.t.TempDir(), "file")
	n.must(os.WriteFile(path, []byte(text), 0o600))
	return path
}
