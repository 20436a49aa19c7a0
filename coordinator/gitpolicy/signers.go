package gitpolicy

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"
)

// Bounds on a file of allowed signers.
const (
	maxSigners    = 256 << 10 // bytes
	maxSignerLine = 16 << 10  // bytes; the longest RSA key takes 3 KiB
)

// namespace is what git signs commits for (git-config(1), gpg.format; ssh-keygen(1), -n).
const namespace = "git"

// signers are the lines of an allowed-signers file (ssh-keygen(1), ALLOWED SIGNERS).
type signers []signer

// signer is one line: one key, and whom and when it may sign for.
type signer struct {
	line       int
	principals string // pattern list
	namespaces string // pattern list; "" for any
	after      time.Time
	before     time.Time // zero for neither
	key        ssh.PublicKey
}

// readSigners reads the file afresh, so that a signer taken out of it bites with the next fetch. An error is an *Error.
func readSigners(file string) (signers, error) {
	text, err := readGuarded(file)
	if err != nil {
		return nil, err
	}
	all, err := parseSigners(text)
	if err != nil {
		return nil, refuse("--policy-signers %s, %v", file, err)
	}
	return all, nil
}

// readGuarded reads a file that nobody but its owner may write: whoever can write it decides who may sign policy.
func readGuarded(file string) ([]byte, error) {
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() {
		return nil, refuse("--policy-signers %s is no plain file", file) // and reading a named pipe could take for ever
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, refuse("cannot read --policy-signers: %v", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, refuse("cannot read --policy-signers: %v", err)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return nil, refuse("others than its owner may write --policy-signers %s (mode %04o), and so decide who may sign policy: chmod go-w it", file, info.Mode().Perm())
	}
	if !ownedByUsOrRoot(info) {
		return nil, refuse("--policy-signers %s belongs to another user than root or the coordinator's own, who could decide who may sign policy: chown it", file)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSigners+1))
	if err != nil {
		return nil, refuse("cannot read --policy-signers: %v", err)
	}
	if len(text) > maxSigners {
		return nil, refuse("--policy-signers %s has more than %d bytes", file, maxSigners)
	}
	return text, nil
}

// parseSigners refuses a whole file for one line that it does not understand: leaving such a line out could leave out its restriction.
func parseSigners(text []byte) (signers, error) {
	var all signers
	number := 0
	for line := range bytes.Lines(text) {
		number++
		line = bytes.Trim(line, " \t\r\n")
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		if len(line) > maxSignerLine {
			return nil, fmt.Errorf("line %d: it is longer than %d bytes", number, maxSignerLine)
		}
		s, err := parseSigner(string(line))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		s.line = number
		all = append(all, s)
	}
	if len(all) == 0 {
		return nil, errors.New("line 1: it names no signer: add a line like `alice@example.com ssh-ed25519 AAAA…`")
	}
	return all, nil
}

// parseSigner reads PRINCIPALS [OPTIONS] KEYTYPE BASE64 [COMMENT].
func parseSigner(line string) (signer, error) {
	if !utf8.ValidString(line) || strings.ContainsRune(line, 0) {
		return signer{}, errors.New("it is not text")
	}
	var s signer
	principals, rest := cutWord(line)
	if isKeyType(principals) {
		return s, errors.New("it begins with a key: write before it whom it may sign for, like alice@example.com")
	}
	if err := checkPatterns(principals); err != nil {
		return s, fmt.Errorf("principals %.80q: %w", principals, err)
	}
	s.principals = principals
	word, after := cutWord(rest)
	if !isKeyType(word) { // OpenSSH, too, tries for a key first and takes what is none for options
		if err := s.parseOptions(word); err != nil {
			return s, err
		}
		word, after = cutWord(after)
	}
	var err error
	s.key, err = parseKey(word, after)
	return s, err
}

// cutWord splits after the first word; double quotes keep spaces in it.
func cutWord(s string) (word, rest string) {
	s = strings.TrimLeft(s, " \t")
	quoted := false
	for i, c := range []byte(s) {
		switch {
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ' ' || c == '\t'):
			return s[:i], s[i:]
		}
	}
	return s, ""
}

