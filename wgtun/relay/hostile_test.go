package relay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/wgtun/key"
)

// in logs a node in by hand.
func (w *world) in(n *node) *raw {
	w.t.Helper()
	r := w.raw()
	_, challenge := r.next()
	r.write(appendFrame(nil, kindLogin, n.device.Sign(contextLogin, loginText(challenge[1:], "near", sha256.Sum256(n.pass))), n.pass))
	if k, payload := r.next(); k != kindWelcome {
		w.t.Fatalf("type %d, %q", k, payload)
	}
	return r
}

// logins are how many logins are under way, and what they have sent.
func (w *world) logins() (n, bytes int) {
	l := &w.server.logins
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.order.Len(), l.bytes
}

// Strangers who hold all places for logins, and say nothing, keep nobody out: the oldest gives way.
func TestSilentStrangersKeepNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var strangers []*raw
		for range maxLogins + 100 {
			r := w.raw()
			strangers = append(strangers, r)
			r.next()
		}
		synctest.Wait()
		if n, _ := w.logins(); n != maxLogins {
			t.Errorf("%d logins under way", n)
		}
		began := time.Now()
		n := w.node()
		n.may()
		w.in(n)
		if d := time.Since(began); d > time.Second {
			t.Errorf("an honest one waited %v", d)
		}
		if k, _ := strangers[0].next(); k != 0 || time.Since(began) > time.Second {
			t.Error("the oldest was not ended")
		}
	})
}

// What strangers have us hold follows what they send, and is bounded in all.
func TestAnnouncedPassesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		header := []byte{byte(kindLogin), MaxPass >> 16, MaxPass >> 8 & 0xff, MaxPass & 0xff}
		say := func(n int) {
			r := w.raw()
			r.next()
			go r.write(append(bytes.Clone(header), make([]byte, n)...))
			synctest.Wait()
		}
		for range 100 {
			say(1)
		}
		if _, n := w.logins(); n != 100*keepPayload {
			t.Errorf("%d bytes are held for 100 who sent one each", n)
		}
		for range 100 {
			say(MaxPass - 1)
			if _, n := w.logins(); n > maxLoginBytes {
				t.Fatalf("%d bytes are held", n)
			}
		}
		if n, _ := w.logins(); n == 0 || n > maxLoginBytes/(MaxPass/2) {
			t.Errorf("%d logins under way", n)
		}
		time.Sleep(loginTime + time.Second)
		if m, n := w.logins(); n != 0 || m != 0 {
			t.Errorf("%d bytes are held for nobody", n)
		}
	})
}

// A large pass is not held on to after it was read.
func TestLargePassIsReleased(t *testing.T) {
	b := appendFrame(nil, kindRenew, make([]byte, MaxPass))
	b = appendFrame(b, kindPing, make([]byte, pingSize))
	r := &reader{r: bytes.NewReader(b), only: func(kind) bool { return true }}
	defer r.release()
	for range 2 {
		if _, _, err := r.next(); err != nil {
			t.Fatal(err)
		}
	}
	if cap(r.payload) > 2*keepPayload {
		t.Errorf("%d bytes are kept", cap(r.payload))
	}
}

func TestFullRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *ServerConfig) { c.Limits.Clients = 1 })
		n, other := w.node(), w.node()
		n.may()
		other.may()
		w.in(n)
		r := w.raw()
		_, challenge := r.next()
		r.write(appendFrame(nil, kindLogin, other.device.Sign(contextLogin, loginText(challenge[1:], "near", sha256.Sum256(other.pass))), other.pass))
		if code := r.refused(); code != codeBusy {
			t.Errorf("code %d", code)
		}
		w.in(n) // takes its own place
	})
}

