package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:        "status",
		Usage:       "say who this machine is, whether it is connected, and until when",
		Description: "Exit status 1 unless packets may pass.\n\nExamples:\n\n   picket status\n   picket status --json\n   sudo picket status --wg",
		Flags:       asking(jsonFlag(), &cli.BoolFlag{Name: "wg", Usage: "show the WireGuard device instead, as wg(8) does"}),
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 0, 0, ""); err != nil {
				return err
			}
			s, err := client(c).Status(c.Context)
			if err != nil {
				return explain(err)
			}
			if c.Bool("wg") {
				return showDevice(c, s)
			}
			if err := show(c, s, func(w io.Writer) { showStatus(w, s, time.Now()) }); err != nil {
				return err
			}
			if s.State != localapi.StateRunning {
				return cli.Exit("", cliflags.ExitFailed)
			}
			return nil
		},
	}
}

func showStatus(w io.Writer, s localapi.Status, now time.Time) {
	contact := "now"
	if !s.Connected {
		contact = clock(s.LastContact, now)
	}
	fields(w, slices.Concat([]string{
		"State", string(s.State),
		"Problem", s.Problem,
		"Open", s.LoginURL,
		"Code", s.LoginCode,
		"Name", s.Name,
		"Owner", s.Owner,
		"Tags", strings.Join(s.Tags, " "),
		"Addresses", addresses(s.Addresses),
		"Interface", interfaceText(s),
		"Coordinator", s.Coordinator,
		"Last contact", contact,
		"Generation", generationText(s),
		"Lease ends", clock(s.LeaseEnds, now),
		"Login ends", clock(s.Expires, now),
		"Tunnel key", keyText(s.TunnelKey, now),
		"Peers", fmt.Sprint(s.Peers),
		"Live flows", fmt.Sprint(s.Flows),
		"Refused", deniedText(s.Denied),
		"Names", namesLine(s.DNS),
	}, passageFields(s.Passages), routingFields(s.Routing), []string{"Version", s.Version})...)
	for _, warning := range s.Warnings {
		fmt.Fprintf(w, "! %s\n", protocol.Printable(warning))
	}
}

// passageFields is a line for each port that is forwarded or exposed.
func passageFields(p localapi.Passages) (pairs []string) {
	for _, f := range p.Forwards {
		pairs = append(pairs, "Forwarded", fmt.Sprintf("%s (%s) to %s, %d open", f.Listen, f.Proto, f.To, f.Open))
	}
	for _, x := range p.Exposed {
		pairs = append(pairs, "Exposed", fmt.Sprintf("%s %d to %s, %d open", x.Proto, x.Port, x.To, x.Open))
	}
	return pairs
}

// namesLine says how names of peers are resolved; nothing where they are not, because the tunnel is down.
func namesLine(d localapi.DNS) string {
	if !d.On && !d.Off {
		return ""
	}
	text := namesText(d)
	if d.On && d.Mode != "" && d.Mode != "none" {
		text += " (" + d.Mode + ")"
	}
	return text
}

func interfaceText(s localapi.Status) string {
	switch {
	case s.Port == 0:
		return s.Interface
	case s.Interface == "":
		return fmt.Sprintf("none (userspace), UDP port %d", s.Port)
	}
	return fmt.Sprintf("%s, UDP port %d", s.Interface, s.Port)
}

func generationText(s localapi.Status) string {
	switch {
	case s.Generation == 0:
		return ""
	case s.Policy == "":
		return fmt.Sprint(s.Generation)
	}
	return fmt.Sprintf("%d, policy %s", s.Generation, policyText(s.Policy))
}

// deniedText lists packet counts, most first, at most five.
func deniedText(denied map[string]uint64) string {
	reasons := slices.SortedFunc(maps.Keys(denied), func(a, b string) int {
		if denied[a] != denied[b] {
			return int(min(denied[b], 1<<30)) - int(min(denied[a], 1<<30))
		}
		return strings.Compare(a, b)
	})
	var out []string
	for _, r := range reasons {
		if denied[r] > 0 && len(out) < 5 {
			out = append(out, fmt.Sprintf("%d %s", denied[r], r))
		}
	}
	return strings.Join(out, ", ")
}
