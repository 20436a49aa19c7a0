package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/acme/autocert"
	"golang.org/x/sync/errgroup"

	"picket.internal/coordinator"
	"picket.internal/coordinator/filepolicy"
	"picket.internal/coordinator/gitpolicy"
	"picket.internal/coordinator/httpapi"
	"picket.internal/coordinator/keydir"
	"picket.internal/coordinator/opsocket"
	"picket.internal/coordinator/protocol"
	"picket.internal/coordinator/reflector"
	"picket.internal/coordinator/relayhttp"
	"picket.internal/coordinator/sqlite"
	"picket.internal/coordinator/web"
	"picket.internal/wgtun/relay"
)

// shutdownGrace is how long requests in progress may go on when the coordinator is asked to stop.
const shutdownGrace = 3 * time.Second

// source is where policy comes from, with its watcher.
type source interface {
	coordinator.PolicySource
	Run(ctx context.Context) error
}

// serve runs a coordinator until ctx ends. Nothing is made on disk before the port is ours and the policy's source makes sense, so that a
// start that cannot serve leaves nothing half done.
func serve(ctx context.Context, s settings, out io.Writer) error {
	listener, err := listen(s.listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	policy, err := openPolicy(s.policy, s.dir)
	if err != nil {
		return err
	}
	dir, err := keydir.Open(s.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	store, err := sqlite.Open(ctx, dir.Database(), dir.Network)
	if err != nil {
		return err
	}
	defer store.Close()
	reflectors, err := listenReflect(ctx, s.reflect, s.logger)
	if err != nil {
		return err
	}
	defer reflectors.Close()
	var c *coordinator.Coordinator
	ring, err := openRing(s, dir, &c)
	if err != nil {
		return err
	}
	if ring != nil {
		defer ring.Close()
	}
	c, err = newCoordinator(ctx, s, dir, store, policy, reflectors, heardOf(ring))
	if err != nil {
		return err
	}
	if err := dir.Ready(); err != nil {
		return err
	}
	tlsConfig, handler, err := front(s, dir, c, store)
	if err != nil {
		return err
	}
	socket, err := opsocket.Listen(keydir.Socket(dir.Path))
	if err != nil {
		return err
	}
	defer socket.Close()
	if err := greet(ctx, out, s, c, joinString(s, dir)); err != nil {
		return err
	}
	beside := []task{c.Run, reflectors.Run, func(ctx context.Context) error { return runCluster(ctx, ring) }}
	if policy != nil {
		beside = append(beside, policy.Run)
	}
	return keepRunning(ctx, s, c, beside, tls.NewListener(listener, tlsConfig), socket, handler)
}

// front is what clients meet: TLS, and behind it the pages and protocols.
func front(s settings, dir *keydir.Dir, c *coordinator.Coordinator, store *sqlite.Store) (*tls.Config, http.Handler, error) {
	config, err := tlsFor(s, dir)
	if err != nil {
		return nil, nil, err
	}
	handler, err := newHandler(s, c, store, joinString(s, dir))
	return config, handler, err
}

// listenError says in words why a port cannot be had.
func listenError(addr string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("port in use: another program listens on %s: stop it, or choose another with --listen", addr)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("no permission to listen on %s: ports below 1024 need root or the capability net_bind_service", addr)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s is no address of this machine: choose another with --listen", addr)
	}
	return fmt.Errorf("cannot listen on %s: %v", addr, err)
}

func listen(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, listenError(addr, err)
	}
	return relay.PromptListener(l), nil
}

// openPolicy returns nil without a source: then nothing may pass.
func openPolicy(p policySettings, dir string) (source, error) {
	switch {
	case p.repo != "":
		return gitpolicy.New(gitpolicy.Config{
			Location: p.repo, Branch: p.branch, Path: p.path, CacheDir: filepath.Join(dir, "policy.git"),
			SSHKey: p.sshKey, KnownHosts: p.knownHosts, Token: p.token, CA: p.ca, Signers: p.signers,
		})
	case p.file != "":
		return filepolicy.New(p.file)
	}
	return nil, nil
}

func newCoordinator(ctx context.Context, s settings, dir *keydir.Dir, store *sqlite.Store, policy source, reflectors *reflector.Server, heard func(string) coordinator.RelayPresence) (*coordinator.Coordinator, error) {
	config := coordinator.Config{
		Store: store, Key: dir.Key, Network: dir.Network, Salt: dir.Salt, URL: s.url.String(),
		PolicyPoll: s.policy.poll, Breaker: s.policy.breaker, Lease: s.lease, Relay: s.relay, Overlay4: s.overlay4, Overlay6: s.overlay6, Domain: s.domain, Logger: s.logger,
		Version: buildVersion(), RelayPresence: heard,
	}
	for _, port := range reflectors.Ports() {
		config.Reflectors = append(config.Reflectors, protocol.Reflector{Port: port})
	}
	if policy != nil { // a nil source in the interface would not be nil
		config.Policy = policy
	}
	return coordinator.New(ctx, config)
}

