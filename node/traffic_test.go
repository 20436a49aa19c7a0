package node

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"picket.internal/acl"
	"picket.internal/node/localapi"
	"picket.internal/wgtun/filter"
)

// syn is the first segment of a TCP connection over IPv4, with room bytes behind it.
func syn(from, to string, room int) []byte {
	src, dst := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	b := make([]byte, 40+room)
	b[0], b[8], b[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], src.Addr().AsSlice())
	copy(b[16:], dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(b[20:], src.Port())
	binary.BigEndian.PutUint16(b[22:], dst.Port())
	b[32], b[33], b[34] = 5<<4, 2, 0xff
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum))
	return b
}

// trafficWorld has the peers a, of bob, and b, which is tagged and serves 10.2.0.0/16; this node may reach port 22 of them and of what lies behind.
func trafficWorld(t *testing.T) (*world, *filter.Filter) {
	w := newWorld(t)
	w.join()
	a, b := newPeer("a", "100.64.0.2").entry(), newPeer("b", "100.64.0.3").entry()
	a.Owner, a.Login = "u1", "bob@example.com"
	b.Tags, b.Routes = []string{"tag:web"}, []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16")}
	c := content(a, b)
	c.Rules[0].Dst.Prefixes = b.Routes
	w.send(w.signed(5, c))
	w.mustSet(localapi.ChangeRouting{Accept: yes()})
	return w, w.overlay().traffic
}

var sameAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func me(port uint16) localapi.Endpoint {
	return localapi.Endpoint{Node: selfID, Name: "me", Address: netip.MustParseAddr("100.64.0.1"), Port: port}
}

func bobs(port uint16) localapi.Endpoint {
	return localapi.Endpoint{Node: "a", Name: "a", Owner: "bob@example.com", Address: netip.MustParseAddr("100.64.0.2"), Port: port}
}

func TestFlowsAndDenialsNameWhoAndWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, f := trafficWorld(t)
		start := time.Now()
		f.Egress(syn("100.64.0.1:4000", "100.64.0.2:22", 0))
		f.Ingress(syn("100.64.0.2:4000", "100.64.0.1:22", 0))
		time.Sleep(time.Second)
		f.Sweep()
		f.Egress(syn("100.64.0.1:4001", "10.2.0.9:22", 0))
		f.Egress(syn("100.64.0.1:4001", "100.64.0.9:22", 0))
		later := time.Now()
		rule := "grants[0], line 4"
		behind := localapi.Endpoint{Node: "b", Name: "b", Tags: []string{"tag:web"}, Address: netip.MustParseAddr("10.2.0.9"), Port: 22, Routed: true}
		flows := localapi.Flows{FlowTotals: localapi.FlowTotals{Matched: 2, Total: 2}, List: []localapi.Flow{
			{Src: me(4001), Dst: behind, Proto: "tcp", Out: true, Rule: rule, Opened: later, LastSeen: later, Packets: 1, Bytes: 40},
			{Src: me(4000), Dst: bobs(22), Proto: "tcp", Out: true, Rule: rule, Opened: start, LastSeen: start, Packets: 1, Bytes: 40},
		}}
		got, err := w.api().Flows(t.Context(), localapi.AskFlows{Limit: 10})
		if diff := cmp.Diff(flows, got, sameAddr, cmp.Comparer(time.Time.Equal)); err != nil || diff != "" {
			t.Error(err, diff)
		}
		stranger := localapi.Endpoint{Address: netip.MustParseAddr("100.64.0.9"), Port: 22}
		denials := []localapi.Denial{
			{Src: me(0), Dst: stranger, Proto: "tcp", Out: true, Reason: "unknown-peer", Words: "its address at the far end belongs to no peer", First: later, Last: later, Count: 1},
			{Src: bobs(0), Dst: me(22), Proto: "tcp", Reason: "no-rule", Words: "no rule allows it", Bypass: true, First: start, Last: start, Count: 1},
		}
		d, err := w.api().Denials(t.Context(), localapi.AskDenials{Limit: 10})
		if diff := cmp.Diff(denials, d.List, sameAddr, cmp.Comparer(time.Time.Equal)); err != nil || diff != "" || d.Matched != 2 || d.Packets != 2 {
			t.Error(err, d.DenialTotals, diff)
		}
		if d, err := w.api().Denials(t.Context(), localapi.AskDenials{After: d.Seq, Limit: 10}); err != nil || len(d.List) != 0 || d.Packets != 2 {
			t.Errorf("nothing was refused since: %+v, %v", d, err)
		}
	})
}

