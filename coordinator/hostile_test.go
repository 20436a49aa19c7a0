package coordinator_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

// A removal that is in effect but not on disk stays, whatever becomes meanwhile of the victim's name, or of the admin who asked for it.
func TestRevocationWithoutDiskStands(t *testing.T) {
	for outcome, meanwhile := range map[string]func(n *testnet, admin, owner *person) error{
		"the victim's owner renames it": func(n *testnet, _, owner *person) error {
			_, err := n.RenameNode(n.ctx, owner.actor(), "laptop", "tablet")
			return err
		},
		"its admin is removed": func(n *testnet, admin, _ *person) error {
			_, err := n.RemoveUser(n.ctx, operator, admin.Login)
			return err
		},
		"its admin is no admin any more": func(n *testnet, admin, _ *person) error {
			n.demote(admin)
			return nil
		},
	} {
		t.Run(outcome, func(t *testing.T) {
			inTime(t, func(t *testing.T, n *testnet) {
				n.run()
				admin, mallory := n.admin(), n.member("mallory@example.com")
				laptop := n.device("laptop").join(mallory).connect()
				db := n.device("db").joinTagged("tag:db").connect()
				db.until("know laptop", hasPeer("laptop"))
				n.faults.full.Store(true)
				_, err := n.RemoveNode(n.ctx, admin.actor(), "laptop")
				wantCode(t, "the removal", err, protocol.CodeUnavailable)
				db.until("lose laptop", lacksPeer("laptop"))
				n.faults.full.Store(false)
				if err := meanwhile(n, admin, mallory); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if nodes, err := n.Nodes(n.ctx, operator); err != nil || len(nodes) != 1 {
					t.Errorf("the nodes are %+v, %v: want db alone", nodes, err)
				}
				wantCode(t, "the removed node", laptop.attach(), protocol.CodeRemoved)
				removals := 0
				for _, a := range n.actions() {
					if strings.HasPrefix(a, "node.remove") {
						removals++
					}
				}
				if removals != 1 {
					t.Errorf("%d audit records of the removal: %v", removals, n.actions())
				}
			})
		})
	}
}

// A removal that was committed, and only could not be read back, is not done and recorded a second time.
func TestRevocationThatWasCommittedIsDoneOnce(t *testing.T) {
	for outcome, remove := range map[string]func(n *testnet, p *person) (coordinator.Change, error){
		"node.remove": func(n *testnet, _ *person) (coordinator.Change, error) {
			return n.RemoveNode(n.ctx, operator, "laptop")
		},
		"user.remove": func(n *testnet, p *person) (coordinator.Change, error) { return n.RemoveUser(n.ctx, operator, p.Login) },
	} {
		t.Run(outcome, func(t *testing.T) {
			inTime(t, func(t *testing.T, n *testnet) {
				n.run()
				bob := n.member("bob@example.com")
				n.device("laptop").join(bob)
				n.faults.reads.Store(true)
				_, err := remove(n, bob)
				wantCode(t, "the removal", err, protocol.CodeUnavailable)
				n.faults.reads.Store(false)
				time.Sleep(20 * time.Second)
				synctest.Wait()
				done := 0
				for _, a := range n.actions() {
					if a == outcome {
						done++
					}
				}
				if done != 1 {
					t.Errorf("recorded %d times: %v", done, n.actions())
				}
			})
		})
	}
}

// The auth keys of a person whose removal is not on disk yet admit nobody.
func TestAuthKeyOfWhoIsGoneWithoutDisk(t *testing.T) {
	n := newNet(t)
	admin := n.admin()
	_, text, err := n.CreateAuthKey(n.ctx, admin.actor(), coordinator.NewAuthKey{Tags: []string{"tag:db"}, Reusable: true})
	if err != nil {
		t.Fatal(err)
	}
	n.faults.full.Store(true)
	_, err = n.RemoveUser(n.ctx, operator, admin.Login)
	wantCode(t, "the removal", err, protocol.CodeUnavailable)
	n.faults.full.Store(false)
	_, err = n.device("db").enrol(text)
	wantCode(t, "the key", err, protocol.CodeAuthKey)
}

