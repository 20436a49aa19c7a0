package hosttun

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"picket.internal/wgtun/packet"
)

// handed is what a merger would have written, each run's packets one after the other behind the kernel's header.
func handed(m *merger) (out [][]byte) {
	for i := range m.runs {
		h := m.runs[i].finish()
		out = append(out, slices.Concat(append([][]byte{h.bytes()}, m.runs[i].pkts...)...))
	}
	return out
}

// kernelSees cuts runs as the kernel would, by code that is tested by itself.
func kernelSees(t rapid.TB, writes [][]byte) (out [][]byte) {
	for _, w := range writes {
		if w[1] == gsoNone {
			out = append(out, w[headerSize:])
			continue
		}
		out = append(out, cutAll(t, w)...)
	}
	return out
}

// flowOf is a packet's ends, and plain what is left of it when its IPv4 identification is taken out, which runs number anew.
func flowOf(pkt []byte) string {
	l4 := headersOf(pkt)
	return string(pkt[:1]) + string(pkt[l4:l4+4]) + string(pkt[9]) + string(pkt[6])
}

func plain(pkt []byte) string {
	pkt = bytes.Clone(pkt)
	if pkt[0]>>4 == 4 {
		pkt[4], pkt[5], pkt[10], pkt[11] = 0, 0, 0, 0
	}
	return string(pkt)
}

func byFlow(pkts [][]byte) map[string][]string {
	out := map[string][]string{}
	for _, p := range pkts {
		out[flowOf(p)] = append(out[flowOf(p)], plain(p))
	}
	return out
}

// stream draws packets of which many continue each other, and some hardly do.
func stream(t *rapid.T) (pkts [][]byte) {
	next := map[[3]uint16]uint32{}
	for range rapid.IntRange(1, 128).Draw(t, "packets") {
		s := draw(t, 40)
		if rapid.IntRange(0, 9).Draw(t, "full") > 0 {
			s.data = bytes.Repeat([]byte{byte(len(pkts))}, 100)
		}
		k := [3]uint16{s.from}
		if s.v6 {
			k[1] = 1
		}
		if s.udp {
			k[2] = 1
		}
		if seq, known := next[k]; known && rapid.IntRange(0, 9).Draw(t, "continues") > 0 {
			s.seq = seq
		}
		next[k] = s.seq + uint32(len(s.data))
		if rapid.IntRange(0, 9).Draw(t, "odd") == 0 {
			s.flags |= rapid.SampledFrom([]byte{tcpPSH, tcpFIN, tcpPSH, 2, 4, 0x40}).Draw(t, "flag")
		}
		if rapid.IntRange(0, 19).Draw(t, "acknowledges") == 0 {
			s.ack++
		}
		b := s.bytes()
		if rapid.IntRange(0, 29).Draw(t, "damaged") == 0 {
			b[len(b)-1] ^= 1 // the checksum tells, if there is data; if not, the kernel sees it as it came
		}
		pkts = append(pkts, b)
	}
	return pkts
}

func TestJoinedPacketsAreStillThose(t *testing.T) {
	joined := 0
	rapid.Check(t, func(t *rapid.T) {
		pkts := stream(t)
		want := byFlow(pkts)
		m := merger{udp: rapid.Bool().Draw(t, "udp")}
		for _, p := range pkts {
			m.add(bytes.Clone(p))
		}
		joined += len(pkts) - len(m.runs)
		got := byFlow(kernelSees(t, handed(&m)))
		if len(got) != len(want) {
			t.Fatalf("%d flows of %d", len(got), len(want))
		}
		for f, w := range want {
			if !slices.Equal(got[f], w) {
				t.Fatalf("flow %x: %d packets became %d, or others", f, len(w), len(got[f]))
			}
		}
	})
	if joined == 0 {
		t.Error("nothing was ever joined")
	}
}

// segments makes the packets of one TCP flow that continue each other.
func segments(n, size int, v6 bool) (pkts [][]byte) {
	for i := range n {
		s := spec{v6: v6, from: 1, to: 2, seq: uint32(i * size), ack: 9, flags: tcpACK, ttl: 64, data: bytes.Repeat([]byte{byte(i)}, size)}
		pkts = append(pkts, s.bytes())
	}
	return pkts
}

// fragment makes a packet the first of two fragments.
func fragment(pkt []byte) { flagged(pkt, 0x20, 0) }

// flagged gives an IPv4 packet other fragment bits.
func flagged(pkt []byte, high, low byte) {
	pkt[6], pkt[7] = high, low
	pkt[10], pkt[11] = 0, 0
	binary.BigEndian.PutUint16(pkt[10:], ^slowSum(0, pkt[:20]))
}

