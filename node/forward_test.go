package node

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
)

func TestForward_refuses(t *testing.T) {
	at := netip.MustParseAddrPort
	for want, f := range map[string]localapi.Forward{
		"0.0.0.0:5432 is not on loopback":   {Listen: at("0.0.0.0:5432"), Peer: "a", Port: 22},
		"[::]:5432 is not on loopback":      {Listen: at("[::]:5432"), Peer: "a", Port: 22},
		"100.64.0.1:5432 is not on":         {Listen: at("100.64.0.1:5432"), Peer: "a", Port: 22},
		"127.0.0.1]:5432 is not on":         {Listen: at("[::ffff:127.0.0.1]:5432"), Peer: "a", Port: 22},
		"invalid AddrPort is not on":        {Peer: "a", Port: 22, Listen: netip.AddrPortFrom(netip.Addr{}, 5432)},
		"0 is no port":                      {Listen: at("127.0.0.1:0"), Peer: "a", Port: 22},
		"0 is no port: write a number from": {Listen: at("127.0.0.1:5432"), Peer: "a"},
		"no peer is named":                  {Listen: at("127.0.0.1:5432"), Port: 22},
		"no name that one can have":         {Listen: at("127.0.0.1:5432"), Port: 22, Peer: strings.Repeat("a", maxPeerName+1)},
	} {
		if err := checkForward(f, 0); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", f, err, want)
		}
	}
	f := localapi.Forward{Listen: at("127.0.0.1:80"), Peer: "a", Port: 22}
	if err := checkForward(f, 1000); err == nil || !strings.Contains(err.Error(), "one of root's") {
		t.Errorf("a port of root's for another user: %v", err)
	}
	for _, caller := range []int{0, -1} {
		if err := checkForward(f, caller); err != nil {
			t.Errorf("port 80 for user %d: %v", caller, err)
		}
	}
}

func TestPassages_areBounded(t *testing.T) {
	p := newPassages()
	for _, n := range []int{0, -1, localapi.MaxPassages + 1} {
		if _, err := p.take(n); err == nil {
			t.Errorf("%d ports in one request", n)
		}
	}
	var all []func()
	for range maxPassages / localapi.MaxPassages {
		free, err := p.take(localapi.MaxPassages)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, free)
	}
	all[0]()
	if _, err := p.take(localapi.MaxPassages - 1); err != nil {
		t.Error(err)
	}
	if _, err := p.take(2); err == nil || len(p.places) != maxPassages-1 {
		t.Errorf("one too many: %v; %d places are taken", err, len(p.places))
	}
}

// TestPassage_leavesOutWhatIsNotRead: connections never wait for who reads of them.
func TestPassage_leavesOutWhatIsNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPassage()
		task := func(context.Context) error {
			for range maxUntold + 10 {
				p.tell(localapi.PassageEvent{Kind: localapi.PassageBegan})
			}
			time.Sleep(time.Second)
			p.tell(localapi.PassageEvent{Kind: localapi.PassageEnded})
			return errors.New("the listener is gone")
		}
		var heard []localapi.PassageEvent
		reading := false
		p.run(t.Context(), func(e localapi.PassageEvent) {
			if !reading {
				synctest.Wait() // until the task has told all
				reading = true
			}
			heard = append(heard, e)
		}, []func(context.Context) error{task})
		missed := uint64(0)
		for _, e := range heard {
			missed += e.Missed
		}
		if n := uint64(len(heard)); n+missed != maxUntold+12 || missed < 9 {
			t.Errorf("%d events heard, %d missed", n, missed)
		}
		if last := heard[len(heard)-1]; last.Kind != localapi.PassageWarning || last.Reason != "the listener is gone" {
			t.Errorf("the last event is %+v", last)
		}
	})
}

// forwarding runs a forward of a free port to port of peer a, and returns where, and what it tells.
func (w *world) forwarding(port uint16, udp bool) (at string, events <-chan localapi.PassageEvent, stop func()) {
	w.t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	listen := addrPort(free.Addr())
	free.Close()
	told := make(chan localapi.PassageEvent, maxUntold)
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	q := localapi.AskForward{Forwards: []localapi.Forward{{Listen: listen, Peer: "a", Port: port, UDP: udp}}}
	go func() {
		done <- w.api().Forward(ctx, q, func(e localapi.PassageEvent) { told <- e })
		close(told)
	}()
	if e := <-told; e.Kind != localapi.PassageOpen || e.Listen != listen || e.To != "a:22" && e.To != "a:23" {
		w.t.Fatalf("told %+v first", e)
	}
	return listen.String(), told, func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	}
}

// echoing is a connection whose other end echoes.
func echoing() net.Conn {
	near, far := net.Pipe()
	go func() {
		io.Copy(far, far)
		far.Close()
	}()
	return near
}

