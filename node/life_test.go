package node

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/control"
	"picket.internal/node/localapi"
	"picket.internal/wgtun/filter"
	"picket.internal/wgtun/key"
)

// TestAskFlows: the coordinator's question is answered from the tunnel, bounded as it asks, and not more often than each 100 ms.
func TestAskFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		ask := func(id uint64, max int) protocol.Flows {
			t.Helper()
			before := len(w.session().flows)
			w.handler().OnAskFlows(protocol.AskFlows{Ask: id, Max: max})
			if len(w.session().flows) == before {
				return protocol.Flows{}
			}
			return w.session().flows[before]
		}
		w.overlay().census = filter.Census{Total: 9, Counts: []filter.FlowCount{
			{Peer: "p1", Local: addrs("100.64.0.1")[0], Remote: addrs("100.64.0.2")[0], Out: true, Proto: acl.TCP, Port: 22, Count: 4},
			{Peer: "p1", Local: addrs("100.64.0.1")[0], Remote: addrs("100.64.0.2")[0], Proto: acl.UDP, Port: 53, Count: 5},
		}}
		got := ask(7, 10)
		want := protocol.Flows{Ask: 7, Total: 9, Flows: []protocol.FlowCount{
			{Peer: "p1", Local: addrs("100.64.0.1")[0], Remote: addrs("100.64.0.2")[0], Out: true, Proto: acl.TCP, Port: 22, Count: 4},
			{Peer: "p1", Local: addrs("100.64.0.1")[0], Remote: addrs("100.64.0.2")[0], Proto: acl.UDP, Port: 53, Count: 5},
		}}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %+v", got)
		}
		if got := ask(8, 10); got.Ask != 0 {
			t.Errorf("asked twice at once, it answered %+v", got)
		}
		time.Sleep(askEvery)
		if got := ask(9, 1); got.Ask != 9 || len(got.Flows) != 1 || !got.Truncated || got.Total != 9 {
			t.Errorf("asked for one entry: %+v", got)
		}
		if err := w.api().Down(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		time.Sleep(askEvery)
		if got := ask(10, 10); got.Ask != 10 || got.Total != 0 {
			t.Errorf("without a tunnel: %+v", got)
		}
	})
}

func TestLease_lapsesAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		a := newPeer("a", "100.64.0.2")
		c := content(a.entry())
		w.send(w.signed(5, c))
		if s := w.overlay().last(); time.Until(s.NotAfter).Round(time.Second) != 12*time.Hour {
			t.Errorf("the tunnel's lease ends in %s, want 12h", time.Until(s.NotAfter))
		}
		w.handler().OnDisconnected(errors.New("cannot reach the coordinator"))
		time.Sleep(12*time.Hour - time.Minute)
		if s := w.status(); s.State != localapi.StateRunning || !strings.Contains(strings.Join(s.Warnings, ""), "not reached") || s.Connected {
			t.Errorf("within the lease: %s, warnings %v", s.State, s.Warnings)
		}
		time.Sleep(2 * time.Minute)
		if s := w.status(); s.State != localapi.StateLapsed || !strings.Contains(s.Problem, "nothing passes") {
			t.Errorf("after the lease: %s, %q", s.State, s.Problem)
		}
		if s := w.overlay().last(); len(s.Peers) > 0 || s.Rules != nil {
			t.Errorf("after the lease peers are in force: %v", nodesOf(s))
		}
		w.connect(0)
		c.Peers = []protocol.Peer{a.entry()} // a certificate of today
		w.send(w.signed(6, c))
		w.wantState(localapi.StateRunning)
		if s := w.overlay().last(); !slices.Equal(nodesOf(s), []acl.NodeID{"a"}) {
			t.Errorf("back in contact: %v", nodesOf(s))
		}
	})
}

