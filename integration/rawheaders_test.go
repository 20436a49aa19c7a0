//go:build linux

package integration

import (
	"bytes"
	"net/netip"
	"slices"

	"picket.internal/wgtun/packet"
)

// pieces is a datagram to the open UDP port, or another, to be sent in fragments.
type pieces struct {
	e     *ends
	id    uint32
	proto uint8
	part  []byte
}

func (e *ends) pieces(port uint16, data int) pieces {
	return pieces{e, uint32(e.port()), packet.ProtoUDP, udpPart(e.source(), e.target(port), noise(data))}
}

// at is the fragment part[from:to]; the last one when it reaches the end.
func (p pieces) at(from, to int) []byte {
	return rawFragment(p.e.from, p.e.to, p.proto, p.id, from, to < len(p.part), p.part[from:to])
}

// made is a fragment at an offset with other content than the datagram's.
func (p pieces) made(offset int, more bool, length int) []byte {
	return rawFragment(p.e.from, p.e.to, p.proto, p.id, offset, more, noise(length))
}

// fragmentTricks, but for the bounds of the table. The datagram is of 608 bytes.
var fragmentTricks = []rawCase{
	{"fragments in order", 0, func(e *ends) []step {
		p := e.pieces(e.udp, 600)
		return slices.Concat(pass(p.at(0, 200), p.at(200, 400), p.at(400, 608)), refuse("fragment", p.at(200, 400)))
	}},
	{"fragments, the last before the second", 0, func(e *ends) []step {
		p := e.pieces(e.udp, 600)
		return pass(p.at(0, 200), p.at(400, 608), p.at(200, 400))
	}},
	{"fragments before the first", 0, func(e *ends) []step {
		p := e.pieces(e.udp, 600)
		return slices.Concat(refuse("fragment", p.at(400, 608), p.at(200, 400)), pass(p.at(0, 200), p.at(200, 400), p.at(400, 608)))
	}},
	{"fragments of a datagram to a port that is shut", 0, func(e *ends) []step {
		p := e.pieces(e.shut, 600)
		return slices.Concat(refuse("no-rule", p.at(0, 200)), refuse("fragment", p.at(200, 400), p.at(400, 608)))
	}},
	{"fragments of two datagrams mixed", 0, func(e *ends) []step {
		open, shut := e.pieces(e.udp, 600), e.pieces(e.shut, 600)
		return slices.Concat(pass(open.at(0, 200)), refuse("no-rule", shut.at(0, 200)), refuse("fragment", shut.at(200, 400)), pass(open.at(200, 400)),
			refuse("fragment", shut.at(400, 608)), pass(open.at(400, 608)))
	}},
	{"fragments that overlap by eight bytes", 0, func(e *ends) []step {
		p := e.pieces(e.udp, 600)
		return slices.Concat(pass(p.at(0, 200)), refuse("fragment-clash", p.at(192, 400), p.at(200, 400), p.at(400, 608)))
	}},
	{"a second first fragment, to write over the ports", 0, func(e *ends) []step {
		p, q := e.pieces(e.udp, 600), e.pieces(e.shut, 600)
		q.id = p.id
		return slices.Concat(pass(p.at(0, 200)), refuse("fragment-clash", q.at(0, 208), p.at(200, 400)))
	}},
	{"a later fragment at byte 8, over the rest of the transport header", 0, func(e *ends) []step {
		p := e.pieces(e.udp, 600)
		return slices.Concat(pass(p.at(0, 200)), refuse("fragment-clash", p.made(8, true, 8), p.at(200, 400)))
	}},
	{"fragments again", 0, func(e *ends) []step {
		p := e.pieces(e.udp, 600)
		return slices.Concat(pass(p.at(0, 200)), refuse("fragment-clash", p.at(0, 200)), pass(p.at(200, 400)), refuse("fragment-clash", p.at(200, 400)), pass(p.at(400, 608)))
	}},
	{"fragments beyond the last", 0, func(e *ends) []step {
		p := e.pieces(e.udp, 600)
		return slices.Concat(pass(p.at(0, 200), p.at(400, 608)), refuse("fragment-clash", p.made(608, true, 8), p.at(200, 400)))
	}},
	{"two last fragments", 0, func(e *ends) []step {
		p := e.pieces(e.udp, 600)
		return slices.Concat(pass(p.at(0, 200), p.at(400, 608)), refuse("fragment-clash", p.made(200, false, 8)))
	}},
	{"a last fragment that ends before another", 0, func(e *ends) []step {
		p := e.pieces(e.udp, 600)
		return slices.Concat(pass(p.at(0, 200), p.at(200, 400)), refuse("fragment-clash", p.made(208, false, 8)))
	}},
	{"fragments beyond the largest packet", 0, func(e *ends) []step {
		p := e.pieces(e.udp, 600)
		return slices.Concat(pass(p.at(0, 200)), refuse("fragment-shape", p.made(65528, false, 200)), pass(p.at(200, 400), p.at(400, 608)))
	}},
	{"fragments of no whole eights, and of nothing", 0, func(e *ends) []step {
		p := e.pieces(e.udp, 600)
		return refuse("fragment-shape", p.at(0, 201), p.at(200, 207), p.made(0, true, 0), p.made(8, false, 0), p.made(8, true, 0))
	}},
	{"first fragments without the whole transport header", 0, func(e *ends) []step {
		p, q := e.pieces(e.udp, 600), pieces{e, uint32(e.port()), packet.ProtoTCP, tcpSegment{from: e.source(), to: e.target(e.tcp), flags: syn, data: noise(200)}.part()}
		long := pieces{e, uint32(e.port()), packet.ProtoTCP, tcpSegment{from: e.source(), to: e.target(e.tcp), flags: syn, options: bytes.Repeat([]byte{1}, 20), data: noise(200)}.part()}
		q.id = uint32(e.port())
		out := slices.Concat(refuse("tiny-fragment", q.at(0, 8), q.at(0, 16), long.at(0, 32)), refuse("fragment", q.at(16, 48), long.at(32, 64)))
		p.id = uint32(e.port())
		return append(out, pass(p.at(0, 8), p.at(8, 304), p.at(304, 608))...) // all of UDP's is there
	}},
	{"a connection's opening in fragments", 0, func(e *ends) []step {
		q := pieces{e, uint32(e.port()), packet.ProtoTCP, tcpSegment{from: e.source(), to: e.target(e.shut), flags: syn, data: noise(100)}.part()}
		return slices.Concat(refuse("no-rule", q.at(0, 64)), refuse("fragment", q.at(64, 120)))
	}},
	{"later fragments of other protocols", 0, func(e *ends) []step {
		var out []step
		for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP, icmpOf(e.from).proto, gre, experiment} {
			out = append(out, refuse("fragment", rawFragment(e.from, e.to, proto, uint32(e.port()), 64, false, noise(24)))...)
		}
		return out
	}},
	{"a later fragment that says another protocol than the first", 4, func(e *ends) []step {
		p := e.pieces(e.udp, 600)
		return slices.Concat(pass(p.at(0, 200)), refuse("fragment", rawFragment(e.from, e.to, packet.ProtoTCP, p.id, 200, true, noise(200))), pass(p.at(200, 400), p.at(400, 608)))
	}},
	{"the receiver's fragments into the sender's datagram", 0, func(e *ends) []step {
		p := e.pieces(e.udp, 600)
		return slices.Concat(pass(p.at(0, 200)), back(refuse("fragment", rawFragment(e.to, e.from, packet.ProtoUDP, p.id, 200, true, noise(200)))), pass(p.at(200, 400), p.at(400, 608)))
	}},
}

