package acl

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tailscale/hujson"
)

// sshTest is one entry of sshTests.
type sshTest struct {
	index   int
	src     selector
	dst     []selector // every one of them
	expects []sshExpectation
}

// sshExpectation is one element of accept, check or deny.
type sshExpectation struct {
	at   position
	want sshVerdict
	user string // of the host
}

// sshVerdict is what becomes of a login.
type sshVerdict uint8

const (
	sshDenied sshVerdict = iota
	sshAccepted
	sshChecked // accepted once the person confirmed
)

// sshTests reads the section.
func (r *reader) sshTests(v *hujson.Value) {
	elems, _ := r.array(v, quote("sshTests"))
	for i := range elems {
		r.sshTest(&elems[i], i)
	}
}

func (r *reader) sshTest(v *hujson.Value, i int) {
	what := fmt.Sprintf("sshTests[%d]", i)
	t := sshTest{index: i}
	seen := map[string]bool{}
	before := r.found()
	expect := func(name string, want sshVerdict) field {
		return field{name, func(v *hujson.Value) { r.sshExpect(v, what+"."+name, &t, want) }}
	}
	isObject := r.object(v, what, []field{
		{"src", func(v *hujson.Value) { seen["src"] = true; t.src = r.testSource(v, what) }},
		{"dst", func(v *hujson.Value) { seen["dst"] = true; t.dst = r.sshTestDestinations(v, what, t.src) }},
		expect("accept", sshAccepted), expect("check", sshChecked), expect("deny", sshDenied),
	})
	if isObject {
		r.require(v, what, seen, "src", "dst")
		if len(t.expects) == 0 && r.found() == before {
			r.err(v.StartOffset, "name users of the host in `accept`, `check` or `deny`", "%s expects nothing", what)
		}
	}
	slices.SortStableFunc(t.expects, func(a, b sshExpectation) int {
		return cmp.Or(cmp.Compare(a.at.line, b.at.line), cmp.Compare(a.at.column, b.at.column))
	})
	r.pol.sshTests = append(r.pol.sshTests, t)
}

func (r *reader) sshTestDestinations(v *hujson.Value, what string, src selector) (out []selector) {
	what += ".dst"
	elems, ok := r.array(v, what)
	if ok && len(elems) == 0 {
		r.err(v.StartOffset, "a test of no destination would always hold; name one", "%s is empty", what)
	}
	for i := range elems {
		if s, ok := r.text(&elems[i], "an element of "+what); ok {
			if sel, ok := r.sshTestDestination(s, elems[i].StartOffset, src); ok {
				out = append(out, sel)
			}
		}
	}
	return distinct(out)
}

// sshTestDestination reads what a destination of a test may be: that of a rule, an address or a group.
func (r *reader) sshTestDestination(s string, at int, src selector) (selector, bool) {
	if host, ok := portsTacked(s); ok {
		r.err(at, fmt.Sprintf("write %s", quote(host)), "%s has ports: SSH logins have none", quote(s))
		return selector{}, false
	}
	if k, _ := autogroupKind(s); !slices.Contains(loggedInTo.autogroups, k) {
		return r.selector(s, at, inTest)
	}
	sel, ok := r.selector(s, at, inDst)
	if sel.kind == kindSelf && (src.kind == kindTag || src.kind == kindPrefix) {
		r.err(at, "name the machine", "`autogroup:self` is the machines of the source's owner, but %s is no person", quote(src.text))
		return selector{}, false
	}
	return sel, ok
}

// sshExpect reads accept, check or deny: names of users of the host. Each may be empty, but not all.
func (r *reader) sshExpect(v *hujson.Value, what string, t *sshTest, want sshVerdict) {
	elems, _ := r.array(v, what)
	for i := range elems {
		at := elems[i].StartOffset
		s, ok := r.text(&elems[i], "an element of "+what)
		switch {
		case !ok || !r.userName(s, at):
		case newSSHUser(s).name == "":
			r.err(at, "name one user of the host, such as `root`", "%s is many users: a test asks about single ones", quote(s))
		default:
			t.expects = append(t.expects, sshExpectation{r.src.at(at), want, s})
		}
	}
}

