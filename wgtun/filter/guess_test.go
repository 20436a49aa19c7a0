package filter

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// Who can write an end's address, but does not see the connection, guesses: hosts behind one router are so to each other.

// A reset that is only somewhere in the window is not believed by its receiver (RFC 5961 section 3), which asks back. The flow must not end
// of it either, idle as it may be, nor make room for another.
func TestGuessedResetEndsNothing(t *testing.T) {
	for name, out := range map[string]bool{"opened out": true, "opened in": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := dial(t, newFilter(t, outRule(tcpPort(80)), inRule(tcpPort(40000))), at(self4, 40000), at(alice4, 80), out)
				for offset := uint32(1); offset < 64000; offset += 9000 {
					s := c.inward(fRST, 0)
					s.seq += offset
					passes(t, "guessed reset", c.f.Ingress(s.bytes()))
				}
				syn := seg{from: c.remote, to: c.local, seq: 77, flags: fSYN}
				c.f.Ingress(syn.bytes())
				passes(t, "challenge", c.send(fACK, 0))
				refused(t, "SYN+ACK of a new connection", c.f.Egress(seg{from: c.local, to: c.remote, seq: 1, ack: 78, flags: fSYN | fACK}.bytes()),
					map[bool]Reason{true: ReasonTCPFlags, false: ReasonTCPWindow}[out])
				advance(c.f, time.Hour)
				passes(t, "data an hour later", c.recv(fACK, 100))
				passes(t, "its acknowledgment", c.send(fACK, 0))
			})
		})
	}
}

// A receiver that took the reset is silent, and the flow ends.
func TestResetInDoubtEndsASilentFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := dial(t, newFilter(t, outRule(tcpPort(80))), at(self4, 40000), at(alice4, 80), true)
		s := c.inward(fRST, 0)
		s.seq += 1000
		passes(t, "reset", c.f.Ingress(s.bytes()))
		advance(c.f, 11*time.Second)
		refused(t, "data", c.recv(fACK, 100), ReasonNoFlow)
	})
}

// A reset from where its sender stands, with data under way that the other end has not acknowledged, is one: an aborted connection.
func TestAbortWithDataUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := dial(t, newFilter(t, outRule(tcpPort(80))), at(self4, 40000), at(alice4, 80), true)
		passes(t, "data", c.send(fACK, 1000))
		passes(t, "reset", c.send(fRST, 0))
		passes(t, "data that crossed it", c.recv(fACK, 500))
		advance(c.f, 11*time.Second)
		if n := len(c.f.Flows()); n != 0 {
			t.Errorf("%d flows live", n)
		}
	})
}

// Whoever has not seen the answering SYN cannot complete a connection: one of all possible acknowledgments does.
func TestHandshakeNeedsTheAnswer(t *testing.T) {
	for _, off := range []uint32{1<<32 - 1, 1, 2, 1000, 1 << 30, 1<<31 - 1, 1 << 31, 1<<31 + 1, 3 << 30, 1<<32 - 1<<17} {
		for _, flags := range []uint8{fACK, fACK | fPSH, fACK | fFIN} {
			c := &conn{f: newFilter(t, inRule(tcpPort(22))), local: at(self4, 22), remote: at(alice4, 5000), snd: 1000, rcv: 9000}
			passes(t, "SYN", c.recv(fSYN, 0))
			passes(t, "SYN+ACK", c.send(fSYN|fACK, 0))
			s := c.inward(flags, 0)
			s.ack += off
			refused(t, fmt.Sprintf("acknowledgment off by %d", off), c.f.Ingress(s.bytes()), ReasonTCPWindow)
			passes(t, "the right one", c.recv(fACK, 0))
		}
	}
}

// Nothing half the sequence space away passes, where a comparison with either end of a window would turn over.
func TestSegmentsHalfTheSequenceSpaceAway(t *testing.T) {
	for _, creep := range []int{0, 1, 5} {
		c := &conn{f: newFilter(t, outRule(tcpPort(80))), local: at(self4, 40000), remote: at(alice4, 80), snd: 1000, rcv: 9000}
		passes(t, "SYN", c.send(fSYN, 0))
		passes(t, "SYN+ACK", c.recv(fSYN|fACK, 0))
		acknowledged := c.rcv
		for range creep {
			// Data before the handshake is over, ever further ahead, is let through for no more than a window.
			s := c.inward(fACK, 1000)
			s.seq += 100_000
			if c.f.Ingress(s.bytes()).Verdict == Pass {
				c.rcv = s.seq + 1000
			}
		}
		if c.rcv-acknowledged > leastWindow+slack {
			t.Errorf("%d bytes passed that nobody had room for", c.rcv-acknowledged)
		}
		s := c.outward(fACK, 0)
		s.ack = acknowledged
		passes(t, "ACK", c.f.Egress(s.bytes()))
		for off := -1 << 18; off <= 1<<18; off += 1 << 12 {
			far := c.inward(fACK, 100)
			far.seq += uint32(1<<31 + off)
			refused(t, fmt.Sprintf("segment 2^31%+d ahead", off), c.f.Ingress(far.bytes()), ReasonTCPWindow)
			far = c.inward(fACK, 100)
			far.ack += uint32(1<<31 + off)
			refused(t, fmt.Sprintf("acknowledgment 2^31%+d ahead", off), c.f.Ingress(far.bytes()), ReasonTCPWindow)
		}
		passes(t, "data", c.f.Ingress(seg{from: c.remote, to: c.local, seq: acknowledged, ack: c.snd, flags: fACK, data: 100}.bytes()))
	}
}

// Data sent again, in other pieces, passes: the ends know what they have.
func TestOverlappingSegments(t *testing.T) {
	c := dial(t, newFilter(t, outRule(tcpPort(80))), at(self4, 40000), at(alice4, 80), true)
	start := c.rcv
	passes(t, "data", c.recv(fACK, 1000))
	for _, s := range []struct{ from, size int }{{0, 1000}, {500, 1000}, {0, 100}, {999, 1}, {1400, 200}, {100, 3000}} {
		again := seg{from: c.remote, to: c.local, seq: start + uint32(s.from), ack: c.snd, flags: fACK, data: s.size}
		passes(t, fmt.Sprint("bytes from ", s.from), c.f.Ingress(again.bytes()))
	}
	refused(t, "acknowledgment of more than was sent", c.f.Egress(seg{from: c.local, to: c.remote, seq: c.snd, ack: start + 3101, flags: fACK}.bytes()), ReasonTCPWindow)
	passes(t, "acknowledgment of all", c.f.Egress(seg{from: c.local, to: c.remote, seq: c.snd, ack: start + 3100, flags: fACK}.bytes()))
}
