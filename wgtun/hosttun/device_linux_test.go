package hosttun

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// inNamespace runs f on a thread with a network of its own, which dies with it.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for a network namespace and a TUN device")
	}
	var group sync.WaitGroup
	group.Go(func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Skipf("no network namespace: %v", err)
		}
		f()
	})
	group.Wait()
}

// upDevice opens a TUN device with 10.9.0.1 on it; everything else in 10.9.0.0/24 lies behind it.
func upDevice(t *testing.T) *Device {
	t.Helper()
	opened, err := Open("t0", 1280)
	if err != nil {
		t.Skipf("no TUN device: %v", err)
	}
	d, ok := opened.(*Device)
	if !ok {
		opened.Close()
		t.Skip("this kernel has no segmentation offload for TUN devices")
	}
	go func() {
		for range d.Events() { // or its goroutines would wait for a reader
		}
	}()
	for _, args := range []string{"addr add 10.9.0.1/24 dev t0", "link set t0 up", "link set lo up"} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	return d
}

const room = 16

func buffers() (bufs [][]byte, sizes []int) {
	for range conn.IdealBatchSize {
		bufs = append(bufs, make([]byte, room+1<<16))
	}
	return bufs, make([]int, len(bufs))
}

// udpTo opens a socket that sends from the device's address.
func udpTo(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.9.0.1:7000")), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.9.0.2:7000")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// cutBySocket has the kernel cut what is sent into datagrams of n bytes.
func cutBySocket(t *testing.T, c *net.UDPConn, n int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, n) }); cerr != nil || err != nil {
		t.Skipf("this kernel cuts no datagrams: %v", errors.Join(cerr, err))
	}
}

