package acl

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tailscale/hujson"
)

// sshRule is one entry of ssh: who may log in, where, as which users of the host. Picket runs no SSH server, so the rules are only checked,
// and asked by sshTests.
type sshRule struct {
	ref        Ref
	check      bool // logins are confirmed by the person, at most period ago
	period     time.Duration
	src, dst   []selector
	users      []sshUser
	env        []string // patterns with * and ? of environment variables that clients may set
	recorders  []selector
	mustRecord bool // no login without a recorder
	postures   []string
}

// Check periods: 0 is at every login. Tailscale's documentation gives these, and at least a minute, which its service does not hold to
// (recorded 2026-05-12: it takes 0s and 30s).
const (
	defaultCheckPeriod  = 12 * time.Hour
	shortestCheckPeriod = time.Minute
	longestCheckPeriod  = 168 * time.Hour
)

// placed is a selector with where it stands.
type placed struct {
	selector
	at int
}

// ssh reads the section.
func (r *reader) ssh(v *hujson.Value) {
	elems, _ := r.array(v, quote("ssh"))
	for i := range elems {
		r.sshRule(&elems[i], i)
	}
	if len(elems) > 0 {
		r.warn(v.StartOffset, "", "`ssh` lets nobody in: Picket runs no SSH server yet, and only checks and tests these rules")
	}
}

func (r *reader) sshRule(v *hujson.Value, i int) {
	what := fmt.Sprintf("ssh[%d]", i)
	pos := r.src.at(v.StartOffset)
	rule := sshRule{ref: Ref{"ssh", i, pos.line, pos.column}, period: defaultCheckPeriod}
	var src, dst []placed
	var period *hujson.Value
	seen := map[string]bool{}
	isObject := r.object(v, what, []field{
		{"action", func(v *hujson.Value) { seen["action"] = true; rule.check = r.sshAction(v, what) }},
		{"src", func(v *hujson.Value) { seen["src"] = true; src = r.sshSources(v, what) }},
		{"dst", func(v *hujson.Value) { seen["dst"] = true; dst = r.sshDestinations(v, what) }},
		{"users", func(v *hujson.Value) { seen["users"] = true; rule.users = r.sshUsers(v, what) }},
		{"checkPeriod", func(v *hujson.Value) { period = v; rule.period = r.checkPeriod(v, what) }},
		{"acceptEnv", func(v *hujson.Value) { rule.env = r.acceptEnv(v, what) }},
		{"recorder", func(v *hujson.Value) { rule.recorders = r.recorders(v, what) }},
		{"enforceRecorder", func(v *hujson.Value) { rule.mustRecord, _ = r.trueOrFalse(v, what+".enforceRecorder") }},
		{"srcPosture", func(v *hujson.Value) { rule.postures = r.srcPosture(v, what) }},
	})
	if isObject {
		r.require(v, what, seen, "action", "src", "dst", "users")
	}
	if period != nil && seen["action"] && !rule.check {
		r.err(period.StartOffset, "", "%s has a checkPeriod, but only the action `check` has one", what)
	}
	if rule.mustRecord && len(rule.recorders) == 0 {
		r.warn(v.StartOffset, "name one in `recorder`", "%s enforces recording, but has no recorder", what)
	}
	r.checkSSH(what, rule.check, src, dst)
	rule.src, rule.dst = bare(src), bare(dst)
	r.pol.ssh = append(r.pol.ssh, rule)
}

func bare(in []placed) []selector {
	out := make([]selector, len(in))
	for i, p := range in {
		out[i] = p.selector
	}
	return out
}

func (r *reader) sshAction(v *hujson.Value, what string) (check bool) {
	s, ok := r.text(v, what+".action")
	if ok && s != "accept" && s != "check" {
		r.err(v.StartOffset, "what no rule accepts is refused; the actions are `accept` and `check`", "%s has the action %s", what, quote(s))
	}
	return s == "check"
}

