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
func (r *reader) acl(v *hujson.Value, what string) (statement, bool) {
	before := r.found()
	var s statement
	var protos []Proto
	seen := map[string]bool{}
	isObject := r.object(v, what, []field{
		{"action", func(v *hujson.Value) { seen["action"] = true; r.action(v, what) }},
		{"proto", func(v *hujson.Value) { protos = r.proto(v, what) }},
		{"src", func(v *hujson.Value) { seen["src"] = true; s.src = r.sources(v, what) }},
		{"users", func(v *hujson.Value) { r.former(v, what, "users", "src", seen, func() { s.src = r.sources(v, what) }) }},
		{"dst", func(v *hujson.Value) { seen["dst"] = true; s.targets = r.destinations(v, what, protos) }},
		{"ports", func(v *hujson.Value) {
			r.former(v, what, "ports", "dst", seen, func() { s.targets = r.destinations(v, what, protos) })
		}},
		{"srcPosture", func(v *hujson.Value) { seen["srcPosture"] = true; s.postures = r.srcPosture(v, what) }},
	})
	if isObject {
		r.require(v, what, seen, "action", "src", "dst")
	}
	r.defaultPosture(&s, seen)
	r.checkSelf(v, what, &s, kindAny)
	return s, r.found() == before
}

// grant reads one entry of grants.
func (r *reader) grant(v *hujson.Value, what string) (statement, bool) {
	before := r.found()
	var s statement
	var t target
	var c conditions
	seen := map[string]bool{}
	fields := []field{
		{"src", func(v *hujson.Value) { seen["src"] = true; s.src = r.sources(v, what) }},
		{"dst", func(v *hujson.Value) { seen["dst"] = true; t.dst = r.selectors(v, what+".dst", inDst) }},
		{"ip", func(v *hujson.Value) { seen["ip"] = true; t.ports = r.capabilities(v, what) }},
		{"app", func(v *hujson.Value) { seen["app"] = true; s.app = r.app(v, what) }},
		{"via", func(v *hujson.Value) { s.via = r.via(v, what) }},
		{"srcPosture", func(v *hujson.Value) { seen["srcPosture"] = true; s.postures = r.srcPosture(v, what) }},
	}
	isObject := r.object(v, what, append(fields, r.conditionFields(&c, what)...))
	if isObject {
		r.require(v, what, seen, "src", "dst")
		if !seen["ip"] && !seen["app"] || seen["ip"] && len(t.ports) == 0 && len(s.app) == 0 && r.found() == before {
			r.err(v.StartOffset, "give it `ip`, such as [\"tcp:443\"], or `app`", "%s grants nothing", what)
		}
	}
	s.targets = []target{t}
	s.restrictions, s.until, s.log = c.restrictions(), c.untilMillis(), string(c.log)
	r.defaultPosture(&s, seen)
	r.checkSelf(v, what, &s, 0)
	r.checkApp(v, what, &s)
	for _, c := range s.restrictions {
		r.warn(v.StartOffset, "", "%s allows nothing yet: Picket does not supply what %s asks about", what, quote(c.Kind))
	}
	r.checkVia(v, what, &s)
	return s, r.found() == before
}

// deny reads one entry of denies: the shape of a grant, with a reason and perhaps an end. It has no conditions: a fact that is not known
// must not open what it closes.
func (r *reader) deny(v *hujson.Value, what string) (statement, bool) {
	before := r.found()
	s := statement{deny: true}
	var t target
	var c conditions
	seen := map[string]bool{}
	isObject := r.object(v, what, []field{
		{"src", func(v *hujson.Value) { seen["src"] = true; s.src = r.sources(v, what) }},
		{"dst", func(v *hujson.Value) { seen["dst"] = true; t.dst = r.selectors(v, what+".dst", inDst) }},
		{"ip", func(v *hujson.Value) { seen["ip"] = true; t.ports = everyProtocol(v, r.capabilities(v, what)) }},
		{"reason", func(v *hujson.Value) { seen["reason"] = true; s.reason = r.reason(v, what) }},
		{"until", func(v *hujson.Value) { c.until = r.instant(v, what+".until") }},
	})
	if isObject {
		r.require(v, what, seen, "src", "dst", "ip", "reason")
	}
	for _, list := range []struct {
		name  string
		empty bool
	}{{"src", len(s.src) == 0}, {"dst", len(t.dst) == 0}, {"ip", len(t.ports) == 0}} {
		if seen[list.name] && list.empty && r.found() == before {
			r.err(v.StartOffset, "an empty list matches nothing, so it would refuse nothing; name something or remove it", "%s.%s is empty", what, list.name)
		}
	}
	s.targets, s.until = []target{t}, c.untilMillis()
	r.checkSelf(v, what, &s, kindAny)
	return s, r.found() == before
}

