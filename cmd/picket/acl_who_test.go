package main

import (
	"testing"

	"picket.internal/acl"
)

func TestReachable(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"db:0", `"0" is no port: write a number from 1 to 65535`},
		{"db:65536", `"65536" is no port: write a number from 1 to 65535`},
		{"db:", `"" is no port: write a number from 1 to 65535`},
		{"db:ssh", `"ssh" is no port: write a number from 1 to 65535`},
		{"db/tpc", `"tpc" is no protocol: write tcp, udp, icmp or a number`},
		{"db", "db all"},
		{"db:22", "db tcp 22, udp 22"},
		{"db:22/tcp", "db tcp 22"},
		{"db/icmp", "db icmp"},
		{"db/47", "db gre"},
		{"tag:web", "tag:web all"},
		{"tag:web:443", "tag:web tcp 443, udp 443"},
		{"autogroup:internet/tcp", "autogroup:internet tcp"},
		{"10.0.0.0/16", "10.0.0.0/16 all"},
		{"10.0.0.0/16:22/tcp", "10.0.0.0/16 tcp 22"},
		{"10.0.0.1:53/udp", "10.0.0.1 udp 53"},
		{"fd7a::1", "fd7a::1 all"},
		{"[fd7a::1]", "fd7a::1 all"},
		{"[fd7a::1]:22/tcp", "fd7a::1 tcp 22"},
		{"fd7a::/64", "fd7a::/64 all"},
		{"[fd7a::1]/icmp", "fd7a::1 icmp"},
	} {
		name, ports, err := reachable(test.in)
		got := name + " all"
		switch {
		case err != nil:
			got = err.Error()
		case ports != nil:
			got = name + " " + acl.FormatPorts(ports)
		}
		if got != test.want {
			t.Errorf("%s: %s, want %s", test.in, got, test.want)
		}
	}
}
