package node

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/acl"
	"picket.internal/node/localapi"
)

// TestPeers_sayWhatIsAllowed: a rule counts only where its posture is met, less what denies refuse, and a change of postures alone is seen.
func TestPeers_sayWhatIsAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join()
		a, b := newPeer("a", "100.64.0.2").entry(), newPeer("b", "100.64.0.3").entry()
		a.Postures, a.Roles = []string{"posture:linux"}, append(a.Roles, 9)
		c := content(a, b)
		from, to := acl.Set{Roles: []acl.RoleID{2}}, acl.Set{Roles: []acl.RoleID{1}}
		ports := []acl.Ports{{Proto: acl.TCP, First: 80, Last: 90}}
		c.Rules = append(c.Rules, acl.Rule{Ref: acl.Ref{Section: "grants", Index: 1, Line: 5}, Src: from, Dst: to, Ports: ports, SrcPosture: []acl.RoleID{9}, Postures: []string{"posture:linux"}})
		c.Denies = []acl.Rule{{Ref: acl.Ref{Section: "denies", Line: 7}, Src: from, Dst: to, Ports: []acl.Ports{{Proto: acl.TCP, First: 86, Last: 90}}}}
		w.send(w.signed(5, c))
		p := w.node.view.Load().peers(time.Now())
		if in := []localapi.Allowed{{Ports: "tcp 80-85", Rule: "grants[1], line 5"}}; !slices.Equal(p[0].In, in) || len(p[0].Out) != 1 || !slices.Equal(p[0].Postures, a.Postures) {
			t.Errorf("the peer that meets the posture: %+v", p[0])
		}
		if len(p[1].In) != 0 || len(p[1].Out) != 1 || len(p[1].Postures) != 0 {
			t.Errorf("the peer that does not: %+v", p[1])
		}
		c.Peers[0].Postures = []string{"posture:linux", "posture:new"}
		w.send(w.signed(6, c))
		if p := w.node.view.Load().peers(time.Now()); !slices.Equal(p[0].Postures, c.Peers[0].Postures) {
			t.Errorf("postures after a map that changed them alone: %q", p[0].Postures)
		}
	})
}
