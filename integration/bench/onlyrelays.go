//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"picket.internal/integration/lab"
)

// relayTurn is how long the proxy, and then the relay, carries in one round of -only relays: short turns meet the same load on the machine.
const relayTurn = time.Second

// runRelays compares the relay with the TLS proxy, and measures nothing else.
func runRelays(ctx context.Context, _ string, p plan) error {
	if p.rounds < 1 {
		return errors.New("at least one round")
	}
	p.stream = relayTurn
	dir, err := os.MkdirTemp("", "pkbench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	world, err := lab.New(lab.Config{Dir: dir})
	if err != nil {
		return err
	}
	defer world.Close()
	b := &bench{plan: p}
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.client, err = world.Host("client"); err != nil {
		return err
	}
	if b.server, err = world.Host("server"); err != nil {
		return err
	}
	if b.ways, err = newOtherWays(ctx, world, b); err != nil {
		return err
	}
	var beside, ours []ways
	for i := range p.rounds {
		proxied, relayed, err := b.bothCarried(ctx)
		if ctx.Err() != nil {
			return errors.New("interrupted; nothing is left behind")
		}
		if err != nil {
			return fmt.Errorf("round %d, %w", i+1, err)
		}
		fmt.Printf("round %-3d TLS proxy %4.0f Mb/s, relay %4.0f Mb/s, ratio %.2f\n", i+1, proxied, relayed, relayed/proxied)
		beside, ours = append(beside, ways{carried: proxied}), append(ours, ways{carried: relayed})
	}
	fmt.Println()
	report(os.Stdout, wayMetrics[:1], "Picket", "beside", beside, ours)
	return nil
}
