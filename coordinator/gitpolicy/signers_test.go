package gitpolicy

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// sshKey makes a key with ssh-keygen: the private key's file, and type and base64 of the public one.
func sshKey(t *testing.T, args ...string) (file, public string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", append([]string{"-q", "-N", "", "-C", "", "-f", file}, args...)...).CombinedOutput(); err != nil {
		t.Skipf("ssh-keygen: %v %s (apt-get install openssh-client)", err, out)
	}
	text, err := os.ReadFile(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return file, strings.TrimSpace(string(text))
}

const anyKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINNwMHM8lLcve+HMdKmjaanRnkdOE0Sm3ZUxkjv5LTgg"

func shortRSA(t *testing.T) string {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	k, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(ssh.MarshalAuthorizedKey(public))
}

func TestSignersFileRefused(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "names no signer"},
		{"comments alone", "# nobody\n\n  # yet\n", "names no signer"},
		{"a .pub file", anyKey + "\n", "line 1: it begins with a key"},
		{"principals alone", "# me\nalice@example.com\n", "line 2: it has no key"},
		{"no key behind its type", "alice@example.com ssh-ed25519\n", "not base64"},
		{"no base64", "alice@example.com ssh-ed25519 AAAA!\n", "not base64"},
		{"key cut short", "alice@example.com " + anyKey[:len(anyKey)-8] + "\n", "damaged"},
		{"key with more behind", "alice@example.com " + anyKey + "AAAA\n", "damaged"},
		{"another type than the key's", "alice@example.com ssh-rsa " + strings.Fields(anyKey)[1] + "\n", "it says ssh-rsa, but its key is ssh-ed25519"},
		{"short RSA", "alice@example.com " + shortRSA(t), "1024 bits; at least 2048"},
		{"DSA", "alice@example.com ssh-dss AAAA\n", `"ssh-dss" is no key type`},
		{"certificate for a key", "alice@example.com ssh-ed25519-cert-v01@openssh.com AAAA\n", "certificate"},
		{"authority", "*@example.com cert-authority " + anyKey + "\n", "cert-authority is not supported"},
		{"authority in capitals", "*@example.com Cert-Authority " + anyKey + "\n", "cert-authority is not supported"},
		{"unknown option", "alice@example.com no-touch-required " + anyKey + "\n", `unknown option "no-touch-required"`},
		{"option twice", `alice@example.com namespaces="git",namespaces="file" ` + anyKey + "\n", "namespaces is given twice"},
		{"option without a value", "alice@example.com namespaces " + anyKey + "\n", "namespaces needs a value"},
		{"option with an empty value", `alice@example.com namespaces="" ` + anyKey + "\n", "namespaces needs a value"},
		{"quotation mark missing", `alice@example.com namespaces="git ` + anyKey + "\n", "lacks a quotation mark"},
		{"no date", `alice@example.com valid-after="soon" ` + anyKey + "\n", "YYYYMMDD"},
		{"no such day", `alice@example.com valid-before="20260231" ` + anyKey + "\n", "YYYYMMDD"},
		{"never valid", `alice@example.com valid-after="20260102Z",valid-before="20260101Z" ` + anyKey + "\n", "never be valid"},
		{"quoted principals", `"alice@example.com" ` + anyKey + "\n", "without quotes"},
		{"empty principal", "alice@example.com,,bob@example.com " + anyKey + "\n", "one of them is empty"},
		{"negated principals alone", "!alice@example.com " + anyKey + "\n", "all of them are negated"},
		{"not text", "alice@example.com\x00 " + anyKey + "\n", "not text"},
		{"invalid UTF-8", "\xff@example.com " + anyKey + "\n", "not text"},
		{"overlong line", "alice@example.com " + strings.Repeat("x", maxSignerLine) + "\n", "longer than"},
		{"one bad line among good ones", "alice@example.com " + anyKey + "\n\nbob@example.com nonsense\ncarol@example.com " + anyKey + "\n", "line 3: "},
		{"too large", strings.Repeat("# filler\n", maxSigners/9+1), "more than 262144 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := secret(t, []byte(c.text))
			_, err := readSigners(file)
			refused(t, err, c.want)
			_, err = New(Config{Location: "https://git.example/x", Branch: "main", Path: "policy.hujson", Signers: file})
			refused(t, err, c.want)
		})
	}
}

