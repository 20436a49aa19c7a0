package coordinator_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

// armed has the breaker on, at 25 %.
func armed(c *coordinator.Config) { c.Breaker = coordinator.Breaker{} }

const (
	idOne   = "1111111111111111111111111111111111111111"
	idTwo   = "2222222222222222222222222222222222222222"
	idThree = "3333333333333333333333333333333333333333"
)

// waits loads text as commit id, and checks that it waits and that before stays in force.
func (n *testnet) waits(text, id string, says ...string) {
	n.t.Helper()
	before, err := n.PolicyStatus(n.ctx, operator)
	if err != nil {
		n.t.Fatal(err)
	}
	n.policy.set(text, id)
	s := n.reload("")
	if s.Waiting == nil || s.Waiting.ID != id || s.Commit != before.Commit || s.Generation != before.Generation || s.Text != before.Text {
		n.t.Fatalf("%s does not wait: in force %s, waiting %+v", id, s.Commit, s.Waiting)
	}
	for _, want := range says {
		if !strings.Contains(s.Waiting.Why, want) {
			n.t.Errorf("it does not say %q but: %s", want, s.Waiting.Why)
		}
	}
}

// taken loads text as commit id, and checks that it is in force at once.
func (n *testnet) taken(text, id string) {
	n.t.Helper()
	n.policy.set(text, id)
	if s := n.reload(""); s.Waiting != nil || s.Commit != id || s.Text != text {
		n.t.Fatalf("%s is not in force: %s is, waiting %+v, errors %v", id, s.Commit, s.Waiting, s.Errors)
	}
}

func TestBreakerHoldsACommitThatCutsMuch(t *testing.T) {
	n := newNet(t, armed)
	three(t, n)
	n.waits(webPolicy(`"tcp:5432"`, `"udp:22"`), idOne, "it would cut 12 of 20 live flows (60 %; the limit is 25 %)",
		"tag:db <- tag:ci tcp 22 (grants[1], line 4): 10 flows, tag:db <- tag:web tcp 80 (grants[0], line 3): 2 flows")
	records, err := n.Audit(n.ctx, operator, 1, 0)
	if r := records[0]; err != nil || r.Action != "policy.hold" || r.Object != idOne || !strings.Contains(r.Detail, "12 of 20 live flows") {
		t.Errorf("audit %+v, %v", r, err)
	}
	n.reload("")
	n.reload("")
	if got := strings.Count(n.log.String(), "waits for confirmation"); got != 1 {
		t.Errorf("logged %d times:\n%s", got, n.log)
	}
	if !strings.Contains(n.log.String(), "policy confirm 111111111111") {
		t.Errorf("the log does not say what to do:\n%s", n.log)
	}
	s, change, err := n.ConfirmPolicy(n.ctx, operator, idOne[:7])
	if err != nil || s.Commit != idOne || s.Waiting != nil || change.Generation != s.Generation {
		t.Fatalf("confirmed: %+v, %+v, %v", s, change, err)
	}
	records, _ = n.Audit(n.ctx, operator, 2, 0)
	if records[1].Action != "policy.confirm" || records[1].Actor != "operator uid 0" || records[1].Object != idOne || records[0].Action != "policy.commit" || records[0].Generation != records[1].Generation {
		t.Errorf("audit %+v", records)
	}
}

