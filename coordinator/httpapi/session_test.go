package httpapi

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

// TestSessionRefusesBrowsers: any Origin at all, also our own, is a page.
func TestSessionRefusesBrowsers(t *testing.T) {
	s := serve(t, Config{})
	for _, origin := range []string{"https://evil.example.com", "null", s.URL, ""} {
		_, resp, err := websocket.Dial(t.Context(), s.URL+protocol.PathSession, &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {origin}}})
		if err == nil || resp == nil || resp.StatusCode != http.StatusForbidden {
			t.Errorf("Origin %q: %v %v", origin, resp, err)
		}
	}
}

// TestSessionOpeningRefused: each is told why, and none is attached.
func TestSessionOpeningRefused(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(n *node)
		code string
	}{
		"another message than a hello": {func(n *node) { n.send(protocol.TypeResync, protocol.Resync{}) }, protocol.CodeBadRequest},
		"a message of an unknown type": {func(n *node) { n.raw([]byte(`{"type":"hi","body":{}}`)) }, protocol.CodeBadRequest},
		"no message at all":            {func(n *node) { n.raw([]byte("hello")) }, protocol.CodeBadRequest},
		"a hello in a binary frame":    {func(n *node) { _ = n.conn.Write(n.t.Context(), websocket.MessageBinary, []byte("{}")) }, protocol.CodeBadRequest},
		"a hello of another version":   {func(n *node) { h := n.hello(); h.Version++; n.send(protocol.TypeHello, h) }, protocol.CodeVersion},
		"a hello without a node id":    {func(n *node) { h := n.hello(); h.Node = ""; n.send(protocol.TypeHello, h) }, protocol.CodeBadRequest},
		"two hellos":                   {func(n *node) { n.send(protocol.TypeHello, n.hello()); n.read(); n.send(protocol.TypeHello, n.hello()) }, protocol.CodeBadRequest},
		"a report in place of a proof": {func(n *node) {
			n.send(protocol.TypeHello, n.hello())
			n.read()
			n.send(protocol.TypeReport, testReport)
		}, protocol.CodeBadRequest},
		"a proof by another device key": {func(n *node) { n.prove(n.hello(), key.NewDevice()) }, protocol.CodeBadRequest},
		"a device nobody knows": {func(n *node) {
			d := key.NewDevice()
			h := n.hello()
			h.Device = d.Public()
			n.prove(h, d)
		}, protocol.CodeUnknownNode},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Config{})
			n := s.dial(t)
			c.do(n)
			if p := n.problem(); p.Code != c.code || p.Message == "" {
				t.Errorf("told %v", p)
			}
		})
	}
}

func (n *node) prove(h protocol.Hello, k key.DevicePrivate) {
	n.t.Helper()
	n.send(protocol.TypeHello, h)
	ch := n.read().Body.(protocol.Challenge)
	p := protocol.Proof{Report: testReport}
	p.Sign(h, ch, k)
	n.send(protocol.TypeProof, p)
}

// TestSessionProofReplayed: the proof of one session is none in another (R2), although all else is the same.
func TestSessionProofReplayed(t *testing.T) {
	s := serve(t, Config{})
	n := s.dial(t)
	h := n.hello()
	old := protocol.Challenge{Network: "net", Coordinator: s.fake.key.Public(), Nonce: bytes.Repeat([]byte{9}, 32), Time: time.Now()}
	old.Sign(h, s.fake.key)
	p := protocol.Proof{Report: testReport}
	p.Sign(h, old, s.fake.device)
	n.send(protocol.TypeHello, h)
	n.read()
	n.send(protocol.TypeProof, p)
	if got := n.problem(); got.Code != protocol.CodeBadRequest {
		t.Errorf("told %v", got)
	}
}

// TestSessionSlowOpening is R15: who does not say hello, or does not prove, is dropped, and frees the slot.
func TestSessionSlowOpening(t *testing.T) {
	for name, begin := range map[string]func(n *node){
		"no hello": func(*node) {},
		"no proof": func(n *node) { n.send(protocol.TypeHello, n.hello()); n.read() },
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Config{Timing: Timing{Hello: 100 * time.Millisecond}, Limits: Limits{OpeningOf: 1}})
			n := s.dial(t)
			begin(n)
			if _, resp, err := websocket.Dial(t.Context(), s.URL+protocol.PathSession, nil); err == nil || resp.StatusCode != 429 {
				t.Errorf("a second one while the first holds the slot: %v %v", resp, err)
			}
			_ = n.dropped()
			for free := time.Now().Add(20 * time.Second); ; { // the slot is given back a moment after the node sees the end
				conn, _, err := websocket.Dial(t.Context(), s.URL+protocol.PathSession, nil)
				if err == nil {
					_ = conn.CloseNow()
					return
				}
				if time.Now().After(free) {
					t.Fatal("the slot was not given back")
				}
			}
		})
	}
}

