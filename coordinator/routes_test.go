package coordinator_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

// routesPolicy lets every node to 10.33.0.0/16, and has the section autoApprovers given.
func routesPolicy(approvers string) string {
	return `{"tagOwners": {"tag:db": [], "tag:web": [], "tag:router": [], "tag:a": [], "tag:b": []},
	"autoApprovers": {` + approvers + `},
	"grants": [{"src": ["tag:web"], "dst": ["10.33.0.0/16"], "ip": ["tcp:443"]}, {"src": ["tag:web"], "dst": ["autogroup:internet"], "ip": ["*"]}]}`
}

const approved = `"routes": {"10.33.0.0/16": ["tag:router"]}, "exitNode": ["tag:router"]`

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// routeNet has routesPolicy in force and a client of it.
func routeNet(t *testing.T, policy string) (*testnet, *device) {
	n := newNet(t)
	n.policy.set(policy, "c0ffee0000000000000000000000000000000002")
	n.reload("")
	return n, n.device("client").joinTagged("tag:web").connect()
}

func (n *testnet) router(name string, routes []netip.Prefix, tags ...string) *device {
	d := n.device(name)
	d.routes = routes
	return d.joinTagged(tags...).connect()
}

// ways is what d's map says of routes: "r1 10.33.0.0/16" each.
func (d *device) ways() (out []string) {
	for _, p := range d.content.Peers {
		for _, r := range p.Routes {
			out = append(out, p.Name+" "+r.String())
		}
	}
	slices.Sort(out)
	return out
}

// waitWays takes messages for a minute at most, until d's map has exactly these ways.
func (d *device) waitWays(want ...string) {
	d.n.t.Helper()
	for began := time.Now(); !slices.Equal(d.ways(), want); {
		if time.Since(began) > time.Minute {
			d.n.t.Fatalf("%s has the routes %v, and never %v", d.admitted.Name, d.ways(), want)
		}
		if _, err := d.take(); err != nil {
			d.n.t.Fatal(err)
		}
	}
}

func TestRoutesAreInNoMapUnlessApproved(t *testing.T) {
	n, client := routeNet(t, routesPolicy(""))
	r := n.router("r1", prefixes("10.33.0.0/16", "0.0.0.0/0"), "tag:router")
	if len(r.content.Self.Routes) != 0 || len(client.ways()) != 0 || hasPeer("r1")(client.content) {
		t.Fatalf("advertised only, and already in maps: %v, %v", r.content.Self.Routes, client.peers())
	}
	if _, err := n.ApproveRoutes(n.ctx, operator, "r1", prefixes("10.33.0.0/16")); err != nil {
		t.Fatal(err)
	}
	client.waitWays("r1 10.33.0.0/16")
	if _, err := n.RevokeRoutes(n.ctx, operator, "r1", prefixes("10.33.0.0/16")); err != nil {
		t.Fatal(err)
	}
	client.waitWays()
	if got := n.actions(); !slices.Contains(got, "route.approve") || !slices.Contains(got, "route.revoke") {
		t.Errorf("the audit log lacks what was done: %v", got)
	}
}

func TestApprovalByPolicyEndsWithThePolicy(t *testing.T) {
	n, client := routeNet(t, routesPolicy(approved))
	n.router("r1", prefixes("10.33.0.0/16", "10.34.0.0/16", "0.0.0.0/0", "::/0"), "tag:router")
	n.router("db", prefixes("10.33.7.0/24", "0.0.0.0/0"), "tag:db")
	client.waitWays("r1 0.0.0.0/0", "r1 10.33.0.0/16", "r1 ::/0")
	n.policy.set(routesPolicy(`"exitNode": ["tag:router"]`), "c0ffee0000000000000000000000000000000003")
	n.reload("")
	client.waitWays("r1 0.0.0.0/0", "r1 ::/0")
}

func TestRevokedRouteStaysSoWhateverThePolicy(t *testing.T) {
	n, client := routeNet(t, routesPolicy(approved))
	r := n.router("r1", prefixes("10.33.0.0/16"), "tag:router")
	client.waitWays("r1 10.33.0.0/16")
	if _, err := n.RevokeRoutes(n.ctx, operator, "r1", r.routes); err != nil {
		t.Fatal(err)
	}
	client.waitWays()
	n.policy.set(routesPolicy(approved+`, "services": {}`), "c0ffee0000000000000000000000000000000003")
	n.reload("")
	r.nextMap()
	if len(r.content.Self.Routes) != 0 {
		t.Errorf("the policy approved what an operator had revoked: %v", r.content.Self.Routes)
	}
	if _, err := n.ApproveRoutes(n.ctx, operator, "r1", r.routes); err != nil {
		t.Fatal(err)
	}
	client.waitWays("r1 10.33.0.0/16")
}

