package main

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"picket.internal/node"
)

func usualTUN() string { return defaultTUN }

// capNetAdmin is CAP_NET_ADMIN of capabilities(7).
const capNetAdmin = 12

// preflight looks whether the interface could be made, so that `run` fails with a sentence rather than every `up` later.
func preflight(tun string) error {
	if tun == node.Userspace {
		return nil
	}
	if !holdsNetAdmin() {
		return errors.New("making a network interface needs root (CAP_NET_ADMIN): run it with sudo, or without an interface by --tun=userspace")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return errors.New("this host has no /dev/net/tun: load the kernel module (modprobe tun; in a container, give it the device), or run with --tun=userspace")
	}
	return nil
}

// holdsNetAdmin reads the effective capabilities of this process (proc(5)).
func holdsNetAdmin() bool {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return os.Geteuid() == 0
	}
	for line := range strings.Lines(string(text)) {
		if set, ok := strings.CutPrefix(line, "CapEff:"); ok {
			bits, err := strconv.ParseUint(strings.TrimSpace(set), 16, 64)
			return err == nil && bits&(1<<capNetAdmin) != 0
		}
	}
	return false
}
