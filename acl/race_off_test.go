//go:build !race

package acl

// slowness is by how much limits of time are stretched.
const slowness = 1
