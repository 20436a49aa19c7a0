package packet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
)

// A chain of extension headers as a list, and what is to be said of it: no bytes are read.

// extension makes one header of 8 bytes or more, filled with padding, or with nothing where it is a fragment header.
func extension(kind, next byte, words int) []byte {
	h := make([]byte, 8*(1+words))
	h[0] = next
	if kind == nextFragment {
		binary.BigEndian.PutUint32(h[4:], 7) // an atomic fragment
		return h[:8]
	}
	h[1] = byte(words)
	if kind != nextRouting {
		h[2], h[3] = 1, byte(len(h)-4)
	}
	return h
}

func chained(kinds []byte, words int, last byte, transport []byte) []byte {
	b := bytes.Clone(transport[:header6])
	for i, kind := range kinds {
		if i == 0 {
			b[6] = kind
		}
		next := last
		if i+1 < len(kinds) {
			next = kinds[i+1]
		}
		b = append(b, extension(kind, next, words)...)
	}
	b = append(b, transport[header6:]...)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-header6))
	return b
}

func chainAllowed(kinds []byte) bool {
	count := map[byte]int{}
	for i, kind := range kinds {
		count[kind]++
		if kind == nextHopByHop && i > 0 {
			return false
		}
	}
	return len(kinds) <= 4 && count[nextFragment] <= 1 && count[nextRouting]+count[nextMobility]+count[nextTest1] == 0
}

// Every chain of up to five extension headers, in every order and three lengths.
func TestEveryChainOfExtensionHeaders(t *testing.T) {
	all := []byte{nextHopByHop, nextDestination, nextFragment, nextRouting, nextMobility, nextTest1}
	udp := unhex(t, goldenUDP6)
	chains, level := [][]byte{{}}, [][]byte{{}}
	for range 5 {
		var next [][]byte
		for _, c := range level {
			for _, kind := range all {
				next = append(next, append(slices.Clone(c), kind))
			}
		}
		chains, level = append(chains, next...), next
	}
	passed := 0
	for _, kinds := range chains {
		for _, words := range []int{0, 1, 5} {
			var v View
			b := chained(kinds, words, ProtoUDP, udp)
			fault := v.Parse(b)
			if (fault == FaultNone) != chainAllowed(kinds) {
				t.Fatalf("chain %v of %d words: %v", kinds, words, fault)
			}
			if fault == FaultNone {
				passed++
				if v.Proto() != ProtoUDP || v.DstPort() != 53 || len(v.Payload()) != len(udp)-header6 {
					t.Fatalf("chain %v of %d words: read as %+v", kinds, words, read(&v))
				}
			}
		}
	}
	// One of none, and of those with up to four: hop-by-hop or not, then destinations with at most one fragment header among them.
	if want := 3 * ((1 + 2 + 3 + 4 + 5) + (1 + 2 + 3 + 4)); passed != want {
		t.Errorf("%d chains passed, want %d", passed, want)
	}
}

// A chain cut anywhere is refused, with its length told as it was and as it became.
func TestChainsCutAnywhere(t *testing.T) {
	for _, kinds := range [][]byte{{nextHopByHop}, {nextDestination, nextFragment}, {nextHopByHop, nextDestination, nextFragment, nextDestination}} {
		whole := chained(kinds, 2, ProtoUDP, unhex(t, goldenUDP6))
		for n := range len(whole) {
			for _, mended := range []bool{false, true} {
				b := bytes.Clone(whole[:n])
				if mended && n >= header6 {
					binary.BigEndian.PutUint16(b[4:], uint16(n-header6))
				}
				var v View
				if fault := v.Parse(b); fault == FaultNone {
					t.Errorf("chain %v cut to %d of %d bytes is read, mended %v", kinds, n, len(whole), mended)
				}
			}
		}
	}
}

// Options of every kind and length: of IPv6 those pass that a receiver skips, of IPv4 all that are whole but source routes.
func TestEveryOption(t *testing.T) {
	for kind := range 256 {
		for length := range 256 {
			opts := []byte{byte(kind), byte(length), 0, 0, 0, 0, 0, 0}
			rest6, rest4 := 6-2-length, length
			want6 := kind&0xc0 == 0 && rest6 >= 0
			want4 := rest4 >= 2 && rest4 <= 8 && kind != 131 && kind != 137
			if kind == 0 {
				// Padding of one byte: length is an option, and what follows is padding, or its length.
				want6 = length&0xc0 == 0
				want4 = true
			}
			if kind == 1 {
				want4 = length == 0 || length == 1
			}
			ext := append([]byte{ProtoUDP, 0}, opts[:6]...)
			var v View
			if fault := v.Parse(edit(t, goldenUDP6, extend6(nextDestination, ext...))); (fault == FaultNone) != want6 {
				t.Fatalf("IPv6 option %d of length %d: %v", kind, length, fault)
			}
			if fault := v.Parse(edit(t, goldenUDP4, options4(opts...))); (fault == FaultNone) != want4 {
				t.Fatalf("IPv4 option %d of length %d: %v", kind, length, fault)
			}
		}
	}
}

// What a datagram's lengths say, each against the others: only one reading passes.
func TestEveryLength(t *testing.T) {
	for _, golden := range []string{goldenUDP4, goldenUDP6, goldenSYN4, goldenSegment6} {
		good := unhex(t, golden)
		at, l4 := 2, offTransport4
		if good[0]>>4 == 6 {
			at, l4 = 4, offTransport6
		}
		for _, extra := range []int{-3, -1, 0, 1, 3} {
			for length := range 1 << 16 {
				b := append(bytes.Clone(good), 0, 0, 0)[:len(good)+extra]
				right := int(be16(good[at:])) + extra
				binary.BigEndian.PutUint16(b[at:], uint16(length))
				if good[0]>>4 == 4 {
					mend4(b)
				}
				isTCP := golden == goldenSYN4 || golden == goldenSegment6
				if !isTCP {
					binary.BigEndian.PutUint16(b[l4+4:], uint16(len(b)-l4))
				}
				// TCP has no length of its own: data may be any.
				want := length == right && (golden != goldenSYN4 || extra >= 0)
				var v View
				if fault := v.Parse(b); (fault == FaultNone) != want {
					t.Fatalf("%s, %d bytes more, told as %d: %v", fmt.Sprintf("%.8s", golden), extra, length, fault)
				}
			}
		}
	}
}
