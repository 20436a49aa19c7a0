package localapi

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"picket.internal/acl"
)

// Selection says which flows, refusals or packets are meant: those that fit each field which is set.
type Selection struct {
	Peer  string       `json:"peer,omitempty"` // name or node id
	Host  netip.Prefix `json:"host,omitzero"`  // around the address of either end
	First uint16       `json:"first,omitempty"`
	Last  uint16       `json:"last,omitempty"` // range of ports of either end, both included
	Proto acl.Proto    `json:"proto,omitempty"`
	Way   Way          `json:"way,omitempty"`
}

// Way of a packet, or of the one that opened a flow.
type Way string

// The ways, as seen from this node.
const (
	WayIn  Way = "in"
	WayOut Way = "out"
)

// SelectionHelp lists what ParseSelection understands.
const SelectionHelp = "peer NAME, host ADDRESS or host NETWORK/BITS, port N or port N-M, proto tcp (or another, or its number), in, out; joined by and, which may be left out"

// ParseSelection reads words as of a command line; one may hold several, between blanks. No words select everything. Each error is a sentence.
func ParseSelection(args []string) (s Selection, err error) {
	words := strings.Fields(strings.Join(args, " "))
	var seen []string
	for first := true; len(words) > 0; first = false {
		if words[0] == "and" && !first {
			words = words[1:]
		}
		n, err := s.term(words)
		if err != nil {
			return Selection{}, err
		}
		kind := words[0]
		if kind == string(WayIn) || kind == string(WayOut) {
			kind = "in or out"
		}
		if slices.Contains(seen, kind) {
			return Selection{}, fmt.Errorf("the filter says %s twice: nothing fits both", kind)
		}
		seen, words = append(seen, kind), words[n:]
	}
	return s, nil
}

// term reads one condition and returns how many words it took.
func (s *Selection) term(words []string) (n int, err error) {
	if len(words) == 0 {
		return 0, errors.New("the filter ends in and: what follows?")
	}
	switch words[0] {
	case string(WayIn), string(WayOut):
		s.Way = Way(words[0])
		return 1, nil
	case "peer", "host", "port", "proto":
		if len(words) < 2 {
			return 0, fmt.Errorf("the filter ends in %s: what follows? It understands %s", words[0], SelectionHelp)
		}
	default:
		return 0, fmt.Errorf("the filter does not understand %.40q: it understands %s", words[0], SelectionHelp)
	}
	value := words[1]
	switch words[0] {
	case "peer":
		s.Peer = value
	case "host":
		s.Host, err = parseHost(value)
	case "port":
		s.First, s.Last, err = parsePorts(value)
	case "proto":
		var ok bool
		if s.Proto, ok = acl.ParseProto(value); !ok {
			err = fmt.Errorf("%.20q is no protocol: write tcp, udp, icmp or a number", value)
		}
	}
	return 2, err
}

func parseHost(text string) (netip.Prefix, error) {
	if !strings.Contains(text, "/") {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("host %.60q is no address: write host 100.64.0.7 or host 10.0.0.0/8, or peer NAME", text)
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil || p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("host %.60q is no network: write host 10.0.0.0/8", text)
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("host %s has bits beyond its length: write host %s", p, p.Masked())
	}
	return p, nil
}

func parsePorts(text string) (first, last uint16, err error) {
	from, to, isRange := strings.Cut(text, "-")
	if !isRange {
		to = from
	}
	a, okA := parsePort(from)
	b, okB := parsePort(to)
	switch {
	case !okA || !okB:
		return 0, 0, fmt.Errorf("port %.20q is no port: write a number from 1 to 65535, or two as in 8000-8080", text)
	case a > b:
		return 0, 0, fmt.Errorf("port %s ends before it begins: write port %d-%d", text, b, a)
	}
	return a, b, nil
}

func parsePort(text string) (uint16, bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil && n > 0 && strconv.FormatUint(n, 10) == text
}

// String is the selection as one writes it; empty when it selects everything.
func (s Selection) String() string {
	var terms []string
	if s.Peer != "" {
		terms = append(terms, "peer "+s.Peer)
	}
	if s.Host.IsSingleIP() {
		terms = append(terms, "host "+s.Host.Addr().String())
	} else if s.Host.IsValid() {
		terms = append(terms, "host "+s.Host.String())
	}
	if s.Last != 0 && s.First == s.Last {
		terms = append(terms, fmt.Sprintf("port %d", s.First))
	} else if s.Last != 0 {
		terms = append(terms, fmt.Sprintf("port %d-%d", s.First, s.Last))
	}
	if s.Proto != 0 {
		terms = append(terms, "proto "+s.Proto.String())
	}
	if s.Way != "" {
		terms = append(terms, string(s.Way))
	}
	return strings.Join(terms, " and ")
}

// Traits are what a Selection looks at.
type Traits struct {
	Local, Remote         netip.Addr
	LocalPort, RemotePort uint16 // 0 when there is none
	Proto                 acl.Proto
	Out                   bool
}

// Fits tells whether everything but Peer fits, which is for the caller to have looked up. "icmp" is both families'.
func (s *Selection) Fits(t *Traits) bool {
	port := func(p uint16) bool { return p != 0 && s.First <= p && p <= s.Last }
	switch {
	case s.Way != "" && (s.Way == WayOut) != t.Out,
		s.Proto != 0 && s.Proto != t.Proto && (s.Proto != acl.ICMP || t.Proto != acl.ICMPv6),
		s.Last != 0 && !port(t.LocalPort) && !port(t.RemotePort),
		s.Host.IsValid() && !s.Host.Contains(t.Local) && !s.Host.Contains(t.Remote):
		return false
	}
	return true
}

// Check refuses a selection that ParseSelection would not have made.
func (s *Selection) Check() error {
	switch {
	case s.First > s.Last || (s.First == 0) != (s.Last == 0):
		return errors.New("the filter's range of ports is empty")
	case s.Way != "" && s.Way != WayIn && s.Way != WayOut:
		return errors.New("the filter's way is neither in nor out")
	case s.Host.IsValid() && s.Host != s.Host.Masked():
		return errors.New("the filter's network has bits beyond its length")
	}
	return nil
}