func both(a4, a6 string, e *ends) netip.Addr {
	if e.from.Is4() {
		return netip.MustParseAddr(a4)
	}
	return netip.MustParseAddr(a6)
}

// addressTricks. WireGuard ties a source to its peer, and sends to a peer's addresses alone: what the filter refuses beside is seen at egress. That a peer
// sends us what is for another cannot be made with picket's agent, whose device chooses the peer by the destination.
var addressTricks = []rawCase{
	{"another node's source address", 0, func(e *ends) []step {
		from := netip.AddrPortFrom(e.third, e.port())
		return outside("not-ours", rawUDP(from, e.target(e.udp)), tcpSegment{from: from, to: e.target(e.tcp), flags: syn}.bytes())
	}},
	{"the receiver's own source address", 0, func(e *ends) []step {
		return outside("not-ours", rawUDP(netip.AddrPortFrom(e.to, e.udp), e.target(e.udp)), tcpSegment{from: e.target(e.tcp), to: e.target(e.tcp), flags: syn}.bytes())
	}},
	{"source addresses of nobody", 0, func(e *ends) []step {
		return outside("not-ours", rawUDP(netip.AddrPortFrom(both("8.8.8.8", "2001:db8::8", e), 53), e.target(e.udp)), rawUDP(netip.AddrPortFrom(both("192.0.2.1", "fd00::1", e), 53), e.target(e.udp)))
	}},
	{"source addresses that are no host's", 0, func(e *ends) []step {
		var out []step
		for _, a := range map[bool][]string{
			true:  {"127.0.0.1", "0.0.0.0", "0.1.2.3", "169.254.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"},
			false: {"::1", "::", "fe80::1", "febf::1", "fec0::1", "ff02::1", "::ffff:100.64.0.9", "::ffff:127.0.0.1", "::100.64.0.9"},
		}[e.from.Is4()] {
			out = append(out, outside("address", rawUDP(netip.AddrPortFrom(plain(a), e.port()), e.target(e.udp)))...)
		}
		return out
	}},
	{"destinations that are no host's", 0, func(e *ends) []step {
		var out []step
		for _, d := range []struct{ a4, a6, why string }{
			{"224.0.0.251", "ff02::fb", "multicast"}, {"239.255.255.250", "ff05::1", "multicast"}, {"255.255.255.255", "ff0e::1", "multicast"},
			{"127.0.0.1", "::1", "address"}, {"169.254.1.1", "fe80::1", "address"}, {"0.0.0.0", "::", "address"}, {"240.0.0.1", "::ffff:100.64.0.9", "address"},
		} {
			out = append(out, outside(d.why, rawUDP(e.source(), netip.AddrPortFrom(plain(map[bool]string{true: d.a4, false: d.a6}[e.from.Is4()]), e.udp)))...)
		}
		return out
	}},
	{"the receiver's IPv4 address mapped into IPv6", 6, func(e *ends) []step {
		return outside("address", rawUDP(e.source(), netip.AddrPortFrom(plain("::ffff:100.64.0.2"), e.udp)))
	}},
	{"a SYN to a mapped address, and an echo", 6, func(e *ends) []step {
		to := plain("::ffff:100.64.0.2")
		return outside("address", tcpSegment{from: e.source(), to: netip.AddrPortFrom(to, e.tcp), flags: syn}.bytes(), rawEcho(e.from, to, packet.EchoRequest6, e.port()))
	}},
}

