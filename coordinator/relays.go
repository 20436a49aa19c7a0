package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"picket.internal/coordinator/protocol"
)

// RelayView is a relay as operators see it.
type RelayView struct {
	protocol.Relay
	Created time.Time `json:"created,omitzero"` // zero for the coordinator's own
	By      string    `json:"by,omitempty"`
	Nodes   int       `json:"nodes"` // online ones whose home it is
}

// relays are those that maps name, by name.
func (c *Coordinator) relays(rows []RelayRow) (out []protocol.Relay) {
	for _, r := range rows {
		out = append(out, r.entry())
	}
	if c.config.Relay {
		out = append(out, protocol.Relay{Name: protocol.OwnRelay})
	}
	slices.SortFunc(out, func(a, b protocol.Relay) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// entry is what maps say of the relay.
func (r RelayRow) entry() protocol.Relay {
	var ports []uint16
	for _, p := range r.Reflect {
		if p != 0 {
			ports = append(ports, p)
		}
	}
	return protocol.Relay{Name: r.Name, URL: r.URL, Fingerprint: r.Fingerprint, Reflect: ports}
}

// knownRelay is name when maps name such a relay, else empty: what a node makes up reaches nobody.
func (c *Coordinator) knownRelay(name string) string {
	known := slices.ContainsFunc(c.relays(c.world.Load().relays), func(r protocol.Relay) bool { return r.Name == name })
	if !known {
		return ""
	}
	return name
}

// home is the relay where the node says it is found.
func (s *Session) home() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.relay
}

// Relays lists them by name, the coordinator's own first.
func (c *Coordinator) Relays(ctx context.Context, a Actor) ([]RelayView, error) {
	out := []RelayView{}
	if c.config.Relay {
		out = append(out, RelayView{Relay: protocol.Relay{Name: protocol.OwnRelay}})
	}
	err := c.store.View(ctx, func(tx ReadTx) error {
		if _, err := reachOf(tx, a, rightRelays); err != nil {
			return err
		}
		rows, err := tx.Relays()
		for _, r := range rows {
			out = append(out, RelayView{Relay: r.entry(), Created: r.Created, By: r.By})
		}
		return err
	})
	if err != nil {
		return nil, c.outward(ctx, err)
	}
	homes := make(map[string]int)
	for _, s := range c.hub.all() {
		homes[s.home()]++
	}
	for i := range out {
		out[i].Nodes = homes[out[i].Name]
	}
	return out, nil
}

// AddRelay has every map name a relay. Nodes trust it with nothing but to carry what is sealed.
func (c *Coordinator) AddRelay(ctx context.Context, a Actor, r protocol.Relay) (Change, error) {
	g, err := c.update(ctx, a, func(ch *change) error {
		if err := ch.allowed(rightRelays); err != nil {
			return err
		}
		if err := protocol.CheckRelay(r); err != nil {
			return refuse(CodeInvalid, "%s", err)
		}
		rows, err := ch.Relays()
		switch {
		case err != nil:
			return err
		case r.Name == protocol.OwnRelay:
			return refuse(CodeInvalid, "the name %s is that of the coordinator's own relay: choose another", r.Name)
		case len(rows) >= protocol.MaxRelays-1: // and the coordinator's own
			return refuse(CodeInvalid, "there are %d relays, as many as maps name: remove one first", len(rows))
		}
		ch.raise()
		ch.record("relay.add", r.Name, r.URL+" "+r.Fingerprint+reflectText(r.Reflect))
		row := RelayRow{Name: r.Name, URL: r.URL, Fingerprint: r.Fingerprint, Created: ch.Now(), By: a.String()}
		copy(row.Reflect[:], r.Reflect)
		err = ch.InsertRelay(row)
		if errors.Is(err, ErrTaken) {
			return refuse(CodeInvalid, "there is a relay %s already: remove it first, or choose another name", r.Name)
		}
		return err
	})
	return Change{Generation: g, Summary: "relay " + oneLine(r.Name, 63) + " is added"}, c.outward(ctx, err)
}

// reflectText is what the audit log says of a relay's reflector.
func reflectText(ports []uint16) string {
	if len(ports) == 0 {
		return ""
	}
	return fmt.Sprintf(" reflects at %d", ports)
}

// RemoveRelay takes a relay out of every map.
func (c *Coordinator) RemoveRelay(ctx context.Context, a Actor, name string) (Change, error) {
	g, err := c.update(ctx, a, func(ch *change) error {
		if err := ch.allowed(rightRelays); err != nil {
			return err
		}
		if name == protocol.OwnRelay {
			return refuse(CodeInvalid, "%s is the coordinator's own relay: start it with --relay=off to do without", name)
		}
		ok, err := ch.DeleteRelay(name)
		if err == nil && !ok {
			return refuse(CodeNotFound, "there is no relay %s: `relays list` shows them", oneLine(name, 63))
		}
		ch.narrow()
		ch.record("relay.remove", name, "")
		return err
	})
	return Change{Generation: g, Summary: "relay " + oneLine(name, 63) + " is removed"}, c.outward(ctx, err)
}