// TestSessionSlotIsFreedByProof: an open session holds no opening slot.
func TestSessionSlotIsFreedByProof(t *testing.T) {
	s := serve(t, Config{Limits: Limits{Opening: 1}})
	n := s.dial(t)
	n.open()
	n.send(protocol.TypeResync, protocol.Resync{})
	<-s.fake.heard
	s.dial(t)
}

// TestSessionFrameTooLarge is R15: 64 KiB before the proof, 1 MiB after.
func TestSessionFrameTooLarge(t *testing.T) {
	filled := func(n int) []byte {
		return []byte(`{"type":"resync","body":{"x":"` + strings.Repeat("a", n-len(`{"type":"resync","body":{"x":""}}`)) + `"}}`)
	}
	t.Run("before the proof", func(t *testing.T) {
		s := serve(t, Config{})
		n := s.dial(t)
		n.raw(filled(protocol.MaxHelloFrame + 1))
		if err := n.dropped(); websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
			t.Error(err)
		}
		if s.fake.called() != "" {
			t.Error(s.fake.called())
		}
	})
	t.Run("after the proof", func(t *testing.T) {
		s := serve(t, Config{})
		n := s.dial(t)
		n.open()
		n.raw(filled(protocol.MaxNodeFrame))
		if m := <-s.fake.heard; m.Type != protocol.TypeResync {
			t.Error(m)
		}
		n.raw(filled(protocol.MaxNodeFrame + 1))
		if err := n.dropped(); websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
			t.Error(err)
		}
		s.fake.waitEnded(t)
	})
}

func TestSessionCarriesBothWays(t *testing.T) {
	s := serve(t, Config{})
	n := s.dial(t)
	n.open()
	hints := protocol.Hints{Hints: []protocol.Hint{{Node: "n2", Online: true}}}
	s.fake.out <- next{Outgoing: coordinator.Outgoing{Type: protocol.TypeHints, Body: hints}}
	if d := cmp.Diff(protocol.Message{Type: protocol.TypeHints, Body: hints}, n.read(), cmpEmpty); d != "" {
		t.Error(d)
	}
	sent := []protocol.Message{
		{Type: protocol.TypeReport, Body: testReport},
		{Type: protocol.TypeReceipt, Body: protocol.Receipt{Generation: 1, Digest: make([]byte, 32), Signature: make([]byte, 64)}},
		{Type: protocol.TypeEvidence, Body: protocol.Evidence{Kind: "egress-bypass", Peer: "n2", Count: 1}},
		{Type: protocol.TypeFlows, Body: protocol.Flows{Ask: 1, Total: 3, Truncated: true}},
		{Type: protocol.TypeResync, Body: protocol.Resync{}},
		{Type: protocol.TypeLogout, Body: protocol.Logout{}},
	}
	n.send(protocol.TypeLive, protocol.Live{Time: time.Now()})
	n.raw([]byte(`{"type":"of-a-newer-version","body":{}}`))
	for _, m := range sent {
		n.send(m.Type, m.Body)
	}
	for _, want := range sent {
		if d := cmp.Diff(want, <-s.fake.heard, cmpEmpty); d != "" {
			t.Error(d)
		}
	}
	if got := s.fake.from(); !strings.HasSuffix(got, "127.0.0.1") {
		t.Errorf("attached from %s", got)
	}
}

var cmpEmpty = cmpopts.EquateEmpty()

