//go:build linux

package integration

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"picket.internal/integration/lab"
	"picket.internal/wgtun/packet"
)

// Values of linux/virtio_net.h.
const (
	needsSum = 1
	gsoNone  = 0
	gsoTCP4  = 1
	gsoUDP   = 5
	gsoTCP6  = 4
)

// playOffloads writes packets with what the kernel is told of them, as its own stack does for 64 KiB at once, and with lies about it. What is refused is
// refused whole; what is cut from a lie never arrives.
func (b *rawBench) playOffloads(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		e := b.ends(v6)
		e.next = 40_000
		header, gsoTCP := uint16(20), uint8(gsoTCP4)
		if v6 {
			header, gsoTCP = 40, gsoTCP6
		}
		tcp := lab.Offload{Flags: needsSum, GSO: gsoTCP, Headers: header + 20, Segment: 1000, SumStart: header, SumPosition: 16}
		udp := lab.Offload{Flags: needsSum, GSO: gsoUDP, Headers: header + 8, Segment: 1000, SumStart: header, SumPosition: 6}
		with := func(o lab.Offload, change func(*lab.Offload)) lab.Offload { change(&o); return o }
		datagrams := func(port uint16) []byte {
			return rawIP(e.from, e.to, packet.ProtoUDP, udpPart(e.source(), e.target(port), noise(3500)))
		}
		later := rawFragment(e.from, e.to, packet.ProtoUDP, 99, 64, false, noise(3000))
		first := rawFragment(e.from, e.to, packet.ProtoUDP, 98, 0, true, udpPart(e.source(), e.target(e.udp), noise(2992)))
		stream := tcpSegment{from: e.source(), to: e.target(e.tcp), seq: 1, ack: 1, flags: ack, data: noise(3500)}.bytes()
		for _, c := range []struct {
			name   string
			o      lab.Offload
			packet []byte
			pieces int // that arrive, each of 1000 bytes of data but the last
		}{
			{"datagrams to the open port in one", udp, datagrams(e.udp), 4},
			{"datagrams to a port that is shut in one", udp, datagrams(e.shut), 0},
			{"a stream of no connection in one", tcp, stream, 0},
			{"a stream called datagrams", with(udp, func(o *lab.Offload) { o.Headers = header + 20 }), stream, 0},
			{"datagrams called a stream", tcp, datagrams(e.udp), 0},
			{"the other family's kind", with(tcp, func(o *lab.Offload) { o.GSO = gsoTCP4 + gsoTCP6 - gsoTCP }), stream, 0},
			{"no size for the pieces", with(udp, func(o *lab.Offload) { o.Segment = 0 }), datagrams(e.udp), 0},
			{"a transport header elsewhere", with(udp, func(o *lab.Offload) { o.SumStart = header + 4 }), datagrams(e.udp), 0},
			{"a transport header in the IP header", with(udp, func(o *lab.Offload) { o.SumStart, o.Headers = 8, 28 }), datagrams(e.udp), 0},
			{"a fragment as a run", udp, later, 0},
			{"a first fragment as a run", udp, first, 0},
			{"a checksum in the ports", lab.Offload{Flags: needsSum, SumStart: header, SumPosition: 0}, rawUDP(e.source(), e.target(e.shut)), 0},
			{"a checksum in the addresses", lab.Offload{Flags: needsSum, SumStart: 8, SumPosition: header - 12}, rawUDP(e.source(), e.target(e.shut)), 0},
		} {
			t.Run(c.name, func(t *testing.T) {
				b.t = t
				b.fence(e)
				b.from.seen, b.to.seen = nil, nil
				if err := b.from.raw.SendOffload(c.o, c.packet); err != nil {
					if !errors.Is(err, unix.EINVAL) || c.pieces > 0 {
						t.Fatal(err)
					}
					t.Logf("the kernel refuses it: %v", err)
					return
				}
				b.fence(e)
				data := 0
				for _, p := range b.to.seen {
					data += len(p)
				}
				if want := c.pieces * 500; c.pieces == 0 && data > 0 || c.pieces > 0 && data < want {
					t.Errorf("%d bytes arrived in %d packets", data, len(b.to.seen))
				}
			})
		}
	}
}
