package packet

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Whole packets, made by another program than this package.
const (
	goldenSYN4     = "4500003c000000004006b2396440000164400002c00001bb0102030400000000a002faf0bfa50000020404d80402080a000000010000000001030307"
	goldenSegment6 = "6000000000190640fd7a0000000000000000000000000001fd7a0000000000000000000000000002c00001bb0000000700000009501801f5ad3c000068656c6c6f"
	goldenHopUDP6  = "6000000000130040fd7a0000000000000000000000000001fd7a0000000000000000000000000002110005020000010014e90035000b2b5f616263"
	goldenEcho4    = "45000024000000004001b2566440000164400002080003e9123400017878787878787878"
	goldenUDP4     = "4500001f000000004011b24b644000016440000213880035000b5f35616263"
	goldenError4   = "4500003b000000004001b23f64400002644000010303c59c00000000" + goldenUDP4
	goldenUDP6     = "60000000000b1140fd7a0000000000000000000000000001fd7a000000000000000000000000000213880035000b2cc0616263"
	goldenFirst6   = "6000000000182c40fd7a0000000000000000000000000001fd7a000000000000000000000000000211000001000000091388003500181d357a7a7a7a7a7a7a7a"
	goldenLater6   = "6000000000102c40fd7a0000000000000000000000000001fd7a000000000000000000000000000211000010000000097a7a7a7a7a7a7a7a"
	goldenReset4   = "45000028000040004006724d644000026440000101bbc000000000000102030550140000218b0000"
	goldenReset6   = "6000000000140640fd7a0000000000000000000000000002fd7a000000000000000000000000000101bbc000000000090000000050040000f3230000"
	goldenRefusal4 = "4500003b000040004001723f6440000264400001030dc59200000000" + goldenUDP4
	goldenRefusal6 = "60000000003b3a40fd7a0000000000000000000000000002fd7a00000000000000000000000000010101926100000000" + goldenUDP6
	offTransport4  = 20
	offTransport6  = 40
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// edit returns the packet changed by f, its IPv4 header checksum mended.
func edit(t testing.TB, s string, f func(b []byte) []byte) []byte {
	t.Helper()
	b := f(unhex(t, s))
	if len(b) >= 20 && b[0]>>4 == 4 && int(b[0]&15)*4 <= len(b) {
		mend4(b)
	}
	return b
}

func mend4(b []byte) {
	h := b[:int(b[0]&15)*4]
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], ^fold(sum(0, h)))
}

// set changes single bytes: pairs of position and value.
func set(pairs ...int) func([]byte) []byte {
	return func(b []byte) []byte {
		for i := 0; i < len(pairs); i += 2 {
			b[pairs[i]] = byte(pairs[i+1])
		}
		return b
	}
}

// options4 puts IPv4 options behind the header.
func options4(opts ...byte) func([]byte) []byte {
	return func(b []byte) []byte {
		out := append(append(bytes.Clone(b[:20]), opts...), b[20:]...)
		out[0] = 0x45 + byte(len(opts)/4)
		binary.BigEndian.PutUint16(out[2:], uint16(len(out)))
		return out
	}
}

// extend6 puts bytes behind the IPv6 header, first of them of type next.
func extend6(next byte, ext ...byte) func([]byte) []byte {
	return func(b []byte) []byte {
		out := append(append(bytes.Clone(b[:40]), ext...), b[40:]...)
		out[6] = next
		binary.BigEndian.PutUint16(out[4:], uint16(len(out)-40))
		return out
	}
}

