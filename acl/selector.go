package acl

import (
	"fmt"
	"net/netip"
	"strings"
)

// kind of a selector.
type kind uint8

const (
	kindAny kind = iota + 1
	kindUser
	kindGroup
	kindTag
	kindMember
	kindTagged
	kindSelf
	kindPrefix // an address, a CIDR or a host
)

// selector names nodes, and addresses behind routes.
type selector struct {
	kind   kind
	text   string       // as written; a login in lower case
	prefix netip.Prefix // of kindPrefix
}

// key is the selector's one text: the same for a host and its address. Role ids are made from it.
func (s selector) key() string {
	if s.kind == kindPrefix {
		return "ip:" + s.prefix.String()
	}
	return s.text
}

// place is where a selector stands. Not every selector may stand everywhere.
type place uint8

const (
	inSrc place = iota
	inDst
	inTest // at either end of a test
)

var autogroups = map[string]kind{
	"autogroup:member": kindMember,
	"autogroup:tagged": kindTagged,
	"autogroup:self":   kindSelf,
}

// selector reads s, found at offset at.
func (r *reader) selector(s string, at int, in place) (selector, bool) {
	prefix, _, _ := strings.Cut(s, ":")
	switch {
	case s == "*":
		return r.anySelector(at, in)
	case prefix == "autogroup":
		return r.autogroup(s, at, in)
	case laterSelectors[prefix+":"] != "" && prefix != s:
		r.err(at, unsupportedHint, "%s (%s) is not supported by this version of Picket", quote(s), laterSelectors[prefix+":"])
		return selector{}, false
	case prefix == "group" && prefix != s:
		_, ok := r.knownGroup(s, at)
		return selector{kind: kindGroup, text: s}, ok
	case prefix == "tag" && prefix != s:
		return selector{kind: kindTag, text: s}, r.knownTag(s, at)
	case strings.Contains(s, "@"):
		login, ok := r.login(s, at)
		return selector{kind: kindUser, text: login}, ok
	}
	return r.addressSelector(s, at, in)
}

func (r *reader) anySelector(at int, in place) (selector, bool) {
	if in == inTest {
		r.err(at, "name one user, group, tag, host or address", "`*` cannot stand in a test")
		return selector{}, false
	}
	return selector{kind: kindAny, text: "*"}, true
}

func (r *reader) autogroup(s string, at int, in place) (selector, bool) {
	k := autogroups[s]
	switch {
	case laterAutogroups[s] != "":
		r.err(at, unsupportedHint, "%s (%s) is not supported by this version of Picket", quote(s), laterAutogroups[s])
	case k == 0:
		hint := "known are `autogroup:member`, `autogroup:tagged` and, in dst, `autogroup:self`"
		if near := r.nearest(s, []string{"autogroup:member", "autogroup:tagged", "autogroup:self"}); near != "" {
			hint = fmt.Sprintf("did you mean %s?", quote(near))
		}
		r.err(at, hint, "unknown autogroup %s", quote(s))
	case in == inTest:
		r.err(at, "name one user, group, tag, host or address", "%s cannot stand in a test", quote(s))
	case k == kindSelf && in == inSrc:
		r.err(at, "did you mean `autogroup:member`?", "`autogroup:self` can only stand in dst: it is relative to the source")
	default:
		return selector{kind: k, text: s}, true
	}
	return selector{}, false
}

// addressSelector reads an address, a CIDR or a host, which is whatever remains.
func (r *reader) addressSelector(s string, at int, in place) (selector, bool) {
	sel := selector{kind: kindPrefix, text: s}
	var ok bool
	switch h, known := r.pol.hosts[s]; {
	case known:
		sel.prefix, ok = h.prefix, true
	case looksLikeAddress(s):
		sel.prefix, ok = r.prefix(s, at)
	default:
		r.unknownHost(s, at)
	}
	if ok && in == inTest && !sel.prefix.IsSingleIP() {
		r.err(at, "name one address in it", "%s is a network: a test goes from one address to one", quote(s))
		return selector{}, false
	}
	return sel, ok
}

func (r *reader) unknownHost(s string, at int) {
	hint := "a selector is a user (`alice@example.com`), `group:…`, `tag:…`, `autogroup:…`, a name from `hosts`, an address, a CIDR, or `*`"
	switch {
	case r.pol.tags["tag:"+s] != nil:
		hint = fmt.Sprintf("did you mean %s?", quote("tag:"+s))
	case r.pol.groups["group:"+s] != nil:
		hint = fmt.Sprintf("did you mean %s?", quote("group:"+s))
	default:
		if near := r.nearest(s, r.hostNames); near != "" {
			hint = fmt.Sprintf("did you mean %s?", quote(near))
		} else if login := r.loginOf(s); login != "" {
			hint = fmt.Sprintf("users are written with their domain, did you mean %s?", quote(login))
		}
	}
	r.err(at, hint, "unknown host %s", quote(s))
}

// loginOf returns a login of the groups whose local part is s.
func (r *reader) loginOf(s string) string {
	for _, name := range r.groupNames {
		for _, u := range r.pol.groups[name].users {
			if r.spent++; r.spent > maxComparisons {
				return ""
			}
			if local, _, _ := strings.Cut(u, "@"); local == s {
				return u
			}
		}
	}
	return ""
}

// looksLikeAddress tells what is meant as an address or CIDR from what is meant as a name.
func looksLikeAddress(s string) bool {
	if strings.ContainsAny(s, ":/[]%") {
		return true
	}
	return s != "" && strings.Trim(s, "0123456789.") == ""
}

// prefix reads an address or CIDR in its one form (R34): no zone, not IPv4-mapped, no bits set behind the mask. An address is a prefix
// of its full length.
func (r *reader) prefix(s string, at int) (netip.Prefix, bool) {
	p, err := parsePrefix(s)
	switch {
	case strings.Contains(s, "%"):
		r.err(at, "leave the zone out", "%s has a zone", quote(s))
	case strings.HasPrefix(s, "["):
		r.err(at, "brackets stand only where ports follow", "%s is not an address or CIDR", quote(s))
	case err != nil:
		r.err(at, "", "%s is not an address or CIDR", quote(s))
	case p.Addr().Is4In6():
		r.err(at, ipv4Hint(p), "%s is an IPv4 address dressed as IPv6", quote(s))
	case p != p.Masked():
		r.err(at, fmt.Sprintf("did you mean %s or %s?", quote(p.Masked().String()), quote(p.Addr().String())), "%s has bits set behind its mask", quote(s))
	case p.Bits() == 0:
		r.err(at, "to name every address write `*`", "%s is every address", quote(s))
	case p.Addr().IsUnspecified() || p.Addr().IsMulticast():
		r.err(at, "", "%s is no node's address", quote(s))
	default:
		return p, true
	}
	return netip.Prefix{}, false
}

// parsePrefix must not be handed a zone: PrefixFrom drops it silently.
func parsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return netip.ParsePrefix(s)
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

func ipv4Hint(p netip.Prefix) string {
	a := p.Addr().Unmap()
	if p.Bits() == 128 {
		return fmt.Sprintf("did you mean %s?", quote(a.String()))
	}
	if p.Bits() > 96 {
		return fmt.Sprintf("did you mean %s?", quote(netip.PrefixFrom(a, p.Bits()-96).Masked().String()))
	}
	return ""
}
