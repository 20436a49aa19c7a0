package gitpolicy

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

const (
	maxCommit = 1 << 20 // bytes of a commit that is to be verified
	maxEmail  = 254     // bytes (RFC 5321, 4.5.3.1.3, less the angle brackets)
)

// vouched is who signed a commit.
type vouched struct {
	principal string // the committer's e-mail address, for which the key may sign
	key       string // the key's fingerprint, SHA256:…
}

// verify returns who signed the commit, or why its signature counts for nothing, to follow "commit ID ". The bytes that the signature is
// checked over are those that hash to the commit's id (checked), less the one signature header.
func (all signers) verify(objects storer.EncodedObjectStorer, id plumbing.Hash, now time.Time) (vouched, error) {
	var none vouched
	o, err := objects.EncodedObject(plumbing.CommitObject, id)
	if err != nil {
		return none, fmt.Errorf("cannot be read: %w", err)
	}
	raw, err := bytesOf(o)
	if err != nil {
		return none, fmt.Errorf("cannot be read: %w", err)
	}
	sig, err := signatureIn(raw)
	if err != nil {
		return none, err
	}
	commit, err := decode(o, raw)
	if err != nil {
		return none, err
	}
	payload := &plumbing.MemoryObject{}
	if err := commit.EncodeWithoutSignature(payload); err != nil {
		return none, fmt.Errorf("cannot be encoded without its signature: %w", err)
	}
	signed, err := bytesOf(payload)
	if err != nil {
		return none, err
	}
	if err := sshsig.Verify(bytes.NewReader(signed), sig, sig.PublicKey, sig.HashAlgorithm, namespace); err != nil {
		return none, fmt.Errorf("carries a signature that does not verify (%v): was it changed after signing?", err)
	}
	key := ssh.FingerprintSHA256(sig.PublicKey)
	if err := all.allow(sig.PublicKey, commit.Committer.Email, commit.Committer.When, now); err != nil {
		return none, fmt.Errorf("is signed by the key %s, %w", key, err)
	}
	return vouched{commit.Committer.Email, key}, nil
}

// signatureIn returns the commit's only signature, when it is one that could count. A second header would let one program verify the first and
// another the second; go-git would read the two as one.
func signatureIn(raw []byte) (*sshsig.Signature, error) {
	if len(raw) > maxCommit {
		return nil, fmt.Errorf("has %d bytes; at most %d are verified", len(raw), maxCommit)
	}
	found, err := signatureHeaders(raw)
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, errors.New("is not signed: sign it with `git commit -S` and an SSH key")
	case len(found) > 1:
		return nil, errors.New("has more than one signature header: make it anew with one")
	case strings.HasPrefix(found[0], "-----BEGIN PGP"):
		return nil, errors.New("is signed with OpenPGP; only SSH signatures count: set gpg.format to ssh and sign it anew")
	case strings.HasPrefix(found[0], "-----BEGIN SIGNED MESSAGE"):
		return nil, errors.New("is signed with X.509; only SSH signatures count: set gpg.format to ssh and sign it anew")
	}
	block, rest := pem.Decode([]byte(found[0]))
	if !strings.HasPrefix(found[0], "-----BEGIN "+sshsig.PEMType+"-----\n") || block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("has a signature that is none of SSH: only SSH signatures count")
	}
	sig, err := sshsig.ParseSignature(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("has an SSH signature that cannot be read (%v)", err)
	}
	return sig, usable(sig)
}

func usable(sig *sshsig.Signature) error {
	if _, is := sig.PublicKey.(*ssh.Certificate); is {
		return errors.New("is signed with an SSH certificate; only plain keys count: sign it with the key itself")
	}
	if sig.Namespace != namespace {
		return fmt.Errorf("carries a signature for the namespace %.40q, not for %s: sign it with `git commit -S`", sig.Namespace, namespace)
	}
	return nil
}

// signatureHeaders returns the values of the headers whose names begin with gpgsig, continuation lines joined (gitformat-signature(5)).
func signatureHeaders(raw []byte) (found []string, err error) {
	headers, _, _ := bytes.Cut(raw, []byte("\n\n"))
	open := false
	for line := range strings.Lines(string(headers) + "\n") {
		switch {
		case line[0] == ' ':
			if open {
				found[len(found)-1] += line[1:]
			}
		case strings.HasPrefix(line, "gpgsig "):
			open = true
			found = append(found, line[len("gpgsig "):])
		case strings.HasPrefix(line, "gpgsig"):
			return nil, fmt.Errorf("has a signature header that is not understood, %.40q: make it anew", strings.TrimSpace(line))
		default:
			open = false
		}
	}
	return found, nil
}

// decode reads the commit, and refuses one that says anything go-git does not understand as git does: what we took it to say, written down
// again with its signature, must be the very bytes that were hashed and signed. So no header can hide a second tree, parent or committer.
func decode(o plumbing.EncodedObject, raw []byte) (*object.Commit, error) {
	commit := &object.Commit{}
	if err := commit.Decode(o); err != nil {
		return nil, fmt.Errorf("is malformed: %w", err)
	}
	again := &plumbing.MemoryObject{}
	if err := commit.Encode(again); err != nil {
		return nil, fmt.Errorf("is malformed: %w", err)
	}
	text, err := bytesOf(again)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(text, raw) {
		return nil, errors.New("is not written as git writes commits, so that programs may read it differently: make it anew")
	}
	return commit, plainAddress(commit.Committer)
}

// plainAddress refuses committers of whom git would show another address than the one we compare.
func plainAddress(committer object.Signature) error {
	odd := func(r rune) bool { return !unicode.IsPrint(r) || r == ' ' || r == '<' || r == '>' || r == '�' }
	if e := committer.Email; e == "" || len(e) > maxEmail || strings.ContainsFunc(e, odd) || strings.ContainsAny(committer.Name, "<>") {
		return errors.New("has a committer without a plain e-mail address: set user.email and make it anew")
	}
	return nil
}
