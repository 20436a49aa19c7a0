package control

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"picket.internal/acl"
	"picket.internal/coordinator"
	"picket.internal/coordinator/httpapi"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

func TestSessionCarriesBothWays(t *testing.T) {
	c := newCoord()
	at, _ := c.listen(t, c.self(t), "127.0.0.1:0", httpapi.Timing{})
	c.ahead = time.Minute
	s, r, _ := c.run(t, at, quick)
	far := c.next(t)
	if ahead := wait(t, r.connected, "the connection"); ahead > -59*time.Second || ahead < -61*time.Second {
		t.Errorf("our clock is %s ahead", ahead)
	}
	if d := cmp.Diff(testReport("first"), far.proof.Report, cmpopts.EquateEmpty()); d != "" {
		t.Error(d)
	}
	if h := c.hellos[0]; h.Generation != 5 || !bytes.Equal(h.Digest, bytes.Repeat([]byte{5}, 32)) || h.Node != "n1" {
		t.Errorf("%+v", h)
	}
	m := protocol.Map{Base: 5, Header: []byte("h"), Signature: make([]byte, 64), Remove: []protocol.EntryID{"peer/n2"}}
	far.out <- coordinator.Outgoing{Type: protocol.TypeMap, Body: m}
	far.out <- coordinator.Outgoing{Type: protocol.TypeHints, Body: protocol.Hints{Hints: []protocol.Hint{{Node: "n2", Online: true}}}}
	if d := cmp.Diff(m, wait(t, r.maps, "the map"), cmpopts.EquateEmpty()); d != "" {
		t.Error(d)
	}
	if h := wait(t, r.hints, "hints"); len(h.Hints) != 1 || h.Hints[0].Node != "n2" {
		t.Error(h)
	}

	s.SetReport(testReport("second"))
	if got := far.next(t); got.Body.(protocol.Report).Facts.Hostname != "second" {
		t.Error(got)
	}
	s.Receipt(protocol.Receipt{Generation: 6, Digest: make([]byte, 32), Applied: time.Millisecond, Cut: 2})
	if got, ok := far.next(t).Body.(protocol.Receipt); !ok || got.Open("net", "n1", c.device.Public()) != nil || got.Cut != 2 {
		t.Errorf("the receipt is not signed by the device: %+v", got)
	}
	s.Evidence(protocol.Evidence{Kind: "egress-bypass", Peer: "n2", Count: 3})
	if got := far.next(t); got.Body.(protocol.Evidence).Count != 3 {
		t.Error(got)
	}
	s.Resync()
	if got := far.next(t); got.Type != protocol.TypeResync {
		t.Error(got)
	}
	far.out <- coordinator.Outgoing{Type: protocol.TypeAskFlows, Body: protocol.AskFlows{Ask: 9, Max: 10}}
	if a := wait(t, r.asks, "the question"); a.Ask != 9 || a.Max != 10 {
		t.Error(a)
	}
	s.Flows(protocol.Flows{Ask: 9, Total: 1, Truncated: true})
	if got := far.next(t); got.Body.(protocol.Flows).Ask != 9 {
		t.Error(got)
	}
	far.out <- coordinator.Outgoing{Type: protocol.TypeSought, Body: protocol.Sought{Node: "n2"}}
	if who := wait(t, r.sought, "who seeks us"); who.Node != "n2" {
		t.Error(who)
	}
	s.Seek("n3")
	if got := far.next(t); got.Body.(protocol.Seek).Node != "n3" {
		t.Error(got)
	}
}

// TestSessionReconnect: a connection that may be from an address which is no more is dropped at once, and another opened without a pause.
func TestSessionReconnect(t *testing.T) {
	c := newCoord()
	at, _ := c.listen(t, c.self(t), "127.0.0.1:0", httpapi.Timing{})
	slow := quick
	slow.Backoff, slow.Pause = time.Hour, time.Hour
	s, r, _ := c.run(t, at, slow)
	c.next(t)
	wait(t, r.connected, "the connection")
	s.Reconnect()
	if err := wait(t, r.disconnected, "its end"); !strings.Contains(err.Error(), "network has changed") {
		t.Error(err)
	}
	c.next(t)
	wait(t, r.connected, "another connection")
}

