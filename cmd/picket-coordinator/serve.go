package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator"
	"picket.internal/coordinator/clientaddr"
	"picket.internal/coordinator/protocol"
)

func serveCommand() *cli.Command {
	return &cli.Command{
		Name:  "serve",
		Usage: "run the coordinator in the foreground",
		Description: `The first start makes keys, a certificate and a database in --dir, and prints a setup link for the first administrator and the join string for nodes.

Examples:

   picket-coordinator serve --url https://picket.example.com:8443 \
      --policy-repo /srv/policy
   picket-coordinator serve --policy-repo https://git.example.com/policy.git \
      --policy-token /etc/picket/token --webhook-secret /etc/picket/webhook \
      --policy-signers /etc/picket/signers
   picket-coordinator serve --listen :443 --acme-domain picket.example.com \
      --url https://picket.example.com --policy-file policy.hujson`,
		Flags:  serveFlags(),
		Action: serveAction,
	}
}

func serveFlags() []cli.Flag {
	flags := []cli.Flag{
		dirFlag(),
		&cli.StringFlag{Name: "listen", Value: ":8443", Usage: "`ADDRESS` for nodes and browsers"},
		urlFlag("the `URL` under which nodes and browsers reach it (default: https:// and this host's name or address, with the port of --listen)"),
		&cli.StringFlag{Name: "tls-cert", Usage: "certificate `FILE` of your own (with --tls-key)"},
		&cli.StringFlag{Name: "tls-key", Usage: "its private key `FILE`"},
		&cli.StringFlag{Name: "acme-domain", Usage: "get a certificate for this public `NAME` by ACME (Let's Encrypt); needs port 443 from the internet"},
		&cli.StringFlag{Name: "policy-repo", Usage: "Git repository with the policy: a `PATH`, or a https:// or ssh:// URL"},
		&cli.StringFlag{Name: "policy-branch", Value: "main", Usage: "its `BRANCH`"},
		&cli.StringFlag{Name: "policy-path", Value: "policy.hujson", Usage: "the policy's `PATH` inside the repository"},
		&cli.StringFlag{Name: "policy-file", Usage: "a plain `FILE` with the policy, instead of a repository"},
		&cli.StringFlag{Name: "policy-token", Usage: "`FILE` with an access token for a https:// repository"},
		&cli.StringFlag{Name: "policy-ca", Usage: "`FILE` with certificates to trust for a https:// repository, besides the system's"},
		&cli.StringFlag{Name: "policy-ssh-key", Usage: "`FILE` with the deploy key for a ssh:// repository"},
		&cli.StringFlag{Name: "policy-known-hosts", Usage: "`FILE` with the host key of a ssh:// repository's server"},
		&cli.StringFlag{Name: "policy-signers", Usage: "take only commits signed by somebody in this `FILE` of allowed signers (ssh-keygen(1)), with --policy-repo"},
		&cli.DurationFlag{Name: "policy-poll", Value: 30 * time.Second, Usage: "look for a newer policy every `TIME`"},
		&cli.StringFlag{Name: "policy-breaker", Value: strconv.Itoa(coordinator.DefaultBreakerPercent) + "%", Usage: "a commit that would cut more than this `SHARE` of the live flows waits for `policy confirm`, as does one that empties a group; off: none waits"},
		&cli.StringFlag{Name: "webhook-secret", Usage: "`FILE` with the secret of the Git host's webhook, which goes to URL/picket/v1/webhook"},
		&cli.StringFlag{Name: "addresses4", Value: "100.64.0.0/10", Usage: "overlay IPv4 `RANGE`; it can only grow once nodes have addresses from it"},
		&cli.StringFlag{Name: "addresses6", Value: "fd70:696b:6574::/48", Usage: "overlay IPv6 `RANGE`"},
		&cli.StringFlag{Name: "domain", Usage: "nodes are called NAME.`DOMAIN`; it is kept (default: as it was, at first " + coordinator.DefaultDomain + ")"},
		&cli.DurationFlag{Name: "lease", Value: 12 * time.Hour, Usage: "nodes go on for `TIME` without hearing from the coordinator"},
		reflectFlag(),
		&cli.StringFlag{Name: "relay", Value: "on", Usage: "carry what nodes without a direct path to each other send, sealed as it is, over the port of --listen: `on` or off"},
		&cli.StringSliceFlag{Name: "trusted-proxy", Usage: "believe X-Forwarded-For from this `ADDRESS` or range (repeat for more)"},
		&cli.StringFlag{Name: "log-level", Value: "info", Usage: "log from `LEVEL` up: debug, info, warn, error"},
	}
	return append(flags, clusterFlags()...)
}

