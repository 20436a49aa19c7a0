package node

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/acl"
	"picket.internal/node/localapi"
	"picket.internal/node/proxy"
)

// exposed records what an exposure tells.
type exposed struct{ told chan string }

func (x *exposed) exposure(to uint16) *exposure {
	x.told = make(chan string, 10)
	return &exposure{
		to: service{acl.TCP, to},
		opened: func(from, _ netip.AddrPort, err error) {
			word := "opened by "
			if err != nil {
				word = "refused to "
			}
			x.told <- word + from.String()
		},
		ended: func(from netip.AddrPort, b proxy.Bytes, _ error) {
			x.told <- "ended by " + from.String() + strings.Repeat(" >", int(b.Sent)) + strings.Repeat(" <", int(b.Received))
		},
	}
}

func (x *exposed) heard(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-x.told:
		if got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	case <-time.After(20 * time.Second):
		t.Errorf("told nothing, want %q", want)
	}
}

func TestExposed_leadsToAnotherPort(t *testing.T) {
	var i inbound
	var x exposed
	service80, l := service{acl.TCP, 80}, listen(t)
	hide, err := i.expose(service80, x.exposure(portOf(l)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.expose(service80, new(exposure)); err == nil || !strings.Contains(err.Error(), "exposed already") {
		t.Errorf("a second exposure: %v", err)
	}
	c, err := i.dial(t.Context(), "tcp", somePeer, 80)
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	io.WriteString(c, "abc")
	io.WriteString(far, "d")
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if c, ok := c.(interface{ CloseWrite() error }); !ok || c.CloseWrite() != nil {
		t.Error("the peer's end of stream cannot be passed on")
	}
	if b, err := io.ReadAll(far); err != nil || string(b) != "abc" {
		t.Errorf("the service reads %q, %v", b, err)
	}
	hide()
	far.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := i.dial(t.Context(), "tcp", somePeer, 80); err == nil {
		t.Error("port 80 leads on though it is hidden again, and nothing listens there")
	}
	x.heard(t, "opened by 100.64.0.2:4000")
	x.heard(t, "ended by 100.64.0.2:4000 > > > <")
	if len(i.exposed) > 0 {
		t.Error("the port is still held")
	}
}

func TestExposed_endResetsWhatCameIn(t *testing.T) {
	var i inbound
	var x exposed
	l := listen(t)
	hide, err := i.expose(service{acl.TCP, 80}, x.exposure(portOf(l)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.dial(t.Context(), "tcp", somePeer, 80); err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	hide()
	far.SetReadDeadline(time.Now().Add(20 * time.Second))
	var timeout net.Error
	if _, err := far.Read(make([]byte, 1)); err == nil || err == io.EOF || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("a connection in the midst of it reads %v, want a reset", err)
	}
}

// TestExposed_isNoWayToAnEntrance: what is mapped is looked at after the mapping, too.
func TestExposed_isNoWayToAnEntrance(t *testing.T) {
	var i inbound
	var x exposed
	l := listen(t)
	if _, err := i.expose(service{acl.TCP, 80}, x.exposure(portOf(l))); err != nil {
		t.Fatal(err)
	}
	i.entrances.enter(service{acl.TCP, portOf(l)})
	if c, err := i.dial(t.Context(), "tcp", somePeer, 80); err == nil {
		c.Close()
		t.Error("a peer was joined to an entrance by way of another port")
	}
	x.heard(t, "refused to 100.64.0.2:4000")
}

func TestInbound_onlyWhatIsExposed(t *testing.T) {
	i := inbound{only: true}
	var x exposed
	l := listen(t)
	for _, network := range []string{"tcp", "udp"} {
		if c, err := i.dial(t.Context(), network, somePeer, portOf(l)); err == nil {
			c.Close()
			t.Errorf("%s: a peer was joined to what is not exposed", network)
		}
	}
	if _, err := i.expose(service{acl.TCP, portOf(l)}, x.exposure(portOf(l))); err != nil {
		t.Fatal(err)
	}
	c, err := i.dial(t.Context(), "tcp", somePeer, portOf(l))
	if err != nil {
		t.Fatalf("what is exposed: %v", err)
	}
	c.Close()
	if c, err := i.dial(t.Context(), "udp", somePeer, portOf(l)); err == nil {
		c.Close()
		t.Error("over UDP what is exposed for TCP")
	}
}

func TestExpose_refuses(t *testing.T) {
	tun, rootless := api{n: &Node{config: Config{TUN: "picket0"}}}, api{n: &Node{config: Config{TUN: Userspace}}}
	for _, a := range []api{tun, rootless} {
		a.n.inbound.entrances.enter(service{acl.TCP, 1080})
	}
	for want, c := range map[string]struct {
		a      api
		x      localapi.Expose
		caller int
	}{
		"0 is no port":                         {tun, localapi.Expose{To: 8080}, 0},
		"0 is no port: write":                  {tun, localapi.Expose{Port: 8080}, 0},
		"datagrams are not led on":             {tun, localapi.Expose{Port: 8080, To: 8080, UDP: true}, 0},
		"port 80 is one of root's":             {tun, localapi.Expose{Port: 80, To: 8080}, 1000},
		"port 1080 of 127.0.0.1 leads into":    {tun, localapi.Expose{Port: 8080, To: 1080}, 0},
		"tcp port 1080 of 127.0.0.1 leads int": {rootless, localapi.Expose{Port: 1080, To: 1080}, 0},
	} {
		if err := c.a.checkExpose(c.x, c.caller); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", c.x, err, want)
		}
	}
	if err := rootless.checkExpose(localapi.Expose{Port: 80, To: 8080, UDP: true}, 1000); err != nil {
		t.Errorf("without an interface nothing is bound: %v", err)
	}
}

// TestExpose_saysWhetherAnybodyMayCome and holds the port as long as it is asked for.
func TestExpose_saysWhetherAnybodyMayCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		w.node.config.TUN = Userspace
		peer := newPeer("a", "100.64.0.2")
		w.send(w.signed(5, content(peer.entry()))) // this node may reach a
		var told []string
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- w.api().Expose(ctx, localapi.AskExpose{Exposed: []localapi.Expose{{Port: 22, To: 2222}}}, func(e localapi.PassageEvent) {
				told = append(told, string(e.Kind)+" "+e.To+e.Reason)
			})
		}()
		inward := content(peer.entry())
		inward.Rules[0].Src, inward.Rules[0].Dst = inward.Rules[0].Dst, inward.Rules[0].Src
		synctest.Wait()
		w.send(w.signed(6, content(peer.entry()))) // says nothing twice
		w.send(w.signed(7, inward))
		if x := w.node.inbound.exposed[service{acl.TCP, 22}]; x == nil || x.to.port != 2222 {
			t.Errorf("exposed is %+v", x)
		}
		_ = w.api().Down(t.Context())
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		want := []string{"open 127.0.0.1:2222", "warning no rule lets a peer in at tcp 22 now", "note a rule lets a peer in at tcp 22 now", "warning no peer can come in at tcp 22 now: this node is down"}
		if !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
		if len(w.node.inbound.exposed)+len(w.node.passages.places) > 0 {
			t.Error("an exposure that ended holds its place")
		}
	})
}