// checkPatterns refuses what ssh-keygen would read in a way that nobody means.
func checkPatterns(list string) error {
	if strings.ContainsAny(list, `"\ `) {
		return errors.New("write them without quotes and spaces")
	}
	positive := false
	for _, p := range strings.Split(list, ",") {
		bare, negated := strings.CutPrefix(p, "!")
		if bare == "" {
			return errors.New("one of them is empty")
		}
		positive = positive || !negated
	}
	if !positive {
		return errors.New("all of them are negated, so that none can match: add a pattern to take exceptions from")
	}
	return nil
}

// isKeyType tells a key from options by the names that all of OpenSSH's key types begin with.
func isKeyType(word string) bool {
	for _, prefix := range []string{"ssh-", "ecdsa-", "sk-", "rsa-", "webauthn-"} {
		if strings.HasPrefix(word, prefix) {
			return true
		}
	}
	return false
}

// parseOptions reads comma-separated options; their names are the same in capitals.
func (s *signer) parseOptions(text string) error {
	seen := map[string]bool{}
	for _, option := range splitOptions(text) {
		name, value, has := strings.Cut(option, "=")
		name = strings.ToLower(name)
		if seen[name] {
			return fmt.Errorf("the option %s is given twice", name)
		}
		seen[name] = true
		if bare, ok := strings.CutPrefix(value, `"`); ok {
			if value, ok = strings.CutSuffix(bare, `"`); !ok || strings.Contains(value, `"`) {
				return fmt.Errorf("the option %s lacks a quotation mark", name)
			}
		}
		if err := s.setOption(name, value, has); err != nil {
			return err
		}
	}
	if !s.after.IsZero() && !s.before.IsZero() && !s.after.Before(s.before) {
		return errors.New("valid-before is not later than valid-after: the key would never be valid")
	}
	return nil
}

func splitOptions(text string) []string {
	quoted := false
	return strings.FieldsFunc(text, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return r == ',' && !quoted
	})
}

func (s *signer) setOption(name, value string, hasValue bool) (err error) {
	switch name {
	case "cert-authority":
		return errors.New("cert-authority is not supported, since Picket verifies no SSH certificates: list each signer's own key")
	case "namespaces", "valid-after", "valid-before":
		if !hasValue || value == "" {
			return fmt.Errorf("the option %s needs a value", name)
		}
	default:
		return fmt.Errorf("unknown option %.40q: there are namespaces, valid-after and valid-before, and after them comes the key", name)
	}
	switch name {
	case "namespaces":
		s.namespaces, err = value, checkPatterns(value)
	case "valid-after":
		s.after, err = parseStamp(value)
	case "valid-before":
		s.before, err = parseStamp(value)
	}
	if err != nil {
		return fmt.Errorf("%s=%.40q: %w", name, value, err)
	}
	return nil
}

// parseStamp reads YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, in local time, or in UTC with a Z behind.
func parseStamp(text string) (time.Time, error) {
	digits, utc := strings.CutSuffix(text, "Z")
	zone := time.Local
	if utc {
		zone = time.UTC
	}
	for _, form := range []string{"20060102", "200601021504", "20060102150405"} {
		if len(digits) != len(form) || strings.Trim(digits, "0123456789") != "" {
			continue
		}
		if t, err := time.ParseInLocation(form, digits, zone); err == nil {
			return t, nil
		}
	}
	return time.Time{}, errors.New("write a time as YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, with a Z behind for UTC")
}

// parseKey reads the key whose type is kind from the base64 word that rest begins with.
func parseKey(kind, rest string) (ssh.PublicKey, error) {
	if strings.Contains(kind, "-cert-v0") {
		return nil, errors.New("it holds an SSH certificate: list the signer's plain public key")
	}
	switch kind {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSA, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
	case "":
		return nil, errors.New("it has no key: write PRINCIPALS [OPTIONS] KEYTYPE KEY, as in a .pub file")
	default:
		return nil, fmt.Errorf("%.40q is no key type that can sign here: use ed25519, ecdsa, rsa, or a security key", kind)
	}
	word, _ := cutWord(rest)
	raw, err := base64.StdEncoding.DecodeString(word)
	if err != nil || len(raw) == 0 {
		return nil, errors.New("its key is not base64: copy the whole line of the .pub file")
	}
	key, err := ssh.ParsePublicKey(raw)
	if err != nil {
		return nil, fmt.Errorf("its key is damaged (%v): copy the whole line of the .pub file", err)
	}
	if key.Type() != kind {
		return nil, fmt.Errorf("it says %s, but its key is %s", kind, key.Type())
	}
	return key, strongEnough(key)
}
