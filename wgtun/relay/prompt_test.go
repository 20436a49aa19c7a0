//go:build unix

package relay

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// prompts are the two ends of a TCP connection, the first of which is a Prompt.
func prompts(t *testing.T) (*Prompt, net.Conn) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := PromptListener(inner)
	defer l.Close()
	far, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		far.Close()
	})
	return c.(*Prompt), far
}

// stuff writes numbered pieces until the network takes no more, and returns all of them.
func stuff(t *testing.T, p *Prompt) (written []byte) {
	t.Helper()
	for i := 0; !p.Behind(); i++ {
		if i > 10000 {
			t.Fatal("the network takes anything")
		}
		piece := bytes.Repeat([]byte{byte(i)}, 5000)
		if n, err := p.Write(piece); n != len(piece) || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
		written = append(written, piece...)
	}
	return written
}

// What the network does not take is held, up to a bound, and comes later whole and in order.
func TestPromptWaitsForNobody(t *testing.T) {
	p, far := prompts(t)
	told := 0
	p.begin(func() { told++ })
	written := stuff(t, p)
	for {
		n, err := p.Write([]byte("more"))
		written = append(written, "more"[:n]...)
		if errors.Is(err, errHeld) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(p.held) > maxHeld || told != 1 {
		t.Errorf("%d bytes are held, told %d times", len(p.held), told)
	}
	drained := make(chan error, 1)
	go func() { drained <- p.drain() }()
	got := make([]byte, len(written))
	if _, err := io.ReadFull(far, got); err != nil {
		t.Fatal(err)
	}
	if err := <-drained; err != nil || !bytes.Equal(got, written) || p.Behind() {
		t.Errorf("%v, or other bytes came", err)
	}
	if _, err := p.Write([]byte("and on")); err != nil {
		t.Error(err)
	}
}

// After a drain that failed nothing follows the gap.
func TestPromptEndsWithAGap(t *testing.T) {
	p, _ := prompts(t)
	p.begin(func() {})
	stuff(t, p)
	_ = p.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	if err := p.drain(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	_ = p.SetWriteDeadline(time.Time{})
	if _, err := p.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("written after a gap: %v", err)
	}
}

// Nor does anything follow a piece of which only a part was taken.
func TestPromptEndsWithAPieceTooLong(t *testing.T) {
	p, far := prompts(t)
	p.begin(func() {})
	n, err := p.Write(make([]byte, 64<<20))
	if n == 0 || !errors.Is(err, errHeld) {
		t.Fatalf("%d, %v", n, err)
	}
	go func() { _, _ = io.Copy(io.Discard, far) }()
	if _, err := p.Write([]byte("x")); !errors.Is(err, errHeld) {
		t.Errorf("written after a gap: %v", err)
	}
	if err := p.drain(); !errors.Is(err, errHeld) {
		t.Errorf("drained after a gap: %v", err)
	}
}

// overTCP serves a relay whose clients come by TCP, and has nodes log in there by hand.
func (w *world) overTCP() (in func(*node) net.Conn) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	l := PromptListener(inner)
	w.serves.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.serves.Go(func() { _ = w.server.Serve(w.ctx, c) })
		}
	})
	w.t.Cleanup(func() { l.Close() })
	return func(n *node) net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { c.Close() })
		pass, err := OpenPass(n.pass, w.key.Public(), network, time.Now())
		if err != nil {
			w.t.Fatal(err)
		}
		logIn(w.t, c, n.device, *pass, w.key)
		return c
	}
}

// A receiver that reads nothing holds nobody up, though senders write to receivers themselves: neither by datagrams, nor by pings of its own that it
// does not take the answers of. Others get theirs in order.
func TestStuckReceiverByTCP(t *testing.T) {
	w := newWorld(t)
	a, b, stuck := w.node(), w.node(), w.node()
	a.may(b, stuck)
	b.may(a)
	stuck.may(a)
	in := w.overTCP()
	from, to, deaf := in(a), in(b), in(stuck)
	ping := appendFrame(nil, kindPing, make([]byte, pingSize))
	_ = deaf.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, err := deaf.Write(bytes.Repeat(ping, 1000)); err != nil {
		t.Fatal(err)
	}
	toB, toStuck := b.address(), stuck.address()
	r := &reader{r: to, only: func(k kind) bool { return k == kindDatagram }}
	defer r.release()
	for i := 0; w.server.Stats().Full < 1000; i++ {
		if i > 1<<16 {
			t.Fatal("one that reads nothing is sent anything")
		}
		var batch []byte
		for range 20 {
			batch = appendFrame(batch, kindDatagram, toStuck[:], make([]byte, 1200))
		}
		number := []byte{byte(i >> 8), byte(i)}
		_ = from.SetWriteDeadline(time.Now().Add(5 * time.Second))
		if _, err := from.Write(appendFrame(batch, kindDatagram, toB[:], number)); err != nil {
			t.Fatalf("the sender is held up: %v", err)
		}
		_ = to.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, payload, err := r.next()
		if err != nil {
			t.Fatalf("another is held up: %v", err)
		}
		if !bytes.Equal(payload[addressSize:], number) {
			t.Fatalf("%d came where %d was sent", payload[addressSize:], number)
		}
	}
}

// Who is behind, and reads again, still gets the word why it is sent away.
func TestFarewellByTCPComesAfterWhatIsHeld(t *testing.T) {
	w := newWorld(t)
	a, b := w.node(), w.node()
	a.may(b)
	b.may(a)
	in := w.overTCP()
	from, to := in(a), in(b)
	toB := b.address()
	_ = from.SetWriteDeadline(time.Now().Add(10 * time.Second))
	for w.server.Stats().Full == 0 {
		if _, err := from.Write(appendFrame(nil, kindDatagram, toB[:], make([]byte, 1200))); err != nil {
			t.Fatal(err)
		}
	}
	w.server.Drop(toB)
	time.Sleep(100 * time.Millisecond) // the relay would be done by now if it did not wait
	r := &reader{r: to, only: func(kind) bool { return true }}
	defer r.release()
	_ = to.SetReadDeadline(time.Now().Add(5 * time.Second))
	for {
		k, payload, err := r.next()
		if err != nil {
			t.Fatalf("it ends without a word: %v", err)
		}
		if k == kindRefuse {
			if payload[0] != codeDropped {
				t.Errorf("code %d", payload[0])
			}
			return
		}
	}
}