// everyProtocol is ports, and where the list has "*" every other protocol as well: in a grant that allows TCP, UDP and ICMP, but who denies
// everything means everything.
func everyProtocol(v *hujson.Value, ports []Ports) []Ports {
	list, _ := v.Value.(*hujson.Array)
	if list == nil || !slices.ContainsFunc(list.Elements, func(e hujson.Value) bool { return string(e.Pack()) == `"*"` }) {
		return ports
	}
	for p := range 256 {
		ports = append(ports, whole(Proto(p)))
	}
	return normalize(ports)
}

// maxReason bounds a deny's reason, in bytes.
const maxReason = 200

func (r *reader) reason(v *hujson.Value, what string) string {
	s, ok := r.text(v, what+".reason")
	if ok && (strings.TrimSpace(s) == "" || len(s) > maxReason) {
		r.err(v.StartOffset, "people read it when they are refused", "%s.reason must have 1 to %d bytes", what, maxReason)
	}
	return s
}

// defaultPosture gives a rule without srcPosture the policy's own.
func (r *reader) defaultPosture(s *statement, seen map[string]bool) {
	if !seen["srcPosture"] {
		s.postures = r.pol.defaultPosture
	}
}

// via reads a grant's via: tags of routers, each once. An empty list could be read as no way, or as any (R1).
func (r *reader) via(v *hujson.Value, what string) (tags []string) {
	seen := map[string]bool{}
	r.nonempty(v, what+".via", "name the routers by their tag, or leave `via` out and any router will do", func(v *hujson.Value) {
		s, ok := r.text(v, "an element of "+what+".via")
		switch at := v.StartOffset; {
		case !ok:
		case !strings.HasPrefix(s, "tag:"):
			r.err(at, "name the routers by their tag", "%s cannot stand in via: only tags can", quote(s))
		case r.knownTag(s, at) && !seen[s]:
			seen[s] = true
			tags = append(tags, s)
		}
	})
	return tags
}

// checkVia warns of destinations that lie behind no router.
func (r *reader) checkVia(v *hujson.Value, what string, s *statement) {
	for _, t := range s.targets {
		for _, d := range t.dst {
			if len(s.via) > 0 && d.kind != kindPrefix && d.kind != kindInternet {
				r.warn(v.StartOffset, "a router is a way to networks and to `autogroup:internet`", "%s has `via`, but no router is a way to %s", what, quote(d.text))
			}
		}
	}
}

