package gitpolicy

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"picket.internal/coordinator"
)

// signing is a repository, two people's keys, and a file in which Alice alone may sign.
type signing struct {
	*repo
	alice, mallory string // private key files
	alicePub       string
	file           string // of allowed signers
}

func newSigning(t *testing.T) *signing {
	t.Helper()
	s := &signing{repo: newRepo(t)}
	s.alice, s.alicePub = sshKey(t, "-t", "ed25519")
	s.mallory, _ = sshKey(t, "-t", "ed25519")
	s.file = filepath.Join(t.TempDir(), "signers")
	s.allow(`alice@example.com namespaces="git" ` + s.alicePub)
	return s
}

// allow makes lines the whole file.
func (s *signing) allow(lines ...string) {
	s.t.Helper()
	if err := os.WriteFile(s.file, []byte("# who may sign policy\n"+strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// as runs git with the key for signing whatever it commits.
func (s *signing) as(key string, args ...string) string {
	s.t.Helper()
	return s.git(append([]string{"-c", "gpg.format=ssh", "-c", "user.signingkey=" + key, "-c", "commit.gpgsign=true"}, args...)...)
}

var commits int

// write puts another policy into the index.
func (s *signing) write() {
	s.t.Helper()
	commits++
	if err := os.WriteFile(filepath.Join(s.dir, "policy.hujson"), fmt.Appendf(nil, "{} // %d\n", commits), 0o644); err != nil {
		s.t.Fatal(err)
	}
	s.git("add", "policy.hujson")
}

// signed commits another policy with the key; unsigned, without one.
func (s *signing) signed(key string) string {
	s.t.Helper()
	s.write()
	s.as(key, "commit", "-q", "-m", "signed")
	return s.git("rev-parse", "HEAD")
}

func (s *signing) unsigned() string {
	s.t.Helper()
	s.write()
	s.git("commit", "-q", "-m", "not signed")
	return s.git("rev-parse", "HEAD")
}

// raw is the newest commit as git keeps it.
func (s *signing) raw() string {
	s.t.Helper()
	cmd := exec.Command("git", "cat-file", "commit", "HEAD")
	cmd.Dir = s.dir
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatal(err)
	}
	return string(out)
}

// put makes raw a commit object, and the newest, whatever is wrong with it.
func (s *signing) put(raw string) string {
	s.t.Helper()
	cmd := exec.Command("git", "hash-object", "-t", "commit", "-w", "--literally", "--stdin")
	cmd.Dir, cmd.Stdin = s.dir, strings.NewReader(raw)
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("%v %s", err, out)
	}
	id := strings.TrimSpace(string(out))
	s.git("update-ref", "refs/heads/main", id)
	return id
}

func signerOf(t *testing.T, file string) ssh.Signer {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ssh.ParsePrivateKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// signHeader is the header that a signature over payload makes.
func signHeader(t *testing.T, k ssh.Signer, payload, namespace string) string {
	t.Helper()
	sig, err := sshsig.Sign(strings.NewReader(payload), k, sshsig.HashSHA512, namespace)
	if err != nil {
		t.Fatal(err)
	}
	return "gpgsig " + strings.ReplaceAll(strings.TrimSpace(string(sshsig.Armor(sig))), "\n", "\n ") + "\n"
}

// withHeader puts headers last before the message.
func withHeader(raw, headers string) string {
	return strings.Replace(raw, "\n\n", "\n"+headers+"\n", 1)
}

// forge commits by hand what change makes of an unsigned commit, signed properly by the key.
func (s *signing) forge(k ssh.Signer, change func(raw string) string) string {
	s.t.Helper()
	s.unsigned()
	payload := change(s.raw())
	return s.put(withHeader(payload, signHeader(s.t, k, payload, namespace)))
}

func same(raw string) string { return raw }

// lineage is a history of commits: make returns the commit in force.
type lineage struct {
	name string
	make func(s *signing) (inForce string)
	want string
}

var unsignedLineages = []lineage{
	{"newest not signed, first start", func(s *signing) string { s.signed(s.alice); s.unsigned(); return "" }, "is not signed"},
	{"newest not signed", func(s *signing) string { id := s.signed(s.alice); s.unsigned(); return id }, "is not signed"},
	{"one in the middle not signed", func(s *signing) string {
		id := s.signed(s.alice)
		s.signed(s.alice)
		s.unsigned()
		s.signed(s.alice)
		return id
	}, ", which lies between "},
	{"one in the middle of a stranger", func(s *signing) string {
		id := s.signed(s.alice)
		s.signed(s.mallory)
		s.signed(s.alice)
		return id
	}, "not in the file of --policy-signers"},
	{"stranger's key", func(s *signing) string { id := s.signed(s.alice); s.signed(s.mallory); return id }, "not in the file of --policy-signers"},
	{"taken out of the file", func(s *signing) string {
		id := s.signed(s.alice)
		s.signed(s.alice)
		_, other := sshKey(s.t, "-t", "ed25519")
		s.allow("alice@example.com "+other, "# alice@example.com "+s.alicePub)
		return id
	}, "not in the file of --policy-signers"},
	{"key of somebody else than the committer", func(s *signing) string {
		id := s.signed(s.alice)
		s.allow("bob@example.com,*@example.org " + s.alicePub)
		s.signed(s.alice)
		return id
	}, "line 2 of the file of --policy-signers allows for bob@example.com,*@example.org, not for its committer alice@example.com"},
	{"committer excepted from the pattern", func(s *signing) string {
		s.allow("*@example.com,!alice@* " + s.alicePub)
		s.signed(s.alice)
		return ""
	}, "not for its committer alice@example.com"},
	{"key for another namespace", func(s *signing) string {
		s.allow(`alice@example.com namespaces="file" ` + s.alicePub)
		s.signed(s.alice)
		return ""
	}, "namespaces file, not for git"},
	{"signature for another namespace", func(s *signing) string {
		s.unsigned()
		s.put(withHeader(s.raw(), signHeader(s.t, signerOf(s.t, s.alice), s.raw(), "file")))
		return ""
	}, `for the namespace "file"`},
	{"expired key", func(s *signing) string {
		s.allow(`alice@example.com valid-before="20200101" ` + s.alicePub)
		s.signed(s.alice)
		return ""
	}, "that is over"},
	{"expired key, commit dated back", func(s *signing) string {
		s.allow(`alice@example.com valid-before="20200101" ` + s.alicePub)
		s.forge(signerOf(s.t, s.alice), func(raw string) string { return redate(raw, 1500000000) })
		return ""
	}, "that is over"},
	{"commit from before its key", func(s *signing) string {
		s.allow(`alice@example.com valid-after="20200101" ` + s.alicePub)
		s.forge(signerOf(s.t, s.alice), func(raw string) string { return redate(raw, 1500000000) })
		return ""
	}, "dated before that"},
	{"message changed after signing", func(s *signing) string {
		s.signed(s.alice)
		s.put(s.raw() + "and more\n")
		return ""
	}, "was it changed after signing?"},
	{"files changed after signing", func(s *signing) string {
		s.signed(s.alice)
		raw := s.raw()
		s.unsigned()
		s.put("tree " + s.git("rev-parse", "HEAD^{tree}") + raw[strings.Index(raw, "\n"):])
		return ""
	}, "was it changed after signing?"},
	{"signature of another commit", func(s *signing) string {
		s.signed(s.alice)
		_, header, _ := strings.Cut(s.raw(), "gpgsig ")
		header, _, _ = strings.Cut(header, "\n\n")
		s.unsigned()
		s.put(withHeader(s.raw(), "gpgsig "+header+"\n"))
		return ""
	}, "was it changed after signing?"},
	{"OpenPGP", func(s *signing) string {
		s.unsigned()
		s.put(withHeader(s.raw(), "gpgsig -----BEGIN PGP SIGNATURE-----\n \n iQ==\n -----END PGP SIGNATURE-----\n"))
		return ""
	}, "OpenPGP; only SSH signatures count"},
	{"X.509", func(s *signing) string {
		s.unsigned()
		s.put(withHeader(s.raw(), "gpgsig -----BEGIN SIGNED MESSAGE-----\n iQ==\n -----END SIGNED MESSAGE-----\n"))
		return ""
	}, "X.509; only SSH signatures count"},
	{"nonsense for a signature", func(s *signing) string {
		s.unsigned()
		s.put(withHeader(s.raw(), "gpgsig nonsense\n"))
		return ""
	}, "only SSH signatures count"},
	{"armour around nonsense", func(s *signing) string {
		s.unsigned()
		s.put(withHeader(s.raw(), "gpgsig -----BEGIN SSH SIGNATURE-----\n U1NIU0lH\n -----END SSH SIGNATURE-----\n"))
		return ""
	}, "cannot be read"},
	{"two signatures, the first one good", func(s *signing) string { s.twice(s.alice, s.mallory); return "" }, "more than one signature header"},
	{"two signatures, the second one good", func(s *signing) string { s.twice(s.mallory, s.alice); return "" }, "more than one signature header"},
	{"one good signature twice", func(s *signing) string { s.twice(s.alice, s.alice); return "" }, "more than one signature header"},
	{"a signature for the other hash beside it", func(s *signing) string {
		s.signed(s.alice)
		s.put(withHeader(s.raw(), "gpgsig-sha256 -----BEGIN SSH SIGNATURE-----\n x\n"))
		return ""
	}, "signature header that is not understood"},
	{"a second tree among the headers", func(s *signing) string {
		s.forge(signerOf(s.t, s.alice), func(raw string) string { return withHeader(raw, "tree "+strings.Repeat("a", 40)+"\n") })
		return ""
	}, "not written as git writes commits"},
	{"a second committer among the headers", func(s *signing) string {
		s.forge(signerOf(s.t, s.mallory), func(raw string) string {
			return withHeader(raw, "committer Alice <alice@example.com> 1500000000 +0000\n")
		})
		return ""
	}, "not written as git writes commits"},
	{"a committer of two addresses", func(s *signing) string {
		s.forge(signerOf(s.t, s.alice), func(raw string) string {
			return strings.Replace(raw, "committer Alice", "committer Bob <bob@example.com>", 1)
		})
		return ""
	}, "committer without a plain e-mail address"},
	{"signed with a certificate", func(s *signing) string { s.forge(certified(s.t, s.alice), same); return "" }, "SSH certificate"},
	{"security key that was not touched", func(s *signing) string {
		k := newSecurityKey(s.t)
		k.flags = 0
		s.allow("alice@example.com " + k.line())
		s.forge(k, same)
		return ""
	}, "user presence"},
}

// twice commits with two signatures, each over the commit without any.
func (s *signing) twice(first, second string) {
	s.unsigned()
	raw := s.raw()
	s.put(withHeader(raw, signHeader(s.t, signerOf(s.t, first), raw, namespace)+signHeader(s.t, signerOf(s.t, second), raw, namespace)))
}

// redate has the commit made at that Unix time.
func redate(raw string, at int64) string {
	start := strings.Index(raw, "\ncommitter ")
	end := start + 1 + strings.Index(raw[start+1:], "\n")
	return raw[:start] + fmt.Sprintf("\ncommitter Alice <alice@example.com> %d +0000", at) + raw[end:]
}

// certified is the key with a certificate that it made for itself.
func certified(t *testing.T, file string) ssh.Signer {
	t.Helper()
	k := signerOf(t, file)
	cert := &ssh.Certificate{Key: k.PublicKey(), CertType: ssh.UserCert, ValidBefore: ssh.CertTimeInfinity, ValidPrincipals: []string{"alice@example.com"}}
	if err := cert.SignCert(rand.Reader, k); err != nil {
		t.Fatal(err)
	}
	c, err := ssh.NewCertSigner(cert, k)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// securityKey signs as a FIDO authenticator does (OpenSSH, PROTOCOL.u2f).
type securityKey struct {
	t       *testing.T
	private ed25519.PrivateKey
	public  ssh.PublicKey
	flags   byte // 1: somebody touched it
}

func newSecurityKey(t *testing.T) *securityKey {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParsePublicKey(ssh.Marshal(struct {
		Type, Key, Application string
	}{ssh.KeyAlgoSKED25519, string(public), "ssh:"}))
	if err != nil {
		t.Fatal(err)
	}
	return &securityKey{t, private, key, 1}
}

func (k *securityKey) line() string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.public)))
}