// TestSessionEndsWithProblem: the coordinator's refusals are told, its internal errors are not, and the session is closed first.
func TestSessionEndsWithProblem(t *testing.T) {
	removed := &coordinator.Error{Code: protocol.CodeRemoved, Message: "an operator removed this node"}
	for name, c := range map[string]struct {
		do   func(s *server, n *node)
		code string
	}{
		"removed":           {func(s *server, _ *node) { s.fake.out <- next{err: removed} }, protocol.CodeRemoved},
		"an internal error": {func(s *server, _ *node) { s.fake.out <- next{err: errors.New("sqlite: /secret/path")} }, protocol.CodeUnavailable},
		"a mistake of ours": {func(s *server, _ *node) { s.fake.out <- next{Outgoing: coordinator.Outgoing{Type: "nonsense"}} }, protocol.CodeUnavailable},
		"a report that is refused": {func(_ *server, n *node) {
			r := testReport
			r.Facts.Hostname = "refuse me"
			n.send(protocol.TypeReport, r)
		}, protocol.CodeBadRequest},
		"a message only we may send": {func(_ *server, n *node) { n.send(protocol.TypeProblem, protocol.Problem{Code: "x"}) }, protocol.CodeBadRequest},
		"a second proof": {func(_ *server, n *node) {
			n.send(protocol.TypeProof, protocol.Proof{Signature: make([]byte, 64), Report: testReport})
		}, protocol.CodeBadRequest},
		"a frame that is none":        {func(_ *server, n *node) { n.raw([]byte("[")) }, protocol.CodeBadRequest},
		"removed with much unread":    {func(s *server, _ *node) { fill(s, 3, 1<<20); s.fake.out <- next{err: removed} }, protocol.CodeRemoved},
		"a receipt out of all bounds": {func(_ *server, n *node) { n.raw([]byte(`{"type":"receipt","body":{"generation":0}}`)) }, protocol.CodeBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Config{})
			n := s.dial(t)
			n.open()
			c.do(s, n)
			p := n.problem()
			if p.Code != c.code || strings.Contains(p.Message, "secret") {
				t.Errorf("told %v", p)
			}
			s.fake.waitEnded(t)
			if logged := strings.Contains(s.log.String(), "session failed"); logged != (c.code == protocol.CodeUnavailable) {
				t.Errorf("logged %q", s.log)
			}
		})
	}
}

// fill queues count messages of size bytes each.
func fill(s *server, count, size int) {
	for range count {
		s.fake.out <- next{Outgoing: coordinator.Outgoing{Type: protocol.TypeMap, Body: protocol.Map{
			Header: []byte("h"), Signature: make([]byte, 64), Put: []protocol.Entry{{ID: "x", Data: make([]byte, size)}},
		}}}
	}
}

// TestSessionDropsStalledNode: a node that reads nothing holds its session no longer than the time to write.
func TestSessionDropsStalledNode(t *testing.T) {
	s := serve(t, Config{Timing: Timing{Write: 200 * time.Millisecond}})
	n := s.dial(t)
	n.open()
	fill(s, 20, 4<<20)
	s.fake.waitEnded(t)
}

// TestSessionDropsSilentNode: a dead link is noticed, and signs of life keep a live one.
func TestSessionDropsSilentNode(t *testing.T) {
	s := serve(t, Config{Timing: Timing{Dead: 600 * time.Millisecond}})
	n := s.dial(t)
	n.open()
	for range 10 {
		time.Sleep(100 * time.Millisecond)
		n.send(protocol.TypeLive, protocol.Live{Time: time.Now()})
	}
	select {
	case <-s.fake.ended:
		t.Fatal("a living node was dropped")
	default:
	}
	s.fake.waitEnded(t)
}

// TestSessionPacesNode: beyond its burst a node is read more slowly, and loses nothing.
func TestSessionPacesNode(t *testing.T) {
	s := serve(t, Config{})
	n := s.dial(t)
	n.open()
	began := time.Now()
	for range nodeBurst + 10 {
		n.send(protocol.TypeResync, protocol.Resync{})
	}
	for range nodeBurst + 10 {
		<-s.fake.heard
	}
	if took := time.Since(began); took < 10*time.Second/nodeRate*9/10 {
		t.Errorf("%d messages were taken in %s", nodeBurst+10, took)
	}
}

// TestSessionsEndWithTheServer: Shutdown does not wait for sessions, the base context ends them.
func TestSessionsEndWithTheServer(t *testing.T) {
	s := serve(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	h, err := New(Config{API: s.fake})
	if err != nil {
		t.Fatal(err)
	}
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(w, r.WithContext(ctx)) })
	n := s.dial(t)
	n.open()
	n.send(protocol.TypeResync, protocol.Resync{})
	<-s.fake.heard
	cancel()
	_ = n.dropped()
	s.fake.waitEnded(t)
}
