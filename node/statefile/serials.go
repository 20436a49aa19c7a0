package statefile

import (
	"picket.internal/acl"
	"picket.internal/wgtun/key"
)

const serialsName = "serials.json"

// Serials is the newest key certificate seen of each peer.
type Serials struct {
	Seen []Seen `json:"seen"`
}

// Seen is one peer's, under one device key.
type Seen struct {
	Node   acl.NodeID  `json:"node"`
	Device Fingerprint `json:"device"`
	Serial uint64      `json:"serial"`
	Until  int64       `json:"until"` // when the certificate ends, by the coordinator's clock; Unix seconds
}

// Fingerprint is the first half of a device key: enough to tell a node's keys apart, and there may be thousands of nodes.
type Fingerprint [16]byte

// FingerprintOf is k's.
func FingerprintOf(k key.DevicePublic) Fingerprint { return Fingerprint(k[:16]) }

// Serials reads serials.json; an empty Serials when there is none yet. When it cannot be read, the error comes beside the version before it, or an
// empty Serials: serials only rise, so an older file is never wrong, and none only knows less.
func (d *Dir) Serials() (s Serials, err error) {
	if _, err = d.read(serialsName, "serials", &s); err == nil {
		return s, nil
	}
	var before Serials
	if _, e := d.read(serialsName+".prev", "serials", &before); e != nil {
		return Serials{}, err
	}
	return before, err
}

// SaveSerials replaces serials.json, also one that cannot be read.
func (d *Dir) SaveSerials(s Serials) error { return d.write(serialsName, "serials", s) }
