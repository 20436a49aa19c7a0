package acl

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
)

// roleDomain keeps role ids apart from every other hash made with the same salt.
const roleDomain = "picket acl role v1\x00"

// newRoleID is the first 8 bytes, big-endian, of SHA-256(roleDomain, length of salt in 8 bytes, salt, key).
func newRoleID(salt []byte, key string) RoleID {
	b := binary.BigEndian.AppendUint64([]byte(roleDomain), uint64(len(salt)))
	sum := sha256.Sum256(append(append(b, salt...), key...))
	return RoleID(binary.BigEndian.Uint64(sum[:]))
}

// roleBook gives ids to the selectors and postures that rules use, and says which of them a node has. Once every rule is in, it is read-only.
type roleBook struct {
	id       func(key string) RoleID
	ids      map[string]RoleID // by selector key
	keys     map[RoleID]string
	networks prefixIndex         // of the "ip:" selectors
	postures map[string]*posture // Policy.postures
	memberOf map[string][]string // Policy.memberOf
	people   map[UserID]person   // users that alone have their login
	everyone map[UserID]person   // all users
}

// person is a user as roles see it.
type person struct{ login, role string }

func newRoleBook(p *Policy, users []User, id func(string) RoleID) *roleBook {
	return &roleBook{
		id: id, ids: map[string]RoleID{}, keys: map[RoleID]string{},
		postures: p.postures, memberOf: p.memberOf, people: uniqueLogins(users), everyone: allLogins(users),
	}
}

// denyKey begins the keys of what denies name people by. Where two users have one login a rule names neither, for which of them it means is
// not to be guessed; a deny names both.
const denyKey = "!"

// keyFor is a selector's key in rules or in denies.
func keyFor(s selector, deny bool) string {
	if deny && slices.Contains([]kind{kindUser, kindGroup, kindMember, kindDomain, kindRole}, s.kind) {
		return denyKey + s.key()
	}
	return s.key()
}

func allLogins(users []User) map[UserID]person {
	out := make(map[UserID]person, len(users))
	for _, u := range users {
		if u.ID != "" {
			out[u.ID] = person{foldLogin(u.Login), u.Role}
		}
	}
	return out
}

// uniqueLogins leaves out logins that two users have: which of them the policy means is not to be guessed.
func uniqueLogins(users []User) map[UserID]person {
	count := make(map[string]int, len(users))
	for _, u := range users {
		count[foldLogin(u.Login)]++
	}
	out := make(map[UserID]person, len(users))
	for _, u := range users {
		if login := foldLogin(u.Login); count[login] == 1 && login != "" && u.ID != "" {
			out[u.ID] = person{login, u.Role}
		}
	}
	return out
}

// role returns the id of a selector, or of a posture, by its key. Two with one id would be one to every node, so that is an error.
func (b *roleBook) role(key string) (RoleID, error) {
	if id, ok := b.ids[key]; ok {
		return id, nil
	}
	id := b.id(key)
	if other, taken := b.keys[id]; taken {
		return 0, fmt.Errorf("compile policy: selectors %s and %s have the same role id: make a new salt", quote(key), quote(other))
	}
	b.ids[key], b.keys[id] = id, key
	return id, nil
}

// roles returns the ids of several keys, sorted.
func (b *roleBook) roles(keys []string) (out []RoleID, err error) {
	for _, key := range keys {
		id, err := b.role(key)
		if err != nil {
			return nil, err
		}
		out = append(out, id)
	}
	slices.Sort(out)
	return out, nil
}

// network returns the id for the nodes that have an address in p.
func (b *roleBook) network(p netip.Prefix) (RoleID, error) {
	key := networkKey(p)
	if _, known := b.ids[key]; !known {
		b.networks.add([]netip.Prefix{p}, 0)
	}
	return b.role(key)
}

func networkKey(p netip.Prefix) string { return selector{kind: kindPrefix, prefix: p}.key() }

// rolesOf lists the roles of a node, sorted.
func (b *roleBook) rolesOf(n *Node) (out []RoleID) {
	for _, key := range b.whoIs(n) {
		if id, ok := b.ids[key]; ok {
			out = append(out, id)
		}
	}
	for _, a := range n.Addresses {
		if !plainAddr(a) {
			continue
		}
		for _, p := range b.networks.around(a) {
			out = append(out, b.ids[networkKey(p)])
		}
	}
	for name, p := range b.postures {
		if id, ok := b.ids[name]; ok && p.holds(n.Attributes) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// whoIs lists the selectors, by key, that name a node for who it is, whether rules use them or not.
func (b *roleBook) whoIs(n *Node) []string {
	keys := []string{"*", "autogroup:danger-all"}
	if len(n.Tags) > 0 {
		keys = append(keys, "autogroup:tagged")
		return slices.AppendSeq(keys, tagsOf(n))
	}
	if who, ok := b.people[n.Owner]; ok {
		keys = append(keys, b.of(who)...)
	}
	if who, ok := b.everyone[n.Owner]; ok {
		for _, key := range b.of(who) {
			keys = append(keys, denyKey+key)
		}
	}
	return keys
}

// of lists the selectors, by key, that name a person.
func (b *roleBook) of(who person) []string {
	keys := []string{"autogroup:member", who.login}
	if _, domain, ok := strings.Cut(who.login, "@"); ok {
		keys = append(keys, domainSelector+domain)
	}
	if who.role != "" {
		keys = append(keys, "autogroup:"+who.role)
	}
	return append(keys, b.memberOf[who.login]...)
}

// tagsOf lists a node's tags. What does not look like one is none: it could be the key of another selector.
func tagsOf(n *Node) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, t := range n.Tags {
			if strings.HasPrefix(t, "tag:") && !yield(t) {
				return
			}
		}
	}
}
