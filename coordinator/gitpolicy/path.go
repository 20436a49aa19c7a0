package gitpolicy

import (
	"context"
	"fmt"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"

	"picket.internal/coordinator"
)

// maxLine is how many commits may lie between the commit in force and the newest where signatures are asked for.
const maxLine = 10_000

// vouch fills in who signed the newest commit, whether the history since the commit in force was rewritten, and why it does not count as signed.
//
// Every commit of the first-parent line since the commit in force must be signed: each was the branch's head, or is said to have been. What a
// merge brings in by its other parents needs no signature, because nothing there is ever in force by itself: whoever signs the merge signs
// the tree that comes of it. By the same reason the commit in force must lie on that line. Somebody who merges it as a second parent
// has made another line the branch, one that need not hold what was in force; that is history rewritten, as with a forced push.
func vouch(ctx context.Context, objects storer.EncodedObjectStorer, allowed signers, inForce, head plumbing.Hash, text *coordinator.PolicyText) error {
	line, found, err := firstParents(ctx, objects, inForce, head)
	if err != nil {
		return err
	}
	if !found { // whether that is accepted is the operator's to say; the commit itself must be signed all the same
		text.Rewritten, line = true, line[:1]
	}
	now := time.Now()
	for i := len(line) - 1; i >= 0; i-- { // from the oldest, which is where mending has to begin
		if ctx.Err() != nil {
			return outOfTime()
		}
		who, err := allowed.verify(objects, line[i], now)
		if err != nil {
			text.Unsigned = unsigned(line[i], head, inForce, err)
			return nil
		}
		text.Signer, text.SignerKey = who.principal, who.key
	}
	return nil
}

func unsigned(bad, head, inForce plumbing.Hash, why error) string {
	if bad == head {
		return fmt.Sprintf("commit %s %v", short(bad), why)
	}
	return fmt.Sprintf("commit %s, which lies between %s, in force, and %s, %v", short(bad), short(inForce), short(head), why)
}

// firstParents are the commits from head back over first parents to old, newest first and without old itself, at least head; found says whether
// old was met at all, among the newest maxLine.
func firstParents(ctx context.Context, objects storer.EncodedObjectStorer, old, head plumbing.Hash) (line []plumbing.Hash, found bool, err error) {
	line = []plumbing.Hash{head}
	if old.IsZero() || old == head {
		return line, true, nil
	}
	for at := head; len(line) <= maxLine; line = append(line, at) {
		if ctx.Err() != nil {
			return nil, false, outOfTime()
		}
		commit, err := object.GetCommit(objects, at)
		if err != nil {
			return nil, false, unreadable(at, err)
		}
		if len(commit.ParentHashes) == 0 {
			return line, false, nil
		}
		if at = commit.ParentHashes[0]; at == old {
			return line, true, nil
		}
	}
	return line, false, nil
}

func outOfTime() error {
	return refuse("looking through the history took longer than %v: keep the policy in a repository of its own", maxTime)
}
