package path

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"time"
)

// AskReflectors asks reflectors from a UDP socket of the caller's, for who has no tunnel yet: each up to three times, as RunReflect does, until all have
// answered or ctx ends. It returns what each says, in their order, at most 16. What comes from anybody else, or answers another question, is passed over.
// The socket's deadlines are changed.
func AskReflectors(ctx context.Context, socket net.PacketConn, reflectors []netip.AddrPort) []Reflection {
	reflectors = reflectors[:min(len(reflectors), maxReflectors)]
	out, asked, sent := make([]Reflection, len(reflectors)), make([]transaction, len(reflectors)), time.Time{}
	for i, at := range reflectors {
		out[i].Reflector, asked[i] = at, newTransaction()
	}
	stop := context.AfterFunc(ctx, func() { _ = socket.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	waiting := func(r Reflection) bool { return !r.Seen.IsValid() && !r.Failed }
	buffer := make([]byte, longestReflection+1)
	for try := range reflectTries {
		sent = time.Now()
		for i, at := range reflectors {
			if !out[i].Seen.IsValid() {
				_, err := socket.WriteTo(question(asked[i]), net.UDPAddrFromAddrPort(at))
				out[i].Failed = err != nil
			}
		}
		until := sent.Add(reflectRetry << try)
		for slices.ContainsFunc(out, waiting) && ctx.Err() == nil {
			_ = socket.SetReadDeadline(until)
			if ctx.Err() != nil {
				break // it set a deadline just before ours
			}
			n, from, err := socket.ReadFrom(buffer)
			if err != nil && !time.Now().Before(until) || ctx.Err() != nil {
				break
			}
			if udp, ok := from.(*net.UDPAddr); ok && err == nil {
				i := slices.Index(reflectors, netip.AddrPortFrom(udp.AddrPort().Addr().Unmap(), udp.AddrPort().Port()))
				if i >= 0 && waiting(out[i]) {
					landAsked(&out[i], asked[i], buffer[:n], time.Since(sent))
				}
			}
		}
		if !slices.ContainsFunc(out, waiting) || ctx.Err() != nil {
			break
		}
	}
	return out
}

// landAsked takes an answer to that question.
func landAsked(r *Reflection, asked transaction, datagram []byte, took time.Duration) {
	kind, t, ok := stunKind(datagram)
	if !ok || kind != stunSuccess || t != asked {
		return
	}
	if seen, ok := mapped(datagram); ok && seen.Addr().Is4() == r.Reflector.Addr().Is4() {
		r.Seen, r.Latency = seen, took
	}
}
