package sqlite

import (
	"net/netip"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator"
	"picket.internal/wgtun/key"
)

// nodeColumns with a node's addresses as one JSON array, so that a list of nodes is one query.
const nodeColumns = `id, device, name, owner, tags, facts, certificate, next_certificate, created, expires, expired, quarantined, removed, attached, last_seen, lease_ends, routing,
	(SELECT json_group_array(address) FROM (SELECT address FROM addresses WHERE node = nodes.id ORDER BY place))`

func scanNode(s scanner) (n coordinator.NodeRow, err error) {
	err = s.Scan(&n.ID, fixed{(*[32]byte)(&n.Device)}, &n.Name, &n.Owner, document{&n.Tags}, document{&n.Facts}, &n.Certificate, &n.Next,
		stamp{&n.Created}, stamp{&n.Expires}, &n.Expired, &n.Quarantined, stamp{&n.Removed},
		&n.Presence.Attached, stamp{&n.Presence.LastSeen}, stamp{&n.Presence.LeaseEnds}, document{&n.Routing}, document{&n.Addresses})
	if len(n.Tags) == 0 {
		n.Tags = nil
	}
	return n, err
}

func (t *tx) Nodes() ([]coordinator.NodeRow, error) {
	return list(t, scanNode, "SELECT "+nodeColumns+" FROM nodes WHERE removed = 0 ORDER BY name")
}

func (t *tx) NodeByID(id acl.NodeID) (coordinator.NodeRow, error) {
	return get(t, scanNode, "SELECT "+nodeColumns+" FROM nodes WHERE id = ?", string(id))
}

func (t *tx) NodeByName(name string) (coordinator.NodeRow, error) {
	return get(t, scanNode, "SELECT "+nodeColumns+" FROM nodes WHERE name = ? AND removed = 0", name)
}

func (t *tx) NodeByDevice(d key.DevicePublic) (coordinator.NodeRow, error) {
	return get(t, scanNode, "SELECT "+nodeColumns+" FROM nodes WHERE device = ? AND removed = 0", d[:])
}

func (t *tx) NodeNames(base string) ([]string, error) {
	// A hyphen's successor is a full stop, which no name holds.
	return list(t, value[string], "SELECT name FROM nodes WHERE removed = 0 AND (name = ?1 OR name >= ?1 || '-' AND name < ?1 || '.')", base)
}

// Where a certificate's keys are (wgtun/key.Certificate), counted from its end. Indexes stand on these very expressions.
const (
	tunnelKey = "substr(certificate, -144, 32)"
	probeKey  = "substr(certificate, -112, 32)"
	nextKey   = "substr(next_certificate, -144, 32)"
)

const keysTaken = `SELECT EXISTS (SELECT 1 FROM nodes WHERE removed = 0 AND ` + tunnelKey + ` IN (?2, ?3) AND id <> ?1)
	OR EXISTS (SELECT 1 FROM nodes WHERE removed = 0 AND ` + probeKey + ` IN (?2, ?3) AND id <> ?1)
	OR EXISTS (SELECT 1 FROM nodes WHERE removed = 0 AND ` + nextKey + ` IN (?2, ?3) AND id <> ?1)`

func (t *tx) KeysTaken(id acl.NodeID, tunnel key.TunnelPublic, probe key.ProbePublic) (bool, error) {
	return get(t, value[bool], keysTaken, string(id), tunnel[:], probe[:])
}

func (t *tx) AddressTaken(a netip.Addr) (bool, error) {
	n, err := get(t, value[int], "SELECT count(*) FROM addresses WHERE address = ? AND (held = 0 OR held > ?)", a.String(), millis(t.now))
	return n > 0, err
}

func (t *tx) TakenAddresses() ([]netip.Addr, error) {
	return list(t, func(s scanner) (netip.Addr, error) {
		text, err := value[string](s)
		if err != nil {
			return netip.Addr{}, err
		}
		return netip.ParseAddr(text)
	}, "SELECT address FROM addresses WHERE held = 0 OR held > ?", millis(t.now))
}

func (t *tx) InsertNode(n coordinator.NodeRow) error {
	_, err := t.exec(`INSERT INTO nodes (id, device, name, owner, tags, facts, certificate, next_certificate, created, expires, expired, quarantined, removed, attached, last_seen, lease_ends, routing)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		string(n.ID), n.Device[:], n.Name, string(n.Owner), tagList(n.Tags), text(n.Facts), notNil(n.Certificate), notNil(n.Next), millis(n.Created), millis(n.Expires),
		n.Expired, n.Quarantined, millis(n.Removed), n.Presence.Attached, millis(n.Presence.LastSeen), millis(n.Presence.LeaseEnds), text(n.Routing))
	if err != nil {
		return err
	}
	for i, a := range n.Addresses {
		// One whose rest is over is free; any other row makes the insert fail.
		if _, err := t.exec("DELETE FROM addresses WHERE address = ? AND held <> 0 AND held <= ?", a.String(), millis(t.now)); err != nil {
			return err
		}
		if _, err := t.exec("INSERT INTO addresses (address, node, place, held) VALUES (?, ?, ?, 0)", a.String(), string(n.ID), i); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) UpdateNode(n coordinator.NodeRow) error {
	return t.one(`UPDATE nodes SET device = ?, name = ?, owner = ?, tags = ?, facts = ?, certificate = ?, next_certificate = ?, expires = ?, expired = ?, quarantined = ?, removed = ?, routing = ?
		WHERE id = ?`,
		n.Device[:], n.Name, string(n.Owner), tagList(n.Tags), text(n.Facts), notNil(n.Certificate), notNil(n.Next), millis(n.Expires), n.Expired, n.Quarantined,
		millis(n.Removed), text(n.Routing), string(n.ID))
}

func (t *tx) SetPresence(id acl.NodeID, p coordinator.Presence) error {
	return t.one("UPDATE nodes SET attached = ?, last_seen = ?, lease_ends = ? WHERE id = ?", p.Attached, millis(p.LastSeen), millis(p.LeaseEnds), string(id))
}

func (t *tx) HoldAddresses(id acl.NodeID, until time.Time) error {
	_, err := t.exec("UPDATE addresses SET held = ? WHERE node = ?", millis(until), string(id))
	return err
}
