//go:build linux

package main

import (
	"fmt"
	"io"
	"slices"
)

// figures is what one side showed in one round.
type figures struct {
	tcp1, tcp4    float64 // Mb/s
	cpu1, cpu4    float64 // CPU seconds a GB, both ends together
	pps           float64 // packets a second
	conn1, conn16 float64 // connections a second
	ping, ping99  float64 // µs
	memory        float64 // MB, the larger end
}

func (f figures) String() string {
	return fmt.Sprintf("TCP %.0f / %.0f Mb/s, %.2f / %.2f CPU s/GB, %.0f packets/s, %.0f / %.0f connections/s, ping %.0f µs (99 %%: %.0f), %.0f MB",
		f.tcp1, f.tcp4, f.cpu1, f.cpu4, f.pps, f.conn1, f.conn16, f.ping, f.ping99, f.memory)
}

// ways is what one side showed in one round in other ways than a direct tunnel between two interfaces, in Mb/s.
type ways struct {
	carried              float64 // datagrams through a relay, or through a TLS proxy beside it
	relayed              float64 // TCP, 1 stream, by relay
	rootless1, rootless4 float64 // TCP, between nodes without an interface
}

func (w ways) String() string {
	return fmt.Sprintf("relay %.0f Mb/s; TCP by relay %.0f Mb/s, rootless %.0f / %.0f Mb/s", w.carried, w.relayed, w.rootless1, w.rootless4)
}

// metric is one line of a report on figures or ways.
type metric[F any] struct {
	name  string
	unit  string
	of    func(F) float64
	least bool    // less is better
	floor float64 // the ratio that Picket is never to be worse than; 0 for none
}

// wayMetrics are what is reported of ways. The relay stands beside the proxy, the others beside wireguard-go.
var wayMetrics = []metric[ways]{
	{"relay beside a TLS proxy, 1280 bytes", "Mb/s", func(w ways) float64 { return w.carried }, false, 0.8},
	{"TCP by relay, 1 stream", "Mb/s", func(w ways) float64 { return w.relayed }, false, 0},
	{"TCP, both ends rootless, 1 stream", "Mb/s", func(w ways) float64 { return w.rootless1 }, false, 0},
	{"TCP, both ends rootless, 4 streams", "Mb/s", func(w ways) float64 { return w.rootless4 }, false, 0},
}

// metrics are the figures that count, with their floors.
var metrics = []metric[figures]{
	{"TCP throughput, 1 stream", "Mb/s", func(f figures) float64 { return f.tcp1 }, false, 0.97},
	{"TCP throughput, 4 streams", "Mb/s", func(f figures) float64 { return f.tcp4 }, false, 0.97},
	{"200-byte UDP packets, loss under 1 %", "/s", func(f figures) float64 { return f.pps }, false, 0.95},
	{"new TCP connections, 1 at a time", "/s", func(f figures) float64 { return f.conn1 }, false, 0.9},
	{"new TCP connections, 16 at a time", "/s", func(f figures) float64 { return f.conn16 }, false, 0.9},
	{"ping, median", "µs", func(f figures) float64 { return f.ping }, true, 1.05},
	{"ping, 99th percentile", "µs", func(f figures) float64 { return f.ping99 }, true, 1.05},
	{"CPU per GB, both ends, 1 stream", "s", func(f figures) float64 { return f.cpu1 }, true, 1.05},
	{"CPU per GB, both ends, 4 streams", "s", func(f figures) float64 { return f.cpu4 }, true, 1.05},
	{"peak memory, larger end", "MB", func(f figures) float64 { return f.memory }, true, 0.5},
}

// spread is the least, middle and greatest of some values.
type spread struct{ min, median, max float64 }

func spreadOf(values []float64) spread {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return spread{v[0], (v[(n-1)/2] + v[n/2]) / 2, v[n-1]}
}

// ratios is b over a, round by round.
func (m metric[F]) ratios(a, b []F) spread {
	r := make([]float64, len(a))
	for i := range a {
		r[i] = m.of(b[i]) / m.of(a[i])
	}
	return spreadOf(r)
}

func (m metric[F]) median(f []F) float64 {
	v := make([]float64, len(f))
	for i := range f {
		v[i] = m.of(f[i])
	}
	return spreadOf(v).median
}

// holds reports whether a ratio is on the floor's good side.
func (m metric[F]) holds(ratio float64) bool {
	if m.least {
		return ratio <= m.floor
	}
	return ratio >= m.floor
}

// report prints a table that reads as text and as Markdown.
func report[F any](w io.Writer, metrics []metric[F], name, beside string, a, b []F) {
	fmt.Fprintf(w, "| %-37s | %12s | %15s | %6s | %6s | %6s | %-11s |\n", "", beside, name, "min", "median", "max", "floor")
	fmt.Fprintln(w, "|---------------------------------------|-------------:|----------------:|-------:|-------:|-------:|-------------|")
	for _, m := range metrics {
		r := m.ratios(a, b)
		fmt.Fprintf(w, "| %-37s | %12s | %15s | %6.2f | %6.2f | %6.2f | %-11s |\n", m.name, m.amount(m.median(a)), m.amount(m.median(b)), r.min, r.median, r.max, m.verdict(r.median))
	}
}

func (m metric[F]) verdict(ratio float64) string {
	switch {
	case m.floor == 0:
		return "none"
	case m.holds(ratio):
		return fmt.Sprintf("%-4.3g %-6s", m.floor, "holds")
	}
	return fmt.Sprintf("%-4.3g %-6s", m.floor, "missed")
}

// amount is a value with its unit.
func (m metric[F]) amount(v float64) string {
	digits := 0
	if v < 100 {
		digits = 2
	}
	return fmt.Sprintf("%.*f %s", digits, v, m.unit)
}
