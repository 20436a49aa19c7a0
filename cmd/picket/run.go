package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/node"
	"picket.internal/node/localapi"
	"picket.internal/node/proxy"
	"picket.internal/node/statefile"
)

// defaultTUN is the name of the interface unless told otherwise.
const defaultTUN = "picket0"

// agentFlags are those of `run`, which `install` writes into the unit.
func agentFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "state", EnvVars: []string{"PICKET_STATE"}, Value: defaultState(), Usage: "keep keys and the last map in `DIR`"},
		socketFlag(ownSocket()),
		&cli.StringFlag{Name: "tun", Value: usualTUN(), Usage: "the network interface's `NAME`, or \"userspace\" for none (needs no privilege)"},
		&cli.UintFlag{Name: "port", Usage: "the UDP `PORT` for the tunnel; 0 lets the system choose"},
		&cli.StringFlag{Name: "mtu", Value: strconv.Itoa(node.LeastMTU), Usage: "the interface's `MTU`, in bytes; above 1280 the path to each peer is measured; \"auto\" for what this host's links carry"},
		&cli.StringFlag{Name: "dns", Value: "auto", Usage: "auto: bring this machine's resolver to ask for peers, unless /etc may be another network's; on: in any case; `off`: never, whatever picket up says"},
		&cli.StringFlag{Name: "socks5", Usage: "lead local programs into the overlay by SOCKS5 at `ADDR` (TCP and UDP), such as 127.0.0.1:1080"},
		&cli.StringFlag{Name: "http-proxy", Usage: "lead local programs into the overlay by HTTP CONNECT at `ADDR`, such as 127.0.0.1:8118"},
		&cli.StringFlag{Name: "inbound", Value: "all", Usage: "without an interface, peers whom the policy lets in reach `all|exposed`: every port of 127.0.0.1, or what picket expose leads on"},
		&cli.StringFlag{Name: "port-mapping", Value: "on", Usage: "ask the default gateway to lead a port here (PCP, NAT-PMP, UPnP): `on|off`"},
		&cli.StringFlag{Name: "log-level", Value: "info", Usage: "log from `LEVEL` up: debug, info, warn, error"},
		&cli.BoolFlag{Name: "loopback-endpoints", Usage: "tell others loopback addresses, too", Hidden: true},
	}
}

func runCommand() *cli.Command {
	return &cli.Command{
		Name:  "run",
		Usage: "be the agent, in the foreground",
		Description: "Examples:\n\n" +
			"   sudo picket run\n" +
			"   picket run --tun=userspace --socks5 127.0.0.1:1080\n" +
			"   picket run --tun=userspace --join 'https://picket.example.com:8443#FINGERPRINT' --auth-key-file /run/secrets/picket\n\n" +
			"Without an interface (--tun=userspace) local programs reach peers through a proxy, by peer name or overlay address, and what peers may\n" +
			"open here arrives at the same port of 127.0.0.1.",
		Flags: append(agentFlags(), joinFlags()...),
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 0, 0, ""); err != nil {
				return err
			}
			return runAgent(c)
		},
	}
}

// agent is what `run` was told, checked.
type agent struct {
	state, socket, tun, socks5, http string
	port                             uint16
	mtu                              int
	level                            slog.Level
	loopback, mapPort                bool
	exposedOnly                      bool
	dns                              string // auto, on or off
	join                             *node.Joining
}

