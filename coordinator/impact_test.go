package coordinator_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"picket.internal/acl"
	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

// talker is a connected device that takes in maps, and tells its flows when it is asked.
type talker struct {
	*device
	mu    sync.Mutex
	flows []protocol.FlowCount                       // by mu
	spoil func(*protocol.Flows)                      // by mu: changes each answer; nil leaves it
	mute  bool                                       // by mu: it never answers
	asked int                                        // by mu
	gone  context.CancelFunc                         // ends the session
	late  func(protocol.Flows, *coordinator.Session) // by mu: takes the answer instead of its being sent
}

// talk connects the device.
func (d *device) talk() *talker {
	d.n.t.Helper()
	if err := d.attach(); err != nil {
		d.n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(d.n.ctx)
	k := &talker{device: d, gone: cancel}
	done := make(chan struct{})
	session := d.session
	go func() {
		defer close(done)
		defer session.Close()
		for {
			out, err := session.Next(ctx)
			if err != nil {
				return
			}
			if out.Type == protocol.TypeMap {
				m := out.Body.(protocol.Map)
				if err := d.merge(&m); err == nil {
					_ = session.Receipt(ctx, d.receipt(0))
				}
			}
			if out.Type == protocol.TypeAskFlows {
				k.answer(session, out.Body.(protocol.AskFlows))
			}
		}
	}()
	d.n.t.Cleanup(func() { cancel(); <-done })
	return k
}

func (k *talker) answer(s *coordinator.Session, a protocol.AskFlows) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked++
	f := protocol.Flows{Ask: a.Ask, Flows: slices.Clone(k.flows)}
	for _, c := range f.Flows {
		f.Total += c.Count
	}
	if k.spoil != nil {
		k.spoil(&f)
	}
	switch {
	case k.late != nil:
		k.late(f, s)
	case !k.mute:
		_ = s.Flows(k.n.ctx, f)
	}
}

func (k *talker) set(change func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change()
}

// opens has both ends tell of count TCP flows from k to port of dst.
func (k *talker) opens(dst *talker, port uint16, count uint64) {
	a, b := k.admitted.Addresses[0], dst.admitted.Addresses[0]
	k.set(func() {
		k.flows = append(k.flows, protocol.FlowCount{Peer: dst.node(), Out: true, Local: a, Remote: b, Proto: acl.TCP, Port: port, Count: count})
	})
	dst.set(func() {
		dst.flows = append(dst.flows, protocol.FlowCount{Peer: k.node(), Local: b, Remote: a, Proto: acl.TCP, Port: port, Count: count})
	})
}

const threeTags = `"tagOwners": {"tag:db": ["autogroup:member"], "tag:web": ["autogroup:member"], "tag:ci": ["autogroup:member"]}`

// webPolicy allows web to reach db, and ci to reach db, at the ports given.
func webPolicy(web, ci string) string {
	return `{` + threeTags + `,
	"grants": [
		{"src": ["tag:web"], "dst": ["tag:db"], "ip": [` + web + `]},
		{"src": ["tag:ci"], "dst": ["tag:db"], "ip": [` + ci + `]},
	]}`
}

func (n *testnet) impact(text string) coordinator.Impact {
	n.t.Helper()
	i, err := n.PolicyImpact(n.ctx, operator, []byte(text))
	if err != nil {
		n.t.Fatal(err)
	}
	return i
}

// three is a network of web, ci and two databases that have said what webPolicy(`"tcp:5432", "tcp:80"`, `"tcp:22"`) allows.
func three(t *testing.T, n *testnet) (web, ci, db, db2 *talker) {
	t.Helper()
	n.policy.set(webPolicy(`"tcp:5432", "tcp:80"`, `"tcp:22"`), "c1c1c1c1")
	n.reload("")
	web, ci = n.device("web").joinTagged("tag:web").talk(), n.device("ci").joinTagged("tag:ci").talk()
	db, db2 = n.device("db").joinTagged("tag:db").talk(), n.device("db2").joinTagged("tag:db").talk()
	web.opens(db, 5432, 8)
	web.opens(db, 80, 1)
	web.opens(db2, 80, 1)
	ci.opens(db, 22, 10)
	return web, ci, db, db2
}

