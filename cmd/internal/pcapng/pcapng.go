// Package pcapng writes captures of IP packets in the pcapng format (draft-ietf-opsawg-pcapng), as Wireshark reads them.
//
// A file is a section header, one interface, a block for each packet and one with statistics, all little-endian:
//
//	block       type (4 bytes), total length (4), body, total length again (4); padded with zeros to whole words of 4 bytes
//	option      code (2), length (2), value, padded; a list of them ends with code 0 and length 0
//	section     0x0A0D0D0A: byte-order magic 0x1A2B3C4D (4), version 1.0 (2+2), section length unknown (8 of 0xFF), options
//	interface   1: link type 101 (2), reserved (2), snaplen (4), options; timestamps count nanoseconds (if_tsresol 9)
//	packet      6: interface 0 (4), timestamp high and low half (4+4), captured and original length (4+4), data, options
//	statistics  5: interface 0 (4), timestamp (4+4), options
package pcapng

import (
	"encoding/binary"
	"io"
	"strings"
	"time"
)

// Block types and codes of options (sections 4.1 to 4.6).
const (
	blockSection    = 0x0a0d0d0a
	blockInterface  = 1
	blockStatistics = 5
	blockPacket     = 6

	optEnd           = 0
	optComment       = 1
	optSystem        = 3   // shb_os
	optApplication   = 4   // shb_userappl
	optName          = 2   // if_name
	optDescription   = 3   // if_description
	optResolution    = 9   // if_tsresol
	optFlags         = 2   // epb_flags
	optDropCount     = 4   // epb_dropcount
	optStart         = 2   // isb_starttime
	optStop          = 3   // isb_endtime
	optReceived      = 4   // isb_ifrecv
	optDropped       = 5   // isb_ifdrop
	nanoseconds      = 9   // 10 to the minus 9th
	linkTypeRaw      = 101 // begins with the IP header (LINKTYPE_RAW)
	flagsIn          = 1
	flagsOut         = 2
	maxOption        = 0xffff
	bytesOfByteOrder = 0x1a2b3c4d
)

// Writer writes one capture. It makes one Write for each block, so that what was written is whole whenever it ends.
type Writer struct {
	w   io.Writer
	buf []byte
}

// Section describes a capture: what made it, on which interface. Empty fields are left out.
type Section struct {
	Application, System string
	Comment             string
	Interface           string
	Description         string
	Snaplen             uint32 // bytes kept of each packet; 0 for no bound
}

// Packet is one IP packet.
type Packet struct {
	At      time.Time // after 1969
	Data    []byte
	Length  int // of the whole packet, of which Data is the beginning
	Out     bool
	Comment string
	Dropped uint64 // packets that were lost between this one and the one before
}

// Statistics close a capture.
type Statistics struct {
	At, Start, Stop   time.Time
	Received, Dropped uint64 // Dropped are among the Received
}

// NewWriter writes the beginning of a capture.
func NewWriter(w io.Writer, s Section) (*Writer, error) {
	p := &Writer{w: w}
	p.begin(blockSection)
	p.u32(bytesOfByteOrder)
	p.u16(1)
	p.u16(0)
	p.u32(0xffffffff)
	p.u32(0xffffffff)
	p.text(optComment, s.Comment)
	p.text(optSystem, s.System)
	p.text(optApplication, s.Application)
	if err := p.end(); err != nil {
		return nil, err
	}
	p.begin(blockInterface)
	p.u16(linkTypeRaw)
	p.u16(0)
	p.u32(s.Snaplen)
	p.text(optName, s.Interface)
	p.text(optDescription, s.Description)
	p.option(optResolution, []byte{nanoseconds})
	return p, p.end()
}

// Packet writes a packet.
func (p *Writer) Packet(k Packet) error {
	p.begin(blockPacket)
	p.u32(0)
	p.time(k.At)
	p.u32(uint32(len(k.Data)))
	p.u32(uint32(max(k.Length, len(k.Data))))
	p.padded(k.Data)
	flags := uint32(flagsIn)
	if k.Out {
		flags = flagsOut
	}
	p.option(optFlags, binary.LittleEndian.AppendUint32(nil, flags))
	if k.Dropped > 0 {
		p.option(optDropCount, binary.LittleEndian.AppendUint64(nil, k.Dropped))
	}
	p.text(optComment, k.Comment)
	return p.end()
}

// Statistics writes the end of a capture.
func (p *Writer) Statistics(s Statistics) error {
	p.begin(blockStatistics)
	p.u32(0)
	p.time(s.At)
	p.option(optStart, appendTime(nil, s.Start))
	p.option(optStop, appendTime(nil, s.Stop))
	p.option(optReceived, binary.LittleEndian.AppendUint64(nil, s.Received))
	p.option(optDropped, binary.LittleEndian.AppendUint64(nil, s.Dropped))
	return p.end()
}

// begin starts a block; its length is filled in by end.
func (p *Writer) begin(kind uint32) {
	p.buf = p.buf[:0]
	p.u32(kind)
	p.u32(0)
}

// end closes the options and writes the block.
func (p *Writer) end() error {
	p.option(optEnd, nil)
	length := uint32(len(p.buf) + 4)
	binary.LittleEndian.PutUint32(p.buf[4:], length)
	p.u32(length)
	_, err := p.w.Write(p.buf)
	return err
}

func (p *Writer) u16(n uint16)     { p.buf = binary.LittleEndian.AppendUint16(p.buf, n) }
func (p *Writer) u32(n uint32)     { p.buf = binary.LittleEndian.AppendUint32(p.buf, n) }
func (p *Writer) time(t time.Time) { p.buf = appendTime(p.buf, t) }

// appendTime appends the high half before the low one.
func appendTime(b []byte, t time.Time) []byte {
	ns := uint64(t.UnixNano())
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(b, uint32(ns>>32)), uint32(ns))
}

func (p *Writer) padded(b []byte) {
	p.buf = append(p.buf, b...)
	for range -len(b) & 3 {
		p.buf = append(p.buf, 0)
	}
}

func (p *Writer) option(code uint16, value []byte) {
	p.u16(code)
	p.u16(uint16(len(value)))
	p.padded(value)
}

// text leaves out what is empty, and cuts what an option cannot hold.
func (p *Writer) text(code uint16, s string) {
	if s == "" {
		return
	}
	p.option(code, []byte(strings.ToValidUTF8(s[:min(len(s), maxOption)], "")))
}