// Who sends faster than its rate waits, alone. Short frames and renewals count as the work that they are.
func TestRateOfAClient(t *testing.T) {
	const rate = 128 << 10
	const much = clientBurst + 3*rate
	for name, c := range map[string]struct {
		frame func(n *node, to Address) []byte
		times int
		least time.Duration
	}{
		"datagrams": {func(_ *node, to Address) []byte {
			return appendFrame(nil, kindDatagram, to[:], make([]byte, MaxDatagram))
		}, much / MaxDatagram, 2900 * time.Millisecond},
		"short datagrams": {func(_ *node, to Address) []byte { return appendFrame(nil, kindDatagram, to[:], []byte{1}) }, much / frameCost, 2900 * time.Millisecond},
		"pings":           {func(*node, Address) []byte { return appendFrame(nil, kindPing, make([]byte, pingSize)) }, much / frameCost, 2900 * time.Millisecond},
		"renewals":        {func(n *node, _ Address) []byte { return appendFrame(nil, kindRenew, n.pass) }, much / renewCost, 2400 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, func(c *ServerConfig) { c.Limits.Rate = rate })
				a, b := w.pair()
				flooder := w.node()
				flooder.may(b)
				r := w.in(flooder)
				go func() {
					for k, _ := r.next(); k != 0; k, _ = r.next() {
					}
				}()
				began := time.Now()
				done := make(chan time.Duration, 1)
				go func() {
					for range c.times {
						r.write(c.frame(flooder, b.address()))
					}
					done <- time.Since(began)
				}()
				time.Sleep(time.Second)
				a.Send(b.address(), []byte("x"))
				if !contains(b.take(), said(a, "x")) {
					t.Error("another waits with it")
				}
				if d := <-done; d < c.least || d > c.least+5*time.Second {
					t.Errorf("it took %v", d)
				}
			})
		})
	}
}

// However many flood one receiver, room is left for who sends little.
func TestManyFloodersLeaveAShare(t *testing.T) {
	for _, flooders := range []int{1, 8, 20, 100} {
		o := newOutbox(serverBounds)
		for range 200 {
			for i := range flooders {
				a := Address{1, byte(i)}
				o.put(a, a, make([]byte, 5000))
			}
		}
		honest := Address{2}
		if lost := o.put(honest, honest, make([]byte, 1280)); lost != 0 {
			t.Errorf("%d flooders leave no room", flooders)
		}
		if o.bytes > o.bounds.bytes {
			t.Errorf("%d bytes wait", o.bytes)
		}
		held := 0
		for _, q := range o.queues {
			held += cap(q.b)
		}
		if held > 3*o.bounds.bytes {
			t.Errorf("%d bytes of memory", held)
		}
	}
}

// Queues keep the newest, whole and in order, whatever is put in and taken out between.
func TestQueuesKeepTheNewestInOrder(t *testing.T) {
	o := newOutbox(bounds{pairDatagrams: 8, pairBytes: 4000, bytes: 6000})
	next, last, lost, got := map[Address]uint32{}, map[Address]uint32{}, 0, 0
	for i := range 5000 {
		a := Address{byte(i * i % 7)}
		next[a]++
		d := binary.BigEndian.AppendUint32(nil, next[a])
		lost += o.put(a, a, append(d, make([]byte, i*31%1500)...))
		if i%11 != 0 {
			continue
		}
		r := &reader{r: bytes.NewReader(o.take(nil)), only: func(k kind) bool { return k == kindDatagram }}
		for {
			_, payload, err := r.next()
			if err != nil {
				break
			}
			from, number := Address(payload[:addressSize]), binary.BigEndian.Uint32(payload[addressSize:])
			if number <= last[from] {
				t.Fatalf("%d after %d", number, last[from])
			}
			last[from] = number
			got++
		}
		r.release()
		if o.bytes != 0 || len(o.queues)+len(o.turns) != 0 {
			t.Fatalf("%d bytes, %d queues, %d turns are left", o.bytes, len(o.queues), len(o.turns))
		}
	}
	for _, q := range o.queues {
		got += q.frames
	}
	if got+lost != 5000 || lost == 0 {
		t.Errorf("%d came, %d were lost", got, lost)
	}
}

// From the moment that a newer connection has taken its place, an older one carries nothing, though it may not be closed yet.
func TestReplacedConnectionCarriesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.pair()
		r := w.in(a)
		to := b.address()
		r.write(appendFrame(nil, kindDatagram, to[:], []byte("new")))
		if !contains(b.take(), said(a, "new")) {
			t.Error("the newer one carries nothing")
		}
		w.in(a) // r reads nothing, so that the word to it is under way for a second
		r.write(appendFrame(nil, kindDatagram, to[:], []byte("old")))
		if got := b.take(); len(got) != 0 {
			t.Errorf("got %q", got)
		}
		r.write(appendFrame(nil, kindRenew, a.pass))
		r.write(appendFrame(nil, kindDatagram, to[:], []byte("old")))
		if got := b.take(); len(got) != 0 {
			t.Errorf("after a renewal, got %q", got)
		}
	})
}

