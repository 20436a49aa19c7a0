package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
)

// How long to wait before asking an agent again that stopped; doubled each time.
const (
	askAgainFirst = 100 * time.Millisecond
	askAgainMost  = 5 * time.Second
)

// keepAsking shows events until the user ends it. Once the agent has agreed it is asked again whenever it stops, for it may be on its way back.
func keepAsking(c *cli.Context, ask func(ctx context.Context, event func(localapi.PassageEvent)) error) error {
	show := func(e localapi.PassageEvent) { showPassage(c.App.Writer, e) }
	if c.Bool("json") {
		lines := json.NewEncoder(c.App.Writer)
		show = func(e localapi.PassageEvent) { _ = lines.Encode(&e) }
	}
	agreed, said := false, ""
	for wait := askAgainFirst; ; wait = min(2*wait, askAgainMost) {
		heard := false
		err := ask(c.Context, func(e localapi.PassageEvent) {
			heard = true
			show(e)
		})
		if c.Context.Err() != nil {
			return nil
		}
		if heard {
			agreed, said, wait = true, "", askAgainFirst
		}
		if !agreed {
			return explain(err)
		}
		if text := protocol.Printable(err.Error()); text != said {
			fmt.Fprintf(c.App.ErrWriter, "! %s. Asking again until the agent agrees.\n", text)
			said = text
		}
		select {
		case <-c.Context.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// showPassage writes an event for people.
func showPassage(w io.Writer, e localapi.PassageEvent) {
	if e.Missed > 0 {
		fmt.Fprintf(w, "… %d lines are left out: they were not read fast enough\n", e.Missed)
	}
	reason := protocol.Printable(e.Reason)
	switch {
	case e.Kind == localapi.PassageWarning:
		fmt.Fprintf(w, "! %s\n", reason)
		return
	case e.Kind == localapi.PassageNote:
		fmt.Fprintf(w, "… %s\n", reason)
		return
	case e.Kind == localapi.PassageOpen && e.Port != 0:
		at := ""
		if e.Listen.IsValid() {
			at = " at " + e.Listen.Addr().String()
		}
		fmt.Fprintf(w, "Peers who may open %s %d of this node%s arrive at %s.\n", e.Proto, e.Port, at, e.To)
		return
	case e.Kind == localapi.PassageOpen:
		fmt.Fprintf(w, "Listening at %s (%s) for %s.\n", e.Listen, e.Proto, protocol.Printable(e.To))
		return
	}
	who := e.From.String()
	if e.Who != "" {
		who = fmt.Sprintf("%s (%s)", protocol.Printable(e.Who), who)
	}
	fmt.Fprintf(w, "%s %s to %s (%s) ", e.At.Local().Format("15:04:05"), who, protocol.Printable(e.To), e.Proto)
	switch e.Kind {
	case localapi.PassageBegan:
		fmt.Fprint(w, "opened")
		if e.Address.IsValid() && e.Port == 0 {
			fmt.Fprintf(w, ", at %s", e.Address)
		}
		fmt.Fprintln(w)
	case localapi.PassageRefused:
		fmt.Fprintf(w, "not opened: %s\n", reason)
	case localapi.PassageEnded:
		fmt.Fprintf(w, "ended: %s sent, %s received", size(e.Sent), size(e.Received))
		if reason != "" {
			fmt.Fprintf(w, "; %s", reason)
		}
		fmt.Fprintln(w)
	}
}
