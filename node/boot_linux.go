package node

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// bootTime is which start of the host this is (random(4)), and how long ago it was, time asleep included; "" when that cannot be told.
func bootTime() (string, time.Duration) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	var since unix.Timespec
	if err != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &since) != nil {
		return "", 0
	}
	return strings.TrimSpace(string(id)), time.Duration(since.Nano())
}
