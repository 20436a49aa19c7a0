package dns

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/godbus/dbus/v5"
)

// networkManager makes our resolver NetworkManager's global one (GlobalDnsConfiguration of nm-dbus-interface), which stands over those of
// its connections. NetworkManager keeps it over its own restarts: an agent that is started after one that was killed takes it back.
type networkManager struct {
	host *linuxHost
	last *HostSettings
}

const (
	nmName   = "org.freedesktop.NetworkManager"
	nmPath   = dbus.ObjectPath("/org/freedesktop/NetworkManager")
	nmGlobal = nmName + ".GlobalDnsConfiguration"
)

func (n *networkManager) apply(s HostSettings) HostState {
	c, err := n.host.bus()
	if err != nil {
		return HostState{Trouble: fmt.Sprintf("NetworkManager is not reached: %v", err)}
	}
	defer c.Close()
	have, err := n.global(c)
	if err != nil {
		return HostState{Trouble: fmt.Sprintf("NetworkManager does not show its global resolvers: %v", err)}
	}
	st := HostState{Changed: []string{"NetworkManager's global resolver"}}
	switch {
	case len(have) > 0 && !oursInNM(have):
		return HostState{Trouble: "NetworkManager has global resolvers of its own, and is left so: names of peers are not found unless these ask " + Listen.Addr().String()}
	case n.last != nil && len(have) == 0:
		return HostState{Trouble: "something else took our resolver out of NetworkManager, and it is left so: picket down, then picket up sets it anew"}
	case n.last != nil && n.last.equal(s):
		return st
	}
	if err := n.set(c, map[string]dbus.Variant{
		"searches": dbus.MakeVariant(append([]string{}, s.Search...)),
		"options":  dbus.MakeVariant([]string{}),
		"domains": dbus.MakeVariant(map[string]dbus.Variant{
			"*": dbus.MakeVariant(map[string]dbus.Variant{
				"servers": dbus.MakeVariant([]string{s.Server.String()}), "options": dbus.MakeVariant([]string{}),
			}),
		}),
	}); err != nil {
		return HostState{Trouble: fmt.Sprintf("NetworkManager does not take our resolver: %v", err)}
	}
	n.last = &s
	return st
}

func (n *networkManager) global(c *dbus.Conn) (map[string]dbus.Variant, error) {
	v, err := c.Object(nmName, nmPath).GetProperty(nmGlobal)
	if err != nil {
		return nil, err
	}
	have := make(map[string]dbus.Variant)
	return have, v.Store(&have)
}

func (n *networkManager) set(c *dbus.Conn, to map[string]dbus.Variant) error {
	ctx, cancel := context.WithTimeout(context.Background(), busTime)
	defer cancel()
	return c.Object(nmName, nmPath).CallWithContext(ctx, "org.freedesktop.DBus.Properties.Set", dbus.FlagNoAutoStart, nmName, "GlobalDnsConfiguration", dbus.MakeVariant(to)).Err
}

// oursInNM reports whether a global configuration has our resolver for everything, and nothing else.
func oursInNM(global map[string]dbus.Variant) bool {
	domains, ok := global["domains"].Value().(map[string]dbus.Variant)
	if !ok || len(domains) != 1 {
		return false
	}
	all, ok := domains["*"].Value().(map[string]dbus.Variant)
	if !ok {
		return false
	}
	servers, ok := all["servers"].Value().([]string)
	return ok && slices.Equal(servers, []string{Listen.Addr().String()})
}

func (n *networkManager) restore() error {
	n.last = nil
	c, err := n.host.bus()
	if err != nil {
		return nil // no bus: no NetworkManager
	}
	defer c.Close()
	if ownerOf(c, nmName) == "" {
		return nil
	}
	have, err := n.global(c)
	if err != nil || !oursInNM(have) {
		return nil // there is nothing of ours
	}
	return n.set(c, map[string]dbus.Variant{})
}

// upstreams are those of its devices, which it would use without us.
func (n *networkManager) upstreams() (out []netip.AddrPort) {
	c, err := n.host.bus()
	if err != nil {
		return nil
	}
	defer c.Close()
	var devices []dbus.ObjectPath
	if v, err := c.Object(nmName, nmPath).GetProperty(nmName + ".Devices"); err != nil || v.Store(&devices) != nil {
		return nil
	}
	found := make(map[netip.Addr]bool)
	for _, d := range devices[:min(len(devices), 64)] {
		for _, a := range append(nmServers4(c, d), nmServers6(c, d)...) {
			found[a] = true
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(found), netip.Addr.Compare) {
		if len(out) < maxOwn && !a.IsUnspecified() {
			out = append(out, netip.AddrPortFrom(a, 53))
		}
	}
	return out
}

func nmServers4(c *dbus.Conn, device dbus.ObjectPath) (out []netip.Addr) {
	var list []map[string]dbus.Variant
	if !nmConfig(c, device, "Ip4Config", "IP4Config.NameserverData", &list) {
		return nil
	}
	for _, entry := range list {
		text, _ := entry["address"].Value().(string)
		if a, err := netip.ParseAddr(text); err == nil {
			out = append(out, a)
		}
	}
	return out
}

func nmServers6(c *dbus.Conn, device dbus.ObjectPath) (out []netip.Addr) {
	var list [][]byte
	if !nmConfig(c, device, "Ip6Config", "IP6Config.Nameservers", &list) {
		return nil
	}
	for _, b := range list {
		if a, ok := netip.AddrFromSlice(b); ok && !a.IsLinkLocalUnicast() { // it does not say of which link
			out = append(out, a)
		}
	}
	return out
}

// nmConfig reads a property of a device's configuration.
func nmConfig(c *dbus.Conn, device dbus.ObjectPath, config, property string, into any) bool {
	v, err := c.Object(nmName, device).GetProperty(nmName + ".Device." + config)
	path, ok := v.Value().(dbus.ObjectPath)
	if err != nil || !ok || path == "/" {
		return false
	}
	v, err = c.Object(nmName, path).GetProperty(nmName + "." + property)
	return err == nil && v.Store(into) == nil
}

func (*networkManager) flush() {}