// What the breaker lets through: too few flows to tell, a share within the limit, and whatever concerns one node or one person alone.
func TestBreakerLetsThrough(t *testing.T) {
	for name, c := range map[string]struct {
		percent int
		prepare func(n *testnet, web, ci, db, db2 *talker)
		text    string
		waits   bool
	}{
		"20 flows, 12 of them cut":                    {0, nil, webPolicy(`"tcp:5432"`, `"udp:22"`), true},
		"19 flows":                                    {0, func(_ *testnet, web, _, _, _ *talker) { web.flows[0].Count-- }, webPolicy(`"tcp:5432"`, `"udp:22"`), false},
		"exactly the share":                           {60, nil, webPolicy(`"tcp:5432"`, `"udp:22"`), false},
		"one percent more than the share":             {59, nil, webPolicy(`"tcp:5432"`, `"udp:22"`), true},
		"all that there is":                           {99, nil, `{}`, true},
		"a limit of all":                              {100, nil, `{}`, false},
		"more allowed":                                {1, nil, webPolicy(`"*"`, `"*"`), false},
		"all flows of one node that opens them":       {1, nil, webPolicy(`"tcp:5432", "tcp:80"`, `"udp:22"`), false},
		"all flows of one node that takes them":       {1, func(_ *testnet, web, _, _, _ *talker) { web.flows = web.flows[:2] }, `{}`, false},
		"two nodes at either end":                     {1, nil, webPolicy(`"tcp:5432"`, `"udp:22"`), true},
		"flows that only one of two ends has told of": {0, func(_ *testnet, _, ci, _, _ *talker) { ci.flows[0].Count = 1000 }, webPolicy(`"tcp:5432", "tcp:80"`, `"tcp:22", "tcp:23"`), false},
		"the same text under another commit":          {1, nil, webPolicy(`"tcp:5432", "tcp:80"`, `"tcp:22"`), false},
		"a cut of nodes that do not answer is not known": {1, func(_ *testnet, web, ci, db, db2 *talker) {
			web.mute, ci.mute, db.mute, db2.mute = true, true, true, true
		}, `{}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T, n *testnet) {
				web, ci, db, db2 := three(t, n)
				synctest.Wait()
				if c.prepare != nil {
					c.prepare(n, web, ci, db, db2)
				}
				if c.waits {
					n.waits(c.text, idOne)
				} else {
					n.taken(c.text, idOne)
				}
			}, armed, func(config *coordinator.Config) { config.Breaker.Percent = c.percent })
		})
	}
}

// One person's machines are one person.
func TestBreakerLetsOnePersonGo(t *testing.T) {
	n := newNet(t, armed)
	policy := func(who string) string {
		return fmt.Sprintf(`{%s, "grants": [{"src": [%s], "dst": ["tag:db"], "ip": ["*"]}]}`, threeTags, who)
	}
	n.policy.set(policy(`"root@example.com", "bob@example.com"`), "c1c1c1c1")
	n.reload("")
	root, bob := n.admin(), n.member("bob@example.com")
	laptop, phone, his := n.device("laptop").join(root).talk(), n.device("phone").join(root).talk(), n.device("his").join(bob).talk()
	db, db2 := n.device("db").joinTagged("tag:db").talk(), n.device("db2").joinTagged("tag:db").talk()
	laptop.opens(db, 22, 10)
	phone.opens(db2, 22, 10)
	his.opens(db, 22, 10)
	n.waits(`{}`, idOne, "it would cut 30 of 30 live flows (100 %")
	n.taken(policy(`"bob@example.com"`), idTwo)
}

func TestBreakerHoldsACommitThatEmptiesAGroup(t *testing.T) {
	policy := func(groups string) string {
		return fmt.Sprintf(`{"groups": {%s}, "grants": [{"src": ["group:eng", "group:ops"], "dst": ["*"], "ip": ["*"]}]}`, groups)
	}
	before := policy(`"group:eng": ["a@x.io", "b@x.io"], "group:ops": ["c@x.io"]`)
	for name, c := range map[string]struct {
		text  string
		waits bool
	}{
		"of two people":                   {policy(`"group:eng": [], "group:ops": ["c@x.io"]`), true},
		"both, of three people":           {policy(`"group:eng": [], "group:ops": []`), true},
		"gone with its rules":             {`{"groups": {"group:ops": ["c@x.io"]}, "grants": [{"src": ["group:ops"], "dst": ["*"], "ip": ["*"]}]}`, true},
		"everything":                      {`{}`, true},
		"of one person, who is meant":     {policy(`"group:eng": ["a@x.io", "b@x.io"], "group:ops": []`), false},
		"all but one person of a group":   {policy(`"group:eng": ["b@x.io"], "group:ops": ["c@x.io"]`), false},
		"renamed":                         {`{"groups": {"group:dev": ["a@x.io", "b@x.io"], "group:ops": ["c@x.io"]}, "grants": [{"src": ["group:dev", "group:ops"], "dst": ["*"], "ip": ["*"]}]}`, false},
		"not named by the rules any more": {`{"groups": {"group:eng": ["a@x.io", "b@x.io"], "group:ops": ["c@x.io"]}, "grants": [{"src": ["group:ops"], "dst": ["*"], "ip": ["*"]}]}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNet(t, armed)
			n.taken(before, "c1c1c1c1")
			if c.waits {
				n.waits(c.text, idOne, "nobody would be in group:eng any more (2 people), which rules of the policy in force name")
			} else {
				n.taken(c.text, idOne)
			}
		})
	}
}

