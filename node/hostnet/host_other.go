//go:build !linux

package hostnet

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Host fits a TUN into this host. There is none on this system.
type Host struct{}

// New refuses.
func New(*slog.Logger) (*Host, error) {
	return nil, errors.New("a network interface of its own is not supported on this system: run with --tun=userspace")
}

// StrictSources lists none.
func StrictSources(string) []string { return nil }

// Clean does nothing.
func Clean(*slog.Logger) {}

// Close does nothing.
func (*Host) Close() {}

// Check does nothing.
func (*Host) Check([]netip.Prefix, string) error { return nil }

// Configure does nothing.
func (*Host) Configure(Config) error { return nil }

// Remove does nothing.
func (*Host) Remove() error { return nil }

// pollEvery is how often Watch looks at the interfaces where the system's own notices are not read.
const pollEvery = 5 * time.Second

// Watch sends on changed, without ever waiting for it, whenever the host's addresses may have changed, until ctx ends.
func Watch(ctx context.Context, changed chan<- struct{}) error {
	seen := addresses()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if now := addresses(); now != seen {
			seen = now
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}
}

func addresses() string {
	found, _ := net.InterfaceAddrs() // none is a state like any other
	var all []string
	for _, a := range found {
		all = append(all, a.String())
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// Flow is a flow that a host forwarded.
type Flow struct {
	Src, Dst netip.AddrPort
	Proto    uint8
}

// Forgetter does nothing: there is no host that forwards.
type Forgetter struct{}

// NewForgetter makes one.
func NewForgetter(*slog.Logger) *Forgetter { return &Forgetter{} }

// Forget does nothing.
func (*Forgetter) Forget([]Flow) {}

// Run waits until ctx ends.
func (*Forgetter) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Dial opens connections as the system does.
func Dial(timeout time.Duration) func(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{Timeout: timeout}).DialContext
}
