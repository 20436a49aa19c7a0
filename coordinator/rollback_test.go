package coordinator_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

// versions puts n policies in force, one after the other, as commits of 40 times the digits 1, 2, 3; each allows one port of tag:db more.
func (n *testnet) versions(count int) (texts []string) {
	n.t.Helper()
	for i := 1; i <= count; i++ {
		texts = append(texts, fmt.Sprintf(`{"tagOwners": {"tag:db": []}, "grants": [{"src": ["*"], "dst": ["tag:db"], "ip": ["tcp:1-%d"]}]}`, i))
		n.policy.set(texts[i-1], strings.Repeat(fmt.Sprint(i), 40))
		n.reload("")
	}
	return texts
}

func (n *testnet) rollback(ref string) error {
	_, err := n.RollbackPolicy(n.ctx, operator, ref)
	return err
}

func (n *testnet) status() coordinator.PolicyStatus {
	n.t.Helper()
	s, err := n.PolicyStatus(n.ctx, operator)
	if err != nil {
		n.t.Fatal(err)
	}
	return s
}

func TestRollbackRefuses(t *testing.T) {
	n := newNet(t)
	member := n.member("bob@example.com")
	n.versions(3)
	n.policy.set(`{"grants": []}`, "3333333aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
	n.reload("")
	before := n.status()
	for name, c := range map[string]struct{ ref, code string }{
		"nothing":                          {"", coordinator.CodeInvalid},
		"six digits":                       {"111111", coordinator.CodeInvalid},
		"a branch":                         {"main", coordinator.CodeInvalid},
		"capitals":                         {"3333333AAAA", coordinator.CodeInvalid},
		"more than any id has":             {strings.Repeat("1", 65), coordinator.CodeInvalid},
		"one that never was in force":      {strings.Repeat("9", 40), coordinator.CodeNotFound},
		"digits that go on otherwise":      {idOne[:39] + "2", coordinator.CodeNotFound},
		"digits that fit two":              {"3333333", coordinator.CodeInvalid},
		"the one in force":                 {"3333333a", coordinator.CodeConflict},
		"a commit, by its text's checksum": {hex.EncodeToString(sum(`{"grants": []}`))[:12], coordinator.CodeNotFound},
	} {
		wantCode(t, name, n.rollback(c.ref), c.code)
	}
	_, err := n.RollbackPolicy(n.ctx, member.actor(), idOne)
	wantCode(t, "a member", err, coordinator.CodeForbidden)
	n.faults.full.Store(true)
	wantCode(t, "with a full disk", n.rollback(idOne), protocol.CodeUnavailable)
	n.faults.full.Store(false)
	if s := n.status(); s.Generation != before.Generation || s.Pinned != nil {
		t.Errorf("something changed: %+v", s)
	}
	if err := n.rollback("33333333"); err != nil {
		t.Errorf("one digit more, which fits one: %v", err)
	}
}

func sum(text string) []byte {
	s := sha256.Sum256([]byte(text))
	return s[:]
}

// A policy that this version cannot read any more would let nothing pass: it does not come back.
func TestRollbackToAnUnreadablePolicyIsRefused(t *testing.T) {
	n := newNet(t)
	err := n.store.Update(n.ctx, func(tx coordinator.Tx) error {
		return tx.InsertPolicy(coordinator.PolicyRow{Text: []byte(`{"gone": 1}`), Commit: idThree, Generation: 1})
	})
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, "an unreadable policy", n.rollback(idThree), coordinator.CodeInvalid)
}

