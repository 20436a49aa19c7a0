package gitpolicy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/plumbing/transport"
)

// heldRef remembers the newest commit whose history is complete in the store.
const heldRef = plumbing.ReferenceName("refs/picket/held")

// maxPacks is how many fetches a store takes before it is made anew, so that it cannot grow for ever.
const maxPacks = 64

// remote fetches one branch of a repository elsewhere.
type remote struct {
	where     location
	transport transport.Transport
	auth      transport.AuthMethod // nil for none
	endpoint  *transport.Endpoint
	dir       string        // the bare store
	busy      sync.Mutex    // one fetch at a time, also when an earlier one hangs in a server that went silent
	forgotten plumbing.Hash // by busy: the head for which the store was last given up
}

// fetched is what one fetch came to.
type fetched struct {
	objects storer.EncodedObjectStorer
	head    plumbing.Hash
	err     error
}

// fetch brings the branch's head and returns the store it is in.
func (r *remote) fetch(ctx context.Context, branch string) (storer.EncodedObjectStorer, plumbing.Hash, error) {
	if !r.busy.TryLock() {
		return nil, plumbing.ZeroHash, refuse("%s has not answered an earlier fetch yet: is it overloaded?", r.where)
	}
	result := make(chan fetched, 1)
	go func() { // an ssh handshake heeds no context, so it is left behind when time is up
		objects, head, err := r.session(ctx, branch)
		r.busy.Unlock() // first, or whoever takes the result may find the next fetch refused
		result <- fetched{objects, head, err}
	}()
	select {
	case f := <-result:
		return f.objects, f.head, f.err
	case <-ctx.Done():
		return nil, plumbing.ZeroHash, refuse("%s did not answer in time: is it reachable from here?", r.where)
	}
}

func (r *remote) session(ctx context.Context, branch string) (storer.EncodedObjectStorer, plumbing.Hash, error) {
	none := plumbing.ZeroHash
	s, err := r.transport.NewUploadPackSession(r.endpoint, r.auth)
	if err != nil {
		return nil, none, r.explain(err)
	}
	defer s.Close()
	refs, err := s.AdvertisedReferencesContext(ctx)
	if errors.Is(err, transport.ErrEmptyRemoteRepository) {
		return nil, none, noBranch(r.where.String(), branch, true)
	}
	if err != nil {
		return nil, none, r.explain(err)
	}
	head, ok := refs.References[plumbing.NewBranchReferenceName(branch).String()]
	if !ok {
		return nil, none, noBranch(r.where.String(), branch, len(refs.References) == 0)
	}
	if err := r.bring(ctx, s, refs, head); err != nil {
		return nil, none, err
	}
	return openStore(r.dir), head, nil
}

// bring makes head and all its history present in the store.
func (r *remote) bring(ctx context.Context, s transport.UploadPackSession, refs *packp.AdvRefs, head plumbing.Hash) error {
	held := r.held()
	if held == head {
		return nil
	}
	req := packp.NewUploadPackRequestFromCapabilities(refs.Capabilities)
	req.Wants = []plumbing.Hash{head}
	if !held.IsZero() {
		req.Haves = []plumbing.Hash{held}
	}
	if refs.Capabilities.Supports(capability.NoProgress) {
		if err := req.Capabilities.Set(capability.NoProgress); err != nil {
			return fmt.Errorf("ask %s for objects: %w", r.where, err)
		}
	}
	answer, err := s.UploadPack(ctx, req)
	if err != nil {
		return r.explain(err)
	}
	defer answer.Close()
	if err := r.unpack(demux(req.Capabilities, answer)); err != nil {
		return err
	}
	return openStore(r.dir).SetReference(plumbing.NewHashReference(heldRef, head))
}

// demux takes the pack out of the side band it travels in.
func demux(caps *capability.List, r io.Reader) io.Reader {
	switch {
	case caps.Supports(capability.Sideband64k):
		return sideband.NewDemuxer(sideband.Sideband64k, r)
	case caps.Supports(capability.Sideband):
		return sideband.NewDemuxer(sideband.Sideband, r)
	}
	return r
}

// held is the newest commit that need not be fetched; zero when the store holds nothing or has grown too large.
func (r *remote) held() plumbing.Hash {
	packs, _ := filepath.Glob(filepath.Join(r.dir, "objects", "pack", "*.pack"))
	if len(packs) > maxPacks {
		_ = os.RemoveAll(r.dir)
	}
	ref, err := openStore(r.dir).Reference(heldRef)
	if err != nil {
		return plumbing.ZeroHash
	}
	return ref.Hash()
}

// forget has the next fetch bring the whole history anew, because the store lacks an object of it: a server left it out, or the disk lost
// it, and would not be asked for it again. Once for each head, so that a history which cannot be had does not fetch itself over and over.
func (r *remote) forget(head plumbing.Hash) {
	if !r.busy.TryLock() {
		return
	}
	defer r.busy.Unlock()
	if r.forgotten != head {
		r.forgotten = head
		_ = openStore(r.dir).RemoveReference(heldRef)
	}
}

// unpack keeps the pack in a file, looks through it, and only then hands it to the store.
func (r *remote) unpack(pack io.Reader) error {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return fmt.Errorf("make the store for %s: %w", r.where, err)
	}
	f, err := os.CreateTemp(r.dir, "fetch-*")
	if err != nil {
		return fmt.Errorf("keep what %s sent: %w", r.where, err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	n, err := io.Copy(f, io.LimitReader(pack, maxPack+1))
	if err != nil {
		return r.explain(err)
	}
	if n > maxPack {
		return refuse("%s sends more than %d MiB: keep the policy in a repository of its own, without large files in its history", r.where, maxPack>>20)
	}
	if err := inspect(f); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read back what %s sent: %w", r.where, err)
	}
	if err := packfile.UpdateObjectStorage(openStore(r.dir), f); err != nil {
		return refuse("what %s sent cannot be unpacked: %v", r.where, err)
	}
	return nil
}

// explain turns a transport's error into a sentence.
func (r *remote) explain(err error) error {
	switch {
	case errors.Is(err, transport.ErrRepositoryNotFound):
		return refuse("%s is not there, or this coordinator may not see it: check the URL and the deploy key or token", r.where)
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed):
		return refuse("%s asks for a credential it accepts: give --policy-token FILE (https) or --policy-ssh-key FILE (ssh)", r.where)
	}
	var long *http.MaxBytesError
	if errors.As(err, &long) {
		return refuse("%s answers with more than %d bytes: keep the policy in a repository of its own, with few branches and tags", r.where, long.Limit)
	}
	if e := explainSSH(r.where, err); e != nil {
		return e
	}
	return refuse("cannot fetch %s: %v", r.where, err)
}
