package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// far is the other end of a flow: it echoes each datagram.
type farEnd struct {
	mu     sync.Mutex
	dialed map[netip.AddrPort]int
	refuse error
	heard  []string // answers
	told   []string // beginnings and ends
}

func (f *farEnd) carrier(p *Pool) *carrier {
	return &carrier{
		pool: p, dial: f.dial,
		answer: func(key netip.AddrPort, b []byte) { f.note(&f.heard, key.String()+" "+string(b)) },
		opened: func(key netip.AddrPort, _ net.Conn, err error) {
			if err != nil {
				f.note(&f.told, "refused "+key.String())
			}
		},
		ended: func(key netip.AddrPort, b Bytes, err error) {
			if b.Sent != b.Received {
				f.note(&f.told, "not all came back")
			}
			word := "ended "
			if err != nil {
				word = "cut "
			}
			f.note(&f.told, word+key.String())
		},
	}
}

func (f *farEnd) note(in *[]string, s string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	*in = append(*in, s)
}

func (f *farEnd) dial(_ context.Context, key netip.AddrPort) (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dialed == nil {
		f.dialed = make(map[netip.AddrPort]int)
	}
	f.dialed[key]++
	if f.refuse != nil {
		return nil, f.refuse
	}
	near, far := net.Pipe()
	go func() {
		io.Copy(far, far)
		far.Close()
	}()
	return near, nil
}

// count is how many flows there are, of one carrier or of all.
func (p *Pool) count(of *carrier) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if of != nil {
		return len(of.flows)
	}
	return len(p.flows)
}

func key(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("100.64.0.2"), uint16(i))
}

func TestCarrier_idleEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var far farEnd
		p := new(Pool)
		c := far.carrier(p)
		c.send(t.Context(), key(1), []byte("x"))
		time.Sleep(flowIdle - time.Second)
		c.send(t.Context(), key(1), []byte("y")) // keeps it
		time.Sleep(flowIdle - time.Second)
		synctest.Wait()
		if p.count(nil) != 1 || far.dialed[key(1)] != 1 {
			t.Errorf("a flow in use: %d flows, dialled %d times", p.count(nil), far.dialed[key(1)])
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if p.count(nil) != 0 || p.count(c) != 0 || !slices.Equal(far.told, []string{"ended 100.64.0.2:1"}) {
			t.Errorf("an idle flow: %d flows; %v", p.count(nil), far.told)
		}
		c.end()
	})
}

func TestCarrier_boundsReplaceWhatIsIdleLongest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var far farEnd
		p := new(Pool)
		var carriers []*carrier
		for range 5 {
			c := far.carrier(p)
			carriers = append(carriers, c)
			for i := range maxFlows + 1 { // of the first four, each has one too many
				c.send(t.Context(), key(i), []byte("x"))
				time.Sleep(time.Millisecond)
				if c.send(t.Context(), key(0), []byte("x")); i == maxFlows && far.dialed[key(0)] != len(carriers) {
					t.Error("the flow in use was replaced")
				}
			}
		}
		synctest.Wait()
		if p.count(nil) != maxAllFlows || p.count(carriers[0]) != 0 || p.count(carriers[4]) != maxFlows {
			t.Errorf("%d flows; the first carrier has %d, the last %d", p.count(nil), p.count(carriers[0]), p.count(carriers[4]))
		}
		for _, c := range carriers {
			c.end()
		}
		if p.count(nil) != 0 {
			t.Errorf("%d flows are left", p.count(nil))
		}
	})
}

func TestCarrier_refusalIsNotTriedAtOnceAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far := farEnd{refuse: errors.New("no rule allows it")}
		p := new(Pool)
		c := far.carrier(p)
		for range 100 {
			c.send(t.Context(), key(1), []byte("x"))
		}
		if far.dialed[key(1)] != 1 || len(far.told) != 1 {
			t.Errorf("dialled %d times; %v", far.dialed[key(1)], far.told)
		}
		time.Sleep(refusalTime)
		synctest.Wait()
		if p.count(nil) != 0 {
			t.Error("the refusal holds its place")
		}
		far.refuse = nil
		c.send(t.Context(), key(1), []byte("x"))
		synctest.Wait()
		if !slices.Equal(far.heard, []string{"100.64.0.2:1 x"}) {
			t.Errorf("once it is allowed: %q", far.heard)
		}
		c.end()
	})
}

// refusedConn is a connected UDP socket whose datagrams are refused by an ICMP error.
type refusedConn struct{ net.Conn }

func (c refusedConn) Read([]byte) (int, error) { return 0, syscall.ECONNREFUSED }
func (c refusedConn) Write(b []byte) (int, error) {
	return len(b), nil
}

func TestCarrier_refusedByTheFarEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, other := net.Pipe()
		defer other.Close()
		var far farEnd
		c := far.carrier(new(Pool))
		c.dial = func(context.Context, netip.AddrPort) (net.Conn, error) { return refusedConn{near}, nil }
		c.send(t.Context(), key(1), nil)
		synctest.Wait()
		c.send(t.Context(), key(1), nil)
		synctest.Wait()
		if !slices.Equal(far.told, []string{"cut 100.64.0.2:1"}) {
			t.Errorf("told %q, want one refusal", far.told)
		}
		time.Sleep(refusalTime)
		synctest.Wait()
		c.end()
	})
}
