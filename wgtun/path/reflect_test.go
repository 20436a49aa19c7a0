package path

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"picket.internal/wgtun/nettest"
)

var (
	addrR = netip.MustParseAddr("198.51.100.99") // of reflectors
	oneR  = netip.AddrPortFrom(addrR, 3478)
	twoR  = netip.AddrPortFrom(addrR, 3479)
)

// answerOf is a reflector's answer to a question: where it came from.
func answerOf(q []byte, from netip.AddrPort) []byte {
	raw, family := from.Addr().AsSlice(), byte(2)
	if from.Addr().Is4() {
		family = 1
	}
	b := []byte{1, 1, 0, byte(8 + len(raw))}
	b = append(b, q[4:20]...)
	b = append(b, 0, 0x20, 0, byte(4+len(raw)), 0, family)
	b = binary.BigEndian.AppendUint16(b, from.Port()^0x2112)
	for i, c := range raw {
		b = append(b, c^q[4+i])
	}
	return b
}

// reflect answers questions at a port of a host; change, which may be nil, says what to answer instead.
func reflect(t *testing.T, host *nettest.Host, port uint16, change func(q []byte, from netip.AddrPort) []byte) {
	t.Helper()
	b := host.BindBatch(1)
	fns, _, err := b.Open(port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	for _, fn := range fns {
		go func() {
			bufs, sizes, eps := [][]byte{make([]byte, 2048)}, make([]int, 1), make([]conn.Endpoint, 1)
			for {
				if _, err := fn(bufs, sizes, eps); err != nil {
					return
				}
				q, from := bufs[0][:sizes[0]], source(eps[0])
				if len(q) != 44 {
					continue
				}
				a := answerOf(q, from)
				if change != nil {
					a = change(q, from)
				}
				_ = b.Send([][]byte{a}, eps[0])
			}
		}()
	}
}

// coordinators are reflectors of the coordinator's.
func coordinators(at ...netip.AddrPort) (out []Reflector) {
	for _, a := range at {
		out = append(out, Reflector{At: a})
	}
	return out
}

// runReflect has a node ask these reflectors of the coordinator's until the test ends.
func (n *node) runReflect(keep bool, at ...netip.AddrPort) {
	n.askReflectors(keep, coordinators(at...)...)
}

func (n *node) askReflectors(keep bool, reflectors ...Reflector) {
	n.SetReflectors(reflectors, keep)
	var ended sync.WaitGroup
	ended.Go(func() { _ = n.RunReflect(n.t.Context()) })
	n.t.Cleanup(ended.Wait)
}

// TestQuestionsAndAnswers has the address and the answer of RFC 5769 sections 2.2 and 2.3.
func TestQuestionsAndAnswers(t *testing.T) {
	var id transaction
	raw, _ := hex.DecodeString("b7e7a701bc34d686fa87dfae")
	copy(id[:], raw)
	if got, want := hex.EncodeToString(question(id)), "000100182112a442b7e7a701bc34d686fa87dfae80220014"+hex.EncodeToString([]byte(padding)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for text, want := range map[string]string{
		// With SOFTWARE before it, padded by one byte, and what follows it left out.
		"010100182112a442b7e7a701bc34d686fa87dfae" + "8022000b7465737420766563746f7220":                                     "",
		"0101001c2112a442b7e7a701bc34d686fa87dfae" + "8022000b7465737420766563746f7220" + "002000080001a147e112a643":        "192.0.2.1:32853",
		"010100182112a442b7e7a701bc34d686fa87dfae" + "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9":                     "[2001:db8:1234:5678:11:2233:4455:6677]:32853",
		"0101000c2112a442b7e7a701bc34d686fa87dfae" + "002000080002a147e112a643":                                             "", // the family of another length
		"0101000c2112a442b7e7a701bc34d686fa87dfae" + "002000090001a147e112a643":                                             "", // longer than the message
		"0101000c2112a442b7e7a701bc34d686fa87dfae" + "000100080001a147e112a643":                                             "", // MAPPED-ADDRESS, which translators rewrite
		"010100182112a442b7e7a701bc34d686fa87dfae" + "002000140002a147" + "2112a442b7e7a701bc34" + "2979" + "3a85dfae"[0:8]: "", // IPv4-mapped
	} {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if kind, got, ok := stunKind(b); len(b)-stunHeader != int(binary.BigEndian.Uint16(b[2:])) {
			if ok {
				t.Errorf("%s: a false length is read", text)
			}
			continue
		} else if !ok || kind != stunSuccess || got != id {
			t.Errorf("%s: kind %x, %v", text, kind, ok)
		}
		if a, ok := mapped(b); ok != (want != "") || ok && a.String() != want {
			t.Errorf("%s: %v, %v, want %q", text, a, ok, want)
		}
	}
}

func FuzzReflection(f *testing.F) {
	f.Add(answerOf(question(transaction{1}), at(addrA)))
	f.Add(question(transaction{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, ok := stunKind(b); !ok {
			return
		}
		if a, ok := mapped(b); ok && (!a.Addr().IsValid() || a.Addr().Is4In6()) {
			t.Errorf("an address that is none: %v", a)
		}
	})
}

// TestReflexive: what reflectors see is told, kept up only when wanted, and taken back when they fall silent.
func TestReflexive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := nettest.New(1)
		net.SetDefault(nettest.Link{Latency: 10 * time.Millisecond})
		nat := net.NAT(nettest.NATConfig{}, addrN)
		host := net.Host(addrR)
		reflect(t, host, oneR.Port(), nil)
		reflect(t, host, twoR.Port(), nil)
		told := 0
		a := start(t, nat.Host(addrA), func(c *Config) { c.Reflected = func() { told++ } })
		seen := record(net)
		a.runReflect(false, oneR, twoR)
		time.Sleep(time.Second)
		synctest.Wait()
		want := []netip.AddrPort{netip.AddrPortFrom(addrN, 20000)}
		if got := a.Reflexive(); !slices.Equal(got, want) || told != 1 {
			t.Errorf("%v, told %d times", got, told)
		}
		for _, r := range a.Reflections() {
			if r.Seen != want[0] || r.Latency != 20*time.Millisecond || r.Failed {
				t.Errorf("%+v", r)
			}
		}
		time.Sleep(2 * time.Minute)
		if n := len(seen.matching(to(addrR))); n != 2 {
			t.Errorf("%d questions though nobody wants to be reachable", n)
		}
		synctest.Wait()
		if got := a.Reflexive(); len(got) != 0 || told != 2 {
			t.Errorf("answers of two minutes ago are told: %v, told %d times", got, told)
		}
		a.SetReflectors(coordinators(oneR, twoR), true)
		time.Sleep(10 * time.Minute)
		if n := len(seen.matching(to(addrR))); n < 2+2*24 || n > 2+2*31 {
			t.Errorf("%d questions in 10 minutes", n)
		}
		if got := a.Reflexive(); len(got) != 1 {
			t.Errorf("%v is told", got)
		}
		net.SetLink(nat, host, nettest.Link{Down: true})
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := a.Reflexive(); len(got) != 0 {
			t.Errorf("silent reflectors are believed: %v", got)
		}
	})
}