// maxSSHWork bounds the comparisons of one sshFailures. Tests, rules and groups multiply.
const maxSSHWork = 10_000_000

// sshFailures runs the policy's sshTests against the directory: every failure, in the file's order. An expectation holds when it does for
// everybody whom src names on every node that dst names; where a selector names no node yet, one as it would be stands in. accept is
// content with a login that is checked, as Tailscale is; check wants one. Only the ssh rules are asked, not whether packets may pass. Rules
// with a posture do not count: a test says nothing about the state of a device.
func (p *Policy) sshFailures(d *Directory) (failures []TestFailure) {
	if len(p.sshTests) == 0 {
		return nil
	}
	j := newSSHJudge(p, d)
	for _, t := range p.sshTests {
		src := j.ends(t.src)
		for _, e := range t.expects {
			if message := j.judge(t, e, src); message != "" {
				failures = append(failures, TestFailure{e.at.line, e.at.column, message})
			}
			if j.work > maxSSHWork {
				return append(failures, TestFailure{e.at.line, e.at.column, fmt.Sprintf(
					"sshTests[%d]: not run, nor any after it: the tests come to more than %d comparisons", t.index, maxSSHWork)})
			}
		}
	}
	return failures
}

// sshEnd is somebody at one end of a login.
type sshEnd struct {
	identity
	name string // for people, where the selector does not say it
}

// sshJudge answers sshTests. Whether a login passes hangs on the identities of its two ends only, so nodes with equal ones are one.
type sshJudge struct {
	policy *Policy
	byTag  map[string][]sshEnd
	byAddr map[netip.Addr]sshEnd
	people []sshEnd          // with untagged nodes
	roles  map[string]string // by login
	tagged []sshEnd
	work   int
}

func newSSHJudge(p *Policy, d *Directory) *sshJudge {
	j := &sshJudge{policy: p, byTag: map[string][]sshEnd{}, byAddr: map[netip.Addr]sshEnd{}, roles: map[string]string{}}
	users := make(map[UserID]User, len(d.Users))
	count := make(map[string]int, len(d.Users))
	for _, u := range d.Users {
		users[u.ID] = u
		count[foldLogin(u.Login)]++
	}
	known := map[string]bool{}
	for i := range d.Nodes {
		n := &d.Nodes[i]
		owner := users[n.Owner]
		if count[foldLogin(owner.Login)] > 1 {
			owner = User{} // which of the two the policy means is not to be guessed
		}
		end := sshEnd{p.identify(n.Tags, owner.Login, owner.Role), n.Name}
		for _, a := range n.Addresses {
			j.byAddr[a] = end
		}
		like := end.login + "\x00" + strings.Join(n.Tags, "\x00")
		switch {
		case known[like]:
		case len(n.Tags) > 0:
			j.tagged = append(j.tagged, end)
			for _, t := range n.Tags {
				j.byTag[t] = append(j.byTag[t], end)
			}
		case end.login != "":
			end.name = end.login
			j.people = append(j.people, end)
		}
		known[like] = true
	}
	for _, u := range d.Users {
		if login := foldLogin(u.Login); count[login] == 1 {
			j.roles[login] = u.Role
		}
	}
	return j
}

// ends lists whom a selector names, with a stand-in where that is nobody.
func (j *sshJudge) ends(s selector) []sshEnd {
	switch s.kind {
	case kindUser:
		return []sshEnd{j.person(s.text, "")}
	case kindGroup:
		return j.groupEnds(s.text)
	case kindTag:
		return orStandIn(j.byTag[s.text], identity{tags: []string{s.text}})
	case kindMember:
		return orStandIn(j.people, identity{login: "?"})
	case kindTagged:
		return orStandIn(j.tagged, identity{tags: []string{"?"}})
	case kindPrefix:
		return []sshEnd{j.byAddr[s.prefix.Addr()]}
	}
	return nil
}

