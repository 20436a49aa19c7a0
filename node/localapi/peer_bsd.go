//go:build darwin || freebsd

package localapi

import "golang.org/x/sys/unix"

// solLocal is the level of LOCAL_PEERCRED in both systems (unix(4)).
const solLocal = 0

// peerUID reads LOCAL_PEERCRED (unix(4)).
func peerUID(fd int) (int, error) {
	cred, err := unix.GetsockoptXucred(fd, solLocal, unix.LOCAL_PEERCRED)
	if err != nil {
		return -1, err
	}
	return int(cred.Uid), nil
}