func (k *securityKey) PublicKey() ssh.PublicKey { return k.public }

func (k *securityKey) Sign(_ io.Reader, data []byte) (*ssh.Signature, error) {
	application, message := sha256.Sum256([]byte("ssh:")), sha256.Sum256(data)
	rest := binary.BigEndian.AppendUint32([]byte{k.flags}, 7)
	blob := append(append(application[:], rest...), message[:]...)
	return &ssh.Signature{Format: ssh.KeyAlgoSKED25519, Blob: ed25519.Sign(k.private, blob), Rest: rest}, nil
}

// source opens the repository where it lies, or over https.
func (s *signing) source(https bool) *Source {
	s.t.Helper()
	c := Config{Location: "file://" + s.dir, Branch: "main", Path: "policy.hujson", Signers: s.file}
	if https {
		dir := s.bare()
		base, ca := overHTTPS(s.t, filepath.Dir(dir))
		c.Location, c.CA, c.Token, c.CacheDir = base+"/policy.git", ca, secret(s.t, []byte("s3cret")), filepath.Join(s.t.TempDir(), "cache")
	}
	src, err := New(c)
	if err != nil {
		s.t.Fatal(err)
	}
	return src
}

// Every commit on the first-parent line must be signed by somebody who may.
func TestUnsignedIsRefused(t *testing.T) {
	for _, c := range unsignedLineages {
		for where, https := range map[string]bool{"local": false, "https": true} {
			t.Run(c.name+"/"+where, func(t *testing.T) {
				s := newSigning(t)
				inForce := c.make(s)
				got, err := s.source(https).Fetch(t.Context(), inForce)
				if err != nil || !strings.Contains(got.Unsigned, c.want) {
					t.Errorf("refused with %q, %v; want %q", got.Unsigned, err, c.want)
				}
				if head := s.git("rev-parse", "refs/heads/main"); got.Commit != head || got.Rewritten {
					t.Errorf("fetched %+v, want %s", got, head)
				}
			})
		}
	}
}