// TestLease_lapsesInSleep: a host that sleeps through the end of its lease out of the coordinator's reach trusts the map no more when it
// wakes. Timers and the monotonic clock stood still meanwhile.
func TestLease_lapsesInSleep(t *testing.T) {
	for _, test := range []struct {
		outcome string
		slept   time.Duration
		want    localapi.State
	}{
		{"no sleep, but for how the clocks are read", shortestSleep - 1, localapi.StateRunning},
		{"awake before the lease ends", 11 * time.Hour, localapi.StateRunning},
		{"past the lease", 12 * time.Hour, localapi.StateLapsed},
	} {
		t.Run(test.outcome, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.join()
				var slept atomic.Int64
				w.node.do(w.run, func() {
					w.node.clock.asleep = func() time.Duration { return time.Duration(slept.Load()) }
					w.node.clock = w.node.clock.set(0)
				})
				w.send(w.signed(5, content(newPeer("a", "100.64.0.2").entry())))
				w.handler().OnDisconnected(errors.New("cannot reach the coordinator"))
				slept.Store(int64(test.slept))
				time.Sleep(2 * retryEvery)
				w.wantState(test.want)
				if s := w.overlay().last(); (len(s.Peers) > 0) != (test.want == localapi.StateRunning) {
					t.Errorf("peers in force: %v", nodesOf(s))
				}
			})
		})
	}
}

// TestLease_renewed: the same generation signed anew with a later end.
func TestLease_renewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		c := content()
		first := w.signed(5, c)
		w.send(first)
		time.Sleep(6 * time.Hour)
		w.send(w.signed(5, c))
		w.send(first) // replayed: it must not shorten, nor count as news
		if s := w.overlay().last(); time.Until(s.NotAfter).Round(time.Second) != 12*time.Hour {
			t.Errorf("the lease ends in %s, want 12h from now", time.Until(s.NotAfter))
		}
	})
}

// TestDeadlines_useTheCoordinatorsTime: this host's clock is 3 minutes ahead, within what is tolerated.
func TestDeadlines_useTheCoordinatorsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ahead = 3 * time.Minute
		w := newWorld(t)
		w.join()
		w.connect(ahead)
		theirs := time.Now().Add(-ahead)
		c := content(newPeer("a", "100.64.0.2").entry())
		c.Rules[0].Until = theirs.Add(time.Hour).UnixMilli()
		c.Denies = []acl.Rule{c.Rules[0]}
		e, _ := c.Encode()
		w.send(w.sign(w.key, protocol.Header{Network: testNetwork, Node: selfID, Generation: 5, Issued: theirs.UTC(), NotAfter: theirs.Add(time.Hour).UTC()}, e))
		s := w.overlay().last()
		if got := time.Until(s.NotAfter); got.Round(time.Second) != time.Hour {
			t.Errorf("the lease ends in %s, want 1h", got)
		}
		if len(s.Rules.Denies) != 1 || s.Rules.Denies[0].Until != s.Rules.Rules[0].Until {
			t.Errorf("the tunnel is handed the denies %+v", s.Rules.Denies)
		}
		if got := time.Until(time.UnixMilli(s.Rules.Rules[0].Until)); got.Round(time.Second) != time.Hour {
			t.Errorf("the rule ends in %s by this host's clock, want 1h", got)
		}
	})
}

func TestExpiry_endsOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		a, b := newPeer("a", "100.64.0.2"), newPeer("b", "100.64.0.3")
		short := a.entry()
		short.Expires = time.Now().Add(time.Hour)
		c := content(short, b.entry())
		c.Self.Expires = time.Now().Add(2 * time.Hour)
		w.send(w.signed(5, c))
		time.Sleep(time.Hour + time.Second)
		if s := w.overlay().last(); !slices.Equal(nodesOf(s), []acl.NodeID{"b"}) {
			t.Errorf("a second after a's login ended: %v", nodesOf(s))
		}
		time.Sleep(time.Hour)
		w.wantState(localapi.StateExpired)
		if !w.overlay().isClosed() || len(w.overlay().last().Peers) > 0 {
			t.Error("the tunnel outlived this node's login")
		}
	})
}

