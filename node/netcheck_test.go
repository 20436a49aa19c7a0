package node

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/node/localapi"
	"picket.internal/wgtun/path"
)

// A reflector that answered a while ago, and does not now, has not answered: UDP may be blocked since.
func TestOldReflectionsAreNoAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := netip.MustParseAddrPort("203.0.113.1:1")
		o := &fakeOverlay{mirrors: []path.Reflection{
			{Reflector: netip.MustParseAddrPort("192.0.2.1:3478"), Seen: seen, Latency: time.Millisecond, Age: time.Minute},
			{Reflector: netip.MustParseAddrPort("192.0.2.1:3479"), Seen: seen, Latency: time.Millisecond},
		}}
		got := askReflectors(t.Context(), o)
		if got[0].Seen.IsValid() || got[0].Latency != 0 || got[1].Seen != seen {
			t.Errorf("%+v", got)
		}
	})
}

// What a NAT does, by where reflectors see us: RFC 4787's three mappings take two ports and two addresses to tell apart. A relay's word says where to send nothing.
func TestMappingOfANAT(t *testing.T) {
	at := netip.MustParseAddrPort
	local := []netip.AddrPort{at("10.0.0.2:41641")}
	r := func(relay, reflector, seen string) path.Reflection {
		out := path.Reflection{Reflector: at(reflector), Relay: relay}
		if seen != "" {
			out.Seen = at(seen)
		}
		return out
	}
	const one, two, other = "192.0.2.1:3478", "192.0.2.1:3479", "192.0.2.9:3478"
	for name, c := range map[string]struct {
		answers   []path.Reflection
		want      localapi.Mapping
		addresses int
		kept      bool
		outside   string
	}{
		"nobody answers":             {[]path.Reflection{r("", one, "")}, "", 0, false, ""},
		"no NAT":                     {[]path.Reflection{r("", one, "10.0.0.2:41641"), r("fra", other, "10.0.0.2:41641")}, localapi.MappingNone, 2, false, ""},
		"one answer":                 {[]path.Reflection{r("", one, "203.0.113.1:7"), r("", two, "")}, localapi.MappingUnknown, 1, false, "203.0.113.1:7"},
		"one address":                {[]path.Reflection{r("", one, "203.0.113.1:41641"), r("", two, "203.0.113.1:41641")}, localapi.MappingSame, 1, true, "203.0.113.1:41641"},
		"endpoint-independent":       {[]path.Reflection{r("", one, "203.0.113.1:7"), r("", two, "203.0.113.1:7"), r("fra", other, "203.0.113.1:7")}, localapi.MappingSame, 2, false, "203.0.113.1:7"},
		"address-dependent":          {[]path.Reflection{r("", one, "203.0.113.1:7"), r("", two, "203.0.113.1:7"), r("fra", other, "203.0.113.1:8")}, localapi.MappingByAddress, 2, false, "203.0.113.1:7"},
		"address and port-dependent": {[]path.Reflection{r("", one, "203.0.113.1:7"), r("", two, "203.0.113.1:9"), r("fra", other, "203.0.113.1:8")}, localapi.MappingVaries, 2, false, "203.0.113.1:7"},
		"relays alone":               {[]path.Reflection{r("fra", one, "203.0.113.1:7"), r("ams", other, "203.0.113.1:8")}, localapi.MappingByAddress, 2, false, ""},
		"a coordinator on this side": {[]path.Reflection{r("", one, "10.0.0.2:41641"), r("", two, "10.0.0.2:41641"), r("fra", other, "203.0.113.1:7")}, localapi.MappingUnknown, 1, false, ""},
		"the other version":          {[]path.Reflection{r("", "[2001:db8::1]:1", "[2001:db8::2]:1")}, "", 0, false, ""},
	} {
		f := family(local, c.answers, true)
		if f.Mapping != c.want || f.Addresses != c.addresses || f.Kept != c.kept {
			t.Errorf("%s: %+v", name, f)
		}
		if got := outside(local, c.answers); c.outside == "" && got.IsValid() || c.outside != "" && got != at(c.outside) {
			t.Errorf("%s: sends to %v to see whether it comes back", name, got)
		}
	}
}
