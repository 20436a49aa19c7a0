//go:build linux

package integration

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"picket.internal/integration/lab"
	"picket.internal/wgtun/packet"
)

// longestGap is how long a flow that nobody may stop may stand still on a machine that a flood keeps busy.
const longestGap = 3 * time.Second

// watched is a flow, and how long it has stood still.
type watched struct {
	name string
	probe
}

// attack is something that mallory does to the flows of others and to one of its own, of which it knows all numbers.
type attack struct {
	name    string
	do      func(m *attacker)
	counted string // at the database; "" when wireguard-go refuses it, or nothing does
}

// attacker is mallory's host, with one connection of its own to the database.
type attacker struct {
	*rawNetwork
	raw     *lab.Raw
	v4, v6  *ends
	own     tcpSegment // the newest that its connection sent
	others  netip.AddrPort
	victims []watched
}

func (m *attacker) send(packets ...[]byte) {
	m.t.Helper()
	m.must(m.raw.Send(packets...))
}

var attacks = []attack{
	{"resets of another's connection, as that one", func(m *attacker) {
		for i := range uint32(2000) {
			m.send(tcpSegment{from: m.others, to: m.v4.target(openTCP), seq: i << 21, flags: rst}.bytes())
		}
	}, ""},
	{"resets of another's ports from its own address", func(m *attacker) {
		for i := range uint32(2000) {
			m.send(tcpSegment{from: netip.AddrPortFrom(m.v4.from, m.others.Port()), to: m.v4.target(openTCP), seq: i << 21, flags: rst}.bytes())
		}
	}, "no-flow"},
	{"blind resets of a connection of its host's", func(m *attacker) {
		for i := range uint32(2000) {
			s := m.own
			s.flags, s.seq, s.data = rst, s.seq+1<<30+i<<19, nil
			m.send(s.bytes())
		}
	}, "tcp-window"},
	{"errors about another's flows", func(m *attacker) {
		for i := range uint16(500) {
			for _, quote := range [][]byte{
				tcpSegment{from: m.v4.target(openTCP), to: m.others, seq: uint32(i) << 23, flags: ack}.bytes(),
				rawUDP(m.v4.target(openUDP), netip.AddrPortFrom(m.v4.third, 32768+i)),
				rawEcho(m.v4.to, m.v4.third, packet.EchoReply4, i),
			} {
				m.send(rawUnreachable(m.v4.from, m.v4.to, quote))
			}
		}
	}, "icmp-quote"},
	{"errors about segments of its host's connection that were never sent", func(m *attacker) {
		for i := range uint32(1000) {
			quote := tcpSegment{from: m.own.to, to: m.own.from, seq: m.own.ack + 1<<30 + i<<20, flags: ack}.bytes()
			m.send(rawUnreachable(m.v4.from, m.v4.to, quote))
		}
	}, "icmp-quote"},
	{"a flood of first fragments", func(m *attacker) {
		p := m.v4.pieces(openUDP, 600)
		for p.id = range 6000 {
			m.send(p.at(0, 200))
		}
	}, "fragments-full"},
	{"a flood of later fragments", func(m *attacker) {
		for i := range uint32(5000) {
			m.send(rawFragment(m.v4.from, m.v4.to, packet.ProtoUDP, i, 64, false, noise(24)))
		}
	}, "fragment"},
	{"a flood of what is refused", func(m *attacker) {
		for i := range uint16(15_000) {
			m.send(rawUDP(netip.AddrPortFrom(m.v4.from, 1+i), m.v4.target(10_000+i)))
		}
	}, "no-rule"},
	{"a flood of connections that are never finished", func(m *attacker) {
		for i := range uint16(5000) {
			m.send(tcpSegment{from: netip.AddrPortFrom(m.v4.from, 1+i), to: m.v4.target(openTCP), seq: 1, flags: syn}.bytes())
		}
	}, ""},
	{"a flood of flows", func(m *attacker) {
		for _, e := range []*ends{m.v4, m.v6} {
			for i := range uint16(65_535) {
				m.send(rawUDP(netip.AddrPortFrom(e.from, 1+i), e.target(openUDP+1)))
			}
		}
	}, "flows-full"},
}

// TestFlowsUnderAttack has connections, datagrams and fragments pass between two honest nodes, and a connection of a hostile one's host, while that one does
// all it can to end them and to take the room for new ones.
func TestFlowsUnderAttack(t *testing.T) {
	n := newRawNetwork(t)
	n.inForce(strings.Replace(rawPolicy, `"udp:5353"`, `"udp:5353-5354"`, 1))
	_, err := n.db.Host.Serve(n.ctx, "tcp", fmt.Sprintf("[::]:%d", openTCP))
	n.must(err)
	_, err = n.db.Host.Serve(n.ctx, "udp", fmt.Sprintf("[::]:%d", openUDP))
	n.must(err)
	m := n.attacker()
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			m.t = t
			m.attack(a)
		})
	}
	m.t = t
	for _, w := range m.victims {
		if f, ok := w.probe.(*lab.Flow); ok {
			t.Logf("%s: longest gap %v", w.name, f.LongestGap())
			if gap := f.LongestGap(); gap > longestGap {
				t.Errorf("%s stood still for %v", w.name, gap)
			}
		}
	}
}

