package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"

	"github.com/urfave/cli/v2"

	"picket.internal/coordinator"
	"picket.internal/coordinator/cluster"
	"picket.internal/coordinator/keydir"
	"picket.internal/coordinator/protocol"
)

func clusterFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "cluster-listen", Usage: "hear from the network's coordinator and relays which of them are alive, at this private `ADDRESS:PORT` of this host, UDP and TCP; with --cluster-key"},
		&cli.StringFlag{Name: "cluster-key", Usage: "`FILE` of mode 0600 with the key that they share, made by `picket-coordinator cluster key`"},
		&cli.BoolFlag{Name: "cluster-public", Usage: "let them have public addresses: the port must then be closed to everybody else by a firewall"},
	}
}

func joinFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "cluster-join", Usage: "`HOST:PORT` of the coordinator's --cluster-listen, or of another relay's (repeat for more)"}
}

func clusterCommand() *cli.Command {
	return &cli.Command{
		Name:            "cluster",
		Usage:           "make the key with which coordinator and relays tell each other that they are alive",
		HideHelpCommand: true,
		Description:     "Example:\n\n   picket-coordinator cluster key /etc/picket/cluster.key",
		Subcommands: []*cli.Command{
			{Name: "key", Usage: "make a key, into a new file of mode 0600, or onto standard output", ArgsUsage: "[FILE]", Action: clusterKey,
				Description: "Copy the file to the coordinator and to each relay, and name it there with --cluster-key. Whoever has it can say anything about who is alive, which is a hint and no more.\n\n" +
					"Example:\n\n   picket-coordinator cluster key /etc/picket/cluster.key"},
		},
	}
}

func clusterKey(c *cli.Context) error {
	k := cluster.NewKey()
	if c.NArg() == 0 {
		_, err := fmt.Fprintln(c.App.Writer, k.Text())
		return err
	}
	args, err := arguments(c, 1, "a file to make, or nothing")
	if err != nil {
		return err
	}
	return cluster.WriteKey(args[0], k)
}

// clusterSettings are the flags, checked. Without a valid listen there is no cluster.
type clusterSettings struct {
	listen netip.AddrPort
	public bool
	join   []string
	key    cluster.Key
}

func (s clusterSettings) on() bool { return s.listen.IsValid() }

// readCluster reads the flags of serve, or of relay: that one must join somebody.
func readCluster(c *cli.Context, joins bool) (s clusterSettings, err error) {
	text, file := c.String("cluster-listen"), c.String("cluster-key")
	s.public, s.join = c.Bool("cluster-public"), c.StringSlice("cluster-join")
	if text == "" {
		if file != "" || s.public || len(s.join) > 0 {
			return s, &usageError{"--cluster-listen is missing: the other --cluster flags are of no use without it"}
		}
		return s, nil
	}
	at, err := netip.ParseAddrPort(text)
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	switch {
	case err != nil || at.Port() == 0:
		return s, &usageError{fmt.Sprintf("--cluster-listen %q is no ADDRESS:PORT: give this host's own private address, such as 10.0.0.2:7946", text)}
	case cluster.CheckAddress(at.Addr(), true) != nil:
		return s, &usageError{fmt.Sprintf("--cluster-listen: %s is no address of this host's own: the others are told it, so give the private one, such as 10.0.0.2:7946", at.Addr())}
	case cluster.CheckAddress(at.Addr(), s.public) != nil:
		return s, &usageError{fmt.Sprintf("--cluster-listen: %s is a public address, and whoever reaches the port can have this program work and hold memory: give a private one, or say --cluster-public and close the port to others by a firewall", at.Addr())}
	case file == "":
		return s, &usageError{"--cluster-key is missing: make a key with `picket-coordinator cluster key FILE`"}
	case joins && len(s.join) == 0:
		return s, &usageError{"--cluster-join is missing: give the coordinator's --cluster-listen"}
	}
	for _, j := range s.join {
		host, port, err := net.SplitHostPort(j)
		n, portErr := strconv.ParseUint(port, 10, 16)
		if err != nil || portErr != nil || n == 0 || host == "" {
			return s, &usageError{fmt.Sprintf("--cluster-join %q is no HOST:PORT", j)}
		}
	}
	s.listen = at
	if s.key, err = cluster.ReadKey(file); err != nil {
		return s, &usageError{"--cluster-key: " + err.Error()}
	}
	return s, nil
}

// openCluster takes part in the cluster as self; nil when there is none.
func openCluster(s clusterSettings, network protocol.NetworkID, self cluster.Meta, clients func() int, changed func(cluster.Member), logger *slog.Logger) (*cluster.Cluster, error) {
	if !s.on() {
		return nil, nil
	}
	self.Version = buildVersion()
	self.Version = self.Version[:min(len(self.Version), cluster.MaxVersion)]
	return cluster.Open(cluster.Config{
		Network: string(network), Self: self, Listen: s.listen, Public: s.public, Join: s.join, Key: s.key, Clients: clients, Changed: changed, Logger: logger,
	})
}

// openRing is openCluster for the coordinator, which *c is from when the ring runs. Nodes whose home is said to be gone are told to ask it.
func openRing(s settings, dir *keydir.Dir, c **coordinator.Coordinator) (*cluster.Cluster, error) {
	clients := func() int {
		if r := (*c).Relay(); r != nil {
			return r.Stats().Clients
		}
		return 0
	}
	changed := func(m cluster.Member) {
		if m.Role == cluster.Relay && !m.Alive {
			(*c).DoubtRelay(m.Name)
		}
	}
	return openCluster(s.cluster, dir.Network, cluster.Meta{Role: cluster.Coordinator, Name: protocol.OwnRelay}, clients, changed, s.logger)
}

// runCluster runs what openCluster returned.
func runCluster(ctx context.Context, ring *cluster.Cluster) error {
	if ring == nil {
		return nil
	}
	return ring.Run(ctx)
}

// heardOf is what the ring says of a relay, for the coordinator's list.
func heardOf(ring *cluster.Cluster) func(name string) coordinator.RelayPresence {
	if ring == nil {
		return nil
	}
	return func(name string) coordinator.RelayPresence {
		for _, m := range ring.Members() {
			if m.Role == cluster.Relay && m.Name == name {
				return coordinator.RelayPresence{Heard: true, Alive: m.Alive, Since: m.Since, Clients: int(m.Clients), Version: m.Version}
			}
		}
		return coordinator.RelayPresence{}
	}
}
