// Package filepolicy reads the policy from a plain file.
package filepolicy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"picket.internal/coordinator"
)

// MaxPolicy is how many bytes a policy may have, as acl accepts.
const MaxPolicy = 1 << 20

// watchInterval is how often the file is looked at.
const watchInterval = 200 * time.Millisecond

// Source is one file. Whole new versions should be renamed into place; a half-written one is refused by its syntax, and read again.
type Source struct {
	path    string
	changed chan struct{}
}

// New returns a source; the file need not exist yet.
func New(path string) (*Source, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find policy file %s: %w", path, err)
	}
	return &Source{abs, make(chan struct{}, 1)}, nil
}

// String is the file's path.
func (s *Source) String() string { return "file " + s.path }

// Changed has a value soon after the file changed.
func (s *Source) Changed() <-chan struct{} { return s.changed }

// Fetch reads the file. It has no commits, so nothing is ever rewritten.
func (s *Source) Fetch(context.Context, string) (coordinator.PolicyText, error) {
	var none coordinator.PolicyText
	f, err := os.Open(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return none, fmt.Errorf("there is no %s: write a policy there", s.path)
	}
	if err != nil {
		return none, fmt.Errorf("cannot read the policy: %v", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return none, fmt.Errorf("cannot read the policy: %v", err)
	}
	if !info.Mode().IsRegular() {
		return none, fmt.Errorf("%s is no plain file: name one with --policy-file", s.path)
	}
	text, err := io.ReadAll(io.LimitReader(f, MaxPolicy+1))
	if err != nil {
		return none, fmt.Errorf("cannot read the policy: %v", err)
	}
	if len(text) > MaxPolicy {
		return none, fmt.Errorf("%s has %d bytes; a policy may have at most %d", s.path, info.Size(), MaxPolicy)
	}
	return coordinator.PolicyText{Text: text, Time: info.ModTime().UTC()}, nil
}

// Run tells Changed when the file changes, until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for seen := s.mark(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if now := s.mark(); now != seen {
			seen = now
			select {
			case s.changed <- struct{}{}:
			default: // a fetch is asked for already
			}
		}
	}
}

func (s *Source) mark() string {
	info, err := os.Stat(s.path)
	if err != nil {
		return "none"
	}
	return fmt.Sprint(info.ModTime().UnixNano(), info.Size())
}
