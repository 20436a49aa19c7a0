package node

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
)

// reaching lets this node and peer a reach each other at port 22, TCP and UDP.
func reaching() protocol.Content {
	c := content(newPeer("a", "100.64.0.2").entry())
	c.Rules[0].Ports = []acl.Ports{{Proto: acl.TCP, First: 22, Last: 22}, {Proto: acl.UDP, First: 22, Last: 22}}
	back := c.Rules[0]
	back.Src, back.Dst = back.Dst, back.Src
	c.Rules = append(c.Rules, back)
	return c
}

func (w *world) wantPassages(when string, want localapi.Passages) {
	w.t.Helper()
	if diff := cmp.Diff(want, w.node.view.Load().status().Passages, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		w.t.Errorf("%s: wanted (-), in the status (+):\n%s", when, diff)
	}
}

// TestStatus_listsForwards and how many connections they have: what was refused is none, and what has ended is none any more.
func TestStatus_listsForwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		w.send(w.signed(5, reaching()))
		w.overlay().dials = func(string, netip.AddrPort) (net.Conn, error) { return echoing(), nil }
		w.wantPassages("before", localapi.Passages{})
		for _, network := range []string{"tcp", "udp"} {
			at, events, stop := w.forwarding(22, network == "udp")
			one := localapi.Passage{Proto: network, Listen: netip.MustParseAddrPort(at), To: "a:22"}
			w.wantPassages(network+", before a connection", localapi.Passages{Forwards: []localapi.Passage{one}})
			c, err := net.Dial(network, at)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			if e := <-events; e.Kind != localapi.PassageBegan {
				t.Fatalf("told %+v", e)
			}
			one.Open = 1
			w.wantPassages(network+", with a connection", localapi.Passages{Forwards: []localapi.Passage{one}})
			c.Close()
			if one.Open = 0; network == "tcp" { // the other end of a flow of datagrams is not told
				<-events
				w.wantPassages("after a connection", localapi.Passages{Forwards: []localapi.Passage{one}})
			}
			stop()
			w.wantPassages(network+", at the end", localapi.Passages{})
		}
		at, events, stop := w.forwarding(23, false)
		defer stop()
		if c, err := net.Dial("tcp", at); err == nil { // else it was reset at once
			defer c.Close()
		}
		if e := <-events; e.Kind != localapi.PassageRefused {
			t.Fatalf("told %+v", e)
		}
		w.wantPassages("refused", localapi.Passages{Forwards: []localapi.Passage{{Proto: "tcp", Listen: netip.MustParseAddrPort(at), To: "a:23"}}})
	})
}

func TestStatus_listsExposures(t *testing.T) {
	for _, tun := range []string{Userspace, "picket0"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.join()
			w.node.config.TUN = tun
			w.send(w.signed(5, reaching()))
			service := listen(t)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			asked := localapi.AskExpose{Exposed: []localapi.Expose{{Port: 8022, To: 22}, {Port: 22, To: portOf(service)}}}
			go func() { done <- w.api().Expose(ctx, asked, func(localapi.PassageEvent) {}) }()
			synctest.Wait()
			first := localapi.Passage{Proto: "tcp", Port: 22, To: service.Addr().String()}
			second := localapi.Passage{Proto: "tcp", Port: 8022, To: "127.0.0.1:22"}
			w.wantPassages(tun+", exposed", localapi.Passages{Exposed: []localapi.Passage{first, second}})
			if tun == Userspace {
				c, err := w.node.inbound.dial(ctx, "tcp", netip.MustParseAddrPort("100.64.0.2:4000"), 22)
				if err != nil {
					t.Fatal(err)
				}
				first.Open = 1
				w.wantPassages("with a connection", localapi.Passages{Exposed: []localapi.Passage{first, second}})
				c.Close()
				first.Open = 0
				w.wantPassages("after it", localapi.Passages{Exposed: []localapi.Passage{first, second}})
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			w.wantPassages(tun+", at the end", localapi.Passages{})
		})
	}
}
