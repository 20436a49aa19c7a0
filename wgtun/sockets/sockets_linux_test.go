package sockets

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"pgregory.net/rapid"
)

// opened is a Bind with its receive function of one family.
type opened struct {
	*Bind
	receive conn.ReceiveFunc
	at      netip.AddrPort
}

func openAt(t testing.TB, ip string) opened {
	t.Helper()
	b := New().(*Bind)
	fns, port, err := b.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	a := netip.MustParseAddr(ip)
	i := 0
	if a.Is6() {
		if len(fns) < 2 {
			t.Skip("this host has no IPv6")
		}
		i = 1
	}
	return opened{b, fns[i], netip.AddrPortFrom(a, port)}
}

// take receives until n datagrams are there.
func (o opened) take(t testing.TB, n int) (out [][]byte, from []netip.AddrPort) {
	t.Helper()
	bufs, sizes, eps := make([][]byte, o.BatchSize()), make([]int, o.BatchSize()), make([]conn.Endpoint, o.BatchSize())
	for i := range bufs {
		bufs[i] = make([]byte, 1<<16)
	}
	late := time.AfterFunc(10*time.Second, func() { _ = o.Close() })
	defer late.Stop()
	for len(out) < n {
		m, err := o.receive(bufs, sizes, eps)
		if err != nil {
			t.Fatalf("after %d of %d datagrams: %v", len(out), n, err)
		}
		for i := range m {
			out = append(out, bytes.Clone(bufs[i][:sizes[i]]))
			from = append(from, eps[i].(*endpoint).AddrPort)
		}
	}
	return out, from
}

func (o opened) endpoint(t testing.TB) conn.Endpoint {
	t.Helper()
	e, err := o.ParseEndpoint(o.at.String())
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// numbered makes datagrams of given lengths, no two alike.
func numbered(sizes []int) [][]byte {
	out := make([][]byte, len(sizes))
	for i, size := range sizes {
		out[i] = bytes.Repeat([]byte{byte(i + 1)}, size)
	}
	return out
}

func TestDatagramsArriveWholeAndInOrder(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "::1"} {
		t.Run(ip, func(t *testing.T) {
			a, b := openAt(t, ip), openAt(t, ip)
			rapid.Check(t, func(rt *rapid.T) {
				size := rapid.SampledFrom([]int{1, 32, 200, 1312, 1452, 8900, 65507})
				sizes := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) []int {
					return slices.Repeat([]int{size.Draw(rt, "size")}, rapid.IntRange(1, 70).Draw(rt, "times"))
				}), 1, 4).Draw(rt, "runs")
				sent := numbered(slices.Concat(sizes...))
				sent = sent[:min(len(sent), conn.IdealBatchSize)]
				for whole := 0; len(sent) > 1 && whole > 4<<20; { // the receiver's buffer
					sent = sent[1:]
				}
				if err := a.Send(sent, b.endpoint(t)); err != nil {
					rt.Fatal(err)
				}
				got, from := b.take(t, len(sent))
				if !slices.EqualFunc(got, sent, bytes.Equal) {
					rt.Fatalf("%d datagrams sent, others received: %d", len(sent), len(got))
				}
				for _, f := range from {
					if f != a.at {
						rt.Fatalf("from %v, not %v", f, a.at)
					}
				}
			})
		})
	}
}

// Of several datagrams of one length one message is made, which is what the speed comes from.
func TestAlikeDatagramsMakeOneMessage(t *testing.T) {
	x := newSender()
	to := newEndpoint(netip.MustParseAddrPort("192.0.2.1:9"))
	for _, c := range []struct{ sizes, vectors []int }{
		{[]int{100}, []int{1}},
		{[]int{100, 100, 100}, []int{3}},
		{[]int{100, 100, 40, 40}, []int{3, 1}},
		{[]int{40, 100}, []int{1, 1}},
		{slices.Repeat([]int{100}, 65), []int{64, 1}},
		{slices.Repeat([]int{30000}, 3), []int{2, 1}},
	} {
		x.prepare(numbered(c.sizes), to, true)
		var got []int
		for _, m := range x.messages {
			got = append(got, int(m.Iovlen))
		}
		if !slices.Equal(got, c.vectors) {
			t.Errorf("%d datagrams from %v: messages of %v datagrams, want %v", len(c.sizes), c.sizes[0], got, c.vectors)
		}
		x.reset()
	}
}

