//go:build race

package relay

// raced reports whether the race detector watches.
const raced = true
