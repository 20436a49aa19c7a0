package main

import (
	"context"
	"time"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator"
	"picket.internal/coordinator/opsocket"
)

// What completes the arguments of commands; nothing where no coordinator answers.
var (
	nodeNames  = listed(opsocket.NodesList, func(n coordinator.NodeView) string { return n.Name })
	userLogins = listed(opsocket.UsersList, func(u coordinator.User) string { return u.Login })
	keyIDs     = listed(opsocket.KeysList, func(k coordinator.AuthKey) string { return k.ID })
	tokenIDs   = listed(opsocket.TokensList, func(t coordinator.Token) string { return t.ID })
	relayNames = listed(opsocket.RelaysList, func(r coordinator.RelayView) string { return r.Name })
	policyIDs  = listed(opsocket.PolicyList, func(v coordinator.PolicyVersion) string { return shortID(v.ID) })
)

// waitingID completes the commit that waits for confirmation.
var waitingID = cliflags.Candidates(func(c *cli.Context) []string {
	ctx, cancel := context.WithTimeout(c.Context, time.Second)
	defer cancel()
	s, err := opsocket.PolicyStatus.Do(ctx, client(c), opsocket.None{})
	if err != nil || s.Waiting == nil {
		return nil
	}
	return []string{shortID(s.Waiting.ID)}
})

func listed[T any](list opsocket.Call[opsocket.None, []T], name func(T) string) cli.BashCompleteFunc {
	return cliflags.Candidates(func(c *cli.Context) []string {
		ctx, cancel := context.WithTimeout(c.Context, time.Second)
		defer cancel()
		all, _ := list.Do(ctx, client(c), opsocket.None{})
		var names []string
		for _, one := range all {
			names = append(names, printable(name(one)))
		}
		return names
	})
}