// orStandIn returns ends, or one of who where there are none: a test of nobody would always hold.
func orStandIn(ends []sshEnd, who identity) []sshEnd {
	if len(ends) == 0 {
		return []sshEnd{{identity: who}}
	}
	return ends
}

// person is the owner of a login, with the role that the directory gives.
func (j *sshJudge) person(login, name string) sshEnd {
	return sshEnd{j.policy.identify(nil, login, j.roles[login]), name}
}

// groupEnds lists the people of a group. In a group of nobody stands somebody without a name.
func (j *sshJudge) groupEnds(name string) (out []sshEnd) {
	for _, login := range j.policy.groups[name].users {
		j.work++
		out = append(out, j.person(login, login))
	}
	return orStandIn(out, identity{login: "?", groups: []string{name}})
}

// judge returns what is wrong with an expectation, "" when it holds.
func (j *sshJudge) judge(t sshTest, e sshExpectation, src []sshEnd) string {
	for _, s := range t.dst {
		dst := j.ends(s)
		for _, from := range src {
			if s.kind == kindSelf {
				dst = []sshEnd{from}
			}
			rules := j.from(from, e.user)
			for _, to := range dst {
				if problem := j.problem(rules, from, to, e.want); problem != "" {
					return fmt.Sprintf("sshTests[%d]: %s -> %s as %s%s %s", t.index, t.src.text, s.text, e.user, between(from.name, to.name), problem)
				}
				if j.work > maxSSHWork {
					return ""
				}
			}
		}
	}
	return ""
}

// between names the ends of a failure where the selectors do not.
func between(from, to string) string {
	switch {
	case from != "" && to != "":
		return " (from " + from + " to " + to + ")"
	case from != "":
		return " (from " + from + ")"
	case to != "":
		return " (to " + to + ")"
	}
	return ""
}

// from lists the rules by which somebody may log in as user somewhere.
func (j *sshJudge) from(who sshEnd, user string) (out []*sshRule) {
	for i := range j.policy.ssh {
		rule := &j.policy.ssh[i]
		j.work += 1 + len(rule.src) + len(rule.users)
		if len(rule.postures) == 0 && slices.ContainsFunc(rule.src, who.is) &&
			slices.ContainsFunc(rule.users, func(u sshUser) bool { return u.is(user, who.login) }) {
			out = append(out, rule)
		}
	}
	return out
}

// problem says how a login between two ends differs from what is wanted. Rules that check go before those that accept.
func (j *sshJudge) problem(rules []*sshRule, from, to sshEnd, want sshVerdict) string {
	var by *sshRule
	for _, rule := range rules {
		j.work += len(rule.dst)
		if (by == nil || rule.check && !by.check) && rule.reaches(from, to) {
			by = rule
		}
	}
	switch {
	case by == nil && want == sshDenied, by != nil && by.check && want != sshDenied, by != nil && want == sshAccepted:
		return ""
	case by == nil:
		return fmt.Sprintf("is refused, but the test %s it: no rule allows it", map[sshVerdict]string{sshAccepted: "accepts", sshChecked: "checks"}[want])
	case want == sshChecked:
		return fmt.Sprintf("is allowed without a check by %s, but the test checks it", by.ref)
	}
	return fmt.Sprintf("is allowed by %s, but the test denies it", by.ref)
}

// reaches reports whether the rule's dst names to when from logs in.
func (rule *sshRule) reaches(from, to sshEnd) bool {
	return slices.ContainsFunc(rule.dst, func(s selector) bool {
		if s.kind == kindSelf {
			return from.login != "" && from.login == to.login
		}
		return to.is(s)
	})
}
