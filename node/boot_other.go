//go:build !linux

package node

import "time"

// bootTime tells nothing here.
func bootTime() (string, time.Duration) { return "", 0 }
