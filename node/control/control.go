// Package control is the node's side of the node protocol: it finds out who the coordinator is, enrols, and keeps a session.
//
// Trust is settled in two steps. The TLS certificate must chain either to a certificate of the coordinator's own key (the one whose
// fingerprint the join string carries, or the one pinned at enrolment) or to the system's roots for the host's name, as behind a
// reverse proxy. Then the coordinator must sign a fresh nonce with that same key, before anything is told to it that matters.
package control

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

// Config of a Client.
type Config struct {
	Join protocol.Join
	// Pinned is the coordinator's key after enrolment; zero before. Beside it the fingerprint of Join may be absent, but not differ.
	Pinned key.CoordinatorPublic
	// Proxy says which HTTP proxy to take, as http.Transport.Proxy does (http.ProxyFromEnvironment); nil takes none.
	Proxy func(*http.Request) (*url.URL, error)
	// DialContext opens TCP connections; nil takes a net.Dialer's.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// Roots are trusted in place of the system's; nil takes the system's.
	Roots  *x509.CertPool
	Logger *slog.Logger
	Timing Timing
}

// Timing of requests and sessions. A zero field takes the default.
type Timing struct {
	Request time.Duration // for one request beyond what the coordinator may hold it, and each step of opening a session; 10 s
	Live    time.Duration // between our signs of life; protocol.LiveInterval
	Dead    time.Duration // of silence until the session is given up; 2 * LiveInterval + 5 s
	Backoff time.Duration // longest first pause between attempts; 200 ms
	Pause   time.Duration // longest pause between attempts; 30 s
}

func (t Timing) filled() Timing {
	for _, f := range []struct {
		v  *time.Duration
		to time.Duration
	}{
		{&t.Request, 10 * time.Second}, {&t.Live, protocol.LiveInterval}, {&t.Dead, 2*protocol.LiveInterval + 5*time.Second},
		{&t.Backoff, 200 * time.Millisecond}, {&t.Pause, 30 * time.Second},
	} {
		if *f.v == 0 {
			*f.v = f.to
		}
	}
	return t
}

// Client speaks to one coordinator. It is safe for concurrent use.
type Client struct {
	join   protocol.Join
	host   string          // of the URL, without port
	pin    key.Fingerprint // zero: any key, when the certificate verifies against the system's roots
	pinned bool            // the pin is from enrolment, not from the join string
	roots  *x509.CertPool
	log    *slog.Logger
	timing Timing
	http   *http.Client
	// lenient is http, but takes a certificate of the pinned key at any time of day: only to learn what is wrong with the clock.
	lenient *http.Client
}

// maxHeader bounds the headers of an answer, in bytes.
const maxHeader = 16 << 10

// New checks the configuration; it connects to nothing.
func New(c Config) (*Client, error) {
	u, err := url.Parse(c.Join.URL)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" {
		return nil, errors.New("no coordinator is named: give a join string, https://host:port#FINGERPRINT")
	}
	cl := &Client{join: c.Join, host: u.Hostname(), pin: c.Join.Fingerprint, roots: c.Roots, log: c.Logger, timing: c.Timing.filled()}
	if cl.log == nil {
		cl.log = slog.New(slog.DiscardHandler)
	}
	if !c.Pinned.IsZero() {
		pin := c.Pinned.Fingerprint()
		if !cl.pin.IsZero() && !cl.pin.Equal(pin) {
			return nil, &Error{Kind: ErrWrongKey, Message: "the join string names another coordinator (key " + cl.pin.String() +
				") than the one this node is enrolled with (key " + pin.String() + "): run `picket logout` first to leave that network"}
		}
		cl.pin, cl.pinned = pin, true
	}
	cl.http, cl.lenient = cl.client(c, false), cl.client(c, true)
	return cl, nil
}

