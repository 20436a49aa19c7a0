package main

import (
	"errors"

	"github.com/urfave/cli/v2"

	"picket.internal/node/localapi"
)

// showDevice refuses: reading WireGuard devices needs C there.
func showDevice(*cli.Context, localapi.Status) error {
	return errors.New("WireGuard devices cannot be shown on FreeBSD: use picket status and picket peers")
}
