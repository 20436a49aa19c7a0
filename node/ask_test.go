package node

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"picket.internal/acl"
	"picket.internal/node/localapi"
)

func TestParseQuestion(t *testing.T) {
	for _, bad := range []string{"", "db", "db:", ":22", "db:0", "db:65536", "db:+22", "db:022", "db:22/nonsense", "db:22/tcp/x", "/icmp", "a:b:22"} {
		if q, err := parseQuestion(bad); err == nil {
			t.Errorf("%q was read as %+v", bad, q)
		}
	}
	for text, want := range map[string]question{
		"db:22":            {"db", acl.TCP, 22},
		"db:53/udp":        {"db", acl.UDP, 53},
		"db/icmp":          {"db", acl.ICMP, 0},
		"[fd7a::1]:22":     {"fd7a::1", acl.TCP, 22},
		"[fd7a::1]/icmp":   {"fd7a::1", acl.ICMP, 0},
		"100.64.0.2:22":    {"100.64.0.2", acl.TCP, 22},
		"100.64.0.2:1/tcp": {"100.64.0.2", acl.TCP, 1},
	} {
		if q, err := parseQuestion(text); err != nil || q != want {
			t.Errorf("%q: %+v, %v; want %+v", text, q, err, want)
		}
	}
}

func TestWhyAndPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		w.send(w.signed(5, content(newPeer("a", "100.64.0.2").entry())))
		socket := w.api()
		for dst, allow := range map[string]bool{"a:22": true, "100.64.0.2:22": true, "A:22": true, "a:23": false, "a:22/udp": false} {
			if got, err := socket.Why(t.Context(), localapi.Why{Dst: dst}); err != nil || got.Allow != allow || (allow && got.Rule == "") || (!allow && got.Reason == "") {
				t.Errorf("why %s: %+v, %v", dst, got, err)
			}
		}
		if got, err := socket.Why(t.Context(), localapi.Why{Dst: "a:23"}); err != nil || !strings.Contains(got.Reason, "me reach a on") {
			t.Errorf("why a:23 does not speak in names: %+v, %v", got, err)
		}
		if got, err := socket.Why(t.Context(), localapi.Why{Src: "a", Dst: "me:22"}); err != nil || got.Allow {
			t.Errorf("why a me:22: %+v, %v", got, err)
		}
		for _, bad := range []localapi.Why{{Dst: "nobody:22"}, {Dst: "100.64.0.77:22"}, {Src: "a", Dst: "a:22"}} {
			if got, err := socket.Why(t.Context(), bad); err == nil {
				t.Errorf("%+v was answered %+v", bad, got)
			}
		}
		got, err := socket.Ping(t.Context(), localapi.Ping{Target: "a"})
		if err != nil || !strings.Contains(got.Error, "refused by the policy") || got.RTT != 0 {
			t.Errorf("ping, which no rule allows: %+v, %v", got, err)
		}
		c := content(newPeer("b", "100.64.0.3").entry())
		c.Rules[0].Ports = append(c.Rules[0].Ports, acl.Ports{Proto: acl.ICMP, Last: 65535})
		w.send(w.signed(6, c))
		got, err = socket.Ping(t.Context(), localapi.Ping{Target: "b"})
		if err != nil || got.Error != "" || got.RTT == 0 || got.Addr != netip.MustParseAddr("100.64.0.3") || got.Path == "" {
			t.Errorf("ping: %+v, %v", got, err)
		}
	})
}

// TestProxyResolve: only names of peers that are used lead anywhere.
func TestProxyResolve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		w.send(w.signed(5, content(newPeer("a", "100.64.0.2").entry())))
		network := overlayNetwork{w.node}
		if a, err := network.Resolve("a"); err != nil || a != netip.MustParseAddr("100.64.0.2") {
			t.Errorf("a: %v, %v", a, err)
		}
		w.send(w.signed(6, content(newPeer("a", "100.64.0.2").entry()))) // another device key
		for _, name := range []string{"a", "localhost", "example.org", ""} {
			if a, err := network.Resolve(name); err == nil {
				t.Errorf("%q leads to %s", name, a)
			}
		}
		if network.Overlay(netip.MustParseAddr("127.0.0.1")) || !network.Overlay(netip.MustParseAddr("100.64.0.9")) {
			t.Error("what is the overlay's is judged wrong")
		}
		if network.Overlay(netip.MustParseAddr("100.64.0.1")) {
			t.Error("this node's own address leads to this host's services")
		}
	})
}

func TestLabel(t *testing.T) {
	for host, want := range map[string]string{
		"Laptop.example.org": "laptop", "my laptop": "my-laptop", "a\x1b[31m\n": "a--31m", "": "node", "---": "node", "日本": "node",
		strings.Repeat("a", 300): strings.Repeat("a", 63), "box_1": "box-1",
	} {
		if got := label(host); got != want {
			t.Errorf("label(%q) = %q, want %q", host, got, want)
		}
	}
}
