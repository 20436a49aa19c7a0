package hostnet

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"picket.internal/coordinator/protocol"
)

func TestChoose(t *testing.T) {
	overlay := []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fd7a::/48")}
	for _, test := range []struct {
		outcome string
		addrs   []string
		local   Local
		want    []string
	}{
		{"none of the overlay", []string{"192.0.2.1", "100.64.0.5", "fd7a::5"}, Local{Overlay: overlay}, []string{"192.0.2.1:7"}},
		{"none only the link knows", []string{"192.0.2.1", "169.254.1.1", "fe80::1"}, Local{}, []string{"192.0.2.1:7"}},
		{"none that is no host's", []string{"0.0.0.0", "::", "224.0.0.1", "ff02::1", "192.0.2.1"}, Local{}, []string{"192.0.2.1:7"}},
		{"no loopback beside others", []string{"127.0.0.1", "192.0.2.1"}, Local{}, []string{"192.0.2.1:7"}},
		{"loopback when nothing else", []string{"127.0.0.1", "::1", "100.64.0.5"}, Local{Overlay: overlay}, []string{"127.0.0.1:7", "[::1]:7"}},
		{"loopback when asked", []string{"127.0.0.1", "192.0.2.1"}, Local{Loopback: true}, []string{"127.0.0.1:7", "192.0.2.1:7"}},
		{"IPv4 first, each once", []string{"2001:db8::1", "192.0.2.2", "192.0.2.1", "192.0.2.2"}, Local{}, []string{"192.0.2.1:7", "192.0.2.2:7", "[2001:db8::1]:7"}},
		{"nothing", nil, Local{}, nil},
	} {
		t.Run(test.outcome, func(t *testing.T) {
			var addrs []netip.Addr
			for _, a := range test.addrs {
				addrs = append(addrs, netip.MustParseAddr(a))
			}
			var got []string
			for _, a := range choose(addrs, 7, test.local) {
				got = append(got, a.String())
			}
			if diff := cmp.Diff(test.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestChoose_isBounded(t *testing.T) {
	a := netip.MustParseAddr("192.0.2.0")
	var addrs []netip.Addr
	for range 3 * protocol.MaxEndpoints {
		a = a.Next()
		addrs = append(addrs, a)
	}
	if n := len(choose(addrs, 7, Local{})); n != protocol.MaxEndpoints {
		t.Errorf("%d endpoints, want %d", n, protocol.MaxEndpoints)
	}
}