// plain parses an address; a mapped one stays IPv6.
func plain(s string) netip.Addr { return netip.MustParseAddr(s) }

var headerTricks4 = []rawCase{
	{"options that change nothing", 4, func(e *ends) []step {
		return pass(withOptions(rawUDP(e.source(), e.target(e.udp)), 1, 1, 1, 0), withOptions(rawUDP(e.source(), e.target(e.udp)), 148, 4, 0, 0))
	}},
	{"options that change nothing, to a port that is shut", 4, func(e *ends) []step {
		return refuse("no-rule", withOptions(rawUDP(e.source(), e.target(e.shut)), 1, 1, 1, 0), withOptions(rawUDP(e.source(), e.target(e.shut)), bytes.Repeat([]byte{1}, 40)...))
	}},
	{"source routes", 4, func(e *ends) []step {
		to := e.third.AsSlice()
		return refuse("source-route", withOptions(rawUDP(e.source(), e.target(e.udp)), append([]byte{131, 7, 4}, append(to, 0)...)...),
			withOptions(rawUDP(e.source(), e.target(e.udp)), append([]byte{1, 137, 7, 4}, to...)...))
	}},
	{"options of impossible length", 4, func(e *ends) []step {
		return refuse("ip-options", withOptions(rawUDP(e.source(), e.target(e.udp)), 7, 0, 0, 0), withOptions(rawUDP(e.source(), e.target(e.udp)), 7, 1, 0, 0),
			withOptions(rawUDP(e.source(), e.target(e.udp)), 7, 5, 0, 0), withOptions(rawUDP(e.source(), e.target(e.udp)), 1, 1, 1, 7))
	}},
	{"impossible header lengths", 4, func(e *ends) []step {
		return refuse("ip-header", edit(rawUDP(e.source(), e.target(e.udp)), 0, 0x44), edit(rawUDP(e.source(), e.target(e.udp)), 0, 0x40))
	}},
	{"a header longer than the packet", 4, func(e *ends) []step {
		return refuse("short", edit(rawIP(e.from, e.to, packet.ProtoUDP, noise(24)), 0, 0x4f))
	}},
	{"the reserved fragment bit", 4, func(e *ends) []step {
		return refuse("ip-header", edit(rawUDP(e.source(), e.target(e.udp)), 6, 0x80))
	}},
	{"a wrong header checksum", 4, func(e *ends) []step {
		b := rawUDP(e.source(), e.target(e.udp))
		b[10] ^= 1
		return refuse("ip-checksum", b)
	}},
}

// padded is an options header of 8 bytes that changes nothing, before next.
func padded(next uint8) []byte { return []byte{next, 0, 1, 4, 0, 0, 0, 0} }

