package wgtun

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/tun"

	"picket.internal/acl"
	"picket.internal/wgtun/filter"
	"picket.internal/wgtun/hosttun"
)

// scripted is a TUN whose Read gives what a test says, and which keeps the very slices it is given to write.
type scripted struct {
	tun.Device
	reads  []scriptedRead
	wrote  [][]byte
	calls  int
	fail   error
	closed bool
	events chan tun.Event
}

type scriptedRead struct {
	packets [][]byte
	err     error
}

func (s *scripted) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	r := s.reads[0]
	s.reads = s.reads[1:]
	for i, p := range r.packets {
		sizes[i] = copy(bufs[i][offset:], p)
	}
	return len(r.packets), r.err
}

func (s *scripted) Write(bufs [][]byte, offset int) (int, error) {
	s.calls++
	s.wrote = append(s.wrote, bufs...)
	return 1 << 20, s.fail // bytes, as the real one returns
}

func (s *scripted) Close() error             { s.closed = true; return nil }
func (s *scripted) Events() <-chan tun.Event { return s.events }

var (
	guardHere  = netip.MustParseAddrPort("100.64.0.1:9")
	guardThere = netip.MustParseAddrPort("100.64.0.2:80")
)

// guarded returns a guard whose filter lets port 80 through from here to there, and one way back.
func guarded(s *scripted) (*guardedTUN, *injector) {
	f := filter.New()
	ports := []acl.Ports{{Proto: acl.UDP, First: 80, Last: 80}}
	f.Swap(&filter.Policy{Self: "me", NotAfter: time.Now().Add(time.Hour), Rules: &acl.Ruleset{
		Rules: []acl.Rule{
			{Src: acl.Set{Roles: []acl.RoleID{1}}, Dst: acl.Set{Roles: []acl.RoleID{2}}, Ports: ports},
			{Src: acl.Set{Roles: []acl.RoleID{2}}, Dst: acl.Set{Roles: []acl.RoleID{1}}, Ports: ports},
		},
		Subjects: []acl.Subject{
			{Node: "me", Addresses: []netip.Addr{guardHere.Addr()}, Roles: []acl.RoleID{1}},
			{Node: "b", Addresses: []netip.Addr{guardThere.Addr()}, Roles: []acl.RoleID{2}},
		},
	}})
	i := newInjector()
	return newGuardedTUN(s, f, i, newPace(), newPace()), i
}

const guardOffset = 16

func guardBuffers(n int) ([][]byte, []int) {
	bufs := make([][]byte, n)
	for i := range bufs {
		bufs[i] = make([]byte, guardOffset+1500)
	}
	return bufs, make([]int, n)
}

func TestReadEmptiesRefusedPacketsInPlace(t *testing.T) {
	good := udpPacket(guardHere, guardThere, []byte("x"))
	refused := udpPacket(guardHere, netip.AddrPortFrom(guardThere.Addr(), 81), nil)
	partial := errors.New("too many segments")
	g, i := guarded(&scripted{reads: []scriptedRead{{[][]byte{refused, good, refused, {}, good}, partial}}})
	bufs, sizes := guardBuffers(5)
	before := append([][]byte(nil), bufs...)
	n, err := g.Read(bufs, sizes, guardOffset)
	if n != 5 || err != partial {
		t.Fatalf("Read: %d, %v, want 5 and the inner error", n, err)
	}
	for k, want := range []int{0, len(good), 0, 0, len(good)} {
		if sizes[k] != want {
			t.Errorf("size %d is %d, want %d", k, sizes[k], want)
		}
		if &before[k][0] != &bufs[k][0] {
			t.Errorf("buffer %d was exchanged", k)
		}
	}
	answers := i.take()
	if len(answers) != 2 || !isProhibited(answers[0][injectOffset:]) {
		t.Errorf("%d answers wait for the local side, want 2", len(answers))
	}
}

func TestReadJudgesPacketsThatComeWithAnError(t *testing.T) {
	refused := udpPacket(guardHere, netip.AddrPortFrom(guardThere.Addr(), 81), nil)
	g, _ := guarded(&scripted{reads: []scriptedRead{{[][]byte{refused}, tun.ErrTooManySegments}}})
	bufs, sizes := guardBuffers(1)
	if _, err := g.Read(bufs, sizes, guardOffset); !errors.Is(err, tun.ErrTooManySegments) || sizes[0] != 0 {
		t.Errorf("size %d, error %v", sizes[0], err)
	}
}

