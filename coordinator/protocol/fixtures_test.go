package protocol

import (
	"net/netip"
	"testing"
	"time"

	"picket.internal/acl"
	"picket.internal/wgtun/key"
)

// Fixed keys, so that golden files hold signatures too.
var (
	testCoordinator = parseKey[key.CoordinatorPrivate]("coordinator-private:", '1')
	testDevice      = parseKey[key.DevicePrivate]("device-private:", '2')
	testPeerDevice  = parseKey[key.DevicePrivate]("device-private:", '3')
	testTime        = time.Date(2026, 11, 24, 12, 0, 0, 250_000_000, time.UTC)
)

func parseKey[T any, P interface {
	*T
	UnmarshalText([]byte) error
}](role string, digit byte) T {
	text := []byte(role)
	for range 64 {
		text = append(text, digit)
	}
	var k T
	if err := P(&k).UnmarshalText(text); err != nil {
		panic(err)
	}
	return k
}

func testContent() Content {
	return Content{
		Self: Self{
			Subject: acl.Subject{Node: "n1", Owner: "u1", Addresses: []netip.Addr{netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("fd00::1")}, Roles: []acl.RoleID{7}},
			Name:    "laptop", Login: "alice@example.com", Expires: testTime.Add(time.Hour),
		},
		Network: Network{
			Overlay: []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fd00::/48")},
			Policy:  PolicyInfo{Commit: "0123456789012345678901234567890123456789"},
		},
		Peers: []Peer{{
			Subject: acl.Subject{Node: "n2", Addresses: []netip.Addr{netip.MustParseAddr("100.64.0.2")}, Roles: []acl.RoleID{1 << 63}},
			Name:    "db", Tags: []string{"tag:db"}, OS: "linux", Device: testPeerDevice.Public(), Certificate: []byte{1, 2, 3}, Expires: testTime.Add(2 * time.Hour),
		}},
		Rules: []acl.Rule{{
			Ref: acl.Ref{Section: "grants", Index: 0, Line: 3, Column: 5}, Src: acl.Set{Roles: []acl.RoleID{7}}, Dst: acl.Set{Roles: []acl.RoleID{1 << 63}},
			Ports: []acl.Ports{{Proto: acl.TCP, First: 5432, Last: 5432}},
		}},
		Denies: []acl.Rule{{
			Ref: acl.Ref{Section: "denies", Index: 0, Line: 9, Column: 3}, Src: acl.Set{Roles: []acl.RoleID{7}}, Dst: acl.Set{Roles: []acl.RoleID{1 << 63}},
			Ports: []acl.Ports{{Proto: acl.TCP, First: 22, Last: 22}}, Reason: "not from here",
		}},
	}
}

func testEntries(t testing.TB, c Content) Entries {
	t.Helper()
	e, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// signed makes the map that carries new at generation g, as a delta on old when base is not 0.
func signed(t testing.TB, base uint64, old, new Entries, g uint64) (*Map, Header) {
	t.Helper()
	h := Header{Network: "net", Node: "n1", Generation: g, Digest: Digest(new), Issued: testTime, NotAfter: testTime.Add(time.Hour)}
	m := &Map{Base: base}
	m.Remove, m.Put = Diff(old, new)
	if err := SignHeader(m, h, testCoordinator); err != nil {
		t.Fatal(err)
	}
	return m, h
}
