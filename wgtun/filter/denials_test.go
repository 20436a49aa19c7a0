package filter

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"picket.internal/acl"
)

// denialsOf lists the records by when they were last added to, without what no test foresees.
func denialsOf(f *Filter, after uint64) []Denial {
	list := f.Denials(after).List
	slices.SortFunc(list, func(a, b Denial) int { return cmp.Compare(a.Seq, b.Seq) })
	for i := range list {
		list[i].Seq = 0
	}
	return list
}

func TestDenials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilter(t, outRule(udpPort(53)))
		deny := acl.Rule{Ref: acl.Ref{Section: "denies", Index: 1, Line: 7, Column: 3}, Src: roles(roleSelf), Dst: roles(roleBob), Ports: []acl.Ports{udpPort(9)}}
		f.swapRules([]acl.Rule{outRule(udpPort(53))}, []acl.Rule{{}, deny}, nil)
		start := time.Now()
		passes(t, "allowed", f.Egress(udp(at(self4, 5000), at(alice4, 53), 1)))
		for source := range uint16(3) {
			f.Egress(udp(at(self4, 6000+source), at(alice4, 54), 1))
			advance(f, time.Second)
		}
		f.Egress(udp(at(self4, 5000), at(bob4, 9), 1))
		f.Egress(udp(at(self4, 5000), at(stranger, 53), 1))
		before := f.Denials(0).Seq
		f.Ingress(seg{from: at(alice6, 4000), to: at(self6, 22), flags: fSYN}.bytes())
		f.Ingress(seg{from: at(alice6, 4000), to: at(self6, 23), flags: fACK}.bytes())
		f.Ingress(echo(bob4, self4, 7, false))
		f.Ingress([]byte{0x45})
		now := start.Add(3 * time.Second)
		last := []Denial{
			{Peer: "alice", Local: self6, Remote: alice6, Proto: acl.TCP, Port: 22, Reason: ReasonNoRule, Bypass: true, First: now, Last: now, Count: 1},
			{Peer: "alice", Local: self6, Remote: alice6, Proto: acl.TCP, Port: 23, Reason: ReasonNoFlow, First: now, Last: now, Count: 1},
			{Peer: "bob", Local: self4, Remote: bob4, Proto: acl.ICMP, Reason: ReasonNoRule, Bypass: true, First: now, Last: now, Count: 1},
			{Reason: f.Ingress([]byte{0x45}).Reason, First: now, Last: now, Count: 2},
		}
		all := append([]Denial{
			{Out: true, Peer: "alice", Local: self4, Remote: alice4, Proto: acl.UDP, Port: 54, Reason: ReasonNoRule, First: start, Last: start.Add(2 * time.Second), Count: 3},
			{Out: true, Peer: "bob", Local: self4, Remote: bob4, Proto: acl.UDP, Port: 9, Reason: ReasonDenied, Rule: deny.Ref, First: now, Last: now, Count: 1},
			{Out: true, Local: self4, Remote: stranger, Proto: acl.UDP, Port: 53, Reason: ReasonUnknownPeer, First: now, Last: now, Count: 1},
		}, last...)
		same := gocmp.Options{gocmp.Comparer(func(a, b netip.Addr) bool { return a == b }), gocmp.Comparer(time.Time.Equal)}
		if diff := gocmp.Diff(all, denialsOf(f, 0), same); diff != "" {
			t.Error(diff)
		}
		if diff := gocmp.Diff(last, denialsOf(f, before), same); diff != "" {
			t.Errorf("since the last look: %s", diff)
		}
		d := f.Denials(0)
		if d.Total != 10 || d.Unlisted != 0 || f.Denials(d.Seq).List != nil {
			t.Errorf("%+v", d)
		}
	})
}

// sum is how many packets the records and what made room for others add up to.
func (d Denials) sum() uint64 {
	n := d.Unlisted
	for _, x := range d.List {
		n += x.Count
	}
	return n
}

