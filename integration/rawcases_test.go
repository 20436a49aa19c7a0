//go:build linux

package integration

import (
	"net/netip"
	"slices"

	"picket.internal/wgtun/packet"
)

// ends is what cases are made of: the sender's and the receiver's addresses in one family, and what the rules let the sender open there. The
// same is allowed in the other direction.
type ends struct {
	from, to, third netip.Addr
	tcp, udp        uint16 // ports; ICMP is allowed as well
	shut            uint16 // a port of neither
	next            uint16 // port or id that no case has used
}

// port is one of the sender's that nothing knows of.
func (e *ends) port() uint16 { e.next++; return e.next }

func (e *ends) source() netip.AddrPort            { return netip.AddrPortFrom(e.from, e.port()) }
func (e *ends) target(port uint16) netip.AddrPort { return netip.AddrPortFrom(e.to, port) }

// step is one packet of a case.
type step struct {
	packet []byte
	back   bool   // sent by the receiver
	why    string // the reason counted where it is refused; "" when it arrives
	// egress is the reason at egress where that differs: what is refused at ingress by wireguardRefuses the filter never sees there.
	egress string
}

const (
	// wireguardRefuses stands for what wireguard-go does before a filter is asked: it sends nothing to an address that is no peer's, drops what
	// comes from an address that is not the sending peer's, and what is shorter than its header says.
	wireguardRefuses = "wireguard-go"
)

func pass(packets ...[]byte) []step { return refuse("", packets...) }

func refuse(why string, packets ...[]byte) (out []step) {
	for _, p := range packets {
		out = append(out, step{packet: p, why: why})
	}
	return out
}

// outside is refused before the filter of the receiver sees it, and for that reason by the filter of an honest sender.
func outside(egress string, packets ...[]byte) (out []step) {
	for _, p := range packets {
		out = append(out, step{packet: p, why: wireguardRefuses, egress: egress})
	}
	return out
}

func back(steps []step) []step {
	for i := range steps {
		steps[i].back = true
	}
	return steps
}

// rawCase is something that a hostile peer, or a program on the sender's machine, may try. Nothing else is on the wire.
type rawCase struct {
	name  string
	only  int // 4 or 6: a family that alone has this; 0 for both
	steps func(e *ends) []step
}

var rawCases = slices.Concat(tcpOutsideFlows, tcpInFlow(), udpTricks, icmpTricks, fragmentTricks, addressTricks, headerTricks4, headerTricks6, lengthTricks, otherProtocols)

