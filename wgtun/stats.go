package wgtun

import (
	"bufio"
	"cmp"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"

	"picket.internal/wgtun/key"
)

// Stats returns a snapshot, its peers by node id. It waits while a peer's removal is waited for.
func (t *Tunnel) Stats() Stats {
	s := Stats{Port: t.Port()}
	t.mu.Lock()
	s.Generation = t.generation
	t.mu.Unlock()
	members := t.roster.tally()
	s.Peers = make([]PeerStats, 0, len(members))
	for i := range members {
		m := &members[i]
		c := m.before()
		p := PeerStats{Node: m.peer.Node, Awake: m.awake != nil, LastHandshake: c.handshake(), RxBytes: c.rx, TxBytes: c.tx}
		p.Path, _ = t.path.Status(m.peer.Tunnel)
		s.Peers = append(s.Peers, p)
	}
	slices.SortFunc(s.Peers, func(a, b PeerStats) int { return cmp.Compare(a.Node, b.Node) })
	s.Filter = t.filter.Stats()
	return s
}

// peerCounters is what we read of a peer in the device's answer to "get".
type peerCounters struct {
	seconds, nanoseconds int64
	rx, tx               uint64
}

// plus is what both counted, with the later handshake.
func (c peerCounters) plus(d peerCounters) peerCounters {
	c.rx, c.tx = c.rx+d.rx, c.tx+d.tx
	if d.handshake().After(c.handshake()) {
		c.seconds, c.nanoseconds = d.seconds, d.nanoseconds
	}
	return c
}

func (c peerCounters) handshake() time.Time {
	if c.seconds == 0 && c.nanoseconds == 0 {
		return time.Time{}
	}
	return time.Unix(c.seconds, c.nanoseconds)
}

// parseDeviceStats reads the device's own text; a line it does not know is skipped, a number it cannot read counts as 0.
func parseDeviceStats(text string) map[key.TunnelPublic]peerCounters {
	peers := make(map[key.TunnelPublic]peerCounters)
	var current key.TunnelPublic
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "=")
		if name == "public_key" {
			current = hexToKey(value)
			continue
		}
		c := peers[current]
		switch name {
		case "last_handshake_time_sec":
			c.seconds, _ = strconv.ParseInt(value, 10, 64)
		case "last_handshake_time_nsec":
			c.nanoseconds, _ = strconv.ParseInt(value, 10, 64)
		case "rx_bytes":
			c.rx = parseCount(value)
		case "tx_bytes":
			c.tx = parseCount(value)
		default:
			continue
		}
		peers[current] = c
	}
	return peers
}

// hexToKey is the zero key for what is none.
func hexToKey(s string) (k key.TunnelPublic) {
	if b, err := hex.DecodeString(s); err == nil && len(b) == key.Size {
		k = key.TunnelPublic(b)
	}
	return k
}

func parseCount(s string) uint64 {
	n, _ := strconv.ParseUint(s, 10, 64)
	return n
}
