package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/urfave/cli/v2"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
)

// Where a system's agent lives.
const (
	systemState  = "/var/lib/picket"
	systemSocket = "/run/picket/picket.sock"
)

// defaultState is the system's directory for root, the user's own otherwise (XDG Base Directory Specification).
func defaultState() string {
	if os.Geteuid() == 0 {
		return systemState
	}
	if d := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "picket")
	}
	if d, err := os.UserConfigDir(); err == nil && runtime.GOOS != "linux" {
		return filepath.Join(d, "picket")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return filepath.Join(os.TempDir(), "picket-state")
	}
	return filepath.Join(home, ".local", "state", "picket")
}

// ownSocket is where this user's agent listens unless told otherwise.
func ownSocket() string {
	if os.Geteuid() == 0 {
		return systemSocket
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(d) {
		return filepath.Join(d, "picket", "picket.sock")
	}
	return filepath.Join(defaultState(), "run", "picket.sock")
}

// askedSocket is where commands look unless told otherwise: this user's agent, else the system's when there is one.
func askedSocket() string {
	own := ownSocket()
	if _, err := os.Stat(own); err != nil {
		if _, err := os.Stat(systemSocket); !errors.Is(err, os.ErrNotExist) {
			return systemSocket
		}
	}
	return own
}

func socketFlag(usual string) cli.Flag {
	return &cli.StringFlag{Name: "socket", EnvVars: []string{"PICKET_SOCKET"}, Value: usual, Usage: "the agent's socket, at `PATH`"}
}

func jsonFlag() cli.Flag { return &cli.BoolFlag{Name: "json", Usage: "print JSON"} }

// asking are the flags of a command that asks the agent.
func asking(more ...cli.Flag) []cli.Flag { return append(more, socketFlag(askedSocket())) }

func client(c *cli.Context) *localapi.Client { return localapi.NewClient(c.String("socket")) }

// peerNames completes the name of a peer.
var peerNames = cliflags.Candidates(knownPeers)

func knownPeers(c *cli.Context) []string {
	ctx, cancel := context.WithTimeout(c.Context, time.Second)
	defer cancel()
	peers, _ := client(c).Peers(ctx) // without an agent there is nothing to offer
	var names []string
	for _, p := range peers {
		names = append(names, protocol.Printable(p.Name))
	}
	return names
}

// explain says how to start an agent when there is none.
func explain(err error) error {
	if errors.Is(err, localapi.ErrNoAgent) {
		return fmt.Errorf("%w: start one with `sudo picket install` (a service), `sudo picket run` (in a terminal of its own), or without root `picket run --tun=userspace`", err)
	}
	return err
}
