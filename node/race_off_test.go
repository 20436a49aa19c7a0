//go:build !race

package node

const heavier = 0
