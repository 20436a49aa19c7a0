//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"picket.internal/integration/lab"
	"picket.internal/node/localapi"
)

const (
	// rotationKills is how often an agent is killed while its key changes. Each change is told to the coordinator twice, which takes ten in a row of a node.
	rotationKills = 4
	// rotationTime is what a change takes, from the command to the report; the kill comes at any moment of it, and a little later.
	rotationTime = 1800 * time.Millisecond
	// revival is how soon after its start such an agent is reached again; TCP and WireGuard repeat what was lost after seconds.
	revival = 15 * time.Second
)

// wireGuard is `status --wg --json`.
type wireGuard struct {
	PublicKey string
	Peers     []struct{ PublicKey string }
}

func (n *network) wireGuard(node *lab.Node) (w wireGuard) {
	n.t.Helper()
	n.must(node.JSON(n.ctx, &w, "status", "--wg"))
	return w
}

// knows says what is wrong unless the device of node has other under its present key alone.
func (n *network) knows(node, other *lab.Node) error {
	n.t.Helper()
	have, want := n.wireGuard(node), n.wireGuard(other).PublicKey
	if len(have.Peers) != 1 || have.Peers[0].PublicKey != want {
		return fmt.Errorf("the device of %s has the peers %v, want %s alone under %s", node.Host.Name, have.Peers, other.Host.Name, want)
	}
	return nil
}

// aliceAndServer is a network in which alice reaches the server db at tcp 5432 and udp 5353.
func aliceAndServer(t *testing.T) (n *network, alice, db *lab.Node) {
	n = newNetwork(t, false, policyFor(openPorts))
	n.laptop("alice")
	db = n.server("db", "tag:db")
	alice = n.nodes["alice"]
	for proto, at := range map[string]string{"tcp": "[::]:5432", "udp": "[::]:5353"} {
		_, err := db.Host.Serve(n.ctx, proto, at)
		n.must(err)
	}
	n.reaches(alice, db)
	return n, alice, db
}

// TestKilledWhileItsKeyChanges kills either end's agent (kill -9) at random moments of changes. Started again, it is reached under the key that it has, and
// its peer under no other.
func TestKilledWhileItsKeyChanges(t *testing.T) {
	n, alice, db := aliceAndServer(t)
	changed := 0
	for round := range rotationKills {
		who, other := alice, db
		if round%2 == 1 {
			who, other = db, alice
		}
		before := n.wireGuard(who).PublicKey
		ctx, cancel := context.WithCancel(n.ctx)
		rotated := make(chan error, 1)
		go func() {
			_, err := who.CLI(ctx, "rotate")
			rotated <- err
		}()
		moment := (time.Duration(round)*rotationTime + rand.N(rotationTime)) / rotationKills // one in each part of it
		time.Sleep(moment)
		who.Kill()
		cancel()
		<-rotated
		n.must(who.Start(n.ctx))
		began := time.Now()
		n.reaches(alice, db)
		took := time.Since(began)
		n.eventually("the devices agree", func() error { return errors.Join(n.knows(who, other), n.knows(other, who)) })
		if n.wireGuard(who).PublicKey != before {
			changed++
		}
		t.Logf("%s killed %v into the change: reached %v after its start; its key changed: %v", who.Host.Name, moment, took, n.wireGuard(who).PublicKey != before)
		if took > revival {
			t.Errorf("%s was reached %v after its start only", who.Host.Name, took)
		}
		n.refusesNobody(alice, db)
	}
	t.Logf("%d of %d keys changed", changed, rotationKills)
	for _, who := range []*lab.Node{alice, db} {
		var r localapi.Rotation
		n.must(who.JSON(n.ctx, &r, "rotate", "--timeout", "60s"))
		if r.Peers != 1 || r.Without != 0 {
			t.Errorf("%s afterwards: %+v", who.Host.Name, r)
		}
	}
	n.reaches(alice, db)
}

// reaches waits until new flows over both protocols pass.
func (n *network) reaches(from, to *lab.Node) {
	n.t.Helper()
	for proto, port := range map[string]string{"tcp": "5432", "udp": "5353"} {
		n.eventually(proto+" passes", func() error {
			ctx, cancel := context.WithTimeout(n.ctx, 2*time.Second)
			defer cancel()
			f, err := from.Dial(ctx, proto, net.JoinHostPort(n.address(to, false), port))
			if err == nil {
				f.Kill()
			}
			return err
		})
	}
}

