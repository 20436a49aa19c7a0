//go:build linux

package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"picket.internal/integration/lab"
)

// policySigner is a person who signs policy with an SSH key.
type policySigner struct{ key, public, fingerprint string }

func newPolicySigner(t *testing.T) policySigner {
	t.Helper()
	s := policySigner{key: filepath.Join(t.TempDir(), "key")}
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", s.key).CombinedOutput(); err != nil {
		t.Skipf("ssh-keygen: %v %s (apt-get install openssh-client)", err, out)
	}
	text, err := os.ReadFile(s.key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("ssh-keygen", "-l", "-f", s.key+".pub").Output()
	if err != nil {
		t.Fatal(err)
	}
	s.public, s.fingerprint = strings.TrimSpace(string(text)), strings.Fields(string(out))[1]
	return s
}

// signed commits the policy with s's signature: the commit's id.
func (n *network) signed(s policySigner, text string) string {
	n.t.Helper()
	n.must(os.WriteFile(filepath.Join(n.policy.Dir, "policy.hujson"), []byte(text), 0o644))
	_, err := n.policy.Git(n.ctx, "add", "policy.hujson")
	n.must(err)
	_, err = n.policy.Git(n.ctx, "-c", "gpg.format=ssh", "-c", "user.signingkey="+s.key, "-c", "commit.gpgsign=true", "commit", "-q", "--allow-empty", "-m", "signed")
	n.must(err)
	return n.head()
}

// TestPolicySigners runs a coordinator that asks for signatures: unsigned and foreign commits are refused with their reasons, as is what is built on
// them; signed ones land in their signers' names; and a signer who is taken out of the file signs nothing more.
func TestPolicySigners(t *testing.T) {
	w, ctx := world(t, true)
	repo, err := lab.NewPolicyRepo(ctx, filepath.Join(t.TempDir(), "policy"))
	if err != nil {
		t.Fatal(err)
	}
	n := &network{World: w, t: t, ctx: ctx, policy: repo}
	team, stranger := newPolicySigner(t), newPolicySigner(t)
	allowed := file(t, []byte("# who may sign policy\nsecurity@example.com namespaces=\"git\" "+team.public+"\n"))
	n.commit(policyFor(`"tcp:1"`))
	n.coordinator, err = n.host("coordinator").StartCoordinator(ctx, "--policy-repo", repo.Dir, "--policy-signers", allowed)
	n.must(err)
	n.eventually("the unsigned first commit is refused", func() error { return n.policySays("no policy in force: nothing may pass", n.head(), "is not signed") })

	first := n.signed(team, policyFor(`"tcp:2"`))
	n.eventually("a signed commit is in force", func() error { return n.signerInForce(first, team) })
	must := func(what string, words ...string) {
		t.Helper()
		n.eventually(what, func() error { return n.policySays(words...) })
		n.must(n.signerInForce(first, team))
	}
	bad := n.commit(policyFor(`"tcp:3"`))
	must("an unsigned commit is refused", "commit "+bad+" is NOT in force", "commit "+bad[:12]+" is not signed: sign it with `git commit -S`")
	head := n.signed(team, policyFor(`"tcp:4"`))
	must("a signature does not cover the commit below", "commit "+head+" is NOT in force", "commit "+bad[:12]+", which lies between "+first[:12])
	n.reset(first)
	bad = n.signed(stranger, policyFor(`"tcp:5"`))
	must("a stranger's commit is refused", "commit "+bad+" is NOT in force", "is signed by the key "+stranger.fingerprint+", which is not in the file")
	_, err = n.coordinator.CLI(ctx, "policy", "reload", "--accept", bad)
	says(t, err, 1, "the newer policy was refused")

	n.reset(first)
	second := n.signed(team, policyFor(`"tcp:6"`))
	n.eventually("the next signed commit is in force", func() error { return n.signerInForce(second, team) })
	if out := n.operate("policy", "status"); !strings.Contains(out, "security@example.com, key "+team.fingerprint) || strings.Contains(out, "NOT in force") {
		t.Errorf("policy status does not name the signer:\n%s", out)
	}
	if out := n.operate("audit", "list"); !strings.Contains(out, "(signed by security@example.com, key "+team.fingerprint+")") {
		t.Errorf("the audit log does not name the signer:\n%s", lastLines(out))
	}
	n.must(os.WriteFile(allowed, []byte("security@example.com "+stranger.public+"\n"), 0o600))
	third := n.signed(team, policyFor(`"tcp:7"`))
	n.eventually("who was taken out signs nothing more", func() error { return n.policySays("commit "+third+" is NOT in force", "which is not in the file") })
	n.must(n.signerInForce(second, team))
}

// reset brings the branch back to a commit.
func (n *network) reset(id string) {
	n.t.Helper()
	_, err := n.policy.Git(n.ctx, "reset", "-q", "--hard", id)
	n.must(err)
}

// policySays checks that the status holds the words.
func (n *network) policySays(words ...string) error {
	out, err := n.coordinator.CLI(n.within(10*time.Second), "policy", "status")
	if err != nil {
		return err
	}
	for _, word := range words {
		if !strings.Contains(out, word) {
			return fmt.Errorf("policy status does not say %q:\n%s", word, out)
		}
	}
	return nil
}

// signerInForce checks which commit is in force, and in whose name.
func (n *network) signerInForce(id string, s policySigner) error {
	var st struct{ Commit, Signer, SignerKey string }
	if err := n.coordinator.JSON(n.ctx, &st, "policy", "status"); err != nil {
		return err
	}
	if st.Commit != id || st.Signer != "security@example.com" || st.SignerKey != s.fingerprint {
		return errors.Join(fmt.Errorf("in force is %+v, not %s", st, id), n.policySays())
	}
	return nil
}
