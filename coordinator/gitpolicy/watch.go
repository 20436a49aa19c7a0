package gitpolicy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// watchInterval is how often a local repository's branch is looked at.
const watchInterval = 200 * time.Millisecond

// Run tells Changed when a local repository's branch moves, until ctx ends. For a remote it only waits.
func (s *Source) Run(ctx context.Context) error {
	if s.remote != nil {
		<-ctx.Done()
		return nil
	}
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

// mark changes whenever the branch may have moved: a loose reference is replaced, or the packed ones are.
func (s *Source) mark() string {
	var b strings.Builder
	for _, name := range []string{filepath.Join("refs", "heads", filepath.FromSlash(s.config.Branch)), "packed-refs"} {
		if info, err := os.Stat(filepath.Join(s.local, name)); err == nil {
			fmt.Fprintf(&b, "%s %d %d;", name, info.ModTime().UnixNano(), info.Size())
		}
	}
	return b.String()
}
