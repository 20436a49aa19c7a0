package acl

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// roleDomain keeps role ids apart from every other hash made with the same salt.
const roleDomain = "picket acl role v1\x00"

// newRoleID is the first 8 bytes, big-endian, of SHA-256(roleDomain, length of salt in 8 bytes, salt, key).
func newRoleID(salt []byte, key string) RoleID {
	b := binary.BigEndian.AppendUint64([]byte(roleDomain), uint64(len(salt)))
	sum := sha256.Sum256(append(append(b, salt...), key...))
	return RoleID(binary.BigEndian.Uint64(sum[:]))
}

// roleBook gives ids to the selectors that rules use, and says which of them a node has.
type roleBook struct {
	id       func(key string) RoleID
	ids      map[string]RoleID // by selector key
	keys     map[RoleID]string
	networks map[netip.Prefix]RoleID // of the "ip:" selectors
	bits     []int                   // lengths of networks, IPv6 ones plus 1000 to keep the families apart
	memberOf map[string][]string     // Policy.memberOf
	logins   map[UserID]string       // of users that alone have their login
}

const bits6 = 1000

func newRoleBook(p *Policy, users []User, id func(string) RoleID) *roleBook {
	return &roleBook{
		id: id, ids: map[string]RoleID{}, keys: map[RoleID]string{}, networks: map[netip.Prefix]RoleID{},
		memberOf: p.memberOf, logins: uniqueLogins(users),
	}
}

// uniqueLogins leaves out logins that two users have: which of them the policy means is not to be guessed.
func uniqueLogins(users []User) map[UserID]string {
	count := make(map[string]int, len(users))
	for _, u := range users {
		count[foldLogin(u.Login)]++
	}
	out := make(map[UserID]string, len(users))
	for _, u := range users {
		if login := foldLogin(u.Login); count[login] == 1 && login != "" && u.ID != "" {
			out[u.ID] = login
		}
	}
	return out
}

// role returns the id of a selector. Two selectors with one id would be one to every node, so that is an error.
func (b *roleBook) role(s selector) (RoleID, error) {
	key := s.key()
	if id, ok := b.ids[key]; ok {
		return id, nil
	}
	id := b.id(key)
	if other, taken := b.keys[id]; taken {
		return 0, fmt.Errorf("compile policy: selectors %s and %s have the same role id: make a new salt", quote(key), quote(other))
	}
	b.ids[key], b.keys[id] = id, key
	if s.kind == kindPrefix {
		b.addNetwork(s.prefix, id)
	}
	return id, nil
}

func (b *roleBook) addNetwork(p netip.Prefix, id RoleID) {
	b.networks[p] = id
	n := p.Bits()
	if p.Addr().Is6() {
		n += bits6
	}
	if !slices.Contains(b.bits, n) {
		b.bits = append(b.bits, n)
	}
}

// rolesOf lists the roles of a node, sorted.
func (b *roleBook) rolesOf(n *Node) []RoleID {
	var out []RoleID
	add := func(key string) {
		if id, ok := b.ids[key]; ok {
			out = append(out, id)
		}
	}
	add("*")
	if len(n.Tags) > 0 {
		add("autogroup:tagged")
		for _, t := range n.Tags {
			add(t)
		}
	} else if login, ok := b.logins[n.Owner]; ok {
		add("autogroup:member")
		add(login)
		for _, g := range b.memberOf[login] {
			add(g)
		}
	}
	for _, a := range n.Addresses {
		out = b.appendNetworks(out, a)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// appendNetworks adds the roles of the networks that a lies in.
func (b *roleBook) appendNetworks(out []RoleID, a netip.Addr) []RoleID {
	for _, n := range b.bits {
		if (n >= bits6) != a.Is6() {
			continue
		}
		p, err := a.Prefix(n % bits6)
		if err != nil {
			continue
		}
		if id, ok := b.networks[p]; ok {
			out = append(out, id)
		}
	}
	return out
}
