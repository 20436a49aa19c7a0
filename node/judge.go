package node

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun"
	"picket.internal/wgtun/key"
)

// judgement is what of a map may be used at one moment.
type judgement struct {
	peers   []wgtun.Peer
	refused map[acl.NodeID]string           // why, in words, by the peers left out
	changed map[acl.NodeID]key.DevicePublic // the new device key of peers left out for it
	met     map[acl.NodeID]key.DevicePublic // peers never met before
	risen   map[bearer]seen                 // peers whose certificate is newer than the newest known
	rules   *acl.Ruleset                    // between this node and the peers that are used, at this host's clock
	next    time.Time                       // when something of it ends, at the coordinator's clock; zero never
}

// judge decides which peers are used at time now of the coordinator's clock, offset ahead of this host's. A peer refused leaves the others
// as they are; its subject is left out of the rules, so that a packet to it is refused at once rather than lost. So must everything be that
// a peer chooses itself: were one able to have the map refused whole, it could keep what a newer map takes away. own are this node's keys.
func judge(c protocol.Content, of acquaintance, own shownKeys, now time.Time, offset time.Duration) judgement {
	j := judgement{
		peers:   make([]wgtun.Peer, 0, len(c.Peers)), // it stays, and there may be thousands
		refused: make(map[acl.NodeID]string),
		changed: make(map[acl.NodeID]key.DevicePublic),
		met:     make(map[acl.NodeID]key.DevicePublic),
		risen:   make(map[bearer]seen),
	}
	used := c
	used.Peers = nil
	verdicts := judgePeers(c.Peers, of, own, now)
	for i, p := range c.Peers {
		cert, err := verdicts[i].cert, verdicts[i].err
		if err != nil {
			j.refused[p.Node] = err.Error()
			if errors.Is(err, errDeviceKey) {
				j.changed[p.Node] = p.Device
			}
			j.next = soonest(j.next, startOf(err, cert, now))
			continue
		}
		if _, ok := of.known[p.Node]; !ok {
			j.met[p.Node] = p.Device
		}
		if b := bearerOf(p); cert.Serial > of.newest[b].serial {
			j.risen[b] = seenIn(cert)
		}
		used.Peers = append(used.Peers, p)
		j.next = soonest(j.next, cert.NotAfter, p.Expires)
		j.peers = append(j.peers, wgtun.Peer{
			Node: p.Node, Device: p.Device, Tunnel: cert.Tunnel, Next: verdicts[i].next, Probe: cert.Probe,
			Addresses: p.Addresses, Routes: p.Routes, // a map held never changes
		})
	}
	j.rules = atHostClock(used.Ruleset(), offset)
	return j
}

// errDeviceKey is wrapped when a peer shows another device key than it was known by.
var errDeviceKey = errors.New("its device key changed")

// errSharedKey refuses every peer that shows a key which another peer, or this node, shows too: whose it is cannot be known here.
var errSharedKey = errors.New("its certificate has a key that another node, or this one, has too: ask the coordinator's operator to look at it")

// shownKeys are the tunnel and probe key of one node.
type shownKeys struct {
	tunnel key.TunnelPublic
	probe  key.ProbePublic
	next   key.TunnelPublic // zero for none
}

// judged is a peer's certificate, and what stands against the peer.
type judged struct {
	cert key.Certificate
	next *key.TunnelPublic // that the peer may take up; nil for none
	err  error
}

// judgePeers judges each peer by itself, and then what those that are left show together. Keys of both kinds are counted as one kind: they
// are 32 random bytes.
func judgePeers(peers []protocol.Peer, of acquaintance, own shownKeys, now time.Time) []judged {
	shown := map[[key.Size]byte]int{own.tunnel: 1, own.probe: 1}
	if !own.next.IsZero() {
		shown[own.next] = 1
	}
	out := make([]judged, len(peers))
	for i, p := range peers {
		cert, err := judgePeer(p, of, now)
		if out[i] = (judged{cert: cert, err: err}); err == nil {
			shown[cert.Tunnel]++
			shown[cert.Probe]++
		}
	}
	for i, j := range out {
		if j.err == nil && (shown[j.cert.Tunnel] > 1 || shown[j.cert.Probe] > 1) {
			out[i].err = errSharedKey
		}
	}
	judgeNext(peers, out, shown, now)
	return out
}