// disguised makes datagrams with an IPv4 option that, read as a transport header, would be right too.
func disguised(n int) (pkts [][]byte) {
	for range n {
		b := spec{udp: true, from: 112, to: 7, data: make([]byte, 100)}.bytes()
		b = slices.Insert(b, 20, 0, 0, 0xff, 0xfb)
		b[0] = 0x46
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], ^slowSum(0, b[:24]))
		pkts = append(pkts, b)
	}
	return pkts
}

func TestWhatIsJoined(t *testing.T) {
	datagrams := func(sizes ...int) (pkts [][]byte) {
		for i, n := range sizes {
			pkts = append(pkts, spec{udp: true, from: 1, to: 2, data: bytes.Repeat([]byte{byte(i)}, n)}.bytes())
		}
		return pkts
	}
	changed := func(at int, change func(pkt []byte)) [][]byte {
		pkts := segments(4, 100, false)
		change(pkts[at])
		pkts[at][10], pkts[at][11] = 0, 0
		binary.BigEndian.PutUint16(pkts[at][10:], ^slowSum(0, pkts[at][:20]))
		pkts[at][36], pkts[at][37] = 0, 0
		binary.BigEndian.PutUint16(pkts[at][36:], ^slowSum(slowPseudo(pkts[at], 6, len(pkts[at])-20), pkts[at][20:]))
		return pkts
	}
	for name, c := range map[string]struct {
		pkts [][]byte
		runs []int
	}{
		"a flow":                  {segments(10, 1000, false), []int{10}},
		"a flow of IPv6":          {segments(10, 1000, true), []int{10}},
		"more than 64":            {segments(70, 100, false), []int{64, 6}},
		"more than 64 KiB":        {segments(60, 1200, false), []int{54, 6}},
		"a gap":                   {slices.Delete(segments(5, 100, false), 2, 3), []int{2, 2}},
		"twice the same":          {slices.Insert(segments(3, 100, false), 1, segments(1, 100, false)[0]), []int{1, 3}},
		"datagrams":               {datagrams(100, 100, 100), []int{3}},
		"a shorter one ends it":   {datagrams(100, 50, 50), []int{2, 1}},
		"a longer one begins one": {datagrams(50, 100, 100), []int{1, 2}},
		"pushed in the middle":    {changed(1, func(p []byte) { p[33] |= tcpPSH }), []int{2, 2}},
		"pushed at once":          {changed(0, func(p []byte) { p[33] |= tcpPSH }), []int{1, 3}},
		"the end":                 {changed(3, func(p []byte) { p[33] |= tcpFIN }), []int{3, 1}},
		"other urgent pointer":    {changed(2, func(p []byte) { p[39] = 1 }), []int{2, 1, 1}},
		"urgent":                  {changed(1, func(p []byte) { p[33] |= 0x20 }), []int{1, 1, 2}},
		"other window":            {changed(2, func(p []byte) { p[34] ^= 1 }), []int{2, 1, 1}},
		"other acknowledgment":    {changed(2, func(p []byte) { p[31] ^= 1 }), []int{2, 1, 1}},
		"fragments": {func() [][]byte {
			p := datagrams(100, 100)
			for _, pkt := range p {
				fragment(pkt)
			}
			return p
		}(), []int{1, 1}},
		"later fragments": {func() [][]byte {
			p := datagrams(100, 100)
			for _, pkt := range p {
				flagged(pkt, 0, 8)
			}
			return p
		}(), []int{1, 1}},
		"other permission to fragment": {func() [][]byte { p := segments(3, 100, false); flagged(p[1], 0, 0); return p }(), []int{1, 1, 1}},
		"IP options":                   {disguised(3), []int{1, 1, 1}},
		"other class of IPv6":          {func() [][]byte { p := segments(3, 100, true); p[1][0] = 0x62; return p }(), []int{1, 1, 1}},
		"other TCP options": {[][]byte{
			spec{from: 1, to: 2, flags: tcpACK, options: []byte{1, 1, 1, 1}, data: []byte("ab")}.bytes(),
			spec{from: 1, to: 2, flags: tcpACK, options: []byte{1, 1, 1, 0}, data: []byte("cd"), seq: 2}.bytes(),
		}, []int{1, 1}},
		"a length of UDP's own": {func() [][]byte {
			p := datagrams(100, 100)
			for _, pkt := range p {
				pkt[25] -= 4
				pkt[26], pkt[27] = 0, 0
				binary.BigEndian.PutUint16(pkt[26:], ^slowSum(slowPseudo(pkt, 17, len(pkt)-20), pkt[20:]))
			}
			return p
		}(), []int{1, 1}},
		"TCP headers shorter than any": {[][]byte{
			changed(0, func(p []byte) { p[32] = 0x40 })[0],
			changed(0, func(p []byte) { p[32] = 0x40; p[27] = 104 })[0],
		}, []int{1, 1}},
		"half TCP headers":       {[][]byte{segments(1, 0, false)[0][:30], segments(1, 0, false)[0][:30]}, []int{1, 1}},
		"a fragment between":     {func() [][]byte { p := datagrams(100, 100, 100); fragment(p[1]); return p }(), []int{1, 1, 1}},
		"congestion experienced": {changed(2, func(p []byte) { p[1] = 3 }), []int{2, 1, 1}},
		"other hops":             {changed(2, func(p []byte) { p[8]-- }), []int{2, 1, 1}},
		"damaged":                {func() [][]byte { p := segments(3, 100, false); p[1][50] ^= 1; return p }(), []int{1, 1, 1}},
		"damaged at first":       {func() [][]byte { p := segments(3, 100, false); p[0][50] ^= 1; return p }(), []int{1, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			m := merger{udp: true}
			for _, p := range c.pkts {
				m.add(p)
			}
			var runs []int
			for i := range m.runs {
				runs = append(runs, len(m.runs[i].pkts))
			}
			if !slices.Equal(runs, c.runs) {
				t.Errorf("runs of %v packets, want %v", runs, c.runs)
			}
			m.reset()
			for _, p := range segments(3, 100, false) {
				m.add(p)
			}
			if len(m.runs) != 1 {
				t.Errorf("of the next batch %d runs", len(m.runs))
			}
		})
	}
}

