//go:build picket_unfiltered

package wgtun

// A node built with this tag sends and takes WHATEVER IT IS GIVEN: its filter follows flows and counts, and refuses nothing. It is the hostile node
// of the integration tests, which see by it what an honest node at the other end lets through. No release is built with it, and the
// node says so in its log when it starts.
const filtered = false