func TestTrafficIsSelected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, f := trafficWorld(t)
		for port := range 20 {
			f.Egress(syn(fmt.Sprint("100.64.0.1:", 4000+port), "100.64.0.2:22", 0))
			f.Egress(syn(fmt.Sprint("100.64.0.1:", 4000+port), fmt.Sprint("100.64.0.3:", 80+port), 0))
		}
		f.Egress(syn("100.64.0.1:4000", "10.2.0.9:22", 0))
		for words, want := range map[string][2]int{
			"":                    {21, 20},
			"peer a":              {20, 0},
			"peer b and port 22":  {1, 0},
			"peer b port 80-84":   {0, 5},
			"host 10.2.0.0/16":    {1, 0},
			"port 4003":           {1, 0},
			"in":                  {0, 0},
			"out proto tcp":       {21, 20},
			"proto udp":           {0, 0},
			"host 100.64.0.1 out": {21, 20},
		} {
			s, err := localapi.ParseSelection([]string{words})
			if err != nil {
				t.Fatal(err)
			}
			flows, err := w.api().Flows(t.Context(), localapi.AskFlows{Selection: s, Limit: 3})
			if err != nil || flows.Matched != want[0] || flows.Total != 21 || len(flows.List) != min(3, want[0]) {
				t.Errorf("%q: %d flows, %d listed, %v; want %d", words, flows.Matched, len(flows.List), err, want[0])
			}
			denials, err := w.api().Denials(t.Context(), localapi.AskDenials{Selection: s, Limit: 3})
			if err != nil || denials.Matched != want[1] || len(denials.List) != min(3, want[1]) {
				t.Errorf("%q: %d denials, %d listed, %v; want %d", words, denials.Matched, len(denials.List), err, want[1])
			}
		}
	})
}

func TestTrafficRefusesBadQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := trafficWorld(t)
		unknown := localapi.Selection{Peer: "nobody"}
		for _, tt := range []struct {
			want string
			ask  func() error
		}{
			{"no peer is called", func() error {
				_, err := w.api().Flows(t.Context(), localapi.AskFlows{Selection: unknown, Limit: 1})
				return err
			}},
			{"no peer is called", func() error {
				_, err := w.api().Denials(t.Context(), localapi.AskDenials{Selection: unknown, Limit: 1})
				return err
			}},
			{"1 to 10000 lines", func() error {
				_, err := w.api().Flows(t.Context(), localapi.AskFlows{Limit: localapi.MaxListed + 1})
				return err
			}},
			{"1 to 10000 lines", func() error {
				_, err := w.api().Denials(t.Context(), localapi.AskDenials{})
				return err
			}},
			{"range of ports", func() error {
				_, err := w.api().Flows(t.Context(), localapi.AskFlows{Selection: localapi.Selection{First: 2, Last: 1}, Limit: 1})
				return err
			}},
			{"allowed packets, denied", func() error { return w.capture(localapi.AskCapture{Snaplen: 1}).wait(t) }},
			{"bytes can be captured", func() error { return w.capture(localapi.AskCapture{Denied: true, Snaplen: 1 << 20}).wait(t) }},
			{"no peer is called", func() error {
				return w.capture(localapi.AskCapture{Selection: unknown, Denied: true, Snaplen: 1}).wait(t)
			}},
		} {
			if err := tt.ask(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		}
		if err := w.api().Down(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, err := w.api().Flows(t.Context(), localapi.AskFlows{Limit: 1}); err == nil || !strings.Contains(err.Error(), "picket up") {
			t.Errorf("while the node is down: %v", err)
		}
	})
}

// recording is a capture under way.
type recording struct {
	stop   context.CancelFunc
	done   chan error
	events []localapi.CaptureEvent
	block  chan struct{} // when not nil, a slow reader waits for it
}

func (w *world) capture(q localapi.AskCapture) *recording {
	return w.captureSlowly(q, nil)
}

func (w *world) captureSlowly(q localapi.AskCapture, block chan struct{}) *recording {
	ctx, cancel := context.WithCancel(context.Background())
	r := &recording{stop: cancel, done: make(chan error, 1), block: block}
	go func() {
		r.done <- w.api().Capture(ctx, q, func(events []localapi.CaptureEvent) {
			r.events = append(r.events, events...)
			if r.block != nil {
				<-r.block
			}
		})
	}()
	synctest.Wait()
	return r
}

func (r *recording) wait(t *testing.T) error {
	t.Helper()
	defer r.stop()
	return <-r.done
}

// packets are the events between the first and the last.
func (r *recording) packets(t *testing.T) (packets []localapi.Packet, end localapi.CaptureEnd) {
	t.Helper()
	r.stop()
	if err := <-r.done; err != nil {
		t.Fatal(err)
	}
	if len(r.events) < 2 || r.events[0].Start == nil || r.events[len(r.events)-1].End == nil {
		t.Fatalf("events %+v", r.events)
	}
	for _, e := range r.events[1 : len(r.events)-1] {
		packets = append(packets, *e.Packet)
	}
	return packets, *r.events[len(r.events)-1].End
}

