package hostnet

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The guard is one table of ours, replaced whole in one transaction:
//
//	table inet picket {
//	  chain in      prerouting, before conntrack: overlay source or destination on another interface than the TUN and lo: drop
//	  chain forward forward: into or out of the TUN, and to or from the overlay: drop
//	  chain out     output: overlay source or destination by another interface than the TUN and lo: drop
//	}
//
// forward_linux.go has what a host that serves networks is let do besides. Each rule carries the same comment, made from what it is for;
// when the chains and the count and the comments of the rules fit, the guard is in place.
const guardName = "picket"

type guardRule struct {
	chain string
	exprs []expr.Any
}

// setGuard puts the table in place unless it is there for this very configuration.
func (h *Host) setGuard(c Config) error {
	chains, rules, mark := h.guardChains(c), h.guardRules(c), h.guardMark(c)
	if h.last.equal(c) && h.guardInPlace(chains, len(rules), mark) {
		return nil
	}
	table := &nftables.Table{Name: guardName, Family: nftables.TableFamilyINet}
	h.nft.AddTable(table) // so that the next line finds one; the three are one transaction
	h.nft.DelTable(table)
	h.nft.AddTable(table)
	byName := make(map[string]*nftables.Chain)
	policy := nftables.ChainPolicyAccept
	for _, ch := range chains {
		if ch.Table = table; ch.Hooknum != nil {
			ch.Policy = &policy
		}
		byName[ch.Name] = h.nft.AddChain(ch)
	}
	for _, r := range rules {
		h.nft.AddRule(&nftables.Rule{Table: table, Chain: byName[r.chain], Exprs: r.exprs, UserData: []byte(mark)})
	}
	if err := h.nft.Flush(); err != nil {
		return &GuardError{err}
	}
	return nil
}

// guardMark names what the guard is for; a comment in nftables has at most 256 bytes.
func (h *Host) guardMark(c Config) string {
	sum := sha256.Sum256(fmt.Append(nil, c.Interface, c.MTU, c.Addresses, c.Overlay, c.Served, c.KeepSource, h.forwarding))
	return "picket " + hex.EncodeToString(sum[:16])
}

func (h *Host) guardChains(c Config) []*nftables.Chain {
	chains := append([]*nftables.Chain{
		{Name: "in", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw},
		{Name: "forward", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter},
		{Name: "out", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter},
	}, routerChains(c)...)
	for _, is6 := range []bool{false, true} {
		if h.forwarding[index(is6)] {
			chains = append(chains, &nftables.Chain{Name: forwardingMark(is6)})
		}
	}
	return chains
}

// ourChains lists the chains of our table, by name.
func (h *Host) ourChains() map[string]*nftables.Chain {
	all, err := h.nft.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil // without nftables there are none
	}
	out := make(map[string]*nftables.Chain)
	for _, ch := range all {
		if ch.Table.Name == guardName {
			out[ch.Name] = ch
		}
	}
	return out
}

func (h *Host) guardInPlace(chains []*nftables.Chain, count int, mark string) bool {
	have := h.ourChains()
	for _, ch := range chains {
		if have[ch.Name] == nil {
			return false
		}
	}
	found := 0
	for _, ch := range have {
		rules, err := h.nft.GetRules(ch.Table, ch)
		if err != nil {
			return false
		}
		for _, r := range rules {
			if string(r.UserData) != mark {
				return false
			}
			found++
		}
	}
	return found == count && len(have) == len(chains)
}

func (h *Host) removeGuard() error {
	tables, err := h.nft.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil // without nftables there is no guard
	}
	for _, t := range tables {
		if t.Name == guardName {
			h.nft.DelTable(t)
			return explain("removing the guard", h.nft.Flush())
		}
	}
	return nil
}

func (h *Host) guardRules(c Config) []guardRule {
	rules := append(admitRules(c), forwardRules(c)...)
	for _, p := range c.Overlay {
		for _, end := range []end{source, destination} {
			rules = append(rules,
				guardRule{"in", join(notInterface(expr.MetaKeyIIFNAME, c.Interface), notInterface(expr.MetaKeyIIFNAME, "lo"), inPrefix(p, end), drop())},
				guardRule{"forward", join(inPrefix(p, end), drop())},
				guardRule{"out", join(notInterface(expr.MetaKeyOIFNAME, c.Interface), notInterface(expr.MetaKeyOIFNAME, "lo"), inPrefix(p, end), drop())})
		}
	}
	rules = append(rules,
		guardRule{"forward", join(isInterface(expr.MetaKeyIIFNAME, c.Interface), drop())},
		guardRule{"forward", join(isInterface(expr.MetaKeyOIFNAME, c.Interface), drop())})
	return slices.Concat(rules, selfRules(c), closeRules(c, h.forwarding), clampRules(c), natRules(c))
}

func join(parts ...[]expr.Any) (all []expr.Any) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func drop() []expr.Any { return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}} }

func compareInterface(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: padded}}
}

func isInterface(key expr.MetaKey, name string) []expr.Any {
	return compareInterface(key, expr.CmpOpEq, name)
}

func notInterface(key expr.MetaKey, name string) []expr.Any {
	return compareInterface(key, expr.CmpOpNeq, name)
}

// end of a packet; its value is the offset of that address in an IPv4 and in an IPv6 header.
type end struct{ offset4, offset6 uint32 }

var (
	source      = end{12, 8}
	destination = end{16, 24}
)

// inPrefix matches packets of the prefix's family whose address at that end lies in it.
func inPrefix(p netip.Prefix, e end) []expr.Any {
	proto, offset := byte(unix.NFPROTO_IPV4), e.offset4
	if p.Addr().Is6() {
		proto, offset = unix.NFPROTO_IPV6, e.offset6
	}
	n := ipNet(p)
	length := uint32(len(n.IP))
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: length, Mask: n.Mask, Xor: make([]byte, length)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: n.IP},
	}
}