// TestReflexiveOfAVaryingMapping: ports that are lent to one destination alone are not told, but for one that is our own.
func TestReflexiveOfAVaryingMapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := nettest.New(1)
		host := net.Host(addrR)
		reflect(t, host, oneR.Port(), nil)
		reflect(t, host, twoR.Port(), nil)
		for i, keep := range []bool{false, true} {
			outside := netip.AddrFrom4([4]byte{198, 51, 100, byte(1 + i)})
			nat := net.NAT(nettest.NATConfig{Mapping: nettest.AddressAndPortDependent, PreservePort: keep}, outside)
			a := start(t, nat.Host(addrA))
			a.runReflect(true, oneR, twoR)
			time.Sleep(time.Second)
			synctest.Wait()
			var want []netip.AddrPort
			if keep {
				want = []netip.AddrPort{at(outside)}
			}
			if got := a.Reflexive(); !slices.Equal(got, want) {
				t.Errorf("port kept %v: %v, want %v", keep, got, want)
			}
		}
	})
}

// TestReflectionsForged: answers from elsewhere, to no question, of a guessed transaction, again, late, or that name a place where no node can be.
func TestReflectionsForged(t *testing.T) {
	victim := netip.MustParseAddrPort("203.0.113.7:53")
	for name, forge := range map[string]func(x *nettest.Host, a netip.AddrPort, q []byte) (answer []byte){
		"from another address": func(x *nettest.Host, a netip.AddrPort, q []byte) []byte {
			x.Inject(at(addrX), a, answerOf(q, victim))
			return nil
		},
		"from another port": func(x *nettest.Host, a netip.AddrPort, q []byte) []byte {
			x.Inject(netip.AddrPortFrom(addrR, 99), a, answerOf(q, victim))
			return nil
		},
		"of a guessed transaction": func(x *nettest.Host, a netip.AddrPort, q []byte) []byte {
			guess := question(transaction{1, 2, 3})
			x.Inject(oneR, a, answerOf(guess, victim))
			return nil
		},
		"of the overlay": func(_ *nettest.Host, _ netip.AddrPort, q []byte) []byte {
			return answerOf(q, netip.MustParseAddrPort("100.64.0.1:1"))
		},
		"of loopback": func(_ *nettest.Host, _ netip.AddrPort, q []byte) []byte {
			return answerOf(q, netip.MustParseAddrPort("127.0.0.1:1"))
		},
		"of a group": func(_ *nettest.Host, _ netip.AddrPort, q []byte) []byte {
			return answerOf(q, netip.MustParseAddrPort("224.0.0.1:1"))
		},
		"of port 0": func(_ *nettest.Host, _ netip.AddrPort, q []byte) []byte {
			return answerOf(q, netip.MustParseAddrPort("203.0.113.7:0"))
		},
		"of the other family": func(_ *nettest.Host, _ netip.AddrPort, q []byte) []byte {
			return answerOf(q, netip.MustParseAddrPort("[2001:db8::7]:53"))
		},
		"without an address": func(_ *nettest.Host, _ netip.AddrPort, q []byte) []byte {
			return append([]byte{1, 1, 0, 0}, q[4:20]...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := nettest.New(1)
				x := net.Host(addrX)
				host := net.Host(addrR)
				a := start(t, net.Host(addrA), func(c *Config) { c.Overlay = []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10")} })
				reflect(t, host, oneR.Port(), func(q []byte, from netip.AddrPort) []byte { return forge(x, from, slices.Clone(q)) })
				a.runReflect(false, oneR)
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if got := a.Reflections()[0]; got.Seen.IsValid() || len(a.Reflexive()) != 0 {
					t.Errorf("it is believed: %+v", got)
				}
				if n := a.dropped(DropReflection) + a.dropped(DropForeign); n == 0 {
					t.Error("it is not counted")
				}
			})
		})
	}
}