var headerTricks6 = []rawCase{
	{"options headers that change nothing", 6, func(e *ends) []step {
		return pass(extended(rawUDP(e.source(), e.target(e.udp)), hopByHop, padded(packet.ProtoUDP)...),
			extended(rawUDP(e.source(), e.target(e.udp)), destination, padded(packet.ProtoUDP)...),
			extended(rawUDP(e.source(), e.target(e.udp)), hopByHop, slices.Concat(padded(destination), padded(destination), padded(packet.ProtoUDP))...))
	}},
	{"options headers before a port that is shut", 6, func(e *ends) []step {
		return refuse("no-rule", extended(rawUDP(e.source(), e.target(e.shut)), hopByHop, padded(packet.ProtoUDP)...),
			extended(rawUDP(e.source(), e.target(e.shut)), destination, append([]byte{packet.ProtoUDP, 24}, make([]byte, 198)...)...),
			extended(tcpSegment{from: e.source(), to: e.target(e.shut), flags: syn}.bytes(), hopByHop, slices.Concat(padded(destination), padded(packet.ProtoTCP))...))
	}},
	{"a fragment header around a whole packet", 6, func(e *ends) []step {
		return slices.Concat(pass(extended(rawUDP(e.source(), e.target(e.udp)), fragment, packet.ProtoUDP, 0, 0, 0, 0, 0, 0, 1)),
			refuse("no-rule", extended(rawUDP(e.source(), e.target(e.shut)), fragment, packet.ProtoUDP, 0, 0, 0, 0, 0, 0, 1)))
	}},
	{"routing headers", 6, func(e *ends) []step {
		var out []step
		for kind := range uint8(6) {
			h := append([]byte{packet.ProtoUDP, 2, kind, 1, 0, 0, 0, 0}, e.third.AsSlice()...)
			out = append(out, refuse("routing-header", extended(rawUDP(e.source(), e.target(e.udp)), routing, h...))...)
		}
		h := append([]byte{packet.ProtoUDP, 2, 0, 1, 0, 0, 0, 0}, e.third.AsSlice()...)
		return append(out, refuse("routing-header", extended(rawUDP(e.source(), e.target(e.udp)), destination, append(padded(routing), h...)...))...)
	}},
	{"extension headers out of order, unknown, or too many", 6, func(e *ends) []step {
		udp := func() []byte { return rawUDP(e.source(), e.target(e.udp)) }
		return refuse("extension-header",
			extended(udp(), destination, slices.Concat(padded(hopByHop), padded(packet.ProtoUDP))...),
			extended(udp(), hopByHop, slices.Concat(padded(hopByHop), padded(packet.ProtoUDP))...),
			extended(udp(), mobility, padded(packet.ProtoUDP)...), extended(udp(), 139, padded(packet.ProtoUDP)...), extended(udp(), 140, padded(packet.ProtoUDP)...),
			extended(udp(), experiment, padded(packet.ProtoUDP)...), extended(udp(), 254, padded(packet.ProtoUDP)...),
			extended(udp(), destination, slices.Concat(padded(destination), padded(destination), padded(destination), padded(destination), padded(packet.ProtoUDP))...),
			extended(udp(), fragment, []byte{fragment, 0, 0, 0, 0, 0, 0, 1, packet.ProtoUDP, 0, 0, 0, 0, 0, 0, 1}...))
	}},
	{"extension headers longer than the packet, or with impossible options", 6, func(e *ends) []step {
		udp := func() []byte { return rawUDP(e.source(), e.target(e.udp)) }
		return refuse("extension-header",
			extended(udp(), destination, packet.ProtoUDP, 255, 1, 4, 0, 0, 0, 0),
			extended(udp(), hopByHop, packet.ProtoUDP, 0, 1, 9, 0, 0, 0, 0),
			extended(udp(), hopByHop, packet.ProtoUDP, 0, 0x85, 4, 0, 0, 0, 0),                                              // an option that must be known
			extended(udp(), destination, append([]byte{packet.ProtoUDP, 2, 1, 2, 0, 0, 0xc9, 16}, e.third.AsSlice()...)...), // home address
			rawIP(e.from, e.to, destination, nil), rawIP(e.from, e.to, hopByHop, []byte{packet.ProtoUDP, 0, 1}), rawIP(e.from, e.to, fragment, make([]byte, 7)))
	}},
	{"jumbo payloads", 6, func(e *ends) []step {
		b := extended(rawUDP(e.source(), e.target(e.udp)), hopByHop, packet.ProtoUDP, 0, 0xc2, 4, 0, 1, 0, 0)
		none := extended(rawUDP(e.source(), e.target(e.udp)), hopByHop, packet.ProtoUDP, 0, 0xc2, 4, 0, 1, 0, 0)
		none[4], none[5] = 0, 0 // wireguard-go cuts it to its header then
		return slices.Concat(refuse("jumbo", b), refuse("jumbo", none))
	}},
	{"a first fragment whose header chain goes on in the next", 6, func(e *ends) []step {
		id := byte(e.port())
		return refuse("tiny-fragment", rawIP(e.from, e.to, fragment, []byte{destination, 0, 0, 1, 0, 0, 0, id, packet.ProtoUDP, 5, 1, 4, 0, 0, 0, 0}),
			rawIP(e.from, e.to, fragment, []byte{packet.ProtoTCP, 0, 0, 1, 0, 0, 0, id, 1, 2, 3, 4, 5, 6, 7, 8}))
	}},
}

