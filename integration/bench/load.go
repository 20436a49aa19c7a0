//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
)

// throughput is what a sender of bytes got through.
type throughput struct {
	Bytes   float64
	Seconds float64
}

// stream sends over several connections: stream ADDRESS STREAMS DURATION [SOCKS5-PROXY]. It counts what the far end has read.
func stream(args []string) error {
	if len(args) == 3 {
		args = append(args, "")
	}
	if len(args) != 4 {
		return errors.New("stream ADDRESS STREAMS DURATION [SOCKS5-PROXY]")
	}
	dial, err := dialer(args[3])
	if err != nil {
		return err
	}
	streams, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	d, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	var total atomic.Uint64
	failed := make(chan error, streams)
	began := time.Now()
	for range streams {
		group.Go(func() {
			n, err := pour(dial, args[0], began.Add(d))
			total.Add(n)
			failed <- err
		})
	}
	group.Wait()
	close(failed)
	for err := range failed {
		if err != nil {
			return err
		}
	}
	return answer(throughput{float64(total.Load()), time.Since(began).Seconds()})
}

// pour sends until end: how many bytes arrived.
func pour(dial func(string) (net.Conn, error), addr string, end time.Time) (uint64, error) {
	c, err := dial(addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.SetDeadline(end.Add(10 * time.Second)); err != nil {
		return 0, err
	}
	for buf := make([]byte, 128<<10); time.Now().Before(end); {
		if _, err := c.Write(buf); err != nil {
			return 0, err
		}
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return 0, err
	}
	var n [8]byte
	_, err = io.ReadFull(c, n[:])
	return binary.BigEndian.Uint64(n[:]), err
}

// connect opens connections one after another until the time is over, AT-A-TIME of them side by side:
// connect ADDRESS AT-A-TIME DURATION. A connection counts when the far end's close has come back. It answers with their number a second.
func connect(args []string) error {
	if len(args) != 3 {
		return errors.New("connect ADDRESS AT-A-TIME DURATION")
	}
	workers, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	d, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	var opened atomic.Int64
	failed := make(chan error, workers)
	began := time.Now()
	for range workers {
		go func() {
			for time.Since(began) < d {
				if err := openOne(args[0]); err != nil {
					failed <- err
					return
				}
				opened.Add(1)
			}
			failed <- nil
		}()
	}
	for range workers {
		if err := <-failed; err != nil {
			return fmt.Errorf("after %d connections: %w", opened.Load(), err)
		}
	}
	return answer(float64(opened.Load()) / time.Since(began).Seconds())
}

// openOne opens a connection and waits for the far end to close it. The server closing first keeps the client's ports free.
func openOne(addr string) error {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("wait for the far end's close: %w", err)
	}
	return nil
}

// await pings until the first answer, for up to 20 s: await ADDRESS.
func await(args []string) error {
	if len(args) != 1 {
		return errors.New("await ADDRESS")
	}
	p, err := newPinger(args[0])
	if err != nil {
		return err
	}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		if _, err = p.echo(200 * time.Millisecond); err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond) // a refused send fails at once
	}
	return fmt.Errorf("no answer from %s: %w", args[0], err)
}

// latency of a ping, in microseconds.
type latency struct{ Median, P99 float64 }

// ping sends echoes one at a time, each 1 ms after the last answer: ping ADDRESS COUNT.
func ping(args []string) error {
	if len(args) != 2 {
		return errors.New("ping ADDRESS COUNT")
	}
	n, err := strconv.Atoi(args[1])
	if err != nil || n < 1 {
		return fmt.Errorf("ping %q times: %w", args[1], err)
	}
	p, err := newPinger(args[0])
	if err != nil {
		return err
	}
	took := make([]float64, n)
	for i := range took {
		d, err := p.echo(time.Second)
		if err != nil {
			return err
		}
		took[i] = float64(d.Nanoseconds()) / 1000
		time.Sleep(time.Millisecond)
	}
	slices.Sort(took)
	return answer(latency{took[n/2], took[n*99/100]})
}

// pinger sends ICMP echoes to one address.
type pinger struct {
	conn *icmp.PacketConn
	to   *net.IPAddr
	id   int
	seq  int
}

func newPinger(addr string) (*pinger, error) {
	c, err := icmp.ListenPacket("ip4:icmp", "0.0.0.0")
	if err != nil {
		return nil, err
	}
	return &pinger{conn: c, to: &net.IPAddr{IP: net.ParseIP(addr)}, id: os.Getpid() & 0xffff}, nil
}

// echo sends one and waits for its answer.
func (p *pinger) echo(patience time.Duration) (time.Duration, error) {
	p.seq = (p.seq + 1) & 0xffff
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: p.id, Seq: p.seq, Data: make([]byte, 56)}}
	b, err := m.Marshal(nil)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := p.conn.SetReadDeadline(began.Add(patience)); err != nil {
		return 0, err
	}
	if _, err := p.conn.WriteTo(b, p.to); err != nil {
		return 0, err
	}
	for buf := make([]byte, 1500); ; {
		n, _, err := p.conn.ReadFrom(buf)
		if err != nil {
			return 0, err
		}
		took := time.Since(began)
		m, err := icmp.ParseMessage(1, buf[:n]) // 1 is ICMP for IPv4
		if err != nil {
			continue
		}
		if e, ok := m.Body.(*icmp.Echo); ok && m.Type == ipv4.ICMPTypeEchoReply && e.ID == p.id && e.Seq == p.seq {
			return took, nil
		}
	}
}
