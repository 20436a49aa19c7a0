package localapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Agent is what the socket offers. Every error is one sentence for people; the context ends when the client goes away.
type Agent interface {
	Status(ctx context.Context) (Status, error)
	Peers(ctx context.Context) ([]Peer, error)
	// Up joins or starts; it calls emit for each event, the last with Done or Error, and returns after that one.
	Up(ctx context.Context, u Up, emit func(UpEvent))
	Down(ctx context.Context) error
	Logout(ctx context.Context) error
	Why(ctx context.Context, w Why) (WhyAnswer, error)
	Ping(ctx context.Context, p Ping) (PingAnswer, error)
	// Netcheck takes up to three seconds.
	Netcheck(ctx context.Context) (Netcheck, error)
	// Set changes what is routed.
	Set(ctx context.Context, c ChangeRouting) (Status, error)
	Rotate(ctx context.Context, r Rotate) (Rotation, error)
	// Trust accepts the device key that a refused peer shows now.
	Trust(ctx context.Context, t Trust) error
	DNS(ctx context.Context) (DNS, error)
	QueryDNS(ctx context.Context, q QueryDNS) (DNSReply, error)
	Flows(ctx context.Context, q AskFlows) (Flows, error)
	Denials(ctx context.Context, q AskDenials) (Denials, error)
	// Capture calls emit with events in order until the packets asked for were handed over, or ctx ends, and returns after the last one. An
	// error comes before any event.
	Capture(ctx context.Context, q AskCapture, emit func([]CaptureEvent)) error
	// Dial opens a TCP connection to a peer.
	Dial(ctx context.Context, d Dial) (Conn, error)
	// Forward and Expose call emit with events in order until ctx ends, and return after the last one. An error comes before any event.
	Forward(ctx context.Context, q AskForward, emit func(PassageEvent)) error
	Expose(ctx context.Context, q AskExpose, emit func(PassageEvent)) error
}

// host is the only Host header answered: a web page made to look at this socket through some proxy carries another.
const host = "picket"

// maxBody bounds a request, in bytes.
const maxBody = 64 << 10

// failure is the body of every answer that is not 200.
type failure struct {
	Error string `json:"error"`
}

// Serve answers on l until ctx ends, then closes it; it returns nil on cancellation.
func Serve(ctx context.Context, l net.Listener, agent Agent, logger *slog.Logger) error {
	server := &http.Server{
		Handler:           guard(routes(agent)),
		ReadHeaderTimeout: 5 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			uid, err := checkPeer(c)
			return context.WithValue(ctx, peerKey{}, peerCheck{uid, err})
		},
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); ctx.Err() == nil && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// peerKey is where a connection's context holds its peerCheck.
type peerKey struct{}

// peerCheck is the outcome of the check of credentials; a connection without one was not checked.
type peerCheck struct {
	uid    int // -1 where the system does not tell
	denied error
}

// Caller is the user id of who asks, for the log; -1 where the system does not tell.
func Caller(ctx context.Context) int {
	if check, ok := ctx.Value(peerKey{}).(peerCheck); ok {
		return check.uid
	}
	return -1
}

// guard refuses, before anything is read of a request: another user's connection, and whatever a browser could have sent.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		check, checked := r.Context().Value(peerKey{}).(peerCheck)
		switch {
		case !checked:
			refuse(w, http.StatusForbidden, "who is asking was not looked at")
		case check.denied != nil:
			refuse(w, http.StatusForbidden, check.denied.Error())
		case r.Host != host:
			refuse(w, http.StatusForbidden, "this socket answers the picket command only")
		case len(r.Header.Values("Origin")) > 0:
			refuse(w, http.StatusForbidden, "this socket does not answer web pages")
		default:
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			next.ServeHTTP(w, r)
		}
	})
}