// TestRemoved_cutsAndForgetsKeys covers every way a coordinator ends an admission.
func TestRemoved_cutsAndForgetsKeys(t *testing.T) {
	for code, want := range map[string]localapi.State{
		protocol.CodeRemoved: localapi.StateRemoved, protocol.CodeUnknownNode: localapi.StateRemoved, protocol.CodeExpired: localapi.StateExpired,
	} {
		t.Run(code, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.join()
				w.send(w.signed(5, content(newPeer("a", "100.64.0.2").entry())))
				before := w.node.id.node
				if !w.handler().OnProblem(protocol.Problem{Code: code}) {
					t.Error("the session goes on")
				}
				w.wantState(want)
				if s := w.overlay().last(); len(s.Peers) > 0 || !w.overlay().isClosed() {
					t.Errorf("still there: %v, closed %v", nodesOf(s), w.overlay().isClosed())
				}
				w.stop()
				w.start()
				w.wantState(want)
				after := w.node.id.node
				if after.Device != before.Device || after.Tunnel == before.Tunnel || after.Probe == before.Probe || len(after.Certificate) > 0 {
					t.Error("want the same device key, and other tunnel and probe keys")
				}
				if len(w.overlays) != 1 || len(w.sessions) != 1 {
					t.Error("a node whose admission is over opened a tunnel or a session")
				}
			})
		})
	}
}

func TestClock_offMeansNoTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		w.send(w.signed(5, content(newPeer("a", "100.64.0.2").entry())))
		w.handler().OnDisconnected(&control.ClockError{Ahead: time.Hour})
		if s := w.status(); s.State != localapi.StateRefused || !strings.Contains(s.Problem, "clock is 1h0m0s ahead") {
			t.Errorf("state %s, %q", s.State, s.Problem)
		}
		if !w.overlay().isClosed() || len(w.overlay().last().Peers) > 0 {
			t.Error("the tunnel is still open")
		}
		time.Sleep(time.Minute)
		if len(w.overlays) != 1 {
			t.Error("the tunnel was opened again while the clock is off")
		}
		w.connect(0)
		w.wantState(localapi.StateRunning)
		if s := w.overlay().last(); len(w.overlays) != 2 || !slices.Equal(nodesOf(s), []acl.NodeID{"a"}) {
			t.Errorf("with the clock set right: %d tunnels, %v", len(w.overlays), nodesOf(s))
		}
	})
}

// TestFit_failureRefusesEverything: without the guard on the host nothing may pass (R21), neither at the start nor later.
func TestFit_failureRefusesEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		w.send(w.signed(5, content(newPeer("a", "100.64.0.2").entry())))
		set := func(err error) {
			w.overlay().mu.Lock()
			defer w.overlay().mu.Unlock()
			w.overlay().fitErr = err
		}
		set(errors.New("the guard in nftables cannot be set: load nf_tables"))
		time.Sleep(retryEvery + time.Second)
		if s := w.status(); s.State != localapi.StateRefused || !strings.Contains(s.Problem, "nf_tables") {
			t.Errorf("state %s, %q", s.State, s.Problem)
		}
		if s := w.overlay().last(); len(s.Peers) > 0 {
			t.Errorf("without the guard peers are in force: %v", nodesOf(s))
		}
		receipts := len(w.session().receipts)
		w.send(w.signed(6, content(newPeer("b", "100.64.0.3").entry())))
		if s := w.overlay().last(); len(s.Peers) > 0 || len(w.session().receipts) != receipts {
			t.Errorf("a map came into force without the guard: %v", nodesOf(s))
		}
		set(nil)
		time.Sleep(retryEvery + time.Second)
		w.wantState(localapi.StateRunning)
		if s := w.overlay().last(); !slices.Equal(nodesOf(s), []acl.NodeID{"b"}) {
			t.Errorf("with the guard: %v", nodesOf(s))
		}
		if r := w.session().receipts; len(r) != receipts+1 || r[receipts].Generation != 6 || r[receipts].Applied < retryEvery-time.Second {
			t.Errorf("receipts once the guard stands: %+v, want one more, of generation 6", r)
		}
	})
}