// Two groups of one person each are two people, unless it is the same one.
func TestBreakerCountsPeopleOfEmptiedGroups(t *testing.T) {
	policy := func(eng, ops string) string {
		return fmt.Sprintf(`{"groups": {"group:eng": [%s], "group:ops": [%s]}, "grants": [{"src": ["group:eng", "group:ops"], "dst": ["*"], "ip": ["*"]}]}`, eng, ops)
	}
	n := newNet(t, armed)
	n.taken(policy(`"a@x.io"`, `"A@x.io"`), "c1c1c1c1")
	n.taken(policy("", ""), "c2c2c2c2")
	n.taken(policy(`"a@x.io"`, `"b@x.io"`), "c3c3c3c3")
	n.waits(policy("", ""), idOne)
}

func TestBreakerOff(t *testing.T) {
	n := newNet(t, func(c *coordinator.Config) { c.Breaker = coordinator.Breaker{Off: true} })
	web, _, _, _ := three(t, n)
	n.taken(`{}`, idOne)
	if web.asked != 0 || !strings.Contains(n.log.String(), "the policy breaker is off") {
		t.Errorf("asked %d times; the log:\n%s", web.asked, n.log)
	}
	n.config.Breaker = coordinator.Breaker{Percent: 101}
	if _, err := coordinator.New(n.ctx, n.config); err == nil || !strings.Contains(err.Error(), "within 1 and 100") {
		t.Errorf("101 %%: %v", err)
	}
}

// Nothing but a policy commit passes the breaker: while one waits, and however much it cuts.
func TestBreakerHoldsBackNothingElse(t *testing.T) {
	n := newNet(t, armed)
	web, ci, db, _ := three(t, n)
	n.waits(`{}`, idOne)
	asked := web.asked
	root := n.admin()
	n.device("laptop").join(root)
	for what, do := range map[string]func() error{
		"quarantine":     func() error { _, err := n.QuarantineNode(n.ctx, operator, "db", true); return err },
		"removal":        func() error { _, err := n.RemoveNode(n.ctx, operator, "ci"); return err },
		"user's removal": func() error { _, err := n.RemoveUser(n.ctx, operator, root.Login); return err },
		"logout":         func() error { return web.session.Logout(n.ctx) },
	} {
		began := time.Now()
		if err := do(); err != nil || time.Since(began) > time.Second {
			t.Errorf("%s: %v after %v", what, err, time.Since(began))
		}
	}
	if web.asked != asked {
		t.Error("the nodes were asked for their flows")
	}
	_, _ = ci, db
	if nodes, err := n.Nodes(n.ctx, operator); err != nil || len(nodes) != 2 {
		t.Errorf("%d nodes left, %v", len(nodes), err)
	}
}

