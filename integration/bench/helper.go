//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
)

// helperWord as the first argument makes this program run as one of its helpers, inside a host's namespace.
const helperWord = "bench-helper"

// helper runs this process as a helper and ends it, when it was started as one.
func helper() {
	if len(os.Args) < 3 || os.Args[1] != helperWord {
		return
	}
	helpers := map[string]func([]string) error{
		"wireguard": wireguard, "sink": sink,
		"await": await, "ping": ping, "stream": stream, "connect": connect, "packets": packets,
		"carriers": carriers, "collect": collect, "carry": carry,
	}
	run, ok := helpers[os.Args[2]]
	if !ok {
		fmt.Fprintf(os.Stderr, "no helper %q\n", os.Args[2])
		os.Exit(2)
	}
	if err := run(os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// answer is how a helper hands its result to the bench.
func answer(v any) error { return json.NewEncoder(os.Stdout).Encode(v) }