func TestCapture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, f := trafficWorld(t)
		r := w.capture(localapi.AskCapture{Allowed: true, Denied: true, Snaplen: 48, Selection: localapi.Selection{Peer: "a"}})
		allowed, denied := syn("100.64.0.1:4000", "100.64.0.2:22", 100), syn("100.64.0.2:4000", "100.64.0.1:22", 0)
		f.Egress(allowed)
		f.Egress(syn("100.64.0.1:4000", "100.64.0.3:22", 0)) // another peer
		f.Ingress(denied)
		synctest.Wait()
		now := time.Now()
		packets, end := r.packets(t)
		want := []localapi.Packet{
			{At: now, Out: true, Allow: true, Rule: "grants[0], line 4", Src: me(4000), Dst: bobs(22), Proto: "tcp", Length: 140, Data: allowed[:48]},
			{At: now, Reason: "no-rule", Words: "no rule allows it", Src: bobs(4000), Dst: me(22), Proto: "tcp", Length: 40, Data: denied},
		}
		if diff := cmp.Diff(want, packets, sameAddr, cmp.Comparer(time.Time.Equal)); diff != "" {
			t.Error(diff)
		}
		if end.Matched != 2 || end.Dropped != 0 || end.Why != "" {
			t.Errorf("%+v", end)
		}
	})
}

func TestCaptureEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, f := trafficWorld(t)
		denied := syn("100.64.0.2:4000", "100.64.0.1:22", 0)
		counted := w.capture(localapi.AskCapture{Denied: true, Snaplen: 100, Count: 2})
		for range 5 {
			f.Ingress(denied)
		}
		if err := counted.wait(t); err != nil || len(counted.events) != 4 {
			t.Errorf("2 packets were asked for: %d events, %v", len(counted.events), err)
		}
		began := time.Now()
		timed := w.capture(localapi.AskCapture{Denied: true, Snaplen: 100, Duration: time.Minute})
		if err := timed.wait(t); err != nil || time.Since(began) != time.Minute {
			t.Errorf("a minute was asked for: %v, %v", time.Since(began), err)
		}
		closed := w.capture(localapi.AskCapture{Denied: true, Snaplen: 100})
		f.Ingress(denied)
		synctest.Wait()
		if err := w.api().Down(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := closed.wait(t); err != nil || len(closed.events) != 3 || closed.events[2].End.Why != "the tunnel was closed" {
			t.Errorf("the tunnel was closed: %+v, %v", closed.events, err)
		}
	})
}

// A reader that takes nothing costs packets nothing but their place in the capture, which says so.
func TestCaptureOfASlowReaderDropsAndCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, f := trafficWorld(t)
		block := make(chan struct{})
		r := w.captureSlowly(localapi.AskCapture{Denied: true, Snaplen: localapi.MaxSnaplen}, block)
		const sent = maxQueued + 1000
		for range sent {
			f.Ingress(syn("100.64.0.2:4000", "100.64.0.1:22", 0))
		}
		if d := f.Denials(0); d.Total != sent {
			t.Errorf("%d packets were judged", d.Total)
		}
		close(block)
		synctest.Wait()
		f.Ingress(syn("100.64.0.2:4000", "100.64.0.1:22", 0))
		synctest.Wait()
		packets, end := r.packets(t)
		if len(packets) != maxQueued+1 || end.Matched != sent+1 || end.Dropped != 1000 || packets[maxQueued-2].Dropped != 0 || packets[maxQueued-1].Dropped != 1000 {
			t.Errorf("%d packets, %+v", len(packets), end)
		}
		// And by bytes.
		block = make(chan struct{})
		r = w.captureSlowly(localapi.AskCapture{Denied: true, Snaplen: localapi.MaxSnaplen}, block)
		for range 200 {
			f.Ingress(syn("100.64.0.2:4000", "100.64.0.1:22", 60_000))
		}
		close(block)
		synctest.Wait()
		packets, end = r.packets(t)
		if held := len(packets) * 60_040; held > maxQueuedBytes || held < maxQueuedBytes/2 || end.Dropped != uint64(200-len(packets)) {
			t.Errorf("%d packets of 60 kB were held, %+v", len(packets), end)
		}
	})
}

func TestCapturesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := trafficWorld(t)
		q := localapi.AskCapture{Denied: true, Snaplen: 100}
		var running []*recording
		for range maxCaptures {
			running = append(running, w.capture(q))
		}
		if err := w.capture(q).wait(t); err == nil || !strings.Contains(err.Error(), "4 captures run already") {
			t.Errorf("one more: %v", err)
		}
		running[0].packets(t)
		again := w.capture(q)
		again.packets(t)
		for _, r := range running[1:] {
			r.packets(t)
		}
	})
}

func TestDenialsNameTheDeny(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		c := content(newPeer("a", "100.64.0.2").entry())
		c.Denies = []acl.Rule{{Ref: acl.Ref{Section: "denies", Index: 2, Line: 40, Column: 1}, Src: c.Rules[0].Src, Dst: c.Rules[0].Dst, Ports: c.Rules[0].Ports}}
		w.send(w.signed(5, c))
		w.overlay().traffic.Egress(syn("100.64.0.1:4000", "100.64.0.2:22", 0))
		d, err := w.api().Denials(t.Context(), localapi.AskDenials{Limit: 10})
		if err != nil || len(d.List) != 1 || d.List[0].Rule != "denies[2], line 40" || d.List[0].Reason != "deny" {
			t.Errorf("%+v, %v", d, err)
		}
	})
}
