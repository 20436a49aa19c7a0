//go:build race

package node

// heavier is how many bytes more each permitted peer may take under the race detector, where allocations are padded.
const heavier = 512
