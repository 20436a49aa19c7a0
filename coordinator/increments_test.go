package coordinator_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator"
)

// drawnPolicies are what the policy becomes; {soon} is a little later than it comes into force.
var drawnPolicies = []string{
	openPolicy,
	`{"tagOwners": {"tag:db": ["autogroup:member"], "tag:web": []}, "grants": [{"src": ["tag:web"], "dst": ["tag:db"], "ip": ["tcp:5432"]}]}`,
	`{"groups": {"group:g": ["p1@example.com", "p2@example.com"]}, "tagOwners": {"tag:db": [], "tag:web": []}, "grants": [
		{"src": ["group:g"], "dst": ["tag:db"], "ip": ["tcp:22"], "until": "{soon}"}, {"src": ["autogroup:admin"], "dst": ["tag:web"], "ip": ["*"]},
		{"src": ["tag:db"], "dst": ["tag:web"], "ip": ["*"], "srcPosture": ["posture:linux"]}],
		"postures": {"posture:linux": ["node:os == 'linux'"]},
		"denies": [{"src": ["tag:db"], "dst": ["tag:web"], "ip": ["tcp:22"], "reason": "no", "until": "{soon}"}]}`,
	`{"tagOwners": {"tag:db": [], "tag:web": []}}`,
}

// changer does random things to a network.
type changer struct {
	*testnet
	r       *rand.Rand
	made    int // names given out
	devices []*device
}

func (c *changer) name(prefix string) string {
	c.made++
	return fmt.Sprintf("%s%d", prefix, c.made)
}

// pick is any device that joined, also one that is gone.
func (c *changer) pick() *device { return c.devices[c.r.IntN(len(c.devices))] }

func (c *changer) tags() []string {
	return [][]string{{"tag:db"}, {"tag:web"}, {"tag:db", "tag:web"}}[c.r.IntN(3)]
}

func (c *changer) login() string { return fmt.Sprintf("p%d@example.com", c.r.IntN(4)) }

// change does one thing and names it. What is refused, because its object is gone or in the wrong state, changes nothing.
func (c *changer) change() string {
	ctx := c.ctx
	steps := []struct {
		name string
		do   func() error
	}{
		{"a server joins", func() error {
			d := c.device(c.name("srv")).joinTagged(c.tags()...)
			c.devices = append(c.devices, d)
			return d.attach()
		}},
		{"a person joins", c.personJoins},
		{"a node connects", func() error { return c.pick().attach() }},
		{"a node disconnects", c.disconnects},
		{"a node reports", c.reports},
		{"a node is renamed", func() error {
			_, err := c.RenameNode(ctx, operator, string(c.pick().node()), c.name("new"))
			return err
		}},
		{"two nodes change names", func() error { return c.swapNames(c.pick().node(), c.pick().node()) }},
		{"a node changes tag", func() error { return c.Retag(ctx, c.pick().node(), c.tags()) }},
		{"a node is removed", func() error { _, err := c.RemoveNode(ctx, operator, string(c.pick().node())); return err }},
		{"a node is quarantined", func() error {
			_, err := c.QuarantineNode(ctx, operator, string(c.pick().node()), c.r.IntN(2) == 0)
			return err
		}},
		{"a node is removed without disk", func() error {
			c.faults.full.Store(true)
			_, err := c.RemoveNode(ctx, operator, string(c.pick().node()))
			c.faults.full.Store(false)
			time.Sleep(20 * time.Second) // it is tried again
			return err
		}},
		{"a change is not read", c.changesUnread},
		{"a user is invited", func() error { _, _, err := c.AddUser(ctx, operator, c.login(), coordinator.RoleMember); return err }},
		{"a user is removed", func() error { _, err := c.RemoveUser(ctx, operator, c.login()); return err }},
		{"a user changes role", c.changesRole},
		{"the policy changes", c.changesPolicy},
		{"the policy comes back", c.rollsBack},
		{"time passes", func() error { time.Sleep(time.Duration(c.r.IntN(30)) * time.Minute); return nil }},
	}
	step := steps[min(c.r.IntN(len(steps)+2), len(steps)-1)] // time passes most often
	if err := step.do(); err != nil {
		return step.name + ", refused: " + err.Error()
	}
	return step.name
}

