package acl

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/tailscale/hujson"
)

// compare orders references as they stand in the file.
func (r Ref) compare(o Ref) int {
	return cmp.Or(cmp.Compare(r.Line, o.Line), cmp.Compare(r.Column, o.Column))
}

// acl reads one entry of acls.
func (r *reader) acl(v *hujson.Value, what string) (src []selector, targets []target, ok bool) {
	before := r.found()
	var protos []Proto
	seen := map[string]bool{}
	isObject := r.object(v, what, []field{
		{"action", func(v *hujson.Value) { seen["action"] = true; r.action(v, what) }},
		{"proto", func(v *hujson.Value) { protos = r.proto(v, what) }},
		{"src", func(v *hujson.Value) { seen["src"] = true; src = r.sources(v, what) }},
		{"dst", func(v *hujson.Value) { seen["dst"] = true; targets = r.destinations(v, what, protos) }},
		{"users", func(v *hujson.Value) { r.former(v, "users", "src") }},
		{"ports", func(v *hujson.Value) { r.former(v, "ports", "dst") }},
	}, laterInACL)
	if isObject {
		r.require(v, what, seen, "action", "src", "dst")
	}
	r.checkSelf(v, what, src, targets)
	return src, targets, r.found() == before
}

// grant reads one entry of grants.
func (r *reader) grant(v *hujson.Value, what string) (src []selector, targets []target, ok bool) {
	before := r.found()
	var t target
	seen := map[string]bool{}
	isObject := r.object(v, what, []field{
		{"src", func(v *hujson.Value) { seen["src"] = true; src = r.sources(v, what) }},
		{"dst", func(v *hujson.Value) { seen["dst"] = true; t.dst = r.selectors(v, what+".dst", inDst) }},
		{"ip", func(v *hujson.Value) { seen["ip"] = true; t.ports = r.capabilities(v, what) }},
	}, laterInGrant)
	if isObject {
		r.require(v, what, seen, "src", "dst", "ip")
	}
	targets = []target{t}
	r.checkSelf(v, what, src, targets)
	return src, targets, r.found() == before
}

// found counts the errors so far.
func (f *findings) found() int { return len(f.errors) + f.more }

// require refuses an entry that lacks a field.
func (r *reader) require(v *hujson.Value, what string, seen map[string]bool, names ...string) {
	for _, name := range names {
		if !seen[name] {
			r.err(v.StartOffset, "", "%s has no %s", what, quote(name))
		}
	}
}

func (r *reader) former(v *hujson.Value, old, name string) {
	r.err(v.StartOffset, fmt.Sprintf("write %s", quote(name)), "%s is the former name of %s", quote(old), quote(name))
}

func (r *reader) action(v *hujson.Value, what string) {
	if s, ok := r.text(v, what+".action"); ok && s != "accept" {
		r.err(v.StartOffset, "what no rule accepts is refused; the only action is `accept`", "%s has the action %s", what, quote(s))
	}
}

// proto reads an acl's or test's proto: nil, and an error, when it is none.
func (r *reader) proto(v *hujson.Value, what string) []Proto {
	s, ok := r.text(v, what+".proto")
	if !ok {
		return nil
	}
	return r.protoName(s, v.StartOffset)
}

func (r *reader) protoName(s string, at int) []Proto {
	protos, ok := named(s)
	if ok {
		return protos
	}
	hint := "protocols are names such as tcp, udp and icmp, or numbers from 1 to 255"
	names := make([]string, len(protoNames))
	for i, p := range protoNames {
		names[i] = p.name
	}
	if near := r.nearest(s, names); near != "" {
		hint = fmt.Sprintf("did you mean %s?", quote(near))
	}
	r.err(at, hint, "unknown protocol %s", quote(s))
	return nil
}

func (r *reader) sources(v *hujson.Value, what string) []selector {
	return r.selectors(v, what+".src", inSrc)
}

// selectors reads a list of selectors, each once.
func (r *reader) selectors(v *hujson.Value, what string, in place) (out []selector) {
	r.list(v, what, func(v *hujson.Value) {
		s, ok := r.text(v, "a selector of "+what)
		if !ok {
			return
		}
		if host, ok := portsTacked(s); ok && in == inDst {
			r.err(v.StartOffset, fmt.Sprintf("write %s here", quote(host)), "%s has ports: those of a grant stand in `ip`", quote(s))
		} else if sel, ok := r.selector(s, v.StartOffset, in); ok {
			out = append(out, sel)
			r.suspect(sel, v.StartOffset)
		}
	})
	return distinct(out)
}

// portsTacked reports whether s is a selector with ports, as acls write it, and returns the selector.
func portsTacked(s string) (host string, ok bool) {
	if _, err := parsePrefix(s); err == nil {
		return "", false
	}
	host, ports, ok := cutPorts(s)
	_, problem, _ := parseSpans(ports)
	return host, ok && host != "" && problem == ""
}

// distinct drops selectors that were named before.
func distinct(sels []selector) []selector {
	seen := make(map[string]bool, len(sels))
	return slices.DeleteFunc(sels, func(s selector) bool {
		twice := seen[s.key()]
		seen[s.key()] = true
		return twice
	})
}

