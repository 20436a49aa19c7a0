package packet

import (
	"encoding/binary"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// checkPlain holds the short way through a packet against the whole one: what it takes must be read without a fault, and as the same.
func checkPlain(t *testing.T, b []byte) (taken bool) {
	t.Helper()
	var short, whole View
	if !short.ParsePlain(b) {
		return false
	}
	if fault := whole.parse(b, false); fault != FaultNone {
		t.Fatalf("%x: taken by the short way, %v by the whole one", b, fault)
	}
	if !reflect.DeepEqual(whole, short) {
		t.Errorf("%x: %s", b, cmp.Diff(whole, short, cmp.AllowUnexported(View{})))
	}
	return true
}

func TestPlainTakesPlainPackets(t *testing.T) {
	for name, golden := range map[string]string{"SYN": goldenSYN4, "segment": goldenSegment6, "UDP": goldenUDP4, "UDP over IPv6": goldenUDP6} {
		if !checkPlain(t, unhex(t, golden)) {
			t.Errorf("%s goes the long way", name)
		}
	}
}

// Every byte of a header changed, in every way that the checksum lets through.
func TestPlainAgreesWithParse(t *testing.T) {
	for _, golden := range []string{goldenSYN4, goldenSegment6, goldenUDP4, goldenUDP6, goldenHopUDP6, goldenFirst6, goldenEcho4} {
		good := unhex(t, golden)
		for i := range min(len(good), 60) {
			for value := range 256 {
				b := unhex(t, golden)
				b[i] = byte(value)
				checkPlain(t, b)
				if b[0] == 0x45 {
					mend4(b)
					checkPlain(t, b)
				}
			}
		}
		for n := range len(good) {
			checkPlain(t, good[:n])
		}
	}
}

// A wrong checksum is found wherever it is wrong, and whatever the sum runs over.
func TestSum20(t *testing.T) {
	for _, fill := range []byte{0, 0xff, 0x80, 0x45} {
		var h [minHeader4]byte
		for i := range h {
			h[i] = fill
		}
		h[0], h[10], h[11] = 0x45, 0, 0
		binary.BigEndian.PutUint16(h[10:], ^fold(sum(0, h[:])))
		if !sum20OK(&h) {
			t.Errorf("%x: right checksum refused", h)
		}
		for bit := range len(h) * 8 {
			wrong := h
			wrong[bit/8] ^= 1 << (bit % 8)
			if sum20OK(&wrong) {
				t.Errorf("bit %d of %x wrong, and accepted", bit, h)
			}
		}
	}
}