// checkApp refuses application capabilities where there is no node to be told of them.
func (r *reader) checkApp(v *hujson.Value, what string, s *statement) {
	for _, t := range s.targets {
		for _, d := range t.dst {
			if len(s.app) > 0 && (d.kind == kindInternet || d.kind == kindRole) {
				r.err(v.StartOffset, "give `app` a grant of its own, to other dst", "%s has `app`, which cannot go to %s", what, quote(d.text))
			}
		}
	}
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

// former reads a field under its former name, unless it has its present one beside it.
func (r *reader) former(v *hujson.Value, what, old, name string, seen map[string]bool, read func()) {
	if seen[name] {
		r.err(v.StartOffset, "remove one of the two", "%s has both %s and its former name %s", what, quote(name), quote(old))
		return
	}
	seen[name] = true
	r.warn(v.StartOffset, fmt.Sprintf("write %s", quote(name)), "%s is the former name of %s", quote(old), quote(name))
	read()
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
		} else if sels, ok := r.expand(s, v.StartOffset, in); ok {
			out = append(out, sels...)
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

// destinations reads an acl's dst, "SELECTOR:PORTS" each, and joins those with equal ports.
func (r *reader) destinations(v *hujson.Value, what string, protos []Proto) (targets []target) {
	byPorts := map[string]int{}
	r.list(v, what+".dst", func(v *hujson.Value) {
		s, ok := r.text(v, "an element of "+what+".dst")
		if !ok {
			return
		}
		sels, spans, ok := r.selectorPorts(s, v.StartOffset, inDst, protos)
		if !ok {
			return
		}
		ports := portsFor(protos, spans)
		key := fmt.Sprint(ports)
		i, known := byPorts[key]
		if !known {
			i = len(targets)
			byPorts[key] = i
			targets = append(targets, target{ports: ports})
		}
		targets[i].dst = append(targets[i].dst, sels...)
	})
	for i := range targets {
		targets[i].dst = distinct(targets[i].dst)
	}
	return targets
}

// selectorPorts reads "SELECTOR:PORTS".
func (r *reader) selectorPorts(s string, at int, in place, protos []Proto) ([]selector, []span, bool) {
	host, ports, ok := cutPorts(s)
	if !ok {
		hint := fmt.Sprintf("write %s, or %s for every port", quote(s+":22"), quote(s+":*"))
		if in == inTest {
			hint = fmt.Sprintf("write %s", quote(s+map[bool]string{false: ":22", true: ":0"}[portless(protos)]))
		}
		if strings.HasPrefix(s, "[") && !strings.HasSuffix(s, "]") {
			hint = "write `[ADDRESS]:22`"
		}
		r.err(at, hint, "%s has no ports", quote(s))
		return nil, nil, false
	}
	sels, ok := r.expand(host, at, in)
	if !ok {
		return nil, nil, false
	}
	spans, problem, hint := parseSpans(ports)
	switch {
	case in == inTest && portless(protos) && ports == "0":
		spans, problem = []span{{}}, ""
	case in == inTest && ports == "0":
		problem, hint = "port 0 is none that a flow goes to", "name the port that you ask about"
	case problem != "":
	case in == inTest && portless(protos):
		problem, hint = "a test of a protocol without ports asks about port 0", fmt.Sprintf("write %s", quote(host+":0"))
	case portless(protos) && !slices.Equal(spans, everyPort):
		problem, hint = "a protocol without ports takes `*`", fmt.Sprintf("write %s", quote(host+":*"))
	}
	if problem != "" {
		r.err(at, hint, "%s: %s", quote(s), problem)
		return nil, nil, false
	}
	if _, err := parsePrefix(s); err == nil && in == inDst {
		r.warn(at, fmt.Sprintf("write %s", quote("["+host+"]:"+ports)), "%s is read as %s, port %s", quote(s), quote(host), ports)
	}
	return sels, spans, true
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
	return host, ports, !slices.Contains(selectorPrefixes, host)
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
		_, isProto := named(name)
		if _, isNumber := decimal(name, lastPort); isProto && !isNumber {
			r.err(at, fmt.Sprintf("write %s", quote(name+":*")), "%s has no ports", quote(s))
			return nil
		}
		rest = name
	} else if protos = r.protoName(name, at); protos == nil {
		return nil
	}
	spans, problem, hint := parseSpans(rest)
	if problem == "" && len(spans) > 1 {
		problem, hint = "an element of `ip` has one port or one range", "write an element for each"
	}
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
// also is one more kind that may stand there.
func (r *reader) checkSelf(v *hujson.Value, what string, s *statement, also kind) {
	toSelf := slices.ContainsFunc(s.targets, func(t target) bool {
		return slices.ContainsFunc(t.dst, func(s selector) bool { return s.kind == kindSelf })
	})
	if !toSelf {
		return
	}
	for _, from := range s.src {
		if from.kind != also && !slices.Contains([]kind{kindUser, kindGroup, kindMember, kindDomain, kindRole}, from.kind) {
			r.err(v.StartOffset, "use users, groups or `autogroup:member`, and another rule for the rest",
				"%s goes to `autogroup:self`, but its source %s has no owner", what, quote(from.text))
		}
	}
}
