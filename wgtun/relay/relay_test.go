package relay

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"picket.internal/wgtun/key"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDatagramsPassBetweenWhoMayMeet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.pair()
		a.Send(b.address(), []byte("there"))
		b.Send(a.address(), []byte("and back"))
		if got := b.take(); !slices.Equal(got, []string{said(a, "there")}) {
			t.Errorf("%q", got)
		}
		if got := a.take(); !slices.Equal(got, []string{said(b, "and back")}) {
			t.Errorf("%q", got)
		}
		if s := w.server.Stats(); s.Clients != 2 || s.Datagrams != 2 || s.Bytes != 13 {
			t.Errorf("%+v", s)
		}
		time.Sleep(4 * time.Second)
		if s := a.Status(); s.Latency == 0 || s.Err != "" {
			t.Errorf("%+v", s)
		}
	})
}

// Every one of the conditions must hold.
func TestWhoMayMeet(t *testing.T) {
	for _, c := range []struct{ aNames, bNames, may bool }{
		{true, true, true}, {true, true, false}, {true, false, true}, {false, true, true}, {false, false, true}, {false, false, false},
	} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, func(s *ServerConfig) { s.May = func(a, b Address) bool { return c.may } })
				a, b, other := w.node(), w.node(), w.node()
				a.may(map[bool]*node{true: b, false: other}[c.aNames])
				b.may(map[bool]*node{true: a, false: other}[c.bNames])
				a.start()
				b.start()
				synctest.Wait()
				want := c.aNames && c.bNames && c.may
				if !a.Send(b.address(), []byte("x")) {
					t.Error("the sender is told") // what happens to it
				}
				if got := b.take(); (len(got) == 1) != want {
					t.Errorf("got %q", got)
				}
				if s := w.server.Stats(); (s.Forbidden == 0) != want {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// A narrowing is in force as soon as one of the two shows its new pass, whatever the other one holds.
func TestNarrowingAtOneEndIsEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.pair()
		b.may()
		synctest.Wait()
		a.Send(b.address(), []byte("x"))
		b.Send(a.address(), []byte("x"))
		if x, y := a.take(), b.take(); len(x)+len(y) != 0 {
			t.Errorf("%q, %q", x, y)
		}
		b.may(a)
		synctest.Wait()
		a.Send(b.address(), []byte("again"))
		if got := b.take(); len(got) != 1 {
			t.Errorf("%q", got)
		}
	})
}

// To a sender who is absent and who is forbidden is the same.
func TestNobodyIsToldWhoIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.pair()
		forbidden, absent := w.node(), w.node()
		forbidden.may(b)
		forbidden.start()
		a.may(b, absent)
		synctest.Wait()
		pings := a.Status()
		for _, to := range []*node{forbidden, absent} {
			if !a.Send(to.address(), []byte("x")) {
				t.Error("dropped at the sender")
			}
		}
		synctest.Wait()
		if s := w.server.Stats(); s.Forbidden != 1 || s.Absent != 1 {
			t.Errorf("%+v", s)
		}
		if got := a.take(); len(got) != 0 || a.Status() != pings {
			t.Errorf("told %q", got)
		}
	})
}

// A pass that is not renewed ends with its time, to the second for datagrams, and a little later the connection.
func TestPassRunsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.pair()
		time.Sleep(PassLife - time.Minute)
		b.may(a)
		time.Sleep(time.Minute + time.Second)
		a.Send(b.address(), []byte("x"))
		b.Send(a.address(), []byte("x"))
		if x, y := a.take(), b.take(); len(x)+len(y) != 0 {
			t.Errorf("%q, %q", x, y)
		}
		time.Sleep(watchEvery)
		if a.Status().Connected || !strings.Contains(a.Status().Err, "pass") || !b.Status().Connected {
			t.Errorf("%+v, %+v", a.Status(), b.Status())
		}
		a.may(b)
		time.Sleep(backoffTo)
		a.Send(b.address(), []byte("again"))
		if got := b.take(); len(got) != 1 {
			t.Errorf("%q", got)
		}
	})
}

func TestDroppedNodeIsCutAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.pair()
		w.server.Drop(a.address())
		b.Send(a.address(), []byte("x"))
		a.Send(b.address(), []byte("x"))
		if x, y := a.take(), b.take(); len(x)+len(y) != 0 {
			t.Errorf("%q, %q", x, y)
		}
		if s := a.Status(); s.Connected || !strings.Contains(s.Err, "ended this node's access") {
			t.Errorf("%+v", s)
		}
	})
}