func TestRouteIsTakenBackByItsNode(t *testing.T) {
	n, client := routeNet(t, routesPolicy(approved))
	r := n.router("r1", prefixes("10.33.0.0/16"), "tag:router")
	client.waitWays("r1 10.33.0.0/16")
	r.routes = nil
	if err := r.session.Report(n.ctx, r.report()); err != nil {
		t.Fatal(err)
	}
	client.waitWays()
}

// A router that advertises other nodes' addresses gets none of them.
func TestAdvertisedRouteDisplacesNobody(t *testing.T) {
	n, client := routeNet(t, `{"tagOwners": {"tag:web": [], "tag:router": []},
		"autoApprovers": {"routes": {"0.0.0.0/0": ["tag:router"], "::/0": ["tag:router"]}}, "grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]}`)
	own := netip.PrefixFrom(client.admitted.Addresses[0], 32)
	r := n.router("r1", append(prefixes("100.64.0.0/10", "fd7a:1:2::/64", "100.0.0.0/8", "10.33.0.0/16"), own), "tag:router")
	client.waitWays("r1 10.33.0.0/16")
	if got := r.content.Self.Routes; !slices.Equal(got, prefixes("10.33.0.0/16")) {
		t.Errorf("the router serves %v", got)
	}
	_, err := n.ApproveRoutes(n.ctx, operator, "r1", []netip.Prefix{own})
	wantCode(t, "approving a route into the overlay", err, coordinator.CodeInvalid)
}

func TestApproveRoutesRefuses(t *testing.T) {
	n, _ := routeNet(t, routesPolicy(""))
	n.router("r1", prefixes("10.33.0.0/16"), "tag:router")
	member := n.setupMember()
	_, err := n.ApproveRoutes(n.ctx, member.actor(), "r1", prefixes("10.33.0.0/16"))
	wantCode(t, "a member approves", err, coordinator.CodeForbidden)
	_, err = n.RevokeRoutes(n.ctx, member.actor(), "r1", prefixes("10.33.0.0/16"))
	wantCode(t, "a member revokes", err, coordinator.CodeForbidden)
	_, err = n.Routes(n.ctx, member.actor())
	wantCode(t, "a member lists", err, coordinator.CodeForbidden)
	for _, bad := range []string{"0.0.0.0/1", "127.0.0.0/8", "10.33.0.1/16"} {
		_, err = n.ApproveRoutes(n.ctx, operator, "r1", prefixes(bad))
		wantCode(t, "approving "+bad, err, coordinator.CodeInvalid)
	}
	_, err = n.RevokeRoutes(n.ctx, operator, "r1", prefixes("10.99.0.0/16"))
	wantCode(t, "revoking what is not there", err, coordinator.CodeNotFound)
	_, err = n.ApproveRoutes(n.ctx, operator, "nobody", prefixes("10.33.0.0/16"))
	wantCode(t, "a node that is none", err, coordinator.CodeNotFound)
}

// setupMember is a person without rights beside the administrator.
func (n *testnet) setupMember() *person {
	n.t.Helper()
	n.admin()
	return n.member("bob@example.com")
}

// alive has d say that it lives, every ten seconds, until the test ends or stop is called.
func (d *device) alive() (stop func()) {
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(10 * time.Second):
				d.session.Alive()
			}
		}
	}()
	return func() { close(done) }
}