var tcpOutsideFlows = []rawCase{
	{"every set of TCP flags outside a flow", 0, func(e *ends) (out []step) {
		for flags := range uint8(64) {
			s := tcpSegment{from: e.source(), to: e.target(e.tcp), seq: 1, ack: 1, flags: flags}.bytes()
			switch opening := flags & (syn | ack | rst | fin); opening {
			case syn:
				out = append(out, pass(s)...)
			case syn | ack, ack, fin | ack, rst, rst | ack:
				out = append(out, refuse("no-flow", s)...)
			default:
				out = append(out, refuse("tcp-flags", s)...)
			}
		}
		return out
	}},
	{"a SYN to a port that is shut", 0, func(e *ends) []step {
		return refuse("no-rule", tcpSegment{from: e.source(), to: e.target(e.shut), flags: syn}.bytes())
	}},
	{"a SYN to the UDP port", 0, func(e *ends) []step {
		return refuse("no-rule", tcpSegment{from: e.source(), to: e.target(e.udp), flags: syn}.bytes())
	}},
	{"a SYN with data to a port that is shut", 0, func(e *ends) []step {
		return refuse("no-rule", tcpSegment{from: e.source(), to: e.target(e.shut), flags: syn, data: noise(24)}.bytes())
	}},
	{"data after a SYN that was refused", 0, func(e *ends) []step {
		from := e.source()
		return slices.Concat(refuse("no-rule", tcpSegment{from: from, to: e.target(e.shut), seq: 1, flags: syn}.bytes()),
			refuse("no-flow", tcpSegment{from: from, to: e.target(e.shut), seq: 2, ack: 1, flags: ack, data: noise(24)}.bytes()))
	}},
	{"TCP ports 0", 0, func(e *ends) []step {
		return refuse("port-zero", tcpSegment{from: netip.AddrPortFrom(e.from, 0), to: e.target(e.tcp), flags: syn}.bytes(),
			tcpSegment{from: e.source(), to: e.target(0), flags: syn}.bytes())
	}},
	{"TCP header lengths", 0, func(e *ends) []step {
		made := func(length byte) []byte {
			b := tcpSegment{from: e.source(), to: e.target(e.tcp), flags: syn}.bytes()
			b[len(b)-20+12] = length << 4
			return b
		}
		return refuse("transport-header", made(0), made(4), made(6), made(15))
	}},
	{"TCP cut short", 0, func(e *ends) []step {
		s := tcpSegment{from: e.source(), to: e.target(e.tcp), flags: syn}.part()
		return refuse("transport-header", rawIP(e.from, e.to, packet.ProtoTCP, s[:19]), rawIP(e.from, e.to, packet.ProtoTCP, s[:4]), rawIP(e.from, e.to, packet.ProtoTCP, nil))
	}},
	{"a simultaneous open", 0, func(e *ends) []step {
		us, them := netip.AddrPortFrom(e.from, e.tcp), e.target(e.tcp)
		return slices.Concat(pass(tcpSegment{from: us, to: them, seq: 1, flags: syn}.bytes()),
			back(refuse("tcp-open", tcpSegment{from: them, to: us, seq: 9, flags: syn}.bytes())),
			back(refuse("tcp-window", tcpSegment{from: them, to: us, seq: 9, ack: 7, flags: syn | ack}.bytes())),
			refuse("tcp-flags", tcpSegment{from: us, to: them, seq: 1, ack: 10, flags: syn | ack}.bytes()))
	}},
	{"before the answer to a SYN", 0, func(e *ends) []step {
		us, them := e.source(), e.target(e.tcp)
		return slices.Concat(pass(tcpSegment{from: us, to: them, seq: 100, flags: syn}.bytes()),
			refuse("tcp-window", tcpSegment{from: us, to: them, seq: 101, ack: 1, flags: ack, data: noise(24)}.bytes(), // data
				tcpSegment{from: us, to: them, seq: 999, flags: rst}.bytes()), // a reset of another connection
			back(refuse("tcp-window", tcpSegment{from: them, to: us, seq: 1, ack: 101, flags: ack, data: noise(24)}.bytes(),
				tcpSegment{from: them, to: us, seq: 1, ack: 500, flags: rst | ack}.bytes(), tcpSegment{from: them, to: us, seq: 1, flags: rst}.bytes(),
				tcpSegment{from: them, to: us, seq: 1, ack: 500, flags: syn | ack}.bytes())),
			back(pass(tcpSegment{from: them, to: us, seq: 0, ack: 101, flags: rst | ack}.bytes())), // refused in order: over
			back(refuse("tcp-closed", tcpSegment{from: them, to: us, seq: 1, ack: 101, flags: syn | ack}.bytes())))
	}},
}

