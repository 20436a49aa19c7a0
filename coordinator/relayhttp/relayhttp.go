// Package relayhttp brings relay clients in by WebSocket at protocol.PathRelay.
//
// A request passes, in this order: the rate limit of its address, the checks of path, method and origin, the cap on connections whose login is
// under way, of its address and of all, and only then the relay. Nothing rests on TLS: what goes over the stream proves itself, so a proxy
// that ends TLS may stand in front.
package relayhttp

import (
	"context"
	"log/slog"
	"math"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/coder/websocket"

	"picket.internal/coordinator/clientaddr"
	"picket.internal/coordinator/protocol"
)

// maxMessage bounds a WebSocket message, in bytes: a client writes many frames in one, and a login with a large pass.
const maxMessage = 1 << 20

// Server is a relay, as relay.Server is. Serve is one client until it leaves or ctx ends. Its first write is a challenge; it writes again only
// when the login is over, well or badly.
type Server interface {
	Serve(ctx context.Context, conn net.Conn) error
}

// Config of a Handler.
type Config struct {
	// TrustedProxies are where our own reverse proxies connect from; their X-Forwarded-For is believed (see clientaddr).
	TrustedProxies clientaddr.Proxies
	Limits         Limits
	Logger         *slog.Logger // nil logs nothing
}

// Limits before the login is over. A zero field takes the default.
type Limits struct {
	PerSecond float64 // requests of one address (a /64 for IPv6) in the long run; 30
	Burst     int     // and at once; 600, so that an office behind one address can come back together
	Opening   int     // connections whose login is under way, of all addresses; 1024
	OpeningOf int     // and of one address; 64
}

func (l Limits) filled() Limits {
	if l.PerSecond == 0 {
		l.PerSecond = 30
	}
	if l.Burst == 0 {
		l.Burst = 600
	}
	if l.Opening == 0 {
		l.Opening = 1024
	}
	if l.OpeningOf == 0 {
		l.OpeningOf = 64
	}
	return l
}

// Handler serves protocol.PathRelay. It is safe for concurrent use. Connections end when their request's context does, so give the http.Server
// a BaseContext that ends with the program: Shutdown does not wait for them.
type Handler struct {
	server  Server
	log     *slog.Logger
	proxies clientaddr.Proxies
	pace    *clientaddr.Rates
	opening *clientaddr.Slots
}

// New returns the handler of one relay; it starts nothing.
func New(server Server, c Config) *Handler {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	l := c.Limits.filled()
	return &Handler{
		server: server, log: c.Logger, proxies: c.TrustedProxies,
		pace: clientaddr.NewRates(l.PerSecond, l.Burst), opening: clientaddr.NewSlots(l.Opening, l.OpeningOf),
	}
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	from := h.proxies.Of(r)
	block := clientaddr.Block(from.Addr())
	if after := h.pace.Spend(block); after > 0 {
		throttle(w, after)
		return
	}
	switch {
	case r.URL.Path != protocol.PathRelay:
		refuse(w, http.StatusNotFound, protocol.CodeBadRequest, "this is a relay: nodes come to "+protocol.PathRelay+", and there is nothing else")
		return
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		refuse(w, http.StatusMethodNotAllowed, protocol.CodeBadRequest, "this page takes GET only")
		return
	case len(r.Header.Values("Origin")) != 0: // nodes are no browsers: it would be a page that tries to use somebody's position
		refuse(w, http.StatusForbidden, protocol.CodeBadRequest, "relays are for nodes, not for pages in a browser")
		return
	}
	release, ok := h.opening.Take(block)
	if !ok {
		throttle(w, time.Second)
		return
	}
	defer release()
	below := &hijack{ResponseWriter: w}
	ws, err := websocket.Accept(below, r, below.options())
	if err != nil {
		return // Accept has answered
	}
	defer func() { _ = ws.CloseNow() }()
	err = h.server.Serve(r.Context(), newStream(r.Context(), below.conn, ws, release))
	h.log.Debug("relay connection over", "from", from, "err", err)
}

func throttle(w http.ResponseWriter, after time.Duration) {
	w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(after.Seconds()))))
	refuse(w, http.StatusTooManyRequests, protocol.CodeThrottled, "too many connections from this address: try again in a moment")
}

// refuse answers with a Problem, as the rest of the node protocol does.
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if body, err := protocol.Marshal(protocol.Problem{Code: code, Message: message}); err == nil {
		_, _ = w.Write(body)
	}
}
