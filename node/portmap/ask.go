package portmap

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// askPort is where gateways take both PCP and NAT-PMP (RFC 6887 section 19.1).
const askPort = 5351

// firstRetry is how long the first answer is waited for; each next wait is twice as long (RFC 6886 section 3.1).
const firstRetry = 250 * time.Millisecond

// errSilent is what a gateway gives who does not speak a protocol.
var errSilent = errors.New("the gateway does not answer")

type dialer struct {
	control func(network, address string, c syscall.RawConn) error
}

// exchange sends a question to a gateway's port 5351, again and again until ctx ends, and returns the first answer that fits. The socket takes
// datagrams from there alone.
func (d dialer) exchange(ctx context.Context, router netip.Addr, question []byte, fits func([]byte) bool) ([]byte, error) {
	nd := net.Dialer{Control: d.control}
	c, err := nd.DialContext(ctx, "udp4", netip.AddrPortFrom(router, askPort).String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 1100) // RFC 6887 section 7: the longest message
	for wait := firstRetry; ctx.Err() == nil; wait *= 2 {
		if _, err := c.Write(question); err != nil && ctx.Err() == nil {
			return nil, errSilent // its port is closed
		}
		until := time.Now().Add(wait)
		for {
			if ctx.Err() != nil {
				return nil, errSilent
			}
			_ = c.SetReadDeadline(until)
			n, err := c.Read(buf)
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				break
			}
			if err != nil {
				return nil, errSilent
			}
			if fits(buf[:n]) {
				return buf[:n], nil
			}
		}
	}
	return nil, errSilent
}
