//go:build linux

// Package lab builds whole Picket networks on one machine, for tests and for the demo: a coordinator and nodes as the real programs,
// each on a host of its own, people with browsers, services and their clients, and a policy in a real Git repository.
//
// As root each host is a network namespace with a real TUN; otherwise all of them share this machine's loopback and run rootless.
package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// Config of a World.
type Config struct {
	Bin      string // folder with the programs picket and picket-coordinator
	Dir      string // for everything the world writes; made when absent
	Rootless bool   // share loopback even when root
}

// World is one lab.
type World struct {
	config  Config
	self    string // this program, for helpers
	sw      *Switch
	beside  *thread // starts rootless hosts' programs
	cleanup cleanup
	mu      sync.Mutex
	hosts   map[string]*Host
}

// Host is a machine in the world.
type Host struct {
	Name  string
	IP    net.IP // on the lab's internet
	Dir   string
	ns    *Namespace // nil when rootless
	etc   string     // of its own; "" for the machine's
	at    *thread
	world *World

	mounts [][]string // what its programs see otherwise than the machine's: arguments of mount(8)
}

// CanPrivileged says in words why worlds with namespaces cannot be built here; nil when they can.
func CanPrivileged() error { return canNamespace() }

// New makes an empty world. Close it.
func New(c Config) (*World, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the world's folder: %w", err)
	}
	w := &World{config: c, self: self, hosts: map[string]*Host{}}
	if c.Rootless {
		w.beside = newThread()
		w.cleanup.add(w.beside.end)
		return w, nil
	}
	removeLeftovers()
	if w.sw, err = newSwitch("net"); err != nil {
		return nil, err
	}
	w.cleanup.add(func() { _ = w.sw.Close() })
	return w, nil
}

// Rootless reports that hosts share this machine's loopback.
func (w *World) Rootless() bool { return w.config.Rootless }

// Close ends every program and removes every namespace; files stay in the world's folder.
func (w *World) Close() { w.cleanup.run() }

// Host returns the machine called name, making it at first.
func (w *World) Host(name string) (*Host, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if h, ok := w.hosts[name]; ok {
		return h, nil
	}
	h := &Host{Name: name, Dir: filepath.Join(w.config.Dir, name), IP: net.IPv4(127, 0, 0, 1), at: w.beside, world: w}
	if err := os.MkdirAll(h.Dir, 0o700); err != nil {
		return nil, err
	}
	if !w.config.Rootless {
		ns, ip, err := w.sw.host(name)
		if ns != nil {
			w.cleanup.add(func() { _ = ns.Close() })
		}
		if err != nil {
			return nil, err
		}
		h.ns, h.IP, h.at = ns, ip, ns.thread
	}
	w.hosts[name] = h
	return h, nil
}

// Namespace is the name for `ip netns exec`; empty when rootless.
func (h *Host) Namespace() string {
	if h.ns == nil {
		return ""
	}
	return h.ns.Name
}

// SetLink takes the host's cable out, or puts it back. Privileged worlds only.
func (h *Host) SetLink(up bool) error { return h.ns.SetLink(up) }

// DropIPv4 leaves the host on the lab's internet its IPv6 address alone. Privileged worlds only.
func (h *Host) DropIPv4() error { return h.ns.DropIPv4() }

// Run runs a program on the host to its end: its standard output, and an *ExitError when it did not end well.
func (h *Host) Run(ctx context.Context, args ...string) (string, error) {
	return h.at.run(ctx, nil, h.seeing(args)...)
}

// Start starts a program on the host that goes on until the world's end or its own; its output is in Log.
func (h *Host) Start(name string, args ...string) (*Process, error) {
	p, err := h.at.daemon(h.Dir, name, h.seeing(args)...)
	if err == nil {
		h.world.cleanup.add(p.Kill)
	}
	return p, err
}

// helper runs one of the lab's helpers on the host.
func (h *Host) helper(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	return h.at.run(ctx, stdin, append([]string{h.world.self, helperWord}, args...)...)
}

// freePort asks the system for a port nobody listens on: for rootless worlds, whose hosts share one address.
func (h *Host) freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// Port returns the well-known port, or in a rootless world, whose hosts share one address, a free one.
func (h *Host) Port(known int) (string, error) {
	if h.ns != nil {
		return strconv.Itoa(known), nil
	}
	n, err := h.freePort()
	return strconv.Itoa(n), err
}

// IPv6 is the host's other address on the lab's internet. Privileged worlds only.
func (h *Host) IPv6() string { return fmt.Sprintf("2001:db8::%d", h.IP.To4()[3]) }