// A confirmation is for the content that was judged.
func TestConfirmRefuses(t *testing.T) {
	n := newNet(t, armed)
	member := n.member("bob@example.com")
	three(t, n)
	confirm := func(ref string) error { _, _, err := n.ConfirmPolicy(n.ctx, operator, ref); return err }
	wantCode(t, "with nothing waiting", confirm(idOne), coordinator.CodeConflict)
	n.waits(`{}`, idOne)
	_, _, err := n.ConfirmPolicy(n.ctx, member.actor(), idOne)
	wantCode(t, "by a member", err, coordinator.CodeForbidden)
	wantCode(t, "another commit", confirm(idTwo), coordinator.CodeConflict)
	for _, ref := range []string{"", "111111", "HEAD", strings.ToUpper("abcdefabcdef"), idOne + strings.Repeat("1", 25)} {
		wantCode(t, fmt.Sprintf("%q", ref), confirm(ref), coordinator.CodeInvalid)
	}

	n.policy.set(`{"grants": []}`, idTwo) // newer than the one that was looked at
	err = confirm(idOne)
	wantCode(t, "with a newer commit there", err, coordinator.CodeConflict)
	if err == nil || !strings.Contains(err.Error(), "the newest policy is 222222222222 now, not 111111111111") {
		t.Errorf("it says %v", err)
	}
	n.policy.set(`{"grants": []}`, idOne) // the id of the one, the text of another
	wantCode(t, "with another text under the same id", confirm(idOne), coordinator.CodeConflict)
	if s, _ := n.PolicyStatus(n.ctx, operator); s.Commit != "c1c1c1c1" {
		t.Fatalf("in force is %s", s.Commit)
	}
	n.policy.set(`{}`, idOne)
	if err := confirm(idOne); err != nil {
		t.Error(err)
	}
	wantCode(t, "a second time", confirm(idOne), coordinator.CodeConflict)
}

// What is decided while the flows are counted, or the repository is read, is not overtaken by what was judged before it (R4).
func TestPolicyIsCommittedAsItWasJudged(t *testing.T) {
	wider := webPolicy(`"tcp:5432", "tcp:80", "tcp:443"`, `"tcp:22"`)
	for name, c := range map[string]struct {
		meanwhile func(t *testing.T, n *testnet)
		inForce   string
	}{
		"the policy in force is pinned": {func(t *testing.T, n *testnet) {
			if _, err := n.PinPolicy(n.ctx, operator, ""); err != nil {
				t.Error(err)
			}
		}, "c1c1c1c1"},
		"another policy comes into force, and is not pinned": {func(t *testing.T, n *testnet) {
			if err := n.rollback("c0ffee0"); err != nil {
				t.Error(err)
			}
			err := n.store.Update(n.ctx, func(tx coordinator.Tx) error { _, err := tx.DropPin(); return err })
			if err != nil {
				t.Error(err)
			}
		}, "c0ffee0000000000000000000000000000000001"},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T, n *testnet) {
				_, ci, _, _ := three(t, n)
				synctest.Wait()
				ci.set(func() { ci.mute = true }) // so that the count takes its 2 s
				n.policy.set(wider, idOne)
				done := make(chan error)
				go func() {
					_, _, err := n.ReloadPolicy(n.ctx, operator, "")
					done <- err
				}()
				time.Sleep(time.Second)
				c.meanwhile(t, n)
				wantCode(t, "the load under way", <-done, coordinator.CodeConflict)
				if s := n.status(); s.Commit != c.inForce {
					t.Errorf("in force is %s, want %s", s.Commit, c.inForce)
				}
			}, armed)
		})
	}
}