func TestPolicyImpactCountsEachFlowOnce(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		web, _, _, _ := three(t, n)
		got := n.impact(webPolicy(`"tcp:5432"`, `"udp:22"`))
		want := coordinator.Impact{
			Live: 20, Cut: 12, Concerns: "",
			Cuts: []coordinator.CutFlows{
				{Src: "tag:ci", Dst: "tag:db", Ports: "tcp 22", Rule: "grants[1], line 4", Flows: 10},
				{Src: "tag:web", Dst: "tag:db", Ports: "tcp 80", Rule: "grants[0], line 3", Flows: 2},
			},
		}
		if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
			t.Error(d)
		}
		if s := got.Cuts[0].String(); s != "tag:db <- tag:ci tcp 22 (grants[1], line 4): 10 flows" {
			t.Error(s)
		}
		if got := n.impact(webPolicy(`"*"`, `"*"`)); got.Live != 20 || got.Cut != 0 || len(got.Cuts) != 0 {
			t.Errorf("a wider policy: %+v", got)
		}
		time.Sleep(300 * time.Millisecond) // or the last count would stand
		web.opens(web, 1, 5)               // with itself, which no rule allows: what is about to end is not live
		if got := n.impact(`{}`); got.Live != 20 || got.Cut != 20 || len(got.Cuts) != 3 {
			t.Errorf("a policy that allows nothing: %+v", got)
		}
		_, err := n.PolicyImpact(n.ctx, operator, []byte(`{"grunts": []}`))
		wantCode(t, "a policy that is none", err, coordinator.CodeInvalid)
	})
}

// What one node says is held against what its peers say, and nobody speaks for another.
func TestPolicyImpactOfLiars(t *testing.T) {
	for name, c := range map[string]struct {
		lie  func(web, ci, db, db2 *talker)
		live int
		more func(coordinator.Impact) bool
	}{
		"a node invents flows with one that has told all": {func(web, _, _, _ *talker) {
			web.spoil = func(f *protocol.Flows) { f.Flows[0].Count += 1000; f.Total += 1000 }
		}, 20, nil},
		"a node invents flows to another port": {func(web, _, _, _ *talker) {
			web.spoil = func(f *protocol.Flows) {
				c := f.Flows[1]
				c.Port, c.Count = 5432, 1000
				c.Local, c.Remote = web.admitted.Addresses[1], web.n.address6("db")
				f.Flows = append(f.Flows, c)
				f.Total += 1000
			}
		}, 20, nil},
		"a node tells the flows of others": {func(web, ci, db, db2 *talker) {
			db2.spoil = func(f *protocol.Flows) {
				f.Flows = append(f.Flows, protocol.FlowCount{Peer: db.node(), Out: true, Local: ci.admitted.Addresses[0], Remote: db.admitted.Addresses[0], Proto: acl.TCP, Port: 22, Count: 1000})
				f.Total += 1000
			}
			ci.mute, db.mute = true, true
		}, 10, func(i coordinator.Impact) bool { return slices.Equal(i.Unknown, []string{"ci", "db"}) }},
		"a node tells both ends of others' flows": {func(web, ci, db, db2 *talker) {
			db2.spoil = func(f *protocol.Flows) {
				a, b := ci.admitted.Addresses[0], db.admitted.Addresses[0]
				f.Flows = append(f.Flows, protocol.FlowCount{Peer: db.node(), Out: true, Local: a, Remote: b, Proto: acl.TCP, Port: 22, Count: 1000},
					protocol.FlowCount{Peer: ci.node(), Local: b, Remote: a, Proto: acl.TCP, Port: 22, Count: 1000})
				f.Total += 2000
			}
		}, 20, nil},
		"a node says that an address is another's": {func(web, ci, db, db2 *talker) {
			web.spoil = func(f *protocol.Flows) { f.Flows[2].Peer = ci.node() }
		}, 19, nil},
		"a node hides what its peers tell": {func(web, _, _, _ *talker) {
			web.spoil = func(f *protocol.Flows) { f.Flows, f.Total = nil, 0 }
		}, 10, nil},
		"a node tells a part, and its peers all": {func(web, _, _, _ *talker) {
			web.spoil = func(f *protocol.Flows) { f.Flows, f.Truncated = f.Flows[:1], true }
		}, 20, func(i coordinator.Impact) bool { return slices.Equal(i.Truncated, []string{"web"}) }},
		"an answer to another question": {func(web, _, _, _ *talker) {
			web.spoil = func(f *protocol.Flows) { f.Ask++; f.Flows[0].Count += 1000 }
		}, 20, func(i coordinator.Impact) bool { return slices.Equal(i.Unknown, []string{"web"}) }},
		"an answer twice": {func(web, _, _, _ *talker) {
			web.late = func(f protocol.Flows, s *coordinator.Session) {
				_ = s.Flows(web.n.ctx, f)
				f.Flows[0].Count += 1000
				_ = s.Flows(web.n.ctx, f)
			}
		}, 20, nil},
		"a node that answers nothing": {func(_, ci, _, _ *talker) { ci.mute = true }, 20,
			func(i coordinator.Impact) bool { return slices.Equal(i.Unknown, []string{"ci"}) }},
		"two ends that are gone": {func(_, ci, db, _ *talker) {
			ci.gone()
			db.gone()
		}, 1 + 8 + 1, func(i coordinator.Impact) bool { return slices.Equal(i.Unknown, []string{"ci", "db"}) }},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T, n *testnet) {
				web, ci, db, db2 := three(t, n)
				synctest.Wait()
				c.lie(web, ci, db, db2)
				synctest.Wait()
				began := time.Now()
				got := n.impact(`{}`)
				if got.Live != c.live || got.Cut != c.live || c.more != nil && !c.more(got) {
					t.Errorf("%+v, want %d live", got, c.live)
				}
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// address6 is the IPv6 address of a node.
func (n *testnet) address6(name string) netip.Addr {
	n.t.Helper()
	v, err := n.Node(n.ctx, operator, name)
	if err != nil {
		n.t.Fatal(err)
	}
	return v.Addresses[1]
}

// An answer with more than was asked for ends the session, and counts for nothing.
func TestAnswerLongerThanAsked(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		web, _, _, _ := three(t, n)
		refusal := make(chan error, 1)
		web.set(func() {
			web.late = func(f protocol.Flows, s *coordinator.Session) {
				for len(f.Flows) <= protocol.MaxFlows {
					f.Flows = append(f.Flows, f.Flows[0])
				}
				refusal <- s.Flows(web.n.ctx, f)
			}
		})
		if got := n.impact(`{}`); got.Live != 20 || !slices.Equal(got.Unknown, []string{"web"}) {
			t.Errorf("%+v", got)
		}
		wantCode(t, "the answer", <-refusal, protocol.CodeBadRequest)
	})
}

