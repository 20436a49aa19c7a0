package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator/cluster"
	"picket.internal/coordinator/keydir"
	"picket.internal/coordinator/protocol"
	"picket.internal/coordinator/relayhttp"
	"picket.internal/node/control"
	"picket.internal/wgtun/relay"
)

const (
	// defaultRelayDir is where a relay keeps the key of its certificate.
	defaultRelayDir = "/var/lib/picket-relay"
	// homeRelay is the name of the relay inside the coordinator.
	homeRelay = "home"
	// statsEvery is how often a relay says in its log what it carried.
	statsEvery = time.Minute
	// askAgain is the longest pause between attempts to reach the coordinator at the start.
	askAgain = 30 * time.Second
)

func relayCommand() *cli.Command {
	return &cli.Command{
		Name:  "relay",
		Usage: "run a relay on another host, for nodes without a direct path",
		Description: `It carries what it cannot read, between nodes of this network that may meet: they show a pass of the coordinator's, which is good for ten minutes. It asks the coordinator at the start who it is, and keeps nothing but the key of its certificate, in --dir.

Nodes come to it once ` + "`picket-coordinator relays add`" + ` has named it; the start prints that line. The coordinator has a relay of its own.

Examples:

   picket-coordinator relay --name fra \
      --coordinator 'https://picket.example.com:8443#FINGERPRINT'
   picket-coordinator relay --name ams --listen :443 --coordinator 'JOIN STRING' \
      --tls-cert relay.crt --tls-key relay.key`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "coordinator", Usage: "the `JOIN` string that the coordinator prints, whole"},
			&cli.StringFlag{Name: "name", Usage: "the relay's `NAME`, the same as in `relays add`"},
			&cli.StringFlag{Name: "listen", Value: ":8443", Usage: "`ADDRESS` for nodes"},
			reflectFlag(),
			urlFlag("the `URL` under which nodes reach it (default: https:// and this host's name or address, with the port of --listen)"),
			&cli.StringFlag{Name: "dir", Value: defaultRelayDir, Usage: "the relay's own `DIRECTORY`, for the key of its certificate"},
			&cli.StringFlag{Name: "tls-cert", Usage: "certificate `FILE` that the nodes' systems accept (with --tls-key); --dir is not used then"},
			&cli.StringFlag{Name: "tls-key", Usage: "its private key `FILE`"},
			&cli.StringSliceFlag{Name: "trusted-proxy", Usage: "believe X-Forwarded-For from this `ADDRESS` or range (repeat for more)"},
			&cli.StringFlag{Name: "log-level", Value: "info", Usage: "log from `LEVEL` up: debug, info, warn, error"},
			joinFlag(),
		}, clusterFlags()...),
		Action: relayAction,
	}
}

// relaySettings are relay's flags, checked.
type relaySettings struct {
	settings // dir, listen, url, tls, proxies and logger
	join     protocol.Join
	name     string
}

func relayAction(c *cli.Context) error {
	if _, err := arguments(c, 0, ""); err != nil {
		return err
	}
	s, err := readRelaySettings(c)
	var wrong *usageError
	if errors.As(err, &wrong) {
		return cliflags.Usage(c, "%s", wrong.message)
	}
	if err != nil {
		return err
	}
	return runRelay(c.Context, s, c.App.Writer)
}

func readRelaySettings(c *cli.Context) (relaySettings, error) {
	s := relaySettings{name: c.String("name")}
	s.dir, s.listen, s.tls = c.String("dir"), c.String("listen"), tlsSettings{cert: c.String("tls-cert"), key: c.String("tls-key")}
	var err error
	for _, read := range []func() error{
		func() error { s.join, err = readRelayJoin(c.String("coordinator")); return err },
		func() error { return checkRelayName(s.name) },
		func() error {
			s.reflect, err = readReflect(c.StringSlice("reflect-listen"), s.listen, c.IsSet("reflect-listen"), protocol.MaxRelayReflect)
			return err
		},
		func() error { s.cluster, err = readCluster(c, true); return err },
		func() error { s.url, err = readURL(c.String("url"), s.listen); return err },
		func() error { return s.tls.check() },
		func() error { s.proxies, err = readProxies(c.StringSlice("trusted-proxy")); return err },
		func() error { s.logger, err = newLogger(c.App.ErrWriter, c.String("log-level")); return err },
	} {
		if err := read(); err != nil {
			return s, err
		}
	}
	return s, nil
}

// readRelayJoin takes a join string with its fingerprint: whom the relay believes about passes must not hang on some authority.
func readRelayJoin(text string) (protocol.Join, error) {
	if text == "" {
		return protocol.Join{}, &usageError{"--coordinator is missing: give the join string that the coordinator printed at its start"}
	}
	j, err := protocol.ParseJoin(text)
	if err != nil {
		return j, &usageError{"--coordinator: " + err.Error()}
	}
	if j.Fingerprint.IsZero() {
		return j, &usageError{"--coordinator has no fingerprint: copy the whole join string, with what follows the #, and put it in quotes"}
	}
	return j, nil
}

