package userspace

import "gvisor.dev/gvisor/pkg/tcpip"

// share bounds how much of one kind stands at once. Within it an address may hold as much as is still free for all others together, and
// always one: who floods ends at half, and there is always as much left for the rest. It is for its owner to lock.
type share struct {
	limit int
	used  int
	held  map[tcpip.Address]int
}

func newShare(limit int) share { return share{limit: limit, held: make(map[tcpip.Address]int)} }

// take takes one for an address; false when its share, or everything, is used up.
func (s *share) take(who tcpip.Address) bool {
	used, held := s.used+1, s.held[who]+1
	if used > s.limit || held > 1 && held > s.limit-used {
		return false
	}
	s.used, s.held[who] = used, held
	return true
}

func (s *share) release(who tcpip.Address) {
	s.used--
	if s.held[who]--; s.held[who] == 0 {
		delete(s.held, who)
	}
}
