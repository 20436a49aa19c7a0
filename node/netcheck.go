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
	if len(reflectorsOf(v.held.content)) == 0 {
		return localapi.Netcheck{}, errors.New("the coordinator names no reflector that could be asked, of its own or a relay's: it is older than this node, or runs with --reflect-listen=off")
	}
	var out localapi.Netcheck
	var tasks sync.WaitGroup
	tasks.Go(func() { out.PortMapping = a.n.checkMapping(ctx) })
	answers := askReflectors(ctx, v.overlay)
	tasks.Wait()
	if len(answers) == 0 {
		return out, errors.New("no reflector could be asked: the names of coordinator and relays mean no address now, or they are on this very machine")
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
	if at := outside(local, answers); at.IsValid() {
		out.Hairpin = v.overlay.Hairpin(ctx, at)
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
		out[i] = localapi.NetcheckReflector{Address: r.Reflector, Relay: r.Relay, Seen: r.Seen, Latency: r.Latency, NoRoute: r.Failed}
	}
	return out
}

// outside is a public IPv4 address of ours behind a NAT, by the coordinator's word: none by a relay's, which could name somebody else's.
func outside(local []netip.AddrPort, answers []path.Reflection) netip.AddrPort {
	for _, r := range answers {
		if r.Relay == "" && r.Seen.Addr().Is4() && !slices.Contains(local, r.Seen) {
			return r.Seen
		}
	}
	return netip.AddrPort{}
}

// family sums up what reflectors say of one IP version. Where some are outside and others are not, those that are not show nothing of the NAT.
func family(local []netip.AddrPort, answers []path.Reflection, is4 bool) (f localapi.NetcheckFamily) {
	for _, a := range local {
		if a.Addr().Is4() == is4 && !a.Addr().IsLoopback() {
			f.Local = append(f.Local, a.Addr())
		}
	}
	answers = slices.DeleteFunc(slices.Clone(answers), func(r path.Reflection) bool { return !r.Seen.IsValid() || r.Seen.Addr().Is4() != is4 })
	isOutside := func(r path.Reflection) bool { return !slices.Contains(local, r.Seen) }
	nat := slices.ContainsFunc(answers, isOutside)
	seen := make(map[netip.Addr][]netip.AddrPort) // by each address asked
	for _, r := range answers {
		if nat && !isOutside(r) {
			continue
		}
		if !slices.Contains(f.Seen, r.Seen) {
			f.Seen = append(f.Seen, r.Seen)
		}
		seen[r.Reflector.Addr()] = append(seen[r.Reflector.Addr()], r.Seen)
	}
	f.Addresses = len(seen)
	switch {
	case len(answers) == 0:
		return f
	case !nat:
		f.Mapping = localapi.MappingNone
		return f
	default:
		f.Mapping = mappingOf(seen)
	}
	f.Kept = !slices.ContainsFunc(f.Seen, func(a netip.AddrPort) bool { return len(local) == 0 || a.Port() != local[0].Port() })
	return f
}

// mappingOf tells a NAT's mapping (RFC 4787 section 4.1) by where each address asked saw us, once for each of its ports.
func mappingOf(seen map[netip.Addr][]netip.AddrPort) localapi.Mapping {
	asked, first, same := 0, netip.AddrPort{}, true
	for _, at := range seen {
		if slices.ContainsFunc(at, func(a netip.AddrPort) bool { return a != at[0] }) {
			return localapi.MappingVaries
		}
		if asked == 0 {
			first = at[0]
		}
		same = same && at[0] == first
		asked += len(at)
	}
	switch {
	case !same:
		return localapi.MappingByAddress
	case asked == 1:
		return localapi.MappingUnknown
	}
	return localapi.MappingSame
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