func checkRelayName(name string) error {
	switch {
	case name == "":
		return &usageError{"--name is missing: give the relay the name that `relays add` will have, such as fra"}
	case name == homeRelay:
		return &usageError{"--name home is that of the coordinator's own relay: choose another"}
	case protocol.CheckName(name) != nil:
		return &usageError{fmt.Sprintf("--name %.70q is none for a relay: 1 to 63 of a to z, digits and hyphens, and no hyphen at either end", name)}
	}
	return nil
}

// runRelay runs a relay until ctx ends.
func runRelay(ctx context.Context, s relaySettings, out io.Writer) error {
	listener, err := listen(s.listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	config, print, closeDir, err := relayTLS(s)
	if err != nil {
		return err
	}
	defer closeDir()
	reflectors, err := listenReflect(ctx, s.reflect, s.logger)
	if err != nil {
		return err
	}
	defer reflectors.Close()
	who, err := askCoordinator(ctx, s)
	if err != nil || ctx.Err() != nil {
		return err
	}
	server := relay.NewServer(relay.ServerConfig{Coordinator: who.Coordinator, Network: string(who.Network), Name: s.name, Logger: s.logger})
	defer server.Close()
	clients := func() int { return server.Stats().Clients }
	ring, err := openCluster(s.cluster, who.Network, cluster.Meta{Role: cluster.Relay, Name: s.name}, clients, nil, s.logger)
	if err != nil {
		return err
	}
	greetRelay(out, s, who, print, reflectors.Ports())
	group, ctx := errgroup.WithContext(ctx)
	h := relayhttp.New(server, relayhttp.Config{TrustedProxies: s.proxies, Logger: s.logger})
	group.Go(func() error { return serveHTTP(ctx, tls.NewListener(listener, config), h, s.logger) })
	group.Go(func() error { return reflectors.Run(ctx) })
	group.Go(func() error { return runCluster(ctx, ring) })
	group.Go(func() error { return logStats(ctx, server, s.logger) })
	return group.Wait()
}

// relayTLS takes the certificate from the flags, or from the relay's directory: then it also returns the fingerprint that it leads to.
func relayTLS(s relaySettings) (config *tls.Config, print string, done func(), err error) {
	config = &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if s.tls.cert != "" {
		cert, err := s.tls.own()
		config.Certificates = []tls.Certificate{cert}
		return config, "", func() {}, err
	}
	dir, err := keydir.Open(s.dir)
	if err != nil {
		return nil, "", nil, err
	}
	if !dir.Fresh { // it has a database: its key is that of a network
		dir.Close()
		return nil, "", nil, fmt.Errorf("%s is a coordinator's directory: a relay needs one of its own, name it with --dir", s.dir)
	}
	certificates, err := dir.Certificates(certificateHosts(s.settings))
	if err != nil {
		dir.Close()
		return nil, "", nil, err
	}
	config.GetCertificate = certificates.Get
	return config, dir.Key.Public().Fingerprint().String(), func() { dir.Close() }, nil
}

// askCoordinator learns whose passes are good, as often as it takes until the coordinator answers; nothing when ctx ends before.
func askCoordinator(ctx context.Context, s relaySettings) (protocol.InfoBody, error) {
	client, err := control.New(control.Config{Join: s.join, Proxy: http.ProxyFromEnvironment, Logger: s.logger})
	if err != nil {
		return protocol.InfoBody{}, err
	}
	defer client.Close()
	for pause := time.Second; ; pause = min(2*pause, askAgain) {
		who, err := client.Info(ctx)
		if err == nil || !errors.Is(err, control.ErrUnreachable) {
			return who, err
		}
		if ctx.Err() != nil {
			return protocol.InfoBody{}, nil
		}
		s.logger.Warn("the coordinator cannot be asked whose passes are good: nobody is let in until it answers", "again in", pause, "err", err)
		select {
		case <-ctx.Done():
			return protocol.InfoBody{}, nil
		case <-time.After(pause):
		}
	}
}

// greetRelay prints what the operator needs next. Programs read these lines too: "Add it:", "Relaying".
func greetRelay(out io.Writer, s relaySettings, who protocol.InfoBody, print string, reflect []uint16) {
	pin := ""
	if print != "" {
		pin = " --fingerprint " + print
	}
	if len(reflect) > 0 {
		pin += " --reflect " + portsText(reflect)
	}
	fmt.Fprintln(out, "On the coordinator's host, once:")
	fmt.Fprintf(out, "Add it: picket-coordinator relays add %s %s%s\n", s.name, s.url, pin)
	fmt.Fprintf(out, "Relaying for the network %s as %s at %s\n", who.Network, s.name, s.url)
}

// logStats says each minute what changed, until ctx ends.
func logStats(ctx context.Context, server *relay.Server, logger *slog.Logger) error {
	tick := time.NewTicker(statsEvery)
	defer tick.Stop()
	var said relay.ServerStats
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := server.Stats()
		if now == said {
			continue
		}
		said = now
		logger.Info("relayed so far", "clients", now.Clients, "datagrams", now.Datagrams, "bytes", now.Bytes,
			"absent", now.Absent, "forbidden", now.Forbidden, "full", now.Full, "refused", now.Refused)
	}
}
