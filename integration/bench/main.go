//go:build linux

// Bench compares a Picket tunnel with bare wireguard-go, of the same version and at the same MTU, between the same two hosts of a
// lab: each round measures the one and then the other, and what counts is the ratio within a round, since machines are noisy and
// ratios less so. It needs root for the namespaces, keeps all traffic inside them, and leaves nothing behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"picket.internal/integration/lab"
)

func main() {
	lab.Helper()
	helper()
	bin := flag.String("bin", "bin", "folder with the programs")
	rounds := flag.Int("rounds", 5, "measure each side `N` times, in turn")
	only := flag.String("only", "", "measure `relays` alone, beside the TLS proxy, in many short turns")
	quick := flag.Bool("quick", false, "two short rounds, which show that measuring works and little else")
	flag.Parse()
	if why := lab.CanPrivileged(); why != nil {
		fmt.Printf("The paired run is skipped, because it needs network namespaces and TUN devices: %v.\n", why)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p := full
	p.rounds = *rounds
	if *quick {
		p = short
	}
	if *only != "" && *only != "relays" {
		fmt.Fprintln(os.Stderr, "bench: -only takes relays, and nothing else; without it all is measured")
		os.Exit(2)
	}
	do := run
	if *only != "" {
		do = runRelays
	}
	if err := do(ctx, *bin, p); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// plan says how long each figure of a round is measured.
type plan struct {
	rounds  int
	stream  time.Duration // TCP throughput, for each number of streams
	probe   time.Duration // one rate of UDP packets
	connect time.Duration // new connections, for each number at a time
	pings   int
}

var (
	full  = plan{rounds: 5, stream: 4 * time.Second, probe: 300 * time.Millisecond, connect: 1500 * time.Millisecond, pings: 4000}
	short = plan{rounds: 2, stream: time.Second, probe: 100 * time.Millisecond, connect: 300 * time.Millisecond, pings: 50}
)

func run(ctx context.Context, bin string, p plan) error {
	if p.rounds < 1 {
		return errors.New("at least one round")
	}
	dir, err := os.MkdirTemp("", "pkbench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bin, err = filepath.Abs(bin)
	if err != nil {
		return err
	}
	began := time.Now()
	r, err := measureAll(ctx, lab.Config{Bin: bin, Dir: dir}, p)
	if ctx.Err() != nil {
		return errors.New("interrupted; nothing is left behind")
	}
	if err != nil {
		return err
	}
	fmt.Printf("\n%d rounds in %v. Ratios are Picket's figure over wireguard-go's of the same round.\n", p.rounds, time.Since(began).Round(time.Second))
	for _, side := range r.pickets {
		fmt.Println()
		report(os.Stdout, metrics, side.name, "wireguard-go", r.bare, side.figures)
	}
	fmt.Println()
	report(os.Stdout, wayMetrics, "Picket", "beside", r.beside, r.ways)
	return nil
}

// results are what all rounds showed.
type results struct {
	bare         []figures
	pickets      []side
	beside, ways []ways
}

// side is what one tunnel showed, round by round.
type side struct {
	name    string
	figures []figures
}

// measureAll runs the rounds.
func measureAll(ctx context.Context, c lab.Config, p plan) (r results, err error) {
	world, err := lab.New(c)
	if err != nil {
		return r, err
	}
	defer world.Close()
	bench, err := newBench(ctx, world, c.Dir, p)
	if err != nil {
		return r, err
	}
	bench.facts(os.Stdout)
	for _, t := range bench.pickets {
		r.pickets = append(r.pickets, side{name: t.name()})
	}
	for i := range p.rounds {
		fmt.Printf("round %d of %d\n", i+1, p.rounds)
		if err := bench.round(ctx, &r); err != nil {
			return r, fmt.Errorf("round %d, %w", i+1, err)
		}
	}
	return r, nil
}

// round measures everything once, in turn.
func (b *bench) round(ctx context.Context, r *results) error {
	one := func(t tunnel, into *[]figures) error {
		f, err := b.measure(ctx, t)
		if err != nil {
			return fmt.Errorf("%s: %w", t.name(), err)
		}
		fmt.Printf("  %-16s %v\n", t.name(), f)
		*into = append(*into, f)
		return nil
	}
	if err := one(b.bare, &r.bare); err != nil {
		return err
	}
	for i, t := range b.pickets {
		if err := one(t, &r.pickets[i].figures); err != nil {
			return err
		}
	}
	beside, ours, err := b.measureWays(ctx, r.bare[len(r.bare)-1])
	if err != nil {
		return err
	}
	fmt.Printf("  %-16s %v (TLS proxy %.0f Mb/s)\n", "other ways", ours, beside.carried)
	r.beside, r.ways = append(r.beside, beside), append(r.ways, ours)
	return nil
}
