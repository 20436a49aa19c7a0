package node

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

// The one door for maps. A whole map, a delta and the map read from disk at start take the same way:
//
//	door.open      signature, network, node; generation not falling; entries as signed; ranges that may be an overlay
//	judge          which peers may be used now: known device keys, certificates, expiry
//	Node.enforce   lease; the host's addresses and routes; Tunnel.Apply, which narrows and then widens
//
// and then the map is written to disk and a receipt sent. Nothing else hands a state to the tunnel.

// door is what a map is held against.
type door struct {
	coordinator key.CoordinatorPublic
	network     protocol.NetworkID
	node        acl.NodeID
}

// held is a map that came through the door: verified and whole. Its lease may be over: it still says which generations are too old.
// The zero held is none.
type held struct {
	header  protocol.Header
	entries protocol.Entries
	content protocol.Content
	signed  protocol.Map // Base 0
}

func (h held) isZero() bool { return h.header.Generation == 0 }

// errMap is wrapped by what the door itself refuses, beside protocol's errors.
var errMap = errors.New("map refused")

// open verifies m, applied to was, and returns what is then held. was is not changed. Errors are protocol's, or errMap.
func (d door) open(was held, m *protocol.Map) (held, error) {
	h, err := protocol.OpenHeader(m, d.coordinator, d.network, d.node)
	if err != nil {
		return held{}, err
	}
	entries, err := protocol.Merge(was.entries, was.header.Generation, m, h)
	if err != nil {
		return held{}, err
	}
	if h.Generation == was.header.Generation && h.Issued.Before(was.header.Issued) {
		return held{}, fmt.Errorf("%w: generation %d was signed anew since", protocol.ErrStale, h.Generation)
	}
	content, err := protocol.Decode(entries)
	if err != nil {
		return held{}, err
	}
	if content.Self.Node != d.node {
		return held{}, fmt.Errorf("%w: it describes another node than this one", errMap)
	}
	if err := checkRanges(content); err != nil {
		return held{}, err
	}
	return held{h, entries, content, whole(m, entries)}, nil
}

// whole is the map as if it had been sent in one piece.
func whole(m *protocol.Map, entries protocol.Entries) protocol.Map {
	_, put := protocol.Diff(nil, entries)
	return protocol.Map{Header: m.Header, Signature: m.Signature, Put: put}
}

// privateRanges are what an overlay may lie in: addresses that mean nothing outside. Were a map believed that calls the internet its
// overlay, all of this host's traffic would go into the tunnel.
var privateRanges = []netip.Prefix{
	netip.MustParsePrefix("100.64.0.0/10"),                                                                               // RFC 6598
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"), // RFC 1918
	netip.MustParsePrefix("198.18.0.0/15"), // RFC 2544
	netip.MustParsePrefix("fc00::/7"),      // RFC 4193
}

func checkRanges(c protocol.Content) error {
	for _, o := range c.Network.Overlay {
		if !slices.ContainsFunc(privateRanges, func(p netip.Prefix) bool { return p.Bits() <= o.Bits() && p.Contains(o.Addr()) }) {
			return fmt.Errorf("%w: the overlay range %s is not made of private addresses", errMap, o)
		}
	}
	for _, p := range c.Peers {
		for _, r := range p.Routes {
			if err := protocol.CheckRoute(r); err != nil {
				return fmt.Errorf("%w: a route of %s: %w", errMap, p.Name, err)
			}
			if slices.ContainsFunc(c.Network.Overlay, r.Overlaps) && !protocol.IsExit(r) {
				return fmt.Errorf("%w: the route %s of %s overlaps the overlay", errMap, r, p.Name)
			}
		}
	}
	return nil
}
