package localapi

import (
	"errors"
	"io/fs"
	"net"

	"golang.org/x/sys/windows"
)

// A unix socket is a reparse point there, which Go does not report as a socket.
const socketsLookLikeFiles = true

func isRefused(err error) bool { return errors.Is(err, windows.WSAECONNREFUSED) }

// Windows does not say who is at the other end of a unix socket. Who may connect is up to the access list of the directory the socket
// is in: by default one under the user's profile, where only that user and administrators may enter.
func onlyOursToWrite(fs.FileInfo) bool { return true }

func checkPeer(net.Conn) (int, error) { return -1, nil }
