// Package nettest is an internet in memory: hosts, links, NATs and TUN devices that lose, delay and forge as the world does.
//
//	n := nettest.New(1)
//	n.SetDefault(nettest.Link{Latency: 20 * time.Millisecond, Loss: 0.01})
//	alice := n.Host(netip.MustParseAddr("192.0.2.1"))
//	home := n.NAT(nettest.NATConfig{Filtering: nettest.AddressAndPortDependent}, netip.MustParseAddr("198.51.100.1"))
//	bob := home.Host(netip.MustParseAddr("10.0.0.2"))
//	bind := alice.Bind()         // a conn.Bind, as conn.NewDefaultBind() outside tests
//	dev := nettest.NewTUN(1280)  // a tun.Device; dev.Send and dev.Recv are the operating system's side
//
// There are no sockets here, no files, and no goroutine that outlives a test. All time is package time's, so inside a
// [testing/synctest] bubble hours pass in milliseconds; outside one, everything works in real time. Chance comes from the seed
// given to New, so that a test which does not race with itself sees the same losses each time.
//
// # WireGuard devices in a bubble
//
// Use [Bubble] in place of synctest.Test for anything that makes a device.Device: wireguard-go empties each peer's queues in a
// finalizer, finalizers run outside the bubble, and touching a bubble's channel from outside ends the whole process.
package nettest
