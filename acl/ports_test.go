package acl

import (
	"net/netip"
	"testing"
)

func TestParseProto(t *testing.T) {
	for _, s := range []string{"", "0", "256", "-1", "+6", "06", " 6", "6 ", "TCP", "http", "1e1", "٦"} {
		if p, ok := ParseProto(s); ok {
			t.Errorf("%q is %s", s, p)
		}
	}
	for s, want := range map[string]Proto{"tcp": 6, "6": 6, "udp": 17, "icmp": 1, "icmpv6": 58, "ipv6-icmp": 58, "sctp": 132, "gre": 47, "ip-in-ip": 4, "255": 255, "1": 1} {
		if p, ok := ParseProto(s); !ok || p != want {
			t.Errorf("%q is %d, %v, want %d", s, p, ok, want)
		}
	}
}

func TestProtoIsPrintedAsItIsParsed(t *testing.T) {
	for n := 1; n <= 255; n++ {
		if p, ok := ParseProto(Proto(n).String()); !ok || p != Proto(n) {
			t.Errorf("%d is printed %s and read as %d, %v", n, Proto(n), p, ok)
		}
	}
	if got := Proto(4).String() + Proto(58).String() + Proto(99).String(); got != "ipv4icmpv699" {
		t.Error(got)
	}
}

func TestOnlyTCPUDPAndSCTPHavePorts(t *testing.T) {
	for n := range 256 {
		if p := Proto(n); p.HasPorts() != (n == 6 || n == 17 || n == 132) {
			t.Errorf("%s: %v", p, p.HasPorts())
		}
	}
}

func TestICMPIsSpokenInBothFamilies(t *testing.T) {
	four, six, mapped := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1"), netip.MustParseAddr("::ffff:10.0.0.1")
	if ICMP.For(four) != ICMP || ICMP.For(six) != ICMPv6 || ICMP.For(mapped) != ICMP || TCP.For(six) != TCP {
		t.Error(ICMP.For(four), ICMP.For(six), ICMP.For(mapped), TCP.For(six))
	}
}

func TestFormatPorts(t *testing.T) {
	for _, c := range []struct {
		ports []Ports
		want  string
	}{
		{nil, "nothing"},
		{[]Ports{{TCP, 5432, 5432}}, "tcp 5432"},
		{[]Ports{{TCP, 8000, 8080}}, "tcp 8000-8080"},
		{[]Ports{{TCP, 0, 65535}}, "tcp"},
		{anyPorts(), "any"},
		{[]Ports{whole(ICMPv6), whole(UDP), whole(TCP), whole(ICMP)}, "any"},
		{[]Ports{whole(ICMP), whole(ICMPv6)}, "icmp"},
		{[]Ports{whole(ICMPv6)}, "icmpv6"},
		{[]Ports{{UDP, 53, 53}, {TCP, 81, 90}, {TCP, 80, 80}, {TCP, 85, 95}}, "tcp 80-95, udp 53"},
		{[]Ports{{TCP, 65535, 65535}, {UDP, 0, 1}}, "tcp 65535, udp 0-1"},
		{[]Ports{whole(47), whole(99)}, "gre, 99"},
	} {
		if got := FormatPorts(c.ports); got != c.want {
			t.Errorf("%v: %q, want %q", c.ports, got, c.want)
		}
	}
}

func TestFormatPortsLeavesItsArgumentAlone(t *testing.T) {
	ports := []Ports{{UDP, 53, 53}, {TCP, 80, 80}}
	FormatPorts(ports)
	if ports[0].Proto != UDP {
		t.Error("sorted in place")
	}
}

func TestDistanceCountsEdits(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"enginering", "engineering", 1}, {"scr", "src", 1}, {"kitten", "sitting", 3}, {"é", "e", 1}, {"abcdef", "uvwxyz", 5}} {
		if got := distance(c.a, c.b, 5); got != c.want {
			t.Errorf("%q to %q: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
