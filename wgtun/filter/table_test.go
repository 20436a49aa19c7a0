package filter

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/wgtun/packet"
)

// Two keys are one only when all of them is the same: a difference anywhere, and differences that would cancel out.
func TestKeysDifferInAnyBit(t *testing.T) {
	words := func(k *key) [5]*uint64 {
		return [5]*uint64{&k.local.Hi, &k.local.Lo, &k.remote.Hi, &k.remote.Lo, &k.meta}
	}
	m := maker{rand.New(rand.NewPCG(1, 3))}
	for range 20 {
		k := key{local: packet.Addr{Hi: m.Uint64(), Lo: m.Uint64()}, remote: packet.Addr{Hi: m.Uint64(), Lo: m.Uint64()}, meta: m.Uint64()}
		same := k
		if !k.is(&same) {
			t.Fatalf("%+v is not itself", k)
		}
		for bit := range 5 * 64 {
			other := k
			*words(&other)[bit/64] ^= 1 << (bit % 64)
			if k.is(&other) || other.is(&k) {
				t.Fatalf("bit %d makes no difference", bit)
			}
			*words(&other)[(bit/64+1)%5] ^= 1 << (bit % 64)
			if k.is(&other) {
				t.Fatalf("bit %d, twice, makes no difference", bit)
			}
		}
	}
}

// Packets that are counted in their flows are not lost with them, however these end, and wrap no counter.
func TestPassedPacketsAreCountedOnce(t *testing.T) {
	f := newFilter(t, outRule(tcpPort(80), udpPort(53)))
	for range 3 {
		c := dial(t, f, at(self4, 40000), at(alice4, 80), true)
		passes(t, "reset", c.recv(fRST, 0)) // its place is taken by the next
	}
	dgram := udp(at(self4, 5000), at(alice4, 53), 1)
	passes(t, "UDP", f.Egress(dgram))
	for fl := range f.shardOf(dgram).locked {
		if fl.k.proto() == packet.ProtoUDP {
			fl.packets[egress] = 1<<32 - 1
		}
	}
	passes(t, "UDP", f.Egress(dgram))
	passes(t, "answer", f.Ingress(udp(at(alice4, 53), at(self4, 5000), 1)))
	for _, fl := range f.Flows() {
		if fl.Dst.Port() == 53 && fl.Packets != 1<<32+1 {
			t.Errorf("%d packets in the flow", fl.Packets)
		}
	}
	const out, in = 3*2 + 1<<32, 3*2 + 1
	for _, p := range []*Policy{nil, policyOf()} {
		if st := f.Stats(); st.EgressPassed != out || st.IngressPassed != in {
			t.Errorf("%d and %d passed, want %d and %d", st.EgressPassed, st.IngressPassed, out, in)
		}
		f.Swap(p)
	}
}

// A packet may find a flow, wait for its lock, and get it when the flow has left the table: it must be judged by what is there now.
func TestFlowThatLeftTheTableFollowsNothing(t *testing.T) {
	for name, leave := range map[string]func(f *Filter, c *conn){
		"replaced": func(f *Filter, c *conn) {
			passes(t, "reset", c.recv(fRST, 0))
			passes(t, "SYN", f.Egress(seg{from: c.local, to: c.remote, seq: c.snd, flags: fSYN}.bytes()))
		},
		"cut": func(f *Filter, _ *conn) { f.Swap(policyOf()) },
		"cut and opened again": func(f *Filter, c *conn) {
			f.Swap(policyOf())
			f.Swap(policyOf(outRule(tcpPort(80))))
			passes(t, "SYN", f.Egress(seg{from: c.local, to: c.remote, seq: c.snd, flags: fSYN}.bytes()))
		},
		"forgotten": func(f *Filter, c *conn) {
			time.Sleep(48 * time.Hour)
			for range numShards / sweepShards {
				f.Sweep()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFilter(t, outRule(tcpPort(80)))
				c := dial(t, f, at(self4, 40000), at(alice4, 80), true)
				next := c.outward(fACK, 1).bytes()
				var v packet.View
				v.Parse(next)
				var k key
				k.set(&v, egress)
				h := f.table.hash(&k)
				fl := f.table.shard(h).find(h, &k)
				leave(f, c)
				// As if it had been used and judged a moment before.
				fl.last, fl.until, fl.epoch = f.clock.read(), never, f.rules.Load().epoch
				if reason, known := f.follow(fl, &v, egress); known {
					t.Errorf("followed: %q", reason)
				}
			})
		})
	}
}

// shardOf is the shard of the flow of a packet that goes out.
func (f *Filter) shardOf(pkt []byte) *shard {
	var v packet.View
	v.Parse(pkt)
	var k key
	k.set(&v, egress)
	return f.table.shard(f.table.hash(&k))
}

// Flows whose addresses or ports follow on one another spread over shards and slots as any others do, whatever the secrets.
func TestHashSpreadsWhatFollowsOnEachOther(t *testing.T) {
	const n = 1 << 16
	v4 := func(a uint64) packet.Addr { return packet.Addr{Lo: 0xffff<<32 | a} }
	v6 := func(a uint64) packet.Addr { return packet.Addr{Hi: 0xfd7a << 48, Lo: a} }
	ports := func(local, remote uint64) uint64 { return local<<32 | remote<<16 | packet.ProtoTCP }
	const six = 1 << 48
	patterns := map[string]func(i uint64) key{
		"local addresses":                 func(i uint64) key { return key{v4(10<<24 | i), v4(0x64400001), ports(53, 4000)} },
		"remote addresses":                func(i uint64) key { return key{v4(0x64400001), v4(10<<24 | i), ports(4000, 53)} },
		"both":                            func(i uint64) key { return key{v4(10<<24 | i>>8), v4(0x64400000 | i&255), ports(53, 4000)} },
		"local addresses, remote ports":   func(i uint64) key { return key{v4(10<<24 | i>>8), v4(0x64400001), ports(53, i&255<<8)} },
		"remote ports":                    func(i uint64) key { return key{v4(0x64400001), v4(0x64400002), ports(53, i)} },
		"local ports":                     func(i uint64) key { return key{v4(0x64400001), v4(0x64400002), ports(i, 53)} },
		"IPv6 remote ports":               func(i uint64) key { return key{v6(1), v6(2), six | ports(53, i)} },
		"IPv6 addresses":                  func(i uint64) key { return key{v6(1), v6(i), six | ports(53, 4000)} },
		"IPv6 addresses of little number": func(i uint64) key { return key{packet.Addr{Lo: i << 32}, packet.Addr{Lo: 1}, six | ports(53, 4000)} },
	}
	for name, nth := range patterns {
		for range 30 {
			var tb table
			tb.init(n)
			// Linear probing in each shard, filled to half: 1.5 looks to place one where all places are alike.
			var slots [numShards][n / numShards * 2]bool
			var held [numShards]int
			looks := 0
			for i := range uint64(n) {
				k := nth(i)
				h := tb.hash(&k)
				at := &slots[h>>(64-5)]
				if held[h>>(64-5)]++; held[h>>(64-5)] > len(at)*3/4 {
					t.Fatalf("%s: one shard of %d has %d of %d", name, numShards, held[h>>(64-5)], n)
				}
				for looks++; at[h%uint64(len(at))]; h++ {
					looks++
				}
				at[h%uint64(len(at))] = true
			}
			if mean := float64(looks) / n; mean > 2 {
				t.Errorf("%s: %.1f looks for each of %d, want 1.5", name, mean, n)
			}
		}
	}
}