// What the coordinator would never sign, signed.
func TestOpenPassRefusals(t *testing.T) {
	k := key.NewCoordinator()
	now := time.Unix(1800000000, 0)
	p := NewPass(network, key.NewDevice().Public(), []Address{{1}, {2}}, now)
	good := p.Sign(k)
	good = good[:len(good)-signatureSize]
	at := 2 + len(network) // where the device begins
	for name, change := range map[string]func(b []byte) []byte{
		"good":                       func(b []byte) []byte { return b },
		"another version":            func(b []byte) []byte { b[0]++; return b },
		"no device":                  func(b []byte) []byte { clear(b[at : at+32]); return b },
		"begins beyond all times":    func(b []byte) []byte { b[at+32] = 0x80; return b },
		"ends beyond all times":      func(b []byte) []byte { b[at+40] = 0x80; return b },
		"more addresses than come":   func(b []byte) []byte { b[at+51]++; return b },
		"fewer addresses than come":  func(b []byte) []byte { b[at+51]--; return b },
		"an address cut short":       func(b []byte) []byte { return b[:len(b)-1] },
		"an address twice":           func(b []byte) []byte { copy(b[len(b)-8:], b[len(b)-16:len(b)-8]); return b },
		"falling addresses":          func(b []byte) []byte { b[len(b)-16] = 9; return b },
		"cut before the addresses":   func(b []byte) []byte { return b[:at+48] },
		"more than a pass may have":  func(b []byte) []byte { return append(b, make([]byte, MaxPass)...) },
		"a network's name and more":  func(b []byte) []byte { b[1]++; return b },
		"a network of another case":  func(b []byte) []byte { b[2] ^= 0x20; return b },
		"a count that wraps round":   func(b []byte) []byte { b[at+48] = 0x20; return b },
		"over before it begins":      func(b []byte) []byte { clear(b[at+40 : at+48]); return b },
		"signed for something other": nil,
	} {
		t.Run(name, func(t *testing.T) {
			var signed []byte
			if change == nil {
				signed = append(bytes.Clone(good), k.Sign("map", good)...)
			} else {
				b := change(bytes.Clone(good))
				signed = append(b, k.Sign(contextPass, b)...)
			}
			if p, err := OpenPass(signed, k.Public(), network, now); (err == nil) != (name == "good") {
				t.Errorf("%+v, %v", p, err)
			}
		})
	}
}

// fake is a relay made by hand. It returns when its client has left.
func fake(t *testing.T, conn net.Conn, after func(conn net.Conn)) {
	_, _ = conn.Write(appendFrame(nil, kindChallenge, []byte{version}, make([]byte, nonceSize)))
	r := &reader{r: conn, only: func(kind) bool { return true }}
	defer r.release()
	if k, _, err := r.next(); k != kindLogin {
		t.Errorf("type %d, %v", k, err)
	}
	_, _ = conn.Write(appendFrame(nil, kindWelcome, []byte{version}))
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { after(conn) })
	defer conn.Close()
	for {
		if _, _, err := r.next(); err != nil {
			return
		}
	}
}

// A relay that carries is not left for a pong that is long in coming; when it carries nothing any more, it is.
func TestBusyRelayIsNotLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.node()
		n.may()
		n.config.Dial = func(context.Context) (net.Conn, error) {
			here, there := net.Pipe()
			w.serves.Go(func() {
				fake(t, there, func(conn net.Conn) {
					for range 30 {
						time.Sleep(time.Second)
						_, _ = conn.Write(appendFrame(nil, kindDatagram, make([]byte, addressSize+1)))
					}
				})
			})
			return here, nil
		}
		n.start()
		for range 300 {
			time.Sleep(100 * time.Millisecond)
			n.Send(Address{1}, []byte("x"))
			if !n.Status().Connected {
				t.Fatalf("left: %+v", n.Status())
			}
		}
		for began := time.Now(); n.Status().Connected; time.Sleep(10 * time.Millisecond) {
			n.Send(Address{1}, []byte("x"))
			if time.Since(began) > 5*time.Second {
				t.Fatal("not left")
			}
		}
		if s := n.Status(); !strings.Contains(s.Err, "does not answer") {
			t.Errorf("%+v", s)
		}
		n.stop()
	})
}

