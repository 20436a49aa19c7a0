//go:build !freebsd

package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"picket.internal/node/localapi"
)

// wgDevice is `status --wg --json`.
type wgDevice struct {
	Name      string   `json:"name"`
	PublicKey string   `json:"publicKey"`
	Port      int      `json:"port"`
	Peers     []wgPeer `json:"peers"`
}

type wgPeer struct {
	PublicKey     string    `json:"publicKey"`
	Endpoint      string    `json:"endpoint,omitempty"`
	AllowedIPs    []string  `json:"allowedIPs"`
	LastHandshake time.Time `json:"lastHandshake"`
	RxBytes       int64     `json:"rxBytes"`
	TxBytes       int64     `json:"txBytes"`
}

func showDevice(c *cli.Context, s localapi.Status) error {
	if s.Interface == "" {
		return errors.New("there is no WireGuard interface to show: the tunnel is down, or runs without one (--tun=userspace)")
	}
	wg, err := wgctrl.New()
	if err != nil {
		return fmt.Errorf("WireGuard devices cannot be asked: %w", err)
	}
	defer wg.Close()
	d, err := wg.Device(s.Interface)
	if err != nil {
		return fmt.Errorf("the WireGuard device %q cannot be asked (%w): use sudo", s.Interface, err)
	}
	v := deviceOf(d)
	return show(c, v, func(w io.Writer) { writeDevice(w, v) })
}

func deviceOf(d *wgtypes.Device) wgDevice {
	v := wgDevice{Name: d.Name, PublicKey: d.PublicKey.String(), Port: d.ListenPort, Peers: []wgPeer{}}
	for _, p := range d.Peers {
		peer := wgPeer{PublicKey: p.PublicKey.String(), LastHandshake: p.LastHandshakeTime, RxBytes: p.ReceiveBytes, TxBytes: p.TransmitBytes}
		if p.Endpoint != nil {
			peer.Endpoint = p.Endpoint.String()
		}
		for _, a := range p.AllowedIPs {
			peer.AllowedIPs = append(peer.AllowedIPs, a.String())
		}
		v.Peers = append(v.Peers, peer)
	}
	return v
}

func writeDevice(w io.Writer, v wgDevice) {
	fields(w, "interface", v.Name, "public key", v.PublicKey, "listening port", fmt.Sprint(v.Port))
	for _, p := range v.Peers {
		fmt.Fprintln(w)
		fields(w, "peer", p.PublicKey, "endpoint", p.Endpoint, "allowed ips", strings.Join(p.AllowedIPs, ", "),
			"latest handshake", clock(p.LastHandshake, time.Now()), "transfer", fmt.Sprintf("%s received, %s sent", size(uint64(p.RxBytes)), size(uint64(p.TxBytes))))
	}
}
