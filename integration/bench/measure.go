//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"picket.internal/integration/lab"
)

// bench is two hosts and the two tunnels between them, one of which is up at a time.
type bench struct {
	plan           plan
	self           string
	client, server *lab.Host
	bare           tunnel
	pickets        []tunnel
	joined         *picket // the first of those
	ways           *otherWays
	iperf          bool // for TCP throughput; else a sender of our own
}

func newBench(ctx context.Context, w *lab.World, dir string, p plan) (*bench, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	b := &bench{plan: p, self: self}
	if b.client, err = w.Host("client"); err != nil {
		return nil, err
	}
	if b.server, err = w.Host("server"); err != nil {
		return nil, err
	}
	if b.bare, err = newBare(self, b.client, b.server); err != nil {
		return nil, err
	}
	same, err := newPicket(ctx, w, dir, b.client, b.server)
	if err != nil {
		return nil, err
	}
	b.joined = same
	b.pickets = []tunnel{same, same.with("Picket, own MTU", "--mtu", "auto")}
	if b.ways, err = newOtherWays(ctx, w, b); err != nil {
		return nil, err
	}
	s, err := b.server.Start("sink", self, helperWord, "sink")
	if err != nil {
		return nil, err
	}
	if err := s.WaitFor(ctx, "services listening", func(out string) bool { return strings.Contains(out, "listening") }); err != nil {
		return nil, err
	}
	if _, err := exec.LookPath("iperf3"); err == nil {
		b.iperf = true
		_, err = b.server.Start("iperf3", "iperf3", "-s", "-p", iperfPort)
		if err != nil {
			return nil, err
		}
	}
	return b, nil
}

// measure brings a tunnel up, takes every figure, and takes it down.
func (b *bench) measure(ctx context.Context, t tunnel) (f figures, err error) {
	l, err := t.start(ctx)
	if err != nil {
		return f, err
	}
	defer l.stop()
	if _, err := b.client.Run(ctx, b.self, helperWord, "await", l.target); err != nil {
		return f, err
	}
	for _, s := range []struct {
		streams   int
		rate, cpu *float64
	}{{1, &f.tcp1, &f.cpu1}, {4, &f.tcp4, &f.cpu4}} {
		if *s.rate, *s.cpu, err = b.throughput(ctx, l, s.streams); err != nil {
			return f, fmt.Errorf("TCP throughput, %d streams: %w", s.streams, err)
		}
	}
	if err := b.helper(ctx, &f.pps, "packets", l.at(countPort), b.plan.probe.String()); err != nil {
		return f, fmt.Errorf("UDP packets: %w", err)
	}
	if err := b.helper(ctx, &f.conn1, "connect", l.at(connectPort), "1", b.plan.connect.String()); err != nil {
		return f, fmt.Errorf("new connections: %w", err)
	}
	if err := b.helper(ctx, &f.conn16, "connect", l.at(connectPort), "16", b.plan.connect.String()); err != nil {
		return f, fmt.Errorf("new connections, 16 at a time: %w", err)
	}
	var p latency
	if err := b.helper(ctx, &p, "ping", l.target, strconv.Itoa(b.plan.pings)); err != nil {
		return f, fmt.Errorf("ping: %w", err)
	}
	f.ping, f.ping99 = p.Median, p.P99
	f.memory, err = peak(l.ends)
	return f, err
}

// helper runs one of this program's helpers on the client and reads its answer into v.
func (b *bench) helper(ctx context.Context, v any, args ...string) error {
	out, err := b.client.Run(ctx, append([]string{b.self, helperWord}, args...)...)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), v)
}

// throughput is in Mb/s as the far end received it, and what a gigabyte of it cost both ends' tunnels in CPU seconds.
func (b *bench) throughput(ctx context.Context, l live, streams int) (mbps, cpu float64, err error) {
	before, err := cpuSeconds(l.ends)
	if err != nil {
		return 0, 0, err
	}
	t, err := b.send(ctx, l, streams)
	if err != nil {
		return 0, 0, err
	}
	after, err := cpuSeconds(l.ends)
	if err != nil {
		return 0, 0, err
	}
	return t.Bytes * 8 / t.Seconds / 1e6, (after - before) / (t.Bytes / 1e9), nil
}

func (b *bench) send(ctx context.Context, l live, streams int) (t throughput, err error) {
	if !b.iperf {
		err = b.helper(ctx, &t, "stream", l.at(streamPort), strconv.Itoa(streams), b.plan.stream.String())
		return t, err
	}
	seconds := strconv.Itoa(max(1, int(b.plan.stream.Round(time.Second).Seconds())))
	out, err := b.client.Run(ctx, "iperf3", "-J", "-c", l.target, "-p", iperfPort, "-t", seconds, "-P", strconv.Itoa(streams), "--connect-timeout", "5000")
	if err != nil {
		return t, fmt.Errorf("%w%s", err, out)
	}
	var told struct {
		End struct {
			Received throughput `json:"sum_received"`
		} `json:"end"`
	}
	err = json.Unmarshal([]byte(out), &told)
	return told.End.Received, err
}
