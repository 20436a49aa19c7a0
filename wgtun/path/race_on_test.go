//go:build race

package path

// raced reports whether the race detector watches.
const raced = true
