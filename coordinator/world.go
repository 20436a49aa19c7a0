package coordinator

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"picket.internal/acl"
)

// world is everything maps are made of at one generation. It is never changed once it is in force; maps computed from it are kept with it.
// What is in it depends on its generation alone, never on when it was built: one generation of a map has one content.
type world struct {
	generation uint64
	at         time.Time // when that generation was committed
	current    PolicyRow // zero when there never was a policy
	policy     *acl.Policy
	users      map[acl.UserID]UserRow
	nodes      map[acl.NodeID]*NodeRow // the living, also expired and quarantined ones
	names      map[string]acl.NodeID
	compiled   *acl.Compiled

	prior map[acl.NodeID]*nodeMap // the newest maps of earlier worlds, to take entries over from

	mu   sync.Mutex
	maps map[acl.NodeID]*nodeMap // by mu
}

// snapshot is one consistent read of what a world is made of.
type snapshot struct {
	generation uint64
	at         time.Time
	policy     PolicyRow
	users      []UserRow
	nodes      []NodeRow
}

func readSnapshot(tx ReadTx) (s snapshot, err error) {
	if s.generation, s.at, err = tx.Generation(); err != nil {
		return s, err
	}
	if s.policy, err = tx.Policy(); err != nil && !errors.Is(err, ErrNoRow) {
		return s, err
	}
	if s.users, err = tx.Users(); err != nil {
		return s, err
	}
	s.nodes, err = tx.Nodes()
	return s, err
}

// refresh reads the store in one consistent read (R29), and puts the world made of it in force unless a newer one is. Sessions hear of
// it with the haste given.
func (c *Coordinator) refresh(ctx context.Context, atLeast uint64, h haste) error {
	var s snapshot
	err := c.store.View(ctx, func(tx ReadTx) (err error) {
		c.readClock(tx)
		s, err = readSnapshot(tx)
		return err
	})
	if err == nil && s.generation < atLeast {
		err = errors.New("the store does not show a change it has committed")
	}
	if err != nil {
		c.emergency.setStale(true)
		return err
	}
	c.emergency.setStale(false)
	c.rebuild.Lock()
	defer c.rebuild.Unlock()
	s.generation = max(s.generation, c.emergency.floor())
	if old := c.world.Load(); old == nil || s.generation >= old.generation {
		c.enforce(s)
	}
	c.hub.wake(h)
	return nil
}

// enforce puts the world of s, less what an emergency took out of it, in force. The caller holds rebuild.
func (c *Coordinator) enforce(s snapshot) {
	c.emergency.apply(&s)
	w := c.build(s, c.world.Load())
	w.prior = c.world.Load().newestMaps(w)
	c.times.note(w.generation, w.at)
	c.world.Store(w)
	c.hub.endMissing(w)
	c.budgets.keep(w)
}

// build makes a world; old, which may be nil, is the one before it. A policy that cannot be compiled with the directory passes nothing (R21).
func (c *Coordinator) build(s snapshot, old *world) *world {
	w := &world{
		generation: s.generation, at: s.at, current: s.policy,
		users: make(map[acl.UserID]UserRow, len(s.users)),
		nodes: make(map[acl.NodeID]*NodeRow, len(s.nodes)),
		names: make(map[string]acl.NodeID, len(s.nodes)),
		maps:  make(map[acl.NodeID]*nodeMap, len(s.nodes)),
	}
	for _, u := range s.users {
		u.Password, u.TOTP = "", nil // no secret is kept in memory longer than it is needed
		w.users[u.ID] = u
	}
	for i := range s.nodes {
		n := &s.nodes[i]
		w.nodes[n.ID], w.names[n.Name] = n, n.ID
	}
	var err error
	if w.policy, err = c.policy.parsed(s.policy); err == nil && !w.follow(old) {
		w.compiled, err = acl.Compile(w.policy, c.directory(w, w.policy, reachable), c.config.Salt)
	}
	if err != nil {
		c.log.Error("the policy in force cannot be compiled: nothing passes until it is changed", "generation", s.generation, "err", err)
		w.policy = acl.Deny()
		if w.compiled, err = acl.Compile(w.policy, c.directory(w, w.policy, reachable), c.config.Salt); err != nil {
			panic("the policy that allows nothing does not compile: " + err.Error())
		}
	}
	return w
}

// newestMaps is the newest map of each node of next that w, or a world before it, had; w may be nil.
func (w *world) newestMaps(next *world) map[acl.NodeID]*nodeMap {
	out := make(map[acl.NodeID]*nodeMap, len(next.nodes))
	if w == nil {
		return out
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range next.nodes {
		if m, ok := w.maps[id]; ok && m.err == nil {
			out[id] = m
		} else if m, ok := w.prior[id]; ok {
			out[id] = m
		}
	}
	return out
}

// reachable reports whether n may exchange flows at all: it has shown a tunnel key, and is neither expired nor quarantined.
func reachable(n *NodeRow) bool { return !n.Expired && !n.Quarantined && len(n.Certificate) > 0 }

// anyNode takes every node.
func anyNode(*NodeRow) bool { return true }

// directory is the users and those nodes of w that take accepts, with the routes that p lets them serve, both in the order of their ids.
func (c *Coordinator) directory(w *world, p *acl.Policy, take func(*NodeRow) bool) *acl.Directory {
	d := &acl.Directory{Overlay: overlays(c.config)}
	for _, id := range slices.Sorted(maps.Keys(w.users)) {
		d.Users = append(d.Users, w.users[id].acl())
	}
	for _, id := range slices.Sorted(maps.Keys(w.nodes)) {
		if n := w.nodes[id]; take(n) {
			d.Nodes = append(d.Nodes, w.node(p, n))
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
	return acl.Node{ID: n.ID, Name: n.Name, Owner: n.Owner, Tags: n.Tags, Addresses: n.Addresses}
}

// UserByID and the next two make a world stand in for a transaction where only reading is needed.
func (w *world) UserByID(id acl.UserID) (UserRow, error) {
	if u, ok := w.users[id]; ok {
		return u, nil
	}
	return UserRow{}, ErrNoRow
}

func (w *world) UserByLogin(login string) (UserRow, error) {
	for _, u := range w.users {
		if u.Login == login {
			return u, nil
		}
	}
	return UserRow{}, ErrNoRow
}

func (w *world) Users() ([]UserRow, error) {
	return slices.SortedFunc(maps.Values(w.users), func(a, b UserRow) int { return strings.Compare(a.Login, b.Login) }), nil
}

func (w *world) NodeByID(id acl.NodeID) (NodeRow, error) {
	if n, ok := w.nodes[id]; ok {
		return *n, nil
	}
	return NodeRow{}, ErrNoRow
}

func (w *world) NodeByName(name string) (NodeRow, error) { return w.NodeByID(w.names[name]) }

// login names a node's owner; empty for a tagged one.
func (w *world) login(n *NodeRow) string { return w.users[n.Owner].Login }

// nextExpiry is the earliest expiry still to be carried out; zero when there is none.
func (w *world) nextExpiry() (t time.Time) {
	for _, n := range w.nodes {
		if !n.Expired && (t.IsZero() || n.Expires.Before(t)) {
			t = n.Expires
		}
	}
	return t
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