// The newer connection of a device takes the place of the older one.
func TestNewerConnectionReplaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.pair()
		r := w.raw()
		_, challenge := r.next()
		r.write(appendFrame(nil, kindLogin, b.device.Sign(contextLogin, loginText(challenge[1:], "near", sha256.Sum256(b.pass))), b.pass))
		if k, _ := r.next(); k != kindWelcome {
			t.Fatalf("type %d", k)
		}
		a.Send(b.address(), []byte("x"))
		if k, payload := r.next(); k != kindDatagram || string(payload[addressSize:]) != "x" {
			t.Errorf("type %d, %q", k, payload)
		}
		if got := b.take(); len(got) != 0 {
			t.Errorf("the older one got %q", got)
		}
	})
}

// Every refusal of a login.
func TestLoginRefusals(t *testing.T) {
	device, other := key.NewDevice(), key.NewDevice()
	now := func() time.Time { return time.Now() }
	type attempt struct {
		pass   func(w *world) []byte
		signer key.DevicePrivate
		relay  string
		nonce  func([]byte) []byte
		code   byte
	}
	good := func(w *world) []byte { p := NewPass(network, device.Public(), nil, now()); return p.Sign(w.key) }
	whole := func(n []byte) []byte { return n }
	for name, c := range map[string]attempt{
		"good":              {good, device, "near", whole, 0},
		"another's pass":    {good, other, "near", whole, codeLogin},
		"for another relay": {good, device, "far", whole, codeLogin},
		"an older nonce":    {good, device, "near", func(n []byte) []byte { return make([]byte, len(n)) }, codeLogin},
		"another network":   {func(w *world) []byte { p := NewPass("other", device.Public(), nil, now()); return p.Sign(w.key) }, device, "near", whole, codePass},
		"another's word": {func(*world) []byte {
			p := NewPass(network, device.Public(), nil, now())
			return p.Sign(key.NewCoordinator())
		}, device, "near", whole, codePass},
		"over": {func(w *world) []byte {
			p := NewPass(network, device.Public(), nil, now().Add(-PassLife))
			return p.Sign(w.key)
		}, device, "near", whole, codePass},
		"not yet": {func(w *world) []byte {
			p := NewPass(network, device.Public(), nil, now().Add(PassEarly+time.Minute))
			return p.Sign(w.key)
		}, device, "near", whole, codePass},
		"one bit is another": {func(w *world) []byte { b := good(w); b[len(b)/2] ^= 1; return b }, device, "near", whole, codePass},
		"nothing":            {func(*world) []byte { return []byte{1} }, device, "near", whole, codePass},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				r := w.raw()
				_, challenge := r.next()
				pass := c.pass(w)
				signature := c.signer.Sign(contextLogin, loginText(c.nonce(challenge[1:]), c.relay, sha256.Sum256(pass)))
				r.write(appendFrame(nil, kindLogin, signature, pass))
				if c.code == 0 {
					if k, _ := r.next(); k != kindWelcome {
						t.Errorf("type %d", k)
					}
					return
				}
				if code := r.refused(); code != c.code {
					t.Errorf("code %d", code)
				}
				if s := w.server.Stats(); s.Clients != 0 || s.Refused != 1 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// What does not belong there ends the connection; before the login nothing but a login does.
func TestFramesThatDoNotBelong(t *testing.T) {
	datagram := appendFrame(nil, kindDatagram, make([]byte, addressSize+1))
	for name, c := range map[string]struct {
		before, after []byte
		code          byte
	}{
		"datagram before login":     {before: datagram, code: codeForm},
		"ping before login":         {before: appendFrame(nil, kindPing, make([]byte, 8)), code: codeForm},
		"unknown before login":      {before: []byte{99, 0, 0, 0}, code: codeForm},
		"huge login":                {before: []byte{byte(kindLogin), 0xff, 0xff, 0xff}, code: codeForm},
		"TLS before login":          {before: []byte{22, 3, 1, 2, 0}, code: codeForm},
		"second login":              {after: appendFrame(nil, kindLogin, make([]byte, 100)), code: codeForm},
		"challenge from a client":   {after: appendFrame(nil, kindChallenge, make([]byte, 33)), code: codeForm},
		"unknown":                   {after: []byte{0, 0, 0, 0}, code: codeForm},
		"datagram without content":  {after: appendFrame(nil, kindDatagram, make([]byte, addressSize)), code: codeForm},
		"datagram too long":         {after: appendFrame(nil, kindDatagram, make([]byte, addressSize+MaxDatagram+1)), code: codeForm},
		"ping too short":            {after: appendFrame(nil, kindPing, make([]byte, 7)), code: codeForm},
		"pass that nobody signed":   {after: appendFrame(nil, kindRenew, make([]byte, 300)), code: codePass},
		"torn in the header":        {after: datagram[:3]},
		"torn in a datagram":        {after: datagram[:len(datagram)-1]},
		"silent instead of a login": {before: []byte{}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				r := w.raw()
				_, challenge := r.next()
				if c.before == nil {
					n := w.node()
					n.may()
					r.write(appendFrame(nil, kindLogin, n.device.Sign(contextLogin, loginText(challenge[1:], "near", sha256.Sum256(n.pass))), n.pass))
					if k, _ := r.next(); k != kindWelcome {
						t.Fatalf("type %d", k)
					}
				}
				go func() {
					r.write(append(c.before, c.after...))
					if strings.HasPrefix(name, "torn") {
						r.conn.Close()
					}
				}()
				if strings.HasPrefix(name, "silent") {
					began := time.Now()
					if r.refused(); time.Since(began) > loginTime+time.Second {
						t.Errorf("waited %v", time.Since(began))
					}
				} else if code := r.refused(); code != c.code && c.code != 0 {
					t.Errorf("code %d", code)
				}
				time.Sleep(2 * time.Second)
				if s := w.server.Stats(); s.Clients != 0 || s.Refused != 1 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// A renewal is the same device's and not older.
func TestRenewRefusals(t *testing.T) {
	for name, signed := range map[string]func(w *world, n *node) []byte{
		"another device": func(w *world, n *node) []byte {
			p := NewPass(network, key.NewDevice().Public(), nil, time.Now())
			return p.Sign(w.key)
		},
		"older": func(w *world, n *node) []byte {
			p := NewPass(network, n.device.Public(), nil, time.Now().Add(-time.Minute))
			return p.Sign(w.key)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				n := w.node()
				n.may()
				n.start()
				synctest.Wait()
				n.out.Load().say(kindRenew, signed(w, n))
				synctest.Wait()
				if s := n.Status(); s.Connected || !strings.Contains(s.Err, "another device's, or older") {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// A relay that stalls is left within five seconds of sending to it; one that is not there is tried again with growing pauses.
func TestStalledRelayIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.pair()
		for range 17 { // wherever the relay dies between two pings
			a.may(b)
			b.may(a)
			for range 100 {
				a.Send(b.address(), []byte("x"))
				time.Sleep(37 * time.Millisecond)
			}
			frozen := make(chan struct{})
			w.mu.Lock()
			w.frozen = frozen
			w.mu.Unlock()
			began := time.Now()
			left := map[*node]time.Duration{}
			for ; len(left) < 2 && time.Since(began) < time.Minute; time.Sleep(time.Millisecond) {
				for _, n := range []*node{a, b} {
					if left[n] == 0 && !n.Status().Connected {
						left[n] = max(time.Since(began), 1)
					}
				}
			}
			// b only receives, which is as much use of the relay.
			if left[a] > pingBusy+stalled || left[b] > pingBusy+stalled {
				t.Errorf("the sender left after %v, the receiver after %v", left[a], left[b])
			}
			w.mu.Lock()
			w.frozen = nil
			w.mu.Unlock()
			close(frozen)
			time.Sleep(time.Minute)
			if !a.Status().Connected || !b.Status().Connected {
				t.Fatal("not connected again")
			}
		}
	})
}

// A relay that cannot be dialled is tried less and less often.
func TestDeadRelayIsDialledSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.node()
		n.may()
		w.fails = errTest
		n.start()
		time.Sleep(5 * time.Minute)
		w.mu.Lock()
		defer w.mu.Unlock()
		if d := len(w.dials); d < 5 || d > 30 {
			t.Errorf("%d attempts in five minutes", d)
		}
		if got := n.Status().Err; got != errTest.Error() {
			t.Errorf("%q", got)
		}
	})
}

// An idle connection is asked seldom, and at once when somebody wants to know; one that is in use often.
func TestHowOftenARelayIsPinged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.pair()
		time.Sleep(time.Minute)
		pings := func(d time.Duration) int { // of both
			count := func() int { w.mu.Lock(); defer w.mu.Unlock(); return w.pings }
			before := count()
			time.Sleep(d)
			return count() - before
		}
		if n := pings(10 * pingIdle); n != 20 {
			t.Errorf("%d pings of two idle nodes, want 20", n)
		}
		a.may(b)
		b.may(a)
		synctest.Wait()
		a.Send(b.address(), []byte("x"))
		if n, want := pings(busyFor+time.Second), 2*int(busyFor/pingBusy); n < want-2 || n > want+4 {
			t.Errorf("%d pings after a datagram, want %d", n, want)
		}
		if n := pings(10 * pingIdle); n != 20 {
			t.Errorf("%d pings of two nodes that are idle again, want 20", n)
		}
		for range 100 { // many who ask are told by few pings
			a.Check()
			time.Sleep(10 * time.Millisecond)
		}
		frozen := make(chan struct{})
		time.Sleep(2 * pingFirst)
		w.mu.Lock()
		w.frozen = frozen
		w.mu.Unlock()
		a.Check()
		time.Sleep(stalled - time.Millisecond)
		if !a.Status().Connected || time.Since(a.Status().Asked) < 2*time.Second {
			t.Errorf("%+v", a.Status())
		}
		time.Sleep(2 * time.Millisecond)
		if a.Status().Connected || !b.Status().Connected {
			t.Error("the one that asked did not leave, or the other did")
		}
		close(frozen)
	})
}

