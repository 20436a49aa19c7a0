package userspace

import (
	"net/netip"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// pingKey names an echo that waits for its answer.
type pingKey struct {
	to netip.Addr
	id uint16
}

// hearRefusal makes the stack hear "administratively prohibited", the filter's way to refuse. gVisor's UDP sockets hear port
// unreachable alone, and its ICMP sockets hear nothing: so the code is changed for a UDP packet, and a waiting echo is told.
// packet is an IP packet of any content, and ours to change.
func (s *Stack) hearRefusal(packet []byte) {
	switch packet[0] >> 4 {
	case 4:
		s.hearRefusal4(packet)
	case 6:
		s.hearRefusal6(packet)
	}
}

func (s *Stack) hearRefusal4(packet []byte) {
	outer := header.IPv4(packet)
	if !outer.IsValid(len(packet)) || outer.TransportProtocol() != header.ICMPv4ProtocolNumber || outer.FragmentOffset() != 0 {
		return
	}
	message := header.ICMPv4(outer.Payload())
	if len(message) < header.ICMPv4MinimumSize || message.Type() != header.ICMPv4DstUnreachable {
		return
	}
	quoted := header.IPv4(message[header.ICMPv4MinimumSize:])
	if len(quoted) < header.IPv4MinimumSize || int(quoted.HeaderLength()) < header.IPv4MinimumSize || int(quoted.HeaderLength()) > len(quoted) {
		return
	}
	inner := quoted[quoted.HeaderLength():]
	switch quoted.TransportProtocol() {
	case header.UDPProtocolNumber:
		if message.Code() == header.ICMPv4AdminProhibited {
			message.SetCode(header.ICMPv4PortUnreachable)
			message.SetChecksum(0)
			message.SetChecksum(^checksum.Checksum(message, 0))
		}
	case header.ICMPv4ProtocolNumber:
		if echo := header.ICMPv4(inner); len(echo) >= header.ICMPv4MinimumSize && echo.Type() == header.ICMPv4Echo {
			s.refusePing(quoted.DestinationAddress(), echo.Ident())
		}
	}
}

// codeAdminProhibited6 is "communication with destination administratively prohibited" (RFC 4443 section 3.1).
const codeAdminProhibited6 = header.ICMPv6Code(1)

func (s *Stack) hearRefusal6(packet []byte) {
	outer := header.IPv6(packet)
	if !outer.IsValid(len(packet)) || outer.TransportProtocol() != header.ICMPv6ProtocolNumber {
		return
	}
	message := header.ICMPv6(outer.Payload())
	if len(message) < header.ICMPv6MinimumSize || message.Type() != header.ICMPv6DstUnreachable {
		return
	}
	quoted := header.IPv6(message[header.ICMPv6MinimumSize:])
	if len(quoted) < header.IPv6MinimumSize {
		return
	}
	inner := quoted[header.IPv6MinimumSize:]
	switch quoted.TransportProtocol() {
	case header.UDPProtocolNumber:
		if message.Code() == codeAdminProhibited6 {
			message.SetCode(header.ICMPv6PortUnreachable)
			message.SetChecksum(0)
			message.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
				Header: message, Src: outer.SourceAddress(), Dst: outer.DestinationAddress(),
			}))
		}
	case header.ICMPv6ProtocolNumber:
		if echo := header.ICMPv6(inner); len(echo) >= header.ICMPv6EchoMinimumSize && echo.Type() == header.ICMPv6EchoRequest {
			s.refusePing(quoted.DestinationAddress(), echo.Ident())
		}
	}
}

// refusePing tells the echo named by a refusal's quotation, if one waits; it never blocks.
func (s *Stack) refusePing(to tcpip.Address, id uint16) {
	addr, _ := netip.AddrFromSlice(to.AsSlice())
	s.mu.Lock()
	defer s.mu.Unlock()
	if refused, ok := s.pings[pingKey{addr, id}]; ok {
		select {
		case refused <- syscall.EHOSTUNREACH:
		default:
		}
	}
}
