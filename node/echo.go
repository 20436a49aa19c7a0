package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// echoPayload is the size of an echo's payload, in bytes: random, so that only the answer to this very echo counts.
const echoPayload = 32

// echo sends one ICMP echo by the host's own stack, which needs privilege, and waits for the answer until ctx ends.
func echo(ctx context.Context, from, to netip.Addr) (time.Duration, error) {
	network, request, reply, protocol := "ip4:icmp", icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply), 1
	if to.Is6() {
		network, request, reply, protocol = "ip6:ipv6-icmp", ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, 58
	}
	c, err := icmp.ListenPacket(network, from.String())
	if err != nil {
		return 0, fmt.Errorf("open an ICMP socket: %w", err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	payload := make([]byte, echoPayload)
	_, _ = rand.Read(payload) // never fails (Go 1.24)
	message := icmp.Message{Type: request, Body: &icmp.Echo{ID: int(binary.BigEndian.Uint16(payload)), Seq: 1, Data: payload}}
	packet, err := message.Marshal(nil)
	if err != nil {
		return 0, fmt.Errorf("make an echo: %w", err)
	}
	sent := time.Now()
	if _, err := c.WriteTo(packet, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return 0, fmt.Errorf("send an echo: %w", err)
	}
	if err := awaitReply(ctx, c, reply, protocol, payload); err != nil {
		return 0, err
	}
	return time.Since(sent), nil
}

func awaitReply(ctx context.Context, c *icmp.PacketConn, reply icmp.Type, protocol int, payload []byte) error {
	buffer := make([]byte, 2048)
	for {
		n, _, err := c.ReadFrom(buffer)
		if ctx.Err() != nil {
			return errors.New("no answer in time")
		}
		if err != nil {
			return fmt.Errorf("wait for the answer: %w", err)
		}
		m, err := icmp.ParseMessage(protocol, buffer[:n])
		if err != nil || m.Type != reply {
			continue
		}
		if e, ok := m.Body.(*icmp.Echo); ok && bytes.Equal(e.Data, payload) {
			return nil
		}
	}
}