// TestApply_refusedEndsWhatTheLastMapAllowed: a map that came through the door but that the tunnel refuses whole must not leave an older one
// in force, which may allow what this one takes away.
func TestApply_refusedEndsWhatTheLastMapAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		a, b := newPeer("a", "100.64.0.2"), newPeer("b", "100.64.0.3")
		w.send(w.signed(5, content(a.entry(), b.entry())))
		w.overlay().refuses = 6
		w.send(w.signed(6, content(b.entry())))
		if s := w.overlay().last(); len(s.Peers) > 0 || s.Rules != nil {
			t.Errorf("in force: generation %d, peers %v", s.Generation, nodesOf(s))
		}
		if s := w.status(); s.State != localapi.StateRefused || !strings.Contains(s.Problem, "nothing passes until there is another") {
			t.Errorf("state %s, %q", s.State, s.Problem)
		}
		if n := len(w.session().receipts); n != 1 {
			t.Errorf("%d receipts, want only the one of generation 5", n)
		}
		w.send(w.signed(7, content(b.entry())))
		w.wantState(localapi.StateRunning)
		if s := w.overlay().last(); !slices.Equal(nodesOf(s), []acl.NodeID{"b"}) {
			t.Errorf("the next sound map: %v", nodesOf(s))
		}
	})
}

func TestOverlay_openedAgainWhenDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		w.send(w.signed(5, content(newPeer("a", "100.64.0.2").entry())))
		w.overlay().kill <- errors.New("interface gone")
		w.wantState(localapi.StateRefused)
		time.Sleep(retryEvery)
		w.wantState(localapi.StateRunning)
		if s := w.overlay().last(); len(w.overlays) != 2 || !slices.Equal(nodesOf(s), []acl.NodeID{"a"}) {
			t.Errorf("%d tunnels, %v", len(w.overlays), nodesOf(s))
		}
	})
}

func TestCertificate_renewedAtHalfItsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		open := func() key.Certificate {
			s := w.session()
			s.mu.Lock()
			defer s.mu.Unlock()
			r := s.config.Report
			if len(s.reports) > 0 {
				r = s.reports[len(s.reports)-1]
			}
			c, err := key.OpenCertificate(r.Certificate, string(selfID), w.node.id.node.Device.Public(), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		first := open()
		if first.Tunnel != w.node.id.node.Tunnel.Public() || first.Probe != w.node.id.node.Probe.Public() {
			t.Error("the certificate is for other keys")
		}
		time.Sleep(23 * time.Hour)
		if c := open(); c.Serial != first.Serial {
			t.Error("renewed before half of its life was gone")
		}
		time.Sleep(2 * time.Hour)
		if c := open(); c.Serial != first.Serial+1 {
			t.Errorf("serial %d, want %d", c.Serial, first.Serial+1)
		}
	})
}

func TestDownAndUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		a := newPeer("a", "100.64.0.2")
		w.send(w.signed(5, content(a.entry())))
		socket := w.api()
		if err := socket.Down(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.wantState(localapi.StateDown)
		if !w.overlay().isClosed() || len(w.overlay().last().Peers) > 0 {
			t.Error("down left the tunnel open")
		}
		w.stop()
		w.start()
		w.wantState(localapi.StateDown) // as the user left it
		var last localapi.UpEvent
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.api().Up(t.Context(), localapi.Up{}, func(e localapi.UpEvent) { last = e })
		}()
		<-done // within the lease the map held is enough, without the coordinator
		if last.Done == nil || last.Done.State != localapi.StateRunning {
			t.Errorf("up ended with %+v", last)
		}
	})
}

