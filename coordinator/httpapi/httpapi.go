// Package httpapi is the coordinator's side of the protocol over HTTP and WebSocket.
//
// A request passes, in this order: the rate limit of its address, the checks of method and content type, a bounded read within a
// deadline, the decoder's bounds, and only then the coordinator. A session passes the same and then: hello (10 s), challenge, proof
// (10 s), Attach; until there it counts against a global cap and a cap of its address. After that two tasks run side by side and
// the first to end ends both: one takes messages from the coordinator to the node, one from the node to the coordinator.
package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"picket.internal/coordinator"
	"picket.internal/coordinator/clientaddr"
	"picket.internal/coordinator/protocol"
)

// PathWebhook is where a Git host says that the policy may have changed.
const PathWebhook = "/picket/v1/webhook"

// API is what the handler needs of a coordinator; Of makes one. Errors that are a *coordinator.Error, or wrap one of protocol's, are
// shown to the other side; any other is logged and shown as an internal error.
type API interface {
	Info(client []byte) (protocol.Info, error)
	Enrol(ctx context.Context, e protocol.Enrol, from netip.Addr) (protocol.EnrolAnswer, error)
	Wait(ctx context.Context, w protocol.Wait) (protocol.WaitAnswer, error)
	Challenge(h protocol.Hello) (protocol.Challenge, error)
	Attach(ctx context.Context, h protocol.Hello, ch protocol.Challenge, p protocol.Proof, from netip.AddrPort) (Session, error)
	PokePolicy()
	PolicyAPI
}

// Session is an attached node, as coordinator.Session is. Next is called by one task only, and yields a protocol.Live at least every
// protocol.LiveInterval; the others may be called beside it.
type Session interface {
	Next(ctx context.Context) (coordinator.Outgoing, error)
	Report(ctx context.Context, r protocol.Report) error
	Receipt(ctx context.Context, r protocol.Receipt) error
	Evidence(ctx context.Context, e protocol.Evidence) error
	Flows(ctx context.Context, f protocol.Flows) error
	Seek(s protocol.Seek) error
	Resync()
	Alive()
	Logout(ctx context.Context) error
	Close()
}

// Of makes the API of a coordinator.
func Of(c *coordinator.Coordinator) API { return real{c} }

// real differs from a Coordinator only in the static type that Attach returns.
type real struct{ *coordinator.Coordinator }

func (r real) Attach(ctx context.Context, h protocol.Hello, ch protocol.Challenge, p protocol.Proof, from netip.AddrPort) (Session, error) {
	s, err := r.Coordinator.Attach(ctx, h, ch, p, from)
	if err != nil {
		return nil, err // not s: a nil *Session in an interface would not be nil
	}
	return s, nil
}

// Config of a Handler.
type Config struct {
	API    API
	Logger *slog.Logger
	// WebhookSecret opens PathWebhook; at least 16 bytes. Empty: the path does not exist.
	WebhookSecret []byte
	// TrustedProxies are where our own reverse proxies connect from; their X-Forwarded-For is believed (see clientaddr).
	TrustedProxies clientaddr.Proxies
	Limits         Limits
	Timing         Timing
}

// Limits before authentication. A zero field takes the default.
type Limits struct {
	PerSecond   float64 // requests of one address (a /64 for IPv6) in the long run; 30
	Burst       int     // and at once; 600, so that an office behind one address can come back together
	Opening     int     // sessions that have not proved themselves yet, of all addresses; 1024
	OpeningOf   int     // and of one address; 128
	Waiting     int     // Wait requests held at once, of all addresses; 4096
	WaitingOf   int     // and of one address; 256
	Asking      int     // requests with a token at once, of all addresses; 8
	AskingOf    int     // and of one address; 4
	WrongTokens int     // tokens that are not taken of one address, at once; then one each 15 s; 20
}

// Timing of requests and sessions. A zero field takes the default.
type Timing struct {
	Body  time.Duration // to read a request's body, and to write an answer; 10 s
	Hello time.Duration // for the hello, and again for the proof; 10 s
	Write time.Duration // for a node to take one message; a stalled one is dropped; 10 s
	Dead  time.Duration // of silence until a node is taken for gone; 2 * LiveInterval + 5 s
}

