//go:build linux

package integration

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"picket.internal/integration/lab"
	"picket.internal/wgtun/packet"
)

// Values of linux/virtio_net.h.
const (
	needsSum = 1
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
		for _, c := range offloads(e) {
			t.Run(fmt.Sprintf("in one, IPv6 %v: %s", v6, c.name), func(t *testing.T) {
				b.t = t
				b.playOffload(t, e, c)
			})
		}
	}
}

// offload is a packet with what the kernel is told of it.
type offload struct {
	name string
	lab.Offload
	packet []byte
	least  int // bytes that arrive: 0 for none
}

func offloads(e *ends) []offload {
	header, gsoTCP, other := uint16(20), uint8(gsoTCP4), uint8(gsoTCP6)
	if e.from.Is6() {
		header, gsoTCP, other = 40, gsoTCP6, gsoTCP4
	}
	tcp := lab.Offload{Flags: needsSum, GSO: gsoTCP, Headers: header + 20, Segment: 1000, SumStart: header, SumPosition: 16}
	udp := lab.Offload{Flags: needsSum, GSO: gsoUDP, Headers: header + 8, Segment: 1000, SumStart: header, SumPosition: 6}
	longer, family, sizeless, later, early := udp, tcp, udp, udp, udp
	longer.Headers = header + 20
	family.GSO = other
	sizeless.Segment = 0
	later.SumStart += 4
	early.SumStart, early.Headers = 8, 28
	datagrams := func(port uint16) []byte {
		return rawIP(e.from, e.to, packet.ProtoUDP, udpPart(e.source(), e.target(port), noise(3500)))
	}
	stream := tcpSegment{from: e.source(), to: e.target(e.tcp), seq: 1, ack: 1, flags: ack, data: noise(3500)}.bytes()
	return []offload{
		{"datagrams to the open port", udp, datagrams(e.udp), 3500},
		{"datagrams to a port that is shut", udp, datagrams(e.shut), 0},
		{"a stream of no connection", tcp, stream, 0},
		{"a stream called datagrams", longer, stream, 0},
		{"datagrams called a stream", tcp, datagrams(e.udp), 0},
		{"the other family's kind", family, stream, 0},
		{"no size for the pieces", sizeless, datagrams(e.udp), 0},
		{"a transport header elsewhere", later, datagrams(e.udp), 0},
		{"a transport header in the IP header", early, datagrams(e.udp), 0},
		{"a later fragment", udp, rawFragment(e.from, e.to, packet.ProtoUDP, 99, 64, false, noise(3000)), 0},
		{"a first fragment", udp, rawFragment(e.from, e.to, packet.ProtoUDP, 98, 0, true, udpPart(e.source(), e.target(e.udp), noise(2992))), 0},
		{"a checksum over the ports", lab.Offload{Flags: needsSum, SumStart: header}, rawUDP(e.source(), e.target(e.shut)), 0},
		{"a checksum over the addresses", lab.Offload{Flags: needsSum, SumStart: 8, SumPosition: header - 12}, rawUDP(e.source(), e.target(e.shut)), 0},
	}
}

func (b *rawBench) playOffload(t *testing.T, e *ends, c offload) {
	t.Helper()
	b.fence(e)
	b.from.seen, b.to.seen = nil, nil
	if err := b.from.raw.SendOffload(c.Offload, c.packet); err != nil {
		if !errors.Is(err, unix.EINVAL) || c.least > 0 {
			t.Fatal(err)
		}
		t.Logf("the kernel refuses it: %v", err)
		return
	}
	b.fence(e)
	got := 0
	for _, p := range b.to.seen {
		got += len(p)
	}
	if got < c.least || c.least == 0 && got > 0 {
		t.Errorf("%d bytes arrived in %d packets, want %d at least", got, len(b.to.seen), c.least)
	}
}
