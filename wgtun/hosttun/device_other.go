//go:build !linux

package hosttun

import "golang.zx2c4.com/wireguard/tun"

// Open makes a TUN device; name may be a pattern that the system understands. It needs privilege.
func Open(name string, mtu int) (tun.Device, error) { return tun.CreateTUN(name, mtu) }
