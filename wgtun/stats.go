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

// Stats returns a snapshot, its peers by node id. It waits while Apply waits for a peer's removal.
func (t *Tunnel) Stats() Stats {
	t.mu.Lock()
	dev := t.engine
	s := Stats{Generation: t.generation, Peers: make([]PeerStats, 0, len(t.peers))}
	keys := make([]key.TunnelPublic, 0, len(t.peers))
	for k, in := range t.peers {
		s.Peers = append(s.Peers, PeerStats{Node: in.peer.Node})
		keys = append(keys, k)
	}
	t.mu.Unlock()

	var counted map[key.TunnelPublic]peerCounters
	if dev != nil {
		if text, err := dev.IpcGet(); err == nil {
			counted = parseDeviceStats(text)
		}
	}
	s.Port = t.Port()
	for i, k := range keys {
		s.Peers[i].Path, _ = t.path.Status(k)
		c := counted[k]
		s.Peers[i].LastHandshake, s.Peers[i].RxBytes, s.Peers[i].TxBytes = c.handshake(), c.rx, c.tx
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
			current = key.TunnelPublic{}
			_, _ = hex.Decode(current[:], []byte(value[:min(len(value), 2*key.Size)]))
			continue
		}
		c := peers[current]
		switch name {
		case "last_handshake_time_sec":
			c.seconds, _ = strconv.ParseInt(value, 10, 64)
		case "last_handshake_time_nsec":
			c.nanoseconds, _ = strconv.ParseInt(value, 10, 64)
		case "rx_bytes":
			c.rx, _ = strconv.ParseUint(value, 10, 64)
		case "tx_bytes":
			c.tx, _ = strconv.ParseUint(value, 10, 64)
		default:
			continue
		}
		peers[current] = c
	}
	return peers
}
