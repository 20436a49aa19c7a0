// Package relays keeps a node's connections to relays, and picks its home among them: the one where its peers find it.
//
// There are links to the home, to one in reserve, so that a home that dies is left at once, and to the homes of peers that are sent to. All
// relays are measured now and then: at first, when the map names others, and when there is no home.
package relays

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"picket.internal/wgtun/path"
)

const (
	lookEvery    = 250 * time.Millisecond
	measureTime  = 3 * time.Second  // for all relays to answer, at most
	settleTime   = time.Second      // after the first has answered, for nearer ones
	measureEvery = 15 * time.Minute // a nearer relay than the home may have come up
	measureAgain = 10 * time.Second // while there is no home
	unusedLife   = 5 * time.Minute  // of a link to a peer's home after the last datagram
	mustBeBetter = 10 * time.Millisecond
	betterFor    = 30 * time.Second // before a home that answers is left for a nearer one
	doubtAfter   = time.Second      // without answer: then the others are asked too, so that none is made home that is as dead
	// MaxLinks bounds the relays that are measured, and separately those that peers have us connect to.
	MaxLinks = 16
)

// Link is a connection to one relay, kept up by Run.
type Link interface {
	// Run keeps it until ctx ends, and returns nil then. An error is for good.
	Run(ctx context.Context) error
	// Send hands over a copy of a datagram, without waiting; false when it was dropped.
	Send(to [32]byte, datagram []byte) bool
	// Renew presents the newest pass.
	Renew()
	// Check asks the relay now whether it answers, unless that was done within the last second.
	Check()
	Status() Status
}

// Status of a link.
type Status struct {
	Connected bool
	Latency   time.Duration // round trip, smoothed; 0 while it is not known
	Asked     time.Time     // when the question was put that it has not answered; zero when there is none
	Err       string        // why it is not connected, in words; "" when it never failed
}

// Config of a Set.
type Config struct {
	// Open makes a link to a relay; Run is then called once.
	Open func(name string) Link
	// Homed is told of a new home, "" for none, by Run's goroutine and with its context.
	Homed  func(ctx context.Context, name string)
	Logger *slog.Logger
}

// Set is a node's relays. It implements path.Carrier. All methods are safe for concurrent use.
type Set struct {
	config Config
	wake   chan struct{} // room for one

	mu       sync.RWMutex
	names    []string // of the map
	links    map[string]*link
	home     string
	lost     bool      // there was a home, and the first relay that answers is to be the next
	rival    string    // a relay nearer than the home
	since    time.Time // it has been so
	measured time.Time // measuring last began; zero: now is the time
}

var _ path.Carrier = (*Set)(nil)

// link is a Link under way.
type link struct {
	Link
	stop   context.CancelFunc
	opened time.Time
	used   atomic.Int64 // unix nanoseconds of the newest Send; 0 for never
}

// New returns a Set without relays; it starts nothing.
func New(c Config) *Set {
	return &Set{config: c, wake: make(chan struct{}, 1), links: make(map[string]*link)}
}

// Use replaces the relays that there are, by name. Links to others end.
func (s *Set) Use(names []string) {
	s.mu.Lock()
	if !slices.Equal(names, s.names) {
		s.names, s.measured, s.lost = slices.Clone(names), time.Time{}, false
	}
	s.mu.Unlock()
	s.hurry()
}

// Renew has all links present the newest pass.
func (s *Set) Renew() {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, l := range s.links {
		l.Renew()
	}
}

// Check asks all relays now whether they answer. Somebody says that he does not reach this node, or a relay: one that is idle, and is asked seldom,
// may be dead.
func (s *Set) Check() {
	s.mu.RLock()
	defer s.mu.RUnlock()
	s.check("")
}

// check asks all relays but one; with the lock held.
func (s *Set) check(but string) {
	for name, l := range s.links {
		if l != nil && name != but {
			l.Check()
		}
	}
}

// Home is the relay where peers find this node, "" for none.
func (s *Set) Home() string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.home
}

// Send implements path.Carrier. A relay that there is no link to yet gets one; datagrams are dropped until it is up.
func (s *Set) Send(to path.Home, datagram []byte) bool {
	s.mu.RLock()
	l := s.links[to.Relay]
	s.mu.RUnlock()
	if l == nil {
		s.want(to.Relay)
		return false
	}
	l.used.Store(time.Now().UnixNano())
	return l.Send(to.Address, datagram)
}

// want notes that a relay is needed which the map names.
func (s *Set) want(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.names, name) || s.links[name] != nil || len(s.links) >= 2*MaxLinks {
		return
	}
	s.links[name] = nil // for look to open
	s.hurry()
}