var lengthTricks = []rawCase{
	{"less than a header", 0, func(e *ends) []step {
		whole := rawUDP(e.source(), e.target(e.udp))
		header := len(whole) - 32
		return slices.Concat(outside("short", whole[:1]), outside("short", whole[:header-1]))
	}},
	{"nothing behind the header", 0, func(e *ends) []step {
		return refuse("transport-header", rawIP(e.from, e.to, packet.ProtoUDP, nil), rawIP(e.from, e.to, packet.ProtoTCP, nil))
	}},
	{"an IP version that is none", 0, func(e *ends) []step {
		var out []step
		for _, v := range []byte{0, 1, 5, 7, 15} {
			b := rawUDP(e.source(), e.target(e.udp))
			b[0] = v<<4 | b[0]&15
			out = append(out, outside("ip-version", b)...)
		}
		return out
	}},
	{"shorter than the header says", 0, func(e *ends) []step {
		whole := rawUDP(e.source(), e.target(e.udp))
		return outside("ip-length", whole[:len(whole)-20], whole[:len(whole)-32])
	}},
	{"a length that wraps round, or is nothing", 0, func(e *ends) []step {
		if e.from.Is4() {
			return outside("ip-length", edit(rawUDP(e.source(), e.target(e.udp)), 2, 0xff, 0xff), edit(rawUDP(e.source(), e.target(e.udp)), 2, 0, 0))
		}
		// wireguard-go adds the header's 40 bytes in 16 bits, and hands up what is left: 39 bytes, and 1.
		return []step{{packet: edit(rawUDP(e.source(), e.target(e.udp)), 4, 0xff, 0xff), why: "short", egress: "ip-length"},
			{packet: edit(rawUDP(e.source(), e.target(e.udp)), 4, 0xff, 0xd9), why: "short", egress: "ip-length"}}
	}},
	{"longer than the header says, which wireguard-go cuts off", 0, func(e *ends) []step {
		b := append(rawUDP(e.source(), e.target(e.shut)), noise(24)...)
		return []step{{packet: b, why: "no-rule", egress: "ip-length"}}
	}},
	{"another packet behind the first", 0, func(e *ends) []step {
		b := append(rawUDP(e.source(), e.target(e.shut)), rawUDP(e.source(), e.target(e.udp))...)
		return []step{{packet: b, why: "no-rule", egress: "ip-length"}}
	}},
}

var otherProtocols = []rawCase{
	{"protocols that no rule names", 0, func(e *ends) []step {
		var out []step
		for _, proto := range []uint8{ipInIP, 41, gre, esp, authHeader, nothing, 2, 89, 103, 112, 255, packet.ProtoSCTP, packet.ProtoDCCP, packet.ProtoUDPL} {
			out = append(out, refuse("no-rule", rawIP(e.from, e.to, proto, udpPart(e.source(), e.target(e.udp), noise(24))))...)
		}
		return out
	}},
	{"a packet in a packet", 0, func(e *ends) []step {
		proto := map[bool]uint8{true: ipInIP, false: 41}[e.from.Is4()]
		return refuse("no-rule", rawIP(e.from, e.to, proto, rawUDP(e.source(), e.target(e.udp))))
	}},
	{"protocols with ports, cut short or with port 0", 0, func(e *ends) []step {
		var out []step
		for _, proto := range []uint8{packet.ProtoSCTP, packet.ProtoDCCP, packet.ProtoUDPL} {
			out = append(out, refuse("transport-header", rawIP(e.from, e.to, proto, noise(7)))...)
			out = append(out, refuse("port-zero", rawIP(e.from, e.to, proto, make([]byte, 24)))...)
		}
		return out
	}},
}