// T10: rollback brings an earlier policy back to all nodes, needs no network, and is not held up by a fetch that hangs, nor by the breaker.
func TestRollbackRestoresTheMaps(t *testing.T) {
	n := newNet(t, armed)
	admin := n.admin()
	three(t, n) // c1c1c1c1
	n.waits(`{`+threeTags+`}`, idOne)
	if _, _, err := n.ConfirmPolicy(n.ctx, operator, idOne); err != nil {
		t.Fatal(err)
	}
	web := n.device("web3").joinTagged("tag:web").connect()
	n.device("db3").joinTagged("tag:db").connect()
	if hasPeer("db3")(web.content) {
		t.Fatal("the empty policy allows flows")
	}
	n.policy.set(`{"grants": []}`, idTwo) // one that would wait, behind a Git host that hangs
	n.policy.hang()
	stuck, cancel := context.WithCancel(n.ctx)
	loading := make(chan struct{})
	go func() {
		_, _, _ = n.ReloadPolicy(stuck, operator, "")
		close(loading)
	}()
	n.policy.waitHung(t)

	began := time.Now()
	change, err := n.RollbackPolicy(n.ctx, admin.actor(), "c1c1c1c")
	if err != nil {
		t.Fatal(err)
	}
	web.until("know db3 again", hasPeer("db3"))
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	if web.generation != change.Generation || web.content.Network.Policy.Commit != "c1c1c1c1" {
		t.Errorf("generation %d, policy %+v", web.generation, web.content.Network.Policy)
	}
	n.policy.release()
	<-loading
	cancel()
	s := n.status()
	if s.Commit != "c1c1c1c1" || s.Generation != change.Generation || s.Waiting != nil || s.Pinned == nil || s.Pinned.By != "user root@example.com" || s.Pinned.Since.IsZero() || s.Newest != idTwo {
		t.Errorf("status %+v", s)
	}
	records, _ := n.Audit(n.ctx, operator, 1, 0)
	if r := records[0]; r.Action != "policy.rollback" || r.Actor != "user root@example.com" || r.Object != "c1c1c1c1" || r.Generation != change.Generation || !strings.Contains(r.Detail, "from 111111111111") {
		t.Errorf("audit %+v", r)
	}
}

// A commit whose fetch was under way when the policy was rolled back, and pinned, is not taken (R4).
func TestFetchUnderWayDoesNotOvertakeARollback(t *testing.T) {
	n := newNet(t)
	n.versions(3)
	n.policy.set(`{"grants": []}`, strings.Repeat("4", 40))
	n.policy.hang()
	done := make(chan error, 1)
	go func() {
		_, _, err := n.ReloadPolicy(n.ctx, operator, "")
		done <- err
	}()
	n.policy.waitHung(t)
	if err := n.rollback(idOne); err != nil {
		t.Fatal(err)
	}
	n.policy.release()
	if err := <-done; err != nil {
		t.Errorf("the reload under way: %v", err)
	}
	if s := n.status(); s.Commit != idOne || s.Pinned == nil {
		t.Errorf("in force is %s, pinned %v", s.Commit, s.Pinned)
	}
}

func TestPinnedPolicyStays(t *testing.T) {
	n := newNet(t)
	texts := n.versions(3)
	if err := n.rollback(idOne); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		text, id string
		errors   bool
	}{
		"the one rolled back from": {texts[2], idThree, false},
		"a newer one":              {`{"grants": []}`, strings.Repeat("4", 40), false},
		"one that is refused":      {`{"grunts": []}`, strings.Repeat("5", 40), true},
	} {
		n.policy.set(c.text, c.id)
		s := n.reload("")
		if s.Commit != idOne || s.Newest != c.id || s.Pinned == nil || s.Pinned.By != "operator uid 0" || (len(s.Errors) > 0) != c.errors || s.Waiting != nil {
			t.Errorf("%s: %+v", what, s)
		}
	}
	n.policy.set(texts[0], idOne)
	if s := n.reload(""); s.Newest != "" || len(s.Errors) > 0 {
		t.Errorf("the pinned one is the newest: %+v", s)
	}
	n.stop()
	n.start()
	n.policy.set(`{"grants": []}`, strings.Repeat("4", 40))
	if s := n.reload(""); s.Commit != idOne || s.Pinned == nil || s.Text != texts[0] {
		t.Errorf("after a restart: %+v", s)
	}
	if err := n.rollback(idTwo); err != nil {
		t.Errorf("rolling back further while pinned: %v", err)
	}
	s, change, err := n.UnpinPolicy(n.ctx, operator)
	if err != nil || s.Commit != strings.Repeat("4", 40) || s.Pinned != nil || change.Generation != s.Generation {
		t.Errorf("unpinned: %+v, %+v, %v", s, change, err)
	}
	want := []string{"policy.rollback", "policy.rollback", "policy.unpin", "policy.commit"}
	if got := n.actions(); !slices.Equal(got[len(got)-len(want):], want) {
		t.Errorf("audit log %v", got)
	}
}

