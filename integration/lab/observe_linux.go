//go:build linux

package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// Observers are two open hosts on the lab's internet, who find out what stands between it and a host.
type Observers struct{ near, far *Host }

// Behaviour is what a host's way to the IPv4 internet does, in the terms of RFC 4787; the zero Behaviour lets nothing through.
type Behaviour struct {
	UDP       bool // datagrams get out; what is below down to Filtering is known then only
	NAT       bool // another address is seen outside than the host has
	Kept      bool // with the same port
	Mapping   Mapping
	Filtering Filtering

	Web bool // TCP gets out to port 443
	TCP bool // and to others
}

// observeTime is how long what may never come is waited for, and straggleTime what may come late after a later one.
const (
	observeTime  = time.Second
	straggleTime = 50 * time.Millisecond
)

// Observers makes them. Privileged worlds only.
func (w *World) Observers() (*Observers, error) {
	near, err := w.Host("near")
	if err != nil {
		return nil, err
	}
	for _, port := range []int{443, 8080} {
		err := near.Do(func() error {
			l, err := net.Listen("tcp4", fmt.Sprintf("%s:%d", near.IP, port))
			if err == nil {
				w.cleanup.add(func() { l.Close() })
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	far, err := w.Host("far")
	return &Observers{near, far}, err
}

// Behaviour sends from the host, and to it.
func (o *Observers) Behaviour(h *Host) (b Behaviour, err error) {
	b.Web, b.TCP = h.reaches(o.near, 443), h.reaches(o.near, 8080)
	var open sockets
	defer open.close()
	one, two, other := open.on(o.near, o.near.IP), open.on(o.near, o.near.IP), open.on(o.far, o.far.IP)
	inside, second := open.on(h, nil), open.on(h, nil)
	if open.err != nil {
		return b, open.err
	}
	first, ok := seen(inside, one)
	if !ok {
		return b, nil
	}
	byPort, ok1 := seen(inside, two)
	byAddress, ok2 := seen(inside, other)
	lent, ok3 := seen(second, one)
	if !ok1 || !ok2 || !ok3 {
		return b, errors.New("some datagrams get out and some do not")
	}
	b.UDP, b.NAT, b.Kept = true, !h.IP.Equal(first.Addr().AsSlice()), first.Port() == local(inside).Port()
	switch {
	case first != byPort:
		b.Mapping = MapByPort
	case first != byAddress:
		b.Mapping = MapByAddress
	}
	for _, try := range []struct {
		from *net.UDPConn
		says string
	}{{two, "port"}, {other, "address"}, {one, "end"}} {
		_, _ = try.from.WriteToUDPAddrPort([]byte(try.says), lent)
	}
	heard := hear(second)
	switch {
	case !heard["end"]:
		return b, errors.New("what answers does not get in")
	case heard["address"]:
		b.Filtering = FilterNone
	case heard["port"]:
		b.Filtering = FilterByAddress
	}
	return b, nil
}

// Hairpins reports whether what a host sends to the port lent to another, who has sent to the host's, gets there: by a router that both are behind.
func (o *Observers) Hairpins(from, to *Host) (bool, error) {
	var open sockets
	defer open.close()
	one, a, b := open.on(o.near, o.near.IP), open.on(from, nil), open.on(to, nil)
	if open.err != nil {
		return false, open.err
	}
	atA, ok1 := seen(a, one)
	atB, ok2 := seen(b, one)
	if !ok1 || !ok2 {
		return false, errors.New("no datagram gets out")
	}
	_, _ = b.WriteToUDPAddrPort([]byte("opens"), atA)
	_, _ = a.WriteToUDPAddrPort([]byte("hairpin"), atB)
	_, _ = one.WriteToUDPAddrPort([]byte("end"), atB)
	return hear(b)["hairpin"], nil
}

// Carries sends n datagrams, at most 250 (more would not fit the receiver's queue), and reports how many got out and how many of them came after a later one.
func (o *Observers) Carries(h *Host, n int) (came, overtaken int, err error) {
	var open sockets
	defer open.close()
	at, from := open.on(o.near, o.near.IP), open.on(h, nil)
	if open.err != nil {
		return 0, 0, open.err
	}
	for i := range n {
		if _, err := from.WriteToUDPAddrPort([]byte(strconv.Itoa(i)), local(at)); err != nil {
			return 0, 0, err
		}
	}
	buf := make([]byte, 64)
	for last := -1; came < n; came++ {
		_ = at.SetReadDeadline(time.Now().Add(observeTime))
		k, _, err := at.ReadFromUDPAddrPort(buf)
		if err != nil {
			break
		}
		if i, _ := strconv.Atoi(string(buf[:k])); i < last {
			overtaken++
		} else {
			last = i
		}
	}
	return came, overtaken, nil
}

// reaches reports whether a TCP connection can be opened from here.
func (h *Host) reaches(to *Host, port int) bool {
	return h.Do(func() error {
		c, err := net.DialTimeout("tcp4", fmt.Sprintf("%s:%d", to.IP, port), observeTime)
		if err == nil {
			c.Close()
		}
		return err
	}) == nil
}

// sockets are opened until one cannot be.
type sockets struct {
	list []*net.UDPConn
	err  error
}

// on opens one at an address of the host; nil for all.
func (s *sockets) on(h *Host, at net.IP) (c *net.UDPConn) {
	if s.err != nil {
		return nil
	}
	s.err = h.Do(func() (err error) {
		c, err = net.ListenUDP("udp4", &net.UDPAddr{IP: at})
		return err
	})
	if s.err == nil {
		s.list = append(s.list, c)
	}
	return c
}

func (s *sockets) close() {
	for _, c := range s.list {
		c.Close()
	}
}

func local(c *net.UDPConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

// seen is where a datagram comes from; false when it does not come.
func seen(from, at *net.UDPConn) (netip.AddrPort, bool) {
	if _, err := from.WriteToUDPAddrPort([]byte("where"), local(at)); err != nil {
		return netip.AddrPort{}, false
	}
	_ = at.SetReadDeadline(time.Now().Add(observeTime))
	_, source, err := at.ReadFromUDPAddrPort(make([]byte, 64))
	return source, err == nil
}

// hear takes what comes until "end", and what that overtook.
func hear(at *net.UDPConn) map[string]bool {
	heard := make(map[string]bool)
	_ = at.SetReadDeadline(time.Now().Add(observeTime))
	buf := make([]byte, 64)
	for {
		n, _, err := at.ReadFromUDPAddrPort(buf)
		if err != nil {
			return heard
		}
		heard[string(buf[:n])] = true
		if string(buf[:n]) == "end" {
			_ = at.SetReadDeadline(time.Now().Add(straggleTime))
		}
	}
}
