package hostnet

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// What a host that serves networks has in its guard besides, before the rules that drop:
//
//	chain in      overlay destination but this host's own, source in a served subnet, by the interface that leads back there: accept
//	chain forward into or out of the TUN, to or from a served subnet: accept; with an exit node, out of the TUN to anywhere but the overlay
//	              and link-local addresses, and answers back
//	chain self    input: with an exit node, out of the TUN to an address of this host that is neither its overlay address nor in a served
//	              subnet: drop
//	chain clamp   forward, mangle: the MSS of a SYN into or out of the TUN is at most what the TUN's MTU has room for
//	chain nat     postrouting: what came out of the TUN gets this host's address, to subnets only unless KeepSource
//
// And where it was we who turned forwarding on, what neither comes from the TUN nor goes there is dropped: the host forwarded none of that
// before.

// linkLocal4 must not be forwarded (RFC 3927 section 7). Cloud providers answer secrets there.
var linkLocal4 = netip.MustParsePrefix("169.254.0.0/16")

// exit reports whether the host serves the internet of a family.
func (c Config) exit(is6 bool) bool { return slices.Contains(c.Served, everything[index(is6)]) }

// index is a family's place in everything and in forwarding.
func index(is6 bool) int {
	if is6 {
		return 1
	}
	return 0
}

// subnets are the served networks but the internet.
func (c Config) subnets() (out []netip.Prefix) {
	for _, p := range c.Served {
		if p.Bits() > 0 {
			out = append(out, p)
		}
	}
	return out
}

// admitRules let packets from served subnets to the overlay in, which the chain "in" would take for forged. The way back to the source must
// be the interface they came by. What is for this host itself would pass no filter: only what is forwarded goes through the tunnel.
func admitRules(c Config) (rules []guardRule) {
	if len(c.subnets()) == 0 {
		return nil
	}
	for _, a := range c.Addresses {
		rules = append(rules, guardRule{"in", join(notInterface(expr.MetaKeyIIFNAME, c.Interface), notInterface(expr.MetaKeyIIFNAME, "lo"),
			inPrefix(netip.PrefixFrom(a, a.BitLen()), destination), drop())})
	}
	for _, p := range c.subnets() {
		for _, o := range c.Overlay {
			if o.Addr().Is4() == p.Addr().Is4() {
				rules = append(rules, guardRule{"in", join(notInterface(expr.MetaKeyIIFNAME, c.Interface), inPrefix(p, source), inPrefix(o, destination), wayBack(), accept())})
			}
		}
	}
	return rules
}

// forwardRules come before those that drop whatever else would be forwarded.
func forwardRules(c Config) (rules []guardRule) {
	if len(c.Served) == 0 {
		return nil
	}
	out := join(isInterface(expr.MetaKeyIIFNAME, c.Interface), notInterface(expr.MetaKeyOIFNAME, c.Interface))
	into := join(notInterface(expr.MetaKeyIIFNAME, c.Interface), isInterface(expr.MetaKeyOIFNAME, c.Interface))
	for _, o := range c.Overlay {
		rules = append(rules, guardRule{"forward", join(out, inPrefix(o, destination), drop())})
	}
	rules = append(rules, guardRule{"forward", join(out, inPrefix(linkLocal4, destination), drop())})
	for _, p := range c.subnets() {
		rules = append(rules,
			guardRule{"forward", join(out, inPrefix(p, destination), accept())},
			guardRule{"forward", join(into, inPrefix(p, source), accept())})
	}
	for _, is6 := range []bool{false, true} {
		if c.exit(is6) {
			rules = append(rules,
				guardRule{"forward", join(out, ofFamily(is6), accept())},
				guardRule{"forward", join(into, ofFamily(is6), answering(), accept())})
		}
	}
	return rules
}