func TestAnotherRouterTakesOver(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		n.policy.set(routesPolicy(approved), "c0ffee0000000000000000000000000000000002")
		n.reload("")
		n.run()
		client := n.device("client").joinTagged("tag:web").connect()
		defer client.alive()()
		r1 := n.router("r1", prefixes("10.33.0.0/16"), "tag:router")
		stop1 := r1.alive()
		time.Sleep(time.Minute)
		r2 := n.router("r2", prefixes("10.33.0.0/16"), "tag:router")
		stop2 := r2.alive()
		defer stop2()
		client.until("both routers", hasPeer("r2"))
		client.waitWays("r1 10.33.0.0/16")
		for _, r := range []*device{r1, r2} {
			if len(r.ways()) != 0 || !slices.Equal(r.content.Self.Routes, prefixes("10.33.0.0/16")) {
				t.Errorf("%s serves %v and is sent to others for %v", r.admitted.Name, r.content.Self.Routes, r.ways())
			}
		}
		time.Sleep(time.Minute) // nothing is amiss
		synctest.Wait()
		stop1()
		r1.session.Close()
		gone := time.Now()
		client.waitWays("r2 10.33.0.0/16")
		if took := time.Since(gone); took < 15*time.Second || took > 18*time.Second {
			t.Errorf("the other router took over after %s", took)
		}
		r1.connect()
		defer r1.alive()()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		change, err := n.RenameNode(n.ctx, operator, "client", "laptop")
		if err != nil {
			t.Fatal(err)
		}
		client.until("what came after r1's return", func(protocol.Content) bool { return client.generation >= change.Generation })
		if got := client.ways(); !slices.Equal(got, []string{"r2 10.33.0.0/16"}) {
			t.Errorf("the router that came back took over again: %v", got)
		}
		if got := n.actions(); !slices.Contains(got, "route.away") || !slices.Contains(got, "route.back") {
			t.Errorf("the audit log lacks the turns: %v", got)
		}
	})
}

func TestSilentRouterIsReplaced(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		n.policy.set(routesPolicy(approved), "c0ffee0000000000000000000000000000000002")
		n.reload("")
		n.run()
		client := n.device("client").joinTagged("tag:web").connect()
		defer client.alive()()
		n.router("r1", prefixes("10.33.0.0/16"), "tag:router") // says nothing after its report
		began := time.Now()
		time.Sleep(time.Second)
		defer n.router("r2", prefixes("10.33.0.0/16"), "tag:router").alive()()
		client.waitWays("r1 10.33.0.0/16")
		client.waitWays("r2 10.33.0.0/16")
		if took := time.Since(began); took < 30*time.Second || took > 33*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

func TestOnlyRouterServesOnWithoutASession(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		n.policy.set(routesPolicy(approved), "c0ffee0000000000000000000000000000000002")
		n.reload("")
		n.run()
		client := n.device("client").joinTagged("tag:web").connect()
		r1 := n.router("r1", prefixes("10.33.0.0/16"), "tag:router")
		client.waitWays("r1 10.33.0.0/16")
		r1.session.Close()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if slices.Contains(n.actions(), "route.away") {
			t.Error("a route was taken from its only router")
		}
	})
}

// After the coordinator's own restart, routers have time to come back.
func TestRestartHandsNothingOver(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		n.policy.set(routesPolicy(approved), "c0ffee0000000000000000000000000000000002")
		n.reload("")
		r1 := n.router("r1", prefixes("10.33.0.0/16"), "tag:router")
		time.Sleep(time.Second)
		r2 := n.router("r2", prefixes("10.33.0.0/16"), "tag:router")
		n.stop()
		n.start()
		n.run()
		r2.connect()
		defer r2.alive()()
		time.Sleep(40 * time.Second)
		r1.connect()
		defer r1.alive()()
		time.Sleep(time.Minute)
		synctest.Wait()
		if slices.Contains(n.actions(), "route.away") {
			t.Error("a router that was 40 s late after the coordinator's restart lost its routes")
		}
	})
}

// Each node is sent to a router through which a rule leads it, and no filter can disagree: its map knows that one only.
func TestViaChoosesTheRouter(t *testing.T) {
	n, client := routeNet(t, `{"tagOwners": {"tag:web": [], "tag:db": [], "tag:a": [], "tag:b": []},
		"autoApprovers": {"routes": {"10.33.0.0/16": ["tag:a", "tag:b"]}},
		"grants": [
			{"src": ["tag:web"], "dst": ["10.33.0.0/16"], "ip": ["tcp:443"], "via": ["tag:b"]},
			{"src": ["tag:db"], "dst": ["10.33.0.0/16"], "ip": ["tcp:443"]}]}`)
	db := n.device("db").joinTagged("tag:db").connect()
	n.router("ra", prefixes("10.33.0.0/16"), "tag:a")
	n.router("rb", prefixes("10.33.0.0/16"), "tag:b")
	client.waitWays("rb 10.33.0.0/16")
	db.until("both routers", hasPeer("rb"))
	db.waitWays("ra 10.33.0.0/16")
	if hasPeer("ra")(client.content) {
		t.Error("a node is told of a router that no rule leads it through")
	}
}