func routes(agent Agent) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", answer(func(ctx context.Context, _ struct{}) (Status, error) { return agent.Status(ctx) }))
	mux.HandleFunc("GET /v1/peers", answer(func(ctx context.Context, _ struct{}) ([]Peer, error) { return agent.Peers(ctx) }))
	mux.HandleFunc("GET /v1/dns", answer(func(ctx context.Context, _ struct{}) (DNS, error) { return agent.DNS(ctx) }))
	mux.HandleFunc("POST /v1/query", answer(agent.QueryDNS))
	mux.HandleFunc("POST /v1/why", answer(agent.Why))
	mux.HandleFunc("POST /v1/ping", answer(agent.Ping))
	mux.HandleFunc("POST /v1/netcheck", answer(func(ctx context.Context, _ struct{}) (Netcheck, error) { return agent.Netcheck(ctx) }))
	mux.HandleFunc("POST /v1/down", answer(nothing(agent.Down)))
	mux.HandleFunc("POST /v1/logout", answer(nothing(agent.Logout)))
	mux.HandleFunc("POST /v1/trust", answer(func(ctx context.Context, t Trust) (struct{}, error) { return struct{}{}, agent.Trust(ctx, t) }))
	mux.HandleFunc("POST /v1/rotate", answer(agent.Rotate))
	mux.HandleFunc("POST /v1/set", answer(agent.Set))
	mux.HandleFunc("POST /v1/up", func(w http.ResponseWriter, r *http.Request) { serveUp(w, r, agent) })
	mux.HandleFunc("POST /v1/flows", answerList(func(ctx context.Context, q AskFlows) (FlowTotals, []Flow, error) {
		f, err := agent.Flows(ctx, q)
		return f.FlowTotals, f.List, err
	}))
	mux.HandleFunc("POST /v1/denials", answerList(func(ctx context.Context, q AskDenials) (DenialTotals, []Denial, error) {
		d, err := agent.Denials(ctx, q)
		return d.DenialTotals, d.List, err
	}))
	mux.HandleFunc("POST /v1/capture", func(w http.ResponseWriter, r *http.Request) { serveCapture(w, r, agent) })
	mux.HandleFunc("POST /v1/forward", serveEvents(agent.Forward))
	mux.HandleFunc("POST /v1/expose", serveEvents(agent.Expose))
	slots := make(chan struct{}, maxStreams)
	mux.HandleFunc("POST /v1/dial", func(w http.ResponseWriter, r *http.Request) { serveDial(w, r, agent, slots) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, "this agent does not know that request: are the picket command and the agent of the same version?")
	})
	return mux
}

func nothing(f func(context.Context) error) func(context.Context, struct{}) (struct{}, error) {
	return func(ctx context.Context, _ struct{}) (struct{}, error) { return struct{}{}, f(ctx) }
}

// answer reads a request of type Q (of a POST) and writes what f returns.
func answer[Q, A any](f func(context.Context, Q) (A, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q Q
		if r.Method == http.MethodPost && !readBody(w, r, &q) {
			return
		}
		a, err := f(r.Context(), q)
		if err != nil {
			refuse(w, http.StatusConflict, err.Error())
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(a) // the client went away
	}
}

// readBody decodes exactly one object; on failure it has answered.
func readBody(w http.ResponseWriter, r *http.Request, into any) bool {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		refuse(w, http.StatusBadRequest, "the request cannot be read: are the picket command and the agent of the same version?")
		return false
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		refuse(w, http.StatusBadRequest, "the request has something behind it")
		return false
	}
	return true
}

func refuse(w http.ResponseWriter, status int, sentence string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(failure{sentence}) // the client went away
}

// serveUp writes one JSON object a line as events come.
func serveUp(w http.ResponseWriter, r *http.Request, agent Agent) {
	var u Up
	if !readBody(w, r, &u) {
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	encoder, flusher := json.NewEncoder(w), http.NewResponseController(w)
	agent.Up(r.Context(), u, func(e UpEvent) {
		_ = encoder.Encode(e) // a client that went away ends the context
		_ = flusher.Flush()
	})
}

// listHead is the first line of a list; as many lines follow as it says.
type listHead[H any] struct {
	Listed int `json:"listed"`
	Head   H   `json:"head"`
}

// answerList writes a list one object a line, so that neither side holds the text of a long one.
func answerList[Q, H, L any](f func(context.Context, Q) (H, []L, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q Q
		if !readBody(w, r, &q) {
			return
		}
		head, list, err := f(r.Context(), q)
		if err != nil {
			refuse(w, http.StatusConflict, err.Error())
			return
		}
		w.Header().Set("Content-Type", "application/jsonl")
		encoder := json.NewEncoder(w)
		err = encoder.Encode(listHead[H]{len(list), head})
		for i := 0; err == nil && i < len(list); i++ {
			err = encoder.Encode(&list[i]) // fails when the client went away
		}
	}
}

// serveCapture writes one event a line as they come.
func serveCapture(w http.ResponseWriter, r *http.Request, agent Agent) {
	var q AskCapture
	if !readBody(w, r, &q) {
		return
	}
	encoder, flusher := json.NewEncoder(w), http.NewResponseController(w)
	err := agent.Capture(r.Context(), q, func(events []CaptureEvent) {
		w.Header().Set("Content-Type", "application/jsonl")
		for i := range events {
			_ = encoder.Encode(&events[i]) // a client that went away ends the context
		}
		_ = flusher.Flush()
	})
	if err != nil {
		refuse(w, http.StatusConflict, err.Error())
	}
}
