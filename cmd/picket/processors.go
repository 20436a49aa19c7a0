package main

import (
	"os"
	"runtime"
)

// leaveProcessors keeps the agent to half of the processors it may use, at least one, unless GOMAXPROCS says otherwise. WireGuard hands every packet
// through three goroutines; that they wake each other on other processors costs more than working side by side gains, as long as
// programs want processors too for what they send and receive (BENCHMARKS.md has figures).
func leaveProcessors() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(processors(runtime.GOMAXPROCS(0)))
	}
}

func processors(usable int) int { return max(1, usable/2) }