// TestReflectionsReplayed: an answer counts once and for five seconds.
func TestReflectionsReplayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := nettest.New(1)
		a := start(t, net.Host(addrA))
		var last []byte
		host := net.Host(addrR)
		reflect(t, host, oneR.Port(), func(q []byte, from netip.AddrPort) []byte {
			last = answerOf(q, netip.MustParseAddrPort("203.0.113.7:53"))
			return answerOf(q, from)
		})
		a.runReflect(false, oneR)
		time.Sleep(time.Second)
		synctest.Wait()
		host.Inject(oneR, at(addrA), last)
		synctest.Wait()
		if got := a.Reflexive(); !slices.Equal(got, []netip.AddrPort{at(addrA)}) || a.dropped(DropReflection) != 1 {
			t.Errorf("%v, %d dropped", got, a.dropped(DropReflection))
		}
		a.SetReflectors(coordinators(twoR), false)
		asked := record(net)
		a.Reflect()
		time.Sleep(time.Second + answerLife + time.Second)
		synctest.Wait()
		for _, q := range asked.matching(func(d nettest.Datagram) bool { return d.To == twoR }) {
			host.Inject(twoR, at(addrA), answerOf(q.Payload, at(addrA)))
		}
		synctest.Wait()
		if got := a.Reflexive(); len(got) != 0 {
			t.Errorf("an answer that came too late is believed: %v", got)
		}
	})
}