func TestPin(t *testing.T) {
	n := newNet(t, func(c *coordinator.Config) { c.Policy = nil })
	member := n.member("bob@example.com")
	pin := func(ref string) error { _, err := n.PinPolicy(n.ctx, operator, ref); return err }
	wantCode(t, "where there never was a policy", pin(""), coordinator.CodeConflict)
	n.config.Policy = n.policy
	n.stop()
	n.start()
	n.versions(2)
	_, err := n.PinPolicy(n.ctx, member.actor(), "")
	wantCode(t, "by a member", err, coordinator.CodeForbidden)
	_, _, err = n.UnpinPolicy(n.ctx, member.actor())
	wantCode(t, "lifted by a member", err, coordinator.CodeForbidden)
	wantCode(t, "an earlier one", pin(idOne), coordinator.CodeConflict)
	wantCode(t, "an abbreviation", pin("22"), coordinator.CodeInvalid)
	_, _, err = n.UnpinPolicy(n.ctx, operator)
	wantCode(t, "lifting none", err, coordinator.CodeConflict)
	if err := pin(idTwo[:7]); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "a second time", pin(""), coordinator.CodeConflict)
	n.policy.set(`{}`, idThree)
	if s := n.reload(""); s.Commit != idTwo || s.Newest != idThree {
		t.Errorf("%+v", s)
	}
	n.config.Policy = nil // as after a start without --policy-repo: what is in force stays
	n.stop()
	n.start()
	if s, _, err := n.UnpinPolicy(n.ctx, operator); err != nil || s.Pinned != nil || s.Commit != idTwo {
		t.Errorf("%+v, %v", s, err)
	}
	if err := n.rollback(idOne); err != nil {
		t.Errorf("rollback without a source: %v", err)
	}
}

// A pin outlasts what waits: the waiting one would be judged by another policy in force. Lifted, the newest passes the breaker again.
func TestUnpinPassesTheBreaker(t *testing.T) {
	n := newNet(t, armed)
	three(t, n)
	n.waits(`{}`, idOne)
	if _, err := n.PinPolicy(n.ctx, operator, ""); err != nil {
		t.Fatal(err)
	}
	if s := n.status(); s.Waiting != nil || s.Pinned == nil {
		t.Errorf("pinned: %+v", s)
	}
	_, _, err := n.ConfirmPolicy(n.ctx, operator, idOne)
	wantCode(t, "confirming while pinned", err, coordinator.CodeConflict)
	if s, _, err := n.UnpinPolicy(n.ctx, operator); err != nil || s.Waiting == nil || s.Commit == idOne {
		t.Errorf("unpinned: %+v, %v", s, err)
	}
}

// After a rollback the branch's head comes after the commit in force: taking it is no rewriting of history; what rewrote it is accepted anew.
func TestRollbackAndRewrittenHistory(t *testing.T) {
	n := newNet(t)
	n.versions(2)
	n.policy.set(`{"grants": []}`, idThree)
	n.policy.found.Rewritten = true
	n.reload(idThree)
	if err := n.rollback(idTwo); err != nil {
		t.Fatal(err)
	}
	if s, _, err := n.UnpinPolicy(n.ctx, operator); err != nil || s.Commit != idTwo || len(s.Errors) == 0 || !strings.Contains(s.Errors[0], "--accept "+idThree) {
		t.Errorf("unpinned, with another history in the branch: %+v, %v", s, err)
	}
	if s := n.reload(idThree); s.Commit != idThree || len(s.Errors) > 0 {
		t.Errorf("accepted: %+v", s)
	}
}

func TestPolicyHistory(t *testing.T) {
	n := newNet(t)
	member := n.member("bob@example.com")
	_, err := n.PolicyHistory(n.ctx, member.actor())
	wantCode(t, "a member", err, coordinator.CodeForbidden)
	n.versions(2)
	n.policy.set(`{}`, "") // a plain file
	n.reload("")
	if err := n.rollback(idOne[:12]); err != nil {
		t.Fatal(err)
	}
	list, err := n.PolicyHistory(n.ctx, operator)
	if err != nil || len(list) != 5 {
		t.Fatalf("%+v, %v", list, err)
	}
	file := hex.EncodeToString(sum(`{}`))
	for i, want := range []string{idOne, file, idTwo, idOne, "c0ffee0000000000000000000000000000000001"} {
		v := list[i]
		if v.ID != want || (v.Commit == "") != (want == file) || v.By != "operator uid 0" || v.InForce.IsZero() || i == 0 != v.Until.IsZero() || i > 0 && !v.Until.Equal(list[i-1].InForce) {
			t.Errorf("%d: %+v", i, v)
		}
	}
	if err := n.rollback(file[:7]); err != nil {
		t.Errorf("back to the file: %v", err)
	}
	if s := n.status(); s.Text != `{}` || s.ID != file {
		t.Errorf("%+v", s)
	}
}