// settings are serve's flags, checked.
type settings struct {
	dir                string
	listen             string
	url                *url.URL
	tls                tlsSettings
	policy             policySettings
	webhookSecret      []byte
	overlay4, overlay6 netip.Prefix
	domain             string // empty: as it was
	lease              time.Duration
	reflect            reflectSettings
	cluster            clusterSettings
	relay              bool
	proxies            clientaddr.Proxies
	logger             *slog.Logger
}

// tlsSettings say where the certificate comes from: the directory's own unless a file or a domain is named.
type tlsSettings struct{ cert, key, acmeDomain string }

// policySettings say where policy comes from: at most one of repo and file is set.
type policySettings struct {
	repo, branch, path, file      string
	token, ca, sshKey, knownHosts string
	signers                       string
	poll                          time.Duration
	breaker                       coordinator.Breaker
}

func serveAction(c *cli.Context) error {
	if _, err := arguments(c, 0, ""); err != nil {
		return err
	}
	s, err := readSettings(c)
	var wrong *usageError
	if errors.As(err, &wrong) {
		return cliflags.Usage(c, "%s", wrong.message)
	}
	if err != nil {
		return err
	}
	return serve(c.Context, s, c.App.Writer)
}

func readSettings(c *cli.Context) (settings, error) {
	s := settings{dir: c.String("dir"), listen: c.String("listen"), lease: c.Duration("lease"), domain: c.String("domain")}
	s.tls = tlsSettings{c.String("tls-cert"), c.String("tls-key"), c.String("acme-domain")}
	s.policy = policySettings{
		repo: c.String("policy-repo"), branch: c.String("policy-branch"), path: c.String("policy-path"), file: c.String("policy-file"),
		token: c.String("policy-token"), ca: c.String("policy-ca"), sshKey: c.String("policy-ssh-key"), knownHosts: c.String("policy-known-hosts"),
		signers: c.String("policy-signers"), poll: c.Duration("policy-poll"),
	}
	var err error
	for _, read := range []func() error{
		func() error { s.url, err = readURL(c.String("url"), s.listen); return err },
		func() error { return s.tls.check() },
		func() error { return s.policy.check() },
		func() error { s.policy.breaker, err = readBreaker(c.String("policy-breaker")); return err },
		func() error { s.webhookSecret, err = readWebhookSecret(c.String("webhook-secret")); return err },
		func() error { s.overlay4, err = readRange("--addresses4", c.String("addresses4"), true); return err },
		func() error { s.overlay6, err = readRange("--addresses6", c.String("addresses6"), false); return err },
		func() error { s.proxies, err = readProxies(c.StringSlice("trusted-proxy")); return err },
		func() error {
			s.reflect, err = readReflect(c.StringSlice("reflect-listen"), s.listen, c.IsSet("reflect-listen"), protocol.MaxReflectors)
			return err
		},
		func() error { s.cluster, err = readCluster(c, false); return err },
		func() error { s.relay, err = readSwitch("--relay", c.String("relay")); return err },
		func() error { s.logger, err = newLogger(c.App.ErrWriter, c.String("log-level")); return err },
		func() error { return checkDomain(s.domain) },
		func() error { return atLeast("--lease", s.lease, time.Second) },
		func() error { return atLeast("--policy-poll", s.policy.poll, time.Second) },
	} {
		if err := read(); err != nil {
			return s, err
		}
	}
	return s, nil
}

func readSwitch(flag, text string) (bool, error) {
	if text != "on" && text != "off" {
		return false, &usageError{fmt.Sprintf("%s %q is neither on nor off", flag, text)}
	}
	return text == "on", nil
}

func checkDomain(domain string) error {
	if domain == "" {
		return nil
	}
	if err := protocol.CheckNetworkDomain(domain); err != nil {
		return &usageError{fmt.Sprintf("--domain %q is %v: write it like corp.example.com or picket.internal, in lower case", domain, err)}
	}
	return nil
}

