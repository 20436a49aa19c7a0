package coordinator

import (
	"strings"

	"picket.internal/coordinator/protocol"
)

// What a node says of its host, under its device key, is what postures ask about (docs/policy.md). It is the node's word: a hostile one says what
// it likes. What it does not say is not set.

// systems are the values of the attribute node:os, by Go's names of systems (runtime.GOOS).
var systems = map[string]string{
	"darwin": "macos", "windows": "windows", "linux": "linux", "ios": "ios", "android": "android", "freebsd": "freebsd", "openbsd": "openbsd",
	"illumos": "illumos", "js": "js",
}

// attributes are those of a node with these facts, in the form in which postures compare them; a system of another name leaves node:os unset.
func attributes(f protocol.Facts) map[string]string {
	name, _, _ := strings.Cut(f.OS, " ") // a distribution may follow
	system, known := systems[name]
	if !known {
		return nil
	}
	return map[string]string{"node:os": system}
}