func TestWriteHandsOnTheOriginalSlices(t *testing.T) {
	inner := &scripted{}
	g, _ := guarded(inner)
	in := func(p []byte) []byte { // as wireguard-go's: room before and behind
		b := make([]byte, guardOffset+len(p), 2000)
		copy(b[guardOffset:], p)
		return b
	}
	good := udpPacket(netip.AddrPortFrom(guardThere.Addr(), 9), netip.AddrPortFrom(guardHere.Addr(), 80), []byte("x"))
	bad := udpPacket(netip.AddrPortFrom(guardThere.Addr(), 9), netip.AddrPortFrom(guardHere.Addr(), 81), nil)
	bufs := [][]byte{in(bad), in(good), in(nil), in(good[:10]), in(good)}
	given := append([][]byte(nil), bufs...)
	n, err := g.Write(bufs, guardOffset)
	if n != len(bufs) || err != nil {
		t.Errorf("Write: %d, %v, want %d", n, err, len(bufs))
	}
	if inner.calls != 1 || len(inner.wrote) != 2 {
		t.Fatalf("%d calls with %d packets, want 1 with 2", inner.calls, len(inner.wrote))
	}
	for k, want := range []int{1, 4} {
		if w := inner.wrote[k]; &w[0] != &given[want][0] || cap(w) != 2000 {
			t.Errorf("packet %d is not the slice that came, or lost its room", k)
		}
	}
	for k := range bufs {
		if &bufs[k][0] != &given[k][0] {
			t.Errorf("the caller's slice %d was changed", k)
		}
	}
}

func TestWriteOfNothingGoodDoesNotReachTheDevice(t *testing.T) {
	inner := &scripted{}
	g, _ := guarded(inner)
	for size := range 60 { // wireguard-go may deliver IPv6 packets cut to 0 to 39 bytes (R10)
		p := make([]byte, guardOffset+size)
		if size > 0 {
			p[guardOffset] = 0x60
		}
		if n, err := g.Write([][]byte{p}, guardOffset); n != 1 || err != nil {
			t.Fatalf("%d bytes: %d, %v", size, n, err)
		}
	}
	if inner.calls != 0 {
		t.Errorf("%d cut packets reached the device", inner.calls)
	}
}

func TestWritePassesTheDevicesErrorOn(t *testing.T) {
	g, _ := guarded(&scripted{fail: os.ErrClosed})
	good := append(make([]byte, guardOffset), udpPacket(netip.AddrPortFrom(guardThere.Addr(), 9), netip.AddrPortFrom(guardHere.Addr(), 80), nil)...)
	if _, err := g.Write([][]byte{good}, guardOffset); !errors.Is(err, os.ErrClosed) {
		t.Errorf("error %v", err)
	}
}

// TestDrainWaitsForPacketsUnderWay is what keeps a packet that an old verdict passed from an address's next owner.
func TestDrainWaitsForPacketsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good := udpPacket(guardHere, guardThere, nil)
		g, _ := guarded(&scripted{reads: []scriptedRead{{[][]byte{good}, nil}, {nil, nil}, {[][]byte{good}, nil}}})
		g.drain() // nothing was read yet
		bufs, sizes := guardBuffers(1)
		_, _ = g.Read(bufs, sizes, guardOffset)
		drained := make(chan struct{})
		drain := func() { g.drain(); drained <- struct{}{} }
		go drain()
		synctest.Wait()
		select {
		case <-drained:
			t.Fatal("drain did not wait for the batch that Read returned")
		default:
		}
		_, _ = g.Read(bufs, sizes, guardOffset)
		<-drained
		_, _ = g.Read(bufs, sizes, guardOffset)
		go drain()
		synctest.Wait()
		_ = g.Close()
		<-drained
	})
}

// TestEventsUpAndDownAreKeptFromTheDevice: wireguard-go would open its sockets by itself.
func TestEventsUpAndDownAreKeptFromTheDevice(t *testing.T) {
	inner := &scripted{events: make(chan tun.Event, 8)}
	g, _ := guarded(inner)
	inner.events <- tun.EventUp
	inner.events <- tun.EventUp | tun.EventMTUUpdate
	inner.events <- tun.EventDown
	close(inner.events)
	go g.forwardEvents()
	var got []tun.Event
	for e := range g.Events() {
		got = append(got, e)
	}
	if len(got) != 1 || got[0] != tun.EventMTUUpdate {
		t.Errorf("events %v, want one change of MTU", got)
	}
}

