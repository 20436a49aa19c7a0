//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"picket.internal/coordinator/protocol"
	"picket.internal/node/control"
	"picket.internal/picket"
	"picket.internal/wgtun/key"
)

// A caller may be on one system or the other; what it says besides is asked by no rule to the program.
const policyOfPostures = `{
	"tagOwners": {"tag:app": [], "tag:ci": [], "tag:other": []},
	"postures": {
		"posture:unix": ["node:os IN ['linux', 'macos']"], "posture:linux": ["node:os == 'linux'"], "posture:elsewhere": ["node:os IS SET"],
	},
	"grants": [
		{"src": ["tag:ci"], "dst": ["tag:app"], "ip": ["tcp:80"], "srcPosture": ["posture:linux", "posture:unix"]},
		{"src": ["tag:ci"], "dst": ["tag:other"], "ip": ["tcp:80"], "srcPosture": ["posture:elsewhere"]},
	],
}`

// TestWhoIsFollowsPostures: a program knows what its callers' devices meet, as long as they do.
func TestWhoIsFollowsPostures(t *testing.T) {
	n := newNetwork(t, true, policyOfPostures)
	auth, err := n.coordinator.AuthKey(n.ctx, "--tag", "tag:app")
	n.must(err)
	app := n.embed(picket.Config{Dir: filepath.Join(t.TempDir(), "state"), AuthKey: auth, Name: "app"})
	d := n.saysOfItself("linux (Debian GNU/Linux 13)")
	expect := func(want ...string) {
		t.Helper()
		n.eventually(fmt.Sprintf("the caller meets %q", want), func() error {
			caller, err := app.WhoIs(d.address)
			if err != nil || !slices.Equal(caller.Postures, want) {
				return fmt.Errorf("it is %+v, %v", caller, err)
			}
			return nil
		})
	}
	expect("posture:linux", "posture:unix")
	d.become("darwin")
	expect("posture:unix")
	d.become("windows")
	n.eventually("the caller is let in no more, and named no more", func() error {
		if caller, err := app.WhoIs(d.address); err == nil {
			return fmt.Errorf("it is %+v", caller)
		}
		return nil
	})
	d.become("linux")
	expect("posture:linux", "posture:unix")
}

// speaker is a node that has no tunnel and says of its host what a test wants.
type speaker struct {
	address string
	report  protocol.Report
	session *control.Session
}

func (s *speaker) become(system string) {
	s.report.Facts.OS = system
	s.session.SetReport(s.report)
}

// saysOfItself has a node join by auth key, and keeps its session until the test ends.
func (n *network) saysOfItself(system string) *speaker {
	n.t.Helper()
	auth, err := n.coordinator.AuthKey(n.ctx, "--tag", "tag:ci")
	n.must(err)
	join, err := protocol.ParseJoin(n.coordinator.Join)
	n.must(err)
	device, facts := key.NewDevice(), protocol.Facts{Hostname: "ci", OS: system, Arch: "amd64", Version: "test"}
	stranger, err := control.New(control.Config{Join: join})
	n.must(err)
	defer stranger.Close()
	e, err := stranger.Enrol(n.ctx, device, facts, auth)
	n.must(err)
	if e.Admitted == nil {
		n.t.Fatal("it was not let in by its key")
	}
	client, err := control.New(control.Config{Join: join, Pinned: e.Coordinator})
	n.must(err)
	certificate := key.Certificate{
		Node: string(e.Admitted.Node), Serial: 1, Tunnel: key.NewTunnel().Public(), Probe: key.NewProbe().Public(),
		NotBefore: time.Now().Add(-time.Minute).Truncate(time.Second), NotAfter: time.Now().Add(time.Hour).Truncate(time.Second),
	}.Sign(device)
	s := &speaker{address: e.Admitted.Addresses[0].String(), report: protocol.Report{Facts: facts, Certificate: certificate}}
	s.session, err = control.NewSession(control.SessionConfig{
		Client: client, Pinned: e.Coordinator, Network: e.Network, Node: e.Admitted.Node, Device: device, Report: s.report,
		Held: func() (uint64, []byte) { return 0, nil }, Handler: listener{},
	})
	n.must(err)
	ctx, cancel := context.WithCancel(n.ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.session.Run(ctx) }()
	n.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			n.t.Error(err)
		}
		client.Close()
	})
	return s
}

// listener takes what a session delivers, and does nothing about it.
type listener struct{}

func (listener) OnConnected(time.Duration)       {}
func (listener) OnDisconnected(error)            {}
func (listener) OnMap(protocol.Map)              {}
func (listener) OnHints(protocol.Hints)          {}
func (listener) OnSought(protocol.Sought)        {}
func (listener) OnRelayPass(protocol.RelayPass)  {}
func (listener) OnAskFlows(protocol.AskFlows)    {}
func (listener) OnProblem(protocol.Problem) bool { return false }
