package node

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"picket.internal/node/localapi"
	"picket.internal/wgtun/path"
)

// netcheckTime is how long reflectors are given: longer than they are asked again.
const netcheckTime = 2500 * time.Millisecond

// Netcheck asks reflectors and the gateway anew, and says what came of it.
func (a api) Netcheck(ctx context.Context) (localapi.Netcheck, error) {
	v := a.n.view.Load()
	if v.overlay == nil {
		return localapi.Netcheck{}, errors.New("the tunnel is not up, and it is its port that is looked at: run picket up first, or check before joining with picket netcheck --coordinator JOIN")
	}
	if len(v.held.content.Network.Reflectors) == 0 {
		return localapi.Netcheck{}, errors.New("the coordinator names no reflector that could be asked: it is older than this node, or runs with --reflect-listen=off")
	}
	var out localapi.Netcheck
	var tasks sync.WaitGroup
	tasks.Go(func() { out.PortMapping = a.n.checkMapping(ctx) })
	answers := askReflectors(ctx, v.overlay)
	tasks.Wait()
	if len(answers) == 0 {
		return out, errors.New("no reflector could be asked: the coordinator's name means no address now, or it is on this very machine")
	}
	var local []netip.AddrPort
	if err := a.n.do(ctx, func() {
		if a.n.overlay != nil {
			local, out.Told = a.n.local(), a.n.endpoints()
		}
	}); err != nil {
		return out, err
	}
	out.Port = v.overlay.Port()
	out.Reflectors, out.Relays = reflectors(answers), a.n.relaying.list()
	out.IPv4, out.IPv6 = family(local, answers, true), family(local, answers, false)
	out.UDP = len(out.IPv4.Seen)+len(out.IPv6.Seen) > 0
	if m := out.IPv4.Mapping; m != "" && m != localapi.MappingNone {
		out.Hairpin = v.overlay.Hairpin(ctx, out.IPv4.Seen[0])
	}
	return out, ctx.Err()
}

// askReflectors waits until all have answered, or for netcheckTime. What one said before it was asked is no answer.
func askReflectors(ctx context.Context, o overlay) []path.Reflection {
	began := time.Now()
	o.Reflect()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		answers := o.Reflections()
		since := time.Since(began)
		waiting := slices.ContainsFunc(answers, func(r path.Reflection) bool { return !r.Failed && (!r.Seen.IsValid() || r.Age > since) })
		if !waiting && len(answers) > 0 || since >= netcheckTime || ctx.Err() != nil {
			for i := range answers {
				if answers[i].Age > since {
					answers[i].Seen, answers[i].Latency = netip.AddrPort{}, 0
				}
			}
			return answers
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func reflectors(answers []path.Reflection) []localapi.NetcheckReflector {
	out := make([]localapi.NetcheckReflector, len(answers))
	for i, r := range answers {
		out[i] = localapi.NetcheckReflector{Address: r.Reflector, Seen: r.Seen, Latency: r.Latency, NoRoute: r.Failed}
	}
	return out
}

// family sums up what reflectors say of one IP version.
func family(local []netip.AddrPort, answers []path.Reflection, is4 bool) (f localapi.NetcheckFamily) {
	for _, a := range local {
		if a.Addr().Is4() == is4 && !a.Addr().IsLoopback() {
			f.Local = append(f.Local, a.Addr())
		}
	}
	answered := 0
	for _, r := range answers {
		if !r.Seen.IsValid() || r.Seen.Addr().Is4() != is4 {
			continue
		}
		answered++
		if !slices.Contains(f.Seen, r.Seen) {
			f.Seen = append(f.Seen, r.Seen)
		}
	}
	kept := func(a netip.AddrPort) bool { return len(local) > 0 && a.Port() == local[0].Port() }
	switch {
	case answered == 0:
		return f
	case !slices.ContainsFunc(f.Seen, func(a netip.AddrPort) bool { return !slices.Contains(local, a) }):
		f.Mapping = localapi.MappingNone
	case len(f.Seen) > 1:
		f.Mapping = localapi.MappingVaries
	case answered == 1:
		f.Mapping = localapi.MappingUnknown
	default:
		f.Mapping = localapi.MappingSame
	}
	f.Kept = f.Mapping != localapi.MappingNone && !slices.ContainsFunc(f.Seen, func(a netip.AddrPort) bool { return !kept(a) })
	return f
}

// checkMapping asks the gateway what it speaks.
func (n *Node) checkMapping(ctx context.Context) (out localapi.NetcheckPortMapping) {
	if n.mapper == nil {
		return localapi.NetcheckPortMapping{Off: true}
	}
	found, err := n.mapper.Probe(ctx)
	if err != nil {
		out.Problem = err.Error()
		return out
	}
	for _, f := range found {
		if f.Error == nil {
			out.Spoken = append(out.Spoken, f.Protocol)
		}
	}
	s := n.mapper.Status()
	out.Protocol, out.Outside = s.Protocol, s.Outside
	if s.Protocol != "" {
		out.Until = s.Until.Round(0)
	} else if s.Failed != nil && len(out.Spoken) > 0 {
		out.Problem = s.Failed.Error()
	}
	return out
}
