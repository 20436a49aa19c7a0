//go:build linux

package integration

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"picket.internal/integration/lab"
	"picket.internal/node/localapi"
)

// rotationRate is in datagrams a second, each way.
const rotationRate = 2000

// TestRotationLosesNoPacket changes the tunnel key of either end, three times each, under a TCP connection and 2,000 datagrams a second both
// ways: none is lost, and the device's key is another each time, under which alone the other end's device has it.
func TestRotationLosesNoPacket(t *testing.T) {
	n := newNetwork(t, false, policyFor(openPorts))
	n.laptop("alice")
	db := n.server("db", "tag:db")
	alice := n.nodes["alice"]
	_, err := db.Host.Serve(n.ctx, "tcp", "[::]:5432")
	n.must(err)
	tcp, err := alice.Dial(n.ctx, "tcp", n.address(db, false)+":5432")
	n.must(err)
	load := n.startDatagrams(alice, db, ":5353")
	time.Sleep(2 * time.Second)
	seen := map[string]bool{}
	for round := range 3 {
		for i, who := range []*lab.Node{alice, db} {
			former := n.wireGuard(who).PublicKey
			var r localapi.Rotation
			n.must(who.JSON(n.ctx, &r, "rotate", "--timeout", "60s"))
			t.Logf("round %d, %s: %s follows %s; known after %v, sessions after %v, %d of %d peers without", round, who.Host.Name, r.Key, r.Former, r.Waited, r.Took, r.Without, r.Peers)
			if r.Peers != 1 || r.Without != 0 || seen[r.Key] {
				t.Errorf("round %d: %+v", round, r)
			}
			seen[r.Key] = true
			var s localapi.Status
			n.must(who.JSON(n.ctx, &s, "status"))
			if s.TunnelKey.Key != r.Key || s.TunnelKey.Next.IsZero() {
				t.Errorf("status has %+v", s.TunnelKey)
			}
			time.Sleep(2 * time.Second) // the other end's device keeps the former key for a second
			if now := n.wireGuard(who).PublicKey; now == former {
				t.Errorf("round %d: the device of %s has its former key", round, who.Host.Name)
			}
			if err := n.knows([]*lab.Node{db, alice}[i], who); err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		}
	}
	sent, lost := load.end()
	t.Logf("of %d datagrams each way, lost: %v", sent, lost)
	if lost != [2]int{} {
		t.Errorf("of %d datagrams each way %v were lost", sent, lost)
	}
	if gap := tcp.LongestGap(); !tcp.Alive(time.Second) || gap > pause {
		t.Errorf("the TCP connection: %s, longest silence %v", tcp.Reason(), gap)
	}
	out, err := n.coordinator.CLI(n.ctx, "audit", "list", "--limit", "200")
	n.must(err)
	if strings.Count(out, "node.rotate") != 6 {
		t.Errorf("the audit log has %d rotations:\n%s", strings.Count(out, "node.rotate"), out)
	}
}

// datagrams is a load of numbered datagrams in both directions of one flow.
type datagrams struct {
	stop     atomic.Bool
	sending  sync.WaitGroup
	counting sync.WaitGroup
	sockets  [2]*net.UDPConn
	sent     [2]int
	arrived  [2]map[uint64]bool
}

func (n *network) startDatagrams(from, to *lab.Node, port string) *datagrams {
	n.t.Helper()
	d := &datagrams{arrived: [2]map[uint64]bool{{}, {}}}
	server := netip.MustParseAddrPort(n.address(to, false) + port)
	n.must(to.Host.Do(func() (err error) {
		d.sockets[1], err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(server))
		return err
	}))
	n.must(from.Host.Do(func() (err error) {
		d.sockets[0], err = net.ListenUDP("udp4", nil)
		return err
	}))
	var client atomic.Pointer[netip.AddrPort]
	for i := range d.sockets {
		_ = d.sockets[i].SetReadBuffer(8 << 20)
		d.counting.Go(func() {
			buf := make([]byte, 2000)
			for {
				size, back, err := d.sockets[i].ReadFromUDPAddrPort(buf)
				if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
					return
				}
				if err != nil || size < 8 {
					continue
				}
				if i == 1 {
					client.Store(&back)
				}
				d.arrived[i][binary.BigEndian.Uint64(buf)] = true
			}
		})
		d.sending.Go(func() {
			buf := make([]byte, 200)
			next := time.Now()
			for !d.stop.Load() {
				time.Sleep(time.Until(next))
				next = next.Add(time.Second / rotationRate)
				at := &server
				if i == 1 {
					if at = client.Load(); at == nil {
						continue
					}
				}
				binary.BigEndian.PutUint64(buf, uint64(d.sent[i]))
				if _, err := d.sockets[i].WriteToUDPAddrPort(buf, *at); err == nil {
					d.sent[i]++
				}
			}
		})
	}
	return d
}

func (d *datagrams) end() (sent, lost [2]int) {
	d.stop.Store(true)
	d.sending.Wait()
	for _, s := range d.sockets {
		_ = s.SetReadDeadline(time.Now().Add(2 * time.Second))
	}
	d.counting.Wait()
	for i := range d.sockets {
		lost[i] = d.sent[i] - len(d.arrived[1-i])
		_ = d.sockets[i].Close()
	}
	return d.sent, lost
}