// Handler serves the paths of the node protocol, those for programs that ask about policies (policy.go), and PathWebhook. It is safe for
// concurrent use. Sessions end when their request's context does, so give the http.Server a BaseContext that ends with the program: Shutdown
// does not wait for them. The server's WriteTimeout must be 0 or above protocol.WaitHold and ImpactHold; the handler sets deadlines of its own.
type Handler struct {
	api     API
	log     *slog.Logger
	secret  []byte
	proxies clientaddr.Proxies
	timing  Timing
	rates   *clientaddr.Rates
	opening *clientaddr.Slots
	waiting *clientaddr.Slots
	asking  *clientaddr.Slots
	wrong   *clientaddr.Rates // tokens that were not taken
	mux     *http.ServeMux
}

// New checks the configuration; it starts nothing.
func New(c Config) (*Handler, error) {
	if c.API == nil {
		return nil, errors.New("httpapi: no coordinator to serve")
	}
	if n := len(c.WebhookSecret); n != 0 && n < 16 {
		return nil, errors.New("the webhook secret is shorter than 16 bytes and could be guessed: take a longer one, e.g. from `openssl rand -hex 32`")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	l, t := c.Limits.filled(), c.Timing.filled()
	h := &Handler{
		api: c.API, log: c.Logger, secret: c.WebhookSecret, proxies: c.TrustedProxies, timing: t,
		rates:   clientaddr.NewRates(l.PerSecond, l.Burst),
		opening: clientaddr.NewSlots(l.Opening, l.OpeningOf),
		waiting: clientaddr.NewSlots(l.Waiting, l.WaitingOf),
		asking:  clientaddr.NewSlots(l.Asking, l.AskingOf),
		wrong:   clientaddr.NewRates(1/wrongTokenEvery.Seconds(), l.WrongTokens),
		mux:     http.NewServeMux(),
	}
	h.route(http.MethodGet, protocol.PathInfo, h.info)
	h.route(http.MethodPost, protocol.PathEnrol, h.enrol)
	h.route(http.MethodPost, protocol.PathWait, h.wait)
	h.route(http.MethodGet, protocol.PathSession, h.session)
	h.route(http.MethodPost, PathWebhook, h.webhook)
	h.tokenRoute(http.MethodGet, protocol.PathPolicy, h.policyInForce)
	h.tokenRoute(http.MethodGet, protocol.PathPolicyDirectory, h.policyDirectory)
	h.tokenRoute(http.MethodPost, protocol.PathPolicyImpact, h.policyImpact)
	h.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h.refuse(w, r, &refusal{http.StatusNotFound, protocol.Problem{Code: coordinator.CodeNotFound, Message: "there is no such page in the node protocol"}})
	})
	return h, nil
}

func (l Limits) filled() Limits {
	def(&l.PerSecond, 30)
	def(&l.Burst, 600)
	def(&l.Opening, 1024)
	def(&l.OpeningOf, 128)
	def(&l.Waiting, 4096)
	def(&l.WaitingOf, 256)
	def(&l.Asking, 8)
	def(&l.AskingOf, 4)
	def(&l.WrongTokens, 20)
	return l
}

func (t Timing) filled() Timing {
	def(&t.Body, 10*time.Second)
	def(&t.Hello, 10*time.Second)
	def(&t.Write, 10*time.Second)
	def(&t.Dead, 2*protocol.LiveInterval+5*time.Second)
	return t
}

func def[T comparable](v *T, to T) {
	if *v == *new(T) {
		*v = to
	}
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	h.mux.ServeHTTP(w, r)
}

// caller is where a request came from.
type caller struct {
	addr  netip.AddrPort // port 0 behind a proxy
	block netip.Prefix   // what limits count by
}

// route serves one path in one method, behind the rate limit. serve returns what to refuse with, or nil once it has answered.
func (h *Handler) route(method, path string, serve func(http.ResponseWriter, *http.Request, caller) error) {
	h.mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		addr := h.proxies.Of(r)
		c := caller{addr, clientaddr.Block(addr.Addr())}
		if after := h.rates.Spend(c.block); after > 0 {
			h.refuse(w, r, throttled(after))
			return
		}
		if r.Method != method {
			w.Header().Set("Allow", method)
			h.refuse(w, r, &refusal{http.StatusMethodNotAllowed, protocol.Problem{Code: protocol.CodeBadRequest, Message: "this page takes " + method + " only"}})
			return
		}
		if err := serve(w, r, c); err != nil {
			h.refuse(w, r, err)
		}
	})
}
