package acl

import (
	"fmt"
	"net/netip"
	"slices"
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
	kindPrefix    // an address, a CIDR or a host
	kindDomain    // user:*@DOMAIN
	kindRole      // autogroup:admin and its like
	kindShared    // autogroup:shared: nobody, for no node is shared
	kindInternet  // autogroup:internet: what lies beyond exit nodes
	kindDangerAll // autogroup:danger-all: everybody, and what lies beyond exit nodes
	kindService   // svc:NAME: nobody, for there are no services
)

// domainSelector is the beginning of a selector of every user of a domain.
const domainSelector = "user:*@"

// selector names nodes, and addresses behind routes.
type selector struct {
	kind   kind
	text   string       // as written; a login or domain in lower case
	prefix netip.Prefix // of kindPrefix
}

// key is the selector's one text. Role ids are made from it.
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

// autogroups, in the order in which they are suggested.
var autogroups = []struct {
	name string
	kind kind
	src  bool // it may stand in src
	dst  bool
}{
	{"autogroup:member", kindMember, true, true},
	{"autogroup:tagged", kindTagged, true, true},
	{"autogroup:self", kindSelf, false, true},
	{"autogroup:internet", kindInternet, false, true},
	{"autogroup:shared", kindShared, true, false},
	{"autogroup:danger-all", kindDangerAll, true, false},
	{"autogroup:owner", kindRole, true, true},
	{"autogroup:admin", kindRole, true, true},
	{"autogroup:network-admin", kindRole, true, true},
	{"autogroup:it-admin", kindRole, true, true},
	{"autogroup:billing-admin", kindRole, true, true},
	{"autogroup:auditor", kindRole, true, true},
	{"autogroup:nonroot", 0, false, false}, // in ssh only
}

// expand reads s, which an ipset makes several selectors of.
func (r *reader) expand(s string, at int, in place) ([]selector, bool) {
	if strings.HasPrefix(s, "ipset:") && in != inTest {
		return r.ipsetSelectors(s, at)
	}
	sel, ok := r.selector(s, at, in)
	if ok && in != inTest {
		r.suspect(sel, at)
	}
	return []selector{sel}, ok
}

// suspect warns of a selector that names nobody.
func (r *reader) suspect(s selector, at int) {
	if s.kind == kindGroup && len(r.pol.groups[s.text].users) == 0 {
		r.warn(at, "", "nobody is in %s", quote(s.text))
	}
}

// selector reads s, found at offset at.
func (r *reader) selector(s string, at int, in place) (selector, bool) {
	prefix, rest, marked := strings.Cut(s, ":")
	switch trimmed := strings.TrimSpace(s); {
	case trimmed != s && trimmed != "":
		r.err(at, fmt.Sprintf("did you mean %s?", quote(trimmed)), "%s has white space around it", quote(s))
		return selector{}, false
	case s == "*":
		return r.anySelector(at, in)
	case prefix == "autogroup":
		return r.autogroup(s, at, in)
	case prefix == "group" && marked:
		_, ok := r.knownGroup(s, at)
		return selector{kind: kindGroup, text: s}, ok
	case prefix == "tag" && marked:
		return selector{kind: kindTag, text: s}, r.knownTag(s, at)
	case prefix == "user" && marked && in == inTest:
		r.err(at, oneInTest, "%s cannot stand in a test", quote(s))
		return selector{}, false
	case prefix == "user" && marked:
		return r.domain(s, at)
	case prefix == "svc" && marked:
		return r.service(s, at, in)
	case prefix == "ipset" && marked && in == inTest:
		r.err(at, "name one address in it", "%s is a set of networks: a test goes from one address to one", quote(s))
		return selector{}, false
	case prefix == "host" && marked:
		return r.addressSelector(rest, at, in)
	case prefix == "posture" && marked:
		r.err(at, "name it in `srcPosture`", "%s is a posture: it says what a device is like, not whose it is", quote(s))
		return selector{}, false
	case strings.Contains(s, "@"):
		login, ok := r.login(s, at)
		return selector{kind: kindUser, text: login}, ok
	}
	return r.addressSelector(s, at, in)
}

const oneInTest = "name one user, group, tag, host or address"

func (r *reader) anySelector(at int, in place) (selector, bool) {
	if in == inTest {
		r.err(at, oneInTest, "`*` cannot stand in a test")
		return selector{}, false
	}
	return selector{kind: kindAny, text: "*"}, true
}

func (r *reader) autogroup(s string, at int, in place) (selector, bool) {
	if s == "autogroup:members" {
		r.warn(at, "write `autogroup:member`", "%s is the former name of `autogroup:member`", quote(s))
		s = "autogroup:member"
	}
	names := make([]string, len(autogroups))
	for i, a := range autogroups {
		names[i] = a.name
		if a.name != s {
			continue
		}
		switch {
		case in == inTest:
			r.err(at, oneInTest, "%s cannot stand in a test", quote(s))
		case in == inSrc && !a.src || in == inDst && !a.dst:
			r.misplacedAutogroup(s, at)
		default:
			return selector{kind: a.kind, text: s}, true
		}
		return selector{}, false
	}
	hint := "known are " + strings.Join(names, ", ")
	if near := r.nearest(s, names); near != "" {
		hint = fmt.Sprintf("did you mean %s?", quote(near))
	}
	r.err(at, hint, "unknown autogroup %s", quote(s))
	return selector{}, false
}