// TestSessionTrustsNobodyElse: a challenge is held to the pinned key, the network, this very hello and the clock, and no proof is given before.
func TestSessionTrustsNobodyElse(t *testing.T) {
	other := key.NewCoordinator()
	sign := func(c *coord, h protocol.Hello, k key.CoordinatorPrivate, change func(*protocol.Challenge)) (protocol.Challenge, error) {
		ch := protocol.Challenge{Network: "net", Coordinator: k.Public(), Nonce: freshNonce(), Time: time.Now()}
		change(&ch)
		ch.Sign(h, k)
		return ch, nil
	}
	for name, x := range map[string]struct {
		challenge func(c *coord, h protocol.Hello) (protocol.Challenge, error)
		want      error
		says      string
	}{
		"another key": {func(c *coord, h protocol.Hello) (protocol.Challenge, error) {
			return sign(c, h, other, func(*protocol.Challenge) {})
		}, ErrWrongKey, other.Public().Fingerprint().String()},
		"our coordinator's name, another's signature": {func(c *coord, h protocol.Hello) (protocol.Challenge, error) {
			ch, _ := sign(c, h, other, func(ch *protocol.Challenge) { ch.Coordinator = c.key.Public() })
			return ch, nil
		}, ErrWrongKey, "not this node's coordinator"},
		"another network": {func(c *coord, h protocol.Hello) (protocol.Challenge, error) {
			return sign(c, h, c.key, func(ch *protocol.Challenge) { ch.Network = "other" })
		}, ErrWrongKey, "another network"},
		"the challenge of an earlier hello (replayed)": {func(c *coord, h protocol.Hello) (protocol.Challenge, error) {
			h.Nonce = freshNonce()
			return sign(c, h, c.key, func(*protocol.Challenge) {})
		}, ErrWrongKey, "not this node's coordinator"},
		"the challenge of another node": {func(c *coord, h protocol.Hello) (protocol.Challenge, error) {
			h.Node = "n2"
			return sign(c, h, c.key, func(*protocol.Challenge) {})
		}, ErrWrongKey, "not this node's coordinator"},
		"a clock an hour off": {func(c *coord, h protocol.Hello) (protocol.Challenge, error) {
			return sign(c, h, c.key, func(ch *protocol.Challenge) { ch.Time = time.Now().Add(time.Hour) })
		}, ErrClock, "1h0m0s behind"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCoord()
			c.challenge = func(h protocol.Hello) (protocol.Challenge, error) { return x.challenge(c, h) }
			at, _ := c.listen(t, c.self(t), "127.0.0.1:0", httpapi.Timing{})
			_, r, _ := c.run(t, at, quick)
			err := wait(t, r.disconnected, "the refusal")
			if !errors.Is(err, x.want) || !strings.Contains(err.Error(), x.says) {
				t.Errorf("%v", err)
			}
			if c.count("attach") != 0 || len(r.connected) != 0 {
				t.Error("a proof was given")
			}
		})
	}
}

// TestSessionKeyChanged: a coordinator set up anew behind the same address is noticed at the certificate already.
func TestSessionKeyChanged(t *testing.T) {
	c, anew := newCoord(), newCoord()
	at, _ := anew.listen(t, anew.self(t), "127.0.0.1:0", httpapi.Timing{})
	_, r, _ := c.run(t, at, quick)
	if err := wait(t, r.disconnected, "the refusal"); !errors.Is(err, ErrWrongKey) || !strings.Contains(err.Error(), "set up anew") {
		t.Error(err)
	}
	if anew.count("challenge") != 0 {
		t.Error("a hello was sent")
	}
}