// selfRules keep peers who may reach the internet from this host's own services at its public address: it would see them come from the
// overlay.
func selfRules(c Config) (rules []guardRule) {
	in := isInterface(expr.MetaKeyIIFNAME, c.Interface)
	for _, is6 := range []bool{false, true} {
		if !c.exit(is6) {
			continue
		}
		for _, a := range c.Addresses {
			if a.Is6() == is6 {
				rules = append(rules, guardRule{"self", join(in, inPrefix(netip.PrefixFrom(a, a.BitLen()), destination), accept())})
			}
		}
		for _, p := range c.subnets() {
			if p.Addr().Is6() == is6 {
				rules = append(rules, guardRule{"self", join(in, inPrefix(p, destination), accept())})
			}
		}
		rules = append(rules, guardRule{"self", join(in, ofFamily(is6), drop())})
	}
	return rules
}

// closeRules keep the host from forwarding what it did not forward before we turned forwarding on.
func closeRules(c Config, f forwarding) (rules []guardRule) {
	beside := join(notInterface(expr.MetaKeyIIFNAME, c.Interface), notInterface(expr.MetaKeyOIFNAME, c.Interface))
	for _, is6 := range []bool{false, true} {
		if f[index(is6)] {
			rules = append(rules, guardRule{"forward", join(beside, ofFamily(is6), drop())})
		}
	}
	return rules
}

// Room for the headers of IP and TCP without options, in bytes.
const (
	headers4 = 40
	headers6 = 60
)

func clampRules(c Config) (rules []guardRule) {
	if len(c.Served) == 0 {
		return nil
	}
	for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
		rules = append(rules,
			guardRule{"clamp", join(isInterface(key, c.Interface), ofFamily(false), clampTo(c.MTU-headers4))},
			guardRule{"clamp", join(isInterface(key, c.Interface), ofFamily(true), clampTo(c.MTU-headers6))})
	}
	return rules
}

func natRules(c Config) (rules []guardRule) {
	out := join(isInterface(expr.MetaKeyIIFNAME, c.Interface), notInterface(expr.MetaKeyOIFNAME, c.Interface))
	for _, p := range c.subnets() {
		then := []expr.Any{&expr.Masq{}}
		if c.KeepSource {
			then = accept()
		}
		rules = append(rules, guardRule{"nat", join(out, inPrefix(p, destination), then)})
	}
	for _, is6 := range []bool{false, true} {
		if c.exit(is6) {
			rules = append(rules, guardRule{"nat", join(out, ofFamily(is6), []expr.Any{&expr.Masq{}})})
		}
	}
	return rules
}

// routerChains are the chains that only a host has which serves networks.
func routerChains(c Config) []*nftables.Chain {
	if len(c.Served) == 0 {
		return nil
	}
	return []*nftables.Chain{
		{Name: "self", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter},
		{Name: "clamp", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityMangle},
		{Name: "nat", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource},
	}
}

func accept() []expr.Any { return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}} }

func ofFamily(is6 bool) []expr.Any {
	proto := byte(unix.NFPROTO_IPV4)
	if is6 {
		proto = unix.NFPROTO_IPV6
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}}}
}

// wayBack matches packets whose source is reached by the interface they came by: "fib saddr . iif oif exists" of nft(8).
func wayBack() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, ResultOIF: true, FlagSADDR: true, FlagIIF: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0, 0, 0, 0}},
	}
}

// answering matches packets of connections that were opened before: "ct state established,related".
func answering() []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// Of a TCP header (RFC 9293 section 3.1) and its option MSS (section 3.7.1).
const (
	tcpFlagsAt  = 13
	tcpSYN      = 0x02
	tcpSYNorRST = 0x06
	mssKind     = 2
	mssAt       = 2 // its value, behind kind and length
)

// clampTo sets the MSS of a SYN; the kernel never raises one.
func clampTo(mss int) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: tcpFlagsAt, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{tcpSYNorRST}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{tcpSYN}},
		&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, uint16(mss))},
		&expr.Exthdr{SourceRegister: 1, Type: mssKind, Offset: mssAt, Len: 2, Op: expr.ExthdrOpTcpopt},
	}
}