// A confirmation under way does not take what has ceased to wait.
func TestConfirmationIsOvertaken(t *testing.T) {
	n := newNet(t, armed)
	three(t, n)
	n.waits(`{}`, idOne)
	n.policy.hang()
	done, unpinned := make(chan error, 1), make(chan coordinator.PolicyStatus, 1)
	go func() { _, _, err := n.ConfirmPolicy(n.ctx, operator, idOne); done <- err }()
	n.policy.waitHung(t)
	if _, err := n.PinPolicy(n.ctx, operator, ""); err != nil {
		t.Fatal(err)
	}
	go func() { s, _, _ := n.UnpinPolicy(n.ctx, operator); unpinned <- s }()
	for n.status().Pinned != nil {
		time.Sleep(time.Millisecond) // until it is lifted; then it waits for the confirmation's fetch
	}
	n.policy.release()
	wantCode(t, "the confirmation", <-done, coordinator.CodeConflict)
	if s := <-unpinned; s.Waiting == nil || s.Commit == idOne {
		t.Errorf("unpinned: in force %s, waiting %+v", s.Commit, s.Waiting)
	}
}

// A newer commit is judged for itself, and takes the place of the one that waits, however it fares.
func TestWaitingCommitIsReplaced(t *testing.T) {
	n := newNet(t, armed)
	three(t, n)
	in := webPolicy(`"tcp:5432", "tcp:80"`, `"tcp:22"`)
	waiting := func() string {
		s, err := n.PolicyStatus(n.ctx, operator)
		if err != nil {
			t.Fatal(err)
		}
		if s.Waiting == nil {
			return ""
		}
		return s.Waiting.ID
	}
	n.waits(`{}`, idOne)
	n.waits(`{"grants": []}`, idTwo)
	n.policy.set(`{"grunts": []}`, idThree)
	if s := n.reload(""); s.Waiting != nil || s.Refused != idThree {
		t.Errorf("one that is refused: %+v", s)
	}
	n.waits(`{}`, idOne)
	n.policy.set(in, "c1c1c1c1")
	if n.reload(""); waiting() != "" {
		t.Errorf("the one in force is the newest again, but %s waits", waiting())
	}
	n.waits(`{}`, idOne)
	n.policy.err = errOffline
	if n.reload(""); waiting() != idOne {
		t.Errorf("the repository is not there, and what waits is %q", waiting())
	}
	n.policy.err = nil
	n.taken(webPolicy(`"tcp:5432", "tcp:80", "tcp:443"`, `"tcp:22"`), idTwo)
	want := []string{"policy.hold", "policy.hold", "policy.unhold", "policy.hold", "policy.unhold", "policy.hold", "policy.commit"}
	if got := n.actions(); !slices.Equal(got[len(got)-len(want):], want) {
		t.Errorf("audit log %v", got)
	}
}

var errOffline = &coordinator.Error{Code: protocol.CodeUnavailable, Message: "the Git host does not answer"}

// A commit waits on, whatever becomes of the flows it would cut, and over a restart that finds no node connected.
func TestWaitingCommitWaitsOn(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		web, ci, db, db2 := three(t, n)
		n.waits(`{}`, idOne)
		for _, k := range []*talker{web, ci, db, db2} {
			k.set(func() { k.flows = nil })
		}
		time.Sleep(300 * time.Millisecond)
		if s := n.reload(""); s.Waiting == nil || s.Waiting.Cut != 20 || s.Commit == idOne {
			t.Errorf("the flows ended, and it is %+v", s.Waiting)
		}
		n.stop()
		n.start()
		s := n.reload("")
		if s.Waiting == nil || s.Waiting.ID != idOne || s.Waiting.Cut != 20 || s.Waiting.Cuts[0].Flows != 10 || s.Commit == idOne {
			t.Errorf("after a restart: %+v, in force %s", s.Waiting, s.Commit)
		}
		if s, _, err := n.ConfirmPolicy(n.ctx, operator, idOne); err != nil || s.Commit != idOne {
			t.Errorf("confirmed after a restart: %+v, %v", s, err)
		}
	}, armed)
}

