package acl

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/tailscale/hujson"
)

// maxName bounds every name in a policy, in bytes; RFC 5321 allows 254 for an address.
const maxName = 254

// host is one member of hosts.
type host struct {
	at     int
	prefix netip.Prefix
}

// hosts reads the section: names of addresses and networks.
func (r *reader) hosts(v *hujson.Value) {
	members, _ := r.members(v, quote("hosts"))
	r.pol.hosts = make(map[string]host, len(members))
	for _, m := range members {
		if !r.name(m, "", "a host") {
			continue
		}
		s, ok := r.text(m.value, quote(m.name))
		if !ok {
			continue
		}
		if p, ok := r.prefix(s, m.value.StartOffset); ok {
			r.pol.hosts[m.name] = host{m.at, p}
			r.hostNames = append(r.hostNames, m.name)
		}
	}
	r.refuseCaseVariants(members)
}

// name checks the name of a group, tag or host: prefix, then letters, digits and a few marks. what is "a group".
func (r *reader) name(m member, prefix, what string) bool {
	rest, ok := strings.CutPrefix(m.name, prefix)
	if !ok {
		r.err(m.at, fmt.Sprintf("did you mean %s?", quote(prefix+lastPart(m.name))), "%s is not the name of %s", quote(m.name), what)
		return false
	}
	if problem := badName(rest, prefix); problem != "" {
		r.err(m.at, "", "%s is not the name of %s: %s", quote(m.name), what, problem)
		return false
	}
	return true
}

func lastPart(s string) string { return s[strings.LastIndexByte(s, ':')+1:] }

// badName says what is wrong with a name after its prefix, "" when nothing is.
func badName(s, prefix string) string {
	marks := map[string]string{"group:": "-_.@+", "tag:": "-", "ipset:": "-_.", "": "-_."}[prefix]
	for _, c := range s {
		if !isAlnum(c) && !strings.ContainsRune(marks, c) {
			return fmt.Sprintf("%s may not stand in it", quote(string(c)))
		}
	}
	switch {
	case s == "":
		return "it is empty"
	case len(s) > maxName:
		return fmt.Sprintf("it is longer than %d bytes", maxName)
	case prefix == "tag:" && !isLetter(rune(s[0])):
		return "tags begin with a letter"
	case prefix == "" && looksLikeAddress(s):
		return "it would be read as an address"
	}
	return ""
}

func isLetter(c rune) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
func isAlnum(c rune) bool  { return isLetter(c) || c >= '0' && c <= '9' }

// refuseCaseVariants refuses names that a reviewer could take for one another.
func (r *reader) refuseCaseVariants(members []member) {
	seen := make(map[string]member, len(members))
	for _, m := range members {
		folded := strings.ToLower(m.name)
		if first, ok := seen[folded]; ok {
			r.err(m.at, "names are case-sensitive; two like these are refused because they are mistaken for one another",
				"%s differs only in case from %s, line %d", quote(m.name), quote(first.name), r.src.at(first.at).line)
			continue
		}
		seen[folded] = m
	}
}

// foldLogin is a login in the form in which logins are compared. Only ASCII is folded: Unicode's folding makes strangers equal (the
// Kelvin sign and k).
func foldLogin(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// login reads a user's login.
func (r *reader) login(s string, at int) (string, bool) {
	local, domain, _ := strings.Cut(s, "@")
	plain := func(c rune) bool { return c > ' ' && c < 0x7f && !strings.ContainsRune(`":*/\,@[]()<>;`, c) }
	bad := func(s string) bool { return strings.ContainsFunc(s, func(c rune) bool { return !plain(c) }) }
	if local == "" || domain == "" || len(s) > maxName || bad(local) || bad(domain) {
		r.err(at, "logins are written `alice@example.com`, in plain ASCII", "%s is not a login", quote(s))
		return "", false
	}
	return foldLogin(s), true
}

// knownGroup returns the group named s, "group:…".
func (r *reader) knownGroup(s string, at int) (*group, bool) {
	g, ok := r.pol.groups[s]
	if !ok {
		hint := "define it in `groups`"
		if near := r.nearest(s, r.groupNames); near != "" {
			hint = fmt.Sprintf("did you mean %s, line %d?", quote(near), r.src.at(r.pol.groups[near].at).line)
		}
		r.err(at, hint, "unknown group %s", quote(s))
	}
	return g, ok
}

// knownTag reports whether s, "tag:…", is defined, and says so when not.
func (r *reader) knownTag(s string, at int) bool {
	_, ok := r.pol.tags[s]
	if !ok {
		hint := "define it in `tagOwners`"
		if near := r.nearest(s, r.tagNames); near != "" {
			hint = fmt.Sprintf("did you mean %s, line %d?", quote(near), r.src.at(r.pol.tags[near].at).line)
		}
		r.err(at, hint, "unknown tag %s", quote(s))
	}
	return ok
}
