//go:build unix

package gitpolicy

import (
	"io/fs"
	"os"
	"syscall"
)

func ownedByUsOrRoot(info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && (s.Uid == 0 || int(s.Uid) == os.Geteuid())
}
