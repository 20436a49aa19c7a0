package wgtun

import (
	"fmt"
	"os"
	"testing"

	"golang.zx2c4.com/wireguard/wgctrl"
)

// TestWgctrlReadsTheDevice asks with the library that `wg` alikes are made of, over the real socket directory.
func TestWgctrlReadsTheDevice(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: wgctrl looks in /var/run/wireguard alone")
	}
	tunnel, p := running(t)
	name := fmt.Sprintf("pktest%d", os.Getpid())
	l, err := ListenUAPI(name)
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, tunnel, l)
	c, err := wgctrl.New()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	d, err := c.Device(name)
	if err != nil {
		t.Fatal(err)
	}
	own := tunnel.own.tunnel
	if d.PublicKey != [32]byte(own) || d.ListenPort == 0 || len(d.Peers) != 1 || d.Peers[0].PublicKey != [32]byte(p.Tunnel) || len(d.Peers[0].AllowedIPs) != 2 {
		t.Errorf("wgctrl sees %+v", d)
	}
}
