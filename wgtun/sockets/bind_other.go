//go:build !linux

package sockets

import "golang.zx2c4.com/wireguard/conn"

// New returns a Bind that is closed.
func New() conn.Bind { return conn.NewDefaultBind() }
