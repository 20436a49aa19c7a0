// Package web serves the pages on which people sign in, let machines in and run the network.
//
// Everything is rendered here, on the server; the pages need no script and carry none. A request goes through these stages, in order:
//
//  1. guard.go: response headers, the Host it was sent to, its size, where it came from (R15, R24);
//  2. router.go: the route, which has declared its method and who may use it (R32);
//  3. session.go: the session behind the cookie, and the account behind the session, loaded anew (R26);
//  4. the route's handler, which asks the coordinator as that person and returns a reply;
//  5. render.go: the session is saved, then the reply is written.
//
// The coordinator judges every right again; the routes' own check only keeps people off pages that are not for them.
//
// What a person (or a program in a person's stead) posts, always as application/x-www-form-urlencoded and with an Origin or
// Sec-Fetch-Site header:
//
//	POST /setup/TOKEN/begin     login (the first administrator only); then GET /setup/TOKEN shows the TOTP secret in <code id="secret">
//	POST /setup/TOKEN           password, confirm, code; the answer shows each recovery code in <code class="recovery">
//	POST /login                 login, password, code, next
//	POST /join/TICKET           code
//	POST /join/TICKET/deny
//	POST /logout
//
// The administrators' forms are in routes.go, each beside its handler.
package web

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/alexedwards/scs/v2"
)

// Config of the pages.
type Config struct {
	// API is the coordinator. Needed.
	API API
	// Sessions keeps the sessions behind the cookies; it is handed hashes of the cookies' values only. Needed.
	Sessions scs.Store
	// URL is where people reach the pages: "https://name[:port]" without a path. Its scheme decides the cookie's name and Secure.
	URL string
	// Hosts are the names and addresses, without ports, under which requests may arrive; others are answered 421, which is what stops
	// a page elsewhere from reaching this one by rebinding its own name (T13). Empty: any.
	Hosts []string
	// ClientAddr says where a request came from. Nil: the connection's far end, which is wrong behind a proxy.
	ClientAddr func(*http.Request) netip.Addr
	// HSTS adds Strict-Transport-Security; only for a certificate that browsers trust by themselves.
	HSTS bool
	// Join is the join string, shown to administrators beside the command that uses it. Empty: not shown.
	Join string
	// Logger may be nil: nothing is logged then.
	Logger *slog.Logger
}

// New checks the configuration and builds the handler; it starts nothing. The handler serves "/" and everything below it that no other
// handler takes.
func New(c Config) (http.Handler, error) {
	if c.API == nil {
		return nil, errors.New("build pages: no coordinator given")
	}
	if c.Sessions == nil {
		return nil, errors.New("build pages: no session store given")
	}
	base, err := parseBase(c.URL)
	if err != nil {
		return nil, err
	}
	hosts, err := parseHosts(c.Hosts)
	if err != nil {
		return nil, err
	}
	if c.ClientAddr == nil {
		c.ClientAddr = remoteAddr
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	pages, err := parsePages()
	if err != nil {
		return nil, fmt.Errorf("build pages: %w", err)
	}
	s := &site{
		api:        c.API,
		auth:       c.API,
		sessions:   newSessions(c.Sessions, base.Scheme == "https"),
		pages:      pages,
		base:       base.String(),
		join:       c.Join,
		clientAddr: c.ClientAddr,
		log:        c.Logger,
	}
	s.mux = newMux(s.routes(), s.serve, http.HandlerFunc(s.noRoute))
	return &guard{next: s.mux, refuse: s.refuse, hosts: hosts, origin: http.NewCrossOriginProtection(), hsts: c.HSTS && base.Scheme == "https"}, nil
}

// site is what the handlers share; it is read-only once built.
type site struct {
	api        API
	auth       Authenticator
	sessions   *sessions
	pages      *pages
	base       string // URL without a trailing slash
	join       string
	mux        *http.ServeMux
	clientAddr func(*http.Request) netip.Addr
	log        *slog.Logger
}

func parseBase(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("build pages: URL %q is not of the form https://name[:port]", s)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}

func parseHosts(list []string) (map[string]bool, error) {
	hosts := make(map[string]bool, len(list))
	for _, h := range list {
		if _, err := netip.ParseAddr(h); err != nil && (h == "" || strings.ContainsAny(h, ":/ ")) {
			return nil, fmt.Errorf("build pages: host %q is neither a name nor an address without a port", h)
		}
		hosts[hostName(h)] = true
	}
	return hosts, nil
}

// remoteAddr is the connection's far end; zero when the server did not say.
func remoteAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}