// Idle connections are kept, and cost a ping now and then.
func TestIdleConnectionStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.pair()
		for range 12 {
			time.Sleep(5 * time.Minute)
			a.may(b)
			b.may(a)
		}
		if a.Send(b.address(), []byte("x")); !contains(b.take(), said(a, "x")) || len(w.dials) != 2 {
			t.Errorf("%d connections in an hour", len(w.dials))
		}
	})
}

// A client that is gone without a word is noticed.
func TestGoneClientIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.node()
		n.may()
		r := w.raw()
		_, challenge := r.next()
		r.write(appendFrame(nil, kindLogin, n.device.Sign(contextLogin, loginText(challenge[1:], "near", sha256.Sum256(n.pass))), n.pass))
		r.next()
		go func() { // it reads, and says nothing
			for {
				if k, _ := r.next(); k == 0 {
					return
				}
			}
		}()
		time.Sleep(goneAfter + 2*watchEvery)
		if s := w.server.Stats(); s.Clients != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// Whoever floods a receiver displaces only what is its own, and the queue is bounded.
func TestFloodDisplacesNobodyElse(t *testing.T) {
	o := newOutbox(serverBounds)
	flooder, honest := Address{1}, Address{2}
	for range 10 {
		o.put(honest, honest, []byte("honest"))
	}
	lost := 0
	for range 10000 {
		lost += o.put(flooder, flooder, make([]byte, 1200))
	}
	if lost != 10000-serverBounds.pairDatagrams || o.bytes > serverBounds.pairBytes+1000 {
		t.Errorf("%d lost, %d bytes wait", lost, o.bytes)
	}
	first := o.take(nil)
	if n := bytes.Count(first[:headerSize*20+addressSize*20+1206*10], []byte("honest")); n != 10 {
		t.Errorf("%d of the honest 10 in the first turns", n)
	}
	for o.bytes > 0 {
		o.take(nil)
	}
	if len(o.queues)+len(o.turns) != 0 {
		t.Error("empty queues are kept")
	}
	for i := range 2000 { // many pairs together
		o.put(Address{9, byte(i), byte(i >> 8)}, Address{}, make([]byte, 9000))
	}
	if o.bytes > serverBounds.bytes || len(o.queues) > serverBounds.bytes/9000+1 {
		t.Errorf("%d bytes, %d queues", o.bytes, len(o.queues))
	}
}