func TestLogout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		w.send(w.signed(5, content(newPeer("a", "100.64.0.2").entry())))
		before := w.node.id.node
		socket := w.api()
		w.session().logoutErr = errors.New("not connected")
		if err := socket.Logout(t.Context()); err == nil || !strings.Contains(err.Error(), "ask its operator") {
			t.Errorf("the coordinator was not told: %v", err)
		}
		w.wantState(localapi.StateLoggedOut)
		after := w.node.id.node
		if after.Node != "" || after.URL != "" || after.Tunnel == before.Tunnel || after.Device != before.Device || !w.overlay().isClosed() {
			t.Errorf("after logout: node %q, URL %q", after.Node, after.URL)
		}
		if _, ok, err := w.node.id.dir.Map(); ok || err != nil {
			t.Errorf("the map is still on disk: %v, %v", ok, err)
		}
		if err := socket.Logout(t.Context()); err == nil {
			t.Error("a second logout has nothing to do and should say so")
		}
	})
}

// collect runs Up to its end, or until it waits.
func (w *world) up(u localapi.Up) *[]localapi.UpEvent {
	events := new([]localapi.UpEvent)
	go w.api().Up(w.t.Context(), u, func(e localapi.UpEvent) { *events = append(*events, e) })
	synctest.Wait()
	return events
}

func TestUp_refuses(t *testing.T) {
	for _, test := range []struct {
		outcome string
		up      localapi.Up
		prepare func(w *world)
		want    string
	}{
		{"no coordinator known", localapi.Up{}, nil, "picket up --coordinator"},
		{"join string over http", localapi.Up{Coordinator: "http://c.example"}, nil, "use https"},
		{"mistyped auth key", localapi.Up{Coordinator: testURL, AuthKey: "picket-kex-0123456789abcdef"}, nil, "no auth key"},
		{"host name with a space", localapi.Up{Coordinator: testURL, Hostname: "my laptop"}, nil, "cannot be a node's name"},
		{"host name with an escape sequence", localapi.Up{Coordinator: testURL, Hostname: "a\x1b[31m"}, nil, `\x1b[31m`},
		{"host name of 300 characters", localapi.Up{Coordinator: testURL, Hostname: strings.Repeat("a", 300)}, nil, "1 to 63"},
		{"key unknown to the coordinator", localapi.Up{Coordinator: testURL, AuthKey: testAuthKey},
			func(w *world) {
				w.client.err = &control.ProblemError{Problem: protocol.Problem{Code: protocol.CodeAuthKey, Message: "the auth key was revoked: ask for another"}}
			}, "revoked"},
		{"wrong fingerprint", localapi.Up{Coordinator: testURL},
			func(w *world) {
				w.client.err = &control.Error{Kind: control.ErrWrongKey, Message: "the coordinator has another key"}
			}, "another key"},
		{"no place for the tunnel on this host", localapi.Up{Coordinator: testURL},
			func(w *world) { w.openErr = errors.New("this host has no /dev/net/tun: load the kernel module tun") }, "/dev/net/tun"},
	} {
		t.Run(test.outcome, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.start()
				if test.prepare != nil {
					test.prepare(w)
				}
				events := *w.up(test.up)
				if len(events) != 1 || !strings.Contains(events[0].Error, test.want) {
					t.Errorf("events %+v, want one error with %q", events, test.want)
				}
				if strings.Contains(events[0].Error, "\x1b") {
					t.Error("an escape sequence reached the message")
				}
				w.wantState(localapi.StateLoggedOut)
				if len(w.overlays) > 0 && !w.overlay().isClosed() {
					t.Error("the tunnel opened ahead was left open")
				}
			})
		})
	}
}

func TestUp_refusesAnotherNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		w.send(w.signed(5, content()))
		for _, join := range []string{"https://other.example", testURL + "#" + key.NewCoordinator().Public().Fingerprint().String()} {
			if events := *w.up(localapi.Up{Coordinator: join}); len(events) != 1 || !strings.Contains(events[0].Error, "picket logout") {
				t.Errorf("%s: %+v", join, events)
			}
		}
		w.wantState(localapi.StateRunning)
	})
}