func TestInjectorDropsOffersButNoResets(t *testing.T) {
	i := newInjector()
	for range 2 * maxOffered {
		i.offer(newInjection())
	}
	resets := make([][]byte, 5000)
	for k := range resets {
		resets[k] = newInjection()
	}
	i.must(resets)
	inner := &scripted{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	i.run(ctx, inner)
	if len(inner.wrote) != maxOffered+len(resets) {
		t.Errorf("%d packets were written, want %d", len(inner.wrote), maxOffered+len(resets))
	}
}

// TestSpoofedPacketsAreNotAnswered: an answer goes to whoever a packet says it is from, so that a local program could have packets made
// for others.
func TestSpoofedPacketsAreNotAnswered(t *testing.T) {
	spoofed := netip.MustParseAddrPort("100.64.0.77:9")
	closed := netip.AddrPortFrom(guardThere.Addr(), 81)
	s := &scripted{reads: []scriptedRead{{packets: [][]byte{udpPacket(spoofed, closed, nil), udpPacket(guardHere, closed, nil)}}}}
	g, inject := guarded(s)
	bufs, sizes := [][]byte{make([]byte, 2000), make([]byte, 2000)}, make([]int, 2)
	if _, err := g.Read(bufs, sizes, injectOffset); err != nil {
		t.Fatal(err)
	}
	if n := len(inject.take()); n != 1 {
		t.Errorf("%d answers, want one, to the honest packet", n)
	}
}

// judging is a TUN that has its packets judged before it returns them, and then waits.
type judging struct {
	scripted
	judged, release chan struct{}
}

func (j *judging) ReadJudged(bufs [][]byte, sizes []int, offset int, judge hosttun.Judge) (int, error) {
	pkt := j.reads[0].packets[0]
	j.reads = j.reads[1:]
	pass := judge(pkt, 1, len(pkt))
	close(j.judged)
	<-j.release
	if !pass {
		return 0, nil
	}
	sizes[0] = copy(bufs[0][offset:], pkt)
	return 1, nil
}

// cutting is a TUN whose packets are to be cut into three.
type cutting struct{ scripted }

func (c *cutting) ReadJudged(_ [][]byte, _ []int, _ int, judge hosttun.Judge) (int, error) {
	judge(c.reads[0].packets[0], 3, 1000)
	return 0, nil
}

func TestSuperPacketCountsAsItsSegments(t *testing.T) {
	c := &cutting{scripted{reads: []scriptedRead{{packets: [][]byte{udpPacket(guardHere, guardThere, make([]byte, 300))}}}}}
	g, _ := guarded(&c.scripted)
	g.judging = c
	bufs, sizes := guardBuffers(1)
	_, _ = g.Read(bufs, sizes, guardOffset)
	if got := g.filter.Stats().EgressPassed; got != 3 {
		t.Errorf("%d packets passed, want 3", got)
	}
	if got := g.filter.Flows()[0].Bytes; got != 300+3*28 {
		t.Errorf("%d bytes passed, want %d", got, 300+3*28)
	}
}

// A drain after a swap must wait for a packet that has passed, wherever it is.
func TestDrainWaitsForAPacketJudgedBeforeItIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		allowed := udpPacket(guardHere, guardThere, nil)
		j := &judging{scripted: scripted{reads: []scriptedRead{{packets: [][]byte{allowed}}}}, judged: make(chan struct{}), release: make(chan struct{})}
		g, _ := guarded(&j.scripted)
		g.judging = j
		bufs, sizes := guardBuffers(1)
		go func() {
			if n, err := g.Read(bufs, sizes, guardOffset); n != 1 || err != nil {
				t.Errorf("read %d packets, %v", n, err)
			}
		}()
		<-j.judged
		drained := make(chan struct{})
		go func() {
			g.drain()
			close(drained)
		}()
		for _, step := range []func(){func() {}, func() { close(j.release) }} {
			step()
			synctest.Wait()
			select {
			case <-drained:
				t.Fatal("drained while a packet that has passed is under way")
			default:
			}
		}
		g.reading.begin() // the next Read
		<-drained
	})
}
