package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/mattn/go-isatty"
	"github.com/mdp/qrterminal/v3"
	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
)

func upCommand() *cli.Command {
	return &cli.Command{
		Name:  "up",
		Usage: "join a network, or come back to it",
		Description: "Prints a page to open and a code to type there, and waits. A server joins by an auth key, without a person.\n\nExamples:\n\n" +
			"   picket up --coordinator 'https://picket.example.com:8443#FINGERPRINT'\n" +
			"   picket up --coordinator 'https://…#…' --auth-key file:/root/key\n" +
			"   picket up --coordinator 'https://…#…' --hostname db-1\n" +
			"   picket up --coordinator 'https://…#…' --auth-key file:/root/key --advertise-routes 10.33.0.0/16\n" +
			"   picket up\n\n" +
			"A key given as file:PATH or - (standard input) is seen by nobody in the list of processes.",
		Flags: asking(append([]cli.Flag{
			&cli.StringFlag{Name: "coordinator", Usage: "the `JOIN` string that the coordinator prints: https://host:port#FINGERPRINT"},
			&cli.StringFlag{Name: "auth-key", Usage: "join without a person, by this `KEY`: the key, file:PATH, or - for standard input"},
			&cli.StringFlag{Name: "hostname", Usage: "ask to be called `NAME`"},
			&cli.StringFlag{Name: "rotate-keys", Usage: "change the tunnel key every `TIME`, such as 24h (the default); off for picket rotate only"},
			&cli.StringFlag{Name: "dns", Usage: "`on`: resolve names of peers by way of this machine's resolver; off: leave that as it is (default: as before, at first on)"},
			jsonFlag(),
		}, routingFlags()...)...),
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 0, 0, ""); err != nil {
				return err
			}
			return up(c)
		},
	}
}

func up(c *cli.Context) error {
	authKey, err := readAuthKey(c.String("auth-key"), c.App.Reader)
	if err != nil {
		return err
	}
	if c.IsSet("auth-key") && authKey == "" {
		return errors.New("the auth key is empty: copy it whole, as `picket-coordinator keys create` printed it")
	}
	routing, err := readRouting(c)
	if err != nil {
		return err
	}
	rotate, err := readRotateKeys(c)
	if err != nil {
		return err
	}
	names, err := readOnOff(c, "dns")
	if err != nil {
		return err
	}
	agent := client(c)
	talk := c.App.Writer
	if c.Bool("json") {
		talk = c.App.ErrWriter // standard output is for the answer
	}
	status, err := agent.Up(c.Context, localapi.Up{Coordinator: c.String("coordinator"), AuthKey: authKey, Hostname: c.String("hostname"), Routing: routing, RotateKeys: rotate, DNS: names},
		func(e localapi.UpEvent) { showEvent(talk, e) })
	if errors.Is(err, context.Canceled) {
		return errors.New("stopped before this node had joined: run picket up again")
	}
	if err != nil {
		return explain(err)
	}
	peers, err := agent.Peers(c.Context)
	if err != nil {
		return explain(err)
	}
	return show(c, status, func(w io.Writer) { welcome(w, status, peers) })
}

// readOnOff reads a flag that is on or off; nil when it was not given.
func readOnOff(c *cli.Context, name string) (*bool, error) {
	if !c.IsSet(name) {
		return nil, nil
	}
	on := c.String(name) == "on"
	if !on && c.String(name) != "off" {
		return nil, cliflags.Usage(c, "--%s %q is neither on nor off", name, c.String(name))
	}
	return &on, nil
}

// maxAuthKey bounds what is read for a key, in bytes.
const maxAuthKey = 4096

// readAuthKey takes the key as it is, from file:PATH, or from standard input for "-".
func readAuthKey(s string, stdin io.Reader) (string, error) {
	path, isFile := strings.CutPrefix(s, "file:")
	switch {
	case isFile:
		f, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("the auth key's file cannot be read: %w", err)
		}
		defer f.Close()
		stdin = f
	case s != "-":
		return s, nil
	}
	text, err := io.ReadAll(io.LimitReader(stdin, maxAuthKey))
	if err != nil {
		return "", errors.New("the auth key cannot be read")
	}
	return strings.TrimSpace(string(text)), nil
}

// quietZone is the border of the QR code, in modules: half of what ISO/IEC 18004 asks for, which cameras take, so that all fits into 24 lines.
const quietZone = 2

