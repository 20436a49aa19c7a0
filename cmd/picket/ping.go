package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
)

func pingCommand() *cli.Command {
	return &cli.Command{
		Name:         "ping",
		Usage:        "send echoes to a peer, through tunnel and filters",
		ArgsUsage:    "NAME",
		BashComplete: peerNames,
		Description:  "Exit status 1 when none is answered. A refusal by the policy is said at once.\n\nExamples:\n\n   picket ping db-1\n   picket ping -c 1 100.64.0.7\n   picket ping db-1 --json",
		Flags: asking(jsonFlag(),
			&cli.IntFlag{Name: "count", Aliases: []string{"c"}, Value: 4, Usage: "send `N` echoes"},
			&cli.DurationFlag{Name: "timeout", Value: 5 * time.Second, Usage: "wait at most `TIME` for each answer"},
			&cli.DurationFlag{Name: "interval", Value: time.Second, Usage: "send one every `TIME`"}),
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 1, 1, "NAME"); err != nil {
				return err
			}
			if c.Int("count") < 1 || c.Duration("timeout") <= 0 || c.Duration("interval") < 0 {
				return cliflags.Usage(c, "--count and --timeout must be more than 0")
			}
			return ping(c)
		},
	}
}

func ping(c *cli.Context) error {
	answered := 0
	var last string
	for i := range c.Int("count") {
		if i > 0 {
			select {
			case <-time.After(c.Duration("interval")):
			case <-c.Context.Done():
				return errors.New("stopped")
			}
		}
		a, err := client(c).Ping(c.Context, localapi.Ping{Target: c.Args().First(), Timeout: c.Duration("timeout")})
		if err != nil {
			return explain(err)
		}
		if last = a.Error; last == "" {
			answered++
		}
		if err := showPing(c, a); err != nil {
			return err
		}
	}
	if answered > 0 {
		return nil
	}
	if c.Bool("json") {
		return cli.Exit("", cliflags.ExitFailed)
	}
	return fmt.Errorf("no answer from %s: %s", protocol.Printable(c.Args().First()), protocol.Printable(last))
}

// showPing prints one answer: with --json one object a line.
func showPing(c *cli.Context, a localapi.PingAnswer) error {
	if c.Bool("json") {
		return json.NewEncoder(c.App.Writer).Encode(a)
	}
	if a.Error != "" {
		return nil // the last one is the command's error
	}
	path := "no direct path yet"
	if a.Path != "" {
		path = a.Path
		if a.PathRTT > 0 {
			path += ", " + millis(a.PathRTT)
		}
	}
	_, err := fmt.Fprintf(c.App.Writer, "%s (%s) answered in %s (path: %s)\n", protocol.Printable(a.Name), a.Addr, millis(a.RTT), protocol.Printable(path))
	return err
}
