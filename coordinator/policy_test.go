package coordinator_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

func TestNoPolicyMeansNothingPasses(t *testing.T) {
	n := newNet(t, func(c *coordinator.Config) { c.Policy = nil })
	alice := n.admin()
	a := n.device("a").join(alice).connect()
	n.device("b").join(alice).connect()
	if _, err := n.RenameNode(n.ctx, operator, "a", "c"); err != nil {
		t.Fatal(err)
	}
	a.until("be renamed", func(c protocol.Content) bool { return c.Self.Name == "c" })
	if len(a.content.Peers)+len(a.content.Rules) > 0 {
		t.Errorf("without a policy a node has peers %v and rules %v", a.peers(), a.content.Rules)
	}
	s, err := n.PolicyStatus(n.ctx, operator)
	if err != nil || !s.InForce.IsZero() || s.Generation != 0 {
		t.Errorf("%+v, %v", s, err)
	}
	_, _, err = n.ReloadPolicy(n.ctx, operator, "")
	wantCode(t, "reloading no policy", err, coordinator.CodeInvalid)
}

// What is refused leaves the old policy in force, and says why.
func TestPolicyRefused(t *testing.T) {
	for _, tc := range []struct {
		name, want string
		found      coordinator.PolicyText
		err        error
	}{
		{"one that does not parse", "line 2, column", coordinator.PolicyText{Text: []byte("{\n  \"grunts\": []}"), Commit: "bad"}, nil},
		{"one that names the same key twice (R28)", "line 1, column", coordinator.PolicyText{Text: []byte(`{"grants": [], "grants": []}`), Commit: "bad"}, nil},
		{"one whose own tests fail", "line 2, column", coordinator.PolicyText{
			Text: []byte("{\"tagOwners\": {\"tag:db\": []},\n \"tests\": [{\"src\": \"alice@example.com\", \"accept\": [\"tag:db:22\"]}]}"), Commit: "bad"}, nil},
		{"nothing at all", "", coordinator.PolicyText{Commit: "bad"}, nil},
		{"a rewritten history", "--accept 2222222222222222222222222222222222222222",
			coordinator.PolicyText{Text: []byte(`{}`), Commit: "2222222222222222222222222222222222222222", Rewritten: true}, nil},
		{"one that nobody signed", "is not signed",
			coordinator.PolicyText{Text: []byte(`{}`), Commit: "2222222222222222222222222222222222222222", Unsigned: "commit 222222222222 is not signed"}, nil},
		{"one that nobody signed, and does not parse", "is not signed", // a stranger's text never meets the parser
			coordinator.PolicyText{Text: []byte(`{"grunts"`), Commit: "2222222222222222222222222222222222222222", Unsigned: "commit 222222222222 is not signed"}, nil},
		{"a source that fails", "the branch main is gone", coordinator.PolicyText{}, errors.New("the branch main is gone")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNet(t)
			before := n.reload("")
			n.policy.found, n.policy.err = tc.found, tc.err
			s := n.reload("")
			if s.Commit != before.Commit || s.Generation != before.Generation || s.Text != openPolicy {
				t.Errorf("in force is %s of generation %d", s.Commit, s.Generation)
			}
			if len(s.Errors) == 0 || !strings.Contains(s.Errors[0], tc.want) || s.Refused != tc.found.Commit || s.ErrorSince.IsZero() {
				t.Errorf("status %q, refused %q", s.Errors, s.Refused)
			}
			n.reload("")
			if got := strings.Count(n.log.String(), "a newer policy is not in force"); got != 1 {
				t.Errorf("logged %d times:\n%s", got, n.log)
			}
			n.policy.err = nil
			n.policy.set(openPolicy, before.Commit)
			if s = n.reload(""); len(s.Errors) > 0 || s.Refused != "" {
				t.Errorf("after it was put right: %+v", s)
			}
		})
	}
}

func TestRewrittenHistoryMayBeAccepted(t *testing.T) {
	n := newNet(t)
	n.policy.found = coordinator.PolicyText{Text: []byte(`{}`), Commit: "22222222222222", Rewritten: true}
	if s := n.reload("333"); s.Commit == "22222222222222" {
		t.Fatal("accepting another commit took this one")
	}
	if s := n.reload("22222222222222"); s.Commit != "22222222222222" || len(s.Errors) > 0 {
		t.Errorf("%+v", s)
	}
}

// To accept a rewritten history is not to sign it.
func TestRewrittenHistoryMustBeSigned(t *testing.T) {
	n := newNet(t)
	n.policy.found = coordinator.PolicyText{Text: []byte(`{}`), Commit: "22222222222222", Rewritten: true, Unsigned: "commit 22222222222222 is not signed"}
	if s := n.reload("22222222222222"); s.Commit == "22222222222222" || len(s.Errors) != 1 || s.Errors[0] != "commit 22222222222222 is not signed" {
		t.Errorf("%+v", s)
	}
}

// Who signed is kept with the policy, over a restart, and in the audit log.
func TestPolicySigner(t *testing.T) {
	n := newNet(t)
	n.policy.found = coordinator.PolicyText{Text: []byte(`{}`), Commit: "c2", Author: "Ann <ann@example.com>", Subject: "narrow", Signer: "ann@example.com\n", SignerKey: "SHA256:abc"}
	if s := n.reload(""); s.Signer != "ann@example.com" || s.SignerKey != "SHA256:abc" {
		t.Errorf("%+v", s)
	}
	records, err := n.Audit(n.ctx, operator, 1, 0)
	if err != nil || records[0].Detail != "Ann <ann@example.com>: narrow (signed by ann@example.com, key SHA256:abc)" {
		t.Errorf("audit %+v, %v", records, err)
	}
	n.stop()
	n.start()
	if s, err := n.PolicyStatus(n.ctx, operator); err != nil || s.Signer != "ann@example.com" || s.SignerKey != "SHA256:abc" {
		t.Errorf("after a restart %+v, %v", s, err)
	}
	n.policy.set(openPolicy, "c3")
	if s := n.reload(""); s.Commit != "c3" || s.Signer != "" {
		t.Errorf("without a signer: %+v", s)
	}
}

