// Package statefile keeps what a node must remember in one directory.
//
// The directory has mode 0700 and belongs to the agent's user; each file has mode 0600 and is a JSON object
//
//	{"format": "picket node", "version": 1, "sha256": "64 hexadecimal digits", "body": {...}}
//
// whose digest is over the bytes of body, so that a damaged key is noticed rather than used as a new identity. A file is replaced
// whole (written aside, synced, renamed) and the version before it stays beside it as NAME.prev. Files:
//
//	node.json     Node: keys, certificate, admission, what the user wants
//	peers.json    Peers: the device key of each peer ever met
//	map.json      Map: the last signed map, in full, and what was known beside it
//	serials.json  Serials: the newest key certificate seen of each peer
//	flows.json    Flows: what a stopped agent leaves to the next; removed as it is read
//	lock          held by the one agent that uses the directory
//
// A file that is damaged, foreign, newer than this build, readable by others or somebody else's is refused with an *Error and is
// never written over; serials.json and flows.json alone are, since an agent can run without them. Nothing here is safe for concurrent use.
package statefile

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

// Node is who this node is. The zero Node is one that never was set up.
type Node struct {
	Device key.DevicePrivate `json:"device"`
	Tunnel key.TunnelPrivate `json:"tunnel"`
	// Probe lives as long as Tunnel, not only as long as the process: peers know it from the certificate in their maps, so a node
	// restarted while the coordinator is down is still found by them.
	Probe       key.ProbePrivate `json:"probe"`
	Serial      uint64           `json:"serial"`      // of the newest certificate made
	Certificate []byte           `json:"certificate"` // signed key.Certificate; empty when none fits the admission

	Next          *NextKey  `json:"next,omitempty"`          // the tunnel key to follow, while its peers are told of it
	TunnelSince   time.Time `json:"tunnelSince,omitzero"`    // when Tunnel was taken up, by the coordinator's clock
	RotateAt      time.Time `json:"rotateAt,omitzero"`       // when it is to be changed; zero for never
	RotateSeconds int64     `json:"rotateSeconds,omitempty"` // how long a key is used, as the user wants; 0 the default, negative for good

	URL         string                `json:"url"`         // of the coordinator
	Coordinator key.CoordinatorPublic `json:"coordinator"` // pinned at enrolment; zero before
	Network     protocol.NetworkID    `json:"network"`
	Node        acl.NodeID            `json:"node"`  // empty when not admitted
	Ended       string                `json:"ended"` // "", or why the admission is over: "expired", "removed"

	WantUp bool `json:"wantUp"`
	// Port is the UDP port the system chose the last time. It is tried again: peers and NATs that know it need not learn another.
	Port     uint16 `json:"port"`
	Hostname string `json:"hostname"` // as the user wants it called; empty takes the host's own

	Routing Routing `json:"routing,omitzero"`
	DNSOff  bool    `json:"dnsOff,omitempty"` // names of peers are not to be resolved
}

// NextKey is a tunnel key that is certified but not in use.
type NextKey struct {
	Tunnel      key.TunnelPrivate `json:"tunnel"`
	Certificate []byte            `json:"certificate"` // signed key.Certificate
}

// Routing is what the user wants routed: nothing, as the zero Routing.
type Routing struct {
	Advertise  []netip.Prefix `json:"advertise,omitempty"`  // networks to serve
	ExitNode   bool           `json:"exitNode,omitempty"`   // serve the internet, too
	KeepSource bool           `json:"keepSource,omitempty"` // leave peers' addresses on what is forwarded into networks
	Accept     bool           `json:"accept,omitempty"`     // use networks behind peers
	Exit       string         `json:"exit,omitempty"`       // the exit node to use, as the user names it
	ExitID     acl.NodeID     `json:"exitID,omitempty"`     // which node that was found to be
	ExitLAN    bool           `json:"exitLAN,omitempty"`    // reach the host's own networks directly all the same
}

// IsZero reports that nothing is routed.
func (r Routing) IsZero() bool {
	return len(r.Advertise) == 0 && !r.ExitNode && !r.KeepSource && !r.Accept && r.Exit == "" && !r.ExitLAN
}

