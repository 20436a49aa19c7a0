package path

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"
)

// mirrorAt answers questions on loopback by what answer makes of each; it returns where.
func mirrorAt(t *testing.T, answer func(q []byte, from netip.AddrPort) []byte) netip.AddrPort {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			if out := answer(b[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port())); out != nil {
				_, _ = c.WriteToUDPAddrPort(out, from)
			}
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// success is a binding success response to q with XOR-MAPPED-ADDRESS (RFC 8489 section 14.2).
func success(q []byte, seen netip.AddrPort) []byte {
	b := binary.BigEndian.AppendUint16(nil, stunSuccess)
	b = binary.BigEndian.AppendUint16(b, 12)
	b = append(b, q[4:stunHeader]...)
	b = binary.BigEndian.AppendUint16(b, stunXORMapped)
	b = append(b, 0, 8, 0, 1)
	b = binary.BigEndian.AppendUint16(b, seen.Port()^uint16(stunCookie>>16))
	a := seen.Addr().As4()
	return binary.BigEndian.AppendUint32(b, binary.BigEndian.Uint32(a[:])^stunCookie)
}

// TestAskReflectors: who answers is believed, and nobody else: not who is silent at first, another question's answer, or a stranger's.
func TestAskReflectors(t *testing.T) {
	elsewhere := netip.MustParseAddrPort("198.51.100.9:9")
	good := mirrorAt(t, success)
	asked := 0
	late := mirrorAt(t, func(q []byte, from netip.AddrPort) []byte {
		if asked++; asked < 2 {
			return nil
		}
		return success(q, from)
	})
	false1 := mirrorAt(t, func(q []byte, _ netip.AddrPort) []byte {
		q = append([]byte(nil), q...)
		q[stunHeader-1]++
		return success(q, elsewhere)
	})
	silent := mirrorAt(t, func([]byte, netip.AddrPort) []byte { return nil })
	stranger, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	spoofed := mirrorAt(t, func(q []byte, from netip.AddrPort) []byte {
		_, _ = stranger.WriteToUDPAddrPort(success(q, elsewhere), from)
		return nil
	})
	socket, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	ours := socket.LocalAddr().(*net.UDPAddr).AddrPort()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	got := AskReflectors(ctx, socket, []netip.AddrPort{good, late, false1, silent, spoofed})
	for i, want := range []netip.AddrPort{ours, ours, {}, {}, {}} {
		if got[i].Seen != want || want.IsValid() != (got[i].Latency > 0) {
			t.Errorf("%d: %+v, want %v", i, got[i], want)
		}
	}
	if got := AskReflectors(t.Context(), socket, nil); len(got) != 0 {
		t.Errorf("%v", got)
	}
}