// A file of signers that says nothing reliable refuses what is new.
func TestSignersFileBreaks(t *testing.T) {
	for _, c := range []struct {
		name string
		harm func(file string) error
		want string
	}{
		{"missing", os.Remove, "cannot read --policy-signers"},
		{"others may write it", func(f string) error { return os.Chmod(f, 0o666) }, "chmod go-w"},
		{"broken", func(f string) error { return os.WriteFile(f, []byte("alice@example.com nonsense"), 0o600) }, "line 1: unknown option"},
		{"empty", func(f string) error { return os.Truncate(f, 0) }, "names no signer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSigning(t)
			src := s.source(false)
			id := s.signed(s.alice)
			if got, err := src.Fetch(t.Context(), ""); err != nil || got.Unsigned != "" {
				t.Fatalf("%+v, %v", got, err)
			}
			s.signed(s.alice)
			if err := c.harm(s.file); err != nil {
				t.Fatal(err)
			}
			_, err := src.Fetch(t.Context(), id)
			refused(t, err, c.want)
			_, err = src.Fetch(t.Context(), "")
			refused(t, err, c.want)
		})
	}
}

func TestSignerTakenOutBetweenFetches(t *testing.T) {
	s := newSigning(t)
	src := s.source(false)
	_, other := sshKey(t, "-t", "ed25519")
	s.allow("alice@example.com "+s.alicePub, "bob@example.com "+other)
	first := s.signed(s.alice)
	if got, err := src.Fetch(t.Context(), ""); err != nil || got.Unsigned != "" || got.Signer != "alice@example.com" {
		t.Fatalf("%+v, %v", got, err)
	}
	s.signed(s.alice)
	s.allow("bob@example.com " + other)
	got, err := src.Fetch(t.Context(), first)
	if err != nil || !strings.Contains(got.Unsigned, "not in the file") || got.Signer != "" {
		t.Errorf("%+v, %v", got, err)
	}
}