// Who may stand in SSH rules. Only those who have an owner or tags can log in, so `*` and addresses may not.
var (
	loggingIn = purpose{
		"cannot be the source of an SSH login", "users, groups, tags, `autogroup:member`, `autogroup:tagged` and roles such as `autogroup:admin` can",
		append([]kind{kindTagged, kindShared}, people...),
	}
	loggedInTo = purpose{
		"cannot be the destination of an SSH login", "tags, `autogroup:tagged`, `autogroup:self`, `autogroup:member` and, where it is the only source, a user can",
		[]kind{kindTagged, kindSelf, kindMember},
	}
)

func (r *reader) sshSources(v *hujson.Value, what string) []placed {
	return r.sshSelectors(v, what+".src", func(s string, at int) (selector, bool) { return r.identitySelector(s, at, inSrc, loggingIn) })
}

func (r *reader) sshDestinations(v *hujson.Value, what string) []placed {
	return r.sshSelectors(v, what+".dst", func(s string, at int) (selector, bool) {
		host, hasPorts := portsTacked(s)
		switch {
		case hasPorts:
			r.err(at, fmt.Sprintf("write %s", quote(host)), "%s has ports: SSH logins have none", quote(s))
		case strings.HasPrefix(s, "group:") || strings.HasPrefix(s, "user:"):
			r.err(at, "for their own machines write `autogroup:self`", "%s %s: nobody logs in on machines of many people", quote(s), loggedInTo.cannot)
		default:
			return r.identitySelector(s, at, inDst, loggedInTo)
		}
		return selector{}, false
	})
}

// sshSelectors reads a list of selectors, each once.
func (r *reader) sshSelectors(v *hujson.Value, what string, read func(s string, at int) (selector, bool)) (out []placed) {
	seen := map[string]bool{}
	r.list(v, what, func(v *hujson.Value) {
		s, ok := r.text(v, "a selector of "+what)
		if !ok {
			return
		}
		if sel, ok := read(s, v.StartOffset); ok && !seen[sel.key()] {
			seen[sel.key()] = true
			out = append(out, placed{sel, v.StartOffset})
		}
	})
	return out
}

// sshUsers reads users. Tailscale takes every text but "" and "*" for the name of a user; what is probably meant otherwise is doubted.
func (r *reader) sshUsers(v *hujson.Value, what string) (out []sshUser) {
	what += ".users"
	elems, ok := r.array(v, what)
	if ok && len(elems) == 0 {
		r.err(v.StartOffset, "name users of the host, such as `root` or `autogroup:nonroot`", "%s is empty", what)
	}
	for i := range elems {
		at := elems[i].StartOffset
		s, ok := r.text(&elems[i], "an element of "+what)
		if !ok || !r.userName(s, at) {
			continue
		}
		user := newSSHUser(s)
		if user.name != "" && strings.ContainsAny(s, ":@*") {
			r.warn(at, "known are `autogroup:nonroot` and `localpart:*@example.com`", "%s is read as the name of a user of the host", quote(s))
		}
		out = append(out, user)
	}
	return out
}

// userName reports whether s can be the name of a user of a host, and says so when not.
func (r *reader) userName(s string, at int) bool {
	hint := ""
	switch trimmed := strings.TrimSpace(s); {
	case s == "*":
		hint = "write `root` and `autogroup:nonroot`"
	case trimmed != "" && trimmed != s:
		hint = fmt.Sprintf("did you mean %s?", quote(trimmed))
	case s != "" && len(s) <= maxName:
		return true
	}
	r.err(at, hint, "%s is not the name of a user of a host", quote(s))
	return false
}

// sshUser is one element of users.
type sshUser struct {
	name    string // a user of the host; empty for the other two
	nonroot bool   // every user but root
	domain  string // the user named as the local part of the login, for logins of this domain
}

func newSSHUser(s string) sshUser {
	domain, ok := strings.CutPrefix(s, "localpart:*@")
	switch {
	case s == "autogroup:nonroot":
		return sshUser{nonroot: true}
	case ok && domain != "" && !strings.ContainsAny(domain, "@*"):
		return sshUser{domain: foldLogin(domain)}
	}
	return sshUser{name: s}
}