// A receiver that reads nothing blocks nobody, and is ended.
func TestStuckReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.pair()
		stuck := w.node()
		stuck.may(a)
		r := w.raw()
		_, challenge := r.next()
		r.write(appendFrame(nil, kindLogin, stuck.device.Sign(contextLogin, loginText(challenge[1:], "near", sha256.Sum256(stuck.pass))), stuck.pass))
		r.next()
		a.may(b, stuck)
		synctest.Wait()
		for range 200 {
			a.Send(stuck.address(), make([]byte, 1000))
			synctest.Wait()
		}
		a.Send(b.address(), []byte("x"))
		if !contains(b.take(), said(a, "x")) {
			t.Error("one that reads nothing holds up another")
		}
		if s := w.server.Stats(); s.Full == 0 {
			t.Errorf("%+v", s)
		}
		time.Sleep(writeTime + time.Second)
		if s := w.server.Stats(); s.Clients != 2 {
			t.Errorf("%+v", s)
		}
	})
}

// What a relay says of itself cannot harm a terminal.
func TestRefusalIsPrintable(t *testing.T) {
	c := NewClient(ClientConfig{Name: "near"})
	if got := c.refused([]byte("\x01no\x1b[2J\nmore\xff")).Error(); got != "the relay near refuses this node: no?[2J?more?" {
		t.Errorf("%q", got)
	}
}