// A commit in force that lies on no first-parent line is history rewritten, and the newest commit must be signed even so.
func TestSignedRewrites(t *testing.T) {
	for _, c := range []lineage{
		{"forced push", func(s *signing) string {
			first := s.signed(s.alice)
			id := s.signed(s.alice)
			s.git("reset", "-q", "--hard", first)
			s.signed(s.alice)
			return id
		}, ""},
		{"an older commit", func(s *signing) string {
			first := s.signed(s.alice)
			id := s.signed(s.alice)
			s.git("reset", "-q", "--hard", first)
			return id
		}, ""},
		{"a commit in force that nobody has", func(s *signing) string { s.signed(s.alice); return strings.Repeat("ab", 20) }, ""},
		{"merged as a second parent", func(s *signing) string { s.besides(); return s.merge(s.alice) }, ""},
		{"merged as a second parent under an unsigned line", func(s *signing) string {
			s.besides()
			id := s.merge(s.alice)
			s.signed(s.alice)
			return id
		}, ""},
		{"forced push, not signed", func(s *signing) string {
			s.signed(s.alice)
			id := s.signed(s.alice)
			s.git("reset", "-q", "--hard", "HEAD~1")
			s.unsigned()
			return id
		}, "is not signed"},
		{"merged as a second parent, by a stranger", func(s *signing) string { s.besides(); return s.merge(s.mallory) }, "not in the file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSigning(t)
			inForce := c.make(s)
			got, err := s.source(false).Fetch(t.Context(), inForce)
			if err != nil || !got.Rewritten || (c.want == "") != (got.Unsigned == "") || !strings.Contains(got.Unsigned, c.want) {
				t.Errorf("rewritten %v, unsigned %q, %v", got.Rewritten, got.Unsigned, err)
			}
		})
	}
}

