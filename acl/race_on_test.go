//go:build race

package acl

const slowness = 15
