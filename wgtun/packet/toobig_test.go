package packet

import (
	"bytes"
	"testing"
)

func TestTooBigSaysHowMuchFits(t *testing.T) {
	for name, tt := range map[string]struct {
		golden    string
		typ, code uint8
		at        int // of the MTU, 4 bytes
	}{
		"IPv4": {goldenUDP4, 3, 4, offTransport4 + 4},
		"IPv6": {goldenUDP6, 2, 0, offTransport6 + 4},
	} {
		b := unhex(t, tt.golden)
		var v, answer View
		if fault := v.Parse(b); fault != FaultNone {
			t.Fatal(fault)
		}
		got := v.AppendTooBig(nil, 1408)
		if fault := answer.Parse(got); fault != FaultNone || !answer.TransportChecksumOK() {
			t.Fatalf("%s: %v", name, fault)
		}
		icmp := answer.Payload()
		if icmp[0] != tt.typ || icmp[1] != tt.code || !bytes.Equal(got[tt.at:tt.at+4], []byte{0, 0, 1408 >> 8, 1408 & 0xff}) || !bytes.Equal(icmp[8:], b) {
			t.Errorf("%s: %x", name, got)
		}
		if answer.Src() != v.Dst() || answer.Dst() != v.Src() {
			t.Errorf("%s: from %v to %v", name, answer.Src().Netip(), answer.Dst().Netip())
		}
	}
}
