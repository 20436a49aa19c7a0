//go:build !race

package path

const raced = false
