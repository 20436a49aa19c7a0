package node

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/statefile"
	"picket.internal/wgtun/key"
)

const (
	// certificateLife is how long a key certificate holds; a new one is made at half of it.
	certificateLife = 48 * time.Hour
	// certificateEarly dates a certificate back, for peers whose clocks are a little behind.
	certificateEarly = protocol.MaxClockSkew + time.Minute
)

// identity is who this node is, and whom it knows, as on disk. Owned by Run.
type identity struct {
	dir    *statefile.Dir
	node   statefile.Node
	peers  statefile.Peers
	newest newest
	renew  time.Time // when the certificate is to be made anew, by the coordinator's clock; zero looks at it
}

// loadIdentity reads the state directory, and makes keys on the first start.
func loadIdentity(dir *statefile.Dir, log *slog.Logger) (*identity, error) {
	node, ok, err := dir.Node()
	if err != nil {
		return nil, err
	}
	peers, err := dir.Peers()
	if err != nil {
		return nil, err
	}
	id := &identity{dir: dir, node: node, peers: peers, newest: loadNewest(dir, log)}
	if ok {
		return id, nil
	}
	id.node.Device = key.NewDevice()
	id.freshKeys()
	return id, id.save()
}

func (id *identity) save() error { return id.dir.SaveNode(id.node) }

// freshKeys replaces the tunnel and probe keys and drops the certificate for the old ones.
func (id *identity) freshKeys() {
	id.node.Tunnel, id.node.Probe, id.node.Certificate = key.NewTunnel(), key.NewProbe(), nil
	id.node.Next, id.node.TunnelSince, id.node.RotateAt = nil, time.Time{}, time.Time{}
}

// admitted reports whether the node belongs to a network now.
func (id *identity) admitted() bool { return id.node.Node != "" && id.node.Ended == "" }

func (id *identity) door() door {
	return door{id.node.Coordinator, id.node.Network, id.node.Node}
}

// admit takes a new admission. Peers known from another network are forgotten; in the same one they stay known.
func (id *identity) admit(url string, coordinator key.CoordinatorPublic, network protocol.NetworkID, node acl.NodeID) error {
	if network != id.node.Network {
		id.peers = statefile.Peers{Known: make(map[acl.NodeID]key.DevicePublic)}
		id.newest = newest{seen: make(map[bearer]seen), unsaved: true}
		if err := id.dir.SavePeers(id.peers); err != nil {
			return err
		}
	}
	if node != id.node.Node || network != id.node.Network {
		id.node.Certificate, id.node.Next = nil, nil
		if err := id.dir.RemoveMap(); err != nil {
			return err
		}
	}
	id.node.URL, id.node.Coordinator, id.node.Network, id.node.Node = url, coordinator, network, node
	id.node.Ended, id.node.WantUp = "", true
	return id.save()
}

// end notes why the admission is over. The keys that peers knew are not used again; the device key stays.
func (id *identity) end(why string) error {
	id.node.Ended = why
	id.freshKeys()
	return errors.Join(id.dir.RemoveMap(), id.save())
}

// forget leaves the network by the user's wish.
func (id *identity) forget() error {
	id.freshKeys()
	id.node.URL, id.node.Coordinator, id.node.Network, id.node.Node = "", key.CoordinatorPublic{}, "", ""
	id.node.Ended, id.node.WantUp = "", false
	return errors.Join(id.dir.RemoveMap(), id.save())
}

// meet remembers device keys.
func (id *identity) meet(met map[acl.NodeID]key.DevicePublic) error {
	if len(met) == 0 {
		return nil
	}
	for node, k := range met {
		id.peers.Known[node] = k
	}
	return id.dir.SavePeers(id.peers)
}

// shown are the keys that this node shows its peers.
func (id *identity) shown() shownKeys {
	s := shownKeys{tunnel: id.node.Tunnel.Public(), probe: id.node.Probe.Public()}
	if id.node.Next != nil {
		s.next = id.node.Next.Tunnel.Public()
	}
	return s
}

// certificates returns those to show at time now of the coordinator's clock, of the present tunnel key and of the next one, if there is
// one, making new ones when those on disk do not fit the keys or the node, or half of their life is gone. New ones are on disk before they are
// shown, so that serials never repeat; the next key's has always the larger one.
func (id *identity) certificates(now time.Time) (present, next []byte, err error) {
	n := &id.node
	made := false
	serial, end, fits := id.fits(n.Certificate, n.Tunnel, now)
	if !fits {
		n.Certificate, serial, end = id.certify(n.Tunnel, now)
		made = true
	}
	id.renew = end.Add(-certificateLife / 2)
	if n.Next != nil {
		if above, _, fits := id.fits(n.Next.Certificate, n.Next.Tunnel, now); !fits || above <= serial {
			renewed := *n.Next // the one before may be in the view
			renewed.Certificate, _, _ = id.certify(n.Next.Tunnel, now)
			n.Next, made = &renewed, true
		}
		next = n.Next.Certificate
	}
	if made {
		err = id.save()
	}
	return n.Certificate, next, err
}

// fits reports whether a certificate is of a tunnel key and this node, with at least half of its life left; and its serial and end.
func (id *identity) fits(signed []byte, tunnel key.TunnelPrivate, now time.Time) (serial uint64, end time.Time, ok bool) {
	n := &id.node
	c, err := key.OpenCertificate(signed, string(n.Node), n.Device.Public(), now)
	ok = err == nil && c.Tunnel == tunnel.Public() && c.Probe == n.Probe.Public() && now.Before(c.NotAfter.Add(-certificateLife/2))
	return c.Serial, c.NotAfter, ok
}

// certify makes a certificate with the next serial.
func (id *identity) certify(tunnel key.TunnelPrivate, now time.Time) (signed []byte, serial uint64, end time.Time) {
	n := &id.node
	n.Serial++
	end = now.Add(certificateLife).Truncate(time.Second)
	signed = key.Certificate{
		Node: string(n.Node), Serial: n.Serial, Tunnel: tunnel.Public(), Probe: n.Probe.Public(),
		NotBefore: now.Add(-certificateEarly).Truncate(time.Second), NotAfter: end,
	}.Sign(n.Device)
	return signed, n.Serial, end
}

// facts are what this node says of its host.
func (id *identity) facts(version string) protocol.Facts {
	name := id.node.Hostname
	if name == "" {
		host, _ := os.Hostname() // without one it is called "node"
		name = label(host)
	}
	return protocol.Facts{Hostname: name, OS: operatingSystem(), Arch: runtime.GOARCH, Version: version}
}

// label makes a DNS label of a host's name: its first part, in lower case, with what cannot stand in one replaced.
func label(host string) string {
	host, _, _ = strings.Cut(strings.ToLower(host), ".")
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, host)
	name = strings.Trim(name[:min(len(name), 63)], "-")
	if protocol.CheckName(name) != nil {
		return "node"
	}
	return name
}

// operatingSystem is the system's name and, on Linux, that of the distribution (os-release(5)).
func operatingSystem() string {
	text, err := os.ReadFile("/etc/os-release")
	if err != nil || runtime.GOOS != "linux" {
		return runtime.GOOS
	}
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			name = protocol.Printable(strings.Trim(strings.TrimSpace(name), `"'`))
			return fmt.Sprintf("%s (%s)", runtime.GOOS, name[:min(len(name), 100)])
		}
	}
	return runtime.GOOS
}