// A peer that sends to every port, and this host doing so itself, take only their own records' room, and no packet goes uncounted.
func TestFloodOfDenialsPushesOutOnlyItsOwn(t *testing.T) {
	f := newFilter(t)
	for port := range uint16(10) {
		f.Ingress(udp(at(bob4, 5000), at(self4, 100+port), 1))
		f.Egress(udp(at(self4, 5000), at(alice4, 100+port), 1))
	}
	for port := range uint16(20000) {
		f.Ingress(udp(at(alice4, 5000), at(self4, 1+port), 1))
	}
	by := func(out bool, peer acl.NodeID) (n int) {
		for _, d := range f.Denials(0).List {
			if d.Out == out && d.Peer == peer {
				n++
			}
		}
		return n
	}
	if n := by(false, "bob"); n != 10 {
		t.Errorf("%d records of bob are left of 10", n)
	}
	if n := by(true, "alice"); n != 10 {
		t.Errorf("%d records of what was sent to alice are left of 10", n)
	}
	if n := by(false, "alice"); n > maxDenials/2 || n < maxDenials/2-20 {
		t.Errorf("the flood has %d records", n)
	}
	for port := range uint16(500) {
		f.Ingress(udp(at(bob4, 5000), at(self4, 1000+port), 1))
	}
	if n := by(false, "bob"); n != 510 {
		t.Errorf("%d records of bob after the flood, want 510", n)
	}
	d := f.Denials(0)
	if d.Total != 20520 || d.sum() != d.Total || f.Stats().IngressDenied["no-rule"] != 20510 {
		t.Errorf("%d packets, %d in records: want 20520", d.Total, d.sum())
	}
	newest := slices.MaxFunc(d.List, func(a, b Denial) int { return cmp.Compare(a.Seq, b.Seq) })
	if newest.Seq != d.Seq || newest.Port != 1499 {
		t.Errorf("the newest record is %+v", newest)
	}
}

// With more senders than there is room for, whoever has most gives way, the whole stays bounded and nothing goes uncounted.
func TestDenialsAreBoundedInTotal(t *testing.T) {
	var d denials
	d.init(2*floor, time.Now())
	peers := make([]peer, 4*floor)
	for i := range uint16(1000) {
		for p := range peers {
			d.note(&deniedKey{peer: &peers[p], port: i % 7, reason: ReasonNoRule}, 0)
		}
	}
	listed, sum := 0, d.unlisted
	for k, h := range d.holders {
		n := 0
		for e := h.oldest; e != nil; e = e.newer {
			if d.records[e.deniedKey] != e || e.peer != k.peer {
				t.Fatal("a record lies in another's list")
			}
			n++
			sum += e.count
		}
		if n != h.n || n == 0 {
			t.Errorf("a holder of %d records counts %d", n, h.n)
		}
		listed += n
	}
	if listed != len(d.records) || listed > 2*floor || sum != d.total || d.total != uint64(1000*len(peers)) {
		t.Errorf("%d records listed, %d kept; %d packets of %d", listed, len(d.records), sum, d.total)
	}
}

// When all is full, somebody new takes a record from whoever has most, and from nobody else.
func TestNewcomerTakesFromTheFullest(t *testing.T) {
	for range 20 { // the order of a map is chance
		var d denials
		d.init(2*floor, time.Now())
		peers := make([]peer, floor+2)
		hog, newcomer := &peers[0], &peers[floor+1]
		for port := range uint16(floor) {
			d.note(&deniedKey{peer: hog, port: port}, 0)
			d.note(&deniedKey{peer: &peers[1+port]}, 0)
		}
		d.note(&deniedKey{peer: newcomer}, 0)
		for i := range peers {
			want := 1
			if &peers[i] == hog {
				want = floor - 1
			}
			if h := d.holders[holderKey{peer: &peers[i]}]; h == nil || h.n != want {
				t.Fatalf("holder %d has %+v, want %d", i, h, want)
			}
		}
	}
}

func TestDenialsOfConcurrentPackets(t *testing.T) {
	f := newFilter(t)
	const each = 5000
	var senders, done sync.WaitGroup
	for i := range 4 {
		senders.Go(func() {
			for n := range each {
				from := []netip.Addr{alice4, bob4}[i%2]
				f.Ingress(udp(at(from, 5000), at(self4, uint16(1+n)), 1))
			}
		})
	}
	stop := make(chan struct{})
	done.Go(func() {
		for seen := uint64(0); ; {
			d := f.Denials(seen)
			if seen = d.Seq; len(d.List) > maxDenials+4 {
				t.Errorf("%d records", len(d.List))
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	senders.Wait()
	close(stop)
	done.Wait()
	if d := f.Denials(0); d.Total != 4*each || d.sum() != d.Total {
		t.Errorf("%d packets, %d in records: want %d", d.Total, d.sum(), 4*each)
	}
}

func TestEveryReasonHasWords(t *testing.T) {
	for r := ReasonNone + 1; r < numReasons; r++ {
		if r == numFilterReasons {
			continue // the fault that is none
		}
		if r.String() == "" || r.Words() == "" {
			t.Errorf("reason %d: %q, %q", r, r, r.Words())
		}
	}
}

func BenchmarkDenied(b *testing.B) {
	f := newFilter(b)
	for name, packets := range map[string]int{"one": 1, "scan": 60000} {
		b.Run(name, func(b *testing.B) {
			var pkts [][]byte
			for i := range packets {
				pkts = append(pkts, udp(at(alice4, 5000), at(self4, uint16(1+i)), 1))
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				f.Ingress(pkts[i%packets])
			}
		})
	}
}