// A node that goes away while it is asked is not waited for.
func TestNodeGoesAwayWhileAsked(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		_, ci, _, _ := three(t, n)
		ci.set(func() { ci.mute = true })
		time.AfterFunc(time.Second/2, ci.gone)
		began := time.Now()
		if got := n.impact(`{}`); got.Live != 20 || !slices.Equal(got.Unknown, []string{"ci"}) {
			t.Errorf("%+v", got)
		}
		if took := time.Since(began); took != time.Second/2 {
			t.Errorf("it took %v", took)
		}
	})
}

// A node that does not know the question, as one of an older version, delays the first count and no other; once it answers it is counted.
func TestMuteNodesAreNotWaitedForTwice(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		web, ci, _, _ := three(t, n)
		ci.set(func() { ci.mute = true })
		for i, want := range []time.Duration{2 * time.Second, 0, 0} {
			time.Sleep(time.Second)
			began := time.Now()
			if got := n.impact(`{}`); got.Live != 20 || !slices.Equal(got.Unknown, []string{"ci"}) {
				t.Errorf("%+v", got)
			}
			if took := time.Since(began); took.Round(time.Millisecond) != want {
				t.Errorf("count %d took %v, want %v", i+1, took, want)
			}
		}
		ci.set(func() { ci.mute = false })
		time.Sleep(time.Second)
		n.impact(`{}`)
		synctest.Wait()
		time.Sleep(time.Second)
		if got := n.impact(`{}`); len(got.Unknown) != 0 {
			t.Errorf("after it answered: %+v", got)
		}
		if web.asked == 0 || ci.asked != 5 {
			t.Errorf("asked %d and %d times", web.asked, ci.asked)
		}
	})
}