func (n *network) refusesNobody(nodes ...*lab.Node) {
	n.t.Helper()
	for _, node := range nodes {
		var peers []localapi.Peer
		n.must(node.JSON(n.ctx, &peers, "peers"))
		if len(peers) != 1 || slices.ContainsFunc(peers, func(p localapi.Peer) bool { return p.Refused != "" }) {
			n.t.Errorf("the peers of %s: %+v", node.Host.Name, peers)
		}
	}
}

// TestFormerStateIsUseless starts an agent from a copy of its state directory that was made before its key changed, at the very host and address: with the
// former tunnel key nothing passes, though the map in the copy is within its lease. With the present state all goes on.
func TestFormerStateIsUseless(t *testing.T) {
	n, alice, db := aliceAndServer(t)
	state := filepath.Join(alice.Host.Dir, "state")
	copied, kept := filepath.Join(alice.Host.Dir, "copied"), filepath.Join(alice.Host.Dir, "kept")
	_, err := alice.Host.Run(n.ctx, "cp", "-a", state, copied)
	n.must(err)
	n.run("alice", "rotate")
	n.reaches(alice, db)
	n.must(alice.Stop(5 * time.Second))
	n.must(db.Stop(5 * time.Second)) // so that what it knows comes from its disk
	n.must(os.Rename(state, kept))
	n.must(os.Rename(copied, state))
	n.must(db.Start(n.ctx))
	n.must(alice.Start(n.ctx))
	for until := time.Now().Add(3 * time.Second); time.Now().Before(until); {
		ctx, cancel := context.WithTimeout(n.ctx, time.Second)
		if f, err := alice.Dial(ctx, "udp", net.JoinHostPort(n.address(db, false), "5353")); err == nil {
			f.Kill()
			t.Fatal("a datagram passes by the former key")
		}
		cancel()
	}
	n.must(alice.Stop(5 * time.Second))
	n.must(os.Rename(state, copied))
	n.must(os.Rename(kept, state))
	n.must(alice.Start(n.ctx))
	n.reaches(alice, db)
	n.must(errors.Join(n.knows(alice, db), n.knows(db, alice)))
	n.refusesNobody(alice, db)
}

// TestCoordinatorSetBack sets the coordinator back to a backup of before a server's key changed, and brings its generations above those that nodes hold. The
// laptop, though it was started anew, believes no former key; the server's next report mends it.
func TestCoordinatorSetBack(t *testing.T) {
	n := newNetwork(t, false, policyFor(openPorts), "--policy-breaker", "off") // which would wait for the nodes to come back
	n.laptop("alice")
	db := n.server("db", "tag:db")
	alice := n.nodes["alice"]
	for proto, at := range map[string]string{"tcp": "[::]:5432", "udp": "[::]:5353"} {
		_, err := db.Host.Serve(n.ctx, proto, at)
		n.must(err)
	}
	n.reaches(alice, db)
	dir := n.coordinator.Dir()
	n.must(n.coordinator.Stop(5 * time.Second))
	_, err := n.coordinator.Host.Run(n.ctx, "cp", "-a", dir, dir+".backup")
	n.must(err)
	n.must(n.coordinator.Start(n.ctx))
	n.eventually("the key is changed", func() error { // the agent may not have noticed yet that the coordinator is back
		_, err := db.CLI(n.ctx, "rotate")
		return err
	})
	n.eventually("alice has the map that names it", func() error { return n.knows(alice, db) })
	former := n.generation(alice)
	n.must(db.Stop(5 * time.Second))
	n.must(alice.Stop(5 * time.Second))
	n.must(n.coordinator.Stop(5 * time.Second))
	n.must(os.Rename(dir, dir+".newer"))
	n.must(os.Rename(dir+".backup", dir))
	n.must(n.coordinator.Start(n.ctx))
	for i := range 4 { // a change of a key raises it by two
		n.commit(policyFor(fmt.Sprintf(`%s, "tcp:%d"`, openPorts, 6000+i)))
		n.operate("policy", "reload")
	}
	n.must(alice.Start(n.ctx))
	n.eventually("alice takes a map of the coordinator's", func() error {
		if g := n.generation(alice); g <= former {
			return fmt.Errorf("it holds generation %d, as before", g)
		}
		return nil
	})
	out, err := alice.CLI(n.ctx, "peers")
	n.must(err)
	t.Logf("picket peers:\n%s", out)
	if !strings.Contains(out, "! db is refused: its key certificate (serial ") {
		t.Errorf("a former key is believed:\n%s", out)
	}
	n.must(db.Start(n.ctx))
	n.reaches(alice, db)
	n.refusesNobody(alice, db)
}

// generation is that of the map which a node holds.
func (n *network) generation(node *lab.Node) uint64 {
	n.t.Helper()
	s, err := node.Status(n.ctx)
	n.must(err)
	return s.Generation
}