func atLeast(flag string, d, least time.Duration) error {
	if d < least {
		return &usageError{fmt.Sprintf("%s %v is too short: at least %v", flag, d, least)}
	}
	return nil
}

// readURL returns the given URL, or one made of this host's name and the port of listen.
func readURL(text, listen string) (*url.URL, error) {
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, &usageError{fmt.Sprintf("--listen %q is no ADDRESS:PORT; :8443 listens on every address", listen)}
	}
	if text == "" {
		host, err := defaultHost(listen)
		if err != nil {
			return nil, err
		}
		return &url.URL{Scheme: "https", Host: net.JoinHostPort(host, port)}, nil
	}
	u, err := url.Parse(strings.TrimSuffix(text, "/"))
	if err != nil || u.Scheme != "https" || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, &usageError{fmt.Sprintf("--url %q must be https://NAME or https://NAME:PORT and nothing more", text)}
	}
	return u, nil
}

func defaultHost(listen string) (string, error) {
	host, _, _ := net.SplitHostPort(listen)
	if a, err := netip.ParseAddr(host); err == nil && !a.IsUnspecified() {
		return host, nil
	}
	if host != "" && host != "0.0.0.0" && host != "::" {
		return host, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", errors.New("this host has no name: say with --url how nodes reach the coordinator")
	}
	return strings.ToLower(name), nil
}

func (t tlsSettings) check() error {
	if (t.cert == "") != (t.key == "") {
		return &usageError{"--tls-cert and --tls-key go together"}
	}
	if t.cert != "" && t.acmeDomain != "" {
		return &usageError{"--acme-domain gets a certificate of its own: leave out --tls-cert and --tls-key"}
	}
	if t.cert == "" {
		return nil
	}
	_, err := t.own()
	return err
}

func (p policySettings) check() error {
	if p.repo != "" && p.file != "" {
		return &usageError{"--policy-repo and --policy-file exclude each other: policy has one source"}
	}
	if p.signers != "" && p.repo == "" {
		return &usageError{"--policy-signers goes with --policy-repo: signatures are on commits"}
	}
	return nil
}

// readBreaker reads "25%" or "off".
func readBreaker(text string) (coordinator.Breaker, error) {
	if text == "off" {
		return coordinator.Breaker{Off: true}, nil
	}
	digits, ok := strings.CutSuffix(text, "%")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || strconv.Itoa(n) != digits || n < 1 || n > 100 {
		return coordinator.Breaker{}, &usageError{fmt.Sprintf("--policy-breaker %q is no share: write one from 1%% to 100%%, such as 25%%, or off", text)}
	}
	return coordinator.Breaker{Percent: n}, nil
}

// readWebhookSecret reads the secret from its file; nil without one.
func readWebhookSecret(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read --webhook-secret: %v", err)
	}
	secret := strings.TrimSpace(string(text))
	if len(secret) < 16 {
		return nil, fmt.Errorf("the secret in %s is shorter than 16 characters and could be guessed: make one with `openssl rand -hex 32`", file)
	}
	return []byte(secret), nil
}

func readRange(flag, text string, v4 bool) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return p, &usageError{fmt.Sprintf("%s %q is no address range; write it as 100.64.0.0/10 or fd70:696b:6574::/48", flag, text)}
	case p != p.Masked():
		return p, &usageError{fmt.Sprintf("%s %s has bits beyond its length: did you mean %s?", flag, text, p.Masked())}
	case p.Addr().Is4() != v4 || p.Addr().Is4In6():
		return p, &usageError{fmt.Sprintf("%s %s is of the wrong address family", flag, text)}
	}
	return p, nil
}

func readProxies(texts []string) (clientaddr.Proxies, error) {
	var proxies clientaddr.Proxies
	for _, t := range texts {
		if a, err := netip.ParseAddr(t); err == nil {
			proxies = append(proxies, netip.PrefixFrom(a, a.BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(t)
		if err != nil || p != p.Masked() {
			return nil, &usageError{fmt.Sprintf("--trusted-proxy %q is neither an address nor a range like 10.0.0.0/8", t)}
		}
		proxies = append(proxies, p)
	}
	return proxies, nil
}