// A commit found at the start is not judged before the nodes that were here have had time to come back.
func TestBreakerAwaitsTheNodesAfterARestart(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		all := []*device{}
		for _, k := range func() []*talker { a, b, c, d := three(t, n); return []*talker{a, b, c, d} }() {
			all = append(all, k.device)
			k.gone()
		}
		synctest.Wait()
		n.stop()
		n.start()
		n.policy.set(`{}`, idOne)
		done := make(chan coordinator.PolicyStatus)
		go func() { done <- n.reload("") }()
		time.Sleep(5 * time.Second)
		talkers := []*talker{}
		for _, d := range all {
			talkers = append(talkers, d.talk())
		}
		web, ci, db, db2 := talkers[0], talkers[1], talkers[2], talkers[3]
		web.opens(db, 5432, 8)
		web.opens(db2, 80, 2)
		ci.opens(db, 22, 10)
		if s := <-done; s.Waiting == nil || s.Waiting.Cut != 20 {
			t.Errorf("in force %s, waiting %+v", s.Commit, s.Waiting)
		}
		for _, k := range talkers {
			k.gone()
		}
		synctest.Wait()
		n.stop()
		n.start()
		n.policy.set(`{"grants": []}`, idTwo)
		began := time.Now()
		if s := n.reload(""); s.Commit != idTwo || time.Since(began) < 15*time.Second || time.Since(began) > 25*time.Second {
			t.Errorf("with nobody back after %v, in force is %s, waiting %+v", time.Since(began), s.Commit, s.Waiting)
		}
	}, armed)
}

// R21: when it cannot be noted that a commit waits, it is not taken either.
func TestBreakerWithoutDisk(t *testing.T) {
	n := newNet(t, armed)
	three(t, n)
	n.policy.set(`{}`, idOne)
	n.faults.full.Store(true)
	if _, _, err := n.ReloadPolicy(n.ctx, operator, ""); err == nil {
		t.Error("no error")
	}
	n.faults.full.Store(false)
	if s, _ := n.PolicyStatus(n.ctx, operator); s.Commit == idOne || s.Waiting != nil {
		t.Errorf("in force %s, waiting %+v", s.Commit, s.Waiting)
	}
	n.waits(`{}`, idOne)
}

// A rewritten history is accepted and confirmed, each by its own word; having been accepted, it needs no second one.
func TestRewrittenCommitThatWaits(t *testing.T) {
	n := newNet(t, armed)
	three(t, n)
	n.policy.set(`{}`, idOne)
	n.policy.found.Rewritten = true
	if s := n.reload(""); len(s.Errors) == 0 || s.Waiting != nil {
		t.Fatalf("not accepted: %+v", s)
	}
	if s := n.reload(idOne); s.Waiting == nil || len(s.Errors) > 0 {
		t.Fatalf("accepted: %+v", s)
	}
	if s := n.reload(""); s.Waiting == nil || len(s.Errors) > 0 {
		t.Fatalf("at the next poll: %+v", s)
	}
	if s, _, err := n.ConfirmPolicy(n.ctx, operator, idOne); err != nil || s.Commit != idOne {
		t.Errorf("confirmed: %+v, %v", s, err)
	}
}

// A plain file has no commit: it is confirmed by the SHA-256 of its text.
func TestConfirmAPlainFile(t *testing.T) {
	n := newNet(t, armed)
	three(t, n)
	sum := sha256.Sum256([]byte(`{}`))
	id := hex.EncodeToString(sum[:])
	n.policy.set(`{}`, "")
	s := n.reload("")
	if s.Waiting == nil || s.Waiting.ID != id || s.Waiting.Commit != "" {
		t.Fatalf("%+v", s.Waiting)
	}
	n.policy.set(`{"grants": []}`, "")
	_, _, err := n.ConfirmPolicy(n.ctx, operator, id[:12])
	wantCode(t, "with another text in the file", err, coordinator.CodeConflict)
	n.policy.set(`{}`, "")
	if s, _, err = n.ConfirmPolicy(n.ctx, operator, id[:12]); err != nil || s.Text != `{}` || s.ID != id {
		t.Errorf("%+v, %v", s, err)
	}
}