func showEvent(w io.Writer, e localapi.UpEvent) {
	if e.Note != "" {
		fmt.Fprintf(w, "… %s\n", protocol.Printable(e.Note))
	}
	if e.Login == nil {
		return
	}
	url := protocol.Printable(e.Login.URL)
	if f, ok := w.(*os.File); ok && isatty.IsTerminal(f.Fd()) {
		// Above the words: it is as high as a small terminal, and must not push the code out of sight.
		qrterminal.GenerateWithConfig(url, qrterminal.Config{
			Writer: w, Level: qrterminal.L, HalfBlocks: true, QuietZone: quietZone,
			BlackChar: qrterminal.BLACK_BLACK, WhiteChar: qrterminal.WHITE_WHITE,
			BlackWhiteChar: qrterminal.BLACK_WHITE, WhiteBlackChar: qrterminal.WHITE_BLACK,
		})
	}
	fmt.Fprintf(w, "To join, open this page and type the code there:\n    %s\n    Code: %s\n", url, protocol.Printable(e.Login.Code))
	fmt.Fprintf(w, "Waiting until %s.\n", e.Login.Expires.Local().Format("15:04"))
}

// maxListed is how many peers `up` names; the rest are counted.
const maxListed = 10

func welcome(w io.Writer, s localapi.Status, peers []localapi.Peer) {
	who := s.Owner
	if who == "" {
		who = strings.Join(s.Tags, ", ")
	}
	if who != "" {
		who = " (" + protocol.Printable(who) + ")"
	}
	fmt.Fprintf(w, "This node is %s%s at %s.\n", protocol.Printable(s.Name), who, addresses(s.Addresses))
	out := func(p localapi.Peer) []localapi.Allowed { return p.Out }
	in := func(p localapi.Peer) []localapi.Allowed { return p.In }
	pairs := []string{"It may reach:", listed(peers, out), "It may be reached by:", listed(peers, in)}
	for i, text := range routingFields(s.Routing) {
		if i%2 == 0 {
			text += ":"
		}
		pairs = append(pairs, text)
	}
	if s.DNS.On && s.DNS.Domain != "" && s.DNS.Mode != "none" {
		pairs = append(pairs, "Names:", "NAME."+s.DNS.Domain)
	}
	fields(w, pairs...)
	for _, warning := range s.Warnings {
		fmt.Fprintf(w, "! %s\n", protocol.Printable(warning))
	}
}

// listed names peers with what is allowed: "db (tcp 5432), web (tcp 443)"; "nobody" when the policy allows nothing.
func listed(peers []localapi.Peer, allowed func(localapi.Peer) []localapi.Allowed) string {
	var names []string
	for _, p := range peers {
		if a := allowed(p); len(a) > 0 {
			names = append(names, fmt.Sprintf("%s (%s)", p.Name, ports(a)))
		}
	}
	if len(names) == 0 {
		return "nobody"
	}
	if len(names) > maxListed {
		return fmt.Sprintf("%s and %d more: picket peers", strings.Join(names[:maxListed], ", "), len(names)-maxListed)
	}
	return strings.Join(names, ", ")
}

// ports lists what is allowed, each once; ICMP is one thing to people, whichever the family.
func ports(allowed []localapi.Allowed) string {
	var out []string
	seen := make(map[string]bool)
	for _, a := range allowed {
		seen["icmpv6"] = seen["icmpv6"] || a.Ports == "icmp"
	}
	for _, a := range allowed {
		if !seen[a.Ports] {
			seen[a.Ports] = true
			out = append(out, a.Ports)
		}
	}
	return strings.Join(out, ", ")
}

func downCommand() *cli.Command {
	return &cli.Command{
		Name:        "down",
		Usage:       "stop the tunnel; the node stays a member",
		Description: "Example:\n\n   picket down",
		Flags:       asking(),
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 0, 0, ""); err != nil {
				return err
			}
			if err := client(c).Down(c.Context); err != nil {
				return explain(restoreDNS(c.Context, c.App.ErrWriter, err))
			}
			fmt.Fprintln(c.App.Writer, "The tunnel is stopped; picket up starts it again.")
			return nil
		},
	}
}

func logoutCommand() *cli.Command {
	return &cli.Command{
		Name:        "logout",
		Usage:       "leave the network",
		Description: "Example:\n\n   picket logout",
		Flags:       asking(),
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 0, 0, ""); err != nil {
				return err
			}
			if err := client(c).Logout(c.Context); err != nil {
				return explain(err)
			}
			fmt.Fprintln(c.App.Writer, "This node has left the network.")
			return nil
		},
	}
}

func trustCommand() *cli.Command {
	return &cli.Command{
		Name:         "trust",
		Usage:        "accept that a peer has a new device key",
		ArgsUsage:    "NODE",
		BashComplete: peerNames,
		Description: "A peer that shows another device key than it was known by is refused until you say that it was really set up anew.\n" +
			"Ask its owner first, by another way than this network.\n\nExample:\n\n   picket trust db-1",
		Flags: asking(),
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 1, 1, "NODE"); err != nil {
				return err
			}
			if err := client(c).Trust(c.Context, localapi.Trust{Peer: c.Args().First()}); err != nil {
				return explain(err)
			}
			fmt.Fprintf(c.App.Writer, "%s is known by its new device key.\n", protocol.Printable(c.Args().First()))
			return nil
		},
	}
}
