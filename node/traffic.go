package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"picket.internal/acl"
	"picket.internal/node/localapi"
	"picket.internal/wgtun/filter"
)

// open is the overlay, or why there is nothing to see.
func (v *view) open() (overlay, error) {
	if v.overlay == nil {
		why := v.problem()
		if why == "" {
			why = errNoOverlay.Error()
		}
		return nil, errors.New("there is no traffic to see: " + why)
	}
	return v.overlay, nil
}

func checkLimit(limit int) error {
	if limit < 1 || limit > localapi.MaxListed {
		return fmt.Errorf("a list has 1 to %d lines", localapi.MaxListed)
	}
	return nil
}

// Flows lists the live flows used last.
func (a api) Flows(_ context.Context, q localapi.AskFlows) (localapi.Flows, error) {
	v := a.n.view.Load()
	o, err := v.open()
	if err != nil {
		return localapi.Flows{}, err
	}
	c, err := v.choose(q.Selection)
	if err := errors.Join(err, checkLimit(q.Limit)); err != nil {
		return localapi.Flows{}, err
	}
	r := o.Recent(q.Limit, func(f *filter.Flow) bool {
		local, remote := f.Src, f.Dst
		if !f.Out {
			local, remote = remote, local
		}
		return c.fits(f.Peer, traits(local, remote, f.Proto, f.Out))
	})
	w := v.who()
	out := localapi.Flows{FlowTotals: localapi.FlowTotals{Matched: r.Matched, Total: r.Total}, List: make([]localapi.Flow, len(r.Flows))}
	for i := range r.Flows {
		out.List[i] = w.flow(&r.Flows[i])
	}
	return out, nil
}

// traits leaves out the ports of protocols that have none: of an echo, the filter keeps its id there.
func traits(local, remote netip.AddrPort, proto acl.Proto, out bool) localapi.Traits {
	t := localapi.Traits{Local: local.Addr(), Remote: remote.Addr(), Proto: proto, Out: out}
	if proto.HasPorts() {
		t.LocalPort, t.RemotePort = local.Port(), remote.Port()
	}
	return t
}

func (w *who) flow(f *filter.Flow) localapi.Flow {
	local, remote := f.Src, f.Dst
	if !f.Out {
		local, remote = remote, local
	}
	out := localapi.Flow{
		Proto: f.Proto.String(), Out: f.Out, Rule: f.Rule.String(), Opened: w.wall(f.Opened), LastSeen: w.wall(f.LastSeen), Until: w.wall(f.Until),
		Packets: f.Packets, Bytes: f.Bytes,
	}
	out.Src, out.Dst = w.between(f.Out, f.Peer, local, remote)
	if !f.Proto.HasPorts() {
		out.Src.Port, out.Dst.Port = 0, 0
	}
	return out
}

// Denials lists the refused packets, those refused last first.
func (a api) Denials(_ context.Context, q localapi.AskDenials) (localapi.Denials, error) {
	v := a.n.view.Load()
	o, err := v.open()
	if err != nil {
		return localapi.Denials{}, err
	}
	c, err := v.choose(q.Selection)
	if err := errors.Join(err, checkLimit(q.Limit)); err != nil {
		return localapi.Denials{}, err
	}
	d := o.Denials(q.After)
	d.List = slices.DeleteFunc(d.List, func(x filter.Denial) bool { return !c.fits(x.Peer, traitsOf(&x)) })
	slices.SortFunc(d.List, func(a, b filter.Denial) int { return cmp.Compare(b.Seq, a.Seq) })
	out := localapi.Denials{DenialTotals: localapi.DenialTotals{Matched: len(d.List), Packets: d.Total, Unlisted: d.Unlisted, Seq: d.Seq}}
	d.List = d.List[:min(q.Limit, len(d.List))]
	w := v.who()
	out.List = make([]localapi.Denial, len(d.List))
	for i := range d.List {
		out.List[i] = w.denial(&d.List[i])
	}
	return out, nil
}

// traitsOf: of the ports, the record has that of the packet's destination alone.
func traitsOf(d *filter.Denial) localapi.Traits {
	t := localapi.Traits{Local: d.Local, Remote: d.Remote, Proto: d.Proto, Out: d.Out}
	if d.Out {
		t.RemotePort = d.Port
	} else {
		t.LocalPort = d.Port
	}
	return t
}

func (w *who) denial(d *filter.Denial) localapi.Denial {
	out := localapi.Denial{
		Out: d.Out, Reason: d.Reason.String(), Words: d.Reason.Words(), Rule: ruleText(d.Rule), Bypass: d.Bypass,
		First: w.wall(d.First), Last: w.wall(d.Last), Count: d.Count,
	}
	if d.Local.IsValid() {
		out.Proto = d.Proto.String()
		out.Src, out.Dst = w.between(d.Out, d.Peer, netip.AddrPortFrom(d.Local, 0), netip.AddrPortFrom(d.Remote, 0))
		out.Dst.Port = d.Port
	}
	return out
}

// ruleText is empty where no rule is known.
func ruleText(r acl.Ref) string {
	if r == (acl.Ref{}) {
		return ""
	}
	return r.String()
}