// is reports whether u names the host's user name when login logs in.
func (u sshUser) is(name, login string) bool {
	local, domain, _ := strings.Cut(login, "@")
	switch {
	case u.nonroot:
		return name != "root"
	case u.domain != "":
		return domain == u.domain && local == name
	}
	return u.name == name
}

func (r *reader) checkPeriod(v *hujson.Value, what string) time.Duration {
	what += ".checkPeriod"
	s, ok := r.text(v, what)
	if !ok || s == "always" {
		return 0
	}
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		r.err(v.StartOffset, "write hours and minutes, `20h` or `1h30m`, or `always`", "%s is not a duration: %s", what, quote(s))
	case d < 0 || d > longestCheckPeriod:
		r.err(v.StartOffset, "from `1m` to `168h`, or `always`", "%s is out of range: %s", what, quote(s))
	case d < shortestCheckPeriod:
		r.warn(v.StartOffset, "write `always`, or `1m` and more", "%s is shorter than a minute: every login is checked", what)
		d = 0
	}
	return d
}

// acceptEnv reads patterns of names. An empty list is none.
func (r *reader) acceptEnv(v *hujson.Value, what string) (out []string) {
	what += ".acceptEnv"
	elems, _ := r.array(v, what)
	for i := range elems {
		s, ok := r.text(&elems[i], "an element of "+what)
		switch {
		case !ok:
		case s == "" || len(s) > maxName || strings.ContainsAny(s, "= \t"):
			r.err(elems[i].StartOffset, "write names, in which * and ? stand for others, `GIT_*`", "%s is not the name of an environment variable", quote(s))
		default:
			out = append(out, s)
		}
	}
	return out
}

// recorders reads the nodes that keep records of sessions.
func (r *reader) recorders(v *hujson.Value, what string) (out []selector) {
	what += ".recorder"
	elems, _ := r.array(v, what)
	for i := range elems {
		at := elems[i].StartOffset
		s, ok := r.text(&elems[i], "an element of "+what)
		if !ok {
			continue
		}
		prefix, _, _ := strings.Cut(s, ":")
		if s == "*" || strings.Contains(s, "@") || slices.Contains([]string{"group", "user", "autogroup", "ipset", "svc"}, prefix) {
			r.err(at, "name a tag, host or address", "%s cannot be a recorder", quote(s))
		} else if sel, ok := r.selector(s, at, inDst); ok {
			out = append(out, sel)
		}
	}
	return out
}

// checkSSH holds a rule to who may log in where, as Tailscale does: people on their own machines and on tagged ones, tagged machines on
// tagged ones. Anything else would let one person into another's machine.
func (r *reader) checkSSH(what string, check bool, src, dst []placed) {
	tagged := func(p placed) bool { return p.kind == kindTag || p.kind == kindTagged }
	machine := slices.IndexFunc(src, tagged)
	if check && machine >= 0 {
		r.err(src[machine].at, "only people can confirm; write another rule with `accept` for it", "%s has the action check, but its source %s is no person", what, quote(src[machine].text))
	}
	for _, d := range dst {
		switch {
		case tagged(d):
		case machine >= 0:
			r.err(d.at, "tagged nodes log in on tagged nodes only", "%s lets %s log in on machines of people, %s", what, quote(src[machine].text), quote(d.text))
		case d.kind == kindUser:
			stranger := slices.IndexFunc(src, func(p placed) bool { return p.kind != kindUser || p.text != d.text })
			if stranger >= 0 {
				r.err(d.at, "people log in on their own machines only: write `autogroup:self`", "%s lets %s log in on machines of %s", what, quote(src[stranger].text), quote(d.text))
			}
		case d.kind == kindSelf:
			if i := slices.IndexFunc(src, func(p placed) bool { return p.kind == kindShared }); i >= 0 {
				r.err(d.at, "write another rule for it", "%s goes to `autogroup:self`, but its source %s has no machine here", what, quote(src[i].text))
			}
		}
	}
}
