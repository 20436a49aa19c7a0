//go:build linux

package integration

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"picket.internal/integration/lab"
)

// TestRootless runs everything without privilege: the same filter judges flows that go through the proxies, and cuts them.
func TestRootless(t *testing.T) {
	n := newNetwork(t, true, policyFor(`"tcp:15432", "udp:15353", "icmp:*"`))
	alice, bob, db := n.laptop("alice"), n.laptop("bob"), n.server("db", "tag:db")
	_, err := db.Host.Serve(n.ctx, "tcp", "127.0.0.1:15432")
	n.must(err)
	_, err = db.Host.Serve(n.ctx, "tcp", "127.0.0.1:15433")
	n.must(err)
	addr := n.address(db, false)

	f, err := alice.Dial(n.ctx, "tcp", net.JoinHostPort(addr, "15432"))
	n.must(err)
	v6, err := alice.Dial(n.ctx, "tcp", net.JoinHostPort(n.address(db, true), "15432"))
	n.must(err)
	v6.Kill()
	for _, c := range []struct {
		name string
		from *lab.Node
		port string
	}{{"another port", alice, "15433"}, {"another person", bob, "15432"}} {
		var r *lab.Refusal
		if _, err := c.from.Dial(n.ctx, "tcp", net.JoinHostPort(addr, c.port)); !errors.As(err, &r) || r.After > time.Second {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := alice.Dial(n.ctx, "tcp", "127.0.0.1:15433"); err == nil {
		t.Error("the proxy leads to this machine's own loopback")
	}
	if out, err := alice.CLI(n.ctx, "ping", "-c", "2", "db"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	netcat := func(from *lab.Node, port string) (string, error) {
		return from.Host.Run(n.ctx, "sh", "-c", "echo through the tunnel | "+from.Command()+" nc db "+port)
	}
	if out, err := netcat(alice, "15432"); err != nil || out != "through the tunnel\n" {
		t.Errorf("nc says %q, %v", out, err)
	}
	for from, port := range map[*lab.Node]string{alice: "15433", bob: "15432"} {
		if out, err := netcat(from, port); err == nil || !strings.Contains(out+err.Error(), "picket: ") {
			t.Errorf("nc to port %s, which is not allowed: %q, %v", port, out, err)
		}
	}
	out, err := bob.CLI(n.ctx, "why", "db:15432")
	if err == nil || !strings.Contains(out, "refused") {
		t.Errorf("why says %q, %v", out, err)
	}

	began := time.Now()
	n.inForce(policyFor(`"tcp:9"`))
	after, err := f.WaitCut(n.ctx, began)
	n.must(err)
	if after > cutWorst {
		t.Errorf("cut only %v after the commit", after)
	}
	n.inForce(policyFor(`"tcp:15432"`))
	f, err = alice.Dial(n.ctx, "tcp", net.JoinHostPort(addr, "15432"))
	n.must(err)
	f.Kill()
}

// TestAgentKilled ends the server's agent with kill -9 and starts it again, while the coordinator is up and while it is down: it comes back as the
// same node by itself, unfiltered at no time.
func TestAgentKilled(t *testing.T) {
	n := newNetwork(t, false, policyFor(openPorts))
	alice, db := n.laptop("alice"), n.server("db", "tag:db")
	_, err := db.Host.Serve(n.ctx, "tcp", "[::]:5432")
	n.must(err)
	addr := net.JoinHostPort(n.address(db, false), "5432")
	reach := func() error {
		f, err := alice.Dial(n.ctx, "tcp", addr)
		if err == nil {
			f.Kill()
		}
		return err
	}
	n.must(reach())
	for _, down := range []bool{false, true} {
		if down {
			n.coordinator.Kill()
		}
		db.Kill()
		if reach() == nil {
			t.Errorf("a dead node answers (coordinator down: %v)", down)
		}
		n.must(db.Start(n.ctx))
		began := time.Now()
		n.eventually("the node is back", reach)
		t.Logf("coordinator down %v: back %v after its start", down, time.Since(began).Round(time.Millisecond))
	}
}
