package coordinator

import (
	"context"
	"crypto/subtle"
	"errors"
	"net/netip"
	"time"

	"picket.internal/coordinator/protocol"
)

// A ticket is a device's pending login. Its URL can be sent to somebody else by a thief of attention; the code cannot be seen there: only
// who has the device's terminal before him can type it (SECURITY.md section 3).

// bucketOf is what requests from an address are counted under: the address, or an IPv6 address's /64, which one host has whole.
func bucketOf(from netip.Addr) string {
	from = from.Unmap().WithZone("")
	if from.Is6() {
		p, _ := from.Prefix(64)
		return p.String()
	}
	return from.String()
}

// openTicket makes a ticket for a device. An older one of the same device is over: its terminal has another code on it now.
func (ch *change) openTicket(b protocol.EnrolBody, from netip.Addr) (*protocol.Ticket, []string, error) {
	replaced, err := ch.replaceTickets(b)
	if err != nil {
		return nil, nil, err
	}
	bucket := bucketOf(from)
	of, total, err := ch.OpenTickets(bucket)
	if err != nil {
		return nil, nil, err
	}
	if of >= maxTicketsPerAddress || total >= maxTickets {
		return nil, nil, refuse(protocol.CodeThrottled, "too many logins are pending: finish or deny some, or wait %s", protocol.TicketLife)
	}
	t := &protocol.Ticket{ID: token(16), Secret: token(32), Code: newCode(), Expires: ch.Now().Add(protocol.TicketLife)}
	t.URL = ch.c.config.URL + "/join/" + t.ID
	err = ch.InsertTicket(TicketRow{
		ID: t.ID, Secret: tokenHash(t.Secret), Code: ch.c.secrets.hash("ticket", t.ID, plainCode(t.Code)), Device: b.Device, Facts: b.Facts,
		From: from, Bucket: bucket, Created: ch.Now(), Expires: t.Expires, State: protocol.TicketPending,
	})
	return t, replaced, err
}

