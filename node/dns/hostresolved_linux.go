package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// resolved tells systemd-resolved (org.freedesktop.resolve1(5)) what to ask us about, as settings of the tunnel's link: they go with it, so
// that nothing of an agent that was killed stays.
type resolved struct {
	host  *linuxHost
	past  bool // programs do not ask resolved, and that cannot be changed from here
	link  int32
	last  HostSettings
	owner string // which resolved was told
}

const (
	resolvedName = "org.freedesktop.resolve1"
	resolvedPath = dbus.ObjectPath("/org/freedesktop/resolve1")
	busTime      = 5 * time.Second
)

// linkAddress and linkDomain are of D-Bus types (iay) and (sb).
type linkAddress struct {
	Family  int32
	Address []byte
}

type linkDomain struct {
	Name        string
	RoutingOnly bool
}

func (r *resolved) apply(s HostSettings) HostState {
	st := HostState{Changed: []string{"systemd-resolved's settings of the interface " + s.Interface}}
	if r.past {
		st.Trouble = "/etc/resolv.conf leads programs past systemd-resolved, so names of peers may not be found: ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf, " +
			"then picket down and picket up, set that right"
	}
	c, err := r.host.bus()
	if err != nil {
		return HostState{Trouble: fmt.Sprintf("systemd-resolved is not reached: %v", err)}
	}
	defer c.Close()
	i, err := net.InterfaceByName(s.Interface)
	if err != nil {
		return HostState{Trouble: "systemd-resolved cannot be told, because the interface " + s.Interface + " is not there"}
	}
	owner := ownerOf(c, resolvedName)
	if r.link == int32(i.Index) && r.owner == owner && r.last.equal(s) {
		if !r.holds(c, s) {
			st.Changed, st.Trouble = nil, "something else has changed systemd-resolved's settings of "+s.Interface+", and they are left so: names of peers may not be found"
		}
		return st
	}
	if err := r.set(c, int32(i.Index), s); err != nil {
		return HostState{Trouble: fmt.Sprintf("systemd-resolved does not take our resolver: %v", err)}
	}
	r.link, r.owner, r.last = int32(i.Index), owner, s
	return st
}

func (r *resolved) set(c *dbus.Conn, link int32, s HostSettings) error {
	domains := []linkDomain{}
	for _, d := range s.Search {
		domains = append(domains, linkDomain{d, false})
	}
	for _, d := range s.Match {
		if !slices.Contains(s.Search, d) {
			domains = append(domains, linkDomain{d, true})
		}
	}
	if s.All {
		domains = append(domains, linkDomain{".", true})
	}
	for _, step := range []struct {
		method string
		args   []any
	}{
		{"SetLinkDNS", []any{link, []linkAddress{{unix.AF_INET, s.Server.AsSlice()}}}},
		{"SetLinkDomains", []any{link, domains}},
		{"SetLinkDefaultRoute", []any{link, s.All}},
		{"SetLinkLLMNR", []any{link, "no"}},
		{"SetLinkMulticastDNS", []any{link, "no"}},
		{"SetLinkDNSSEC", []any{link, "no"}}, // the network's domain is signed by nobody; maps are
	} {
		if err := call(c, step.method, step.args...); err != nil {
			return fmt.Errorf("%s: %w", step.method, err)
		}
	}
	_ = call(c, "SetLinkDNSOverTLS", link, "no") // from version 239 on
	return call(c, "FlushCaches")
}

func call(c *dbus.Conn, method string, args ...any) error {
	ctx, cancel := context.WithTimeout(context.Background(), busTime)
	defer cancel()
	return c.Object(resolvedName, resolvedPath).CallWithContext(ctx, resolvedName+".Manager."+method, dbus.FlagNoAutoStart, args...).Err
}

// holds reports whether the link still has our resolver. Where that cannot be told it is taken to.
func (r *resolved) holds(c *dbus.Conn, s HostSettings) bool {
	ctx, cancel := context.WithTimeout(context.Background(), busTime)
	defer cancel()
	var path dbus.ObjectPath
	if c.Object(resolvedName, resolvedPath).CallWithContext(ctx, resolvedName+".Manager.GetLink", dbus.FlagNoAutoStart, r.link).Store(&path) != nil {
		return true
	}
	v, err := c.Object(resolvedName, path).GetProperty(resolvedName + ".Link.DNS")
	var have []linkAddress
	if err != nil || v.Store(&have) != nil {
		return true
	}
	return slices.ContainsFunc(have, func(a linkAddress) bool { return slices.Equal(a.Address, s.Server.AsSlice()) })
}

func (r *resolved) restore() error {
	link := r.link
	r.link, r.owner, r.last = 0, "", HostSettings{}
	if link == 0 {
		return nil
	}
	if _, err := net.InterfaceByIndex(int(link)); err != nil {
		return nil // gone, and its settings with it
	}
	c, err := r.host.bus()
	if err != nil {
		return nil // so is resolved
	}
	defer c.Close()
	if ownerOf(c, resolvedName) == "" {
		return nil
	}
	return call(c, "RevertLink", link)
}

// upstreams are what resolved asks itself; needed where every name comes to us.
func (r *resolved) upstreams() []netip.AddrPort {
	return parseResolvConf(readSome(r.host.path("/run/systemd/resolve/resolv.conf"))).nameservers
}

func (r *resolved) flush() {
	if c, err := r.host.bus(); err == nil {
		defer c.Close()
		_ = call(c, "FlushCaches") // it forgets by itself, only later
	}
}