func TestSessionProblems(t *testing.T) {
	refusal := func(code string) error { return &coordinator.Error{Code: code, Message: "said " + code + "\x1b"} }
	t.Run("at the proof, for good", func(t *testing.T) {
		c := newCoord()
		c.attach = func(protocol.Hello) error { return refusal(protocol.CodeUnknownNode) }
		at, _ := c.listen(t, c.self(t), "127.0.0.1:0", httpapi.Timing{})
		cl := newClient(t, Config{Join: protocol.Join{URL: at}, Pinned: c.key.Public()})
		r := newRecorder()
		r.stop = func(p protocol.Problem) bool { return p.Code == protocol.CodeUnknownNode }
		s, err := NewSession(SessionConfig{Client: cl, Pinned: c.key.Public(), Network: "net", Node: "n1", Device: c.device, Report: testReport("a"), Handler: r, Held: func() (uint64, []byte) { return 0, nil }})
		if err != nil {
			t.Fatal(err)
		}
		var p *ProblemError
		if err := s.Run(t.Context()); !errors.As(err, &p) || p.Code != protocol.CodeUnknownNode || err.Error() != "said unknown-node" {
			t.Errorf("%q", err)
		}
		if c.count("attach") != 1 {
			t.Error("it tried again")
		}
	})
	t.Run("while open, and it tries again", func(t *testing.T) {
		c := newCoord()
		at, _ := c.listen(t, c.self(t), "127.0.0.1:0", httpapi.Timing{})
		_, r, _ := c.run(t, at, quick)
		c.next(t).end <- refusal(protocol.CodeReplaced)
		if err := wait(t, r.disconnected, "the problem"); err.Error() != "said replaced" {
			t.Error(err)
		}
		c.next(t)
	})
	t.Run("before the WebSocket", func(t *testing.T) {
		c := newCoord()
		h, err := httpapi.New(httpapi.Config{API: c, Limits: httpapi.Limits{PerSecond: 0.001, Burst: 1}})
		if err != nil {
			t.Fatal(err)
		}
		at, _ := listen(t, h, &tls.Config{Certificates: []tls.Certificate{c.self(t)}}, "127.0.0.1:0")
		_, r, _ := c.run(t, at, quick)
		c.next(t).end <- refusal(protocol.CodeReplaced)
		wait(t, r.disconnected, "the first end")
		var p *ProblemError
		if err := wait(t, r.disconnected, "the limit"); !errors.As(err, &p) || p.Code != protocol.CodeThrottled || p.RetryAfter != maxRetryAfter {
			t.Errorf("%v", err)
		}
	})
}

// TestSessionReconnects: a coordinator that restarts is found again, and told anew what it may have lost.
func TestSessionReconnects(t *testing.T) {
	c := newCoord()
	cert := c.self(t)
	at, stop := c.listen(t, cert, "127.0.0.1:0", httpapi.Timing{})
	s, r, _ := c.run(t, at, quick)
	far := c.next(t)
	wait(t, r.connected, "the connection")
	s.Receipt(protocol.Receipt{Generation: 6, Digest: make([]byte, 32)})
	far.next(t)
	stop()
	if err := wait(t, r.disconnected, "the loss"); !errors.Is(err, ErrUnreachable) {
		t.Error(err)
	}
	s.SetReport(testReport("changed meanwhile"))
	s.Evidence(protocol.Evidence{Kind: "egress-bypass", Peer: "n2", Count: 1})
	if err := wait(t, r.disconnected, "a failed attempt"); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "refused") {
		t.Error(err)
	}
	c.listen(t, cert, strings.TrimPrefix(at, "https://"), httpapi.Timing{})
	far = c.next(t)
	if got := far.proof.Report.Facts.Hostname; got != "changed meanwhile" {
		t.Errorf("the proof reports %q", got)
	}
	// A receipt for the earlier connection's map would have this one refused: it is not said again.
	if got := far.next(t); got.Type != protocol.TypeEvidence {
		t.Error(got)
	}
}

// TestSessionDeadLink: a coordinator that says nothing, while its TCP connection stays, is given up.
func TestSessionDeadLink(t *testing.T) {
	c := newCoord()
	at, _ := c.listen(t, c.self(t), "127.0.0.1:0", httpapi.Timing{})
	timing := quick
	timing.Dead = 150 * time.Millisecond
	_, r, _ := c.run(t, at, timing)
	wait(t, r.connected, "the connection")
	if err := wait(t, r.disconnected, "the end"); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "nothing was heard") {
		t.Error(err)
	}
}

