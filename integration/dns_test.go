//go:build linux

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"picket.internal/integration/lab"
)

// soon is how long a change may take until names show it.
const soon = 2 * time.Second

// resolves is what the C library of a host makes of a name: its addresses, or the name of an address; "" for none.
func (n *network) resolves(from *lab.Node, name string) string {
	n.t.Helper()
	out, err := from.Host.Run(n.ctx, "getent", "ahostsv4", name)
	if err != nil {
		return ""
	}
	return strings.Fields(out)[0]
}

// comes waits until a name stands for what it should.
func (n *network) comes(from *lab.Node, name, want string) {
	n.t.Helper()
	began := time.Now()
	for {
		got := n.resolves(from, name)
		if got == want {
			n.t.Logf("%s is %q after %v", name, want, time.Since(began).Round(time.Millisecond))
			return
		}
		if time.Since(began) > soon {
			n.t.Fatalf("%s asks for %s: %q after %v, want %q", from.Host.Name, name, got, soon, want)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestNames asks by the C library of a host with an /etc/resolv.conf of its own, through an agent that changed it.
func TestNames(t *testing.T) {
	n := newNetwork(t, false, policyFor(openPorts))
	etc, err := n.host("alice").OwnEtc(map[string]string{"nsswitch.conf": "hosts: files dns\n", "before.conf": "nameserver 192.0.2.250\noptions timeout:1 attempts:1\n"})
	n.must(err)
	conf := filepath.Join(etc, "resolv.conf")
	n.must(os.Symlink("before.conf", conf))
	alice, db := n.laptop("alice"), n.server("db", "tag:db")
	n.server("web", "tag:web")
	address := n.address(db, false)
	n.comes(alice, "db.picket.internal", address)
	n.comes(alice, "db", address)
	n.comes(alice, "alice", n.address(alice, false))
	if out, err := alice.Host.Run(n.ctx, "getent", "hosts", address); err != nil || !strings.Contains(out, "db.picket.internal") {
		t.Errorf("the name of %s: %v %s", address, err, out)
	}

	// Nothing tells a node that alice may not reach from one that does not exist.
	var answers []string
	for _, name := range []string{"web", "nosuch"} {
		if got := n.resolves(alice, name+".picket.internal"); got != "" {
			t.Errorf("%s stands for %s", name, got)
		}
		out, err := alice.CLI(n.ctx, "dns", "query", name+".picket.internal", "--json")
		if err == nil {
			t.Errorf("%s is found", name)
		}
		answers = append(answers, strings.ReplaceAll(out, name, "X"))
	}
	if answers[0] != answers[1] || !strings.Contains(answers[0], "NXDOMAIN") {
		t.Errorf("who may not be reached is answered otherwise than who is not there:\n%s\n%s", answers[0], answers[1])
	}

	_, err = n.coordinator.CLI(n.ctx, "nodes", "rename", "db", "pg")
	n.must(err)
	n.comes(alice, "pg.picket.internal", address)
	n.comes(alice, "db.picket.internal", "")
	n.inForce(policyFor(`"tcp:9"`))
	n.comes(alice, "pg.picket.internal", address)
	n.inForce(`{"tagOwners": {"tag:db": ["alice@example.com"], "tag:web": ["alice@example.com"]}}`)
	n.comes(alice, "pg.picket.internal", "")
	n.inForce(policyFor(openPorts))
	n.comes(alice, "pg.picket.internal", address)

	n.must(n.coordinator.Stop(5 * time.Second))
	n.comes(alice, "pg", address)
	alice.Kill()
	if now, err := os.Readlink(conf); err == nil {
		t.Errorf("the agent left %s a link to %s: it was not in use", conf, now)
	}
	n.must(alice.Start(n.ctx))
	n.comes(alice, "pg.picket.internal", address) // by the map on disk

	_, err = alice.CLI(n.ctx, "down")
	n.must(err)
	for end := time.Now().Add(soon); ; time.Sleep(20 * time.Millisecond) {
		now, err := os.Readlink(conf)
		if err == nil && now == "before.conf" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the link is not back: %q %v", now, err)
		}
	}
	left, err := filepath.Glob(filepath.Join(etc, "*picket*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// TestNamesOfRecords: an operator's records are told to whom they are not about others, and a split domain's nameserver is reached through the
// tunnel as far as the policy lets it.
func TestNamesOfRecords(t *testing.T) {
	n := newNetwork(t, false, policyFor(openPorts), "--domain", "corp.example.net")
	alice, db, web := n.laptop("alice"), n.server("db", "tag:db"), n.server("web", "tag:web")
	file := filepath.Join(t.TempDir(), "dns.hujson")
	n.must(os.WriteFile(file, fmt.Appendf(nil, `{
		"split":   {"intern.example.net": ["%[1]s:5353"]}, // on db
		"records": {"pg.example.net": ["%[1]s"], "www.example.net": ["%[2]s"], "alias.example.net": "web.corp.example.net"},
	}`, n.address(db, false), n.address(web, false)), 0o600))
	if _, err := n.coordinator.CLI(n.ctx, "dns", "set", "--file", file, "--wait"); err != nil {
		t.Fatal(err)
	}
	type reply struct {
		Status  string
		Records []string
		From    string
	}
	ask := func(from *lab.Node, name string) reply {
		t.Helper()
		var r []reply
		out, _ := from.CLI(n.ctx, "dns", "query", name, "A", "--json") // its status says no
		if !strings.HasPrefix(out, "[") {
			t.Fatalf("%s: %s", name, out)
		}
		n.must(json.Unmarshal([]byte(out), &r))
		return r[0]
	}
	for name, want := range map[string]string{"pg.example.net": n.address(db, false), "db.corp.example.net": n.address(db, false), "db": n.address(db, false)} {
		if got := ask(alice, name); len(got.Records) != 1 || !strings.HasSuffix(got.Records[0], want) {
			t.Errorf("%s: %v, want %s", name, got, want)
		}
	}
	for _, name := range []string{"www.example.net", "alias.example.net", "web.corp.example.net", "db.picket.internal"} {
		if got := ask(alice, name); len(got.Records) > 0 {
			t.Errorf("%s: %v", name, got)
		}
	}
	if got := ask(web, "pg.example.net"); len(got.Records) > 0 {
		t.Errorf("web is told of db: %v", got)
	}
	if got := ask(web, "x.intern.example.net"); got.Status != "SERVFAIL" || !strings.Contains(got.From, "no resolver is known") {
		t.Errorf("web asks somebody about a domain of which it may not reach the nameserver: %v", got)
	}
	_, err := db.Host.ServeNames(n.ctx, n.address(db, false)+":5353", "x.intern.example.net. 60 IN A 10.9.8.7")
	n.must(err)
	if got := ask(alice, "x.intern.example.net"); len(got.Records) != 1 || !strings.HasSuffix(got.Records[0], "10.9.8.7") {
		t.Errorf("through the tunnel: %v", got)
	}
	n.inForce(policyFor(`"tcp:9"`)) // the peer stays, its port 5353 does not
	if got := ask(alice, "y.intern.example.net"); got.Status != "SERVFAIL" {
		t.Errorf("the policy does not hold for our own questions: %v", got)
	}
}