func TestSignersFileIsGuarded(t *testing.T) {
	line := []byte("alice@example.com " + anyKey + "\n")
	file := secret(t, line)
	for _, mode := range []os.FileMode{0o620, 0o602, 0o666} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		_, err := readSigners(file)
		refused(t, err, "chmod go-w")
	}
	if err := os.Chmod(file, 0o644); err != nil { // what is in it is no secret
		t.Fatal(err)
	}
	if _, err := readSigners(file); err != nil {
		t.Error(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(file, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		_, err := readSigners(file)
		refused(t, err, "belongs to another user")
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := readSigners(pipe) // opening it would wait for a writer
	refused(t, err, "no plain file")
	_, err = readSigners(t.TempDir())
	refused(t, err, "no plain file")
	_, err = readSigners(filepath.Join(t.TempDir(), "none"))
	refused(t, err, "no such file")
}

func TestMatchesList(t *testing.T) {
	for _, c := range []struct {
		s, list string
		want    bool
	}{
		{"alice@example.com", "bob@example.com", false},
		{"alice@example.com", "alice@example.co", false},
		{"alice@example.com", "lice@example.com", false},
		{"alice@example.com", "Alice@example.com", false},
		{"alice@example.com", "*@example.org", false},
		{"alice@evil.org", "*@example.com,!alice@evil.org", false},
		{"alice@example.com", "*@example.com,!alice@*", false},
		{"alice@example.com", "!alice@*,*@example.com", false},
		{"alice@example.com", "?@example.com", false},
		{"alice@example.com.evil.org", "*@example.com", false},
		{"", "?", false},
		{"*", "a", false},
		{"alice@example.com", "alice@example.com", true},
		{"alice@example.com", "bob@example.com,alice@example.com", true},
		{"alice@example.com", "*@example.com", true},
		{"alice@example.com", "*@example.com,!bob@*", true},
		{"alice@example.com", "al?ce@*.com", true},
		{"alice@example.com", "**a*i*e*", true},
		{"", "*", true},
	} {
		if got := matchesList(c.s, c.list); got != c.want {
			t.Errorf("%q in %q: %v", c.s, c.list, got)
		}
	}
	began := time.Now()
	if matchesPattern(strings.Repeat("a", maxEmail), strings.Repeat("*a", 5000)+"b") || time.Since(began) > time.Second {
		t.Errorf("a nasty pattern matched, or took %v", time.Since(began))
	}
}

// What a file says means the same here as to ssh-keygen, with one clock for both of our times.
func TestSignersFileAsSSHKeygenReadsIt(t *testing.T) {
	key, public := sshKey(t, "-t", "ed25519")
	_, other := sshKey(t, "-t", "ed25519")
	sign := exec.Command("ssh-keygen", "-Y", "sign", "-n", namespace, "-f", key)
	sign.Stdin = strings.NewReader("text")
	sig, err := sign.Output()
	if err != nil {
		t.Skipf("ssh-keygen cannot sign: %v", err)
	}
	sigFile := secret(t, sig)
	parsed, _, _, _, err := ssh.ParseAuthorizedKey([]byte(public))
	if err != nil {
		t.Fatal(err)
	}
	const who = "alice@example.com"
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for _, text := range []string{
		"alice@example.com " + other,
		"bob@example.com " + public,
		"bob@example.com " + public + "\nalice@example.com " + public,
		"*@example.com " + public + " with a comment",
		"\t*@example.com\t" + public + "\r",
		"*@example.com,!alice@* " + public,
		"alice@example.co? " + public,
		`alice@example.com namespaces="git" ` + public,
		`alice@example.com namespaces="git,file" ` + public,
		`alice@example.com NAMESPACES="g*" ` + public,
		`alice@example.com namespaces="file" ` + public,
		`alice@example.com namespaces="*,!git" ` + public,
		`alice@example.com valid-after="20260304Z" ` + public,
		`alice@example.com valid-after="20260305Z" ` + public,
		`alice@example.com valid-after="202603040506Z" ` + public,
		`alice@example.com valid-after="20260304050607Z" ` + public,
		`alice@example.com valid-after="20260304050608Z" ` + public,
		`alice@example.com valid-before="20260304050607Z" ` + public,
		`alice@example.com valid-before="20260304050606Z" ` + public,
		`alice@example.com valid-before="20260304" ` + public,
		`alice@example.com valid-before="20260306" ` + public,
		`alice@example.com namespaces="git",valid-after="20250101Z",valid-before="20270101Z" ` + public,
		"# alice@example.com " + public + "\nalice@example.com " + other,
	} {
		all, err := parseSigners([]byte(text + "\n"))
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		ours := all.allow(parsed, who, at, at)
		verify := exec.Command("ssh-keygen", "-Y", "verify", "-n", namespace, "-I", who, "-s", sigFile, "-f", secret(t, []byte(text+"\n")),
			"-O", "verify-time="+at.Format("20060102150405")+"Z")
		verify.Stdin = strings.NewReader("text")
		out, theirs := verify.CombinedOutput()
		if (ours == nil) != (theirs == nil) {
			t.Errorf("%q: ours %v, ssh-keygen's %v %s", text, ours, theirs, out)
		}
	}
}

// Both the commit's own time and now must lie within a key's validity.
func TestKeyValidity(t *testing.T) {
	all, err := parseSigners(fmt.Appendf(nil, "alice@example.com valid-after=\"20260101Z\",valid-before=\"20260201Z\" %s\n", anyKey))
	if err != nil {
		t.Fatal(err)
	}
	day := func(month time.Month, d int) time.Time { return time.Date(2026, month, d, 0, 0, 0, 0, time.UTC) }
	for _, c := range []struct {
		name      string
		made, now time.Time
		want      string
	}{
		{"expired since", day(1, 15), day(3, 1), "until 2026-02-01T00:00:00Z: that is over"},
		{"a commit dated back by whoever has an expired key", day(1, 2), day(12, 1), "that is over"},
		{"a commit dated ahead", day(3, 1), day(1, 15), "dated after that"},
		{"a commit dated ahead to a key's beginning", day(1, 15), time.Date(2025, 12, 1, 0, 0, 0, 0, time.UTC), "still to come"},
		{"a commit from before the key", time.Date(2025, 12, 1, 0, 0, 0, 0, time.UTC), day(1, 15), "dated before that"},
		{"valid", day(1, 15), day(1, 16), ""},
		{"the first moment", day(1, 1), day(1, 1), ""},
		{"the last moment", day(2, 1), day(2, 1), ""},
	} {
		err := all.allow(all[0].key, "alice@example.com", c.made, c.now)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func FuzzSigners(f *testing.F) {
	f.Add([]byte("*@example.com,!bob@* namespaces=\"git,file\",valid-after=\"20260101\" "+anyKey+" comment\n# x\n\n"), "alice@example.com")
	f.Fuzz(func(t *testing.T, text []byte, who string) {
		all, err := parseSigners(text)
		if err != nil {
			return
		}
		for _, s := range all {
			if s.key == nil || s.line < 1 || s.line > bytes.Count(text, []byte("\n"))+1 {
				t.Errorf("%q gives %+v", text, s)
			}
			_ = all.allow(s.key, who, time.Time{}, time.Time{})
		}
	})
}

// The example in the documentation is a file that is taken.
func TestDocumentedSignersFile(t *testing.T) {
	text, err := os.ReadFile("../../docs/gitops.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(text), "```\n# principals")
	example, _, closed := strings.Cut(after, "```")
	if !ok || !closed {
		t.Fatal("docs/gitops.md has no example of a signers file")
	}
	all, err := parseSigners([]byte("# " + example))
	if err != nil || len(all) != 2 || all[1].before.IsZero() || all[0].namespaces != "git" {
		t.Errorf("%+v, %v", all, err)
	}
}
