package nettest

import (
	"runtime/debug"
	"sync"
	"testing"
	"testing/synctest"
)

// collectorOff stops garbage collection for the rest of the process.
var collectorOff = sync.OnceFunc(func() { debug.SetGCPercent(-1) })

// Bubble runs f as synctest.Test does, with garbage collection off from then on until the process ends, because wireguard-go's
// finalizers may not run at all once a bubble's channels are in them. A device with DefaultBatch costs about 2 MB that never comes back.
func Bubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	collectorOff()
	synctest.Test(t, f)
}
