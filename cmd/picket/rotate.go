package main

import (
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/node/localapi"
)

func rotateCommand() *cli.Command {
	return &cli.Command{
		Name:  "rotate",
		Usage: "change this node's tunnel key now",
		Description: "The key changes by itself every day (picket up --rotate-keys). Connections go on; the command waits until each peer in use\n" +
			"knows the next key, and then until it has a session under it.\n\nExamples:\n\n" +
			"   picket rotate\n" +
			"   picket rotate --timeout 5m",
		Flags: asking(
			&cli.DurationFlag{Name: "timeout", Value: 30 * time.Second, Usage: "wait so long, at most an hour: `TIME` such as 5m"},
			jsonFlag(),
		),
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 0, 0, ""); err != nil {
				return err
			}
			r, err := client(c).Rotate(c.Context, localapi.Rotate{Timeout: c.Duration("timeout")})
			if err != nil {
				return explain(err)
			}
			return show(c, r, func(w io.Writer) { showRotation(w, r) })
		},
	}
}

func showRotation(w io.Writer, r localapi.Rotation) {
	fmt.Fprintf(w, "The tunnel key is now %s; it was %s.\n", r.Key, r.Former)
	switch {
	case r.Peers == 0:
		fmt.Fprintln(w, "No peer was in use.")
	case r.Without == 0:
		fmt.Fprintf(w, "%s in use, all with a session under the new key after %s.\n", count(r.Peers, "peer was", "peers were"), r.Took.Round(time.Millisecond))
	default:
		fmt.Fprintf(w, "%s in use; %d without a session yet after %s: look at picket peers.\n", count(r.Peers, "peer was", "peers were"), r.Without, r.Took.Round(time.Millisecond))
	}
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// readRotateKeys reads --rotate-keys; nil when it was not given.
func readRotateKeys(c *cli.Context) (*time.Duration, error) {
	if !c.IsSet("rotate-keys") {
		return nil, nil
	}
	every := time.Duration(-1)
	if text := c.String("rotate-keys"); text != "off" {
		var err error
		if every, err = time.ParseDuration(text); err != nil || every <= 0 {
			return nil, cliflags.Usage(c, "--rotate-keys: %.40q is no time: write 24h, 90m or off", text)
		}
	}
	return &every, nil
}

// keyText is a line of `picket status`.
func keyText(k localapi.KeyState, now time.Time) string {
	if k.Since.IsZero() {
		return ""
	}
	text := fmt.Sprintf("%s, %s old", k.Key, now.Sub(k.Since).Truncate(time.Minute))
	switch {
	case k.Pending:
		text += "; the next one is being made known"
	case k.Off:
		text += "; changed by picket rotate only"
	case !k.Next.IsZero():
		text += "; changes " + clock(k.Next, now)
	}
	return text
}