func TestParseRefuses(t *testing.T) {
	keep := func(b []byte) []byte { return b }
	cut := func(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:n] } }
	for _, tt := range []struct {
		name   string
		golden string
		edit   func([]byte) []byte
		want   Fault
	}{
		{"nothing", "", keep, FaultShort},
		{"version 5", goldenUDP4, set(0, 0x55), FaultVersion},
		{"IPv4 of 19 bytes", goldenUDP4, cut(19), FaultShort},
		{"IPv4 header of 16 bytes", goldenUDP4, set(0, 0x44), FaultHeader},
		{"IPv4 header longer than packet", goldenUDP4, set(0, 0x4f), FaultShort},
		{"IPv4 reserved flag", goldenUDP4, set(6, 0x80), FaultHeader},
		{"IPv4 total length beyond packet", goldenUDP4, set(3, 0x20), FaultLength},
		{"IPv4 total length inside header", goldenUDP4, set(3, 19), FaultLength},
		{"IPv4 bytes behind the packet", goldenUDP4, func(b []byte) []byte { return append(b, 0) }, FaultLength},
		{"IPv4 loose source route", goldenUDP4, options4(131, 3, 4, 0), FaultSourceRoute},
		{"IPv4 strict source route behind others", goldenUDP4, options4(1, 7, 3, 4, 137, 3, 4, 0), FaultSourceRoute},
		{"IPv4 option of length 0", goldenUDP4, options4(7, 0, 0, 0), FaultOptions},
		{"IPv4 option of length 1", goldenUDP4, options4(7, 1, 0, 0), FaultOptions},
		{"IPv4 option beyond header", goldenUDP4, options4(7, 5, 0, 0), FaultOptions},
		{"IPv4 option cut before its length", goldenUDP4, options4(1, 1, 1, 7), FaultOptions},
		{"ICMPv6 in IPv4", goldenUDP4, set(9, 58), FaultICMPFamily},
		{"ICMP in IPv6", goldenUDP6, set(6, 1), FaultICMPFamily},
		{"UDP header cut", goldenUDP4, func(b []byte) []byte { b[3] = 27; return b[:27] }, FaultTransport},
		{"UDP shorter than its packet", goldenUDP4, set(25, 10), FaultTransport},
		{"UDP longer than its packet", goldenUDP4, set(25, 12), FaultTransport},
		{"UDP from port 0", goldenUDP4, set(20, 0, 21, 0), FaultPortZero},
		{"UDP to port 0", goldenUDP4, set(22, 0, 23, 0), FaultPortZero},
		{"TCP to port 0", goldenSYN4, set(22, 0, 23, 0), FaultPortZero},
		{"TCP data offset 4", goldenSYN4, set(32, 0x40), FaultTransport},
		{"TCP data offset beyond packet", goldenSYN4, set(32, 0xf0), FaultTransport},
		{"ICMP of 7 bytes", goldenEcho4, func(b []byte) []byte { b[3] = 27; return b[:27] }, FaultTransport},
		{"IPv4 first fragment without whole TCP header", goldenSYN4, func(b []byte) []byte { b[3], b[6] = 36, 0x20; return b[:36] }, FaultTinyFragment},
		{"IPv4 first fragment without TCP options", goldenSYN4, func(b []byte) []byte { b[3], b[6] = 44, 0x20; return b[:44] }, FaultTinyFragment},
		{"IPv4 fragment not of eights", goldenUDP4, set(6, 0x20), FaultFragment},
		{"IPv4 empty later fragment", goldenUDP4, func(b []byte) []byte { b[3], b[7] = 20, 1; return b[:20] }, FaultFragment},
		{"IPv4 fragment beyond 65535", goldenUDP4, set(6, 0x1f, 7, 0xff), FaultFragment},
		{"IPv4 first fragment with UDP length of itself", goldenEcho4, set(6, 0x20, 9, 17, 24, 0, 25, 16), FaultTransport},

		{"IPv6 of 39 bytes", goldenUDP6, cut(39), FaultShort},
		{"IPv6 of 1 byte", goldenUDP6, cut(1), FaultShort},
		{"IPv6 payload length beyond packet", goldenUDP6, set(5, 12), FaultLength},
		{"IPv6 payload length 0xffff", goldenUDP6, set(4, 0xff, 5, 0xff), FaultLength},
		{"IPv6 bytes behind the packet", goldenUDP6, set(5, 10), FaultLength},
		{"IPv6 jumbo by length 0", goldenHopUDP6, set(4, 0, 5, 0), FaultJumbo},
		{"IPv6 jumbo by option", goldenUDP6, extend6(0, 17, 0, 0xc2, 4, 0, 1, 0, 0), FaultJumbo},
		{"IPv6 routing header type 0", goldenUDP6, extend6(43, 17, 0, 0, 0, 0, 0, 0, 0), FaultRoutingHeader},
		{"IPv6 routing header type 4", goldenUDP6, extend6(43, 17, 0, 4, 0, 0, 0, 0, 0), FaultRoutingHeader},
		{"IPv6 routing header behind options", goldenUDP6, extend6(60, 43, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 0), FaultRoutingHeader},
		{"IPv6 hop-by-hop not first", goldenUDP6, extend6(60, 0, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0), FaultExtension},
		{"IPv6 hop-by-hop beyond packet", goldenHopUDP6, set(41, 9), FaultExtension},
		{"IPv6 option beyond its header", goldenUDP6, extend6(60, 17, 0, 1, 5, 0, 0, 0, 0), FaultExtension},
		{"IPv6 option that must not be skipped", goldenUDP6, extend6(60, 17, 0, 0x45, 4, 0, 0, 0, 0), FaultExtension},
		{"IPv6 home address option", goldenUDP6, extend6(60, 17, 2, 0xc9, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0), FaultExtension},
		{"IPv6 mobility header", goldenUDP6, extend6(135, 17, 0, 0, 0, 0, 0, 0, 0), FaultExtension},
		{"IPv6 experimental header", goldenUDP6, extend6(253, 17, 0, 0, 0, 0, 0, 0, 0), FaultExtension},
		{"IPv6 five extension headers", goldenUDP6, extend6(60, append(bytes.Repeat([]byte{60, 0, 1, 4, 0, 0, 0, 0}, 4), 17, 0, 1, 4, 0, 0, 0, 0)...), FaultExtension},
		{"IPv6 chain that ends nowhere", goldenUDP6, func(b []byte) []byte { b[6] = 60; b[5] = 0; return b[:40] }, FaultExtension},
		{"IPv6 two fragment headers", goldenUDP6, extend6(44, 44, 0, 0, 1, 0, 0, 0, 1, 17, 0, 0, 0, 0, 0, 0, 1), FaultFragment},
		{"IPv6 two atomic fragment headers", goldenUDP6, extend6(44, 44, 0, 0, 0, 0, 0, 0, 1, 17, 0, 0, 0, 0, 0, 0, 1), FaultExtension},
		{"IPv6 first fragment without transport header", goldenUDP6, func(b []byte) []byte { return extend6(44, 6, 0, 0, 1, 0, 0, 0, 1)(b[:48])[:56] }, FaultTinyFragment},
		{"IPv6 first fragment with options cut", goldenUDP6, func(b []byte) []byte { return extend6(44, 60, 0, 0, 1, 0, 0, 0, 1)(set(40, 17, 41, 5)(b[:48]))[:56] }, FaultTinyFragment},
		{"IPv6 later fragment not of eights", goldenLater6, set(43, 0x11, 5, 15), FaultLength},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var v View
			if got := v.Parse(edit(t, tt.golden, tt.edit)); got != tt.want {
				t.Errorf("Parse = %v (%d), want %v", got, got, tt.want)
			}
		})
	}
	t.Run("IPv4 header checksum", func(t *testing.T) {
		var v View
		if got := v.Parse(set(10, 0)(unhex(t, goldenUDP4))); got != FaultChecksum {
			t.Errorf("Parse = %v, want %v", got, FaultChecksum)
		}
	})
}

