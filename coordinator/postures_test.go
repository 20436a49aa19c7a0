package coordinator_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
)

const (
	posturesHead = `{
		"groups": {"group:ops": ["ann@example.com"]}, "tagOwners": {"tag:db": [], "tag:ci": []},
		"postures": {
			"posture:linux": ["node:os == 'linux'"], "posture:unix": ["node:os IN ['linux', 'macos']"], "posture:mac": ["node:os == 'macos'"],
			"posture:known": ["node:os IS SET"], "posture:unasked": ["node:os == 'linux'"],
		},`
	eitherPosture = posturesHead + `
		"grants": [
			{"src": ["group:ops"], "dst": ["tag:db"], "ip": ["tcp:22"], "srcPosture": ["posture:unix", "posture:linux"]},
			{"src": ["tag:ci"], "dst": ["tag:db"], "ip": ["tcp:5432"], "srcPosture": ["posture:linux"]},
			{"src": ["tag:db"], "dst": ["tag:ci"], "ip": ["icmp:*"]},
		],
	}`
	defaultPosture = posturesHead + `
		"defaultSrcPosture": ["posture:known"],
		"grants": [
			{"src": ["group:ops"], "dst": ["tag:db"], "ip": ["tcp:22"]},
			{"src": ["tag:ci"], "dst": ["tag:db"], "ip": ["tcp:5432"], "srcPosture": ["posture:linux"]},
		],
	}`
)

// posturesOf are those that a map gives a peer; false when it does not name the peer.
func posturesOf(c protocol.Content, name string) ([]string, bool) {
	i := slices.IndexFunc(c.Peers, func(p protocol.Peer) bool { return p.Name == name })
	if i < 0 {
		return nil, false
	}
	return c.Peers[i].Postures, true
}

// meets waits until a map gives a peer these postures.
func (d *device) meets(peer string, want ...string) {
	d.n.t.Helper()
	d.until(peer+" with "+cmp.Diff(nil, want), func(c protocol.Content) bool {
		got, named := posturesOf(c, peer)
		return named && slices.Equal(got, want)
	})
}

// becomes has a device report another system.
func (d *device) becomes(system string) {
	d.n.t.Helper()
	d.facts.OS = system
	if err := d.session.Report(d.n.ctx, d.report()); err != nil {
		d.n.t.Fatal(err)
	}
}

// postureNet is a server, one that comes to it by its tags, and a person's laptop.
func postureNet(t *testing.T, policy string) (n *testnet, db, ci, laptop *device) {
	n = newNet(t)
	n.admin()
	n.policy.set(policy, "c0ffee0000000000000000000000000000000002")
	n.reload("")
	db, ci, laptop = n.device("db").joinTagged("tag:db").connect(), n.device("ci").joinTagged("tag:ci").connect(), n.device("laptop").join(n.member("ann@example.com")).connect()
	return n, db, ci, laptop
}

// A map names what its peers meet of what lets them in, and goes on being true while devices change, also where the verdict stays.
func TestMapsNameThePosturesThatLetPeersIn(t *testing.T) {
	_, db, ci, laptop := postureNet(t, eitherPosture)
	db.meets("laptop", "posture:linux", "posture:unix")
	db.meets("ci", "posture:linux")
	laptop.meets("db")
	ci.meets("db")

	laptop.becomes("darwin") // one of the two is lost, and the flow is allowed as before
	db.meets("laptop", "posture:unix")
	if got, _ := posturesOf(db.content, "ci"); !slices.Equal(got, []string{"posture:linux"}) {
		t.Errorf("ci meets %q after another node's change", got)
	}
	laptop.becomes("windows") // none is left
	db.until("be rid of laptop", lacksPeer("laptop"))
	laptop.becomes("linux (Debian GNU/Linux 13)")
	db.meets("laptop", "posture:linux", "posture:unix")

	ci.becomes("windows") // it stays a peer, because the server may reach it
	db.meets("ci")
	db.meets("laptop", "posture:linux", "posture:unix")
}

func TestMapsNameTheDefaultPosture(t *testing.T) {
	n, db, _, laptop := postureNet(t, defaultPosture)
	db.meets("laptop", "posture:known")
	db.meets("ci", "posture:linux")
	laptop.becomes("plan9") // which is none of those that postures know
	db.until("be rid of laptop", lacksPeer("laptop"))
	laptop.becomes("darwin")
	db.meets("laptop", "posture:known")

	n.policy.set(eitherPosture, "c0ffee0000000000000000000000000000000003")
	n.reload("")
	db.meets("laptop", "posture:unix")
}

// Whoever a change of a device does not concern gets no new map for it.
func TestPosturesOfOthersChangeNoMap(t *testing.T) {
	n, db, ci, laptop := postureNet(t, eitherPosture)
	db.meets("laptop", "posture:linux", "posture:unix")
	ci.meets("db")
	before := map[acl.NodeID][]byte{ci.node(): protocol.Digest(ci.entries), laptop.node(): protocol.Digest(laptop.entries)}
	laptop.becomes("darwin")
	db.meets("laptop", "posture:unix")
	for _, d := range []*device{ci, laptop} {
		d.nextMap()
		if same := slices.Equal(protocol.Digest(d.entries), before[d.node()]); same != (d == ci) {
			t.Errorf("the map of %s stayed as it was: %v", d.admitted.Name, same)
		}
	}
	if err := n.CompareWithWhole(n.ctx); err != nil {
		t.Error(err)
	}
}
