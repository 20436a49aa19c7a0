package node

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/control"
	"picket.internal/node/hostnet"
	"picket.internal/node/localapi"
)

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func (p *peer) router(routes ...string) protocol.Peer {
	e := p.entry()
	e.Routes = prefixes(routes...)
	return e
}

func (w *world) set(c localapi.ChangeRouting) (localapi.Status, error) {
	s, err := w.api().Set(w.t.Context(), c)
	synctest.Wait()
	return s, err
}

func (w *world) mustSet(c localapi.ChangeRouting) {
	w.t.Helper()
	if _, err := w.set(c); err != nil {
		w.t.Fatal(err)
	}
}

// hasRoutes lists what the tunnel was told, "PEER ROUTE" each; the rules must know the same.
func (w *world) hasRoutes() (out []string) {
	w.t.Helper()
	s := w.overlay().last()
	var known []string
	for _, n := range s.Rules.Subjects {
		for _, r := range n.Routes {
			known = append(known, string(n.Node)+" "+r.String())
		}
	}
	for _, p := range s.Peers {
		for _, r := range p.Routes {
			out = append(out, string(p.Node)+" "+r.String())
		}
	}
	slices.Sort(out)
	known = slices.DeleteFunc(known, func(s string) bool { return strings.HasPrefix(s, string(selfID)) })
	if slices.Sort(known); !slices.Equal(out, known) {
		w.t.Errorf("the tunnel has %v, its rules know %v", out, known)
	}
	return out
}

func (w *world) wantRoutes(when string, host hostnet.Config, want ...string) {
	w.t.Helper()
	if got := w.hasRoutes(); !slices.Equal(got, want) {
		w.t.Errorf("%s: the tunnel has %v, want %v", when, got, want)
	}
	got := w.overlay().host
	if !slices.Equal(got.Routes, host.Routes) || got.Exit != host.Exit || !slices.Equal(got.Served, host.Served) || got.KeepSource != host.KeepSource {
		w.t.Errorf("%s: the host has %+v, want %+v", when, got, host)
	}
}

func yes() *bool                                { v := true; return &v }
func no() *bool                                 { v := false; return &v }
func to[T any](v T) *T                          { return &v }
func none() *string                             { return to("") }
func advertise(texts ...string) *[]netip.Prefix { return to(prefixes(texts...)) }

// TestRoutes_areUsedAsFarAsTheUserWants sends a map with routers and exit nodes.
func TestRoutes_areUsedAsFarAsTheUserWants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		router, vps, other := newPeer("router", "100.64.0.2"), newPeer("vps", "100.64.0.3"), newPeer("other", "100.64.0.4")
		c := content(router.router("10.33.0.0/16", "0.0.0.0/0"), vps.router("0.0.0.0/0", "::/0", "10.40.0.0/16"), other.router("::/0"))
		w.send(w.signed(5, c))
		w.wantRoutes("before anything was asked for", hostnet.Config{})
		w.mustSet(localapi.ChangeRouting{Accept: yes()})
		w.wantRoutes("with --accept-routes", hostnet.Config{Routes: prefixes("10.33.0.0/16", "10.40.0.0/16")}, "router 10.33.0.0/16", "vps 10.40.0.0/16")
		w.mustSet(localapi.ChangeRouting{Exit: to("VPS")})
		w.wantRoutes("with an exit node", hostnet.Config{Routes: prefixes("10.33.0.0/16", "10.40.0.0/16"), Exit: hostnet.ExitNotLAN},
			"router 10.33.0.0/16", "vps 0.0.0.0/0", "vps 10.40.0.0/16", "vps ::/0")
		w.mustSet(localapi.ChangeRouting{Exit: to("100.64.0.4"), Accept: no(), ExitLAN: yes()})
		w.wantRoutes("with another, by its address", hostnet.Config{Exit: hostnet.ExitWithLAN}, "other ::/0")
		w.stop()
		w.start()
		w.wantRoutes("after a restart", hostnet.Config{Exit: hostnet.ExitWithLAN}, "other ::/0")
		w.mustSet(localapi.ChangeRouting{Exit: none()})
		w.wantRoutes("with none", hostnet.Config{})
	})
}