func TestUp_byLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		w.client.ticket = &protocol.Ticket{URL: testURL + "/join/1\x1b", Code: "BCDF-2345", Expires: time.Now().Add(10 * time.Minute)}
		events := w.up(localapi.Up{Coordinator: testURL, Hostname: "laptop"})
		if len(*events) != 1 || (*events)[0].Login == nil || (*events)[0].Login.URL != testURL+"/join/1" {
			t.Fatalf("events %+v, want the login, printable", *events)
		}
		s := w.status()
		if s.State != localapi.StateLogin || s.LoginCode != "BCDF-2345" || len(w.overlays) != 1 {
			t.Errorf("state %s, code %q, %d tunnels opened ahead", s.State, s.LoginCode, len(w.overlays))
		}
		if second := *w.up(localapi.Up{}); len(second) != 1 || !strings.Contains(second[0].Error, "another picket up") {
			t.Errorf("a second up: %+v", second)
		}
		close(w.client.approved)
		synctest.Wait()
		w.connect(0)
		w.send(w.signed(5, content()))
		if last := (*events)[len(*events)-1]; last.Done == nil || last.Done.Name != "me" {
			t.Errorf("the last event is %+v", last)
		}
		if len(w.overlays) != 1 || w.client.hostnames[0] != "laptop" {
			t.Errorf("%d tunnels, host names %v", len(w.overlays), w.client.hostnames)
		}
	})
}

func TestUp_deniedThenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		w.client.ticket = &protocol.Ticket{URL: testURL, Code: "BCDF-2345", Expires: time.Now().Add(10 * time.Minute)}
		w.client.waitErr = &control.TicketError{State: protocol.TicketDenied, Message: "the request to join was denied"}
		close(w.client.approved)
		if events := *w.up(localapi.Up{Coordinator: testURL}); len(events) != 2 || !strings.Contains(events[1].Error, "denied") {
			t.Errorf("events %+v", events)
		}
		w.wantState(localapi.StateLoggedOut)
		if !w.overlay().isClosed() || len(w.sessions) != 0 {
			t.Error("a denied node keeps a tunnel or a session")
		}
	})
}

// TestHints_neverLeadThroughTheOverlay: neither with the map nor beside it, and hints for strangers are bounded.
func TestHints_neverLeadThroughTheOverlay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		outside, inside := netip.MustParseAddrPort("192.0.2.7:41641"), netip.MustParseAddrPort("100.64.0.9:41641")
		w.handler().OnHints(protocol.Hints{Hints: []protocol.Hint{{Node: "a", Endpoints: []netip.AddrPort{inside, outside}, Online: true}}})
		w.send(w.signed(5, content(newPeer("a", "100.64.0.2").entry())))
		if len(w.overlay().last().Overlay) == 0 {
			t.Error("the tunnel, which was opened before the map came, is not told where the overlay is")
		}
		want := []netip.AddrPort{outside}
		if got := w.overlay().last().Peers[0].Candidates; !slices.Equal(got, want) {
			t.Errorf("with the map: %v, want %v", got, want)
		}
		w.handler().OnHints(protocol.Hints{Hints: []protocol.Hint{{Node: "a", Endpoints: []netip.AddrPort{inside, outside}, Online: true}}})
		if got := w.overlay().hints["a"]; !slices.Equal(got, want) {
			t.Errorf("beside the map: %v, want %v", got, want)
		}
		for i := range 2 * maxHints {
			w.handler().OnHints(protocol.Hints{Hints: []protocol.Hint{{Node: acl.NodeID(fmt.Sprint("x", i))}}})
		}
		if n := len(w.node.map_.hints); n > maxHints+1 {
			t.Errorf("%d hints are kept", n)
		}
		w.stop()
		w.start()
		if got := w.overlay().last().Peers[0].Candidates; !slices.Equal(got, want) {
			t.Errorf("after a restart: %v, want %v", got, want)
		}
	})
}

// TestPort_isTakenAgain: what peers and NATs know of this node holds over a restart.
func TestPort_isTakenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		if p := w.overlay().config.port; p != 0 {
			t.Fatalf("the first time port %d was asked for, want the system's choice", p)
		}
		w.stop()
		w.start()
		if p := w.overlay().config.port; p != 41641 {
			t.Errorf("port %d was asked for, want the last one again", p)
		}
	})
}