// readUDP reads until so many packets to 10.9.0.2 passed, and returns them; others, such as IPv6's neighbour talk, do not pass.
func readUDP(t *testing.T, d *Device, n int, shown func(pkt []byte, count int)) (pkts [][]byte) {
	t.Helper()
	bufs, sizes := buffers()
	for len(pkts) < n {
		m, err := d.ReadJudged(bufs, sizes, room, func(pkt []byte, count, longest int) bool {
			if longest > 1280 {
				t.Errorf("a packet of %d bytes", longest)
			}
			if pkt[0]>>4 != 4 || pkt[9] != 17 || !bytes.Equal(pkt[16:20], []byte{10, 9, 0, 2}) {
				return false
			}
			shown(pkt, count)
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		for i := range m {
			pkts = append(pkts, bytes.Clone(bufs[i][room:room+sizes[i]]))
		}
	}
	return pkts
}

func TestOneVerdictForAllThatTheKernelHandsOver(t *testing.T) {
	inNamespace(t, func() {
		d := upDevice(t)
		defer d.Close()
		c := udpTo(t)
		cutBySocket(t, c, 1000)
		data := bytes.Repeat([]byte("0123456789"), 2050)
		for range 3 {
			if _, err := c.Write(data); err != nil {
				t.Fatal(err)
			}
		}
		judged, whole := 0, 0
		pkts := readUDP(t, d, 63, func(pkt []byte, count int) {
			judged++
			whole += len(pkt) - 28
			if d.udp && count != 21 {
				t.Errorf("shown as %d packets", count)
			}
		})
		if len(pkts) != 63 || whole != 3*len(data) {
			t.Fatalf("%d packets, %d bytes judged", len(pkts), whole)
		}
		if d.udp && judged != 3 {
			t.Errorf("%d verdicts for 3 writes", judged)
		}
		var got []byte
		for i, p := range pkts {
			if f := fault(p); f != "" {
				t.Fatalf("packet %d: %s", i, f)
			}
			got = append(got, p[28:]...)
		}
		if !bytes.Equal(got, slices.Repeat(data, 3)) {
			t.Error("other data than was sent")
		}
	})
}

// What does not fit the batch is judged in the next Read only, whole: nothing that passed waits.
func TestNothingJudgedWaits(t *testing.T) {
	inNamespace(t, func() {
		d := upDevice(t)
		defer d.Close()
		if !d.udp {
			t.Skip("this kernel hands over no UDP runs")
		}
		c := udpTo(t)
		cutBySocket(t, c, 1000)
		for range 3 {
			if _, err := c.Write(make([]byte, 50_000)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(20 * time.Millisecond)
		bufs, sizes := buffers()
		judged := 0
		for total := 0; total < 150; {
			n, err := d.ReadJudged(bufs, sizes, room, func(pkt []byte, count, longest int) bool {
				if longest > 1280 {
					t.Errorf("a packet of %d bytes", longest)
				}
				if pkt[0]>>4 != 4 {
					return false
				}
				judged += count
				return true
			})
			if err != nil {
				t.Fatal(err)
			}
			total += n
			if judged != total {
				t.Fatalf("%d packets have passed, %d were returned", judged, total)
			}
		}
	})
}

func TestRefusedPacketsDoNotHoldReadBack(t *testing.T) {
	inNamespace(t, func() {
		d := upDevice(t)
		defer d.Close()
		if _, err := udpTo(t).Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		bufs, sizes := buffers()
		n, err := d.ReadJudged(bufs, sizes, room, func([]byte, int, int) bool { return false })
		if n != 0 || err != nil {
			t.Errorf("read %d packets, %v", n, err)
		}
	})
}

// queue is a Device whose TUN holds so many small packets, each a datagram to port 1, 2 and so on.
func queue(t *testing.T, n int) *Device {
	t.Helper()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	in, out := os.NewFile(uintptr(ends[0]), "in"), os.NewFile(uintptr(ends[1]), "out")
	t.Cleanup(func() { in.Close(); out.Close() })
	d := &Device{stage: make([]byte, maxRead)}
	if d.raw, err = out.SyscallConn(); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		pkt := spec{udp: true, from: 1, to: uint16(i + 1)}.bytes()
		if _, err := unix.Write(ends[0], append(make([]byte, headerSize), pkt...)); err != nil {
			t.Fatalf("packet %d: %v", i, err)
		}
	}
	return d
}

// A program that sends refused packets faster than they are read would hold back what has passed, and with it Apply, which waits for that.
func TestReadEndsThoughRefusedPacketsGoOn(t *testing.T) {
	const all = conn.IdealBatchSize + 50
	d := queue(t, all)
	bufs, sizes := buffers()
	judged := 0
	for i, want := range []struct{ n, judged int }{{1, conn.IdealBatchSize}, {0, all}} {
		n, err := d.ReadJudged(bufs, sizes, room, func(pkt []byte, _, _ int) bool {
			judged++
			return pkt[23] == 1
		})
		if n != want.n || judged != want.judged || err != nil {
			t.Fatalf("read %d: %d packets, %d judged so far, %v; want %v", i, n, judged, err, want)
		}
	}
}

func TestHostTakesJoinedPackets(t *testing.T) {
	inNamespace(t, func() {
		d := upDevice(t)
		defer d.Close()
		c := udpTo(t)
		want := 40
		var bufs [][]byte
		for i := range want {
			b := answerPacket(i, 1000)
			bufs = append(bufs, append(make([]byte, room, 1<<16), b...))
		}
		n, err := d.Write(bufs, room)
		if n != want || err != nil {
			t.Fatalf("wrote %d: %v", n, err)
		}
		got := make([]byte, 2000)
		for i := range want {
			m, err := c.Read(got)
			if err != nil {
				t.Fatalf("after %d datagrams: %v", i, err)
			}
			if m != 1000 || got[0] != byte(i) || got[999] != byte(i) {
				t.Fatalf("datagram %d: %d bytes of %d", i, m, got[0])
			}
		}
	})
}

// answerPacket is a datagram from 10.9.0.2 to the socket of udpTo.
func answerPacket(i, size int) []byte {
	b := spec{udp: true, from: 7000, to: 7000, ttl: 64, data: bytes.Repeat([]byte{byte(i)}, size)}.bytes()
	copy(b[12:], []byte{10, 9, 0, 2, 10, 9, 0, 1})
	b[10], b[11], b[26], b[27] = 0, 0, 0, 0
	sum := ^slowSum(0, b[:20])
	b[10], b[11] = byte(sum>>8), byte(sum)
	sum = ^slowSum(slowPseudo(b, 17, len(b)-20), b[20:])
	b[26], b[27] = byte(sum>>8), byte(sum)
	return b
}

// A TCP connection through two devices and what joins and cuts in between arrives as it was sent.
func TestTCPThroughTwoDevices(t *testing.T) {
	inNamespace(t, func() {
		d := upDevice(t)
		defer d.Close()
		// The far end answers through the same device: an echo by exchange of addresses, so that the host talks to itself.
		go swapped(d)
		l, err := net.Listen("tcp4", "10.9.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		data := make([]byte, 8<<20)
		for i := range data {
			data[i] = byte(i * 7 / 5)
		}
		failed := make(chan error, 1)
		go func() { failed <- serve(l, data) }()
		c, err := net.DialTimeout("tcp4", "10.9.0.2:80", 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		got := make([]byte, 0, len(data))
		for buf := make([]byte, 1<<16); len(got) < len(data); {
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			n, err := c.Read(buf)
			if err != nil {
				t.Fatalf("after %d bytes: %v", len(got), err)
			}
			got = append(got, buf[:n]...)
		}
		if err := <-failed; err != nil || !bytes.Equal(got, data) {
			t.Errorf("other data than was sent, %v", err)
		}
	})
}

func serve(l net.Listener, data []byte) error {
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(data); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// swapped gives each packet back with its addresses exchanged, until the device closes. The checksums stay right.
func swapped(d *Device) {
	bufs, sizes := buffers()
	for {
		n, err := d.Read(bufs, sizes, room)
		if err != nil {
			return
		}
		var out [][]byte
		for i := range n {
			b := bufs[i][:room+sizes[i]]
			if pkt := b[room:]; pkt[0]>>4 == 4 {
				var src [4]byte
				copy(src[:], pkt[12:16])
				copy(pkt[12:16], pkt[16:20])
				copy(pkt[16:20], src[:])
				out = append(out, b)
			}
		}
		if _, err := d.Write(out, room); err != nil {
			return
		}
	}
}

func TestClosedDevice(t *testing.T) {
	inNamespace(t, func() {
		d := upDevice(t)
		bufs, sizes := buffers()
		failed := make(chan error)
		go func() {
			for {
				if _, err := d.Read(bufs, sizes, room); err != nil {
					failed <- err
					return
				}
			}
		}()
		time.Sleep(20 * time.Millisecond)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-failed; !errors.Is(err, os.ErrClosed) {
			t.Errorf("read: %v", err)
		}
		if _, err := d.Write([][]byte{append(make([]byte, room), answerPacket(0, 10)...)}, room); !errors.Is(err, os.ErrClosed) {
			t.Errorf("write: %v", err)
		}
	})
}

// Somebody deletes the interface.
func TestDeletedDevice(t *testing.T) {
	inNamespace(t, func() {
		d := upDevice(t)
		defer d.Close()
		if out, err := exec.Command("ip", "link", "del", "t0").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		bufs, sizes := buffers()
		for {
			if _, err := d.Read(bufs, sizes, room); err != nil {
				if !errors.Is(err, os.ErrClosed) {
					t.Errorf("read: %v", err)
				}
				return
			}
		}
	})
}
