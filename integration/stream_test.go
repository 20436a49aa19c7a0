//go:build linux

package integration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"picket.internal/integration/lab"
)

// stream is a TCP connection through the tunnel, with bytes that the receiver knows beforehand.
type stream struct {
	got    atomic.Int64 // bytes that came, each as it was sent
	ended  chan error   // one result, after stop or a wrong byte
	cancel context.CancelFunc
}

// Parts of a stream: 3 MB a second, which leaves a small machine time for the rest.
const (
	part      = 16 << 10
	partEvery = 5 * time.Millisecond
)

// stream opens one and sends at most size bytes.
func (n *network) stream(from, to *lab.Node, size int64) *stream {
	n.t.Helper()
	address := n.address(to, false) + ":7000"
	var l net.Listener
	n.must(to.Host.Do(func() (err error) { l, err = net.Listen("tcp4", address); return err }))
	var c net.Conn
	n.must(from.Host.Do(func() (err error) { c, err = net.DialTimeout("tcp4", address, 20*time.Second); return err }))
	peer, err := l.Accept()
	l.Close()
	n.must(err)
	ctx, cancel := context.WithCancel(n.ctx)
	s := &stream{ended: make(chan error, 1), cancel: cancel}
	go send(ctx, c, size)
	go func() { s.ended <- s.receive(peer) }()
	n.t.Cleanup(func() {
		cancel()
		c.Close()
		peer.Close()
	})
	return s
}

func known() *rand.ChaCha8 { return rand.NewChaCha8([32]byte{1}) }

// send ends with what has been begun, and closes its half of the connection.
func send(ctx context.Context, c net.Conn, size int64) {
	source, buf := known(), make([]byte, part)
	tick := time.NewTicker(partEvery)
	defer tick.Stop()
	for sent := int64(0); sent < size && ctx.Err() == nil; sent += part {
		_, _ = source.Read(buf)
		if _, err := c.Write(buf); err != nil {
			return
		}
		<-tick.C
	}
	_ = c.(*net.TCPConn).CloseWrite()
}

// receive returns nil after the last byte.
func (s *stream) receive(c net.Conn) error {
	source, want, buf := known(), make([]byte, part), make([]byte, part)
	for {
		n, err := io.ReadFull(c, buf)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", s.got.Load(), err)
		}
		_, _ = source.Read(want)
		if !bytes.Equal(buf, want) {
			return fmt.Errorf("other bytes came than were sent, after %d", s.got.Load())
		}
		s.got.Add(int64(n))
	}
}

// goesOn waits until as much as a second's worth has come since the call.
func (n *network) goesOn(s *stream, after string) {
	n.t.Helper()
	before := s.got.Load()
	took := n.until("the stream goes on "+after, 40*time.Second, func() bool { return s.got.Load() > before+3<<20 })
	n.t.Logf("3 MB more %s after %v", after, took)
}

// whole stops the sender, and waits until all has come.
func (n *network) whole(s *stream) {
	n.t.Helper()
	s.cancel()
	select {
	case err := <-s.ended:
		n.must(err)
	case <-time.After(40 * time.Second):
		n.t.Fatalf("the stream does not end; %d bytes came", s.got.Load())
	}
}

// TestBadCables sends some megabytes over a path that loses each twentieth packet, and over one that holds back each tenth.
func TestBadCables(t *testing.T) {
	n := newNetwork(t, false, reachPolicy)
	observers, err := n.Observers()
	n.must(err)
	right := n.server("right", "tag:right")
	lossy, router := n.behind("lossy", "tag:left", 61, lab.NATConfig{Loss: 5}, "--port-mapping=off")
	disorderly := n.host("disorderly")
	n.must(disorderly.Disorder(10, 5*time.Millisecond))
	n.server("disorderly", "tag:left")
	came, _, err := observers.Carries(lossy.Host, 250)
	if err != nil || came == 250 || came < 150 {
		t.Fatalf("%d of 250 datagrams come through %s, %v", came, router.Name, err)
	}
	came, overtaken, err := observers.Carries(disorderly, 250)
	if err != nil || came != 250 || overtaken < 5 {
		t.Fatalf("%d of 250 datagrams come, %d of them late, %v", came, overtaken, err)
	}
	for _, name := range []string{"lossy", "disorderly"} {
		n.direct(n.nodes[name], "right", 30*time.Second)
		const size = 4 << 20
		began := time.Now()
		s := n.stream(n.nodes[name], right, size)
		select {
		case err := <-s.ended:
			n.must(err)
		case <-n.ctx.Done():
		}
		if s.got.Load() != size {
			t.Errorf("%s: %d of %d bytes came", name, s.got.Load(), size)
		}
		t.Logf("%s: %d bytes after %v", name, size, time.Since(began))
	}
}

// TestStreamSurvives: the cable is out for 5 s, the router forgets what it lent, and the way out becomes another one, all under one TCP connection.
func TestStreamSurvives(t *testing.T) {
	n := newNetwork(t, false, reachPolicy)
	right, _ := n.behind("right", "tag:right", 73, lab.NATConfig{}, "--port-mapping=off")
	one, first, err := n.NAT(71, lab.NATConfig{})
	n.must(err)
	two, second, err := n.NAT(72, lab.NATConfig{})
	n.must(err)
	h, err := one.Behind("left", 2)
	n.must(err)
	n.must(two.PlugAs(h, "lan2", 2))
	left, err := h.StartNode(n.ctx, "--port-mapping=off")
	n.must(err)
	n.admit(left, "left", "tag:left")
	n.direct(left, "right", 20*time.Second)
	before, _ := n.direct(right, "left", 20*time.Second)
	s := n.stream(left, right, 1<<40)
	n.goesOn(s, "at first")

	n.must(one.SetCable(2, false))
	time.Sleep(time.Second) // what is under way
	still := s.got.Load()
	time.Sleep(4 * time.Second)
	if s.got.Load() != still {
		t.Fatal("the stream goes on without a cable: then the lab's is none")
	}
	n.must(one.SetCable(2, true))
	n.goesOn(s, "with the cable in again")

	n.must(first.RestartNAT(lab.NATConfig{Other: true}))
	n.goesOn(s, "when the router has forgotten what it lent")
	n.until("the peer uses the port that is lent now", 30*time.Second, func() bool {
		at, _ := n.direct(right, "left", 30*time.Second)
		return strings.HasPrefix(at, first.IP.String()+":") && at != before
	})

	n.must(h.AddRoute("0.0.0.0/0", two.Address(1)))
	n.until("the peer uses the other way", 30*time.Second, func() bool {
		at, _ := n.direct(right, "left", 30*time.Second)
		return strings.HasPrefix(at, second.IP.String()+":")
	})
	n.must(first.Block(n.ctx, "ip daddr 0.0.0.0/0"))
	n.goesOn(s, "by the other way")
	n.whole(s)
}