// tcpInFlow attacks a connection that is open and has passed data both ways; afterwards it goes on.
func tcpInFlow() (out []rawCase) {
	for _, a := range []struct {
		name string
		make func(s tcpSegment) tcpSegment
		why  string
	}{
		{"a reset one byte before the window", func(s tcpSegment) tcpSegment { s.flags, s.seq = rst, s.seq-1; return s }, "tcp-window"},
		{"a reset beyond the window", func(s tcpSegment) tcpSegment { s.flags, s.seq = rst, s.seq+64001; return s }, "tcp-window"},
		{"a reset of sequence number 0", func(s tcpSegment) tcpSegment { s.flags, s.seq = rst, 0; return s }, "tcp-window"},
		{"data far beyond the window", func(s tcpSegment) tcpSegment { s.seq, s.data = s.seq+1<<20, noise(24); return s }, "tcp-window"},
		{"data far before the window", func(s tcpSegment) tcpSegment { s.seq, s.data = s.seq-1<<20, noise(24); return s }, "tcp-window"},
		{"a FIN far beyond the window", func(s tcpSegment) tcpSegment { s.flags, s.seq = fin|ack, s.seq+1<<20; return s }, "tcp-window"},
		{"an acknowledgment of what was never sent", func(s tcpSegment) tcpSegment { s.ack++; return s }, "tcp-window"},
		{"an acknowledgment of the distant past", func(s tcpSegment) tcpSegment { s.ack -= 1 << 24; return s }, "tcp-window"},
		{"data without ACK", func(s tcpSegment) tcpSegment { s.flags, s.data = 0, noise(24); return s }, "tcp-flags"},
		{"SYN and FIN", func(s tcpSegment) tcpSegment { s.flags = syn | fin; return s }, "tcp-flags"},
		{"SYN and RST", func(s tcpSegment) tcpSegment { s.flags = syn | rst; return s }, "tcp-flags"},
		{"all flags", func(s tcpSegment) tcpSegment { s.flags = 63; return s }, "tcp-flags"},
		{"SYN and ACK by the opener", func(s tcpSegment) tcpSegment { s.flags = syn | ack; return s }, "tcp-flags"},
		{"another SYN, which asks the other end and ends nothing", func(s tcpSegment) tcpSegment { s.flags = syn; return s }, ""},
		{"data again that overlaps, which is for the other end to put in order", func(s tcpSegment) tcpSegment { s.seq, s.data = s.seq-12, noise(24); return s }, ""},
		{"from another port", func(s tcpSegment) tcpSegment {
			s.from = netip.AddrPortFrom(s.from.Addr(), s.from.Port()-10_000)
			return s
		}, "no-flow"},
	} {
		out = append(out, rawCase{"in a connection: " + a.name, 0, func(e *ends) []step {
			c := &rawConnection{us: e.source(), them: e.target(e.tcp), seq: 1000, ack: 5000}
			open := c.open()
			attack := a.make(c.segment(ack, nil))
			return slices.Concat(open, refuse(a.why, attack.bytes()), c.exchange())
		}})
	}
	return append(out,
		rawCase{"in a connection: a reset with a wrong checksum", 0, func(e *ends) []step {
			c := &rawConnection{us: e.source(), them: e.target(e.tcp), seq: 1000, ack: 5000}
			open := c.open()
			b := c.segment(rst, nil).bytes()
			b[len(b)-20+15] ^= 1 // in the window field
			return slices.Concat(open, refuse("transport-header", b), c.exchange())
		}},
		rawCase{"in a connection: the exact reset ends it", 0, func(e *ends) []step {
			c := &rawConnection{us: e.source(), them: e.target(e.tcp), seq: 1000, ack: 5000}
			return slices.Concat(c.open(), pass(c.segment(rst, nil).bytes()), refuse("tcp-closed", c.segment(ack, noise(24)).bytes()),
				back(refuse("tcp-closed", c.answer(ack, noise(24)).bytes())))
		}},
		rawCase{"in a connection: the other end's SYN", 0, func(e *ends) []step {
			c := &rawConnection{us: e.source(), them: e.target(e.tcp), seq: 1000, ack: 5000}
			return slices.Concat(c.open(), back(refuse("tcp-open", c.answer(syn, nil).bytes())), back(refuse("tcp-window", c.answer(syn|ack, nil).bytes())), c.exchange())
		}})
}

// rawConnection is a TCP connection that the tests hold both ends of.
type rawConnection struct {
	us, them netip.AddrPort
	seq, ack uint32 // next of ours, next of theirs
}

func (c *rawConnection) segment(flags uint8, data []byte) tcpSegment {
	return tcpSegment{from: c.us, to: c.them, seq: c.seq, ack: c.ack, flags: flags, data: data}
}

func (c *rawConnection) answer(flags uint8, data []byte) tcpSegment {
	return tcpSegment{from: c.them, to: c.us, seq: c.ack, ack: c.seq, flags: flags, data: data}
}

// open is the three segments of an opening, and data.
func (c *rawConnection) open() []step {
	first := c.segment(syn, nil)
	first.ack = 0
	c.seq++
	second := c.answer(syn|ack, nil)
	c.ack++
	return slices.Concat(pass(first.bytes()), back(pass(second.bytes())), pass(c.segment(ack, nil).bytes()), c.exchange())
}

// exchange is data each way, which passes.
func (c *rawConnection) exchange() []step {
	out := c.segment(ack|psh, noise(24))
	c.seq += 24
	in := c.answer(ack|psh, noise(24))
	c.ack += 24
	return slices.Concat(pass(out.bytes()), back(pass(in.bytes())), pass(c.segment(ack, nil).bytes()))
}

