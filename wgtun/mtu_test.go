package wgtun

import (
	"testing"
	"time"

	"picket.internal/wgtun/key"
	"picket.internal/wgtun/nettest"
	"picket.internal/wgtun/path"
)

// TestPacketTooLongForThePathIsAnswered has a tunnel of more bytes than the path takes.
func TestPacketTooLongForThePathIsAnswered(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorldMTU(t, 2, 8000)
		a, b := w.nodes[0], w.nodes[1]
		w.apply(both(a, b)...)
		w.net.SetDefault(nettest.Link{Longest: 1400})
		long := udpPacket(addrPort(a, 40000), addrPort(b, 80), make([]byte, 1500))
		short := udpPacket(addrPort(a, 40000), addrPort(b, 80), make([]byte, 1200))
		for range 80 { // keeps the path in use, so that it is measured
			a.tun.Send(short)
			time.Sleep(500 * time.Millisecond)
		}
		b.received()
		cuttable(long, false)
		a.tun.Send(long)
		time.Sleep(time.Second)
		answers := a.received()
		if len(answers) != 1 || len(b.received()) != 0 {
			t.Fatalf("%d answers, or the packet arrived", len(answers))
		}
		if answer := answers[0]; answer[9] != 1 || answer[20] != 3 || answer[21] != 4 || int(answer[26])<<8|int(answer[27]) != PacketIn(1392) {
			t.Errorf("answer %x", answer[:40])
		}
		w.net.SetDefault(nettest.Link{})
		cuttable(long, true)
		a.tun.Send(long)
		time.Sleep(time.Second)
		if got := b.received(); len(got) != 1 || len(got[0]) != len(long) {
			t.Errorf("a packet that may be cut did not go on: %d arrived", len(got))
		}
	})
}

// cuttable sets whether routers may fragment an IPv4 packet.
func cuttable(packet []byte, may bool) {
	packet[6] = 0x40
	if may {
		packet[6] = 0
	}
	packet[10], packet[11] = 0, 0
	sum := ^fold16(sum16(packet[:20]))
	packet[10], packet[11] = byte(sum>>8), byte(sum)
}

// A peer that restarts is a new one to the paths, and what is known of its path's length is no longer kept where it was.
func TestLimitOfAPeerThatRestartedIsItsNewOne(t *testing.T) {
	nettest.Bubble(t, func(t *testing.T) {
		w := newWorldMTU(t, 2, 8000)
		a, b := w.nodes[0], w.nodes[1]
		w.apply(both(a, b)...)
		packet := udpPacket(addrPort(a, 40000), addrPort(b, 80), nil)
		a.tun.Send(packet)
		time.Sleep(5 * time.Second)
		b.stop()
		b.pk = key.NewProbe()
		b.start(nil)
		w.apply(both(a, b)...)
		a.tun.Send(packet)
		time.Sleep(5 * time.Second)
		a.tunnel.roster.limit(b.id).Store(path.BaseDatagram)
		if mtu, ok := a.tunnel.tun.outgoing.ready(packet); !ok || mtu != DefaultMTU {
			t.Errorf("packets of %d bytes, %v", mtu, ok)
		}
	})
}
