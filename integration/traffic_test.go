//go:build linux

package integration

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"picket.internal/integration/lab"
)

// end is one end of a flow as the commands print it.
type end struct {
	Name, Owner string
	Tags        []string
	Port        int
}

// TestTrafficIsSeen opens one flow that is allowed and one that is refused, and looks for both with each of the three commands.
func TestTrafficIsSeen(t *testing.T) {
	n := newNetwork(t, false, policyFor(openPorts))
	alice, db := n.laptop("alice"), n.server("db", "tag:db")
	_, err := db.Host.Serve(n.ctx, "tcp", "[::]:5432")
	n.must(err)
	file := filepath.Join(t.TempDir(), "c.pcapng")
	words := strings.Fields(alice.Command())
	capture, err := alice.Host.Start("capture", append(words, "capture", "-w", file, "peer", "db", "and", "proto", "tcp")...)
	n.must(err)
	follow, err := alice.Host.Start("denials", append(words, "denials", "-f", "port", "22")...)
	n.must(err)
	n.must(capture.WaitFor(n.ctx, "the capture to begin", func(out string) bool { return strings.Contains(out, "Capturing all packets, peer db and proto tcp") }))

	flow, err := alice.Dial(n.ctx, "tcp", net.JoinHostPort(n.address(db, false), "5432"))
	n.must(err)
	if _, err := alice.Dial(n.ctx, "tcp", net.JoinHostPort(n.address(db, false), "22")); err == nil {
		t.Fatal("a flow passed that no rule allows")
	}
	n.seesFlow(alice, true)
	n.seesFlow(db, false)
	n.must(follow.WaitFor(n.ctx, "the refusal", func(out string) bool {
		return strings.Contains(out, "out  alice (alice@example.com) -> db (tag:db) tcp/22: no rule allows it")
	}))
	var denials struct {
		Packets int
		Denials []struct {
			Src, Dst      end
			Reason, Words string
			Out           bool
			Count         int
		}
	}
	n.must(alice.JSON(n.ctx, &denials, "denials", "peer", "db"))
	if len(denials.Denials) != 1 || denials.Denials[0].Dst.Port != 22 || denials.Denials[0].Reason != "no-rule" || !denials.Denials[0].Out || denials.Denials[0].Count < 1 {
		t.Errorf("refusals: %+v", denials)
	}
	out, err := alice.CLI(n.ctx, "denials")
	n.must(err)
	if !strings.Contains(out, "picket why db:22") {
		t.Errorf("no hint at picket why:\n%s", out)
	}
	flow.Kill()
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the capture's file: %v, %v", info, err)
	}
	n.captured(capture, file)

	// The agent's log says who captured what.
	for _, want := range []string{"a capture of packets has begun", "user=0", "peer db and proto tcp", "a capture of packets has ended"} {
		if !strings.Contains(alice.Output(), want) {
			t.Errorf("the agent's log lacks %q", want)
		}
	}
}

// seesFlow looks for the flow from alice to the database at one of its ends.
func (n *network) seesFlow(at *lab.Node, out bool) {
	n.t.Helper()
	var flows struct {
		Total int
		Flows []struct {
			Src, Dst    end
			Proto, Rule string
			Out         bool
			Bytes       int
		}
	}
	n.must(at.JSON(n.ctx, &flows, "flows", "port", "5432"))
	if len(flows.Flows) != 1 {
		n.t.Fatalf("%s sees %+v", at.Host.Name, flows)
	}
	f := flows.Flows[0]
	if f.Src.Name != "alice" || f.Src.Owner != "alice@example.com" || f.Dst.Name != "db" || f.Dst.Port != 5432 || f.Out != out || f.Rule != "grants[0], line 5" || f.Bytes == 0 {
		n.t.Errorf("%s sees %+v", at.Host.Name, f)
	}
}

// captured ends a capture and reads it with tshark, where that is installed, else for the comments alone.
func (n *network) captured(capture *lab.Process, file string) {
	n.t.Helper()
	n.must(capture.Signal(os.Interrupt))
	select {
	case <-capture.Done():
	case <-time.After(10 * time.Second):
		n.t.Fatal("the capture does not end")
	}
	if out := capture.Output(); !strings.Contains(out, "Packets written: ") || !strings.Contains(out, ", dropped: 0.") {
		n.t.Errorf("the capture ended with:\n%s", out)
	}
	text, err := os.ReadFile(file)
	n.must(err)
	for _, want := range []string{
		"allow: grants[0], line 5; from alice (alice@example.com) to db (tag:db) tcp/5432",
		"allow: grants[0], line 5; from db (tag:db) to alice (alice@example.com) tcp/",
		"deny: no rule allows it; from alice (alice@example.com) to db (tag:db) tcp/22",
	} {
		if !strings.Contains(string(text), want) {
			n.t.Errorf("no packet has the comment %q", want)
		}
	}
	out, err := exec.Command("tshark", "-n", "-r", file, "-Y", `frame.comment contains "deny:"`, "-T", "fields", "-e", "tcp.dstport").CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		n.t.Log("tshark is not installed (apt-get install tshark)")
		return
	}
	if !strings.HasSuffix("\n"+string(out), "\n22\n") {
		n.t.Errorf("tshark reads %q, %v", out, err)
	}
}
