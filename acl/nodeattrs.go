package acl

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tailscale/hujson"
)

// nodeAttr is one entry of nodeAttrs: what the nodes of target are given. Nothing in Picket asks for it yet.
type nodeAttr struct {
	target []selector // empty is nobody
	attrs  []string   // as written; what they mean is for whoever asks
	app    map[string][]string
	pools  []netip.Prefix
}

// nodeAttrs reads the section.
func (r *reader) nodeAttrs(v *hujson.Value) {
	elems, _ := r.array(v, quote("nodeAttrs"))
	for i := range elems {
		r.nodeAttr(&elems[i], fmt.Sprintf("nodeAttrs[%d]", i))
	}
	if len(elems) > 0 {
		r.warn(v.StartOffset, "", "`nodeAttrs` has no effect: Picket knows no attributes yet")
	}
}

// nodeAttr reads one entry. As in Tailscale an empty target is nobody, and an entry may give nothing.
func (r *reader) nodeAttr(v *hujson.Value, what string) {
	var a nodeAttr
	seen := map[string]bool{}
	isObject := r.object(v, what, []field{
		{"target", func(v *hujson.Value) { seen["target"] = true; a.target = r.targets(v, what) }},
		{"attr", func(v *hujson.Value) { a.attrs = r.attributes(v, what) }},
		{"app", func(v *hujson.Value) { a.app = r.app(v, what) }},
		{"ipPool", func(v *hujson.Value) { a.pools = r.pools(v, what) }},
	})
	if isObject {
		r.require(v, what, seen, "target")
	}
	r.pol.nodeAttrs = append(r.pol.nodeAttrs, a)
}

// notTargets are autogroups that say nothing about which nodes are meant.
var notTargets = []string{"autogroup:self", "autogroup:internet", "autogroup:danger-all", "autogroup:nonroot", "autogroup:shared"}

func (r *reader) targets(v *hujson.Value, what string) (out []selector) {
	what += ".target"
	elems, _ := r.array(v, what)
	for i := range elems {
		at := elems[i].StartOffset
		s, ok := r.text(&elems[i], "an element of "+what)
		switch {
		case !ok:
		case slices.Contains(notTargets, s) || strings.HasPrefix(s, "svc:"):
			r.err(at, "name users, groups, tags, `autogroup:member`, `autogroup:tagged`, addresses, or `*`", "%s cannot be a target: it names no nodes of its own", quote(s))
		default:
			if sels, ok := r.expand(s, at, inSrc); ok {
				out = append(out, sels...)
			}
		}
	}
	return distinct(out)
}

// attributes reads attr. Tailscale takes any text, and means something by a few.
func (r *reader) attributes(v *hujson.Value, what string) (out []string) {
	what += ".attr"
	elems, _ := r.array(v, what)
	for i := range elems {
		s, ok := r.text(&elems[i], "an element of "+what)
		switch {
		case !ok:
		case s == "" || len(s) > maxName || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' }):
			r.err(elems[i].StartOffset, "attributes are plain words such as `funnel` or `nextdns:abc123`", "%s is not the name of an attribute", quote(s))
		default:
			out = append(out, s)
		}
	}
	return out
}

// Overlay addresses of Tailscale, and the parts of them that it keeps to itself (tailscale.com/kb/1304, and refusals recorded 2026-05-07).
var (
	poolRange    = netip.MustParsePrefix("100.64.0.0/10")
	poolReserved = []netip.Prefix{
		netip.MustParsePrefix("100.100.0.0/24"), netip.MustParsePrefix("100.100.100.0/24"), netip.MustParsePrefix("100.115.92.0/23"),
	}
)

// pools reads ipPool: networks of overlay addresses.
func (r *reader) pools(v *hujson.Value, what string) (out []netip.Prefix) {
	what += ".ipPool"
	elems, _ := r.array(v, what)
	for i := range elems {
		s, ok := r.text(&elems[i], "an element of "+what)
		if !ok {
			continue
		}
		at := elems[i].StartOffset
		p, err := parsePrefix(s)
		within := func(outer netip.Prefix) bool { return outer.Bits() <= p.Bits() && outer.Contains(p.Addr()) }
		if err == nil && p == p.Masked() && !within(poolRange) {
			r.err(at, fmt.Sprintf("pools are inside %s", quote(poolRange.String())), "%s is no network of overlay addresses", quote(s))
			continue
		}
		p, ok = r.prefix(s, at)
		switch {
		case !ok:
		case slices.ContainsFunc(poolReserved, within):
			r.err(at, "", "%s is reserved: no node can have an address in it", quote(s))
		default:
			out = append(out, p)
		}
	}
	return out
}