// What the kernel joined may be more than there is room left for: then it waits for the next receive.
func TestJoinedDatagramsAreNotLost(t *testing.T) {
	a, b := openAt(t, "127.0.0.1"), openAt(t, "127.0.0.1")
	sent := numbered(slices.Repeat([]int{100}, 100))
	for range 3 {
		if err := a.Send(sent, b.endpoint(t)); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := b.take(t, 300); !slices.EqualFunc(got, slices.Repeat(sent, 3), bytes.Equal) {
		t.Errorf("other datagrams received than sent: %d", len(got))
	}
}

// onShortPath runs f on a thread with a network of its own, which dies with it; its paths take 1280 bytes.
func onShortPath(t *testing.T, f func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for a network namespace")
	}
	var group sync.WaitGroup
	group.Go(func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Skipf("no network namespace: %v", err)
		}
		if out, err := exec.Command("ip", "link", "set", "lo", "up", "mtu", "1280").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
			return
		}
		f()
	})
	group.Wait()
}

// What finds out a path's length must not be cut, and what goes out afterwards may be again.
func TestSendUnfragmented(t *testing.T) {
	onShortPath(t, func() {
		for _, ip := range []string{"127.0.0.1", "::1"} {
			a, b := openAt(t, ip), openAt(t, ip)
			if err := a.SendUnfragmented(make([]byte, 1400), b.endpoint(t)); !errors.Is(err, unix.EMSGSIZE) {
				t.Errorf("%s: 1400 bytes uncut on a path of 1280: %v", ip, err)
			}
			sent := numbered([]int{1200, 1400})
			if err := a.SendUnfragmented(sent[0], b.endpoint(t)); err != nil {
				t.Errorf("%s: %v", ip, err)
				continue
			}
			if err := a.Send(sent[1:], b.endpoint(t)); err != nil {
				t.Errorf("%s: %v", ip, err)
				continue
			}
			if got, _ := b.take(t, 2); !slices.EqualFunc(got, sent, bytes.Equal) {
				t.Errorf("%s: other datagrams received than sent", ip)
			}
		}
	})
}

// A path with a small MTU takes no datagrams that the kernel would have to cut: they go out one by one, in fragments if they must.
func TestTooLongToCut(t *testing.T) {
	onShortPath(t, func() {
		a, b := openAt(t, "127.0.0.1"), openAt(t, "127.0.0.1")
		ep := b.endpoint(t).(*endpoint)
		for range 2 {
			sent := numbered(append([]int{1000, 1000}, slices.Repeat([]int{1400}, 20)...)) // the first two go out cut
			if err := a.Send(sent, ep); err != nil {
				t.Errorf("send: %v", err)
				return
			}
			if got, _ := b.take(t, len(sent)); !slices.EqualFunc(got, sent, bytes.Equal) {
				t.Error("other datagrams received than sent")
			}
			if !ep.uncut() {
				t.Error("the next batch will be tried the same way")
			}
		}
	})
}

// Or one forged word of a path's MTU would cost speed until the peer moves.
func TestCuttingIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(netip.MustParseAddrPort("192.0.2.1:9"))
		if e.uncut() {
			t.Error("not tried at first")
		}
		e.leaveUncut()
		time.Sleep(cutAgain - time.Second)
		if !e.uncut() {
			t.Error("tried too early")
		}
		time.Sleep(time.Second)
		if e.uncut() {
			t.Error("never tried again")
		}
	})
}

