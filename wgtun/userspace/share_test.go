package userspace

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// c4 is a peer that does nothing wrong.
var c4 = netip.MustParseAddr("100.64.0.3")

// rawSYN is a SYN as a peer without a stack sends it.
func rawSYN(from, to netip.AddrPort) []byte {
	b := rawIP(from, to, header.TCPProtocolNumber, header.TCPMinimumSize)
	seg := header.TCP(b[header.IPv4MinimumSize:])
	seg.Encode(&header.TCPFields{SrcPort: from.Port(), DstPort: to.Port(), SeqNum: 1, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn, WindowSize: 1000})
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, fullAddress(from).Addr, fullAddress(to).Addr, header.TCPMinimumSize)
	seg.SetChecksum(^seg.CalculateChecksum(sum))
	return b
}

// rawUDP is a datagram without data or checksum.
func rawUDP(from, to netip.AddrPort) []byte {
	b := rawIP(from, to, header.UDPProtocolNumber, header.UDPMinimumSize)
	header.UDP(b[header.IPv4MinimumSize:]).Encode(&header.UDPFields{SrcPort: from.Port(), DstPort: to.Port(), Length: header.UDPMinimumSize})
	return b
}

func rawIP(from, to netip.AddrPort, protocol tcpip.TransportProtocolNumber, size int) []byte {
	b := make([]byte, header.IPv4MinimumSize+size)
	ip := header.IPv4(b)
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(b)), TTL: 64, Protocol: uint8(protocol), SrcAddr: fullAddress(from).Addr, DstAddr: fullAddress(to).Addr})
	ip.SetChecksum(^ip.CalculateChecksum())
	return b
}

// answered reports whether the stack sends a SYN-ACK to c4.
func answered(t *testing.T, s *Stack) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for {
		pkt := s.link.ReadContext(ctx)
		if pkt == nil {
			return false
		}
		b := make([]byte, 2000)
		n := copyOut(b, pkt)
		if ip := header.IPv4(b[:n]); ip.DestinationAddress() == fullAddress(netip.AddrPortFrom(c4, 0)).Addr {
			return header.TCP(ip.Payload()).Flags() == header.TCPFlagSyn|header.TCPFlagAck
		}
	}
}

// One peer that begins handshakes and never finishes them had all of them, and every other peer's connection was lost without an answer.
func TestUnfinishedHandshakesOfOnePeerLeaveRoomForOthers(t *testing.T) {
	b := newStack(t, b4)
	t.Cleanup(func() { b.Device().Close() })
	port := serve(t, func(c net.Conn) { c.Close() })
	forward(t, b)
	to := netip.AddrPortFrom(b4, port)
	for i := range 4 * maxTCPHandshakes {
		b.Device().Write([][]byte{rawSYN(netip.AddrPortFrom(a4, uint16(1000+i)), to)}, 0)
		if i%16 == 0 {
			time.Sleep(time.Millisecond) // the refusals of one burst take a moment
		}
	}
	b.Device().Write([][]byte{rawSYN(netip.AddrPortFrom(c4, 1000), to)}, 0)
	if !answered(t, b) {
		t.Error("another peer's handshake was not answered")
	}
}

// A flow costs a peer one datagram every three minutes, so one peer could have all there may be.
func TestDatagramFlowsOfOnePeerLeaveRoomForOthers(t *testing.T) {
	b := newStack(t, b4)
	t.Cleanup(func() { b.Device().Close() })
	service, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	service.SetReadBuffer(4 << 20)
	forward(t, b)
	to := netip.AddrPortFrom(b4, service.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	for i := range 2 * maxUDPFlows {
		b.Device().Write([][]byte{rawUDP(netip.AddrPortFrom(a4, uint16(1000+i)), to)}, 0)
	}
	f := b.inbound.Load()
	f.mu.Lock()
	flood := f.udp.used
	f.mu.Unlock()
	b.Device().Write([][]byte{rawUDP(netip.AddrPortFrom(c4, 1000), to)}, 0)
	f.mu.Lock()
	defer f.mu.Unlock()
	if flood != maxUDPFlows/2 || f.udp.used != flood+1 {
		t.Errorf("%d flows of one peer, %d after another's first datagram", flood, f.udp.used)
	}
}

// TestEmptyPacketIsSkipped: nothing in front of the stack is relied upon to keep packets without a first byte from it.
func TestEmptyPacketIsSkipped(t *testing.T) {
	b := newStack(t, b4)
	t.Cleanup(func() { b.Device().Close() })
	if n, err := b.Device().Write([][]byte{make([]byte, 16), {}, nil}, 16); n != 3 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}