// reading is what a View says, for comparison.
type reading struct {
	Src, Dst         string
	Proto            uint8
	SrcPort, DstPort uint16
	Payload          int
	Fragment, Later  bool
	ID               uint32
	From, To         int
	More             bool
}

func read(v *View) reading {
	r := reading{
		Src: v.Src().Netip().String(), Dst: v.Dst().Netip().String(), Proto: v.Proto(), SrcPort: v.SrcPort(), DstPort: v.DstPort(),
		Payload: len(v.Payload()), Fragment: v.IsFragment(), Later: v.IsLaterFragment(),
	}
	if r.Fragment {
		r.ID, r.From, r.To, r.More = v.Fragment()
	}
	return r
}

func TestParse(t *testing.T) {
	const a, b, a6, b6 = "100.64.0.1", "100.64.0.2", "fd7a::1", "fd7a::2"
	keep := func(b []byte) []byte { return b }
	for _, tt := range []struct {
		name, golden string
		edit         func([]byte) []byte
		want         reading
	}{
		{"TCP over IPv4", goldenSYN4, keep, reading{Src: a, Dst: b, Proto: 6, SrcPort: 49152, DstPort: 443, Payload: 40}},
		{"TCP over IPv6", goldenSegment6, keep, reading{Src: a6, Dst: b6, Proto: 6, SrcPort: 49152, DstPort: 443, Payload: 25}},
		{"UDP behind hop-by-hop options", goldenHopUDP6, keep, reading{Src: a6, Dst: b6, Proto: 17, SrcPort: 5353, DstPort: 53, Payload: 11}},
		{"UDP behind IPv4 options", goldenUDP4, options4(1, 1, 1, 0), reading{Src: a, Dst: b, Proto: 17, SrcPort: 5000, DstPort: 53, Payload: 11}},
		{"echo", goldenEcho4, keep, reading{Src: a, Dst: b, Proto: 1, Payload: 16}},
		{"first fragment", goldenFirst6, keep, reading{Src: a6, Dst: b6, Proto: 17, SrcPort: 5000, DstPort: 53, Payload: 16, Fragment: true, ID: 9, To: 16, More: true}},
		{"later fragment", goldenLater6, keep, reading{Src: a6, Dst: b6, Proto: 17, Payload: 8, Fragment: true, Later: true, ID: 9, From: 16, To: 24}},
		{"later IPv4 fragment", goldenUDP4, set(5, 7, 7, 2), reading{Src: a, Dst: b, Proto: 17, Payload: 11, Fragment: true, Later: true, ID: 7, From: 16, To: 27}},
		{"atomic fragment", goldenUDP6, extend6(44, 17, 0, 0, 0, 0, 0, 0, 1), reading{Src: a6, Dst: b6, Proto: 17, SrcPort: 5000, DstPort: 53, Payload: 11}},
		{"unknown protocol", goldenUDP4, set(9, 47), reading{Src: a, Dst: b, Proto: 47, Payload: 11}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var v View
			if fault := v.Parse(edit(t, tt.golden, tt.edit)); fault != FaultNone {
				t.Fatalf("Parse = %v", fault)
			}
			if diff := cmp.Diff(tt.want, read(&v)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A View is used again for the next packet: nothing of the last one may be left in it.
func TestParseForgetsThePacketBefore(t *testing.T) {
	var v, fresh View
	v.Parse(unhex(t, goldenLater6))
	v.Parse(unhex(t, goldenEcho4))
	fresh.Parse(unhex(t, goldenEcho4))
	if diff := cmp.Diff(read(&fresh), read(&v)); diff != "" {
		t.Error(diff)
	}
}

func TestTCP(t *testing.T) {
	var v View
	v.Parse(unhex(t, goldenSYN4))
	if diff := cmp.Diff(TCPSegment{Seq: 0x01020304, Flags: SYN, Window: 64240, Len: 1}, v.TCP()); diff != "" {
		t.Error(diff)
	}
	if shift, ok := v.WindowScale(); shift != 7 || !ok {
		t.Errorf("WindowScale = %d, %v, want 7", shift, ok)
	}
	v.Parse(unhex(t, goldenSegment6))
	if diff := cmp.Diff(TCPSegment{Seq: 7, Ack: 9, Flags: PSH | ACK, Window: 501, Len: 5}, v.TCP()); diff != "" {
		t.Error(diff)
	}
	if !v.TransportChecksumOK() {
		t.Error("right checksum refused")
	}
	v.Parse(set(60, 'H')(unhex(t, goldenSegment6)))
	if v.TransportChecksumOK() {
		t.Error("wrong checksum accepted")
	}
}

func TestWindowScaleOfBadOptions(t *testing.T) {
	for name, opts := range map[string][]byte{
		"length 0":       {3, 0, 7, 0},
		"beyond header":  {3, 9, 7, 0},
		"cut":            {1, 1, 1, 3},
		"behind the end": {0, 3, 3, 7},
		"wrong length":   {3, 4, 7, 0},
	} {
		b := unhex(t, goldenSYN4)[:44]
		b[3], b[32] = 44, 0x60
		copy(b[40:], opts)
		mend4(b)
		var v View
		if fault := v.Parse(b); fault != FaultNone {
			t.Fatalf("%s: %v", name, fault)
		}
		if shift, ok := v.WindowScale(); ok {
			t.Errorf("%s: scale %d", name, shift)
		}
	}
}

func TestQuote(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func([]byte) []byte
		want Fault
	}{
		{"whole", func(b []byte) []byte { return b }, FaultNone},
		{"cut behind 8 bytes of UDP", func(b []byte) []byte { b[3] = 56; return b[:56] }, FaultNone},
		{"more behind the quoted packet", func(b []byte) []byte { b[3] = 60; return append(b, 0) }, FaultNone},
		{"cut behind 7 bytes of UDP", func(b []byte) []byte { b[3] = 55; return b[:55] }, FaultTransport},
		{"cut in IP header", func(b []byte) []byte { b[3] = 47; return b[:47] }, FaultShort},
		{"empty", func(b []byte) []byte { b[3] = 28; return b[:28] }, FaultShort},
		{"unknown protocol cut behind 7 bytes", func(b []byte) []byte { b[3], b[28+9] = 55, 47; return b[:55] }, FaultTransport},
		{"later fragment", set(28+7, 1), FaultFragment},
		{"UDP length that is not its packet's", set(28+25, 10), FaultTransport},
		{"total length inside header", set(28+3, 10), FaultLength},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var v, q View
			if fault := v.Parse(edit(t, goldenError4, tt.edit)); fault != FaultNone {
				t.Fatal(fault)
			}
			if kind, _, _ := v.ICMP(); kind != ICMPError {
				t.Fatalf("kind %d, want an error", kind)
			}
			if got := v.Quote(&q); got != tt.want {
				t.Fatalf("Quote = %v, want %v", got, tt.want)
			}
			if tt.want == FaultNone && (q.SrcPort() != 5000 || q.DstPort() != 53 || q.Src() != v.Dst()) {
				t.Errorf("quote read as %+v", read(&q))
			}
		})
	}
}

func TestICMPKinds(t *testing.T) {
	count := map[ICMPKind][2]int{}
	for typ := range 256 {
		for code := range 2 {
			k4, k6 := kind4(uint8(typ), uint8(code)), kind6(uint8(typ), uint8(code))
			c := count[k4]
			c[0]++
			count[k4] = c
			c = count[k6]
			c[1]++
			count[k6] = c
		}
	}
	want := map[ICMPKind][2]int{ICMPEchoRequest: {1, 1}, ICMPEchoReply: {1, 1}, ICMPError: {6, 8}, ICMPOther: {504, 502}}
	if diff := cmp.Diff(want, count); diff != "" {
		t.Error(diff)
	}
	for _, typ := range []uint8{4, 5, 9, 10, 13, 15, 17} {
		if kind4(typ, 0) != ICMPOther {
			t.Errorf("ICMP type %d is let through", typ)
		}
	}
	for _, typ := range []uint8{130, 131, 133, 134, 135, 136, 137, 143} {
		if kind6(typ, 0) != ICMPOther {
			t.Errorf("ICMPv6 type %d is let through", typ)
		}
	}
}

func TestClassify(t *testing.T) {
	for s, want := range map[string]Class{
		"100.64.0.1": Unicast, "8.8.8.8": Unicast, "223.255.255.255": Unicast, "fd7a::1": Unicast, "2001:db8::1": Unicast, "64:ff9b::1": Unicast,
		"0.0.0.0": Unspecified, "0.1.2.3": Unspecified, "::": Unspecified,
		"127.0.0.1": Loopback, "127.255.0.1": Loopback, "::1": Loopback,
		"169.254.1.1": LinkLocal, "fe80::1": LinkLocal, "febf::1": LinkLocal, "fec0::1": LinkLocal,
		"224.0.0.1": Multicast, "239.255.255.255": Multicast, "ff02::1": Multicast, "ff0e::1": Multicast,
		"255.255.255.255": Broadcast, "240.0.0.1": Reserved, "255.255.255.254": Reserved,
		"::ffff:100.64.0.1": Mapped, "::100.64.0.1": Mapped,
	} {
		if got := Classify(netip.MustParseAddr(s)); got != want {
			t.Errorf("Classify(%s) = %d, want %d", s, got, want)
		}
	}
}

func TestMappedAddressInIPv6HeaderIsNotIPv4(t *testing.T) {
	b := unhex(t, goldenUDP6)
	mapped := netip.MustParseAddr("::ffff:100.64.0.1").As16()
	copy(b[8:24], mapped[:])
	var v View
	if fault := v.Parse(b); fault != FaultNone {
		t.Fatal(fault)
	}
	if v.SrcClass() != Mapped || v.DstClass() != Unicast {
		t.Errorf("classes %d, %d; want Mapped, Unicast", v.SrcClass(), v.DstClass())
	}
}

func TestBuilders(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"reset for a SYN", goldenSYN4, goldenReset4},
		{"reset for a segment", goldenSegment6, goldenReset6},
		{"refusal of UDP over IPv4", goldenUDP4, goldenRefusal4},
		{"refusal of UDP over IPv6", goldenUDP6, goldenRefusal6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var v View
			if fault := v.Parse(unhex(t, tt.in)); fault != FaultNone {
				t.Fatal(fault)
			}
			// The packet is appended: what was there stays.
			got := []byte("before")
			if v.Proto() == ProtoTCP {
				got = v.AppendResetFor(got)
			} else {
				got = v.AppendProhibited(got)
			}
			if diff := cmp.Diff("before"+string(unhex(t, tt.want)), string(got)); diff != "" {
				t.Errorf("%x\n%s", got[6:], diff)
			}
		})
	}
}

