//go:build linux

package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespaceDir is where `ip netns` looks for names.
const namespaceDir = "/run/netns"

// namespacePrefix begins every name made here; the process id after it tells whose leftovers may be removed.
const namespacePrefix = "picket-"

// Namespace is a network namespace with a thread that lives in it.
type Namespace struct {
	*thread
	Name string // as `ip netns exec NAME` knows it
}

// Switch is a namespace holding one bridge: the internet of a lab, without any way out.
type Switch struct {
	*Namespace
	next int // number of the next host
}

// canNamespace says in words why namespaces cannot be made here; nil when they can.
func canNamespace() error {
	if os.Geteuid() != 0 {
		return errors.New("not root")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return errors.New("/dev/net/tun is missing")
	}
	ns, err := newNamespace("probe")
	if err != nil {
		return fmt.Errorf("no network namespaces: %w", err)
	}
	return ns.Close()
}

// removeLeftovers deletes namespaces of runs whose process is gone.
func removeLeftovers() {
	names, _ := filepath.Glob(filepath.Join(namespaceDir, namespacePrefix+"*"))
	for _, path := range names {
		digits, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(path), namespacePrefix), "-")
		pid, err := strconv.Atoi(digits)
		if err != nil || unix.Kill(pid, 0) == nil {
			continue
		}
		_ = netns.DeleteNamed(filepath.Base(path))
	}
}

func newNamespace(role string) (*Namespace, error) {
	n := &Namespace{
		thread: newThread(),
		Name:   fmt.Sprintf("%s%d-%s", namespacePrefix, os.Getpid(), role),
	}
	err := n.Do(func() error {
		handle, err := netns.NewNamed(n.Name) // moves this thread, and no other, into it
		if err != nil {
			return err
		}
		defer handle.Close()
		return loopbackUp()
	})
	if err != nil {
		n.thread.end()
		return nil, fmt.Errorf("make network namespace %s: %w", n.Name, err)
	}
	return n, nil
}

// Close ends the thread and removes the name; the kernel frees the namespace with its last process.
func (n *Namespace) Close() error {
	n.thread.end()
	return netns.DeleteNamed(n.Name)
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// newSwitch makes a switch: the lab's internet, or a network behind one of its hosts.
func newSwitch(role string) (*Switch, error) {
	ns, err := newNamespace(role)
	if err != nil {
		return nil, err
	}
	s := &Switch{Namespace: ns, next: 1}
	err = ns.Do(func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
		if err := netlink.LinkAdd(br); err != nil {
			return fmt.Errorf("add bridge: %w", err)
		}
		return netlink.LinkSetUp(br)
	})
	return s, err
}

// host makes a namespace plugged into the switch as 192.0.2.N and 2001:db8::N (documentation ranges: RFC 5737, RFC 3849).
func (s *Switch) host(name string) (*Namespace, net.IP, error) {
	n := s.next
	s.next++
	ns, err := newNamespace(name)
	if err != nil {
		return nil, nil, err
	}
	if err := s.plug(ns, "eth0", n); err != nil {
		return nil, nil, err
	}
	ip := net.IPv4(192, 0, 2, byte(n))
	return ns, ip, ns.Do(func() error {
		return addressUp("eth0", fmt.Sprintf("192.0.2.%d/24", n), fmt.Sprintf("2001:db8::%d/64", n))
	})
}

// plug joins a namespace to the switch's port n by an interface of that name.
func (s *Switch) plug(ns *Namespace, name string, n int) error {
	err := s.Do(func() error {
		inside, err := netns.GetFromName(ns.Name)
		if err != nil {
			return err
		}
		defer inside.Close()
		pair := &netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: fmt.Sprintf("p%d", n)},
			PeerName:      name,
			PeerNamespace: netlink.NsFd(int(inside)),
		}
		if err := netlink.LinkAdd(pair); err != nil {
			return fmt.Errorf("add veth: %w", err)
		}
		br, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMaster(pair, br); err != nil {
			return err
		}
		return netlink.LinkSetUp(pair)
	})
	if err != nil {
		return fmt.Errorf("plug %s into the switch: %w", ns.Name, err)
	}
	return nil
}

func addressUp(link, address4, address6 string) error {
	eth, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	v4, _ := netlink.ParseAddr(address4)
	v6, _ := netlink.ParseAddr(address6)
	v6.Flags = unix.IFA_F_NODAD
	if err := netlink.LinkSetUp(eth); err != nil {
		return err
	}
	if err := netlink.AddrAdd(eth, v4); err != nil {
		return fmt.Errorf("add %s: %w", v4, err)
	}
	if err := netlink.AddrAdd(eth, v6); err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EACCES) {
		return fmt.Errorf("add %s: %w", v6, err)
	}
	return nil
}

// SetLink takes the host's cable out (up false) or puts it back.
func (n *Namespace) SetLink(up bool) error {
	return n.Do(func() error {
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if up {
			return netlink.LinkSetUp(eth)
		}
		return netlink.LinkSetDown(eth)
	})
}

// DropIPv4 takes the host's IPv4 address on the lab's internet from it, so that it has the other alone.
func (n *Namespace) DropIPv4() error {
	return n.Do(func() error {
		eth, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(eth, netlink.FAMILY_V4)
		for _, a := range addrs {
			if err := netlink.AddrDel(eth, &a); err != nil {
				return err
			}
		}
		return err
	})
}
