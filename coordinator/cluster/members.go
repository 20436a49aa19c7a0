package cluster

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/time/rate"
)

// Member is one of the ring, as it was last heard of.
type Member struct {
	Meta
	At    netip.AddrPort
	Alive bool      // else it left, or answers nobody any more
	Since time.Time // it is so
}

const (
	// maxMembers bounds what is kept of members, those that are gone included: more than a network has relays.
	maxMembers = 128
	// maxNews bounds the changes that Run has not told yet; the oldest go first.
	maxNews = 256
	// newsEvery and newsBurst limit the changes that are told: whoever has the key can make up as many as he likes.
	newsEvery = 2 * time.Second
	newsBurst = 64
)

// members is what memberlist tells us, under its own lock: nothing here calls back into it.
type members struct {
	public bool // members may have public addresses
	self   string
	wake   chan struct{} // room for one

	mu     sync.Mutex
	known  map[string]*Member // by id
	news   []Member
	pace   *rate.Limiter
	counts Counts
}

// Counts of what was dropped, since the start.
type Counts struct {
	Hostile   uint64 // members that say of themselves what none may
	Full      uint64 // members beyond maxMembers
	Conflicts uint64 // a second member of a name
	Foreign   uint64 // messages and state of kinds that we do not use
	News      uint64 // changes that came faster than they are told
}

func newMembers(self string, public bool) *members {
	return &members{public: public, self: self, wake: make(chan struct{}, 1), known: make(map[string]*Member), pace: rate.NewLimiter(rate.Every(newsEvery), newsBurst)}
}

// read checks what is said of a member.
func (s *members) read(n *memberlist.Node) (Member, error) {
	meta, err := parseMeta(n.Meta)
	if err != nil {
		return Member{}, err
	}
	if n.Name != meta.id() {
		return Member{}, errors.New("a member's name is not what it says of itself")
	}
	addr, ok := netip.AddrFromSlice(n.Addr)
	at := netip.AddrPortFrom(addr.Unmap(), n.Port)
	if !ok || n.Port == 0 || CheckAddress(at.Addr(), s.public) != nil {
		return Member{}, errors.New("an address where no member may be")
	}
	return Member{Meta: meta, At: at}, nil
}

// NotifyAlive implements memberlist.AliveDelegate: what it refuses is not taken into the ring, and never probed.
func (s *members) NotifyAlive(n *memberlist.Node) error {
	_, err := s.read(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.counts.Hostile++
		return err
	}
	if n.Name != s.self && s.known[n.Name] == nil && !s.room() {
		s.counts.Full++
		return errors.New("there are too many members")
	}
	return nil
}

// room reports whether one more member may come, in place of the one that is gone for longest if it must be.
func (s *members) room() bool {
	if len(s.known) < maxMembers {
		return true
	}
	oldest := ""
	for id, m := range s.known {
		if !m.Alive && (oldest == "" || m.Since.Before(s.known[oldest].Since)) {
			oldest = id
		}
	}
	delete(s.known, oldest)
	return oldest != ""
}

// NotifyJoin implements memberlist.EventDelegate.
func (s *members) NotifyJoin(n *memberlist.Node) { s.note(n, true) }

// NotifyUpdate implements memberlist.EventDelegate.
func (s *members) NotifyUpdate(n *memberlist.Node) { s.note(n, true) }

// NotifyLeave implements memberlist.EventDelegate. It is called for who leaves and for who dies.
func (s *members) NotifyLeave(n *memberlist.Node) { s.note(n, false) }

// note takes the newest of a member.
func (s *members) note(n *memberlist.Node, alive bool) {
	if n.Name == s.self {
		return
	}
	m, err := s.read(n)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.counts.Hostile++
		return
	}
	m.Alive, m.Since = alive, time.Now()
	was := s.known[n.Name]
	if was != nil && was.Alive == alive {
		m.Since = was.Since
	}
	s.known[n.Name] = &m
	if was != nil && was.Alive == alive || was == nil && !alive {
		return
	}
	if !s.pace.Allow() {
		s.counts.News++
		return
	}
	if len(s.news) == maxNews {
		s.news = s.news[1:]
		s.counts.News++
	}
	s.news = append(s.news, m)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take empties the news.
func (s *members) take() []Member {
	s.mu.Lock()
	defer s.mu.Unlock()
	news := s.news
	s.news = nil
	return news
}

// list returns all members but ourselves, by role and name.
func (s *members) list() []Member {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Member, 0, len(s.known))
	for _, m := range s.known {
		out = append(out, *m)
	}
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.id(), b.id()) })
	return out
}

// lives reports whether a member at one of these addresses is alive.
func (s *members) lives(at []netip.AddrPort) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.known {
		if m.Alive && slices.Contains(at, m.At) {
			return true
		}
	}
	return false
}

// NotifyConflict implements memberlist.ConflictDelegate.
func (s *members) NotifyConflict(_, _ *memberlist.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Conflicts++
}

func (s *members) foreign() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Foreign++
}