// echoesOnce sends five bytes to at, wants them back, and closes.
func echoesOnce(t *testing.T, at string) {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "hello")
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Errorf("echoed %q, %v", b, err)
	}
}

// TestForward_followsPeerAndPolicy: nothing here uses fake time; the bubble only holds the world.
func TestForward_followsPeerAndPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		peer := newPeer("a", "100.64.0.2")
		w.send(w.signed(5, content(peer.entry())))
		var dialled []string
		w.overlay().dials = func(network string, to netip.AddrPort) (net.Conn, error) {
			dialled = append(dialled, network+" "+to.String())
			return echoing(), nil
		}
		at, events, stop := w.forwarding(22, false)
		through := func() {
			t.Helper()
			echoesOnce(t, at)
			if e := <-events; e.Kind != localapi.PassageBegan || !e.From.Addr().IsLoopback() {
				t.Errorf("told %+v", e)
			}
			if e := <-events; e.Kind != localapi.PassageEnded || e.Sent != 5 || e.Received != 5 {
				t.Errorf("told %+v", e)
			}
		}
		through()
		moved := newPeer("a", "100.64.0.9")
		moved.device = peer.device
		takes := func(generation uint64, c protocol.Content) {
			w.handler().OnMap(w.signed(generation, c)) // no synctest.Wait: the listener does not block durably
			for w.node.view.Load().held.header.Generation != generation {
				time.Sleep(time.Millisecond)
			}
		}
		takes(6, content(moved.entry()))
		through()
		c := content(moved.entry())
		c.Rules = nil
		takes(7, c)
		if c, err := net.Dial("tcp", at); err == nil {
			c.(*net.TCPConn).CloseWrite() // or an echo would wait for more
			if _, err := io.ReadAll(c); err == nil {
				t.Error("what the policy refuses reads as a finished connection")
			}
			c.Close()
		}
		if e := <-events; e.Kind != localapi.PassageRefused || !strings.HasPrefix(e.Reason, "refused by the policy: ") {
			t.Errorf("told %+v", e)
		}
		if got := strings.Join(dialled, ", "); got != "tcp 100.64.0.2:22, tcp 100.64.0.9:22" {
			t.Errorf("dialled %s", got)
		}
		s := service{acl.TCP, netip.MustParseAddrPort(at).Port()}
		if !w.node.inbound.entrances.contains(s) {
			t.Error("the forward's port is no entrance: peers may be joined to it")
		}
		stop()
		if w.node.inbound.entrances.contains(s) || len(w.node.passages.places) > 0 {
			t.Error("a forward that ended holds its place")
		}
	})
}

func TestForward_datagrams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		c := content(newPeer("a", "100.64.0.2").entry())
		c.Rules[0].Ports = []acl.Ports{{Proto: acl.UDP, First: 22, Last: 22}}
		w.send(w.signed(5, c))
		w.overlay().dials = func(network string, to netip.AddrPort) (net.Conn, error) {
			return echoing(), nil
		}
		at, events, stop := w.forwarding(22, true)
		if !w.node.inbound.entrances.contains(service{acl.UDP, netip.MustParseAddrPort(at).Port()}) {
			t.Error("the forward's port is no entrance")
		}
		conn, err := net.Dial("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "hello")
		b := make([]byte, 100)
		if n, err := conn.Read(b); err != nil || string(b[:n]) != "hello" {
			t.Errorf("echoed %q, %v", b[:n], err)
		}
		if e := <-events; e.Kind != localapi.PassageBegan || e.Proto != "udp" {
			t.Errorf("told %+v", e)
		}
		stop()
		if e := <-events; e.Kind != localapi.PassageEnded || e.Sent != 5 || e.Received != 5 || e.Reason != "" {
			t.Errorf("told %+v", e)
		}

		at, events, stop = w.forwarding(23, true)
		defer stop()
		conn, err = net.Dial("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "hello")
		if e := <-events; e.Kind != localapi.PassageRefused || !strings.HasPrefix(e.Reason, "refused by the policy: ") {
			t.Errorf("told %+v", e)
		}
	})
}

func TestForward_allOrNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		taken := listen(t)
		free := listen(t)
		at := addrPort(free.Addr())
		free.Close()
		q := localapi.AskForward{Forwards: []localapi.Forward{{Listen: at, Peer: "a", Port: 22}, {Listen: addrPort(taken.Addr()), Peer: "a", Port: 22}}}
		err := w.api().Forward(t.Context(), q, func(e localapi.PassageEvent) { t.Errorf("told %+v", e) })
		if err == nil || !strings.Contains(err.Error(), "another program has it") {
			t.Errorf("a port in use: %v", err)
		}
		if len(w.node.passages.places) > 0 || len(w.node.inbound.entrances.ports) > 0 {
			t.Error("what was refused holds its place")
		}
		l, err := net.Listen("tcp", at.String())
		if err != nil {
			t.Fatalf("the first port is still taken: %v", err)
		}
		l.Close()
	})
}