// besides makes two lines from one root: main, signed, and other, which is not and has other files.
func (s *signing) besides() {
	s.signed(s.alice)
	s.git("checkout", "-q", "-b", "other")
	s.commit("unreviewed", []byte("x"), "besides")
	s.git("checkout", "-q", "main")
	s.signed(s.alice)
}

// merge makes other, with main merged into it, the branch main: what was its head is now the second parent. It returns that.
func (s *signing) merge(key string) string {
	s.t.Helper()
	id := s.git("rev-parse", "main")
	s.git("checkout", "-q", "other")
	s.as(key, "merge", "-q", "--no-ff", "-m", "merge", "main")
	s.git("checkout", "-q", "-B", "main", "other")
	return id
}

var signedLineages = []struct {
	name   string
	make   func(s *signing) (inForce string)
	signer string
}{
	{"ed25519", func(s *signing) string { id := s.signed(s.alice); s.signed(s.alice); return id }, "alice@example.com"},
	{"ecdsa", func(s *signing) string { s.kind("ecdsa", "384"); return "" }, "alice@example.com"},
	{"rsa", func(s *signing) string { s.kind("rsa", "2048"); return "" }, "alice@example.com"},
	{"security key", func(s *signing) string {
		k := newSecurityKey(s.t)
		s.allow("alice@example.com " + k.line())
		s.forge(k, same)
		return ""
	}, "alice@example.com"},
	{"many in a row", func(s *signing) string {
		id := s.unsigned()
		for range 5 {
			s.signed(s.alice)
		}
		return id
	}, "alice@example.com"},
	{"first start, older ones unsigned", func(s *signing) string { s.unsigned(); s.signed(s.alice); return "" }, "alice@example.com"},
	{"in force already", func(s *signing) string { return s.signed(s.alice) }, "alice@example.com"},
	{"pattern", func(s *signing) string { s.allow("*@example.com " + s.alicePub); s.signed(s.alice); return "" }, "alice@example.com"},
	{"a second line for the key", func(s *signing) string {
		s.allow(`alice@example.com valid-before="20200101" `+s.alicePub, "a@x,alice@example.com "+s.alicePub)
		s.signed(s.alice)
		return ""
	}, "alice@example.com"},
	{"within its time", func(s *signing) string {
		s.allow(`alice@example.com valid-after="20200101Z",valid-before="29991231235959" ` + s.alicePub)
		s.signed(s.alice)
		return ""
	}, "alice@example.com"},
	{"merge of what is not signed", func(s *signing) string {
		s.besides()
		id := s.git("rev-parse", "main")
		s.as(s.alice, "merge", "-q", "--no-ff", "-m", "merge", "other")
		return id
	}, "alice@example.com"},
	{"the branch merged onto the commit in force, which mends unsigned commits without a forced push", func(s *signing) string {
		id := s.signed(s.alice)
		s.unsigned()
		s.signed(s.mallory)
		s.git("switch", "-q", "--detach", id)
		s.as(s.alice, "merge", "-q", "--no-ff", "-m", "merge", "main")
		s.git("branch", "-f", "main", "HEAD")
		s.git("merge-base", "--is-ancestor", "main@{1}", "main") // what was there is kept: no forced push
		return id
	}, "alice@example.com"},
	{"merge of a signed tag", func(s *signing) string {
		s.besides()
		id := s.git("rev-parse", "main")
		s.as(s.alice, "tag", "-s", "-m", "tag", "v1", "other")
		s.as(s.alice, "merge", "-q", "--no-ff", "-m", "merge", "v1")
		return id
	}, "alice@example.com"},
	{"message in another encoding", func(s *signing) string {
		s.write()
		s.as(s.alice, "-c", "i18n.commitEncoding=ISO-8859-1", "commit", "-q", "-m", "gr\xfc\xdfe")
		return ""
	}, "alice@example.com"},
	{"author of another name", func(s *signing) string {
		s.write()
		s.as(s.alice, "commit", "-q", "-m", "by Zoë", "--author", "Zoë Ångström <zoe@example.org>")
		return ""
	}, "alice@example.com"},
}

