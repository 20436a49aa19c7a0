package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"picket.internal/coordinator"
	"picket.internal/coordinator/opsocket"
)

func waitFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "wait", Usage: "wait until every online node concerned enforces the change, and say how long each took"},
		&cli.DurationFlag{Name: "timeout", Value: 10 * time.Second, Usage: "wait at most `TIME`"},
	}
}

// changed is what a command that changes something prints with --json.
type changed struct {
	coordinator.Change
	Enforcement *coordinator.Enforcement `json:"enforcement,omitempty"`
}

// report prints a committed change and, with --wait, who enforces it. It fails when --wait ran out.
func report(c *cli.Context, change coordinator.Change) error {
	out := changed{Change: change}
	if c.Bool("wait") {
		e, err := opsocket.Enforced.Do(c.Context, client(c), opsocket.Await{Generation: change.Generation, Timeout: c.Duration("timeout")})
		if err != nil {
			return fmt.Errorf("%s (generation %d), but waiting for the nodes failed: %w", change.Summary, change.Generation, err)
		}
		out.Enforcement = &e
	}
	err := show(c, out, func(w io.Writer) {
		fmt.Fprintf(w, "%s (generation %d)\n", printable(change.Summary), change.Generation)
		if out.Enforcement != nil {
			writeEnforcement(w, *out.Enforcement)
		}
	})
	if err == nil && out.Enforcement != nil && !out.Enforcement.Done {
		err = errors.New("not every online node enforces it yet: see the list above; offline nodes stop at the end of their lease")
	}
	return err
}

func writeEnforcement(w io.Writer, e coordinator.Enforcement) {
	if len(e.Nodes) == 0 {
		fmt.Fprintln(w, "no node has to learn of it")
		return
	}
	enforcing, slowest := 0, time.Duration(0)
	var rows [][]string
	for _, n := range e.Nodes {
		state := "waiting"
		switch {
		case n.Enforced:
			enforcing++
			slowest = max(slowest, n.After)
			state = fmt.Sprintf("%d ms", n.After.Milliseconds())
			if n.Cut > 0 {
				state += fmt.Sprintf(", cut %d flows", n.Cut)
			}
		case !n.Online:
			state = "offline; lease ends " + clock(n.LeaseEnds)
		}
		rows = append(rows, []string{"  " + n.Name, state})
	}
	fmt.Fprintf(w, "generation %d on %d of %d nodes, %d ms\n", e.Generation, enforcing, len(e.Nodes), slowest.Milliseconds())
	table(w, "  NODE|IN FORCE AFTER", rows)
}
