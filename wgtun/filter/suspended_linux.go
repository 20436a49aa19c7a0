package filter

import (
	"time"

	"golang.org/x/sys/unix"
)

// suspended is how long this host has slept since it was started. It never says too much: the clock that runs on is read first.
func suspended() time.Duration {
	var running, standing unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &running) != nil || unix.ClockGettime(unix.CLOCK_MONOTONIC, &standing) != nil {
		return 0
	}
	return time.Duration(running.Nano() - standing.Nano())
}
