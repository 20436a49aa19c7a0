package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"

	"picket.internal/coordinator/protocol"
)

// Role is what a member is.
type Role byte

// Roles, as they travel.
const (
	Coordinator Role = 1
	Relay       Role = 2
)

func (r Role) String() string {
	switch r {
	case Coordinator:
		return "coordinator"
	case Relay:
		return "relay"
	}
	return "unknown"
}

// Meta is what a member says of itself.
type Meta struct {
	Role    Role
	Name    string // as maps call the relay; the coordinator has that of its own relay
	Clients uint32 // nodes connected to its relay
	Version string // of the program; at most MaxVersion printable bytes
}

const (
	metaVersion = 1
	metaFixed   = 8 // bytes before the name
	maxName     = 63
	maxMeta     = metaFixed + maxName + MaxVersion
)

// MaxVersion bounds Meta.Version.
const MaxVersion = 64

// id is the member's name in the ring.
func (m Meta) id() string { return m.Role.String() + ":" + m.Name }

// check refuses what may not travel.
func (m Meta) check() error {
	switch {
	case m.Role != Coordinator && m.Role != Relay:
		return errors.New("a role of no kind")
	case len(m.Name) > maxName || protocol.CheckName(m.Name) != nil:
		return errors.New("a name that no relay may have")
	case len(m.Version) > MaxVersion:
		return fmt.Errorf("a version of %d bytes", len(m.Version))
	}
	for _, c := range []byte(m.Version) {
		if c < ' ' || c > '~' {
			return errors.New("a version that cannot be printed")
		}
	}
	return nil
}

// append adds the bytes of a meta that was checked.
func (m Meta) append(b []byte) []byte {
	b = append(b, metaVersion, byte(m.Role))
	b = binary.BigEndian.AppendUint32(b, m.Clients)
	b = append(b, byte(len(m.Name)), byte(len(m.Version)))
	b = append(b, m.Name...)
	return append(b, m.Version...)
}

// parseMeta reads what append made, and nothing else. It keeps nothing of b.
func parseMeta(b []byte) (Meta, error) {
	if len(b) < metaFixed || len(b) > maxMeta {
		return Meta{}, fmt.Errorf("%d bytes about a member", len(b))
	}
	if b[0] != metaVersion {
		return Meta{}, fmt.Errorf("version %d of what members say", b[0])
	}
	name, version := int(b[6]), int(b[7])
	if len(b) != metaFixed+name+version {
		return Meta{}, errors.New("lengths that do not fit")
	}
	m := Meta{Role: Role(b[1]), Clients: binary.BigEndian.Uint32(b[2:]), Name: string(b[metaFixed : metaFixed+name]), Version: string(b[metaFixed+name:])}
	return m, m.check()
}
