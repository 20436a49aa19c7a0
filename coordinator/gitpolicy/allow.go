package gitpolicy

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// minRSA is the shortest RSA modulus that may sign, in bits.
const minRSA = 2048

func strongEnough(key ssh.PublicKey) error {
	c, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return nil
	}
	if r, ok := c.CryptoPublicKey().(*rsa.PublicKey); ok && r.N.BitLen() < minRSA {
		return fmt.Errorf("its RSA key has %d bits; at least %d are needed: make another with ssh-keygen -t ed25519", r.N.BitLen(), minRSA)
	}
	return nil
}

// allow reports nil when a line of the file lets key sign for principal a commit that was made at the time made and is taken now; else why
// none does, to follow "the commit is signed by KEY, ".
//
// Both times must lie within the key's validity. The commit's own time is what git and ssh-keygen go by; but its signer writes it, so whoever
// has stolen a key that has since expired, or that its owner let expire because it was stolen, would only have to date a commit back. That is
// what the second comparison stops: an expired key puts nothing new in force, whatever it says. The first still counts, so that a commit
// dated out of its key's time, which other tools would refuse, is not taken here either.
func (all signers) allow(key ssh.PublicKey, principal string, made, now time.Time) error {
	blob := key.Marshal()
	var why error
	for _, s := range all {
		if !bytes.Equal(s.key.Marshal(), blob) {
			continue
		}
		err := s.allow(principal, made, now)
		if err == nil {
			return nil
		}
		why = err
	}
	if why == nil {
		why = errors.New("which is not in the file of --policy-signers")
	}
	return why
}

func (s *signer) allow(principal string, made, now time.Time) error {
	switch {
	case !matchesList(principal, s.principals):
		return fmt.Errorf("which line %d of the file of --policy-signers allows for %s, not for its committer %s", s.line, s.principals, principal)
	case s.namespaces != "" && !matchesList(namespace, s.namespaces):
		return fmt.Errorf("which line %d of the file of --policy-signers allows for namespaces %s, not for %s", s.line, s.namespaces, namespace)
	case !s.before.IsZero() && now.After(s.before):
		return fmt.Errorf("which line %d of the file of --policy-signers lets sign until %s: that is over, so nothing new is taken from it", s.line, stamp(s.before))
	case !s.before.IsZero() && made.After(s.before):
		return fmt.Errorf("which line %d of the file of --policy-signers lets sign until %s, and dated after that, %s", s.line, stamp(s.before), stamp(made))
	case now.Before(s.after):
		return fmt.Errorf("which line %d of the file of --policy-signers lets sign from %s on: that is still to come", s.line, stamp(s.after))
	case made.Before(s.after):
		return fmt.Errorf("which line %d of the file of --policy-signers lets sign from %s on, and dated before that, %s", s.line, stamp(s.after), stamp(made))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// matchesList reports whether a pattern of the comma-separated list matches s and none that is negated with ! does (ssh_config(5), PATTERNS).
func matchesList(s, list string) bool {
	matches := false
	for _, p := range strings.Split(list, ",") {
		if bare, negated := strings.CutPrefix(p, "!"); negated {
			if matchesPattern(s, bare) {
				return false
			}
			continue
		}
		matches = matches || matchesPattern(s, p)
	}
	return matches
}

// matchesPattern knows * (any bytes) and ? (one byte). It goes back to the last * only, so its time is at most len(s) times len(p).
func matchesPattern(s, p string) bool {
	i, j := 0, 0
	star, from := -1, 0
	for i < len(s) {
		switch {
		case j < len(p) && p[j] == '*':
			star, from = j, i
			j++
		case j < len(p) && (p[j] == '?' || p[j] == s[i]):
			i++
			j++
		case star >= 0:
			from++
			i, j = from, star+1
		default:
			return false
		}
	}
	return strings.Trim(p[j:], "*") == ""
}