var udpTricks = []rawCase{
	{"a datagram and its answer", 0, func(e *ends) []step {
		from := e.source()
		return slices.Concat(pass(rawUDP(from, e.target(e.udp))), back(pass(rawUDP(e.target(e.udp), from))))
	}},
	{"UDP to ports that are shut", 0, func(e *ends) []step {
		return refuse("no-rule", rawUDP(e.source(), e.target(e.shut)), rawUDP(e.source(), e.target(e.tcp)), rawUDP(e.source(), e.target(53)), rawUDP(e.source(), e.target(65535)))
	}},
	{"UDP from the port that is open, as if it answered", 0, func(e *ends) []step {
		return refuse("no-rule", rawUDP(netip.AddrPortFrom(e.from, e.udp), e.target(e.port())))
	}},
	{"the answer to a datagram that was refused", 0, func(e *ends) []step {
		asks := netip.AddrPortFrom(e.to, e.port())
		shut := netip.AddrPortFrom(e.from, e.shut)
		return slices.Concat(back(refuse("no-rule", rawUDP(asks, shut))), refuse("no-rule", rawUDP(shut, asks)))
	}},
	{"the tuple of a flow turned round, and its neighbours", 0, func(e *ends) []step {
		from := e.source()
		to := e.target(e.udp)
		return slices.Concat(pass(rawUDP(from, to)),
			refuse("no-rule", rawUDP(netip.AddrPortFrom(e.from, e.udp), netip.AddrPortFrom(e.to, from.Port())), rawUDP(from, netip.AddrPortFrom(e.to, from.Port()))),
			back(refuse("no-rule", rawUDP(to, netip.AddrPortFrom(e.from, from.Port()-10_000)), rawUDP(netip.AddrPortFrom(e.to, e.shut), from))))
	}},
	{"UDP ports 0", 0, func(e *ends) []step {
		return refuse("port-zero", rawUDP(netip.AddrPortFrom(e.from, 0), e.target(e.udp)), rawUDP(e.source(), e.target(0)))
	}},
	{"UDP lengths", 0, func(e *ends) []step {
		made := func(length byte) []byte {
			b := rawUDP(e.source(), e.target(e.udp))
			b[len(b)-32+5] = length
			return b
		}
		return refuse("transport-header", made(0), made(7), made(31), made(33), rawIP(e.from, e.to, packet.ProtoUDP, []byte{80, 0, 20, 233}))
	}},
	{"a wrong UDP checksum, which the receiver's stack looks at", 0, func(e *ends) []step {
		b := rawUDP(e.source(), e.target(e.udp))
		b[len(b)-1] ^= 1
		return pass(b)
	}},
}

