package sockets

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// endpoint is a far address, with the kernel's form of it.
type endpoint struct {
	netip.AddrPort
	name [unix.SizeofSockaddrInet6]byte // struct sockaddr_in or sockaddr_in6
	size uint32
	// uncutUntil is how long the kernel is given no datagrams to cut, in Unix nanoseconds: the path took only shorter ones.
	uncutUntil atomic.Int64
}

// cutAgain is how long a path is remembered that did not take datagrams cut by the kernel. What the system knows of a path's MTU, it keeps so
// long as well (net.ipv4.route.mtu_expires), and a stranger's forged word of it no longer.
const cutAgain = 10 * time.Minute

var _ conn.Endpoint = (*endpoint)(nil)

// newEndpoint makes one; an IPv4 address in its mapped form is one of IPv4.
func newEndpoint(a netip.AddrPort) *endpoint {
	a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	e := &endpoint{AddrPort: a}
	binary.BigEndian.PutUint16(e.name[2:], a.Port())
	if a.Addr().Is4() {
		binary.NativeEndian.PutUint16(e.name[:], unix.AF_INET)
		ip := a.Addr().As4()
		copy(e.name[4:], ip[:])
		e.size = unix.SizeofSockaddrInet4
		return e
	}
	binary.NativeEndian.PutUint16(e.name[:], unix.AF_INET6)
	ip := a.Addr().As16()
	copy(e.name[8:], ip[:])
	binary.NativeEndian.PutUint32(e.name[24:], scope(a.Addr().Zone()))
	e.size = unix.SizeofSockaddrInet6
	return e
}

// scope is the index that a zone names; names of interfaces are not looked up: paths never lead over link-local addresses.
func scope(zone string) uint32 {
	n, _ := strconv.ParseUint(zone, 10, 32)
	return uint32(n)
}

// readName reads what the kernel filled in; the zero AddrPort when it is no address.
func readName(name []byte) netip.AddrPort {
	port := binary.BigEndian.Uint16(name[2:])
	switch binary.NativeEndian.Uint16(name) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(name[4:8])), port)
	case unix.AF_INET6:
		a := netip.AddrFrom16([16]byte(name[8:24])).Unmap()
		if index := binary.NativeEndian.Uint32(name[24:28]); index != 0 && a.Is6() {
			a = a.WithZone(strconv.FormatUint(uint64(index), 10))
		}
		return netip.AddrPortFrom(a, port)
	}
	return netip.AddrPort{}
}

func (e *endpoint) uncut() bool {
	until := e.uncutUntil.Load()
	return until != 0 && time.Now().UnixNano() < until
}

func (e *endpoint) leaveUncut() { e.uncutUntil.Store(time.Now().Add(cutAgain).UnixNano()) }

// pointer is the kernel's form of the address.
func (e *endpoint) pointer() *byte { return (*byte)(unsafe.Pointer(&e.name)) }

// ClearSrc does nothing: the local address is the kernel's choice.
func (e *endpoint) ClearSrc() {}

// SrcToString is empty.
func (e *endpoint) SrcToString() string { return "" }

// SrcIP is the zero Addr.
func (e *endpoint) SrcIP() netip.Addr { return netip.Addr{} }

// DstIP is the far address.
func (e *endpoint) DstIP() netip.Addr { return e.Addr() }

// DstToString is "ip:port".
func (e *endpoint) DstToString() string { return e.AddrPort.String() }

// DstToBytes is the binary form of address and port.
func (e *endpoint) DstToBytes() []byte {
	b, _ := e.MarshalBinary() // never fails
	return b
}