// TestSessionStaysAlive: either side's signs of life keep the other from giving up.
func TestSessionStaysAlive(t *testing.T) {
	c := newCoord()
	c.live = 40 * time.Millisecond
	at, _ := c.listen(t, c.self(t), "127.0.0.1:0", httpapi.Timing{Dead: time.Second})
	timing := quick
	timing.Live, timing.Dead = 40*time.Millisecond, time.Second
	_, r, _ := c.run(t, at, timing)
	wait(t, r.connected, "the connection")
	select {
	case err := <-r.disconnected:
		t.Error(err)
	case <-time.After(1500 * time.Millisecond):
	}
}

// TestSessionLogout waits until the coordinator has removed the node.
func TestSessionLogout(t *testing.T) {
	c := newCoord()
	at, stop := c.listen(t, c.self(t), "127.0.0.1:0", httpapi.Timing{})
	s, r, _ := c.run(t, at, quick)
	c.next(t)
	wait(t, r.connected, "the connection")
	if err := s.Logout(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := wait(t, r.disconnected, "the end"); err.Error() != "removed on its own wish" {
		t.Error(err)
	}
	stop()
	for errors.Is(s.Logout(t.Context()), ErrOffline) == false {
		wait(t, r.disconnected, "the loss")
	}
}

// TestSessionBoundsWhatItReads: 64 KiB before the coordinator has proved itself, MaxServerFrame after.
func TestSessionBoundsWhatItReads(t *testing.T) {
	for name, x := range map[string]struct {
		afterProof bool
		size       int
		ok         bool
	}{
		"before the proof":             {false, protocol.MaxHelloFrame + 1, false},
		"after, more than all bounds":  {true, protocol.MaxServerFrame + 1, false},
		"after, as large as it may be": {true, protocol.MaxServerFrame, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCoord()
			frame := []byte(`{"type":"map","body":{"header":"aA==","signature":"` + strings.Repeat("A", 86) + `==","x":"`)
			frame = append(append(frame, bytes.Repeat([]byte("a"), x.size-len(frame)-3)...), `"}}`...)
			at, _ := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				conn, err := websocket.Accept(w, r, nil)
				if err != nil {
					return
				}
				defer func() { _ = conn.CloseNow() }()
				conn.SetReadLimit(protocol.MaxHelloFrame)
				ctx := r.Context()
				if x.afterProof {
					_, hello, err := conn.Read(ctx)
					m, err2 := protocol.DecodeFrame(hello)
					if err != nil || err2 != nil {
						return
					}
					ch, _ := c.Challenge(m.Body.(protocol.Hello))
					b, _ := protocol.EncodeFrame(protocol.TypeChallenge, ch)
					_ = conn.Write(ctx, websocket.MessageText, b)
					_, _, _ = conn.Read(ctx)
				}
				_ = conn.Write(ctx, websocket.MessageText, frame)
				_, _, _ = conn.Read(ctx)
			}), &tls.Config{Certificates: []tls.Certificate{c.self(t)}}, "127.0.0.1:0")
			_, r, _ := c.run(t, at, quick)
			if x.ok {
				wait(t, r.maps, "the map")
				return
			}
			if err := wait(t, r.disconnected, "the end"); !errors.Is(err, websocket.ErrMessageTooBig) {
				t.Error(err)
			}
		})
	}
}

// TestSessionRefusesNonsense: what is no message, or does not come at this point, ends the connection.
func TestSessionRefusesNonsense(t *testing.T) {
	c := newCoord()
	at, _ := c.listen(t, c.self(t), "127.0.0.1:0", httpapi.Timing{})
	_, r, _ := c.run(t, at, quick)
	for _, o := range []coordinator.Outgoing{
		{Type: protocol.TypeLogout, Body: protocol.Logout{}},
		{Type: protocol.TypeMap, Body: protocol.Map{Header: []byte("h")}}, // no signature
	} {
		c.next(t).out <- o
		if err := wait(t, r.disconnected, "the end"); !errors.Is(err, ErrNotPicket) {
			t.Errorf("%s: %v", o.Type, err)
		}
	}
}

