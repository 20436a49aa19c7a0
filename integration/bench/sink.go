//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// Ports on the server.
const (
	iperfPort   = "5201"
	streamPort  = "5301" // takes bytes to the end, then tells how many
	connectPort = "5302" // ends every connection at once
	countPort   = "5303" // counts packets
)

// Packets of the count service: kind, then the number of the probe they belong to.
const (
	kindData  = 'd'
	kindAsk   = 'q' // answered with the count of this probe's data packets, 8 bytes
	countHead = 9
)

// sink serves the far end of every measurement, on all addresses.
func sink([]string) error {
	streams, err := net.Listen("tcp", ":"+streamPort)
	if err != nil {
		return err
	}
	connections, err := net.Listen("tcp", ":"+connectPort)
	if err != nil {
		return err
	}
	counter, err := net.ListenPacket("udp4", ":"+countPort)
	if err != nil {
		return err
	}
	ended := make(chan error, 3)
	go func() { ended <- accept(streams, swallow) }()
	go func() { ended <- accept(connections, func(c net.Conn) { c.Close() }) }()
	go func() { ended <- count(counter.(*net.UDPConn)) }()
	fmt.Println("listening")
	return <-ended
}

func accept(l net.Listener, serve func(net.Conn)) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go serve(c)
	}
}

// swallow reads to the end and answers with the number of bytes.
func swallow(c net.Conn) {
	defer c.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 128<<10))
	if err == nil {
		_, _ = c.Write(binary.BigEndian.AppendUint64(nil, uint64(n)))
	}
}

// receiveBuffer is large, so that what is lost was lost in the tunnel.
const receiveBuffer = 16 << 20

// count counts data packets of the probe seen last, and answers who asks. Packets of earlier probes are stragglers.
func count(c *net.UDPConn) error {
	if err := force(c, unix.SO_RCVBUFFORCE); err != nil {
		return err
	}
	var probe, n uint64
	p := ipv4.NewPacketConn(c)
	batch := messages(64, packetSize)
	for {
		got, err := p.ReadBatch(batch, 0)
		if err != nil {
			return err
		}
		for _, m := range batch[:got] {
			if m.N < countHead {
				continue
			}
			b := m.Buffers[0]
			if id := binary.BigEndian.Uint64(b[1:]); id > probe {
				probe, n = id, 0
			} else if id < probe {
				continue
			}
			switch b[0] {
			case kindData:
				n++
			case kindAsk:
				_, _ = c.WriteTo(binary.BigEndian.AppendUint64(b[1:countHead:countHead], n), m.Addr)
			}
		}
	}
}

func messages(n, size int) []ipv4.Message {
	m := make([]ipv4.Message, n)
	for i := range m {
		m[i].Buffers = [][]byte{make([]byte, size)}
	}
	return m
}

// force sets a socket's buffer size beyond what the system allows everybody.
func force(c *net.UDPConn, option int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var setErr error
	err = raw.Control(func(fd uintptr) {
		setErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, receiveBuffer)
	})
	return errors.Join(err, setErr)
}