func TestAddressIsOfNetworkAndDevice(t *testing.T) {
	d := key.NewDevice().Public()
	if AddressOf("a", d) == AddressOf("b", d) || AddressOf("a", d) == AddressOf("a", key.NewDevice().Public()) {
		t.Error("an address is not its device's in its network")
	}
}

// The bytes on the wire. UPDATE_GOLDEN=1 writes them anew.
func TestGolden(t *testing.T) {
	var seed [32]byte
	seed[0] = 7
	var coordinator key.CoordinatorPrivate
	if err := coordinator.UnmarshalText([]byte("coordinator-private:" + hex.EncodeToString(seed[:]))); err != nil {
		t.Fatal(err)
	}
	var device key.DevicePrivate
	if err := device.UnmarshalText([]byte("device-private:" + hex.EncodeToString(seed[:]))); err != nil {
		t.Fatal(err)
	}
	p := NewPass(network, device.Public(), []Address{{5}, {4}, {4}}, time.Unix(1800000000, 0))
	pass := p.Sign(coordinator)
	signature := device.Sign(contextLogin, loginText(bytes.Repeat([]byte{0xaa}, nonceSize), "near", sha256.Sum256(pass)))
	all := map[string][]byte{
		"pass":      pass,
		"challenge": appendFrame(nil, kindChallenge, []byte{version}, bytes.Repeat([]byte{0xaa}, nonceSize)),
		"login":     appendFrame(nil, kindLogin, signature, pass),
		"welcome":   appendFrame(nil, kindWelcome, []byte{version}),
		"renew":     appendFrame(nil, kindRenew, pass),
		"pong":      appendFrame(nil, kindPong, []byte{0, 0, 0, 0, 0, 0, 0, 9}),
		"datagram":  appendFrame(nil, kindDatagram, bytes.Repeat([]byte{0xbb}, addressSize), []byte("datagram")),
		"ping":      appendFrame(nil, kindPing, []byte{0, 0, 0, 0, 0, 0, 0, 9}),
		"refuse":    appendFrame(nil, kindRefuse, []byte{codePass}, []byte("the pass has run out")),
	}
	for name, b := range all {
		file := filepath.Join("testdata", name+".hex")
		got := hex.Dump(b)
		if os.Getenv("UPDATE_GOLDEN") != "" {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(file); err != nil || string(want) != got {
			t.Errorf("%s: %v\n%s", name, err, got)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add(appendFrame(nil, kindDatagram, make([]byte, 40)))
	f.Add([]byte{2, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := reader{r: bytes.NewReader(b), only: func(kind) bool { return true }}
		defer r.release()
		for {
			k, payload, err := r.next()
			if err != nil {
				return
			}
			if least, most, known := k.sizes(); !known || len(payload) < least || len(payload) > most {
				t.Fatalf("type %d of %d bytes", k, len(payload))
			}
		}
	})
}

func FuzzOpenPass(f *testing.F) {
	k := key.NewCoordinator()
	p := NewPass(network, key.NewDevice().Public(), []Address{{1}, {2}}, time.Now())
	f.Add(p.Sign(k))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := OpenPass(b, k.Public(), network, time.Now()); err == nil {
			if again := p.Sign(k); !bytes.Equal(again, b) {
				t.Errorf("two forms of one pass")
			}
		} else if !errors.Is(err, ErrPass) {
			t.Error(err)
		}
		// Signed whatever it says: what the coordinator would never sign.
		signed := append(bytes.Clone(b), k.Sign(contextPass, b)...)
		if p, err := OpenPass(signed, k.Public(), network, time.Now()); err == nil && !slices.IsSorted(p.peers) {
			t.Error("out of order")
		}
	})
}