// A node may have a router or exit node as its peer for other reasons: it is sent to none that no rule leads it through.
func TestNoWayThroughWhoIsOnlyAPeer(t *testing.T) {
	n, client := routeNet(t, `{"tagOwners": {"tag:web": [], "tag:a": [], "tag:b": []},
		"autoApprovers": {"routes": {"10.33.0.0/16": ["tag:a", "tag:b"]}, "exitNode": ["tag:a", "tag:b"]},
		"grants": [
			{"src": ["tag:web"], "dst": ["tag:a"], "ip": ["tcp:22"]},
			{"src": ["tag:web"], "dst": ["10.33.0.0/16"], "ip": ["tcp:443"], "via": ["tag:b"]},
			{"src": ["tag:web"], "dst": ["autogroup:internet"], "ip": ["tcp:443"], "via": ["tag:b"]}]}`)
	n.router("ra", prefixes("10.33.0.0/16", "0.0.0.0/0"), "tag:a")
	n.router("rb", prefixes("10.33.0.0/16", "0.0.0.0/0"), "tag:b")
	client.until("both", hasPeer("rb"))
	client.until("both", hasPeer("ra"))
	client.waitWays("rb 0.0.0.0/0", "rb 10.33.0.0/16")
}

// Rules of several via are an order of preference.
func TestViaPrefersByTheFilesOrder(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		n.policy.set(`{"tagOwners": {"tag:web": [], "tag:a": [], "tag:b": []}, "autoApprovers": {"routes": {"10.33.0.0/16": ["tag:a", "tag:b"]}},
			"grants": [
				{"src": ["tag:web"], "dst": ["10.33.0.0/16"], "ip": ["tcp:443"], "via": ["tag:b"]},
				{"src": ["tag:web"], "dst": ["10.33.0.0/16"], "ip": ["tcp:443"], "via": ["tag:a"]}]}`, "c0ffee0000000000000000000000000000000002")
		n.reload("")
		n.run()
		client := n.device("client").joinTagged("tag:web").connect()
		defer client.alive()()
		defer n.router("ra", prefixes("10.33.0.0/16"), "tag:a").alive()()
		client.waitWays("ra 10.33.0.0/16")
		time.Sleep(time.Minute)
		rb := n.router("rb", prefixes("10.33.0.0/16"), "tag:b")
		stop := rb.alive()
		client.waitWays("rb 10.33.0.0/16")
		stop()
		rb.session.Close()
		client.waitWays("ra 10.33.0.0/16")
		rb.connect()
		defer rb.alive()()
		client.waitWays("rb 10.33.0.0/16")
	})
}

func TestRouteStates(t *testing.T) {
	n, _ := routeNet(t, routesPolicy(approved))
	n.router("r1", prefixes("10.33.0.0/16", "10.40.0.0/16", "0.0.0.0/0"), "tag:router")
	n.router("r2", prefixes("10.33.0.0/16", "0.0.0.0/0"), "tag:router")
	if _, err := n.ApproveRoutes(n.ctx, operator, "r2", prefixes("10.50.0.0/16")); err != nil {
		t.Fatal(err)
	}
	if _, err := n.RevokeRoutes(n.ctx, operator, "r2", prefixes("0.0.0.0/0")); err != nil {
		t.Fatal(err)
	}
	routes, err := n.Routes(n.ctx, operator)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range routes {
		got = append(got, strings.Join([]string{r.Route.String(), r.Name, string(r.State), r.Approved}, " "))
	}
	want := []string{"0.0.0.0/0 r1 serving policy", "0.0.0.0/0 r2 revoked ", "10.33.0.0/16 r1 serving policy", "10.33.0.0/16 r2 standby policy",
		"10.40.0.0/16 r1 waiting ", "10.50.0.0/16 r2 unserved operator"}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Who serves a network keeps it, whoever has been there longer for other things, or waited longer for approval.
func TestNewcomersTakeNothing(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		n.policy.set(routesPolicy(`"routes": {"10.33.0.0/16": ["tag:router"]}`), "c0ffee0000000000000000000000000000000002")
		n.reload("")
		client := n.device("client").joinTagged("tag:web").connect()
		older := n.router("older", prefixes("10.40.0.0/16"), "tag:router")
		waiting := n.router("waiting", prefixes("10.33.0.0/16"), "tag:db")
		time.Sleep(time.Minute)
		n.router("r1", prefixes("10.33.0.0/16"), "tag:router")
		client.waitWays("r1 10.33.0.0/16")
		time.Sleep(time.Minute)
		older.routes = prefixes("10.33.0.0/16", "10.40.0.0/16")
		if err := older.session.Report(n.ctx, older.report()); err != nil {
			t.Fatal(err)
		}
		client.until("the older router", hasPeer("older"))
		client.waitWays("r1 10.33.0.0/16")
		if _, err := n.ApproveRoutes(n.ctx, operator, "waiting", waiting.routes); err != nil {
			t.Fatal(err)
		}
		client.until("the one that waited", hasPeer("waiting"))
		client.waitWays("r1 10.33.0.0/16")
	})
}