// attacker opens the flows.
func (n *rawNetwork) attacker() *attacker {
	n.t.Helper()
	m := &attacker{rawNetwork: n}
	var err error
	m.raw, err = n.mallory.Host.Raw(n.mallory.Interface())
	n.must(err)
	m.v4, m.v6 = n.between(n.mallory, n.db, false), n.between(n.mallory, n.db, true)
	for _, v6 := range []bool{false, true} {
		for proto, port := range map[string]uint16{"tcp": openTCP, "udp": openUDP} {
			f, err := n.app.Dial(n.ctx, proto, net.JoinHostPort(n.address(n.db, v6), fmt.Sprint(port)))
			n.must(err)
			m.victims = append(m.victims, watched{fmt.Sprintf("%s of app, IPv6 %v", proto, v6), f})
		}
		p, err := lab.StartPing(n.ctx, n.app.Host, n.address(n.db, v6), 4000)
		n.must(err)
		m.victims = append(m.victims, watched{fmt.Sprintf("fragments of app, IPv6 %v", v6), p})
	}
	f, err := n.mallory.Dial(n.ctx, "tcp", net.JoinHostPort(n.address(n.db, false), fmt.Sprint(openTCP)))
	n.must(err)
	m.victims = append(m.victims, watched{"tcp of mallory's host", f})
	m.learn()
	return m
}

// between makes ends for packets from one node to another.
func (n *rawNetwork) between(from, to *lab.Node, v6 bool) *ends {
	n.t.Helper()
	a := func(node *lab.Node) netip.Addr { return netip.MustParseAddr(n.address(node, v6)) }
	return &ends{from: a(from), to: a(to), third: a(n.app), tcp: openTCP, udp: openUDP, shut: shutPort, next: 20_000}
}

// learn reads the numbers of mallory's own connection off its interface, and the ports of app's off app's.
func (m *attacker) learn() {
	m.t.Helper()
	raw, err := m.app.Host.Raw(m.app.Interface())
	m.must(err)
	m.eventually("connections are seen", func() error {
		if s, ok := newestSegment(m.raw); ok {
			m.own = s
		}
		if s, ok := newestSegment(raw); ok {
			m.others = s.from
		}
		if !m.own.from.IsValid() || !m.others.IsValid() {
			return fmt.Errorf("seen: %v, %v", m.own.from, m.others)
		}
		return nil
	})
}

// newestSegment is the newest that the host sent to the database over IPv4 since the last call.
func newestSegment(raw *lab.Raw) (s tcpSegment, ok bool) {
	frames, _ := raw.Take()
	for _, f := range frames {
		var v packet.View
		if !f.Out || len(f.Packet) < 40 || f.Packet[0]>>4 != 4 || f.Packet[9] != packet.ProtoTCP {
			continue
		}
		if v.Parse(f.Packet) == packet.FaultNone && v.DstPort() == openTCP {
			t := v.TCP()
			s, ok = tcpSegment{from: netip.AddrPortFrom(v.Src().Netip(), v.SrcPort()), to: netip.AddrPortFrom(v.Dst().Netip(), v.DstPort()), seq: t.Seq, ack: t.Ack, flags: ack}, true
		}
	}
	return s, ok
}

// attack does one, and holds that it was refused for the reason meant, that no flow has ended or stands still, and that new ones open.
func (m *attacker) attack(a attack) {
	m.t.Helper()
	m.learn()
	before, err := m.db.Status(m.ctx)
	m.must(err)
	a.do(m)
	m.eventually("the attack is refused", func() error {
		st, err := m.db.Status(m.ctx)
		if err == nil && a.counted != "" && st.Denied["ingress "+a.counted] == before.Denied["ingress "+a.counted] {
			err = fmt.Errorf("not counted: %v", st.Denied)
		}
		return err
	})
	began := time.Now()
	for _, proto := range []string{"tcp", "udp"} {
		port := map[string]uint16{"tcp": openTCP, "udp": openUDP}[proto]
		f, err := m.app.Dial(m.ctx, proto, net.JoinHostPort(m.v4.to.String(), fmt.Sprint(port)))
		if err != nil {
			m.t.Errorf("no new flow of app over %s opens: %v", proto, err)
			continue
		}
		f.Kill()
	}
	for _, w := range m.victims {
		for deadline := began.Add(longestGap); !w.LastEcho().After(began) && time.Now().Before(deadline); {
			time.Sleep(5 * time.Millisecond)
		}
		if last := w.LastEcho(); !last.After(began) {
			m.t.Errorf("%s stands still since %v ago", w.name, time.Since(last))
		}
		if f, ok := w.probe.(*lab.Flow); ok && !f.Ended().IsZero() {
			m.t.Errorf("%s has ended: %s", w.name, f.Reason())
		}
	}
}
