// Package gitpolicy reads the policy file out of a Git repository.
//
// Nothing is ever checked out and no program is run: commits, trees and the one file are read as objects. A remote's objects come
// over https or ssh into a bare store beside the coordinator's database, bounded in size and time, from one branch only; a local
// repository is read where it lies. What arrives is data of a stranger until acl has parsed it.
package gitpolicy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/go-git/go-billy/v5/osfs"

	"picket.internal/coordinator"
)

// Bounds on what a repository may make the coordinator do.
const (
	MaxPolicy  = 1 << 20          // bytes of the policy file, as acl accepts
	maxPack    = 64 << 20         // bytes fetched at once
	maxRefs    = 16 << 20         // bytes in which a https server names its branches and tags
	maxObject  = 16 << 20         // bytes of one object, unpacked
	maxObjects = 500_000          // in one fetch
	maxUnpack  = 1 << 30          // bytes of all objects of a fetch, unpacked
	maxWalk    = 200_000          // commits looked at to tell whether history was rewritten
	maxTime    = 60 * time.Second // a whole fetch
)

// Config of a Source.
type Config struct {
	Location   string // local path, file://, https:// or ssh:// URL, or user@host:path
	Branch     string
	Path       string // of the policy file inside the repository
	CacheDir   string // for a remote's objects; made when absent
	SSHKey     string // file with a private key, for ssh
	KnownHosts string // file with the server's host key, for ssh
	Token      string // file with an access token, for https
	CA         string // file with certificates to trust besides the system's, for https
	Signers    string // file of allowed signers, read at each fetch; "" asks for no signatures
}

// Source is one branch of one repository.
type Source struct {
	config  Config
	remote  *remote // nil for a local repository
	local   string  // directory of a local repository
	changed chan struct{}
}

// Error is a repository that gives no policy, in one sentence that says what to do.
type Error struct {
	Message string
	cause   error // what it came of, where that was an error; for errors.Is
}

func (e *Error) Error() string { return e.Message }

func (e *Error) Unwrap() error { return e.cause }

func refuse(format string, args ...any) error {
	e := &Error{Message: fmt.Sprintf(format, args...)}
	for _, a := range args {
		if err, ok := a.(error); ok {
			e.cause = err
		}
	}
	return e
}