var icmpTricks = []rawCase{
	{"an echo and its answer", 0, func(e *ends) []step {
		id, t := e.port(), icmpOf(e.from)
		return slices.Concat(pass(rawEcho(e.from, e.to, t.echo, id)), back(pass(rawEcho(e.to, e.from, t.reply, id))))
	}},
	{"echo replies that nobody asked for", 0, func(e *ends) []step {
		t := icmpOf(e.from)
		id := e.port()
		return slices.Concat(refuse("no-flow", rawEcho(e.from, e.to, t.reply, id), rawEcho(e.from, e.to, t.reply, 0)),
			pass(rawEcho(e.from, e.to, t.echo, id)), refuse("no-flow", rawEcho(e.from, e.to, t.reply, id)), back(refuse("no-flow", rawEcho(e.to, e.from, t.reply, id+1000))))
	}},
	{"errors about what was never sent", 0, func(e *ends) []step {
		ours := netip.AddrPortFrom(e.to, e.port())
		return refuse("icmp-quote",
			rawUnreachable(e.from, e.to, rawUDP(ours, netip.AddrPortFrom(e.from, e.udp))),
			rawUnreachable(e.from, e.to, tcpSegment{from: ours, to: netip.AddrPortFrom(e.from, e.tcp), flags: ack}.bytes()),
			rawUnreachable(e.from, e.to, rawEcho(e.to, e.from, icmpOf(e.from).echo, e.port())),
			rawUnreachable(e.from, e.to, rawUDP(ours, netip.AddrPortFrom(e.third, 53))))
	}},
	{"errors that quote half a header, or nothing", 0, func(e *ends) []step {
		sent := rawUDP(netip.AddrPortFrom(e.to, e.port()), netip.AddrPortFrom(e.from, e.udp))
		header := len(sent) - 32
		out := back(pass(sent))
		for _, n := range []int{0, 1, header / 2, header, header + 7} {
			out = append(out, refuse("icmp-quote", rawUnreachable(e.from, e.to, sent[:n]))...)
		}
		return append(out, pass(rawUnreachable(e.from, e.to, sent[:header+8]))...)
	}},
	{"errors that quote a flow with one thing forged", 0, func(e *ends) []step {
		asks, to := netip.AddrPortFrom(e.to, e.port()), netip.AddrPortFrom(e.from, e.udp)
		sent := rawUDP(asks, to)
		return slices.Concat(back(pass(sent)), refuse("icmp-quote",
			rawUnreachable(e.from, e.to, rawUDP(netip.AddrPortFrom(e.to, asks.Port()+1000), to)),
			rawUnreachable(e.from, e.to, rawUDP(asks, netip.AddrPortFrom(e.from, e.udp+1))),
			rawUnreachable(e.from, e.to, rawUDP(asks, netip.AddrPortFrom(e.third, e.udp))),
			rawUnreachable(e.from, e.to, rawUDP(netip.AddrPortFrom(e.third, asks.Port()), to)),
			rawUnreachable(e.from, e.to, rawUDP(to, asks)),
			rawUnreachable(e.from, e.to, tcpSegment{from: asks, to: to, flags: ack}.bytes()),
			rawUnreachable(e.from, e.to, rawUnreachable(e.to, e.from, sent)),
			rawUnreachable(e.from, e.to, rawFragment(e.to, e.from, packet.ProtoUDP, 7, 64, false, sent[len(sent)-32:]))),
			pass(rawUnreachable(e.from, e.to, sent)))
	}},
	{"an error about a segment that was not sent yet", 0, func(e *ends) []step {
		c := &rawConnection{us: e.source(), them: e.target(e.tcp), seq: 1000, ack: 5000}
		open := c.open()
		later, older := c.answer(ack, noise(24)), c.answer(ack, noise(24))
		later.seq, older.seq = later.seq+1, older.seq-1<<24
		return slices.Concat(open, refuse("icmp-quote", rawUnreachable(e.from, e.to, later.bytes()), rawUnreachable(e.from, e.to, older.bytes())), c.exchange())
	}},
	{"an error in fragments", 0, func(e *ends) []step {
		sent := rawUDP(netip.AddrPortFrom(e.to, e.port()), netip.AddrPortFrom(e.from, e.udp))
		whole := rawUnreachable(e.from, e.to, sent)
		part := whole[len(whole)-8-len(sent):]
		return slices.Concat(back(pass(sent)), refuse("icmp-quote", rawFragment(e.from, e.to, icmpOf(e.from).proto, uint32(e.port()), 0, true, part[:40])))
	}},
	{"ICMP messages that nobody needs", 4, func(e *ends) []step {
		var out []step
		for _, typ := range []uint8{1, 2, 4, 5, 6, 9, 10, 13, 14, 15, 16, 17, 18, 30, 37, 42, 255} {
			out = append(out, refuse("icmp-type", rawICMP(e.from, e.to, typ, 0, noise(24)))...)
		}
		return append(out, refuse("icmp-type", rawICMP(e.from, e.to, packet.EchoRequest4, 1, noise(24)))...)
	}},
	{"ICMPv6 messages that nobody needs", 6, func(e *ends) []step {
		var out []step
		for _, typ := range []uint8{0, 5, 100, 127, 130, 131, 132, 133, 134, 135, 136, 137, 138, 139, 143, 151, 255} {
			out = append(out, refuse("icmp-type", rawICMP(e.from, e.to, typ, 0, noise(24)))...)
		}
		return append(out, refuse("icmp-type", rawICMP(e.from, e.to, packet.EchoRequest6, 1, noise(24)))...)
	}},
	{"the other family's ICMP", 0, func(e *ends) []step {
		proto := map[bool]uint8{true: packet.ProtoICMPv6, false: packet.ProtoICMP}[e.from.Is4()]
		return refuse("icmp-family", rawIP(e.from, e.to, proto, append([]byte{8, 0, 0, 0, 0, 1, 0, 1}, noise(24)...)), rawIP(e.from, e.to, proto, append([]byte{128, 0, 0, 0, 0, 1, 0, 1}, noise(24)...)))
	}},
	{"ICMP cut short", 0, func(e *ends) []step {
		return refuse("transport-header", rawIP(e.from, e.to, icmpOf(e.from).proto, []byte{8, 0, 0, 0, 0, 1, 0}), rawIP(e.from, e.to, icmpOf(e.from).proto, nil))
	}},
}