func (c *Client) client(cfg Config, lenient bool) *http.Client {
	dial := cfg.DialContext
	if dial == nil {
		dial = (&net.Dialer{Timeout: c.timing.Request}).DialContext
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  cfg.Proxy,
			OnProxyConnectResponse: proxyAnswered,
			DialContext:            dial,
			TLSClientConfig: &tls.Config{
				MinVersion: tls.VersionTLS13,
				// The standard check knows one set of roots and always the host's name. verify does the whole of it instead.
				InsecureSkipVerify: true,
				VerifyConnection:   func(cs tls.ConnectionState) error { return c.verify(cs, time.Now(), lenient) },
			},
			TLSHandshakeTimeout:    c.timing.Request,
			MaxResponseHeaderBytes: maxHeader,
			MaxIdleConns:           2,
			IdleConnTimeout:        30 * time.Second,
		},
		// A redirect could lead the auth key elsewhere; a coordinator never sends one.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Close drops idle connections. The Client stays usable.
func (c *Client) Close() {
	c.http.CloseIdleConnections()
	c.lenient.CloseIdleConnections()
}

// call is one request.
type call struct {
	method, path string
	token        string        // for who asks about policies; empty: none
	body         []byte        // JSON; nil: none
	limit        int64         // of the answer, in bytes
	hold         time.Duration // how long the coordinator may take beyond Timing.Request
}

// do sends one request and decodes the answer into out. Every error is one of this package's.
func (c *Client) do(ctx context.Context, via *http.Client, method, path string, body, out any, hold time.Duration) error {
	q := call{method: method, path: path, limit: protocol.MaxEnrolBody, hold: hold}
	if body != nil {
		var err error
		if q.body, err = protocol.Marshal(body); err != nil {
			return err
		}
	}
	answer, err := c.send(ctx, via, q)
	if err == nil && protocol.Unmarshal(answer, out) != nil {
		err = c.notPicket()
	}
	return err
}

// send sends one request and returns the answer. Every error is one of this package's.
func (c *Client) send(ctx context.Context, via *http.Client, q call) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timing.Request+q.hold)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, q.method, c.join.URL+q.path, bytes.NewReader(q.body))
	if err != nil {
		return nil, err
	}
	if q.body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if q.token != "" {
		r.Header.Set("Authorization", "Bearer "+q.token)
	}
	resp, err := via.Do(r)
	if err != nil {
		return nil, c.connectError(err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, q.limit+1))
	switch {
	case err != nil:
		return nil, c.connectError(err)
	case resp.StatusCode != http.StatusOK:
		return nil, c.refusalOf(resp, answer)
	case int64(len(answer)) > q.limit, isPage(resp):
		return nil, c.notPicketBut(resp)
	}
	return answer, nil
}

// refusalOf reads the Problem of an answer that is not a success.
func (c *Client) refusalOf(resp *http.Response, body []byte) error {
	var p protocol.Problem
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if kind != "application/json" || protocol.Unmarshal(body, &p) != nil || p.Code == "" {
		if resp.StatusCode == http.StatusBadGateway || resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusGatewayTimeout {
			return &Error{Kind: ErrUnreachable, Message: "the proxy in front of the coordinator at " + c.join.URL + " does not reach it (" + resp.Status + "): is the coordinator running?"}
		}
		if resp.StatusCode == http.StatusUpgradeRequired { // what our own server says to a request that lost its headers
			return &Error{Kind: ErrUnreachable, Message: "a proxy between here and the coordinator at " + c.join.URL + " passes no WebSockets on: have it keep the headers Upgrade and Connection"}
		}
		return c.notPicketBut(resp)
	}
	return problem(p, retryAfter(resp.Header))
}

// maxRetryAfter bounds how long a coordinator can send us away.
const maxRetryAfter = time.Minute

func retryAfter(h http.Header) time.Duration {
	s, err := strconv.ParseUint(h.Get("Retry-After"), 10, 16)
	if err != nil {
		return 0
	}
	return min(time.Duration(s)*time.Second, maxRetryAfter)
}

// Info is who the coordinator is, and which network's, proved by its key. Every error is one of this package's.
func (c *Client) Info(ctx context.Context) (protocol.InfoBody, error) { return c.info(ctx) }

// info asks the coordinator who it is, with a fresh nonce, and judges its key, version and clock.
func (c *Client) info(ctx context.Context) (protocol.InfoBody, error) {
	b, err := c.askInfo(ctx, c.http)
	if err != nil {
		return b, c.explain(ctx, err)
	}
	if b.Version != protocol.Version {
		return b, versionError(b.Version)
	}
	return b, clockError(time.Now(), b.Time)
}

func (c *Client) askInfo(ctx context.Context, via *http.Client) (protocol.InfoBody, error) {
	nonce := freshNonce()
	var i protocol.Info
	if err := c.do(ctx, via, http.MethodGet, protocol.PathInfo+"?nonce="+protocol.FormatClientNonce(nonce), nil, &i, 0); err != nil {
		return protocol.InfoBody{}, err
	}
	b, err := protocol.OpenInfo(i, nonce, c.pin)
	switch {
	case err == nil:
		return b, nil
	case !b.Coordinator.IsZero():
		return b, c.wrongKey(b.Coordinator.Fingerprint())
	case errors.Is(err, protocol.ErrSignature):
		return b, &Error{Kind: ErrWrongKey, Message: "what answers at " + c.join.URL + " does not hold the coordinator's key: " + err.Error(), Err: err}
	}
	return b, c.notPicket()
}

// freshNonce makes 32 random bytes.
func freshNonce() []byte {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // crypto/rand.Read never fails: it ends the program instead (Go 1.24)
	return b
}