// branchForm is narrower than git-check-ref-format(1): names that need more are not worth what they could smuggle.
var branchForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$`)

// New checks the configuration, reading the key, token and signers files; it does not reach for the repository yet.
func New(c Config) (*Source, error) {
	if !branchForm.MatchString(c.Branch) || strings.Contains(c.Branch, "..") || strings.Contains(c.Branch, "//") || strings.HasSuffix(c.Branch, ".lock") || strings.HasSuffix(c.Branch, "/") {
		return nil, refuse("%q is no branch name: give --policy-branch one like main", c.Branch)
	}
	if c.Path == "" || path.Clean(c.Path) != c.Path || path.IsAbs(c.Path) || c.Path == "." || strings.HasPrefix(c.Path, "../") {
		return nil, refuse("%q is no path inside a repository: give --policy-path one like policy.hujson", c.Path)
	}
	if c.Signers != "" {
		if _, err := readSigners(c.Signers); err != nil {
			return nil, err
		}
	}
	s := &Source{config: c, changed: make(chan struct{}, 1)}
	where, err := parseLocation(c.Location)
	if err != nil {
		return nil, err
	}
	if where.scheme == "file" {
		s.local, err = localRepository(where.path)
		return s, err
	}
	s.remote, err = newRemote(where, c)
	return s, err
}

// String is the location without credentials, the branch and the file.
func (s *Source) String() string {
	at := s.local
	if s.remote != nil {
		at = s.remote.where.String()
	}
	return fmt.Sprintf("%s, branch %s, file %s", at, s.config.Branch, s.config.Path)
}

// Changed has a value soon after a local repository's branch moved; a remote tells by webhook or is polled.
func (s *Source) Changed() <-chan struct{} { return s.changed }

// Fetch returns the policy at the branch's head. Every error that a person can mend is an *Error.
func (s *Source) Fetch(ctx context.Context, inForce string) (coordinator.PolicyText, error) {
	ctx, cancel := context.WithTimeout(ctx, maxTime)
	defer cancel()
	objects, head, err := s.head(ctx)
	if err != nil {
		return coordinator.PolicyText{}, err
	}
	text, err := readPolicy(checked{objects}, head, s.config.Path)
	if err == nil {
		err = s.trace(ctx, checked{objects}, inForce, head, &text)
	}
	if errors.Is(err, plumbing.ErrObjectNotFound) && s.remote != nil {
		s.remote.forget(head)
	}
	if err != nil {
		return coordinator.PolicyText{}, err
	}
	return text, nil
}

// trace says how head came of the commit in force, and who stands for it. The file of signers is read last, after a fetch that may have taken its
// time; one that cannot be read refuses whatever is new, and leaves in force what is.
func (s *Source) trace(ctx context.Context, objects storer.EncodedObjectStorer, inForce string, head plumbing.Hash, text *coordinator.PolicyText) (err error) {
	if s.config.Signers != "" {
		allowed, err := readSigners(s.config.Signers)
		if err != nil {
			return err
		}
		return vouch(ctx, objects, allowed, plumbing.NewHash(inForce), head, text)
	}
	if inForce != "" && inForce != text.Commit {
		text.Rewritten, err = rewritten(ctx, objects, plumbing.NewHash(inForce), head)
	}
	return err
}

// head returns the objects and the commit the branch points at.
func (s *Source) head(ctx context.Context) (storer.EncodedObjectStorer, plumbing.Hash, error) {
	if s.remote != nil {
		return s.remote.fetch(ctx, s.config.Branch)
	}
	if _, err := os.Stat(path.Join(s.local, "objects")); err != nil {
		return nil, plumbing.ZeroHash, refuse("the repository %s is gone: bring it back, or start with another --policy-repo", s.local)
	}
	store := openStore(s.local)
	ref, err := storer.ResolveReference(store, plumbing.NewBranchReferenceName(s.config.Branch))
	if errors.Is(err, plumbing.ErrReferenceNotFound) {
		return nil, plumbing.ZeroHash, noBranch(s.local, s.config.Branch, isEmpty(store))
	}
	if err != nil {
		return nil, plumbing.ZeroHash, refuse("cannot read branch %s of %s: %v: run `git fsck` there", s.config.Branch, s.local, err)
	}
	return store, ref.Hash(), nil
}

func noBranch(where, branch string, empty bool) error {
	if empty {
		return refuse("the repository %s is empty: commit a policy file on branch %s and push it", where, branch)
	}
	return refuse("%s has no branch %s: push it again, or name another with --policy-branch", where, branch)
}

func isEmpty(s storer.ReferenceStorer) bool {
	refs, err := s.IterReferences()
	if err != nil {
		return false
	}
	empty := true
	_ = refs.ForEach(func(r *plumbing.Reference) error {
		if r.Type() == plumbing.HashReference {
			empty = false
		}
		return nil
	})
	return empty
}

// openStore opens a directory's objects and references afresh, so that no pack list or reference of an earlier look is kept.
func openStore(dir string) *filesystem.Storage {
	return filesystem.NewStorageWithOptions(osfs.New(dir, osfs.WithBoundOS()), cache.NewObjectLRU(8*cache.MiByte),
		filesystem.Options{LargeObjectThreshold: MaxPolicy})
}

// localRepository finds the Git directory of a path: itself when bare, else its .git.
func localRepository(dir string) (string, error) {
	for _, d := range []string{path.Join(dir, ".git"), dir} {
		if info, err := os.Stat(path.Join(d, "objects")); err == nil && info.IsDir() {
			return d, nil
		}
	}
	if _, err := os.Stat(dir); err != nil {
		return "", refuse("there is no %s: give --policy-repo the path of a Git repository, or a https:// or ssh:// URL", dir)
	}
	return "", refuse("%s is no Git repository: make one with `git init`, or use --policy-file for a plain file", dir)
}