func TestDatagramsAreNotJoinedWhereTheKernelCannotCutThem(t *testing.T) {
	m := merger{}
	for i := range 3 {
		m.add(answerPacket(i, 100))
	}
	if len(m.runs) != 3 {
		t.Errorf("%d runs", len(m.runs))
	}
}

// FuzzMerge reads packets, each behind two bytes of length. What the filter would pass must reach the host as it came, in order within its flow.
func FuzzMerge(f *testing.F) {
	seed := func(pkts ...[]byte) {
		var b []byte
		for _, p := range pkts {
			b = append(binary.BigEndian.AppendUint16(b, uint16(len(p))), p...)
		}
		f.Add(b)
	}
	seed(segments(4, 20, false)...)
	seed(segments(4, 20, true)...)
	seed(disguised(2)...)
	seed(answerPacket(1, 20), answerPacket(2, 20), answerPacket(3, 5), answerPacket(4, 20))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := merger{udp: true}
		var in [][]byte
		for len(b) > 2 && len(in) < 128 {
			n := min(int(binary.BigEndian.Uint16(b)), len(b)-2)
			pkt := b[2 : 2+n]
			b = b[2+n:]
			var v packet.View
			if v.Parse(pkt) != packet.FaultNone {
				continue
			}
			in = append(in, pkt)
			m.add(bytes.Clone(pkt))
		}
		got, want := byEnds(t, kernelSees(t, handed(&m))), byEnds(t, in)
		if len(got) != len(want) {
			t.Fatalf("%d flows of %d", len(got), len(want))
		}
		for ends, w := range want {
			if !slices.Equal(got[ends], w) {
				t.Fatalf("%v:\n got %x\nwant %x", ends, got[ends], w)
			}
		}
	})
}

type ends struct {
	from, to         packet.Addr
	fromPort, toPort uint16
	proto            uint8
}

// byEnds sorts packets by their flows, and has of TCP's two checksums for one sum only one.
func byEnds(t *testing.T, pkts [][]byte) map[ends][]string {
	out := make(map[ends][]string)
	for _, p := range pkts {
		var v packet.View
		if f := v.Parse(p); f != packet.FaultNone {
			t.Fatalf("%s: %x", f, p)
		}
		e := ends{v.Src(), v.Dst(), v.SrcPort(), v.DstPort(), v.Proto()}
		p = []byte(plain(p))
		if l4 := len(p) - len(v.Payload()); e.proto == packet.ProtoTCP && !v.IsLaterFragment() && p[l4+16] == 0 && p[l4+17] == 0 {
			p[l4+16], p[l4+17] = 0xff, 0xff
		}
		out[e] = append(out[e], string(p))
	}
	return out
}

func BenchmarkMerge(b *testing.B) {
	pkts := segments(53, 1228, false)
	var m merger
	copies := make([][]byte, len(pkts))
	b.ReportAllocs()
	for b.Loop() {
		m.reset()
		for i, p := range pkts {
			copies[i] = append(copies[i][:0], p...)
			m.add(copies[i])
		}
		for i := range m.runs {
			m.runs[i].finish()
		}
	}
}

func BenchmarkCut(b *testing.B) {
	in := kernel(spec{from: 1, to: 2, flags: tcpACK, data: make([]byte, 53*1228)}, 1228)
	dst := make([]byte, 1500)
	b.ReportAllocs()
	for b.Loop() {
		w, err := open(in)
		if err != nil {
			b.Fatal(err)
		}
		for i := range w.count() {
			w.cut(i, dst)
		}
	}
}