// TestListeners_areAtThisNodesAddressesAlone: loopback addresses stand for the overlay's.
func TestListeners_areAtThisNodesAddressesAlone(t *testing.T) {
	free := listen(t)
	port := portOf(free)
	free.Close()
	first, second := netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")
	reach := func(a netip.Addr) error {
		c, err := net.Dial("tcp", netip.AddrPortFrom(a, port).String())
		if err == nil {
			c.Close()
		}
		return err
	}
	p := newPassage()
	n := &Node{}
	n.view.Store(&view{})
	g := p.gate(n, localapi.PassageEvent{}, new(kept))
	g.Budget = proxy.NewBudget()
	g.Dial = func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, errors.New("not a peer") }
	d := &listeners{n: n, port: port, gate: g, passage: p, open: make(map[netip.Addr]*listening), trouble: make(map[netip.Addr]string)}
	d.fit(t.Context(), []netip.Addr{first})
	if reach(first) != nil && !isReset(reach(first)) || reach(second) == nil || reach(netip.MustParseAddr("127.0.0.1")) == nil {
		t.Skip("this host has one loopback address, or the listener is elsewhere")
	}
	d.fit(t.Context(), []netip.Addr{second})
	if err := reach(first); err == nil || isReset(err) {
		t.Error("it still listens at an address that the node no longer has")
	}
	if err := reach(second); err != nil && !isReset(err) {
		t.Errorf("it does not listen at the new address: %v", err)
	}
	taken, err := net.Listen("tcp", netip.AddrPortFrom(first, port).String())
	if err != nil {
		t.Fatal(err)
	}
	d.fit(t.Context(), []netip.Addr{first, second})
	d.fit(t.Context(), []netip.Addr{first, second})
	if len(d.trouble) != 1 {
		t.Errorf("trouble is %v", d.trouble)
	}
	taken.Close()
	if d.fit(t.Context(), []netip.Addr{first, second}); len(d.trouble) != 0 || d.open[first] == nil {
		t.Error("an address that is free again is not taken")
	}
	d.fit(t.Context(), nil)
	warned := 0
	for len(p.events) > 0 {
		if e := <-p.events; e.Kind == localapi.PassageWarning {
			warned++
		}
	}
	if warned != 1 || len(d.open) != 0 {
		t.Errorf("%d warnings of an address in use; %d listeners left", warned, len(d.open))
	}
}

func isReset(err error) bool { return err != nil && strings.Contains(err.Error(), "reset") }