// What a relay may not say ends the connection, with a word that says whose fault it is.
func TestHostileRelay(t *testing.T) {
	challenge := appendFrame(nil, kindChallenge, []byte{version}, make([]byte, nonceSize))
	welcome := appendFrame(nil, kindWelcome, []byte{version})
	datagram := appendFrame(nil, kindDatagram, make([]byte, addressSize+1))
	for name, c := range map[string]struct {
		before, after []byte // the login
		want          string
	}{
		"nothing at all":               {nil, nil, "says nothing that a relay would"},
		"HTTP":                         {[]byte("HTTP/1.1 200 OK\r\n\r\n"), nil, "says nothing that a relay would"},
		"another version":              {appendFrame(nil, kindChallenge, []byte{9}, make([]byte, nonceSize)), nil, "speaks version 9"},
		"a datagram before the login":  {datagram, nil, "does not belong here"},
		"a datagram before a welcome":  {challenge, datagram, "does not belong here"},
		"no welcome":                   {challenge, []byte{}, "does not answer the login"},
		"a second challenge":           {challenge, append(bytes.Clone(welcome), challenge...), "does not belong here"},
		"a login":                      {challenge, append(bytes.Clone(welcome), appendFrame(nil, kindLogin, make([]byte, 100))...), "does not belong here"},
		"a long frame":                 {challenge, append(bytes.Clone(welcome), byte(kindDatagram), 0xff, 0xff, 0xff), "16777215 bytes"},
		"a datagram that is too long":  {challenge, append(bytes.Clone(welcome), byte(kindDatagram), 0, (addressSize+MaxDatagram)>>8, (addressSize+MaxDatagram)&0xff+1), "9249 bytes"},
		"a frame of an unknown type":   {challenge, append(bytes.Clone(welcome), 99, 0, 0, 0), "does not belong here"},
		"a refusal that steers":        {appendFrame(nil, kindRefuse, []byte{codeBusy}, []byte("\x1b[2Jno")), nil, "refuses this node: ?[2Jno"},
		"a refusal of endless length":  {appendFrame(nil, kindRefuse, make([]byte, 1000)), nil, "1000 bytes"},
		"a frame that ends in between": {challenge, append(bytes.Clone(welcome), datagram[:10]...), "ends in the middle"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				n := w.node()
				n.may()
				n.config.Dial = func(context.Context) (net.Conn, error) {
					here, there := net.Pipe()
					w.serves.Go(func() {
						defer there.Close()
						_, _ = there.Write(c.before)
						if c.after == nil {
							time.Sleep(loginTime + time.Second)
							return
						}
						r := &reader{r: there, only: func(kind) bool { return true }}
						defer r.release()
						_, _, _ = r.next()
						var pings sync.WaitGroup
						defer pings.Wait()
						defer there.Close()
						pings.Go(func() {
							for _, _, err := r.next(); err == nil; _, _, err = r.next() {
							}
						})
						_, _ = there.Write(c.after)
						if strings.Contains(c.want, "in the middle") {
							time.Sleep(time.Second / 2) // no ping is due then
						} else {
							time.Sleep(loginTime + time.Second)
						}
					})
					return here, nil
				}
				n.start()
				time.Sleep(loginTime + time.Millisecond)
				n.stop()
				if s := n.Status(); !strings.Contains(s.Err, c.want) || len(n.take()) != 0 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// Pings, of which each asks for an answer, have neither side hold more than a few.
func TestPingsOfManyAreAnsweredByFew(t *testing.T) {
	o := newOutbox(clientBounds)
	for range 1000 {
		o.say(kindPong, make([]byte, pingSize))
	}
	if n := len(o.take(nil)); n != maxControl*(headerSize+pingSize) {
		t.Errorf("%d bytes wait", n)
	}
}

// A dropped client whose connection is not closed yet gets nothing back by showing its pass once more.
func TestDroppedClientCannotRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.pair()
		r := w.in(a)
		w.server.Drop(a.address()) // r reads nothing, so that the word to it is under way for a second
		to := b.address()
		r.write(appendFrame(nil, kindRenew, a.pass))
		r.write(appendFrame(nil, kindDatagram, to[:], []byte("x")))
		if got := b.take(); len(got) != 0 {
			t.Errorf("got %q", got)
		}
	})
}

// A relay that goes on talking, and takes nothing, is left.
func TestRelayThatTakesNothingIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.node()
		n.may()
		n.config.Dial = func(context.Context) (net.Conn, error) {
			here, there := net.Pipe()
			w.serves.Go(func() {
				defer there.Close()
				_, _ = there.Write(appendFrame(nil, kindChallenge, []byte{version}, make([]byte, nonceSize)))
				r := &reader{r: there, only: func(kind) bool { return true }}
				defer r.release()
				_, _, _ = r.next()
				for _, err := there.Write(appendFrame(nil, kindWelcome, []byte{version})); err == nil; time.Sleep(time.Second) {
					_, err = there.Write(appendFrame(nil, kindDatagram, make([]byte, addressSize+1)))
				}
			})
			return here, nil
		}
		n.start()
		synctest.Wait()
		if !n.Status().Connected {
			t.Fatalf("%+v", n.Status())
		}
		time.Sleep(writeTime + stalled)
		if s := n.Status(); s.Connected && time.Since(s.Since) > writeTime {
			t.Errorf("%+v", s)
		}
	})
}
