package review

import (
	"encoding/binary"
	"iter"
	mathbits "math/bits"
)

// bits is a set of small numbers.
type bits []uint64

func newBits(n int) bits { return make(bits, (n+63)/64) }

func (b bits) set(i int)      { b[i/64] |= 1 << (i % 64) }
func (b bits) unset(i int)    { b[i/64] &^= 1 << (i % 64) }
func (b bits) has(i int) bool { return i/64 < len(b) && b[i/64]&(1<<(i%64)) != 0 }

// add puts o's members in.
func (b bits) add(o bits) {
	for i, w := range o {
		b[i] |= w
	}
}

// and is what both have.
func (b bits) and(o bits) bits {
	out := make(bits, len(b))
	for i := range out {
		out[i] = b[i] & o[i]
	}
	return out
}

// minus is what b has and o has not.
func (b bits) minus(o bits) bits {
	out := make(bits, len(b))
	for i := range out {
		out[i] = b[i] &^ o[i]
	}
	return out
}

func (b bits) clone() bits { return append(bits(nil), b...) }

func (b bits) empty() bool {
	for _, w := range b {
		if w != 0 {
			return false
		}
	}
	return true
}

func (b bits) count() (n int) {
	for _, w := range b {
		n += mathbits.OnesCount64(w)
	}
	return n
}

// within reports whether o has all of b.
func (b bits) within(o bits) bool {
	for i, w := range b {
		if w&^o[i] != 0 {
			return false
		}
	}
	return true
}

// all lists the members, ascending.
func (b bits) all() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i, w := range b {
			for ; w != 0; w &= w - 1 {
				if !yield(i*64 + mathbits.TrailingZeros64(w)) {
					return
				}
			}
		}
	}
}

// appendKey appends the members in a form that only equal sets of one size have.
func (b bits) appendKey(to []byte) []byte {
	for _, w := range b {
		to = binary.LittleEndian.AppendUint64(to, w)
	}
	return to
}

func (b bits) key() string { return string(b.appendKey(make([]byte, 0, 8*len(b)))) }