func (s *Set) hurry() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run keeps the links until ctx ends; then it closes them all and returns nil. Call it once.
func (s *Set) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		home, changed := s.look(ctx, time.Now(), &running)
		if changed && s.config.Homed != nil {
			s.config.Homed(ctx, home)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-ticker.C:
		}
	}
}

// look opens and closes links, and picks the home.
func (s *Set) look(ctx context.Context, now time.Time, running *sync.WaitGroup) (home string, changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.home
	up := s.answering(now)
	s.choose(up, now)
	if at := slices.IndexFunc(up, func(m measured) bool { return m.name == was }); was != "" && at < 0 {
		s.measured, s.lost = time.Time{}, s.home == "" // it is dead: what is there in its place, and in reserve?
		s.check("")
	} else if at >= 0 && up[at].doubt {
		s.check(was)
	}
	again := measureEvery
	if s.home == "" {
		again = measureAgain
	}
	if len(s.names) > 0 && now.Sub(s.measured) >= again {
		s.measured = now
		for _, name := range s.names[:min(len(s.names), MaxLinks)] {
			if s.links[name] == nil {
				s.links[name] = nil
			}
		}
	}
	for name, l := range s.links {
		switch {
		case l == nil && slices.Contains(s.names, name):
			s.links[name] = s.open(ctx, name, now, running)
		case l == nil:
			delete(s.links, name)
		case !s.needed(name, l, up, now):
			l.stop()
			delete(s.links, name)
		}
	}
	return s.home, s.home != was
}

func (s *Set) open(ctx context.Context, name string, now time.Time, running *sync.WaitGroup) *link {
	ctx, stop := context.WithCancel(ctx)
	l := &link{Link: s.config.Open(name), stop: stop, opened: now}
	l.used.Store(now.UnixNano())
	running.Go(func() {
		defer stop()
		if err := l.Run(ctx); err != nil {
			s.config.Logger.Warn("a relay cannot be used", "relay", name, "reason", err)
		}
	})
	return l
}

// answering lists the relays of the map that are connected and measured, nearest first. Of those that owe an answer for a while there is only the home.
func (s *Set) answering(now time.Time) (up []measured) {
	for name, l := range s.links {
		if l == nil || !slices.Contains(s.names, name) {
			continue
		}
		st := l.Status()
		doubt := !st.Asked.IsZero() && now.Sub(st.Asked) >= doubtAfter
		if st.Connected && st.Latency > 0 && (!doubt || name == s.home) {
			up = append(up, measured{name, st.Latency, doubt})
		}
	}
	slices.SortFunc(up, func(a, b measured) int {
		return cmp.Or(cmp.Compare(a.latency, b.latency), cmp.Compare(a.name, b.name))
	})
	return up
}

// measured is a relay that answers.
type measured struct {
	name    string
	latency time.Duration
	doubt   bool // it owes an answer for a while
}

// choose picks the home: at once when there is none any longer, after a while of measuring at first, and with patience for one merely nearer.
func (s *Set) choose(up []measured, now time.Time) {
	at := slices.IndexFunc(up, func(m measured) bool { return m.name == s.home })
	switch {
	case len(up) == 0:
		s.home, s.rival = "", ""
	case at < 0 && (s.home != "" || s.lost || len(up) >= min(len(s.names), MaxLinks) || now.Sub(s.measured) >= settleTime):
		s.home, s.rival = up[0].name, ""
	case at < 0:
	default:
		best, home := up[0], up[at]
		if best.latency >= home.latency*3/4 || home.latency-best.latency < mustBeBetter {
			s.rival = ""
		} else if s.rival != best.name {
			s.rival, s.since = best.name, now
		} else if now.Sub(s.since) >= betterFor {
			s.home, s.rival = best.name, ""
		}
	}
}

// needed reports whether a link is to stay.
func (s *Set) needed(name string, l *link, up []measured, now time.Time) bool {
	if !slices.Contains(s.names, name) {
		return false
	}
	reserve := slices.IndexFunc(up, func(m measured) bool { return m.name != s.home })
	return name == s.home || name == s.rival || reserve >= 0 && up[reserve].name == name ||
		now.Sub(s.measured) < measureTime || s.home == "" || now.Sub(time.Unix(0, l.used.Load())) < unusedLife && l.used.Load() > l.opened.UnixNano()
}

// List tells of each link, by name.
func (s *Set) List() map[string]Status {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make(map[string]Status, len(s.links))
	for name, l := range s.links {
		if l != nil {
			out[name] = l.Status()
		}
	}
	return out
}
