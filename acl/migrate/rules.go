package migrate

import (
	"strconv"
	"strings"

	"github.com/tailscale/hujson"
)

// spellRules gives selectors, ports and protocols the one spelling that Picket reads.
func (im *importer) spellRules() {
	for section := range sectionFields {
		for _, e := range elements(member(im.root, section)) {
			for _, list := range []string{"src", "dst", "target", "accept", "deny"} {
				for _, v := range elements(member(e, list)) {
					im.spellSelector(v)
				}
			}
			if src := member(e, "src"); src != nil && src.Value.Kind() == '"' {
				im.spellSelector(src)
			}
			im.spellProto(e)
			if section == "acls" || section == "tests" {
				for _, list := range []string{"dst", "accept", "deny"} {
					for _, v := range elements(member(e, list)) {
						im.spellPorts(v)
					}
				}
			}
			im.spellCapabilities(member(e, "ip"))
		}
	}
}

// spellSelector takes blanks off, which the others' parsers do not mind.
func (im *importer) spellSelector(v *hujson.Value) {
	s := str(v)
	now := strings.TrimSpace(s)
	if rest, ok := strings.CutPrefix(now, "autogroup:members"); ok && (rest == "" || rest[0] == ':') {
		now = "autogroup:member" + rest
	}
	if now != s {
		setStr(v, now)
		im.note(Rewrite, v, "`%s` is written `%s`", s, now)
	}
}

// spellProto writes an acl's or test's protocol in lower case. An empty one is none.
func (im *importer) spellProto(e *hujson.Value) {
	for i, m := range object(e) {
		if str(&m.Name) != "proto" {
			continue
		}
		v := &object(e)[i].Value
		s := str(v)
		if s == "" && v.Value.Kind() == '"' {
			im.note(Rewrite, v, "an empty `proto` is taken out")
			removeMember(e, i, "")
			return
		}
		if now := protocol(s); now != s {
			setStr(v, now)
			im.note(Rewrite, v, "protocol `%s` is written `%s`", s, now)
		}
		return
	}
}

// protocol is a protocol's name as Picket writes it.
func protocol(s string) string {
	s = strings.ToLower(s)
	if s == "fc" {
		return "133"
	}
	return s
}

// spellPorts writes the ports behind a selector without leading zeros.
func (im *importer) spellPorts(v *hujson.Value) {
	s := str(v)
	at := strings.LastIndexByte(s, ':')
	if now := s[:at+1] + digits(s[at+1:]); at >= 0 && now != s {
		setStr(v, now)
		im.note(Rewrite, v, "`%s` is written `%s`", s, now)
	}
}

// digits writes "080-090,22" as "80-90,22"; what is no list of ports stays as it is.
func digits(ports string) string {
	parts := strings.Split(ports, ",")
	for i, part := range parts {
		ends := strings.Split(part, "-")
		for k, e := range ends {
			n, err := strconv.ParseUint(e, 10, 16)
			if err != nil || n == 0 {
				return ports
			}
			ends[k] = strconv.FormatUint(n, 10)
		}
		parts[i] = strings.Join(ends, "-")
	}
	return strings.Join(parts, ",")
}

// spellCapabilities parts comma lists in a grant's ip, which hold one port or range an element.
func (im *importer) spellCapabilities(list *hujson.Value) {
	for i := len(elements(list)) - 1; i >= 0; i-- {
		v := elements(list)[i]
		s := str(v)
		proto, ports, hasProto := strings.Cut(strings.TrimSpace(s), ":")
		if !hasProto {
			proto, ports = "", proto
		} else {
			proto = protocol(proto) + ":"
		}
		var now []string
		for _, part := range strings.Split(digits(ports), ",") {
			now = append(now, proto+strings.TrimSpace(part))
		}
		if len(now) == 1 && now[0] == s || s == "" {
			continue
		}
		im.note(Rewrite, v, "`%s` is written `%s`", s, strings.Join(now, "`, `"))
		replace(list, i, now)
	}
}