// TestExit_isKnownByItsID: another node takes the name of the exit node over, and then nothing is sent to it, nor anywhere else.
func TestExit_isKnownByItsID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		vps, usurper := newPeer("vps", "100.64.0.2"), newPeer("usurper", "100.64.0.3")
		w.mustSet(localapi.ChangeRouting{Exit: to("vps")}) // there is no map yet
		w.send(w.signed(5, content(vps.router("0.0.0.0/0"))))
		w.wantRoutes("by its name", hostnet.Config{Exit: hostnet.ExitNotLAN}, "vps 0.0.0.0/0")
		evil := usurper.router("0.0.0.0/0")
		evil.Name = "vps"
		w.send(w.signed(6, content(evil)))
		w.wantRoutes("with its name at another", hostnet.Config{Exit: hostnet.ExitNotLAN})
		if s := w.status(); !strings.Contains(strings.Join(s.Warnings, " "), "no exit node for this node now") {
			t.Errorf("nobody is told: %v", s.Warnings)
		}
	})
}

// TestExit_blocksWhileTheTunnelIsClosed for a trouble that passes; when the user ends it, the host gets its own way back.
func TestExit_blocksWhileTheTunnelIsClosed(t *testing.T) {
	for trouble, cause := range map[string]func(*world){
		"the coordinator says that the clock is off": func(w *world) {
			w.handler().OnProblem(protocol.Problem{Code: protocol.CodeClock, Message: "set the clock"})
		},
		"the node sees that the clock is off": func(w *world) {
			w.handler().OnDisconnected(&control.Error{Kind: control.ErrClock, Message: "set the clock"})
		},
	} {
		t.Run(trouble, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { blocksFor(t, cause) })
		})
	}
}

func blocksFor(t *testing.T, cause func(*world)) {
	w := newWorld(t)
	w.join()
	w.send(w.signed(5, content(newPeer("vps", "100.64.0.2").router("0.0.0.0/0"))))
	w.mustSet(localapi.ChangeRouting{Exit: to("vps")})
	cause(w)
	synctest.Wait()
	if o := w.overlay(); !o.isClosed() || !o.blocked || w.cleaned != 0 {
		t.Fatalf("closed %v, blocked %v, cleaned %d", o.isClosed(), o.blocked, w.cleaned)
	}
	if err := w.api().Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	if w.cleaned != 1 {
		t.Errorf("after picket down, what was left behind was taken back %d times", w.cleaned)
	}
}

// TestServes_whatItAdvertisesAlone: a coordinator cannot make a router of a node.
func TestServes_whatItAdvertisesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		c := content(newPeer("a", "100.64.0.2").entry())
		c.Self.Routes = prefixes("10.33.0.0/16", "192.168.0.0/16", "0.0.0.0/0")
		w.send(w.signed(5, c))
		w.wantRoutes("unasked", hostnet.Config{})
		w.mustSet(localapi.ChangeRouting{Advertise: advertise("10.33.0.0/16", "10.34.0.0/16"), SNAT: no()})
		w.wantRoutes("as asked", hostnet.Config{Served: prefixes("10.33.0.0/16"), KeepSource: true})
		for _, n := range w.overlay().last().Rules.Subjects {
			if n.Node == selfID && !slices.Equal(n.Routes, prefixes("10.33.0.0/16")) {
				t.Errorf("the rules have this node serve %v", n.Routes)
			}
		}
		reports := w.session().reports
		if got := reports[len(reports)-1].Routes; !slices.Equal(got, prefixes("10.33.0.0/16", "10.34.0.0/16")) {
			t.Errorf("the coordinator is told %v", got)
		}
		s := w.status()
		want := []localapi.Served{{Route: netip.MustParsePrefix("10.33.0.0/16"), Approved: true}, {Route: netip.MustParsePrefix("10.34.0.0/16")}}
		if !slices.Equal(s.Routing.Serves, want) {
			t.Errorf("the status has %v", s.Routing.Serves)
		}
	})
}

func TestSetRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		w.send(w.signed(5, content(newPeer("vps", "100.64.0.2").router("0.0.0.0/0"), newPeer("db", "100.64.0.3").entry())))
		many := make([]netip.Prefix, 0, 63)
		for i := range 63 {
			many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 16))
		}
		for want, c := range map[string]localapi.ChangeRouting{
			"has bits beyond its length":          {Advertise: advertise("10.33.0.1/16")},
			"overlaps the overlay range":          {Advertise: advertise("100.64.7.0/24")},
			"use --advertise-exit-node":           {Advertise: advertise("0.0.0.0/0")},
			"it is loopback":                      {Advertise: advertise("127.0.0.0/8")},
			"at most 62":                          {Advertise: &many},
			"those it may use are vps":            {Exit: to("db")},
			"an exit node cannot use another one": {Exit: to("vps"), AdvertiseExit: yes()},
			"means something with an exit node":   {ExitLAN: yes()},
		} {
			if _, err := w.set(c); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		}
		w.wantRoutes("after refusals", hostnet.Config{})
		w.send(w.signed(6, content(newPeer("x", "100.64.0.9").entry())))
		if _, err := w.set(localapi.ChangeRouting{Exit: to("vps")}); err == nil || !strings.Contains(err.Error(), "there is none that it may use") {
			t.Errorf("without any exit node: %v", err)
		}
	})
}

// TestSetRefuses_withoutAnInterface, and what was set before is not used.
func TestSetRefuses_withoutAnInterface(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		w.send(w.signed(5, content(newPeer("router", "100.64.0.2").router("10.33.0.0/16"))))
		w.mustSet(localapi.ChangeRouting{Accept: yes(), Advertise: advertise("10.40.0.0/16")})
		w.node.config.TUN = Userspace
		if _, err := w.set(localapi.ChangeRouting{Accept: yes()}); err == nil || !strings.Contains(err.Error(), "needs a network interface") {
			t.Errorf("got %v", err)
		}
		w.send(w.signed(6, content(newPeer("router", "100.64.0.2").router("10.33.0.0/16"))))
		w.wantRoutes("without an interface", hostnet.Config{})
		w.mustSet(localapi.ChangeRouting{Accept: no(), Advertise: advertise()})
	})
}

// TestRefusedRouter_isNoWayOut: what lies behind a router that is refused leads into the tunnel, and ends there.
func TestRefusedRouter_isNoWayOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		router := newPeer("router", "100.64.0.2")
		w.send(w.signed(5, content(router.router("10.33.0.0/16"))))
		w.mustSet(localapi.ChangeRouting{Accept: yes()})
		w.send(w.signed(6, content(newPeer("router", "100.64.0.2").router("10.33.0.0/16")))) // another device key
		w.wantRoutes("refused", hostnet.Config{Routes: prefixes("10.33.0.0/16")})
	})
}

// TestWhy_throughRouters asks about addresses behind peers, and behind this node.
func TestWhy_throughRouters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		c := content(newPeer("router", "100.64.0.2").router("10.33.0.0/16"))
		c.Rules = append(c.Rules, acl.Rule{Ref: acl.Ref{Section: "grants", Index: 1, Line: 5, Column: 1}, Src: acl.Set{Roles: []acl.RoleID{1}},
			Dst: acl.Set{Prefixes: prefixes("10.33.0.0/16")}, Ports: []acl.Ports{{Proto: acl.TCP, First: 443, Last: 443}}})
		w.send(w.signed(5, c))
		ask := func(dst string) (localapi.WhyAnswer, error) {
			return w.api().Why(t.Context(), localapi.Why{Dst: dst})
		}
		if _, err := ask("10.33.0.9:443"); err == nil {
			t.Error("the network is not accepted, and there is an answer")
		}
		w.mustSet(localapi.ChangeRouting{Accept: yes()})
		if a, err := ask("10.33.0.9:443"); err != nil || !a.Allow || a.Rule != "grants[1], line 5" {
			t.Errorf("%+v, %v", a, err)
		}
		if a, err := ask("10.33.0.9:22"); err != nil || a.Allow {
			t.Errorf("%+v, %v", a, err)
		}
		if _, err := ask("10.99.0.9:443"); err == nil {
			t.Error("nobody serves that")
		}
	})
}
