// Package coordinator decides who is in the network and computes each node's map.
//
// Every exported method that acts for somebody takes an Actor first and checks its right on the object named, in one place (rights.go),
// inside the transaction that acts; a handler cannot forget it. Every change commits in one transaction with its audit record (change.go).
//
// How a change reaches the nodes: (1) a transaction commits it with generation + 1; (2) the next world, an immutable picture of everything
// maps are made of, is made of the one in force and what changed, from one consistent read, and swapped in (snapshot.go, world.go, follow.go);
// (3) the sessions are woken, at once when the change takes something away, else within coalesce; (4) each session's Next computes its
// node's map from the newest world, and the delta to what it sent before (maps.go, session.go); (5) the node answers with a signed receipt,
// on which Enforced waits (receipts.go).
// A policy commit that would cut much waits before step 1 (breaker.go); an earlier policy comes back by rollback.go.
// Should storage fail, removal and quarantine take effect from step 2 on all the same (emergency.go).
package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
	"picket.internal/wgtun/relay"
)

// Defaults of Config.
const (
	DefaultPolicyPoll   = 30 * time.Second
	DefaultLease        = 12 * time.Hour
	DefaultUserNodeLife = 30 * 24 * time.Hour
	DefaultTagNodeLife  = 90 * 24 * time.Hour
)

// Config of a Coordinator.
type Config struct {
	Store      Store
	Key        key.CoordinatorPrivate
	Network    protocol.NetworkID
	Salt       []byte        // for acl.Compile; 32 random bytes made with the keys
	URL        string        // as people and nodes reach it, without a trailing slash
	Policy     PolicySource  // nil: none; what was in force stays, and without any, nothing passes
	PolicyPoll time.Duration // 0: DefaultPolicyPoll
	Breaker    Breaker       // when a policy commit waits for confirmation
	Lease      time.Duration // 0: DefaultLease; at most protocol.MaxLease
	Reflectors []protocol.Reflector
	Relay      bool   // the coordinator itself relays
	Version    string // of the program, for people
	// RelayPresence is what is heard of a relay elsewhere; nil: nobody listens.
	RelayPresence             func(name string) RelayPresence
	Domain                    string        // of nodes' names, as protocol.CheckNetworkDomain takes it; empty: as it was, at first DefaultDomain
	Overlay4, Overlay6        netip.Prefix  // IPv4 of /8 to /30, IPv6 of /8 to /96
	UserNodeLife, TagNodeLife time.Duration // 0: the defaults
	Passwords                 PasswordCost  // zero: 64 MiB, 3 passes
	Logger                    *slog.Logger  // nil: nothing is logged
}

// Coordinator is the network's authority. Methods are safe for concurrent use.
type Coordinator struct {
	config  Config
	store   Store
	log     *slog.Logger
	secrets secrets
	hashing hasher

	world     atomic.Pointer[world]
	rebuild   sync.Mutex    // held while a new world is made and swapped in
	dates     chan struct{} // holds one value when the world in force is new to keepNodes
	skew      atomic.Int64  // database's clock minus this process's, ns
	emergency emergency
	times     times
	hub       hub
	ledger    ledger
	tickets   board
	nonces    nonces
	budgets   budgets
	accused   accused
	failures  struct{ signIn, token *rate.Limiter } // of those in the audit log
	policy    policyKeeper
	asker     asker
	places    places
	relay     *relay.Server // nil: none
	doubts    doubts
	began     time.Time // by this process's clock
	bound     time.Time // no lease signed before this process started outlives it
}

// New checks the configuration, verifies the audit log against its last checkpoint, and loads what the store holds; it starts nothing.
func New(ctx context.Context, config Config) (*Coordinator, error) {
	if err := config.check(); err != nil {
		return nil, fmt.Errorf("coordinator configuration: %w", err)
	}
	c := &Coordinator{config: config, store: config.Store, log: config.Logger}
	c.secrets = deriveSecrets(config.Key)
	c.hashing = newHasher(config.Passwords)
	c.failures.signIn = rate.NewLimiter(rate.Every(time.Minute/failuresPerMinute), failuresPerMinute)
	c.failures.token = rate.NewLimiter(rate.Every(time.Minute/failuresPerMinute), failuresPerMinute)
	c.dates = make(chan struct{}, 1)
	c.nonces.init()
	c.hub.init()
	c.ledger.init()
	c.policy.init()
	c.asker.init()
	c.startRelay()
	if err := VerifyAudit(ctx, c.store, config.Key.Public(), config.Network); err != nil {
		return nil, err
	}
	if err := c.refresh(ctx, 0, gentle); err != nil {
		return nil, fmt.Errorf("load the network: %w", err)
	}
	if err := c.loadReceipts(ctx); err != nil {
		return nil, fmt.Errorf("load receipts: %w", err)
	}
	if err := c.noteNetwork(ctx); err != nil {
		return nil, fmt.Errorf("note what maps say of the network: %w", err)
	}
	if err := c.noteDomain(ctx); err != nil {
		return nil, fmt.Errorf("change the network's domain: %w", err)
	}
	c.began, c.bound = time.Now(), c.now().Add(config.Lease)
	if config.Breaker.Off {
		c.log.Warn("the policy breaker is off: a commit takes effect at once, however much it cuts")
	}
	return c, c.checkAddresses()
}