func (c *changer) personJoins() error {
	_, link, err := c.AddUser(c.ctx, operator, c.login(), coordinator.RoleMember)
	if err != nil {
		return err
	}
	i, err := c.Invitation(c.ctx, link)
	if err != nil {
		return err
	}
	d := c.device(c.name("pc")).join(c.setup(link, i.Login))
	c.devices = append(c.devices, d)
	return d.attach()
}

func (c *changer) disconnects() error {
	if d := c.pick(); d.session != nil {
		d.session.Close()
	}
	return nil
}

func (c *changer) reports() error {
	d := c.pick()
	if d.session == nil {
		return nil
	}
	d.facts.OS = []string{"linux", "windows", "darwin"}[c.r.IntN(3)]
	if c.r.IntN(2) == 0 {
		d.newCertificate()
	}
	return d.session.Report(c.ctx, d.report())
}

func (c *changer) swapNames(a, b acl.NodeID) error {
	return c.Change(c.ctx, func(tx coordinator.Tx) error {
		one, err := tx.NodeByID(a)
		if err != nil {
			return err
		}
		two, err := tx.NodeByID(b)
		if err != nil || a == b || !one.Removed.IsZero() || !two.Removed.IsZero() {
			return fmt.Errorf("one of them is gone: %v", err)
		}
		names := [2]string{one.Name, two.Name}
		one.Name = "between"
		if err := tx.UpdateNode(one); err != nil {
			return err
		}
		two.Name, one.Name = names[0], names[1]
		if err := tx.UpdateNode(two); err != nil {
			return err
		}
		return tx.UpdateNode(one)
	})
}

// changesUnread commits a change whose reading back fails.
func (c *changer) changesUnread() error {
	id, name := c.pick().node(), c.name("unread")
	c.faults.reads.Store(true)
	_, err := c.RenameNode(c.ctx, operator, string(id), name)
	c.faults.reads.Store(false)
	time.Sleep(20 * time.Second) // it is read again
	return err
}

// changesRole raises no generation: it is seen with the next change.
func (c *changer) changesRole() error {
	return c.store.Update(c.ctx, func(tx coordinator.Tx) error {
		u, err := tx.UserByLogin(c.login())
		if err != nil {
			return err
		}
		u.Role = []coordinator.Role{coordinator.RoleAdmin, coordinator.RoleMember}[c.r.IntN(2)]
		return tx.UpdateUser(u)
	})
}

func (c *changer) changesPolicy() error {
	soon := time.Now().UTC().Add(time.Duration(c.r.IntN(60)) * time.Minute).Format(time.RFC3339)
	c.policy.set(strings.ReplaceAll(drawnPolicies[c.r.IntN(len(drawnPolicies))], "{soon}", soon), fmt.Sprintf("c%039d", c.r.IntN(5)))
	_, _, err := c.ReloadPolicy(c.ctx, operator, "")
	return err
}

func (c *changer) rollsBack() error {
	_, err := c.RollbackPolicy(c.ctx, operator, fmt.Sprintf("c%039d", c.r.IntN(5)))
	if err == nil {
		_, _, err = c.UnpinPolicy(c.ctx, operator)
	}
	return err
}

// Whatever happens to a network, what the coordinator makes of the changes it reads is what it would make of the whole store.
func TestWhatIsFollowedIsWhatIsThere(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			inTime(t, func(t *testing.T, n *testnet) {
				n.run()
				c := &changer{testnet: n, r: rand.New(rand.NewPCG(seed, 0))}
				for range 3 {
					c.devices = append(c.devices, n.device(c.name("srv")).joinTagged("tag:db"))
				}
				did := map[string]int{}
				for i := range 150 {
					step := c.change()
					did[strings.Split(step, ", refused")[0]]++
					if !n.Undoubted() { // all is read at the next change
						if err := n.Change(n.ctx, func(coordinator.Tx) error { return nil }); err != nil {
							t.Fatal(err)
						}
					}
					if err := n.CompareWithWhole(n.ctx); err != nil {
						t.Fatalf("after step %d, %s: %v", i, step, err)
					}
				}
				t.Log(did)
			}, func(c *coordinator.Config) { c.UserNodeLife, c.TagNodeLife = 2*time.Hour, 3*time.Hour })
		})
	}
}
