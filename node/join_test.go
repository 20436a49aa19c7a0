package node

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/coordinator/protocol"
	"picket.internal/node/control"
)

// TestJoinByItself: what time may mend is tried again, what it cannot ends the agent, and an admission is not asked for when there is one, or when an
// operator ended it.
func TestJoinByItself(t *testing.T) {
	refused := &control.ProblemError{Problem: protocol.Problem{Code: protocol.CodeAuthKey, Message: "the auth key was used already"}}
	away := &control.Error{Kind: control.ErrUnreachable, Message: "it is away"}
	for _, c := range []struct {
		name   string
		before func(*world)
		after  func(*world) // a minute later
		want   error        // nil: it goes on, or is in
		asked  int          // for an admission
	}{
		{"the key is refused", func(w *world) { w.client.err = refused }, nil, refused, 1},
		{"a person is asked for", func(w *world) {
			w.client.ticket = &protocol.Ticket{ID: "t", URL: testURL + "/join/x", Code: "ABCD-EFGH", Expires: time.Now().Add(time.Hour)}
		}, nil, errKeyIsNoAdmission, 1},
		{"removed", func(w *world) {
			w.node.id.node.Node, w.node.id.node.Ended = selfID, endRemoved
		}, nil, errRemovedBefore, 0},
		{"its login ended", func(w *world) { w.node.id.node.Node, w.node.id.node.Ended = selfID, endExpired }, nil, nil, 1},
		{"away at first", func(w *world) { w.client.err = away }, func(w *world) { w.client.err = nil }, nil, 7}, // after 0, 1, 3, 7, 15, 31 and 63 s
		{"a member", func(w *world) { w.node.id.node.Node, w.node.id.node.URL = selfID, testURL }, nil, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.start()
				if err := w.node.do(w.run, func() { c.before(w) }); err != nil {
					t.Fatal(err)
				}
				done := make(chan error, 1)
				go func() {
					done <- w.node.joinByItself(w.run, Joining{Coordinator: testURL, Key: func() (string, error) { return testAuthKey, nil }})
				}()
				time.Sleep(time.Minute)
				if c.after != nil {
					c.after(w)
					time.Sleep(time.Minute)
				}
				synctest.Wait()
				var err error
				select {
				case err = <-done:
				default:
				}
				if (c.want == nil) != (err == nil) || c.want != nil && !errors.Is(err, c.want) {
					t.Errorf("%v, want %v", err, c.want)
				}
				if len(w.client.authKeys) != c.asked {
					t.Errorf("asked %d times, want %d", len(w.client.authKeys), c.asked)
				}
				w.stop()
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start()
		missing := errors.New("no key")
		if err := w.node.joinByItself(w.run, Joining{Coordinator: testURL, Key: func() (string, error) { return "", missing }}); !errors.Is(err, missing) {
			t.Error(err)
		}
	})
}
