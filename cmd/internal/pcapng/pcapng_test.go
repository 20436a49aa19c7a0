package pcapng

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"
)

// blocks takes each Write apart: one is one block.
type blocks []string

func (b *blocks) Write(p []byte) (int, error) {
	*b = append(*b, hex.EncodeToString(p))
	return len(p), nil
}

// TestGolden holds each block to bytes written out by hand from the draft.
func TestGolden(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 123456789, time.UTC) // 1767323045123456789 ns, 0x1886caf2_23f1ff15
	var got blocks
	w, err := NewWriter(&got, Section{Application: "picket 1", System: "linux", Comment: "hi", Interface: "picket0", Snaplen: 128})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []Packet{
		{At: at, Data: []byte{0x45, 0, 0, 80, 1}, Length: 80, Out: true, Comment: "allow", Dropped: 3},
		{At: at.Add(time.Second), Data: []byte{0x45, 0, 0, 4}},
	} {
		if err := w.Packet(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Statistics(Statistics{At: at, Start: at, Stop: at.Add(time.Second), Received: 5, Dropped: 3}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"0a0d0d0a 40000000 4d3c2b1a 0100 0000 ffffffffffffffff" +
			"0100 0200 6869 0000" + // opt_comment "hi"
			"0300 0500 6c696e7578 000000" + // shb_os "linux"
			"0400 0800 7069636b65742031" + // shb_userappl "picket 1"
			"0000 0000 40000000",
		"01000000 2c000000 6500 0000 80000000" +
			"0200 0700 7069636b657430 00" + // if_name "picket0"
			"0900 0100 09 000000" + // if_tsresol: nanoseconds
			"0000 0000 2c000000",
		"06000000 4c000000 00000000 f2ca8618 15fff123 05000000 50000000 4500005001 000000" +
			"0200 0400 02000000" + // epb_flags: outbound
			"0400 0800 0300000000000000" + // epb_dropcount
			"0100 0500 616c6c6f77 000000" + // opt_comment "allow"
			"0000 0000 4c000000",
		"06000000 30000000 00000000 f2ca8618 15c98c5f 04000000 04000000 45000004" +
			"0200 0400 01000000" + // epb_flags: inbound
			"0000 0000 30000000",
		"05000000 4c000000 00000000 f2ca8618 15fff123" +
			"0200 0800 f2ca8618 15fff123" + // isb_starttime
			"0300 0800 f2ca8618 15c98c5f" + // isb_endtime
			"0400 0800 0500000000000000" + // isb_ifrecv
			"0500 0800 0300000000000000" + // isb_ifdrop
			"0000 0000 4c000000",
	}
	for i := range want {
		if want[i] = strings.ReplaceAll(want[i], " ", ""); i >= len(got) || got[i] != want[i] {
			t.Errorf("block %d:\n%s, want\n%s", i, got[min(i, len(got)-1)], want[i])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d blocks, want %d", len(got), len(want))
	}
}

// What an option cannot hold is cut, and never inside a character.
func TestLongComment(t *testing.T) {
	var got blocks
	w, err := NewWriter(&got, Section{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Packet(Packet{At: time.Unix(1, 0), Comment: strings.Repeat("ä", 40_000)}); err != nil {
		t.Fatal(err)
	}
	if want := "0100feff" + strings.Repeat("c3a4", 0xfffe/2) + "0000" + "00000000"; !strings.Contains(got[2], want) {
		t.Error("the comment was not cut to 65534 bytes")
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestWriteErrorsAreReturned(t *testing.T) {
	if _, err := NewWriter(fullDisk{}, Section{}); err == nil {
		t.Error("the beginning was not written, and that was not said")
	}
	w := &Writer{w: fullDisk{}}
	if w.Packet(Packet{}) == nil || w.Statistics(Statistics{}) == nil {
		t.Error("a block was not written, and that was not said")
	}
}
