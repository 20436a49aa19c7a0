package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
)

// followEvery is how often what is followed is asked for.
const followEvery = time.Second

// filterHelp explains FILTER in the help of each command that takes one.
const filterHelp = "FILTER is any of these words, joined by and, which may be left out:\n\n" +
	"   peer NAME                   who is at the far end, by name or node id\n" +
	"   host ADDRESS                or NETWORK/BITS, at either end\n" +
	"   port N                      or N-M, at either end\n" +
	"   proto tcp                   or udp, icmp, another name, or a number\n" +
	"   in, out                     opened or sent by the peer, or by this machine\n\n"

// filterWords completes the words of a filter and the names of peers.
var filterWords = cliflags.Candidates(func(c *cli.Context) []string {
	return append([]string{"peer", "host", "port", "proto", "in", "out", "and"}, knownPeers(c)...)
})

// selection reads the FILTER.
func selection(c *cli.Context) (localapi.Selection, error) {
	s, err := localapi.ParseSelection(c.Args().Slice())
	if err != nil {
		return s, cliflags.Usage(c, "%v", err)
	}
	return s, nil
}

func limitFlag(value int) cli.Flag {
	return &cli.IntFlag{Name: "limit", Aliases: []string{"n"}, Value: value, Usage: fmt.Sprintf("list at most `N`, up to %d", localapi.MaxListed)}
}

func limit(c *cli.Context) (int, error) {
	n := c.Int("limit")
	if n < 1 || n > localapi.MaxListed {
		return 0, cliflags.Usage(c, "--limit must be from 1 to %d", localapi.MaxListed)
	}
	return n, nil
}

// onTerminal tells whether a person looks at w.
func onTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// every calls f at once and then each followEvery, until it fails or the command is interrupted, which is no failure.
func every(ctx context.Context, f func() error) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		if err := f(); err != nil {
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return explain(err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// endText names an end: "web-1", "10.2.0.9 via web-1", or its address where it is no peer's.
func endText(e localapi.Endpoint) string {
	name := e.Name
	if name == "" {
		name = string(e.Node)
	}
	name = protocol.Printable(name)
	switch {
	case name == "" && !e.Address.IsValid():
		return "?"
	case name == "":
		return e.Address.String()
	case e.Routed:
		return e.Address.String() + " via " + name
	}
	return name
}

// whoText is who stands behind an end: a person or tags.
func whoText(e localapi.Endpoint) string {
	if e.Owner != "" {
		return protocol.Printable(e.Owner)
	}
	return protocol.Printable(strings.Join(e.Tags, " "))
}

// endAndWho is "laptop-2 (bob@example.com)".
func endAndWho(e localapi.Endpoint) string {
	if who := whoText(e); who != "" {
		return endText(e) + " (" + who + ")"
	}
	return endText(e)
}

// serviceText is what was asked for at an end: "tcp/22", "icmp".
func serviceText(proto string, dst localapi.Endpoint) string {
	switch {
	case proto == "":
		return "?"
	case dst.Port == 0:
		return protocol.Printable(proto)
	}
	return fmt.Sprintf("%s/%d", protocol.Printable(proto), dst.Port)
}

func wayText(out bool) string {
	if out {
		return string(localapi.WayOut)
	}
	return string(localapi.WayIn)
}