func (ch *change) replaceTickets(b protocol.EnrolBody) ([]string, error) {
	ids, err := ch.PendingTickets(b.Device)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		t, err := ch.Ticket(id)
		if err != nil {
			return nil, err
		}
		t.State = protocol.TicketExpired
		if err := ch.UpdateTicket(t); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// stateOf is a ticket's state at the database's clock.
func stateOf(tx ReadTx, t TicketRow) string {
	if t.State == protocol.TicketPending && !tx.Now().Before(t.Expires) {
		return protocol.TicketExpired
	}
	return t.State
}

// ticketWords says a state in words for the terminal.
var ticketWords = map[string]string{
	protocol.TicketPending:  "the login is waiting for somebody to open the URL, sign in and type the code",
	protocol.TicketApproved: "the login was approved",
	protocol.TicketDenied:   "the login was denied on the page: run picket up again if that was a mistake",
	protocol.TicketExpired:  "the login was not approved in time, or a newer one took its place: run picket up again",
	protocol.TicketSpoiled:  "wrong codes were typed too often: run picket up again for a new one",
}

// Wait answers PathWait; it blocks up to protocol.WaitHold.
func (c *Coordinator) Wait(ctx context.Context, w protocol.Wait) (protocol.WaitAnswer, error) {
	decided, leave, ok := c.tickets.watch(w.Ticket)
	if !ok {
		return protocol.WaitAnswer{}, refuse(protocol.CodeThrottled, "this login is waited for too often at once")
	}
	defer leave()
	answer, err := c.ticketAnswer(ctx, w)
	if err != nil || answer.State != protocol.TicketPending {
		return answer, c.outward(ctx, err)
	}
	hold := time.NewTimer(protocol.WaitHold)
	defer hold.Stop()
	select {
	case <-ctx.Done():
		return protocol.WaitAnswer{}, ctx.Err()
	case <-decided:
	case <-hold.C:
	}
	answer, err = c.ticketAnswer(ctx, w)
	return answer, c.outward(ctx, err)
}

// ticketAnswer is how the ticket stands, for who knows its secret.
func (c *Coordinator) ticketAnswer(ctx context.Context, w protocol.Wait) (answer protocol.WaitAnswer, err error) {
	err = c.store.View(ctx, func(tx ReadTx) error {
		t, err := tx.Ticket(w.Ticket)
		if err != nil && !errors.Is(err, ErrNoRow) {
			return err
		}
		given := tokenHash(w.Secret)
		if subtle.ConstantTimeCompare(given[:], t.Secret[:]) != 1 || err != nil {
			return refuse(CodeTicketOver, "this login is not known here any more: run picket up again")
		}
		answer.State = stateOf(tx, t)
		if answer.State == protocol.TicketApproved {
			n, err := tx.NodeByID(t.Node)
			if err != nil && !errors.Is(err, ErrNoRow) {
				return err
			}
			if err != nil || !n.Removed.IsZero() {
				return refuse(CodeTicketOver, "the login was approved, but the node was removed since: run picket up again")
			}
			answer.Admitted, err = admissionOf(tx, n)
			answer.Message = ticketWords[answer.State]
			return err
		}
		answer.Message = ticketWords[answer.State]
		return nil
	})
	return answer, err
}

// TicketView is what the approving person sees.
type TicketView struct {
	ID       string
	Hostname string
	OS       string
	From     netip.Addr
	Device   string // short device key
	Owner    string // login that will own the node
	Created  time.Time
	Expires  time.Time
	State    string // protocol.Ticket… state
}

// Ticket shows a ticket to a signed-in person.
func (c *Coordinator) Ticket(ctx context.Context, a Actor, id string) (v TicketView, err error) {
	err = c.store.View(ctx, func(tx ReadTx) error {
		if _, err := reachOf(tx, a, rightJudgeTicket); err != nil {
			return err
		}
		u, err := tx.UserByID(a.User)
		if err != nil {
			return err
		}
		t, err := findTicket(tx, id)
		if err != nil {
			return err
		}
		v = TicketView{
			ID: t.ID, Hostname: t.Facts.Hostname, OS: t.Facts.OS, From: t.From, Device: t.Device.Short(), Owner: u.Login,
			Created: t.Created, Expires: t.Expires, State: stateOf(tx, t),
		}
		return nil
	})
	return v, c.outward(ctx, err)
}

func findTicket(tx ReadTx, id string) (TicketRow, error) {
	t, err := tx.Ticket(id)
	if errors.Is(err, ErrNoRow) {
		return t, refuse(CodeNotFound, "there is no such login: it may have ended long ago, or the link is not whole")
	}
	return t, err
}

// pendingTicket finds a ticket that a may judge now; CodeTicketOver with the reason when it is decided or over.
func (ch *change) pendingTicket(id string) (TicketRow, error) {
	if err := ch.allowed(rightJudgeTicket); err != nil {
		return TicketRow{}, err
	}
	t, err := findTicket(ch, id)
	if err != nil {
		return t, err
	}
	if state := stateOf(ch, t); state != protocol.TicketPending {
		return t, refuse(CodeTicketOver, "%s", ticketWords[state])
	}
	return t, nil
}

// Approve admits the ticket's node as a's own, when code is the one the node shows. CodeWrongCode says how many tries are left.
func (c *Coordinator) Approve(ctx context.Context, a Actor, id, code string) (NodeView, error) {
	var wrong *Error // a refusal that must be committed: it counts
	var admitted *protocol.Admission
	_, err := c.update(ctx, a, func(ch *change) error {
		t, err := ch.pendingTicket(id)
		if err != nil {
			return err
		}
		given := c.secrets.hash("ticket", t.ID, plainCode(code))
		if subtle.ConstantTimeCompare(given[:], t.Code[:]) != 1 {
			wrong, err = ch.wrongCode(t)
			return err
		}
		if admitted, err = ch.admitTicket(t); err != nil {
			return err
		}
		t.State, t.Node = protocol.TicketApproved, admitted.Node
		return ch.UpdateTicket(t)
	})
	if err == nil && wrong != nil {
		if wrong.Code == CodeTicketOver {
			c.tickets.post(id)
		}
		err = wrong
	}
	if err != nil {
		return NodeView{}, c.outward(ctx, err)
	}
	c.tickets.post(id)
	w := c.world.Load()
	if n := w.node(admitted.Node); n != nil {
		return c.view(w, n), nil
	}
	return NodeView{}, refuse(CodeConflict, "the node was admitted, and removed again at once")
}

// wrongCode counts one and says what is left; the fifth spoils the ticket.
func (ch *change) wrongCode(t TicketRow) (*Error, error) {
	t.Wrong++
	left := maxWrongCodes - t.Wrong
	refused := refuse(CodeWrongCode, "that is not the code on the device's terminal: %d tries are left", left)
	if left == 1 {
		refused.Message = "that is not the code on the device's terminal: one try is left"
	}
	if left <= 0 {
		t.State = protocol.TicketSpoiled
		refused = refuse(CodeTicketOver, "%s", ticketWords[t.State])
	}
	ch.record("ticket.wrong-code", t.Device.Short(), refused.Message)
	return refused, ch.UpdateTicket(t)
}

// admitTicket makes the ticket's device a node of the actor, or renews it when it is that already.
func (ch *change) admitTicket(t TicketRow) (*protocol.Admission, error) {
	n, err := ch.NodeByDevice(t.Device)
	switch {
	case errors.Is(err, ErrNoRow):
		return ch.admit(NodeRow{Device: t.Device, Owner: ch.actor.User, Facts: t.Facts}, "approved from "+ch.actor.from()+" for "+t.From.String())
	case err != nil:
		return nil, err
	case n.Owner == ch.actor.User && n.Owner != "":
		return ch.renew(n, "approved from "+ch.actor.from()+" for "+t.From.String())
	}
	return nil, refuse(CodeConflict, "this device is somebody else's node: its owner or an admin must remove that before it can become yours")
}

// DenyTicket refuses the ticket for good.
func (c *Coordinator) DenyTicket(ctx context.Context, a Actor, id string) error {
	_, err := c.update(ctx, a, func(ch *change) error {
		t, err := ch.pendingTicket(id)
		if err != nil {
			return err
		}
		t.State = protocol.TicketDenied
		ch.record("ticket.deny", t.Device.Short(), t.Facts.Hostname+" from "+t.From.String())
		return ch.UpdateTicket(t)
	})
	if err == nil {
		c.tickets.post(id)
	}
	return c.outward(ctx, err)
}