// TestReflectionsOfRelays: a relay's word is told when another relay's is the same, and never against, or beside, the coordinator's: one that lies neither adds an
// address nor takes one away. Two at one address are one.
func TestReflectionsOfRelays(t *testing.T) {
	mine, victim := netip.AddrPortFrom(addrN, 20000), netip.MustParseAddrPort("203.0.113.7:53")
	own, lie := netip.AddrPortFrom(addrN, 53), netip.AddrPortFrom(addrX, 41641)
	relayAt := func(i byte, port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 100 + i}), port)
	}
	for name, c := range map[string]struct {
		coordinator bool
		relays      []Reflector
		say         []netip.AddrPort // what each says; zero: the truth
		want        []netip.AddrPort
	}{
		"one that lies beside the coordinator":      {true, []Reflector{{relayAt(1, 1), "r1"}}, []netip.AddrPort{victim}, []netip.AddrPort{mine}},
		"one that names another port":               {true, []Reflector{{relayAt(1, 1), "r1"}}, []netip.AddrPort{own}, []netip.AddrPort{mine}},
		"one that names a port with our own number": {true, []Reflector{{relayAt(1, 1), "r1"}}, []netip.AddrPort{lie}, []netip.AddrPort{mine}},
		"one that lies at two ports":                {false, []Reflector{{relayAt(1, 1), "r1"}, {relayAt(1, 2), "r1"}}, []netip.AddrPort{victim, victim}, nil},
		"one that lies by two names":                {false, []Reflector{{relayAt(1, 1), "r1"}, {relayAt(1, 2), "r2"}}, []netip.AddrPort{victim, victim}, nil},
		"one at two addresses":                      {false, []Reflector{{relayAt(1, 1), "r1"}, {relayAt(2, 1), "r1"}}, []netip.AddrPort{victim, victim}, nil},
		"one alone, that says the truth":            {false, []Reflector{{relayAt(1, 1), "r1"}}, []netip.AddrPort{{}}, nil},
		"two that differ":                           {false, []Reflector{{relayAt(1, 1), "r1"}, {relayAt(2, 1), "r2"}}, []netip.AddrPort{victim, {}}, nil},
		"two that say the same":                     {false, []Reflector{{relayAt(1, 1), "r1"}, {relayAt(2, 1), "r2"}}, []netip.AddrPort{{}, {}}, []netip.AddrPort{mine}},
		"all say the same":                          {true, []Reflector{{relayAt(1, 1), "r1"}, {relayAt(2, 1), "r2"}}, []netip.AddrPort{{}, {}}, []netip.AddrPort{mine}},
		"a relay that claims a coordinator's port":  {true, []Reflector{{oneR, "r1"}, {relayAt(2, 1), "r2"}}, []netip.AddrPort{{}, victim}, []netip.AddrPort{mine}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := nettest.New(1)
				reflect(t, net.Host(addrR), oneR.Port(), nil)
				list, hosts := []Reflector(nil), map[netip.Addr]*nettest.Host{}
				if c.coordinator {
					list = coordinators(oneR)
				}
				for i, r := range c.relays {
					if list = append(list, r); r.At == oneR {
						continue
					}
					if hosts[r.At.Addr()] == nil {
						hosts[r.At.Addr()] = net.Host(r.At.Addr())
					}
					reflect(t, hosts[r.At.Addr()], r.At.Port(), func(q []byte, from netip.AddrPort) []byte {
						if c.say[i].IsValid() {
							from = c.say[i]
						}
						return answerOf(q, from)
					})
				}
				a := start(t, net.NAT(nettest.NATConfig{}, addrN).Host(addrA))
				a.askReflectors(true, list...)
				time.Sleep(time.Second)
				synctest.Wait()
				if got := a.Reflexive(); !slices.Equal(got, c.want) {
					t.Errorf("%v is told, want %v", got, c.want)
				}
				for _, r := range a.Reflections() {
					if !r.Seen.IsValid() || (r.Relay == "") != (r.Reflector == oneR) {
						t.Errorf("%+v", r)
					}
				}
			})
		})
	}
}

// TestHairpin tells a NAT that hairpins from one that does not.
func TestHairpin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := nettest.New(1)
		reflect(t, net.Host(addrR), oneR.Port(), nil)
		for i, hairpin := range []bool{true, false} {
			outside := netip.AddrFrom4([4]byte{198, 51, 100, byte(1 + i)})
			a := start(t, net.NAT(nettest.NATConfig{Hairpin: hairpin}, outside).Host(addrA))
			a.runReflect(true, oneR)
			time.Sleep(time.Second)
			synctest.Wait()
			if got := a.Hairpin(t.Context(), a.Reflexive()[0]); got != hairpin {
				t.Errorf("hairpins: %v, want %v", got, hairpin)
			}
		}
	})
}

// TestDoubtIsLimited: peers whose direct ways come and go have reflectors asked at most every 5 s, and not at all where nobody is to reach us.
func TestDoubtIsLimited(t *testing.T) {
	for _, keep := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			net := nettest.New(1)
			reflect(t, net.Host(addrR), oneR.Port(), nil)
			a := start(t, net.NAT(nettest.NATConfig{}, addrN).Host(addrA))
			seen := record(net)
			a.runReflect(keep, oneR)
			for range 180 {
				time.Sleep(100 * time.Millisecond)
				a.mirrors.doubt()
			}
			want := map[bool]int{false: 1, true: 4}[keep] // at 0, 5, 10 and 15 s
			if n := len(seen.matching(to(addrR))); n != want {
				t.Errorf("keep %v: %d questions in 18 s, want %d", keep, n, want)
			}
		})
	}
}
