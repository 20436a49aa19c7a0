//go:build linux

package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// CanMapPorts says in words why a router cannot map ports here; nil when it can.
func CanMapPorts() error {
	if _, err := exec.LookPath("miniupnpd"); err != nil {
		return fmt.Errorf("miniupnpd is missing (Debian: miniupnpd-nftables)")
	}
	return nil
}

// MapPorts runs miniupnpd on the router of network number n, with the protocols named: "pcp" (which brings NAT-PMP) and "upnp".
func (l *LAN) MapPorts(ctx context.Context, router *Host, protocols ...string) (*Process, error) {
	yes := map[bool]string{true: "yes", false: "no"}
	asked := strings.Join(protocols, " ")
	conf := filepath.Join(router.Dir, "miniupnpd.conf")
	text := fmt.Sprintf(`ext_ifname=eth0
ext_ip=%s
listening_ip=lan
enable_natpmp=%s
enable_upnp=%s
min_lifetime=120
max_lifetime=86400
secure_mode=yes
system_uptime=yes
uuid=00000000-0000-0000-0000-0000000000%02d
lease_file=%s
upnp_table_name=picketlab
upnp_nat_table_name=picketlab
upnp_forward_chain=forward
upnp_nat_chain=prerouting
upnp_nat_postrouting_chain=postrouting
allow 1024-65535 10.%d.0.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
`, router.Routable(), yes[strings.Contains(asked, "pcp")], yes[strings.Contains(asked, "upnp")], l.n, filepath.Join(router.Dir, "leases"), l.n)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	if _, err := router.Run(ctx, "nft", "add table inet picketlab; add chain inet picketlab forward { type filter hook forward priority 0; };"+
		"add chain inet picketlab prerouting { type nat hook prerouting priority -100; }; add chain inet picketlab postrouting { type nat hook postrouting priority 100; }"); err != nil {
		return nil, err
	}
	return router.Start("miniupnpd", "miniupnpd", "-d", "-f", conf, "-P", filepath.Join(router.Dir, "miniupnpd.pid"))
}

// Leases is what MapPorts' program has lent, a line each.
func (h *Host) Leases() string {
	text, _ := os.ReadFile(filepath.Join(h.Dir, "leases")) // none is there before the first
	return strings.TrimSpace(string(text))
}
