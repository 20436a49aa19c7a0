//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

const (
	packetSize = 200 // bytes of UDP payload
	tolerated  = 0.01
	firstRate  = 10_000 // packets a second
	lastRate   = 2_000_000
	bisections = 5
	sendEvery  = 200 * time.Microsecond
	maxBurst   = 64
)

// packets finds the highest rate of small packets of which less than 1 % is lost: packets ADDRESS PROBE-DURATION. Rates double until
// one fails, then the gap is halved five times. A rate fails when two probes in a row do, since one may have met a busy machine. It
// answers with the rate at which packets arrived.
func packets(args []string) error {
	if len(args) != 2 {
		return errors.New("packets ADDRESS PROBE-DURATION")
	}
	d, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	c, err := net.Dial("udp4", args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	u := c.(*net.UDPConn)
	if err := force(u, unix.SO_SNDBUFFORCE); err != nil {
		return err
	}
	s := &shooter{conn: u, batch: ipv4.NewPacketConn(u), buf: messages(maxBurst, packetSize), probe: uint64(time.Now().UnixNano())}
	best, err := search(func(rate float64) (float64, bool, error) { return s.try(rate, d) })
	if err != nil {
		return err
	}
	return answer(best)
}

// search returns the best rate at which packets arrived in a probe that held.
func search(try func(rate float64) (arrived float64, held bool, err error)) (float64, error) {
	best, low, high := 0.0, 0.0, 0.0
	step := func(rate float64) error {
		for range 2 {
			arrived, held, err := try(rate)
			if err != nil {
				return err
			}
			if held {
				best, low = max(best, arrived), rate
				return nil
			}
		}
		high = rate
		return nil
	}
	for rate := float64(firstRate); high == 0 && rate <= lastRate; rate *= 2 {
		if err := step(rate); err != nil {
			return 0, err
		}
	}
	for range bisections {
		if err := step((low + high) / 2); err != nil {
			return 0, err
		}
	}
	if best == 0 {
		return 0, errors.New("no rate of packets stays under 1 % loss")
	}
	return best, nil
}

// shooter sends numbered probes to the count service.
type shooter struct {
	conn  *net.UDPConn
	batch *ipv4.PacketConn
	buf   []ipv4.Message
	probe uint64
}

// try sends at rate for d: how many packets a second arrived, and whether the sender kept the rate and the loss is tolerable.
func (s *shooter) try(rate float64, d time.Duration) (arrived float64, held bool, err error) {
	s.probe++
	for i := range s.buf {
		b := s.buf[i].Buffers[0]
		b[0] = kindData
		binary.BigEndian.PutUint64(b[1:], s.probe)
	}
	began := time.Now()
	sent := 0
	for time.Since(began) < d {
		due := int(rate * time.Since(began).Seconds())
		if due <= sent {
			time.Sleep(sendEvery)
			continue
		}
		n, err := s.batch.WriteBatch(s.buf[:min(due-sent, maxBurst)], 0)
		if err != nil {
			return 0, false, fmt.Errorf("send packets: %w", err)
		}
		sent += n
	}
	took := time.Since(began).Seconds()
	got, err := s.ask()
	if err != nil {
		return 0, false, err
	}
	kept := float64(sent) > rate*took*0.95
	return float64(got) / took, kept && float64(got) >= float64(sent)*(1-tolerated), nil
}

// ask returns how many packets of the probe have arrived, once no more are under way.
func (s *shooter) ask() (uint64, error) {
	question := binary.BigEndian.AppendUint64([]byte{kindAsk}, s.probe)
	buf := make([]byte, packetSize)
	var last uint64
	for attempt := range 20 {
		time.Sleep(50 * time.Millisecond)
		if _, err := s.conn.Write(question); err != nil {
			return 0, fmt.Errorf("ask for the count: %w", err)
		}
		_ = s.conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		n, err := s.conn.Read(buf)
		if err != nil || n != 16 || binary.BigEndian.Uint64(buf) != s.probe {
			continue // lost, or the answer to an earlier question
		}
		count := binary.BigEndian.Uint64(buf[8:])
		if attempt > 0 && count == last {
			return count, nil
		}
		last = count
	}
	return 0, errors.New("the count service does not answer, or goes on counting")
}
