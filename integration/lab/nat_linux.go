//go:build linux

package lab

import (
	"fmt"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NATConfig is what a home router does. The zero NATConfig is Linux's own: each inside port keeps its number outside while that is free, so
// that all destinations see one port, and in comes only what answers.
type NATConfig struct {
	Random bool // lend each destination another port ("symmetric")
	NoUDP  bool // forward no UDP, as a strict company does
}

// NAT makes network number n behind a router of its own, which is place 1 there and has one address on the internet.
func (w *World) NAT(n int, c NATConfig) (*LAN, *Host, error) {
	lan, err := w.LAN(n)
	if err != nil {
		return nil, nil, err
	}
	router, err := w.Host(fmt.Sprintf("router%d", n))
	if err != nil {
		return nil, nil, err
	}
	if err := lan.Plug(router, 1); err != nil {
		return nil, nil, err
	}
	err = router.ns.Do(func() error {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
			return err
		}
		if err := address("eth0", router.Routable()+"/24"); err != nil {
			return err
		}
		return translate(c)
	})
	if err != nil {
		return nil, nil, fmt.Errorf("make router %d: %w", n, err)
	}
	lan.routed = true
	return lan, router, nil
}

// Routable is another address of a router on the lab's internet: miniupnpd maps no port at one that is for documentation. The range is AMPRNet's for tests.
func (h *Host) Routable() string { return fmt.Sprintf("44.128.0.%d", h.IP.To4()[3]) }

func address(link, text string) error {
	eth, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(text)
	if err != nil {
		return err
	}
	return netlink.AddrAdd(eth, a)
}

// Behind makes a machine at place i whose only way out is the network's router.
func (l *LAN) Behind(name string, i int) (*Host, error) {
	h, err := l.Host(name, i)
	if err != nil {
		return nil, err
	}
	return h, h.AddRoute("0.0.0.0/0", l.Address(1))
}

// Move takes a machine's interface "lan" out of the network it is on, and plugs it into another at place i.
func (l *LAN) Move(h *Host, i int) error {
	err := h.ns.Do(func() error {
		link, err := netlink.LinkByName("lan")
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	})
	if err != nil {
		return fmt.Errorf("unplug %s: %w", h.Name, err)
	}
	if err := l.Plug(h, i); err != nil {
		return err
	}
	if !l.routed {
		return nil
	}
	return h.AddRoute("0.0.0.0/0", l.Address(1))
}

// translate has what leaves by eth0 get its address, and drops what comes in there unasked: a router that answered strangers would make
// connection tracking keep the port that an inside host's datagram is about to need.
func translate(c NATConfig) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Name: "nat", Family: nftables.TableFamilyIPv4})
	post := conn.AddChain(&nftables.Chain{Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	conn.AddRule(&nftables.Rule{Table: table, Chain: post, Exprs: append(named(expr.MetaKeyOIFNAME, "eth0"), &expr.Masq{FullyRandom: c.Random})})
	input := conn.AddChain(&nftables.Chain{Name: "input", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
	conn.AddRule(&nftables.Rule{Table: table, Chain: input, Exprs: append(named(expr.MetaKeyIIFNAME, "eth0"), unasked()...)})
	forward := conn.AddChain(&nftables.Chain{Name: "forward", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
	if c.NoUDP {
		conn.AddRule(&nftables.Rule{Table: table, Chain: forward, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}}, &expr.Verdict{Kind: expr.VerdictDrop},
		}})
	}
	conn.AddRule(&nftables.Rule{Table: table, Chain: forward, Exprs: append(named(expr.MetaKeyIIFNAME, "eth0"), unasked()...)})
	return conn.Flush()
}

// named matches an interface.
func named(key expr.MetaKey, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: padded}}
}

// unasked drops what belongs to no connection and was not led here by a port mapping.
func unasked() []expr.Any {
	const known = expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED
	const dnat = 1 << 5 // IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h
	return []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(known), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: make([]byte, 4)},
		&expr.Ct{Register: 1, Key: expr.CtKeySTATUS},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(dnat), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: make([]byte, 4)},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}
}