// tlsFor takes the certificate from the flags, from ACME, or from the directory.
func tlsFor(s settings, dir *keydir.Dir) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	switch {
	case s.tls.cert != "":
		cert, err := s.tls.own()
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{cert}
	case s.tls.acmeDomain != "":
		m := &autocert.Manager{Prompt: autocert.AcceptTOS, HostPolicy: autocert.HostWhitelist(s.tls.acmeDomain), Cache: autocert.DirCache(filepath.Join(dir.Path, "acme"))}
		return m.TLSConfig(), nil
	default:
		certificates, err := dir.Certificates(certificateHosts(s))
		if err != nil {
			return nil, err
		}
		config.GetCertificate = certificates.Get
	}
	return config, nil
}

// own reads the certificate that the flags name.
func (t tlsSettings) own() (tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(t.cert, t.key)
	if err != nil {
		err = fmt.Errorf("cannot use --tls-cert %s with --tls-key %s: %v", t.cert, t.key, err)
	}
	return cert, err
}

// certificateHosts are the names under which this machine may be called.
func certificateHosts(s settings) []string {
	hosts := []string{s.url.Hostname(), "localhost", "127.0.0.1", "::1"}
	if h, _, err := net.SplitHostPort(s.listen); err == nil {
		if a, err := netip.ParseAddr(h); err == nil && !a.IsUnspecified() && !a.IsLoopback() && h != s.url.Hostname() {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

// joinString is what nodes are given: with the coordinator key's fingerprint, it is safe whatever the certificate.
func joinString(s settings, dir *keydir.Dir) string {
	return s.url.String() + "#" + dir.Key.Public().Fingerprint().String()
}

func newHandler(s settings, c *coordinator.Coordinator, store *sqlite.Store, join string) (http.Handler, error) {
	api, err := httpapi.New(httpapi.Config{API: httpapi.Of(c), Logger: s.logger, WebhookSecret: s.webhookSecret, TrustedProxies: s.proxies})
	if err != nil {
		return nil, err
	}
	pages, err := web.New(web.Config{
		API: c, Sessions: store.Sessions(), URL: s.url.String(), Hosts: certificateHosts(s), Join: join, Logger: s.logger,
		HSTS:       s.tls.acmeDomain != "",
		ClientAddr: func(r *http.Request) netip.Addr { return s.proxies.Of(r).Addr() },
	})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	if r := c.Relay(); r != nil {
		mux.Handle(protocol.PathRelay, relayhttp.New(r, relayhttp.Config{TrustedProxies: s.proxies, Logger: s.logger}))
	}
	mux.Handle("/picket/v1/", api)
	mux.Handle("/", pages)
	return mux, nil
}

// greet prints what the operator needs next. Programs read these lines too: "Join string:", "First admin:", "Serving".
func greet(ctx context.Context, out io.Writer, s settings, c *coordinator.Coordinator, join string) error {
	token, needed, err := c.FirstSetup(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Join string: %s\n", join)
	fmt.Fprintf(out, "             On a host: picket up --coordinator 'JOIN STRING'\n")
	if needed {
		fmt.Fprintf(out, "First admin: %s\n", setupLink(s.url.String(), token))
		fmt.Fprint(out, "             Open it to make the first account. It works once; until there is one,\n")
		fmt.Fprint(out, "             each start prints another.\n")
	}
	if s.policy.repo == "" && s.policy.file == "" {
		fmt.Fprintln(out, "No policy:   nothing may pass. Name one with --policy-repo or --policy-file.")
	}
	fmt.Fprintf(out, "Serving %s\n", s.url)
	return nil
}

// task runs until ctx ends.
type task func(ctx context.Context) error

// keepRunning keeps everything going until ctx ends or one part fails.
func keepRunning(ctx context.Context, s settings, c *coordinator.Coordinator, beside []task, l, socket net.Listener, h http.Handler) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, run := range beside {
		group.Go(func() error { return run(ctx) })
	}
	group.Go(func() error {
		return opsocket.Serve(ctx, socket, opsocket.Handler(c, s.url.String(), s.logger))
	})
	group.Go(func() error { return serveHTTP(ctx, l, h, s.logger) })
	return group.Wait()
}

func serveHTTP(ctx context.Context, l net.Listener, h http.Handler, logger *slog.Logger) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug), // strangers' broken handshakes
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			_ = srv.Close()
		}
	})
	err := srv.Serve(l)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve HTTPS: %w", err)
}

func newLogger(w io.Writer, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(strings.ToUpper(level))); err != nil {
		return nil, &usageError{fmt.Sprintf("--log-level %q is none of debug, info, warn, error", level)}
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l})), nil
}
