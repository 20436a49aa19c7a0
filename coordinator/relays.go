package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"picket.internal/coordinator/protocol"
)

// RelayView is a relay as operators see it.
type RelayView struct {
	protocol.Relay
	Created time.Time `json:"created,omitzero"` // zero for the coordinator's own
	By      string    `json:"by,omitempty"`
	Nodes   int       `json:"nodes"` // online ones whose home it is
	// Presence is what is heard of the relay, nil when nobody listens (Config.RelayPresence).
	Presence *RelayPresence `json:"presence,omitempty"`
}

// RelayPresence is what a relay, or somebody in its name, says of it. It is a hint, and nothing is decided by it.
type RelayPresence struct {
	Heard   bool      `json:"heard"` // else nothing was since this coordinator started
	Alive   bool      `json:"alive"`
	Since   time.Time `json:"since,omitzero"` // it is alive, or gone
	Clients int       `json:"clients"`        // nodes connected to it, of whatever home
	Version string    `json:"version,omitempty"`
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
		if c.config.RelayPresence != nil {
			p := c.presenceOfRelay(out[i].Name)
			out[i].Presence = &p
		}
	}
	return out, nil
}

func (c *Coordinator) presenceOfRelay(name string) RelayPresence {
	if name != protocol.OwnRelay {
		return c.config.RelayPresence(name)
	}
	return RelayPresence{Heard: true, Alive: true, Since: c.began, Clients: c.relay.Stats().Clients, Version: c.config.Version}
}

// doubtEvery is the least time between two times that nodes are told of one relay that it may be dead.
const doubtEvery = 10 * time.Second

// doubts limits DoubtRelay.
type doubts struct {
	mu   sync.Mutex
	last map[string]time.Time // by relay that maps name
}

// allow reports whether nodes may be told again.
func (d *doubts) allow(relay string, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if last, ok := d.last[relay]; ok && now.Sub(last) < doubtEvery {
		return false
	}
	if d.last == nil || len(d.last) > 2*protocol.MaxRelays { // names that were removed
		d.last = make(map[string]time.Time)
	}
	d.last[relay] = now
	return true
}

// DoubtRelay has the nodes whose home is that relay ask it at once whether it answers, since somebody says that it is dead: an idle node
// would notice after half a minute only. It is a hint, and if it is wrong costs each of them one ping; more often than each 10 s it does nothing.
func (c *Coordinator) DoubtRelay(name string) {
	if c.knownRelay(name) == "" || !c.doubts.allow(name, time.Now()) {
		return
	}
	for _, s := range c.hub.all() {
		s.mu.Lock()
		mine := s.relay == name
		s.doubted = s.doubted || mine
		s.mu.Unlock()
		if mine {
			s.poke()
		}
	}
}

// takeDoubt returns the node's home relay if it is to be told that it may be dead.
func (s *Session) takeDoubt() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.doubted
	s.doubted = false
	if !was || s.relay == "" {
		return nil
	}
	return []string{s.relay}
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
