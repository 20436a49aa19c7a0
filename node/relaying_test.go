package node

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/coordinator/protocol"
	"picket.internal/node/control"
	"picket.internal/wgtun/key"
	"picket.internal/wgtun/path"
	"picket.internal/wgtun/relay"
)

// relayed is a world with a relay, and a client of that which stands for a peer.
type relayed struct {
	*world
	server *relay.Server
	client *relay.Client
	asked  []control.Config
	joins  []protocol.Join
	wrote  atomic.Int64 // frames of the nodes'
}

// counted is a connection of a node's.
type counted struct {
	net.Conn
	wrote *atomic.Int64
}

func (c counted) Write(b []byte) (int, error) {
	c.wrote.Add(1)
	return c.Conn.Write(b)
}

func newRelayed(t *testing.T) *relayed {
	r := &relayed{world: newWorld(t)}
	r.server = relay.NewServer(relay.ServerConfig{Coordinator: r.key.Public(), Network: string(testNetwork), Name: protocol.OwnRelay})
	r.join()
	_ = r.node.do(r.run, func() { r.node.reach.relay = r.dial })
	return r
}

func (r *relayed) dial(ctx context.Context, j protocol.Join, c control.Config) (net.Conn, error) {
	r.joins, r.asked = append(r.joins, j), append(r.asked, c)
	here, there := net.Pipe()
	go func() { _ = r.server.Serve(ctx, there) }()
	return counted{here, &r.wrote}, nil
}

// pass is the coordinator's word for a device.
func (r *relayed) pass(device key.DevicePublic, peer key.DevicePublic) []byte {
	p := relay.NewPass(string(testNetwork), device, []relay.Address{relay.AddressOf(string(testNetwork), peer)}, time.Now())
	return p.Sign(r.key)
}

func TestRelay_isMetAndTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelayed(t)
		defer r.server.Close()
		p := newPeer("a", "100.64.0.2")
		c := content(p.entry())
		c.Relays = []protocol.Relay{{Name: protocol.OwnRelay}}
		r.send(r.signed(5, c))
		time.Sleep(2 * time.Second)
		if len(r.joins) != 0 {
			t.Error("a relay is dialled without a pass")
		}
		device := r.node.id.node.Device.Public()
		r.handler().OnRelayPass(protocol.RelayPass{Pass: r.pass(device, p.device.Public())})
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if len(r.joins) != 1 || r.joins[0].URL != testURL || r.asked[0].Pinned != r.key.Public() {
			t.Fatalf("dialled %v", r.joins)
		}
		if got := r.session().reports; len(got) == 0 || got[len(got)-1].Relay != protocol.OwnRelay {
			t.Errorf("the coordinator was not told: %+v", got)
		}
		if got := r.node.relaying.list(); len(got) != 1 || got[0].Name != protocol.OwnRelay || !got[0].Home || !got[0].Connected || got[0].Latency == 0 {
			t.Errorf("netcheck is told %+v", got)
		}
		r.handler().OnHints(protocol.Hints{Hints: []protocol.Hint{{Node: "a", Relay: protocol.OwnRelay}}})
		synctest.Wait()
		want := path.Home{Relay: protocol.OwnRelay, Address: relay.AddressOf(string(testNetwork), p.device.Public())}
		if got := r.overlay().homes["a"]; got != want {
			t.Errorf("home %+v", got)
		}
		r.handler().OnSought(protocol.Sought{Node: "a"}) // says nothing of relays
		synctest.Wait()
		if got := r.overlay().homes["a"]; got != want {
			t.Errorf("home %+v after the peer sought us", got)
		}
		r.handler().OnHints(protocol.Hints{Hints: []protocol.Hint{{Node: "a", Relay: "fra"}}})
		synctest.Wait()
		if got := r.overlay().homes["a"]; got.Relay != "fra" || got.Spare != protocol.OwnRelay || got.Address != want.Address {
			t.Errorf("home %+v, want this node's own in spare", got)
		}
		time.Sleep(5 * time.Second)
		before := r.wrote.Load()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if n := r.wrote.Load(); n != before {
			t.Fatalf("%d frames of an idle node", n-before)
		}
		r.handler().OnHints(protocol.Hints{Check: []string{protocol.OwnRelay}})
		synctest.Wait()
		if n := r.wrote.Load(); n != before+1 {
			t.Errorf("%d frames for a relay that may be dead, want a ping", n-before)
		}
		time.Sleep(3 * time.Second)
		r.handler().OnSought(protocol.Sought{Node: "a"})
		synctest.Wait()
		if n := r.wrote.Load(); n != before+2 {
			t.Errorf("%d frames when a peer does not reach this node, want another ping", n-before-1)
		}
		time.Sleep(3 * time.Second)
		r.move("via 192.0.2.9")
		if n := r.wrote.Load(); n != before+3 {
			t.Errorf("%d frames when the host's network is another, want another ping", n-before-2)
		}
		r.client = relay.NewClient(relay.ClientConfig{
			Name: protocol.OwnRelay, Network: string(testNetwork), Device: p.device, Pass: func() []byte { return r.pass(p.device.Public(), device) },
			Dial:    func(ctx context.Context) (net.Conn, error) { return r.dial(ctx, protocol.Join{}, control.Config{}) },
			Receive: func(relay.Address, []byte) {},
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = r.client.Run(ctx) }()
		synctest.Wait()
		r.client.Send(relay.AddressOf(string(testNetwork), device), []byte("datagram"))
		synctest.Wait()
		if got := r.overlay().relayed; len(got) != 1 || got[0] != "datagram" {
			t.Errorf("brought %q", got)
		}
		cancel()
		<-done
		r.send(r.signed(6, content())) // no peers: no relays either
		time.Sleep(time.Second)
		synctest.Wait()
		if s := r.server.Stats(); s.Clients != 0 || r.node.relaying.set.Home() != "" {
			t.Errorf("%+v, home %q", s, r.node.relaying.set.Home())
		}
		r.stop()
	})
}