// What may come into force, and in whose name.
func TestSignedIsTaken(t *testing.T) {
	for _, c := range signedLineages {
		t.Run(c.name, func(t *testing.T) {
			s := newSigning(t)
			inForce := c.make(s)
			got, err := s.source(false).Fetch(t.Context(), inForce)
			if err != nil || got.Unsigned != "" || got.Rewritten || got.Signer != c.signer || !strings.HasPrefix(got.SignerKey, "SHA256:") {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

// kind commits with a new key of that kind.
func (s *signing) kind(name, bits string) {
	key, public := sshKey(s.t, "-t", name, "-b", bits)
	s.allow("alice@example.com " + public)
	s.signed(key)
}

// Without a file of signers nothing is asked for, and nothing claimed.
func TestNoSignersNoSignature(t *testing.T) {
	s := newSigning(t)
	s.file = ""
	s.signed(s.alice)
	got, err := s.source(false).Fetch(t.Context(), "")
	if err != nil || got.Signer+got.SignerKey+got.Unsigned != "" {
		t.Errorf("%+v, %v", got, err)
	}
}

// A shallow clone whose end comes before the commit in force is refused in words.
func TestShallowRepository(t *testing.T) {
	s := newSigning(t)
	first := s.signed(s.alice)
	for range 3 {
		s.signed(s.alice)
	}
	dir := filepath.Join(t.TempDir(), "shallow")
	s.git("clone", "-q", "--depth", "2", "file://"+s.dir, dir)
	full := s.dir
	s.dir = dir
	_, err := s.source(false).Fetch(t.Context(), first)
	refused(t, err, "git fetch --unshallow")
	s.dir = full
	if got, err := s.source(true).Fetch(t.Context(), first); err != nil || got.Unsigned != "" || got.Rewritten { // a fetch of ours is never shallow
		t.Errorf("%+v, %v", got, err)
	}
}

// An object that the store of a remote lost is fetched anew.
func TestStoreLosesObjects(t *testing.T) {
	s := newSigning(t)
	first := s.signed(s.alice)
	s.signed(s.alice)
	src := s.source(true)
	if _, err := src.Fetch(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	packs, _ := filepath.Glob(filepath.Join(src.config.CacheDir, "objects", "pack", "*"))
	if len(packs) == 0 {
		t.Fatal("nothing was fetched")
	}
	for _, p := range packs {
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
	_, err := src.Fetch(t.Context(), first)
	refused(t, err, "cannot read commit")
	if got, err := src.Fetch(t.Context(), first); err != nil || got.Unsigned != "" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestHistoryTakesTooLong(t *testing.T) {
	s := newSigning(t)
	first := s.signed(s.alice)
	s.signed(s.alice)
	src := s.source(false)
	objects, head, err := src.head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var text coordinator.PolicyText
	refused(t, src.trace(ctx, checked{objects}, first, head, &text), "took longer")
	refused(t, src.trace(ctx, checked{objects}, "", head, &text), "took longer")
}

func FuzzSignatureIn(f *testing.F) {
	f.Add([]byte("tree x\ngpgsig -----BEGIN SSH SIGNATURE-----\n U1NIU0lH\n -----END SSH SIGNATURE-----\n\nmessage"))
	f.Add([]byte("gpgsig -----BEGIN PGP\n\n"))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if sig, err := signatureIn(raw); err == nil && (sig == nil || bytes.Count(raw, []byte("gpgsig")) == 0) {
			t.Errorf("%q has the signature %+v", raw, sig)
		}
	})
}