func TestClosedBind(t *testing.T) {
	o := openAt(t, "127.0.0.1")
	got := make(chan error)
	go func() {
		_, err := o.receive([][]byte{make([]byte, 100)}, make([]int, 1), make([]conn.Endpoint, 1))
		got <- err
	}()
	time.Sleep(10 * time.Millisecond)
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; !errors.Is(err, net.ErrClosed) {
		t.Errorf("receive: %v", err)
	}
	if err := o.Send(numbered([]int{1}), o.endpoint(t)); err == nil {
		t.Error("sent on a closed bind")
	}
	if _, _, err := o.Open(o.at.Port()); err != nil {
		t.Errorf("open again: %v", err)
	}
	if _, _, err := o.Open(o.at.Port()); !errors.Is(err, conn.ErrBindAlreadyOpen) {
		t.Errorf("open twice: %v", err)
	}
}

func TestPortInUse(t *testing.T) {
	o := openAt(t, "127.0.0.1")
	if _, _, err := New().Open(o.at.Port()); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a second bind on one port: %v", err)
	}
}

func TestEndpointsAreTheirAddresses(t *testing.T) {
	b := New()
	for text, want := range map[string]string{
		"192.0.2.7:51820":          "192.0.2.7:51820",
		"[::ffff:192.0.2.7]:51820": "192.0.2.7:51820",
		"[2001:db8::7]:1":          "[2001:db8::7]:1",
		"[fe80::1%3]:65535":        "[fe80::1%3]:65535",
	} {
		e, err := b.ParseEndpoint(text)
		if err != nil {
			t.Fatal(err)
		}
		if e.DstToString() != want {
			t.Errorf("%s reads as %s", text, e.DstToString())
		}
		if got := readName(e.(*endpoint).name[:]); got.String() != want {
			t.Errorf("%s is for the kernel %s", text, got)
		}
	}
	if _, err := b.ParseEndpoint("nonsense"); err == nil {
		t.Error("nonsense is an endpoint")
	}
}

func BenchmarkSend(b *testing.B) {
	for _, size := range []int{200, 1312} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			from, to := openAt(b, "127.0.0.1"), openAt(b, "127.0.0.1")
			ep, bufs := to.endpoint(b), numbered(slices.Repeat([]int{size}, conn.IdealBatchSize))
			b.ReportAllocs()
			for b.Loop() {
				if err := from.Send(bufs, ep); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What is empty counts as received: otherwise whoever sends nothing but that would hold back what else has come, as long as he goes on.
func TestEmptyDatagramsEndAReceiveToo(t *testing.T) {
	a, b := openAt(t, "127.0.0.1"), openAt(t, "127.0.0.1")
	stranger, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(b.at))
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	const empty = 300
	for i := range empty {
		if i == 0 {
			if err := a.Send([][]byte{{7}}, b.endpoint(t)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := stranger.Write(nil); err != nil {
			t.Fatal(err)
		}
	}
	got, _ := b.take(t, 1)
	if !bytes.Equal(got[0], []byte{7}) || len(got) >= empty {
		t.Errorf("%d datagrams in the first receive, the first of them %x", len(got), got[0])
	}
	rest, from := b.take(t, empty+1-len(got))
	if len(got)+len(rest) != empty+1 || from[0] != stranger.LocalAddr().(*net.UDPAddr).AddrPort() {
		t.Errorf("%d datagrams in all, from %v", len(got)+len(rest), from[0])
	}
}

// struct mmsghdr is read by the kernel one behind the other.
func TestMessagesLieAsTheKernelReadsThem(t *testing.T) {
	const word = unsafe.Sizeof(uintptr(0))
	if got, want := unsafe.Sizeof(message{}), (unsafe.Sizeof(unix.Msghdr{})+4+word-1)&^(word-1); got != want {
		t.Errorf("a message of %d bytes, the kernel's has %d", got, want)
	}
}

func TestLengthOfJoinedDatagrams(t *testing.T) {
	control := make([]byte, unix.CmsgSpace(4))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_GRO
	h.SetLen(unix.CmsgLen(4))
	binary.NativeEndian.PutUint32(control[unix.CmsgLen(0):], 1312)
	if got := joined(control); got != 1312 {
		t.Errorf("%d", got)
	}
}