func TestNoResetForAReset(t *testing.T) {
	var v View
	v.Parse(unhex(t, goldenReset4))
	if got := v.AppendResetFor(nil); len(got) != 0 {
		t.Errorf("a reset was answered: %x", got)
	}
}

func TestRefusalIsBounded(t *testing.T) {
	for _, tt := range []struct {
		golden string
		want   int
	}{{goldenUDP4, maxError4}, {goldenUDP6, maxError6}} {
		b := append(unhex(t, tt.golden), make([]byte, 2000)...)
		if b[0]>>4 == 4 {
			binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
			binary.BigEndian.PutUint16(b[offTransport4+4:], uint16(len(b)-offTransport4))
			mend4(b)
		} else {
			binary.BigEndian.PutUint16(b[4:], uint16(len(b)-offTransport6))
			binary.BigEndian.PutUint16(b[offTransport6+4:], uint16(len(b)-offTransport6))
		}
		var v View
		if fault := v.Parse(b); fault != FaultNone {
			t.Fatal(fault)
		}
		got := v.AppendProhibited(nil)
		if len(got) != tt.want {
			t.Errorf("%d bytes, want %d", len(got), tt.want)
		}
		if fault := v.Parse(got); fault != FaultNone || !v.TransportChecksumOK() {
			t.Errorf("built packet: %v", fault)
		}
	}
}

