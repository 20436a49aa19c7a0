package gitpolicy

import (
	"bytes"
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const policyOne = "{\"grants\": []} // one\n"

// repo is a real repository made with the git program.
type repo struct {
	t   *testing.T
	dir string
}

func newRepo(t *testing.T) *repo {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed (apt-get install git)")
	}
	r := &repo{t, t.TempDir()}
	r.git("init", "-q", "-b", "main")
	return r
}

func (r *repo) git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=Alice", "-c", "user.email=alice@example.com", "-c", "commit.gpgsign=false"}, args...)...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r *repo) commit(name string, text []byte, message string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		r.t.Fatal(err)
	}
	r.git("add", name)
	r.git("commit", "-q", "-m", message)
	return r.git("rev-parse", "HEAD")
}

// replace puts another content under the name of a loose object, as somebody with access to the repository's files can.
func (r *repo) replace(object, kind string, text []byte) {
	r.t.Helper()
	id := r.git("rev-parse", object)
	path := filepath.Join(r.dir, ".git", "objects", id[:2], id[2:])
	if err := os.Remove(path); err != nil {
		r.t.Fatal(err)
	}
	var z bytes.Buffer
	w := zlib.NewWriter(&z)
	fmt.Fprintf(w, "%s %d\x00%s", kind, len(text), text)
	w.Close()
	if err := os.WriteFile(path, z.Bytes(), 0o444); err != nil {
		r.t.Fatal(err)
	}
}

func local(t *testing.T, r *repo) *Source {
	t.Helper()
	s, err := New(Config{Location: r.dir, Branch: "main", Path: "policy.hujson"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func refused(t *testing.T, err error, want string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want a refusal that says %q", err, want)
	}
}

func TestLocalRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(r *repo)
		want string
	}{
		{"empty repository", func(*repo) {}, "is empty"},
		{"branch vanished", func(r *repo) {
			r.commit("policy.hujson", []byte(policyOne), "one")
			r.git("branch", "-m", "main", "other")
		}, "has no branch main"},
		{"file missing", func(r *repo) { r.commit("other.hujson", []byte(policyOne), "one") }, "has no file policy.hujson"},
		{"file is a symbolic link", func(r *repo) {
			if err := os.Symlink("/etc/passwd", filepath.Join(r.dir, "policy.hujson")); err != nil {
				r.t.Fatal(err)
			}
			r.git("add", "policy.hujson")
			r.git("commit", "-q", "-m", "link")
		}, "is no plain file"},
		{"file is a submodule", func(r *repo) {
			r.git("update-index", "--add", "--cacheinfo", "160000,"+strings.Repeat("a", 40)+",policy.hujson")
			r.git("commit", "-q", "-m", "submodule")
		}, "is no plain file"},
		{"file is a folder", func(r *repo) { r.commit("policy.hujson/x", []byte(policyOne), "folder") }, "is no plain file"},
		{"policy of 50 MB", func(r *repo) { r.commit("policy.hujson", bytes.Repeat([]byte("// x\n"), 10<<20), "huge") }, "52428800 bytes"},
		{"head is damaged", func(r *repo) {
			id := r.commit("policy.hujson", []byte(policyOne), "one")
			if err := os.Remove(filepath.Join(r.dir, ".git", "objects", id[:2], id[2:])); err != nil {
				r.t.Fatal(err)
			}
		}, "cannot read commit"},
		{"other text under the file's name", func(r *repo) {
			r.commit("policy.hujson", []byte(policyOne), "one")
			r.replace("HEAD:policy.hujson", "blob", []byte("{\"grants\": [{\"src\": [\"*\"]}]}"))
		}, "does not belong to its name"},
		{"other folder under the folder's name", func(r *repo) {
			r.commit("policy.hujson", []byte(policyOne), "one")
			r.replace("HEAD^{tree}", "tree", []byte("100644 policy.hujson\x00"+strings.Repeat("a", 20)))
		}, "does not belong to its name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRepo(t)
			c.make(r)
			_, err := local(t, r).Fetch(t.Context(), "")
			refused(t, err, c.want)
		})
	}
}

