package localapi

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"time"
)

// MaxPassages bounds what one request may open.
const MaxPassages = 16

// Forward leads what comes to a port of this host to a peer.
type Forward struct {
	Listen netip.AddrPort `json:"listen"` // on loopback; not port 0
	Peer   string         `json:"peer"`   // name, node id or overlay address
	Port   uint16         `json:"port"`
	UDP    bool           `json:"udp,omitempty"`
}

// AskForward asks for forwards, all or none, until the request ends.
type AskForward struct {
	Forwards []Forward `json:"forwards"` // 1 to MaxPassages
}

// Expose leads peers who may open Port of this node to To of 127.0.0.1.
type Expose struct {
	Port uint16 `json:"port"`
	To   uint16 `json:"to"`
	UDP  bool   `json:"udp,omitempty"`
}

// AskExpose asks for exposures, all or none, until the request ends.
type AskExpose struct {
	Exposed []Expose `json:"exposed"` // 1 to MaxPassages
}

// Passages are the ports that the agent forwards and exposes now, in their order.
type Passages struct {
	Forwards []Passage `json:"forwards,omitempty"`
	Exposed  []Passage `json:"exposed,omitempty"`
}

// Passage is one of them.
type Passage struct {
	Proto  string         `json:"proto"`           // "tcp" or "udp"
	Listen netip.AddrPort `json:"listen,omitzero"` // where programs of this host come to what is forwarded
	Port   uint16         `json:"port,omitempty"`  // at which peers come to what is exposed
	To     string         `json:"to"`              // "db:5432"
	Open   int            `json:"open"`            // connections, or flows of datagrams, that there are
}

// PassageKind is what a PassageEvent tells.
type PassageKind string

// The kinds.
const (
	PassageOpen    PassageKind = "open"    // who comes to Listen is led to To from now on
	PassageBegan   PassageKind = "began"   // a connection, or a flow of datagrams
	PassageRefused PassageKind = "refused" // the same; Reason says why
	PassageEnded   PassageKind = "ended"   // what began; Reason is empty when nothing failed
	PassageNote    PassageKind = "note"    // Reason is a sentence
	PassageWarning PassageKind = "warning" // Reason is a sentence
)

// PassageEvent is one line of the answer to AskForward and AskExpose.
type PassageEvent struct {
	At       time.Time      `json:"at"`
	Kind     PassageKind    `json:"kind"`
	Proto    string         `json:"proto,omitempty"` // "tcp" or "udp"
	Port     uint16         `json:"port,omitempty"`  // of this node, that is exposed
	Listen   netip.AddrPort `json:"listen,omitzero"`
	From     netip.AddrPort `json:"from,omitzero"` // who came
	Who      string         `json:"who,omitempty"` // the peer's name, where From is a peer's
	To       string         `json:"to,omitempty"`  // "db:5432"
	Address  netip.AddrPort `json:"address,omitzero"`
	Sent     uint64         `json:"sent,omitempty"`     // bytes, by who came
	Received uint64         `json:"received,omitempty"` // bytes
	Reason   string         `json:"reason,omitempty"`
	Missed   uint64         `json:"missed,omitempty"` // events left out before this one, because they were not read fast enough
}

// Forward calls event for each event until ctx ends or the agent does; it never returns nil.
func (c *Client) Forward(ctx context.Context, q AskForward, event func(PassageEvent)) error {
	return c.passage(ctx, "forward", q, event)
}

// Expose is like Forward.
func (c *Client) Expose(ctx context.Context, q AskExpose, event func(PassageEvent)) error {
	return c.passage(ctx, "expose", q, event)
}

func (c *Client) passage(ctx context.Context, path string, q any, event func(PassageEvent)) error {
	resp, err := c.send(ctx, http.MethodPost, path, q)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for d := json.NewDecoder(resp.Body); ; {
		var e PassageEvent
		switch err := d.Decode(&e); {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return errCutShort
		}
		event(e)
	}
}

// serveEvents writes one event a line as they come.
func serveEvents[Q, E any](f func(ctx context.Context, q Q, emit func(E)) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q Q
		if !readBody(w, r, &q) {
			return
		}
		encoder, flusher := json.NewEncoder(w), http.NewResponseController(w)
		began := false
		err := f(r.Context(), q, func(e E) {
			if !began {
				w.Header().Set("Content-Type", "application/jsonl")
				began = true
			}
			_ = encoder.Encode(&e) // a client that went away ends the context
			_ = flusher.Flush()
		})
		if err != nil && !began {
			refuse(w, http.StatusConflict, err.Error())
		}
	}
}
