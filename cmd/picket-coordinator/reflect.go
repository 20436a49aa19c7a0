package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/urfave/cli/v2"

	"picket.internal/coordinator/reflector"
)

// reflectPorts are STUN's port (RFC 8489 section 18.6) and the one after it: a second one shows whether a NAT lends each destination another port.
var reflectPorts = []string{":3478", ":3479"}

// reflectSettings are where to reflect; when the user named none, a port that is taken is no reason not to serve.
type reflectSettings struct {
	addresses []string
	named     bool
}

func reflectFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "reflect-listen", Value: cli.NewStringSlice(reflectPorts...), Usage: "tell nodes at this UDP `ADDRESS` where they are seen from (STUN; repeat for more, two show what a NAT does); off: at none"}
}

// readReflect reads --reflect-listen, of which there are at most that many. Unless addresses are named, they are at that of --listen, because nodes know it.
func readReflect(texts []string, listen string, named bool, most int) (reflectSettings, error) {
	s := reflectSettings{named: named}
	if slices.Equal(texts, []string{"off"}) {
		return s, nil
	}
	if len(texts) > most {
		return s, &usageError{fmt.Sprintf("--reflect-listen names %d addresses: %d are enough", len(texts), most)}
	}
	host, _, _ := net.SplitHostPort(listen)
	if a, err := netip.ParseAddr(host); err != nil || a.IsUnspecified() {
		host = ""
	}
	for _, t := range texts {
		at, port, err := net.SplitHostPort(t)
		n, portErr := strconv.ParseUint(port, 10, 16)
		if err != nil || portErr != nil || strconv.FormatUint(n, 10) != port || n == 0 {
			return s, &usageError{fmt.Sprintf("--reflect-listen %q is no ADDRESS:PORT; :3478 listens on every address, and off on none", t)}
		}
		if at == "" && !named {
			at = host
		}
		s.addresses = append(s.addresses, net.JoinHostPort(at, port))
	}
	return s, nil
}

func listenReflect(ctx context.Context, s reflectSettings, logger *slog.Logger) (*reflector.Server, error) {
	if s.named {
		r, err := reflector.Listen(ctx, s.addresses...)
		if err != nil {
			return nil, fmt.Errorf("the reflector: %v: stop what holds it, or choose another with --reflect-listen", err)
		}
		return r, nil
	}
	r, err := reflector.Listen(ctx)
	for _, at := range s.addresses {
		if failed := r.Open(ctx, at); failed != nil {
			logger.Warn("nodes cannot learn here where they are seen from: name other ports with --reflect-listen", "reason", failed)
		}
	}
	return r, err
}