// suspect warns of a selector that names nobody.
func (r *reader) suspect(s selector, at int) {
	if s.kind == kindGroup && len(r.pol.groups[s.text].flat) == 0 {
		r.warn(at, "", "nobody is in %s", quote(s.text))
	}
}

// destinations reads an acl's dst, "SELECTOR:PORTS" each, and joins those with equal ports.
func (r *reader) destinations(v *hujson.Value, what string, protos []Proto) (targets []target) {
	byPorts := map[string]int{}
	r.list(v, what+".dst", func(v *hujson.Value) {
		s, ok := r.text(v, "an element of "+what+".dst")
		if !ok {
			return
		}
		sel, spans, ok := r.selectorPorts(s, v.StartOffset, inDst, protos)
		if !ok {
			return
		}
		r.suspect(sel, v.StartOffset)
		ports := portsFor(protos, spans)
		key := fmt.Sprint(ports)
		i, known := byPorts[key]
		if !known {
			i = len(targets)
			byPorts[key] = i
			targets = append(targets, target{ports: ports})
		}
		targets[i].dst = append(targets[i].dst, sel)
	})
	for i := range targets {
		targets[i].dst = distinct(targets[i].dst)
	}
	return targets
}

// selectorPorts reads "SELECTOR:PORTS".
func (r *reader) selectorPorts(s string, at int, in place, protos []Proto) (selector, []span, bool) {
	host, ports, ok := cutPorts(s)
	if !ok {
		hint := fmt.Sprintf("write %s, or %s for every port", quote(s+":22"), quote(s+":*"))
		if strings.HasPrefix(s, "[") && !strings.HasSuffix(s, "]") {
			hint = "write `[ADDRESS]:22`"
		}
		r.err(at, hint, "%s has no ports", quote(s))
		return selector{}, nil, false
	}
	sel, ok := r.selector(host, at, in)
	if !ok {
		return selector{}, nil, false
	}
	spans, problem, hint := parseSpans(ports)
	if problem == "" && portless(protos) && !slices.Equal(spans, everyPort) && !(in == inTest && ports == "0") {
		problem, hint = "a protocol without ports takes `*`", fmt.Sprintf("write %s", quote(host+":*"))
	}
	if problem != "" {
		r.err(at, hint, "%s: %s", quote(s), problem)
		return selector{}, nil, false
	}
	if _, err := parsePrefix(s); err == nil && in == inDst {
		r.warn(at, fmt.Sprintf("write %s", quote("["+host+"]:"+ports)), "%s is read as %s, port %s", quote(s), quote(host), ports)
	}
	return sel, spans, true
}

var everyPort = []span{{0, lastPort}}

// cutPorts splits at the last colon, as Tailscale does; IPv6 addresses may stand in brackets. It is false where there are no ports.
func cutPorts(s string) (host, ports string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", "", false
	}
	host, ports = s[:i], s[i+1:]
	if inner, bracketed := strings.CutPrefix(host, "["); bracketed {
		inner, closed := strings.CutSuffix(inner, "]")
		return inner, ports, closed
	}
	return host, ports, host != "tag" && host != "group" && host != "autogroup"
}

// capabilities reads a grant's ip.
func (r *reader) capabilities(v *hujson.Value, what string) (ports []Ports) {
	r.list(v, what+".ip", func(v *hujson.Value) {
		if s, ok := r.text(v, "an element of "+what+".ip"); ok {
			ports = append(ports, r.capability(s, v.StartOffset)...)
		}
	})
	return normalize(ports)
}

// capability reads "PORTS" or "PROTO:PORTS".
func (r *reader) capability(s string, at int) []Ports {
	name, rest, hasProto := strings.Cut(s, ":")
	var protos []Proto
	if !hasProto {
		if _, isProto := named(name); isProto && !strings.ContainsAny(name, "0123456789") {
			r.err(at, fmt.Sprintf("write %s", quote(name+":*")), "%s has no ports", quote(s))
			return nil
		}
		rest = name
	} else if protos = r.protoName(name, at); protos == nil {
		return nil
	}
	spans, problem, hint := parseSpans(rest)
	if problem == "" && portless(protos) && !slices.Equal(spans, everyPort) {
		problem, hint = "a protocol without ports takes `*`", fmt.Sprintf("write %s", quote(name+":*"))
	}
	if problem != "" {
		r.err(at, hint, "%s: %s", quote(s), problem)
		return nil
	}
	return portsFor(protos, spans)
}

// checkSelf holds a rule to autogroup:self to sources that have an owner, as Tailscale does: for the others it could only be a mistake.
func (r *reader) checkSelf(v *hujson.Value, what string, src []selector, targets []target) {
	toSelf := slices.ContainsFunc(targets, func(t target) bool {
		return slices.ContainsFunc(t.dst, func(s selector) bool { return s.kind == kindSelf })
	})
	if !toSelf {
		return
	}
	for _, s := range src {
		if s.kind != kindUser && s.kind != kindGroup && s.kind != kindMember {
			r.err(v.StartOffset, "use users, groups or `autogroup:member`, and another rule for the rest",
				"%s goes to `autogroup:self`, but its source %s has no owner", what, quote(s.text))
		}
	}
}
