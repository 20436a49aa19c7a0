//go:build !linux

package main

import (
	"errors"

	"picket.internal/node"
)

// usualTUN is no interface: only linux has one here.
func usualTUN() string { return node.Userspace }

func preflight(tun string) error {
	if tun != node.Userspace {
		return errors.New("a network interface is not supported on this system: run with --tun=userspace")
	}
	return nil
}
