//go:build !unix

package acl

import "time"

var started = time.Now()

// cpuTime is the clock where the time spent is not to be had.
func cpuTime() time.Duration { return time.Since(started) }
