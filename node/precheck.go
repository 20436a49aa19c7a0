package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"picket.internal/coordinator/protocol"
	"picket.internal/node/control"
	"picket.internal/node/hostnet"
	"picket.internal/node/localapi"
	"picket.internal/node/portmap"
	"picket.internal/wgtun/path"
)

// usualReflectors are the ports at which a coordinator reflects unless told otherwise. It tells its members which; strangers are told nothing, and guess.
var usualReflectors = []protocol.Reflector{{Port: 3478}, {Port: 3479}}

// Precheck says what this machine's network lets paths do before it has joined: it asks the coordinator who it is, which anybody may, opens a stream to
// its relay and leaves again without a word, and asks the usual ports of its host where they see a socket of its own. No agent is needed, nothing is stored.
func Precheck(ctx context.Context, join protocol.Join, mapping bool, logger *slog.Logger) (localapi.Netcheck, error) {
	var out localapi.Netcheck
	var coordinator localapi.NetcheckCoordinator
	r := realReach(logger, Userspace) // whoever runs this may not be allowed to mark sockets
	client, err := r.client(join, control.Config{})
	if err != nil {
		return out, err
	}
	defer client.Close()
	var tasks sync.WaitGroup
	tasks.Go(func() {
		coordinator = askCoordinator(ctx, client, join.URL)
		if coordinator.Problem == "" {
			out.Relays = []localapi.NetcheckRelay{askRelay(ctx, r, join)}
		}
	})
	if mapping {
		tasks.Go(func() { out.PortMapping = askGateway(ctx, logger) })
	} else {
		out.PortMapping.Off = true
	}
	err = askUsual(ctx, join.URL, &out)
	tasks.Wait()
	out.Coordinator = &coordinator
	return out, err
}

// prover is who can say who the coordinator is; *control.Client.
type prover interface {
	Info(context.Context) (protocol.InfoBody, error)
}

func askCoordinator(ctx context.Context, client enroller, url string) localapi.NetcheckCoordinator {
	out := localapi.NetcheckCoordinator{URL: url}
	p, ok := client.(prover)
	if !ok {
		out.Problem = "it cannot be asked"
		return out
	}
	began := time.Now()
	if _, err := p.Info(ctx); err != nil {
		out.Problem = err.Error()
	}
	out.Latency = time.Since(began)
	return out
}

// askRelay opens the coordinator's own relay's stream: that WebSockets pass is what there is to find out. Only members are let in further.
func askRelay(ctx context.Context, r reach, join protocol.Join) localapi.NetcheckRelay {
	out := localapi.NetcheckRelay{Name: protocol.OwnRelay}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now()
	stream, err := r.relay(ctx, join, control.Config{})
	if err != nil {
		out.Problem = err.Error()
		return out
	}
	out.Connected, out.Latency = true, time.Since(began)
	stream.Close()
	return out
}

// askUsual asks the usual reflectors, from one socket for each IP version.
func askUsual(ctx context.Context, url string, out *localapi.Netcheck) error {
	all := lookUp(ctx, url, usualReflectors)
	if len(all) == 0 {
		return nil // the coordinator is not found: it says so
	}
	ctx, cancel := context.WithTimeout(ctx, netcheckTime+time.Second)
	defer cancel()
	var lists [2][]path.Reflection
	var locals [2][]netip.AddrPort
	var failed [2]error
	var tasks sync.WaitGroup
	for i, network := range []string{"udp4", "udp6"} {
		var some []netip.AddrPort
		for _, a := range all {
			if a.Addr().Is4() == (i == 0) {
				some = append(some, a)
			}
		}
		tasks.Go(func() { lists[i], locals[i], failed[i] = askFrom(ctx, network, some) })
	}
	tasks.Wait()
	out.IPv4, out.IPv6 = family(locals[0], lists[0], true), family(locals[1], lists[1], false)
	out.Reflectors = reflectors(append(lists[0], lists[1]...))
	out.UDP = len(out.IPv4.Seen)+len(out.IPv6.Seen) > 0
	if len(locals[0]) > 0 {
		out.Port = locals[0][0].Port()
	}
	if failed[0] != nil && failed[1] != nil {
		return fmt.Errorf("no UDP socket can be opened: %w", failed[0])
	}
	return nil
}

// askFrom asks reflectors of one IP version from a socket of its own, and says where this host has that.
func askFrom(ctx context.Context, network string, at []netip.AddrPort) ([]path.Reflection, []netip.AddrPort, error) {
	var lc net.ListenConfig
	socket, err := lc.ListenPacket(ctx, network, ":0")
	if err != nil {
		return nil, nil, err
	}
	defer socket.Close()
	port := uint16(socket.LocalAddr().(*net.UDPAddr).Port)
	local, _ := hostnet.Candidates(port, hostnet.Local{}) // none is shown as none
	return path.AskReflectors(ctx, socket, at), local, nil
}

// askGateway finds out what the gateway speaks; it opens nothing there.
func askGateway(ctx context.Context, logger *slog.Logger) (out localapi.NetcheckPortMapping) {
	found, err := portmap.New(portmap.Config{
		Gateway: func() (portmap.Gateway, error) {
			router, own, err := hostnet.Gateway()
			return portmap.Gateway{Router: router, Own: own}, err
		},
		Logger: logger,
	}).Probe(ctx)
	if err != nil {
		out.Problem = err.Error()
	}
	for _, f := range found {
		if f.Error == nil {
			out.Spoken = append(out.Spoken, f.Protocol)
		}
	}
	if len(out.Spoken) > 0 {
		out.Problem = "it is asked for a port once this machine has joined"
	}
	return out
}
