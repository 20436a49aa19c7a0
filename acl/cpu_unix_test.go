//go:build unix

package acl

import (
	"syscall"
	"time"
)

// cpuTime is what this process has spent so far. Unlike the clock, it does not run faster on a busy machine.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