// judgeNext judges the next keys of peers that are used. One that is not right is left out: the peer stays under its present key.
func judgeNext(peers []protocol.Peer, out []judged, shown map[[key.Size]byte]int, now time.Time) {
	for i, p := range peers {
		if out[i].err != nil || len(p.Next) == 0 {
			continue
		}
		next, err := key.OpenCertificate(p.Next, string(p.Node), p.Device, now)
		if err != nil || next.Serial <= out[i].cert.Serial || next.Probe != out[i].cert.Probe {
			continue
		}
		out[i].next = &next.Tunnel
		shown[next.Tunnel]++
	}
	for i := range out {
		if out[i].next != nil && shown[*out[i].next] > 1 {
			out[i].next = nil
		}
	}
}

// judgePeer verifies one peer's certificate under the device key it is known by.
func judgePeer(p protocol.Peer, of acquaintance, now time.Time) (key.Certificate, error) {
	if k, ok := of.known[p.Node]; ok && k != p.Device {
		return key.Certificate{}, fmt.Errorf("%w from %s to %s: ask its owner whether it was set up anew, then picket trust %s", errDeviceKey, k.Short(), p.Device.Short(), p.Name)
	}
	cert, err := key.OpenCertificate(p.Certificate, string(p.Node), p.Device, now)
	if err != nil {
		return cert, err
	}
	if !now.Before(p.Expires) {
		return cert, errors.New("its login ended: its owner must run picket up there")
	}
	return notOlder(of.newest[bearerOf(p)].serial, cert, p, now)
}

// notOlder refuses a certificate that is older than the newest one seen. When that is of the peer's next key, the map is only older than
// the peer's change, and the next key is the one to use.
func notOlder(newest uint64, cert key.Certificate, p protocol.Peer, now time.Time) (key.Certificate, error) {
	if cert.Serial >= newest {
		return cert, nil
	}
	next, err := key.OpenCertificate(p.Next, string(p.Node), p.Device, now)
	if err == nil && next.Serial >= newest && next.Probe == cert.Probe {
		return next, nil
	}
	return cert, fmt.Errorf("its key certificate (serial %d) is older than one it has shown before (serial %d), so others may have the key in it: nothing passes until the coordinator "+
		"has a newer one of it; tell the coordinator's operator", cert.Serial, newest)
}

// startOf is when a certificate that is only too early will hold; the zero time otherwise.
func startOf(err error, c key.Certificate, now time.Time) time.Time {
	if errors.Is(err, key.ErrCertificateTime) && now.Before(c.NotBefore) {
		return c.NotBefore
	}
	return time.Time{}
}

// atHostClock moves the deadlines of rules and denies from the coordinator's clock to this host's, which is offset behind it: the filter
// looks at that.
func atHostClock(rs *acl.Ruleset, offset time.Duration) *acl.Ruleset {
	move := func(list []acl.Rule) []acl.Rule {
		rules := slices.Clone(list)
		for i := range rules {
			if rules[i].Until != 0 {
				rules[i].Until -= offset.Milliseconds()
			}
		}
		return rules
	}
	return &acl.Ruleset{Rules: move(rs.Rules), Denies: move(rs.Denies), Subjects: rs.Subjects}
}

// addressFor is s's address of the family of other; false when it has none.
func addressFor(s acl.Subject, other netip.Addr) (netip.Addr, bool) {
	for _, a := range s.Addresses {
		if a.Is4() == other.Is4() {
			return a, true
		}
	}
	return netip.Addr{}, false
}