func checkAgent(c *cli.Context) (a agent, err error) {
	a = agent{state: c.String("state"), socket: c.String("socket"), tun: c.String("tun"), socks5: c.String("socks5"), http: c.String("http-proxy"),
		loopback: c.Bool("loopback-endpoints")}
	if c.Uint("port") > 65535 {
		return a, cliflags.Usage(c, "--port %d is no port: 0 to 65535", c.Uint("port"))
	}
	a.port = uint16(c.Uint("port"))
	if err := a.level.UnmarshalText([]byte(c.String("log-level"))); err != nil || strings.ContainsAny(c.String("log-level"), "+-") {
		return a, cliflags.Usage(c, "--log-level %q is none of debug, info, warn, error", c.String("log-level"))
	}
	switch c.String("port-mapping") {
	case "on":
		a.mapPort = true
	case "off":
	default:
		return a, cliflags.Usage(c, "--port-mapping %q is neither on nor off", c.String("port-mapping"))
	}
	if a.exposedOnly, err = readInbound(c); err != nil {
		return a, err
	}
	if a.mtu, err = readMTU(c); err != nil {
		return a, err
	}
	if a.dns = c.String("dns"); a.dns != "auto" && a.dns != "on" && a.dns != "off" {
		return a, cliflags.Usage(c, "--dns %q is none of auto, on, off", a.dns)
	}
	if a.state == "" || a.socket == "" {
		return a, cliflags.Usage(c, "--state and --socket must not be empty")
	}
	if a.tun != node.Userspace && !isInterfaceName(a.tun) {
		return a, cliflags.Usage(c, "--tun %q is no name of an interface: 1 to 15 letters, digits, hyphens and underscores, or \"userspace\"", a.tun)
	}
	return a, nil
}

// readInbound reads --inbound.
func readInbound(c *cli.Context) (exposedOnly bool, err error) {
	if c.String("tun") != node.Userspace && c.IsSet("inbound") {
		return false, cliflags.Usage(c, "--inbound is for --tun=userspace: with an interface peers reach what listens at this node's own address, as far as the policy lets them")
	}
	switch c.String("inbound") {
	case "all":
		return false, nil
	case "exposed":
		return true, nil
	}
	return false, cliflags.Usage(c, "--inbound %q is neither all nor exposed", c.String("inbound"))
}

// readMTU reads --mtu.
func readMTU(c *cli.Context) (int, error) {
	text := c.String("mtu")
	if c.String("tun") == node.Userspace && c.IsSet("mtu") {
		return 0, cliflags.Usage(c, "--mtu is for a network interface, and --tun=userspace has none: leave it out")
	}
	if text == "auto" {
		return node.AutoMTU, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < node.LeastMTU || n > node.MostMTU {
		return 0, cliflags.Usage(c, "--mtu %q is neither \"auto\" nor a number from %d to %d", text, node.LeastMTU, node.MostMTU)
	}
	return n, nil
}

// isInterfaceName is stricter than the kernel (IFNAMSIZ is 16 with the NUL): nothing that a file name or a rule could read otherwise.
func isInterfaceName(s string) bool {
	return len(s) > 0 && len(s) < 16 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == "" && s[0] != '-'
}

func runAgent(c *cli.Context) error {
	a, err := checkAgent(c)
	if err != nil {
		return err
	}
	if a.join, err = readJoining(c); err != nil {
		return err
	}
	leaveProcessors()
	if err := preflight(a.tun); err != nil {
		return err
	}
	if err := node.CheckPort(c.Context, a.port); err != nil {
		return err
	}
	state, err := statefile.Open(a.state)
	if err != nil {
		return err
	}
	defer state.Close()
	return a.serve(c.Context, state, c.App.Version, c.App.ErrWriter)
}

// serve opens the listeners and runs the node, which closes them.
func (a agent) serve(ctx context.Context, state *statefile.Dir, version string, log io.Writer) error {
	var opened []net.Listener
	closeAll := func() {
		for _, l := range opened {
			l.Close()
		}
	}
	open := func(listen func(context.Context, string) (net.Listener, error), at string) (net.Listener, error) {
		if at == "" {
			return nil, nil
		}
		l, err := listen(ctx, at)
		if err == nil {
			opened = append(opened, l)
		}
		return l, err
	}
	socket, err1 := open(localapi.Listen, a.socket)
	socks5, err2 := open(proxy.Listen, a.socks5)
	http, err3 := open(proxy.Listen, a.http)
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			closeAll()
			return err
		}
	}
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: a.level}))
	n, err := node.New(node.Config{
		State: state, Version: version, TUN: a.tun, MTU: a.mtu, Port: a.port, Socket: socket, SOCKS5: socks5, HTTPProxy: http, ExposedOnly: a.exposedOnly, Loopback: a.loopback, PortMapping: a.mapPort,
		DNS: hostDNS(a.tun, a.dns, a.state, logger), Join: a.join, Logger: logger,
	})
	if err != nil {
		closeAll()
		return err
	}
	if err := n.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("the agent stopped: %w", err)
	}
	return nil
}
