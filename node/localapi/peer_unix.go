//go:build unix

package localapi

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const socketsLookLikeFiles = false

func isRefused(err error) bool { return errors.Is(err, unix.ECONNREFUSED) }

// onlyOursToWrite: the owner is root or us, and neither group nor others may write.
func onlyOursToWrite(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && (st.Uid == 0 || int(st.Uid) == os.Geteuid()) && info.Mode().Perm()&0o022 == 0
}

// checkPeer lets in root and the user the agent runs as, by what the kernel says of the other end when it connected.
// Whatever cannot be told is refused. It returns who that is.
func checkPeer(c net.Conn) (int, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return -1, errors.New("this is no connection to a unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return -1, errors.New("the system does not tell who is asking")
	}
	var uid int
	var failed error
	if err := raw.Control(func(fd uintptr) { uid, failed = peerUID(int(fd)) }); err != nil || failed != nil {
		return -1, errors.New("the system does not tell who is asking")
	}
	if uid != 0 && uid != os.Geteuid() {
		return uid, fmt.Errorf("user %d may not command this agent, which runs as user %d: use sudo", uid, os.Geteuid())
	}
	return uid, nil
}