// Peers is the device key of each peer ever met, by node id.
type Peers struct {
	Known map[acl.NodeID]key.DevicePublic `json:"known"`
}

// Map is the last map in force, whole.
type Map struct {
	Network protocol.NetworkID `json:"network"` // whose Map is; a map of another admission is not used
	Node    acl.NodeID         `json:"node"`
	Signed  protocol.Map       `json:"signed"` // Base 0: every entry, under the signed header
	Hints   []protocol.Hint    `json:"hints"`
	// OffsetMillis is the coordinator's clock minus this host's, when last heard.
	OffsetMillis int64 `json:"offsetMillis"`
}

// Offset is the coordinator's clock minus this host's.
func (m Map) Offset() time.Duration { return time.Duration(m.OffsetMillis) * time.Millisecond }

// Error is a refusal: what is wrong with which file, and what to do.
type Error struct {
	Path    string
	Problem string
	Remedy  string
}

func (e *Error) Error() string { return fmt.Sprintf("%s %s: %s", e.Path, e.Problem, e.Remedy) }

// Dir is an open state directory; the process holds its lock until Close.
type Dir struct {
	path string
	lock *os.File
}

const (
	nodeName  = "node.json"
	peersName = "peers.json"
	mapName   = "map.json"
	lockName  = "lock"
)

// Open locks the directory, making it (mode 0700) when it is not there. It fails with an *Error when the path is no directory,
// belongs to somebody else, lets others in, or is in use by another agent.
func Open(path string) (*Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, writeError(path, err)
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, writeError(path, err)
	}
	if err := checkDir(path); err != nil {
		return nil, err
	}
	lock, err := takeLock(filepath.Join(path, lockName))
	if err != nil {
		return nil, err
	}
	return &Dir{path: path, lock: lock}, nil
}

// Path is the directory, absolute.
func (d *Dir) Path() string { return d.path }

// Close releases the lock.
func (d *Dir) Close() error { return d.lock.Close() }

// Node reads node.json; false when there is none yet.
func (d *Dir) Node() (n Node, ok bool, err error) {
	if ok, err = d.read(nodeName, "node", &n); err != nil {
		return Node{}, false, err
	}
	return n, ok, nil
}

// SaveNode replaces node.json.
func (d *Dir) SaveNode(n Node) error { return d.write(nodeName, "node", n) }

// Peers reads peers.json; an empty Peers when there is none yet.
func (d *Dir) Peers() (p Peers, err error) {
	if _, err = d.read(peersName, "peers", &p); err != nil {
		return Peers{}, err
	}
	if p.Known == nil {
		p.Known = make(map[acl.NodeID]key.DevicePublic)
	}
	return p, nil
}

// SavePeers replaces peers.json.
func (d *Dir) SavePeers(p Peers) error { return d.write(peersName, "peers", p) }

// Map reads map.json; false when there is none.
func (d *Dir) Map() (m Map, ok bool, err error) {
	if ok, err = d.read(mapName, "map", &m); err != nil {
		return Map{}, false, err
	}
	return m, ok, nil
}

// SaveMap replaces map.json.
func (d *Dir) SaveMap(m Map) error { return d.write(mapName, "map", m) }

// RemoveMap forgets the map, and the version before it, which belongs to the same admission.
func (d *Dir) RemoveMap() error {
	for _, name := range []string{mapName, mapName + ".prev"} {
		if err := os.Remove(filepath.Join(d.path, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return writeError(filepath.Join(d.path, name), err)
		}
	}
	return nil
}

func checkDir(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return &Error{path, "cannot be looked at", plain(err)}
	}
	switch {
	case !info.IsDir():
		return &Error{path, "is not a directory", "name another one with --state"}
	case !ownedByUs(info):
		return &Error{path, "belongs to another user", "run picket as that user, or name another directory with --state"}
	case openToOthers(info):
		return &Error{path, "lets other users in (mode " + info.Mode().Perm().String() + ")", "chmod 700 it after looking at who could have changed it"}
	}
	return nil
}
