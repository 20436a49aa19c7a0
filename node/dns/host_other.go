//go:build !linux

package dns

import "log/slog"

// HostConfig says where the host's files and services are.
type HostConfig struct {
	Root, Bus, State string
	Sure             bool
	Logger           *slog.Logger
}

// OpenHost makes a Host that changes nothing.
func OpenHost(HostConfig) Host {
	return NoHost("resolver settings are changed on Linux only: ask the agent with picket dns query")
}