// Calls one upon the other share a count: whoever may ask cannot make nodes walk their tables all the time.
func TestCountsAreShared(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		web, _, _, _ := three(t, n)
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { n.impact(`{}`) })
		}
		all.Wait()
		if web.asked != 1 {
			t.Errorf("asked %d times", web.asked)
		}
	})
}

// A person's flows are named by the smallest group that rules name, and concern the person on however many machines.
func TestPolicyImpactNamesPeople(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		policy := func(ports string) string {
			return fmt.Sprintf(`{"groups": {"group:all": ["root@example.com", "bob@example.com"], "group:ops": ["root@example.com"], "group:unused": ["root@example.com"]}, %s,
			"grants": [{"src": ["group:all", "group:ops"], "dst": ["tag:db"], "ip": ["tcp:%s"]}]}`, threeTags, ports)
		}
		n.policy.set(policy("22"), "c1c1c1c1")
		n.reload("")
		root, bob := n.admin(), n.member("bob@example.com")
		laptop, phone, his := n.device("laptop").join(root).talk(), n.device("phone").join(root).talk(), n.device("his").join(bob).talk()
		db, db2 := n.device("db").joinTagged("tag:db").talk(), n.device("db2").joinTagged("tag:db").talk()
		laptop.opens(db, 22, 1)
		phone.opens(db2, 22, 2)
		got := n.impact(policy("23"))
		if got.Concerns != "root@example.com" || len(got.Cuts) != 1 || got.Cuts[0].Src != "group:ops" || got.Cut != 3 {
			t.Errorf("%+v", got)
		}
		time.Sleep(300 * time.Millisecond)
		his.opens(db, 22, 1)
		if got = n.impact(policy("23")); got.Concerns != "" || len(got.Cuts) != 2 || got.Cuts[1].Src != "group:all" {
			t.Errorf("%+v", got)
		}
	})
}

func TestPolicyImpactNamesEmptiedGroups(t *testing.T) {
	n := newNet(t)
	groups := func(groups, rules string) string {
		return fmt.Sprintf(`{"groups": {%s}, "grants": [{"src": [%s], "dst": ["*"], "ip": ["*"]}]}`, groups, rules)
	}
	before := groups(`"group:eng": ["a@x.io", "b@x.io"], "group:ops": ["c@x.io"], "group:none": [], "group:unused": ["d@x.io"]`, `"group:eng", "group:ops", "group:none"`)
	n.policy.set(before, "c1c1c1c1")
	n.reload("")
	for name, c := range map[string]struct{ groups, rules, want string }{
		"one":                                {`"group:eng": [], "group:ops": ["c@x.io"]`, `"group:eng", "group:ops"`, "group:eng 2"},
		"two, and one that had nobody":       {`"group:eng": [], "group:ops": [], "group:none": []`, `"group:eng", "group:ops", "group:none"`, "group:eng 2 group:ops 1"},
		"one that is gone with its rules":    {`"group:ops": ["c@x.io"]`, `"group:ops"`, "group:eng 2"},
		"emptied, and its members elsewhere": {`"group:eng": [], "group:dev": ["a@x.io", "b@x.io"], "group:ops": ["c@x.io"]`, `"group:eng", "group:dev", "group:ops"`, "group:eng 2"},
		"none: one is renamed":               {`"group:dev": ["a@x.io", "b@x.io"], "group:ops": ["c@x.io"]`, `"group:dev", "group:ops"`, ""},
		"none: one loses all but one":        {`"group:eng": ["a@x.io"], "group:ops": ["c@x.io"]`, `"group:eng", "group:ops"`, ""},
		"none: one changes its people":       {`"group:eng": ["e@x.io"], "group:ops": ["c@x.io"]`, `"group:eng", "group:ops"`, ""},
		"none: no rule names one any more":   {`"group:eng": ["a@x.io", "b@x.io"], "group:ops": ["c@x.io"]`, `"group:ops"`, ""},
		"none: one that no rule named":       {`"group:eng": ["a@x.io"], "group:ops": ["c@x.io"], "group:unused": []`, `"group:eng", "group:ops"`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, g := range n.impact(groups(c.groups, c.rules)).Emptied {
				got = append(got, fmt.Sprintf("%s %d", g.Group, g.Count))
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("emptied: %q, want %q", s, c.want)
			}
		})
	}
}
