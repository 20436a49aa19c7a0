package web

import (
	"context"
	"net/netip"

	"picket.internal/coordinator"
)

// panicking breaks a promise at sign-in.
type panicking struct{ API }

func (panicking) SignIn(context.Context, coordinator.SignIn) (coordinator.User, error) {
	panic("kaboom")
}

// witness notes where a sign-in came from.
type witness struct {
	API
	seen chan<- netip.Addr
}

func (w witness) SignIn(ctx context.Context, s coordinator.SignIn) (coordinator.User, error) {
	w.seen <- s.From
	return w.API.SignIn(ctx, s)
}