func TestLocalFetch(t *testing.T) {
	r := newRepo(t)
	first := r.commit("policy.hujson", []byte(policyOne), "let alice in\n\nfor reasons")
	s := local(t, r)
	got, err := s.Fetch(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if string(got.Text) != policyOne || got.Commit != first || got.Author != "Alice <alice@example.com>" || got.Subject != "let alice in" || got.Rewritten {
		t.Errorf("fetched %+v", got)
	}

	second := r.commit("policy.hujson", []byte("{}"), "second")
	r.git("gc", "-q") // packs and packed-refs instead of loose files
	if got, err = s.Fetch(t.Context(), first); err != nil || got.Commit != second || got.Rewritten {
		t.Errorf("after a second commit: %+v, %v", got, err)
	}

	r.git("reset", "-q", "--hard", first)
	third := r.commit("policy.hujson", []byte("{ }"), "instead of second")
	if got, err = s.Fetch(t.Context(), second); err != nil || got.Commit != third || !got.Rewritten {
		t.Errorf("after a rewrite: %+v, %v", got, err)
	}
	if got, err = s.Fetch(t.Context(), strings.Repeat("ab", 20)); err != nil || !got.Rewritten {
		t.Errorf("with an unknown commit in force: %+v, %v", got, err)
	}
}

func TestHostileMessageIsCleaned(t *testing.T) {
	r := newRepo(t)
	r.commit("policy.hujson", []byte(policyOne), "red \x1b[31malert "+strings.Repeat("x", 500))
	got, err := local(t, r).Fetch(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if strings.ContainsRune(got.Subject, 0x1b) || len([]rune(got.Subject)) > 200 {
		t.Errorf("subject %q", got.Subject)
	}
}

func TestChangedAfterCommit(t *testing.T) {
	r := newRepo(t)
	r.commit("policy.hujson", []byte(policyOne), "one")
	s := local(t, r)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	time.Sleep(2 * watchInterval) // the file system's clock, not ours, tells the commits apart
	r.commit("policy.hujson", []byte("{}"), "two")
	select {
	case <-s.Changed():
	case <-ctx.Done():
		t.Error("a commit was not noticed")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestNewRefuses(t *testing.T) {
	open := filepath.Join(t.TempDir(), "open")
	if err := os.WriteFile(open, []byte("token"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		config Config
		want   string
	}{
		{"no repository there", Config{Location: "/nowhere/policy.git"}, "there is no"},
		{"folder without repository", Config{Location: t.TempDir()}, "no Git repository"},
		{"option instead of a path", Config{Location: "--upload-pack=evil"}, "is no repository"},
		{"plain http", Config{Location: "http://git.example/x"}, "not protected"},
		{"git protocol", Config{Location: "git://git.example/x"}, "not protected"},
		{"ext transport", Config{Location: "ext::sh -c evil://x"}, "--policy-repo"},
		{"password in the URL", Config{Location: "https://u:secret@git.example/x"}, "holds a credential"},
		{"token in the URL", Config{Location: "https://secret@git.example/x"}, "holds a credential"},
		{"unreadable URL with a password", Config{Location: "https://u:secret%zz@git.example/x"}, "cannot be read"},
		{"ssh host like an option", Config{Location: "ssh://-oProxyCommand=evil/x"}, "host"},
		{"ssh without key", Config{Location: "ssh://git@git.example/x"}, "--policy-ssh-key"},
		{"token readable by others", Config{Location: "https://git.example/x", Token: open}, "chmod 600"},
		{"branch like an option", Config{Location: "https://git.example/x", Branch: "-x"}, "no branch name"},
		{"branch climbing", Config{Location: "https://git.example/x", Branch: "a/../../b"}, "no branch name"},
		{"path climbing", Config{Location: "https://git.example/x", Path: "../../etc/passwd"}, "no path inside"},
		{"absolute path", Config{Location: "https://git.example/x", Path: "/etc/passwd"}, "no path inside"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.config.Branch == "" {
				c.config.Branch = "main"
			}
			if c.config.Path == "" {
				c.config.Path = "policy.hujson"
			}
			_, err := New(c.config)
			refused(t, err, c.want)
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the refusal shows the credential: %v", err)
			}
		})
	}
}
