package hosttun

import (
	"bytes"
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"
)

// cutAll cuts what the kernel handed over.
func cutAll(t rapid.TB, b []byte) [][]byte {
	t.Helper()
	w, err := open(b)
	if err != nil {
		t.Fatal(err)
	}
	out := make([][]byte, w.count())
	for i := range out {
		out[i] = make([]byte, 1<<16)
		out[i] = out[i][:w.cut(i, out[i])]
	}
	return out
}

func TestCutPacketsAreWhatTheProgramSent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := draw(t, 60000)
		if len(s.data) == 0 {
			t.Skip("nothing to cut")
		}
		s.flags = rapid.SampledFrom([]byte{tcpACK, tcpACK | tcpPSH, tcpACK | tcpFIN, tcpACK | tcpCWR}).Draw(t, "flags")
		segment := rapid.IntRange(500, 1448).Draw(t, "segment")
		var data []byte
		pkts := cutAll(t, kernel(s, segment))
		for i, pkt := range pkts {
			if f := fault(pkt); f != "" {
				t.Fatalf("packet %d of %d: %s", i, len(pkts), f)
			}
			want := s
			want.seq += uint32(i * segment)
			want.id += uint16(i)
			want.data = s.data[i*segment : min(len(s.data), (i+1)*segment)]
			if i > 0 {
				want.flags &^= tcpCWR
			}
			if i < len(pkts)-1 {
				want.flags &^= tcpFIN | tcpPSH
			}
			if !bytes.Equal(pkt, want.bytes()) {
				t.Fatalf("packet %d of %d:\n got %x\nwant %x", i, len(pkts), pkt[:60], want.bytes()[:60])
			}
			data = append(data, want.data...)
		}
		if !bytes.Equal(data, s.data) {
			t.Fatal("the data differs")
		}
	})
}

func TestUncutPacketGetsItsChecksum(t *testing.T) {
	for _, s := range []spec{{from: 1, to: 2, data: []byte("hello")}, {udp: true, from: 1, to: 2, data: []byte("hello")}, {v6: true, udp: true, from: 1, to: 2}} {
		b := kernel(s, 100)
		b[1] = gsoNone
		w, err := open(b)
		if err != nil || w.count() != 1 || !bytes.Equal(w.pkt, s.bytes()) {
			t.Errorf("%+v: %v, %x", s, err, w.pkt)
		}
	}
}

// Whoever may write raw packets also writes the kernel's header. Cutting by one that lies would change what was judged.
func TestLyingHeaderIsRefused(t *testing.T) {
	tcp := spec{from: 1, to: 2, flags: tcpACK, data: make([]byte, 3000)}
	withOptions := tcp.bytes()
	withOptions = append(withOptions[:20:20], append([]byte{1, 1, 1, 1}, withOptions[20:]...)...) // IP options: the transport is at 24
	withOptions[0] = 0x46
	binary.BigEndian.PutUint16(withOptions[2:], uint16(len(withOptions)))
	withOptions[10], withOptions[11] = 0, 0
	binary.BigEndian.PutUint16(withOptions[10:], ^slowSum(0, withOptions[:24]))
	lie := func(change func(*header), pkt []byte) []byte {
		h := header{flags: needsCsum, segment: 1000, csumStart: 20, csumOffset: 16, gso: gsoTCPv4}
		change(&h)
		return append(h.bytes(), pkt...)
	}
	none := func(*header) {}
	first := spec{from: 1, to: 2, flags: tcpACK, data: make([]byte, 3004)}.bytes() // fragments are of multiples of 8
	fragment(first)
	udp := spec{udp: true, from: 1, to: 2, data: make([]byte, 3000)}.bytes()
	if _, err := open(lie(none, tcp.bytes())); err != nil {
		t.Fatalf("the truth is refused: %v", err)
	}
	for name, b := range map[string][]byte{
		"the transport elsewhere":   lie(none, withOptions),
		"the sum begins later":      lie(func(h *header) { h.csumStart = 24 }, tcp.bytes()),
		"the sum begins earlier":    lie(func(h *header) { h.csumStart = 12 }, tcp.bytes()),
		"no length":                 lie(func(h *header) { h.segment = 0 }, tcp.bytes()),
		"UDP, they say":             lie(func(h *header) { h.gso = gsoUDP }, tcp.bytes()),
		"TCP, they say":             lie(none, udp),
		"IPv6, they say":            lie(func(h *header) { h.gso = gsoTCPv6 }, tcp.bytes()),
		"a kind of old":             lie(func(h *header) { h.gso = 3 }, tcp.bytes()),
		"with congestion marks":     lie(func(h *header) { h.gso |= 0x80 }, tcp.bytes()),
		"a fragment":                lie(none, first),
		"nothing to cut":            lie(none, spec{from: 1, to: 2, flags: tcpACK}.bytes()),
		"a sum outside":             lie(func(h *header) { h.gso, h.csumOffset = gsoNone, 60000 }, tcp.bytes()),
		"half a sum":                lie(func(h *header) { h.gso, h.csumOffset = gsoNone, 3019 }, tcp.bytes()),
		"a sum behind the last":     lie(func(h *header) { h.gso, h.csumStart = gsoNone, 65535 }, tcp.bytes()),
		"no packet":                 lie(none, nil),
		"half a header":             lie(none, nil)[:5],
		"half a packet":             lie(none, tcp.bytes()[:30]),
		"a longer packet than said": lie(none, append(tcp.bytes(), 0)),
	} {
		if w, err := open(b); err == nil {
			t.Errorf("%s: cut into %d packets", name, w.count())
		}
	}
}

func TestCutIntoTooShortBuffer(t *testing.T) {
	w, err := open(kernel(spec{from: 1, to: 2, flags: tcpACK, data: make([]byte, 3000)}, 1000))
	if err != nil {
		t.Fatal(err)
	}
	if n := w.give(0, make([]byte, 1039)); n != 0 {
		t.Errorf("cut %d bytes into 1039", n)
	}
	w, err = open(append(make([]byte, headerSize), spec{from: 1, to: 2, flags: tcpACK, data: make([]byte, 1000)}.bytes()...))
	if err != nil {
		t.Fatal(err)
	}
	if n := w.give(0, make([]byte, 1039)); n != 0 {
		t.Errorf("gave %d bytes of 1040", n)
	}
	if n := w.give(0, make([]byte, 1040)); n != 1040 {
		t.Errorf("gave %d bytes of 1040", n)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(kernel(spec{from: 1, to: 2, flags: tcpACK, data: make([]byte, 3000)}, 1000))
	f.Add(kernel(spec{v6: true, udp: true, from: 1, to: 2, data: make([]byte, 3000)}, 1000))
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := open(b)
		if err != nil {
			return
		}
		dst := make([]byte, 1<<16)
		for i := range min(w.count(), 200) {
			if n := w.segment; n == 0 {
				return
			}
			pkt := dst[:w.cut(i, dst)]
			if len(pkt) == 0 {
				t.Fatal("nothing cut")
			}
			if f := fault(pkt); f != "" {
				t.Fatalf("packet %d: %s", i, f)
			}
			l4 := headersOf(pkt)
			if whole := w.pkt; whole[0]>>4 == 4 && (!bytes.Equal(whole[12:20], pkt[12:20]) || !bytes.Equal(whole[l4:l4+4], pkt[l4:l4+4])) {
				t.Fatal("other ends than were judged")
			}
		}
	})
}