// misplacedAutogroup says where an autogroup stands that stands at the wrong end.
func (r *reader) misplacedAutogroup(s string, at int) {
	switch s {
	case "autogroup:self":
		r.err(at, "did you mean `autogroup:member`?", "%s can only stand in dst: it is relative to the source", quote(s))
	case "autogroup:internet":
		r.err(at, "", "%s can only stand in dst: nobody beyond an exit node opens a flow into the network", quote(s))
	case "autogroup:nonroot":
		r.err(at, "", "%s can only stand in the users of `ssh`", quote(s))
	case "autogroup:danger-all":
		r.err(at, "did you mean `*`?", "%s can only stand in src", quote(s))
	default:
		r.err(at, "", "%s can only stand in src", quote(s))
	}
}

// domain reads user:*@DOMAIN: every user of a domain.
func (r *reader) domain(s string, at int) (selector, bool) {
	domain, ok := strings.CutPrefix(s, domainSelector)
	if !ok || domain == "" || strings.ContainsAny(domain, "@ *") {
		hint := "every user of a domain is written `user:*@example.com`"
		if strings.Contains(s, "@") && !strings.Contains(s, "*") {
			hint = fmt.Sprintf("did you mean %s?", quote(strings.TrimPrefix(s, "user:")))
		}
		r.err(at, hint, "%s is no selector", quote(s))
		return selector{}, false
	}
	login, ok := r.login("x@"+domain, at)
	return selector{kind: kindDomain, text: domainSelector + strings.TrimPrefix(login, "x@")}, ok
}

// service reads svc:NAME. There are no services here, so it names nobody.
func (r *reader) service(s string, at int, in place) (selector, bool) {
	switch {
	case badService(strings.TrimPrefix(s, "svc:")):
		r.err(at, "services are written `svc:NAME`, with letters, digits and hyphens", "%s is no service", quote(s))
		return selector{}, false
	case in != inDst:
		r.err(at, "", "%s can only stand in the dst of a rule: it is a service", quote(s))
		return selector{}, false
	}
	r.warn(at, "", "%s names nobody: Picket has no services", quote(s))
	return selector{kind: kindService, text: s}, true
}

// addressSelector reads an address, a CIDR or a host, which is whatever remains.
func (r *reader) addressSelector(s string, at int, in place) (selector, bool) {
	sel := selector{kind: kindPrefix, text: s}
	var ok bool
	switch h, known := r.pol.hosts[s]; {
	case known:
		sel.prefix, ok = h.prefix, true
	case meantAsAddress(s):
		sel.prefix, ok = r.prefix(s, at)
	default:
		r.unknownHost(s, at)
	}
	if ok && in == inTest && (!sel.prefix.IsSingleIP() || strings.Contains(s, "/")) {
		r.err(at, "name one address", "%s is a network: a test goes from one address to one", quote(s))
		return selector{}, false
	}
	return sel, ok
}

// selectorPrefixes are what selectors begin with that are neither logins, addresses nor hosts.
var selectorPrefixes = []string{"autogroup", "group", "tag", "user", "svc", "ipset", "host"}

func (r *reader) unknownHost(s string, at int) {
	prefix, rest, marked := strings.Cut(s, ":")
	hint := "a selector is a user (`alice@example.com`), `group:…`, `tag:…`, `autogroup:…`, `ipset:…`, a name from `hosts`, an address, a CIDR, or `*`"
	switch {
	case r.pol.tags["tag:"+s] != nil:
		hint = fmt.Sprintf("did you mean %s?", quote("tag:"+s))
	case r.pol.groups["group:"+s] != nil:
		hint = fmt.Sprintf("did you mean %s?", quote("group:"+s))
	case slices.Contains(selectorPrefixes, strings.ToLower(prefix)):
		hint = fmt.Sprintf("names are case-sensitive, did you mean %s?", quote(strings.ToLower(prefix)+":"+rest))
	case strings.Contains(s, "-") && looksLikeAddress(strings.ReplaceAll(s, "-", "")):
		hint = "a range can only stand in `ipsets`"
	default:
		if near := r.nearest(prefix, selectorPrefixes); marked && near != "" {
			hint = fmt.Sprintf("did you mean %s?", quote(near+":"+rest))
		} else if near := r.nearest(s, r.hostNames); near != "" {
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

// meantAsAddress is looksLikeAddress without what has letters that no address has: that is another selector, misspelt.
func meantAsAddress(s string) bool {
	alien := func(c rune) bool { return isLetter(c) && !strings.ContainsRune("abcdefABCDEF", c) }
	return looksLikeAddress(s) && (strings.Contains(s, "%") || !strings.ContainsFunc(s, alien))
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
		r.err(at, "write `*` for every node and what lies behind them, or `autogroup:internet` in dst for what lies beyond exit nodes", "%s is every address", quote(s))
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