func TestPolicyChangeReachesNodes(t *testing.T) {
	n := newNet(t)
	a := n.device("a").joinTagged("tag:db").connect()
	b := n.device("b").joinTagged("tag:db").connect()
	a.until("know b", hasPeer("b"))
	b.until("know a", hasPeer("a"))
	n.policy.set(`{"tagOwners": {"tag:db": []}}`, "c2")
	s, change, err := n.ReloadPolicy(n.ctx, operator, "")
	if err != nil || s.Commit != "c2" || change.Generation != s.Generation {
		t.Fatalf("%+v, %+v, %v", s, change, err)
	}
	a.until("lose b", lacksPeer("b"))
	b.until("lose a", lacksPeer("a"))
	if a.generation != change.Generation || a.content.Network.Policy.Commit != "c2" {
		t.Errorf("generation %d, policy %+v", a.generation, a.content.Network.Policy)
	}
	if err := a.session.Receipt(n.ctx, a.receipt(1)); err != nil {
		t.Fatal(err)
	}
	if s, _ = n.PolicyStatus(n.ctx, operator); s.Enforcing != 1 || s.Nodes != 2 || s.Author == "" || s.InForce.IsZero() {
		t.Errorf("%+v", s)
	}
	records, _ := n.Audit(n.ctx, operator, 1, 0)
	if r := records[0]; r.Action != "policy.commit" || r.Object != "c2" || r.Generation != change.Generation {
		t.Errorf("audit %+v", r)
	}
}

func TestPolicySurvivesRestart(t *testing.T) {
	n := newNet(t)
	n.policy.err = errors.New("unreachable")
	n.stop()
	n.start()
	s, err := n.PolicyStatus(n.ctx, operator)
	if err != nil || s.Text != openPolicy || s.Commit == "" {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestRunFetches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNet(t)
		n.policy.changed = make(chan struct{}, 1)
		n.policy.fetches.Store(0)
		n.run()
		synctest.Wait()
		steps := []struct {
			what string
			do   func()
			want int32
		}{
			{"at once", func() {}, 1},
			{"within the poll", func() { time.Sleep(29 * time.Second) }, 1},
			{"at the poll", func() { time.Sleep(time.Second) }, 2},
			{"when poked", n.PokePolicy, 3},
			{"when the file changed", func() { n.policy.changed <- struct{}{} }, 4},
		}
		for _, s := range steps {
			s.do()
			synctest.Wait()
			time.Sleep(time.Millisecond)
			if got := n.policy.fetches.Load(); got != s.want {
				t.Errorf("%s: %d fetches, want %d", s.what, got, s.want)
			}
		}
		for range 1000 {
			n.PokePolicy() // must not block
		}
	})
}

func TestWhy(t *testing.T) {
	n := newNet(t)
	n.policy.set(`{"tagOwners": {"tag:db": [], "tag:web": []},
		"grants": [{"src": ["tag:web"], "dst": ["tag:db"], "ip": ["tcp:5432"]}]}`, "c2")
	n.reload("")
	web := n.device("web").joinTagged("tag:web").connect()
	db := n.device("db").joinTagged("tag:db").connect()
	n.device("new").joinTagged("tag:db")
	address, address6 := db.admitted.Addresses[0].String(), db.admitted.Addresses[1].String()
	for _, tc := range []struct {
		src, dst string
		allow    bool
	}{
		{"web", "db:5432", true},
		{string(web.node()), address + ":5432/tcp", true},
		{"web", "[" + address6 + "]:5432", true},
		{"web", "db:5433", false},
		{"web", "db:5432/udp", false},
		{"web", "db/icmp", false},
		{"db", "web:5432", false},
		{"web", "new:5432", false},
	} {
		got, err := n.Why(n.ctx, operator, tc.src, tc.dst)
		if err != nil || got.Allow != tc.allow || tc.allow && got.Rule != "grants[0], line 2" || !tc.allow && got.Reason == "" {
			t.Errorf("%s to %s: %+v, %v", tc.src, tc.dst, got, err)
		}
	}
	for _, dst := range []string{"db", "db:", "db:0", "db:65536", "db:+80", "db:080", "db:5432/nonsense", address6 + ":80", "[:80"} {
		_, err := n.Why(n.ctx, operator, "web", dst)
		var e *coordinator.Error
		if !errors.As(err, &e) {
			t.Errorf("%q is taken: %v", dst, err)
		}
	}
	_, err := n.Why(n.ctx, operator, "nope", "db:1")
	wantCode(t, "an unknown source", err, coordinator.CodeNotFound)
	if _, err := n.QuarantineNode(n.ctx, operator, "web", true); err != nil {
		t.Fatal(err)
	}
	got, err := n.Why(n.ctx, operator, "web", "db:5432")
	if err != nil || got.Allow || !strings.Contains(got.Reason, "quarantined") {
		t.Errorf("from quarantine: %+v, %v", got, err)
	}
}

// Nodes name a plain policy file in their explanations; where it lies on the coordinator's host is not theirs to know (R30).
func TestMapNamesThePolicyFileWithoutItsFolder(t *testing.T) {
	n := newNet(t)
	n.policy.set(openPolicy, "")
	n.reload("")
	a := n.device("a").joinTagged("tag:db").connect()
	if got := a.content.Network.Policy; got.File != "policy.hujson" || got.Commit != "" {
		t.Errorf("the map names %+v", got)
	}
}
