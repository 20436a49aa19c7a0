package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"picket.internal/cmd/internal/cliflags"
	"picket.internal/coordinator/protocol"
	"picket.internal/node/localapi"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:        "status",
		Usage:       "say who this machine is, whether it is connected, and until when",
		Description: "Exit status 1 unless packets may pass.\n\nExamples:\n\n   picket status\n   picket status --json\n   sudo picket status --wg",
		Flags:       asking(jsonFlag(), &cli.BoolFlag{Name: "wg", Usage: "show the WireGuard device instead, as `wg show` would"}),
		Action: func(c *cli.Context) error {
			if err := cliflags.NArgs(c, 0, 0, ""); err != nil {
				return err
			}
			s, err := client(c).Status(c.Context)
			if err != nil {
				return explain(err)
			}
			if c.Bool("wg") {
				return showDevice(c, s)
			}
			if err := show(c, s, func(w io.Writer) { showStatus(w, s, time.Now()) }); err != nil {
				return err
			}
			if s.State != localapi.StateRunning {
				return cli.Exit("", cliflags.ExitFailed)
			}
			return nil
		},
	}
}

func showStatus(w io.Writer, s localapi.Status, now time.Time) {
	contact := "now"
	if !s.Connected {
		contact = clock(s.LastContact, now)
	}
	fields(w,
		"State", string(s.State),
		"Problem", s.Problem,
		"Open", s.LoginURL,
		"Code", s.LoginCode,
		"Name", s.Name,
		"Owner", s.Owner,
		"Tags", strings.Join(s.Tags, " "),
		"Addresses", addresses(s.Addresses),
		"Interface", interfaceText(s),
		"Coordinator", s.Coordinator,
		"Last contact", contact,
		"Generation", generationText(s),
		"Lease ends", clock(s.LeaseEnds, now),
		"Login ends", clock(s.Expires, now),
		"Peers", fmt.Sprint(s.Peers),
		"Live flows", fmt.Sprint(s.Flows),
		"Refused", deniedText(s.Denied),
		"Version", s.Version,
	)
	for _, warning := range s.Warnings {
		fmt.Fprintf(w, "! %s\n", protocol.Printable(warning))
	}
}

func interfaceText(s localapi.Status) string {
	switch {
	case s.Port == 0:
		return s.Interface
	case s.Interface == "":
		return fmt.Sprintf("none (userspace), UDP port %d", s.Port)
	}
	return fmt.Sprintf("%s, UDP port %d", s.Interface, s.Port)
}

func generationText(s localapi.Status) string {
	switch {
	case s.Generation == 0:
		return ""
	case s.Policy == "":
		return fmt.Sprint(s.Generation)
	}
	return fmt.Sprintf("%d, policy %s", s.Generation, clip(s.Policy, 12))
}

// deniedText lists packet counts, most first, at most five.
func deniedText(denied map[string]uint64) string {
	reasons := slices.SortedFunc(maps.Keys(denied), func(a, b string) int {
		if denied[a] != denied[b] {
			return int(min(denied[b], 1<<30)) - int(min(denied[a], 1<<30))
		}
		return strings.Compare(a, b)
	})
	var out []string
	for _, r := range reasons {
		if denied[r] > 0 && len(out) < 5 {
			out = append(out, fmt.Sprintf("%d %s", denied[r], r))
		}
	}
	return strings.Join(out, ", ")
}

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
