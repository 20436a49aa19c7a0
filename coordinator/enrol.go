package coordinator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
)

// What becomes of a device that asks for admission:
//
//	device key is            with an auth key                          without
//	not a living node's      a new node with the key's tags            a ticket
//	a tagged node's          the same node, if the tags are the key's; the same node; refused once it expired
//	                         spends the key only when it expired
//	a person's node          refused                                   the same node; once it expired a ticket, which only its owner can
//	                                                                   approve, for the same node
//
// A node never changes hands: another person, or other tags, mean that the node is removed first and the device comes back as a new one
// with another id, so that peers who remember the device key under the old id are not led astray.

// Bounds on pending logins (R15).
const (
	maxTicketsPerAddress = 30 // an office behind one address
	maxTickets           = 1000
	maxWrongCodes        = 5
)

// Enrol answers PathEnrol.
func (c *Coordinator) Enrol(ctx context.Context, e protocol.Enrol, from netip.Addr) (protocol.EnrolAnswer, error) {
	body, err := protocol.OpenEnrol(e, c.config.Key.Public(), c.config.Network)
	switch {
	case errors.Is(err, protocol.ErrForeign):
		return protocol.EnrolAnswer{}, refuse(protocol.CodeBadRequest, "the request is meant for another coordinator or network: check the join string")
	case err != nil:
		return protocol.EnrolAnswer{}, refuse(protocol.CodeBadRequest, "the request was refused: %s", err)
	}
	if err := c.nonces.spend(body.Nonce, c.now()); err != nil {
		return protocol.EnrolAnswer{}, err
	}
	body.Facts = cleanNamed(body.Facts)
	var answer protocol.EnrolAnswer
	var replaced []string
	_, err = c.update(ctx, Actor{Kind: ActorNode, Name: body.Device.Short(), From: from}, func(ch *change) error {
		answer, replaced, err = ch.enrol(body, from)
		return err
	})
	for _, id := range replaced {
		c.tickets.post(id)
	}
	if err != nil {
		return protocol.EnrolAnswer{}, c.outward(ctx, err)
	}
	return answer, nil
}

// cleanNamed keeps, of the host name as it came, what hostLabel needs.
func cleanNamed(f protocol.Facts) protocol.Facts {
	named := cleanFacts(f)
	named.Hostname = oneLine(escapes.ReplaceAllString(f.Hostname, ""), 255)
	return named
}

// enrol decides by the table above. replaced are tickets of the device that the new one takes the place of.
func (ch *change) enrol(b protocol.EnrolBody, from netip.Addr) (answer protocol.EnrolAnswer, replaced []string, err error) {
	n, err := ch.NodeByDevice(b.Device)
	known := err == nil
	if err != nil && !errors.Is(err, ErrNoRow) {
		return answer, nil, err
	}
	switch {
	case b.AuthKey != "":
		answer.Admitted, err = ch.enrolWithKey(b, n, known)
	case known && ch.Now().Before(n.Expires):
		answer.Admitted, err = ch.admission(n)
	case known && n.Owner == "":
		err = refuse(protocol.CodeExpired, "the login of %s ended: join again with an auth key for %s", n.Name, strings.Join(n.Tags, ", "))
	default:
		answer.Ticket, replaced, err = ch.openTicket(b, from)
	}
	return answer, replaced, err
}

func (ch *change) enrolWithKey(b protocol.EnrolBody, n NodeRow, known bool) (*protocol.Admission, error) {
	hash := tokenHash(b.AuthKey)
	k, err := ch.AuthKeyByHash(hash)
	if errors.Is(err, ErrNoRow) {
		return nil, refuse(protocol.CodeAuthKey, "this auth key is not known here: check that all of it was copied")
	}
	if err != nil {
		return nil, err
	}
	if known && (n.Owner != "" || !sameTags(n.Tags, k.Tags)) {
		return nil, refuse(CodeConflict, "this device is the node %s already, and not under this key's tags: run picket logout there first, or remove the node", n.Name)
	}
	if known && ch.Now().Before(n.Expires) {
		return ch.admission(n) // asked again after an answer that got lost: the key was spent on it then
	}
	if err := ch.spendKey(hash, k); err != nil {
		return nil, err
	}
	if known {
		return ch.renew(n, "with auth key "+k.ID)
	}
	return ch.admit(NodeRow{Device: b.Device, Tags: k.Tags, Facts: b.Facts}, "with auth key "+k.ID)
}

func sameTags(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// admit makes a new node of what n says of device, owner or tags, and facts: id, name, addresses, expiry and audit record in this one
// transaction.
func (ch *change) admit(n NodeRow, how string) (*protocol.Admission, error) {
	var err error
	if n.Name, err = ch.freeName(hostLabel(n.Facts.Hostname)); err != nil {
		return nil, err
	}
	if n.Addresses, err = ch.freeAddresses(); err != nil {
		return nil, err
	}
	n.ID, n.Created, n.Expires = acl.NodeID(randomID("n")), ch.Now(), ch.Now().Add(ch.life(n))
	if err := ch.InsertNode(n); err != nil {
		return nil, err
	}
	ch.raise()
	ch.record("node.admit", string(n.ID), describe(n)+", "+how)
	return ch.admission(n)
}

// renew begins the same node's admission anew. A quarantine stays.
func (ch *change) renew(n NodeRow, how string) (*protocol.Admission, error) {
	n.Expired, n.Expires = false, ch.Now().Add(ch.life(n))
	if err := ch.UpdateNode(n); err != nil {
		return nil, err
	}
	ch.raise()
	ch.record("node.renew", string(n.ID), describe(n)+", "+how)
	return ch.admission(n)
}

// admission is who n has become, in words for its owner.
func (ch *change) admission(n NodeRow) (*protocol.Admission, error) { return admissionOf(ch, n) }

func admissionOf(users userReader, n NodeRow) (*protocol.Admission, error) {
	a := &protocol.Admission{Node: n.ID, Name: n.Name, Tags: n.Tags, Addresses: n.Addresses, Expires: n.Expires}
	if n.Owner != "" {
		u, err := users.UserByID(n.Owner)
		if err != nil {
			return nil, fmt.Errorf("find the owner of %s: %w", n.ID, err)
		}
		a.Owner = u.Login
	}
	return a, nil
}

// life is how long an admission of n lasts.
func (ch *change) life(n NodeRow) time.Duration {
	if n.Owner != "" {
		return ch.c.config.UserNodeLife
	}
	return ch.c.config.TagNodeLife
}