func (config *Config) check() error {
	switch {
	case config.Store == nil:
		return errors.New("no store")
	case config.Key.IsZero():
		return errors.New("no coordinator key")
	case protocol.CheckNetworkID(config.Network) != nil:
		return fmt.Errorf("%q is no network id", config.Network)
	case len(config.Salt) < 16:
		return errors.New("a salt of at least 16 bytes is needed")
	case config.Domain != "" && protocol.CheckNetworkDomain(config.Domain) != nil:
		return fmt.Errorf("%q cannot be the network's domain: %v", config.Domain, protocol.CheckNetworkDomain(config.Domain))
	case !config.Overlay4.Addr().Is4() || config.Overlay4.Bits() < 8 || config.Overlay4.Bits() > 30 || protocol.CheckPrefix(config.Overlay4) != nil:
		return fmt.Errorf("the IPv4 overlay %s must be a range of /8 to /30 without host bits", config.Overlay4)
	case !config.Overlay6.Addr().Is6() || config.Overlay6.Bits() < 8 || config.Overlay6.Bits() > 96 || protocol.CheckPrefix(config.Overlay6) != nil:
		return fmt.Errorf("the IPv6 overlay %s must be a range of /8 to /96 without host bits", config.Overlay6)
	}
	if u, err := url.Parse(config.URL); err != nil || u.Host == "" || strings.HasSuffix(config.URL, "/") {
		return fmt.Errorf("the URL %q must name a host and end without a slash", config.URL)
	}
	return config.fill()
}

// fill puts the defaults in and refuses durations that make no sense.
func (config *Config) fill() error {
	for _, d := range []struct {
		name     string
		value    *time.Duration
		standard time.Duration
		min, max time.Duration
	}{
		{"policy poll", &config.PolicyPoll, DefaultPolicyPoll, time.Second, 24 * time.Hour},
		{"lease", &config.Lease, DefaultLease, 10 * time.Second, protocol.MaxLease},
		{"life of a person's node", &config.UserNodeLife, DefaultUserNodeLife, time.Second, 10 * 365 * 24 * time.Hour},
		{"life of a tagged node", &config.TagNodeLife, DefaultTagNodeLife, time.Second, 10 * 365 * 24 * time.Hour},
	} {
		if *d.value == 0 {
			*d.value = d.standard
		}
		if *d.value < d.min || *d.value > d.max {
			return fmt.Errorf("the %s of %s is not within %s and %s", d.name, *d.value, d.min, d.max)
		}
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if err := config.Breaker.fill(); err != nil {
		return err
	}
	return config.Passwords.fill()
}

// checkAddresses refuses to serve nodes whose addresses the configured overlay does not hold: their maps could not be made.
func (c *Coordinator) checkAddresses() error {
	for _, n := range c.world.Load().nodes.all() {
		for _, a := range n.Addresses {
			if !c.config.Overlay4.Contains(a) && !c.config.Overlay6.Contains(a) {
				return fmt.Errorf("the node %s has the address %s outside the overlay %s and %s: start with the overlay it was made with",
					n.Name, a, c.config.Overlay4, c.config.Overlay6)
			}
		}
	}
	return nil
}

// now is the database's clock, as last read.
func (c *Coordinator) now() time.Time { return time.Now().Add(time.Duration(c.skew.Load())).UTC() }

// readClock notes how far the database's clock is from ours.
func (c *Coordinator) readClock(tx ReadTx) {
	c.skew.Store(int64(tx.Now().Sub(time.Now().Truncate(time.Millisecond))))
}

// Run fetches policy, expires nodes and tickets, hands routes to routers that are there and writes receipts down, until ctx ends; nil on cancellation. Call it once.
func (c *Coordinator) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.keepPolicy(ctx) })
	g.Go(func() error { return c.keepNodes(ctx) })
	g.Go(func() error { return c.keepRouters(ctx) })
	g.Go(func() error { return c.keepReceipts(ctx) })
	return g.Wait()
}
