package userspace

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// pingPayload is random, so that only the answer to this very echo counts.
const pingPayload = 16

// Ping sends one ICMP echo and waits for its answer: the round-trip time. A refusal by the filter is returned at once and
// matches syscall.EHOSTUNREACH; silence lasts until ctx ends.
func (s *Stack) Ping(ctx context.Context, to netip.Addr) (time.Duration, error) {
	rtt, err := s.ping(ctx, to)
	if err != nil {
		return 0, fmt.Errorf("ping %s: %w", to, err)
	}
	return rtt, nil
}

func (s *Stack) ping(ctx context.Context, to netip.Addr) (time.Duration, error) {
	if !to.IsValid() || to.Is4In6() || to.Zone() != "" {
		return 0, fmt.Errorf("not an overlay address")
	}
	queue := new(waiter.Queue)
	ep, id, err := s.openPing(to, queue)
	if err != nil {
		return 0, err
	}
	defer ep.Close()
	entry, readable := waiter.NewChannelEntry(waiter.ReadableEvents)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)

	key, refused := pingKey{to, id}, make(chan error, 1)
	s.mu.Lock()
	s.pings[key] = refused
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.pings, key)
		s.mu.Unlock()
	}()

	payload := make([]byte, pingPayload)
	_, _ = rand.Read(payload)
	start := time.Now()
	if _, err := ep.Write(bytes.NewReader(echoRequest(to, payload)), tcpip.WriteOptions{}); err != nil {
		return 0, errnoOf(err)
	}
	for {
		if echoed(ep, payload) {
			return time.Since(start), nil
		}
		select {
		case <-readable:
		case err := <-refused:
			return 0, err
		case <-s.device.closed:
			return 0, errClosed
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// openPing opens an ICMP socket to one address; its identifier is what the stack calls its local port.
func (s *Stack) openPing(to netip.Addr, queue *waiter.Queue) (tcpip.Endpoint, uint16, error) {
	transport := icmp.ProtocolNumber4
	if to.Is6() {
		transport = icmp.ProtocolNumber6
	}
	remote := fullAddress(netip.AddrPortFrom(to, 0))
	ep, err := s.ip.NewEndpoint(transport, networkOf(remote.Addr), queue)
	if err != nil {
		return nil, 0, errnoOf(err)
	}
	if err := ep.Connect(remote); err != nil {
		ep.Close()
		return nil, 0, errnoOf(err)
	}
	local, err := ep.GetLocalAddress()
	if err != nil {
		ep.Close()
		return nil, 0, errnoOf(err)
	}
	return ep, local.Port, nil
}

// echoRequest is the message without identifier and checksum, which the socket fills in.
func echoRequest(to netip.Addr, payload []byte) []byte {
	if to.Is4() {
		m := header.ICMPv4(make([]byte, header.ICMPv4MinimumSize, header.ICMPv4MinimumSize+len(payload)))
		m.SetType(header.ICMPv4Echo)
		m.SetSequence(1)
		return append(m, payload...)
	}
	m := header.ICMPv6(make([]byte, header.ICMPv6EchoMinimumSize, header.ICMPv6EchoMinimumSize+len(payload)))
	m.SetType(header.ICMPv6EchoRequest)
	m.SetSequence(1)
	return append(m, payload...)
}

// echoed drains what has come and reports whether the answer is among it. Both families have 8 bytes before the payload.
func echoed(ep tcpip.Endpoint, payload []byte) bool {
	for {
		var b bytes.Buffer
		if _, err := ep.Read(&b, tcpip.ReadOptions{}); err != nil {
			return false
		}
		if m := b.Bytes(); len(m) == header.ICMPv4MinimumSize+len(payload) && bytes.Equal(m[header.ICMPv4MinimumSize:], payload) {
			return true
		}
	}
}