func TestNewSessionRefuses(t *testing.T) {
	k := key.NewCoordinator().Public()
	good := func() SessionConfig {
		return SessionConfig{
			Client: newClient(t, Config{Join: protocol.Join{URL: "https://127.0.0.1"}, Pinned: k}), Pinned: k, Network: "net", Node: "n1", Device: key.NewDevice(),
			Handler: newRecorder(), Held: func() (uint64, []byte) { return 0, nil },
		}
	}
	for name, change := range map[string]func(*SessionConfig){
		"no client":                 func(c *SessionConfig) { c.Client = nil },
		"no handler":                func(c *SessionConfig) { c.Handler = nil },
		"nothing about what's held": func(c *SessionConfig) { c.Held = nil },
		"no pinned key":             func(c *SessionConfig) { c.Pinned = key.CoordinatorPublic{} },
		"another key than pinned":   func(c *SessionConfig) { c.Pinned = key.NewCoordinator().Public() },
		"a client that pins nothing": func(c *SessionConfig) {
			c.Client = newClient(t, Config{Join: protocol.Join{URL: "https://127.0.0.1"}})
		},
		"no device key": func(c *SessionConfig) { c.Device = key.DevicePrivate{} },
		"no node id":    func(c *SessionConfig) { c.Node = "" },
		"no network":    func(c *SessionConfig) { c.Network = "" },
	} {
		c := good()
		change(&c)
		if _, err := NewSession(c); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if _, err := NewSession(good()); err != nil {
		t.Error(err)
	}
}

// TestOutboxKeepsWhatMatters without a connection.
// TestSeeksAreBounded: each once, 64 at most, and none for a later connection.
func TestSeeksAreBounded(t *testing.T) {
	s := &Session{}
	s.out.init(protocol.Report{})
	s.out.connected()
	for i := range 3 * maxSeeks {
		s.Seek(acl.NodeID(fmt.Sprint("n", i/2)))
	}
	if n := len(s.out.seeks); n != maxSeeks {
		t.Errorf("%d are kept", n)
	}
	s.out.connected()
	if m, ok := s.out.next(); ok {
		t.Errorf("%+v is said to the next connection", m)
	}
}

func TestOutboxKeepsWhatMatters(t *testing.T) {
	s := &Session{}
	s.out.init(testReport("first"))
	for i := range uint64(maxEvidence + 10) {
		s.Evidence(protocol.Evidence{Kind: "k", Peer: "n2", Count: i})
	}
	s.Receipt(protocol.Receipt{Generation: 1}) // of an earlier connection
	s.Resync()
	if err := s.Logout(t.Context()); !errors.Is(err, ErrOffline) {
		t.Error(err)
	}
	if got := s.out.connected().Facts.Hostname; got != "first" {
		t.Error(got)
	}
	s.Receipt(protocol.Receipt{Generation: 2})
	s.Receipt(protocol.Receipt{Generation: 3})
	var got []protocol.Message
	for m, ok := s.out.next(); ok; m, ok = s.out.next() {
		got = append(got, m)
	}
	if len(got) != 2+maxEvidence || got[0].Type != protocol.TypeResync || got[1].Body.(protocol.Receipt).Generation != 3 || got[2].Body.(protocol.Evidence).Count != 10 {
		t.Errorf("%d messages: %v", len(got), got)
	}
	s.out.putBack(got[2])
	s.out.putBack(got[0])
	s.out.putBack(got[1])
	if m, _ := s.out.next(); m.Type != protocol.TypeResync {
		t.Error(m)
	}
	if m, _ := s.out.next(); m.Type != protocol.TypeEvidence {
		t.Error(m)
	}
	if m, ok := s.out.next(); ok {
		t.Error(m)
	}
}
