package node

import (
	"time"

	"golang.org/x/sys/unix"
)

// asleep is how long this host has been suspended since it was started: CLOCK_BOOTTIME counts that time, CLOCK_MONOTONIC does not
// (clock_gettime(2)). Were it not told, it would be 0, as on other systems.
func asleep() time.Duration {
	var boot, mono unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil || unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono) != nil {
		return 0
	}
	return time.Duration(boot.Nano() - mono.Nano())
}
