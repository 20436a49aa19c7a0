//go:build linux

package integration

import (
	"errors"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"picket.internal/integration/lab"
)

// policyFor allows what is listed from alice to the database, and ICMP from everybody.
func policyFor(ports string) string {
	return `{
	"groups":    {"group:dba": ["alice@example.com"]},
	"tagOwners": {"tag:db": ["alice@example.com"], "tag:web": ["alice@example.com"]},
	"grants": [
		{"src": ["group:dba"], "dst": ["tag:db"], "ip": [` + ports + `]},
		{"src": ["bob@example.com"], "dst": ["tag:db"], "ip": ["icmp:*"]},
	],
}`
}

const openPorts = `"tcp:5432", "udp:5353", "icmp:*"`

// TestAllowedFlowsOnly walks every protocol in both families between real TUN devices: what the policy names passes, all else is
// refused at once, and nobody sees whom it may not reach.
func TestAllowedFlowsOnly(t *testing.T) {
	n := newNetwork(t, false, policyFor(openPorts))
	alice, bob, db := n.laptop("alice"), n.laptop("bob"), n.server("db", "tag:db")
	web := n.server("web", "tag:web")
	for _, proto := range []string{"tcp", "udp"} {
		for _, port := range []string{"5432", "5353", "22"} {
			_, err := db.Host.Serve(n.ctx, proto, "[::]:"+port) // takes IPv4 as well
			n.must(err)
		}
	}
	for _, c := range []struct {
		from  *lab.Node
		proto string
		port  string
		pass  bool
	}{
		{alice, "tcp", "5432", true},
		{alice, "udp", "5353", true},
		{alice, "tcp", "5353", false},
		{alice, "udp", "5432", false},
		{alice, "tcp", "22", false},
		{bob, "tcp", "5432", false},
		{bob, "udp", "5353", false},
		{web, "tcp", "5432", false},
	} {
		for _, v6 := range []bool{false, true} {
			family := map[bool]string{false: "IPv4", true: "IPv6"}[v6]
			t.Run(c.from.Host.Name+" "+c.proto+" "+c.port+" "+family, func(t *testing.T) {
				f, err := c.from.Dial(n.ctx, c.proto, net.JoinHostPort(n.address(db, v6), c.port))
				if c.pass {
					if err != nil {
						t.Fatal(err)
					}
					f.Kill()
					return
				}
				if err == nil {
					f.Kill()
					t.Fatal("a flow passed that no rule allows")
				}
				var r *lab.Refusal
				if errors.As(err, &r) && r.After > time.Second {
					t.Errorf("the refusal took %v: it must come at once", r.After)
				}
			})
		}
	}
	for _, v6 := range []bool{false, true} {
		n.ping(alice, n.address(db, v6), true)
		n.ping(bob, n.address(db, v6), true)
		n.ping(web, n.address(db, v6), false)
		n.ping(db, n.address(alice, v6), false) // allowed the other way only
	}
	n.seesOnly(alice, "db")
	n.seesOnly(bob, "db")
	n.seesOnly(db, "alice", "bob")
	n.seesOnly(web)
}

// ping sends three echoes with the system's own program.
func (n *network) ping(from *lab.Node, to string, pass bool) {
	n.t.Helper()
	if _, err := exec.LookPath("ping"); err != nil {
		n.t.Log("ping is not installed (apt-get install iputils-ping)")
		return
	}
	out, err := from.Host.Run(n.ctx, "ping", "-n", "-c", "3", "-i", "0.05", "-W", "1", to)
	if pass && err != nil {
		n.t.Errorf("ping from %s to %s: %v\n%s", from.Host.Name, to, err, out)
	}
	if !pass && err == nil {
		n.t.Errorf("ping from %s to %s passed, which no rule allows:\n%s", from.Host.Name, to, out)
	}
}

// seesOnly checks that a node's peers are exactly those, by name.
func (n *network) seesOnly(node *lab.Node, want ...string) {
	n.t.Helper()
	var peers []struct{ Name string }
	n.must(node.JSON(n.ctx, &peers, "peers"))
	var got []string
	for _, p := range peers {
		got = append(got, p.Name)
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		n.t.Errorf("%s sees %v, want %v", node.Host.Name, got, want)
	}
}

// TestStrangersScan has nmap scan the database from a host that may reach one port: exactly that one is found.
func TestStrangersScan(t *testing.T) {
	if _, err := exec.LookPath("nmap"); err != nil {
		t.Skip("nmap is not installed (apt-get install nmap)")
	}
	n := newNetwork(t, false, policyFor(`"tcp:5432"`))
	alice, db := n.laptop("alice"), n.server("db", "tag:db")
	for _, port := range []string{"22", "80", "5432", "5433", "65535"} {
		_, err := db.Host.Serve(n.ctx, "tcp", "0.0.0.0:"+port)
		n.must(err)
	}
	out, err := alice.Host.Run(n.ctx, "nmap", "-n", "-Pn", "-sT", "-p-", "-T5", "--open", "-oG", "-", n.address(db, false))
	n.must(err)
	if got := strings.Count(out, "/open/"); got != 1 || !strings.Contains(out, "5432/open/") {
		t.Errorf("the scan found:\n%s", out)
	}
	// The same host from the lab's internet: nothing there but the services themselves, and no overlay address.
	out, err = n.coordinator.Host.Run(n.ctx, "nmap", "-n", "-Pn", "-sT", "-p", "5432", "--max-retries", "1", "--host-timeout", "5s", "-oG", "-", n.address(db, false))
	if err == nil && strings.Contains(out, "/open/") {
		t.Errorf("an outsider reaches an overlay address:\n%s", out)
	}
}

// TestWireGuardTools has `wg show` read the device.
func TestWireGuardTools(t *testing.T) {
	if _, err := exec.LookPath("wg"); err != nil {
		t.Skip("wg is not installed (apt-get install wireguard-tools)")
	}
	n := newNetwork(t, false, policyFor(openPorts))
	alice, db := n.laptop("alice"), n.server("db", "tag:db")
	n.ping(alice, n.address(db, false), true)
	var st struct{ Interface string }
	n.must(alice.JSON(n.ctx, &st, "status"))
	out, err := alice.Host.Run(n.ctx, "wg", "show", st.Interface)
	n.must(err)
	for _, want := range []string{"peer:", "latest handshake:", "allowed ips: " + n.address(db, false) + "/32", "endpoint: "} {
		if !strings.Contains(out, want) {
			t.Errorf("wg show lacks %q:\n%s", want, out)
		}
	}
	if _, err := alice.Host.Run(n.ctx, "wg", "set", st.Interface, "listen-port", "9999"); err == nil {
		t.Error("wg could change the device past the coordinator")
	}
}
