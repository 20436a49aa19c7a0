package hostnet

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
)

// settle is how long Watch waits for a burst of changes (an interface coming up brings a dozen) to end before it reports.
const settle = 50 * time.Millisecond

// Watch sends on changed, without ever waiting for it, whenever the host's links, addresses or routes have changed, until ctx ends.
// It needs no privilege. It fails when the kernel's notices cannot be had, or were lost; then the caller starts it anew.
func Watch(ctx context.Context, changed chan<- struct{}) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	lost := func(err error) { cancel(fmt.Errorf("the kernel's notices of network changes were lost: %w", err)) }
	links, addrs, routes := make(chan netlink.LinkUpdate), make(chan netlink.AddrUpdate), make(chan netlink.RouteUpdate)
	if err := netlink.LinkSubscribeWithOptions(links, ctx.Done(), netlink.LinkSubscribeOptions{ErrorCallback: lost}); err != nil {
		return fmt.Errorf("subscribe to link changes: %w", err)
	}
	if err := netlink.AddrSubscribeWithOptions(addrs, ctx.Done(), netlink.AddrSubscribeOptions{ErrorCallback: lost}); err != nil {
		return fmt.Errorf("subscribe to address changes: %w", err)
	}
	if err := netlink.RouteSubscribeWithOptions(routes, ctx.Done(), netlink.RouteSubscribeOptions{ErrorCallback: lost}); err != nil {
		return fmt.Errorf("subscribe to route changes: %w", err)
	}
	return collect(ctx, links, addrs, routes, changed)
}

// collect merges the three channels until ctx ends, then empties them so that their senders, which netlink started, can end.
func collect(ctx context.Context, links <-chan netlink.LinkUpdate, addrs <-chan netlink.AddrUpdate, routes <-chan netlink.RouteUpdate, changed chan<- struct{}) error {
	defer func() {
		go drain(links)
		go drain(addrs)
		go drain(routes)
	}()
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); cause != ctx.Err() {
				return cause
			}
			return nil
		case <-due:
			due = nil
			select {
			case changed <- struct{}{}:
			default:
			}
			continue
		case _, ok := <-links:
			if !ok {
				links = nil
			}
		case _, ok := <-addrs:
			if !ok {
				addrs = nil
			}
		case _, ok := <-routes:
			if !ok {
				routes = nil
			}
		}
		if due == nil {
			due = time.After(settle)
		}
	}
}

// drain ends when netlink closes the channel, which it does when its done channel is closed.
func drain[T any](c <-chan T) {
	if c == nil {
		return
	}
	for range c {
	}
}