func TestParseAllocatesNothing(t *testing.T) {
	b := unhex(t, goldenHopUDP6)
	var v View
	if n := testing.AllocsPerRun(100, func() { v.Parse(b) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		goldenSYN4, goldenSegment6, goldenHopUDP6, goldenEcho4, goldenUDP4, goldenError4, goldenUDP6, goldenFirst6, goldenLater6,
		goldenReset4, goldenReset6, goldenRefusal4, goldenRefusal6,
	} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		if len(b) >= 20 && b[0]>>4 == 4 && int(b[0]&15)*4 <= len(b) && b[0]&15 >= 5 {
			mend4(b) // or nothing gets past the checksum
			before = bytes.Clone(b)
		}
		checkPlain(t, b)
		var v View
		if v.Parse(b) == FaultNone {
			useView(t, &v, len(b))
		}
		if !bytes.Equal(before, b) {
			t.Error("the packet was changed")
		}
	})
}

// useView asks a View everything, and holds what it says against the packet's length.
func useView(t *testing.T, v *View, size int) {
	if v.Len() != size || v.Src().Netip().Is4() == v.IsIPv6() && v.SrcClass() != Mapped {
		t.Errorf("length %d of %d, source %v", v.Len(), size, v.Src().Netip())
	}
	if v.IsFragment() {
		if _, from, to, more := v.Fragment(); from >= to || to > 65535 || more && (to-from)%8 != 0 {
			t.Errorf("fragment %d to %d", from, to)
		}
	}
	if v.IsLaterFragment() {
		return
	}
	if v.IsICMP() {
		v.EchoID()
		var q View
		if kind, _, _ := v.ICMP(); kind == ICMPError && v.Quote(&q) == FaultNone {
			q.QuotedSeq()
			q.EchoID()
			q.ICMP()
		}
	}
	var answer []byte
	if v.Proto() == ProtoTCP {
		v.TCP()
		v.WindowScale()
		answer = v.AppendResetFor(nil)
	} else {
		answer = v.AppendProhibited(nil)
	}
	v.TransportChecksumOK()
	var back View
	if len(answer) > 0 && (back.Parse(answer) != FaultNone || !back.TransportChecksumOK() || back.Src() != v.Dst() || back.Dst() != v.Src()) {
		t.Errorf("answer %x", answer)
	}
}

func BenchmarkParse(b *testing.B) {
	for name, golden := range map[string]string{"tcp4": goldenSYN4, "tcp6": goldenSegment6} {
		pkt := unhex(b, golden)
		b.Run(name, func(b *testing.B) {
			var v View
			for b.Loop() {
				v.Parse(pkt)
			}
		})
	}
}
