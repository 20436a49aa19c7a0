package gitpolicy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"

	"picket.internal/coordinator"
)

// readPolicy reads one file of one commit. The file's size is looked at before its content.
func readPolicy(objects storer.EncodedObjectStorer, head plumbing.Hash, path string) (coordinator.PolicyText, error) {
	var none coordinator.PolicyText
	commit, err := object.GetCommit(objects, head)
	if err != nil {
		return none, unreadable(head, err)
	}
	tree, err := object.GetTree(objects, commit.TreeHash)
	if err != nil {
		return none, refuse("cannot read the files of commit %s: %v", short(head), err)
	}
	entry, err := tree.FindEntry(path)
	if errors.Is(err, object.ErrEntryNotFound) || errors.Is(err, object.ErrDirectoryNotFound) {
		return none, refuse("commit %s has no file %s: add it, or name another with --policy-path", short(head), path)
	}
	if err != nil {
		return none, refuse("cannot find %s in commit %s: %v", path, short(head), err)
	}
	if entry.Mode != filemode.Regular && entry.Mode != filemode.Executable {
		return none, refuse("%s in commit %s is no plain file (mode %s): links and submodules are not followed", path, short(head), entry.Mode)
	}
	text, err := readBlob(objects, entry.Hash, path, head)
	if err != nil {
		return none, err
	}
	return coordinator.PolicyText{
		Text:    text,
		Commit:  head.String(),
		Author:  oneLine(fmt.Sprintf("%s <%s>", commit.Author.Name, commit.Author.Email), 200),
		Subject: oneLine(commit.Message, 200),
		Time:    commit.Committer.When.UTC(),
	}, nil
}

func readBlob(objects storer.EncodedObjectStorer, hash plumbing.Hash, path string, head plumbing.Hash) ([]byte, error) {
	size, err := objects.EncodedObjectSize(hash)
	if err != nil {
		return nil, refuse("cannot read %s in commit %s: %v", path, short(head), err)
	}
	if size > MaxPolicy {
		return nil, tooLarge(path, head, size)
	}
	blob, err := object.GetBlob(objects, hash)
	if err != nil {
		return nil, refuse("cannot read %s in commit %s: %v", path, short(head), err)
	}
	r, err := blob.Reader()
	if err != nil {
		return nil, refuse("cannot read %s in commit %s: %v", path, short(head), err)
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, MaxPolicy+1))
	if err == nil && len(text) > MaxPolicy {
		err = tooLarge(path, head, int64(len(text)))
	}
	return text, err
}

func tooLarge(path string, head plumbing.Hash, size int64) error {
	return refuse("%s in commit %s has %d bytes; a policy may have at most %d: use groups and wider rules, or look whether the right file was committed", path, short(head), size, MaxPolicy)
}

// rewritten reports whether old is no ancestor of head, or none among the newest maxWalk.
func rewritten(ctx context.Context, objects storer.EncodedObjectStorer, old, head plumbing.Hash) (bool, error) {
	seen := map[plumbing.Hash]bool{head: true}
	for queue := []plumbing.Hash{head}; len(queue) > 0; queue = queue[1:] {
		if queue[0] == old {
			return false, nil
		}
		if len(seen) > maxWalk { // so far back that the operator has to say it is right
			return true, nil
		}
		if ctx.Err() != nil {
			return false, outOfTime()
		}
		commit, err := object.GetCommit(objects, queue[0])
		if err != nil {
			return false, unreadable(queue[0], err)
		}
		for _, parent := range commit.ParentHashes {
			if !seen[parent] {
				seen[parent] = true
				queue = append(queue, parent)
			}
		}
	}
	return true, nil
}

// unreadable is an object that is missing, damaged, or not what its name says.
func unreadable(id plumbing.Hash, err error) error {
	return refuse("cannot read commit %s: %v: run `git fsck` in the repository, and `git fetch --unshallow` if it is a shallow clone", short(id), err)
}

func short(h plumbing.Hash) string { return h.String()[:12] }

// oneLine is the first line of s without control characters, at most n runes: it goes to logs, tables and pages.
func oneLine(s string, n int) string {
	s, _, _ = strings.Cut(s, "\n")
	clean := []rune(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '�'
	}, strings.ToValidUTF8(strings.TrimSpace(s), "�")))
	if len(clean) > n {
		clean = append(clean[:n-1], '…')
	}
	return string(clean)
}
