//go:build linux

package lab

import (
	"fmt"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Disorder has the cable of a host on the lab's internet hold back each every-th frame, each way, for delay, so that later ones overtake it.
// Between the cable's end and the switch come two packet sockets (packet(7)) and a further pair of interfaces. Privileged worlds only.
func (h *Host) Disorder(every int, delay time.Duration) error {
	sw, n := h.world.sw, h.IP.To4()[3]
	end, near, far := fmt.Sprintf("p%d", n), fmt.Sprintf("q%d", n), fmt.Sprintf("r%d", n)
	if err := h.Do(func() error { return oneSegment("eth0") }); err != nil {
		return fmt.Errorf("cut the cable of %s: %w", h.Name, err)
	}
	var a, b *os.File
	err := sw.Do(func() error {
		if err := reroute(end, near, far); err != nil {
			return err
		}
		var err error
		if a, err = tap(end); err != nil {
			return err
		}
		if b, err = tap(near); err != nil {
			a.Close()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("cut the cable of %s: %w", h.Name, err)
	}
	done := make(chan struct{}, 2)
	for _, way := range [][2]*os.File{{a, b}, {b, a}} {
		go func() {
			carry(way[0], way[1], every, delay)
			done <- struct{}{}
		}()
	}
	h.world.cleanup.add(func() {
		a.Close()
		b.Close()
		<-done
		<-done
	})
	return nil
}

// oneSegment has the kernel cut what it sends before it is on the cable: a frame of 64 KB would take its own order along.
func oneSegment(link string) error {
	dev, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	return netlink.LinkSetGSOMaxSegs(dev, 1)
}

// reroute takes the cable's end out of the bridge and puts far in, whose other end is near.
func reroute(end, near, far string) error {
	dev, err := netlink.LinkByName(end)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetNoMaster(dev); err != nil {
		return err
	}
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: far}, PeerName: near}
	if err := netlink.LinkAdd(pair); err != nil {
		return err
	}
	br, err := netlink.LinkByName("br0")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetMaster(pair, br); err != nil {
		return err
	}
	for _, name := range []string{end, near} { // they carry for others, and have nothing to say themselves
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0o644); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	for _, name := range []string{near, far} {
		dev, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(dev); err != nil {
			return err
		}
	}
	return oneSegment(far)
}

// tap opens a packet socket on an interface of this thread's namespace. Each frame has a virtio_net_hdr before it, which says what the sender left
// to do (the checksum), and which is written again with it.
func tap(link string) (*os.File, error) {
	dev, err := netlink.LinkByName(link)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	for _, option := range []int{unix.PACKET_VNET_HDR, unix.PACKET_IGNORE_OUTGOING} {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, option, 1); err != nil {
			unix.Close(fd)
			return nil, err
		}
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) // else what comes fast is lost
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: dev.Attrs().Index, Protocol: bigEndian(unix.ETH_P_ALL)}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), link), nil
}

// carry takes frames from one end to the other until one is closed.
func carry(from, to *os.File, every int, delay time.Duration) {
	buf := make([]byte, 1<<16+64)
	for i := 1; ; i++ {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if i%every != 0 {
			_, _ = to.Write(buf[:n]) // a full queue drops, as cables do
			continue
		}
		held := append([]byte(nil), buf[:n]...)
		time.AfterFunc(delay, func() { _, _ = to.Write(held) })
	}
}
