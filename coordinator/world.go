package coordinator

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"picket.internal/acl"
)

// world is everything maps are made of at one generation. It is never changed once it is in force; maps computed from it are kept with it.
// What is in it depends on its generation alone, never on when it was built: one generation of a map has one content. What rules let through
// until some time is in it by when the generation was committed.
type world struct {
	generation uint64
	at         time.Time // when that generation was committed
	revision   int64     // of the store, as it was read
	altered    bool      // it is not what the store held: an emergency took somebody out
	current    PolicyRow // zero when there never was a policy
	policy     *acl.Policy
	relays     []RelayRow // by name
	dns        *DNSRow    // shared between worlds; never written
	*roster
	compiled *acl.Compiled

	mu    sync.Mutex
	maps  *table[acl.NodeID, *nodeMap] // by mu
	prior *table[acl.NodeID, *nodeMap] // by mu: of earlier worlds, for nodes without a map yet, to take entries over from
}

// enforce puts the world of s, less what an emergency took out of it, in force. The caller holds rebuild.
func (c *Coordinator) enforce(s snapshot) {
	altered := s.isWhole() && c.emergency.apply(&s)
	old := c.world.Load()
	w, changed := c.build(s, old)
	w.altered = altered
	c.times.note(w.generation, w.at)
	c.world.Store(w)
	c.hub.endMissing(w, changed)
	c.dropFromRelay(w, old, changed)
	c.budgets.forget(w, changed)
	select {
	case c.dates <- struct{}{}:
	default:
	}
}

// build makes a world, and lists the nodes that changed; old, the one before it, may be nil when s is whole. A policy that cannot be compiled
// with the directory passes nothing (R21).
func (c *Coordinator) build(s snapshot, old *world) (w *world, changed []acl.NodeID) {
	w = &world{generation: s.generation, at: s.at, revision: s.revision, relays: s.relays}
	if s.policy != nil {
		w.current = *s.policy
	} else {
		w.current = old.current
	}
	if w.dns = s.dns; w.dns == nil {
		w.dns = old.dns
	}
	var users bool
	if s.isWhole() {
		w.roster = newRoster()
		w.take(s)
		if old != nil {
			changed, users = w.differences(old.roster)
		}
	} else {
		w.roster = old.copied()
		changed, users = w.take(s)
	}
	var err error
	if w.policy, err = c.policy.parsed(w.current); err == nil && (users || !w.follow(old, changed)) {
		w.compiled, err = acl.Compile(w.policy, c.directory(w, w.policy, reachable), c.config.Salt)
	}
	if err != nil {
		c.log.Error("the policy in force cannot be compiled: nothing passes until it is changed", "generation", s.generation, "err", err)
		w.policy = acl.Deny()
		if w.compiled, err = acl.Compile(w.policy, c.directory(w, w.policy, reachable), c.config.Salt); err != nil {
			panic("the policy that allows nothing does not compile: " + err.Error())
		}
	}
	if w.maps == nil {
		w.compiled, _ = w.compiled.At(w.at)
		w.startAnew(old)
	}
	return w, changed
}

// reachable reports whether n may exchange flows at all: it has shown a tunnel key, and is neither expired nor quarantined.
func reachable(n *NodeRow) bool { return !n.Expired && !n.Quarantined && len(n.Certificate) > 0 }

// anyNode takes every node.
func anyNode(*NodeRow) bool { return true }

// directory is the users and those nodes of w that take accepts, with the routes that p lets them serve, both in the order of their ids.
func (c *Coordinator) directory(w *world, p *acl.Policy, take func(*NodeRow) bool) *acl.Directory {
	d := &acl.Directory{Overlay: overlays(c.config)}
	for _, u := range w.users.all() {
		d.Users = append(d.Users, u.acl())
	}
	for _, n := range w.nodes.all() {
		if take(n) {
			d.Nodes = append(d.Nodes, w.serving(p, n))
		}
	}
	return d
}

// acl is a user as the policy sees him: autogroup:admin names administrators.
func (u UserRow) acl() acl.User {
	out := acl.User{ID: u.ID, Login: u.Login}
	if u.Role == RoleAdmin {
		out.Role = "admin"
	}
	return out
}

// acl is a node as the policy sees it, but for its routes.
func (n *NodeRow) acl() acl.Node {
	return acl.Node{ID: n.ID, Name: n.Name, Owner: n.Owner, Tags: n.Tags, Addresses: n.Addresses, Attributes: attributes(n.Facts)}
}

// UserByID and the next ones make a world stand in for a transaction where only reading is needed.
func (w *world) UserByID(id acl.UserID) (UserRow, error) {
	if u, ok := w.users.get(id); ok {
		return u, nil
	}
	return UserRow{}, ErrNoRow
}

// ValidToken holds for none: a world has no tokens.
func (w *world) ValidToken(string) (TokenRow, error) { return TokenRow{}, ErrNoRow }

func (w *world) UserByLogin(login string) (UserRow, error) {
	for _, u := range w.users.all() {
		if u.Login == login {
			return u, nil
		}
	}
	return UserRow{}, ErrNoRow
}

func (w *world) Users() (out []UserRow, _ error) {
	for _, u := range w.users.all() {
		out = append(out, u)
	}
	slices.SortFunc(out, func(a, b UserRow) int { return strings.Compare(a.Login, b.Login) })
	return out, nil
}

func (w *world) NodeByID(id acl.NodeID) (NodeRow, error) {
	if n := w.node(id); n != nil {
		return *n, nil
	}
	return NodeRow{}, ErrNoRow
}

func (w *world) NodeByName(name string) (NodeRow, error) {
	id, _ := w.names.get(name)
	return w.NodeByID(id)
}

// times remembers when recent generations were committed.
type times struct {
	mu sync.Mutex
	at map[uint64]time.Time
}

// keptTimes bounds times.
const keptTimes = 1024

func (t *times) note(g uint64, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.at == nil {
		t.at = make(map[uint64]time.Time)
	}
	t.at[g] = at
	if len(t.at) > keptTimes {
		maps.DeleteFunc(t.at, func(old uint64, _ time.Time) bool { return old+keptTimes/2 < g })
	}
}

// since is how long before now generation g was committed; 0 when that is not known.
func (t *times) since(g uint64, now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, ok := t.at[g]
	if !ok {
		return 0
	}
	return max(now.Sub(at), 1)
}
