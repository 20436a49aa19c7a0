//go:build linux

package lab

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// Serve starts an echo service on host: proto is "tcp" or "udp", at an address of the host ("0.0.0.0:5432", "[::]:5432").
func (h *Host) Serve(ctx context.Context, proto, addr string) (*Process, error) {
	p, err := h.Start("serve-"+proto+"-"+port(addr), h.world.self, helperWord, "serve", proto, addr)
	if err != nil {
		return nil, err
	}
	return p, p.WaitFor(ctx, "service listening", func(out string) bool { return strings.Contains(out, "listening") })
}

func port(addr string) string {
	_, p, _ := net.SplitHostPort(addr)
	return p
}

// Flow is an open connection that sends a line every 10 ms and hears it echoed.
type Flow struct{ *Process }

// Refusal is a connection that could not be opened.
type Refusal struct {
	After  time.Duration
	Reason string
}

func (r *Refusal) Error() string { return fmt.Sprintf("refused after %v: %s", r.After, r.Reason) }

// Dial opens a flow from the node's host to an overlay address, through the node's proxy when rootless. A connection that cannot be opened
// is a *Refusal.
func (n *Node) Dial(ctx context.Context, proto, addr string) (*Flow, error) {
	args := []string{n.Host.world.self, helperWord, "dial", proto, addr}
	if n.SOCKS5 != "" {
		args = append(args, n.SOCKS5)
	}
	name := fmt.Sprintf("dial-%s-%s-%d", proto, port(addr), time.Now().UnixNano())
	p, err := n.Host.Start(name, args...)
	if err != nil {
		return nil, err
	}
	f := &Flow{Process: p}
	var refusal *Refusal
	began := time.Now()
	_ = p.WaitFor(ctx, "connection", func(out string) bool {
		if after, ok := strings.CutPrefix(out, "refused "); ok && strings.Contains(out, "\n") {
			ns, reason, _ := strings.Cut(strings.SplitN(after, "\n", 2)[0], " ")
			d, _ := strconv.ParseInt(ns, 10, 64)
			refusal = &Refusal{time.Duration(d), reason}
		}
		if end := f.Ended(); !end.IsZero() && !strings.Contains(out, "echo ") { // udp learns of a refusal by an ICMP error
			refusal = &Refusal{end.Sub(began), f.Reason()}
		}
		return refusal != nil || strings.Contains(out, "echo ")
	})
	if refusal != nil {
		p.Kill()
		return nil, refusal
	}
	if !strings.Contains(p.Output(), "echo ") {
		return nil, fmt.Errorf("no echo over %s from %s: %s", proto, addr, p.Output())
	}
	return f, nil
}

// LastEcho is when the newest echo came back.
func (f *Flow) LastEcho() time.Time { return f.last("echo ") }

// Ended is when the connection ended (with udp: when the newest error came); zero while it goes on.
func (f *Flow) Ended() time.Time { return f.last("end ") }

func (f *Flow) last(word string) time.Time {
	out := f.Output()
	i := strings.LastIndex(out, "\n"+word)
	if i < 0 {
		return time.Time{}
	}
	digits, _, _ := strings.Cut(out[i+1+len(word):], "\n")
	digits, _, _ = strings.Cut(digits, " ")
	ns, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(0, ns)
}

// Reason is what the client was told when the connection ended.
func (f *Flow) Reason() string {
	out := f.Output()
	i := strings.LastIndex(out, "\nend ")
	if i < 0 {
		return ""
	}
	line, _, _ := strings.Cut(out[i+5:], "\n")
	_, reason, _ := strings.Cut(line, " ")
	return reason
}

// WaitCut blocks until the flow has ended and returns how long after since that was; an error when it goes on.
func (f *Flow) WaitCut(ctx context.Context, since time.Time) (time.Duration, error) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if end := f.Ended(); !end.IsZero() {
			return end.Sub(since), nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, fmt.Errorf("the flow goes on: last echo %v ago", time.Since(f.LastEcho()))
		}
	}
}

// Alive reports that echoes came back within the last d.
func (f *Flow) Alive(d time.Duration) bool {
	return f.Ended().IsZero() && time.Since(f.LastEcho()) < d
}

// LongestGap is the longest time between two echoes.
func (f *Flow) LongestGap() time.Duration {
	var last, gap int64
	for line := range strings.Lines(f.Output()) {
		digits, ok := strings.CutPrefix(strings.TrimSpace(line), "echo ")
		ns, err := strconv.ParseInt(digits, 10, 64)
		if !ok || err != nil {
			continue
		}
		if last != 0 {
			gap = max(gap, ns-last)
		}
		last = ns
	}
	return time.Duration(gap)
}