// A router may reach other networks through others, and what it serves by itself alone.
func TestRouterIsSentToNobodyForItsOwn(t *testing.T) {
	n := newNet(t)
	n.policy.set(`{"tagOwners": {"tag:web": [], "tag:router": []}, "autoApprovers": {"routes": {"10.0.0.0/8": ["tag:router"]}, "exitNode": ["tag:router"]},
		"grants": [{"src": ["tag:router"], "dst": ["10.0.0.0/8", "autogroup:internet"], "ip": ["tcp:443"]}]}`, "c0ffee0000000000000000000000000000000002")
	n.reload("")
	r1 := n.router("r1", prefixes("10.33.0.0/16", "0.0.0.0/0"), "tag:router")
	r2 := n.router("r2", prefixes("10.33.0.0/16", "10.34.0.0/16", "0.0.0.0/0"), "tag:router")
	r1.waitWays("r2 10.34.0.0/16")
	r2.waitWays()
	if !hasPeer("r1")(r2.content) {
		t.Error("the two do not know each other: this test proves nothing")
	}
}

// Whoever is there is no way for a node that no rule leads through it.
func TestFailoverGoesNoWayThatNoRuleLeads(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		n.policy.set(`{"tagOwners": {"tag:web": [], "tag:a": [], "tag:b": []}, "autoApprovers": {"routes": {"10.33.0.0/16": ["tag:a", "tag:b"]}},
			"grants": [
				{"src": ["tag:web"], "dst": ["tag:a"], "ip": ["tcp:22"]},
				{"src": ["tag:web"], "dst": ["10.33.0.0/16"], "ip": ["tcp:443"], "via": ["tag:b"]}]}`, "c0ffee0000000000000000000000000000000002")
		n.reload("")
		n.run()
		client := n.device("client").joinTagged("tag:web").connect()
		defer client.alive()()
		defer n.router("ra", prefixes("10.33.0.0/16"), "tag:a").alive()()
		rb := n.router("rb", prefixes("10.33.0.0/16"), "tag:b")
		client.until("ra", hasPeer("ra"))
		client.waitWays("rb 10.33.0.0/16")
		rb.session.Close()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if !slices.Contains(n.actions(), "route.away") {
			t.Fatal("nothing is handed over: this test proves nothing")
		}
		client.until("word of it", func(protocol.Content) bool { return client.generation > rb.generation })
		client.waitWays("rb 10.33.0.0/16")
	})
}

// A policy that no longer approves a router cuts what goes through it, whatever its grants: the breaker counts that.
func TestImpactOfAnApprovalThatEnds(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		n.policy.set(routesPolicy(approved), "c0ffee0000000000000000000000000000000002")
		n.reload("")
		client := n.device("client").joinTagged("tag:web").talk()
		r := n.device("r1")
		r.routes = prefixes("10.33.0.0/16")
		router := r.joinTagged("tag:router").talk()
		behind := netip.MustParseAddr("10.33.0.9")
		client.set(func() {
			client.flows = append(client.flows, protocol.FlowCount{Peer: r.node(), Out: true, Local: client.admitted.Addresses[0], Remote: behind, Proto: acl.TCP, Port: 443, Count: 3})
		})
		router.set(func() {
			router.flows = append(router.flows, protocol.FlowCount{Peer: client.node(), Local: behind, Remote: client.admitted.Addresses[0], Proto: acl.TCP, Port: 443, Count: 3})
		})
		if got := n.impact(routesPolicy(approved)); got.Live != 3 || got.Cut != 0 {
			t.Errorf("the same policy: %+v", got)
		}
		if got := n.impact(routesPolicy("")); got.Live != 3 || got.Cut != 3 {
			t.Errorf("a policy that approves nothing: %+v", got)
		}
	})
}
