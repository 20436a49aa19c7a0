package wgtun

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"picket.internal/wgtun/key"
	"picket.internal/wgtun/path"
)

// engine is what Apply and Run need of a WireGuard device. Tests put their own between, to see the order of things and to
// make them fail.
type engine interface {
	IpcSet(config string) error
	IpcGet() (string, error)
	Up() error
	Close()
	Wait() chan struct{}
	// Handshake starts one with a peer, now; unknown peers are ignored.
	Handshake(key.TunnelPublic)
	// Expire makes the next packet to a peer begin a handshake; unknown peers are ignored.
	Expire(key.TunnelPublic)
	// Unstage drops the packets that wait for a handshake with a peer; unknown peers are ignored.
	Unstage(key.TunnelPublic)
}

// wireguard is the engine outside tests.
type wireguard struct{ *device.Device }

// newWireguard makes a device whose peers keep the endpoints they are added with: each names its peer, and where that is the path layer
// decides. A device that roams takes over the endpoint a datagram came under, which names whoever proved its source address, and
// would send one peer's traffic to another who once had that address.
func newWireguard(t tun.Device, b conn.Bind, l *device.Logger) engine {
	d := device.NewDevice(t, b, l)
	d.DisableSomeRoamingForBrokenMobileSemantics()
	return wireguard{d}
}

func (w wireguard) Handshake(k key.TunnelPublic) {
	if peer := w.LookupPeer(device.NoisePublicKey(k)); peer != nil {
		_ = peer.SendHandshakeInitiation(false) // failure is logged by the device, and tried again with the next packet
	}
}

func (w wireguard) Expire(k key.TunnelPublic) {
	if peer := w.LookupPeer(device.NoisePublicKey(k)); peer != nil {
		peer.ExpireCurrentKeypairs()
	}
}

func (w wireguard) Unstage(k key.TunnelPublic) {
	if peer := w.LookupPeer(device.NoisePublicKey(k)); peer != nil {
		peer.FlushStagedPackets()
	}
}

// The texts below are of WireGuard's configuration protocol (wireguard.com/xplatform). One text concerns one peer, so that a
// failure concerns one peer.

func configDevice(k key.TunnelPrivate, port uint16, mark uint32) string {
	b := k.Bytes()
	text := fmt.Sprintf("private_key=%s\nlisten_port=%d\n", hex.EncodeToString(b[:]), port)
	if mark != 0 {
		text += fmt.Sprintf("fwmark=%d\n", mark)
	}
	return text
}

func configAdd(in installed) string {
	var b strings.Builder
	configKey(&b, in.peer.Tunnel)
	fmt.Fprintf(&b, "protocol_version=1\nendpoint=%s\npersistent_keepalive_interval=0\nreplace_allowed_ips=true\n", path.EndpointText(in.peer.Tunnel))
	configPrefixes(&b, "", in.prefixes())
	return b.String()
}

// configChange moves single prefixes, so that no packet of one that stays finds it missing for a moment.
func configChange(c change) string {
	var b strings.Builder
	configKey(&b, c.new.peer.Tunnel)
	b.WriteString("update_only=true\n")
	configPrefixes(&b, "-", minus(c.old.prefixes(), c.new.prefixes()))
	configPrefixes(&b, "", minus(c.new.prefixes(), c.old.prefixes()))
	return b.String()
}

// configBare is a peer to which nothing is sent, and from which nothing is taken but handshakes.
func configBare(in installed) string {
	var b strings.Builder
	configKey(&b, in.peer.Tunnel)
	fmt.Fprintf(&b, "protocol_version=1\nendpoint=%s\npersistent_keepalive_interval=0\nreplace_allowed_ips=true\n", path.EndpointText(in.peer.Tunnel))
	return b.String()
}

func configRemove(in installed) string {
	var b strings.Builder
	configKey(&b, in.peer.Tunnel)
	b.WriteString("remove=true\n")
	return b.String()
}

func configKey(b *strings.Builder, k key.TunnelPublic) {
	fmt.Fprintf(b, "public_key=%s\n", hex.EncodeToString(k[:]))
}

func configPrefixes(b *strings.Builder, sign string, prefixes []netip.Prefix) {
	for _, p := range prefixes {
		fmt.Fprintf(b, "allowed_ip=%s%s\n", sign, p)
	}
}