// A node cannot take another's keys into its certificate: peers of both would have to refuse both.
func TestCertificateWithKeysOfAnother(t *testing.T) {
	n := newNet(t)
	a := n.device("a").joinTagged("tag:db").connect()
	b := n.device("b").joinTagged("tag:db").connect()
	theirs, err := key.OpenCertificate(a.cert, string(a.node()), a.key.Public(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for outcome, steal := range map[string]func(*key.Certificate){
		"its tunnel key":                  func(c *key.Certificate) { c.Tunnel = theirs.Tunnel },
		"its probe key":                   func(c *key.Certificate) { c.Probe = theirs.Probe },
		"its tunnel key, as a probe key":  func(c *key.Certificate) { c.Probe = key.ProbePublic(theirs.Tunnel) },
		"its probe key, as the tunnel's":  func(c *key.Certificate) { c.Tunnel = key.TunnelPublic(theirs.Probe) },
		"nothing of it, so it is allowed": nil,
	} {
		b.newCertificate()
		c, err := key.OpenCertificate(b.cert, string(b.node()), b.key.Public(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if steal != nil {
			steal(&c)
			b.cert = c.Sign(b.key)
		}
		err = b.session.Report(n.ctx, b.report())
		if steal == nil && err != nil {
			t.Errorf("%s: %v", outcome, err)
		} else if steal != nil {
			wantCode(t, outcome, err, protocol.CodeBadRequest)
		}
	}
	if err := a.session.Report(n.ctx, protocol.Report{Facts: protocol.Facts{Hostname: "a", OS: "plan9"}, Certificate: a.cert}); err != nil {
		t.Errorf("a node with its own keys: %v", err)
	}
	if _, err := n.RemoveNode(n.ctx, operator, "a"); err != nil {
		t.Fatal(err)
	}
	b.newCertificate()
	c, err := key.OpenCertificate(b.cert, string(b.node()), b.key.Public(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c.Tunnel, c.Probe = theirs.Tunnel, theirs.Probe
	b.cert = c.Sign(b.key)
	if err := b.session.Report(n.ctx, b.report()); err != nil {
		t.Errorf("the keys of a node that is gone: %v", err)
	}
}

// blind is a store whose nodes cannot be read by id within a transaction.
type blind struct{ coordinator.Store }

type blindTx struct{ coordinator.Tx }

type blindReadTx struct{ coordinator.ReadTx }

var errBlind = errors.New("input/output error")

func (blindTx) NodeByID(acl.NodeID) (coordinator.NodeRow, error) {
	return coordinator.NodeRow{}, errBlind
}
func (blindReadTx) NodeByID(acl.NodeID) (coordinator.NodeRow, error) {
	return coordinator.NodeRow{}, errBlind
}

func (b blind) Update(ctx context.Context, fn func(coordinator.Tx) error) error {
	return b.Store.Update(ctx, func(tx coordinator.Tx) error { return fn(blindTx{tx}) })
}

func (b blind) View(ctx context.Context, fn func(coordinator.ReadTx) error) error {
	return b.Store.View(ctx, func(tx coordinator.ReadTx) error { return fn(blindReadTx{tx}) })
}

// A failing disk must not be told to a node as its removal, for which it would forget its keys.
func TestFailingDiskIsNoRemoval(t *testing.T) {
	n := newNet(t)
	a := n.device("a").joinTagged("tag:db").connect()
	root := n.admin()
	ticket := n.device("b").ticket()
	if _, err := n.Approve(n.ctx, root.actor(), ticket.ID, ticket.Code); err != nil {
		t.Fatal(err)
	}
	n.faults.Store = blind{n.faults.Store}
	a.facts.OS = "plan9"
	wantCode(t, "a report", a.session.Report(n.ctx, a.report()), protocol.CodeUnavailable)
	_, err := n.Wait(n.ctx, protocol.Wait{Ticket: ticket.ID, Secret: ticket.Secret})
	wantCode(t, "a wait", err, protocol.CodeUnavailable)
	wantCode(t, "a session", a.attach(), protocol.CodeUnavailable)
}

// Evidence about a stranger is answered as evidence about nobody: it tells nothing of who is in the network (R30), and accuses no one
// whom the node has never met.
func TestEvidenceAboutAStranger(t *testing.T) {
	n := newNet(t)
	n.policy.set(`{"tagOwners": {"tag:db": []}}`, "c0ffee0000000000000000000000000000000002")
	n.reload("")
	a := n.device("a").joinTagged("tag:db").connect()
	b := n.device("b").joinTagged("tag:db").connect()
	before := len(n.actions())
	stranger := a.session.Evidence(n.ctx, protocol.Evidence{Kind: "egress-bypass", Peer: b.node()})
	nobody := a.session.Evidence(n.ctx, protocol.Evidence{Kind: "egress-bypass", Peer: "n0123456789abcdef"})
	wantCode(t, "a stranger", stranger, protocol.CodeBadRequest)
	if stranger == nil || nobody == nil || stranger.Error() != nobody.Error() {
		t.Errorf("a stranger: %v; nobody: %v", stranger, nobody)
	}
	if after := n.actions(); len(after) != before {
		t.Errorf("recorded: %v", after)
	}
}

// A quarantined node does not get out of it by leaving and joining again.
func TestQuarantineIsNotLeft(t *testing.T) {
	for outcome, onDisk := range map[string]bool{"on disk": true, "not on disk yet": false} {
		t.Run(outcome, func(t *testing.T) {
			n := newNet(t)
			root, bob := n.admin(), n.member("bob@example.com")
			laptop := n.device("laptop").join(bob).connect()
			n.faults.full.Store(!onDisk)
			if _, err := n.QuarantineNode(n.ctx, root.actor(), "laptop", true); onDisk && err != nil {
				t.Fatal(err)
			}
			n.faults.full.Store(false)
			wantCode(t, "its logout", laptop.session.Logout(n.ctx), coordinator.CodeForbidden)
			_, err := n.RemoveNode(n.ctx, bob.actor(), "laptop")
			wantCode(t, "its owner's removal", err, coordinator.CodeForbidden)
			a, err := laptop.enrol("")
			if err != nil || a.Admitted == nil || a.Admitted.Node != laptop.node() {
				t.Errorf("joining again: %+v, %v", a, err)
			}
			if v, err := n.Node(n.ctx, operator, "laptop"); err != nil || !v.Quarantined {
				t.Errorf("afterwards it is %+v, %v", v, err)
			}
			if _, err := n.RemoveNode(n.ctx, root.actor(), "laptop"); err != nil {
				t.Errorf("an admin's removal: %v", err)
			}
		})
	}
}

// A setup token for somebody who has set the account up, which only an edit of the database can make, takes over no account.
func TestSetupTokenOfAnActiveAccount(t *testing.T) {
	n := newNet(t)
	root := n.admin()
	const token = "abcdefgh"
	err := n.store.Update(n.ctx, func(tx coordinator.Tx) error {
		return tx.InsertSetup(coordinator.SetupRow{Hash: sha256.Sum256([]byte(token)), User: root.ID, Expires: tx.Now().Add(time.Hour)})
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.Invitation(n.ctx, token)
	wantCode(t, "the invitation", err, coordinator.CodeNotFound)
}

// interrupted is a source during whose fetch something else happens.
type interrupted struct {
	coordinator.PolicySource
	meanwhile func()
}

func (i *interrupted) Fetch(ctx context.Context, inForce string) (coordinator.PolicyText, error) {
	if i.meanwhile != nil {
		i.meanwhile()
	}
	return i.PolicySource.Fetch(ctx, inForce)
}

// Who loses the right to load a policy while it is fetched loads none (R26).
func TestReloadOfWhoIsDemotedMeanwhile(t *testing.T) {
	source := &interrupted{}
	n := newNet(t, func(c *coordinator.Config) { source.PolicySource, c.Policy = c.Policy, source })
	root := n.admin()
	source.meanwhile = func() { n.demote(root) }
	n.policy.set(`{"tagOwners": {"tag:db": []}}`, "c0ffee0000000000000000000000000000000002")
	_, _, err := n.ReloadPolicy(n.ctx, root.actor(), "")
	wantCode(t, "the reload", err, coordinator.CodeForbidden)
	if s, err := n.PolicyStatus(n.ctx, operator); err != nil || s.Commit != "c0ffee0000000000000000000000000000000001" {
		t.Errorf("in force is %s, %v", s.Commit, err)
	}
}

// Who has an account does not clear his guesses at others' by signing in between them.
func TestOwnAccountBuysNoGuesses(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		mallory := n.admin()
		const perAddress = 20
		guess := func(i int) error {
			_, err := n.SignIn(n.ctx, coordinator.SignIn{Login: fmt.Sprintf("u%d@example.com", i), Password: "wrong horse", Code: "123456", From: home})
			return err
		}
		for i := range perAddress - 1 {
			wantCode(t, "a guess", guess(i), coordinator.CodeSignIn)
		}
		if err := n.signIn(mallory, func(*coordinator.SignIn) {}); err != nil {
			t.Fatal(err)
		}
		wantCode(t, "the last guess", guess(perAddress), coordinator.CodeSignIn)
		wantCode(t, "one more", guess(perAddress+1), protocol.CodeThrottled)
	})
}

// Who was removed without that being on disk signs in no more.
func TestSignInOfWhoIsGoneWithoutDisk(t *testing.T) {
	inTime(t, func(t *testing.T, n *testnet) {
		mallory := n.member("mallory@example.com")
		n.faults.full.Store(true)
		_, err := n.RemoveUser(n.ctx, operator, mallory.Login)
		wantCode(t, "the removal", err, protocol.CodeUnavailable)
		n.faults.full.Store(false)
		wantCode(t, "signing in", n.signIn(mallory, nil), coordinator.CodeSignIn)
	})
}
