//go:build !picket_unfiltered

package wgtun

// filtered is true in every build but the one of unfiltered.go.
const filtered = true
