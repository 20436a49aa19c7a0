package control

import (
	"context"
	"errors"
	"net/http"
	"time"

	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

// Enrolment is what the coordinator answered, and whom to pin: exactly one of Admitted and Ticket is set.
type Enrolment struct {
	Coordinator key.CoordinatorPublic // to be kept, and given as Config.Pinned from now on
	Network     protocol.NetworkID
	Admitted    *protocol.Admission
	Ticket      *protocol.Ticket
}

// Enrol asks for admission with device's key; authKey may be empty, and then a person must approve the ticket. It sends nothing of the
// node's before the coordinator has proved its key. Errors: this package's kinds, a *ClockError, or a *ProblemError.
func (c *Client) Enrol(ctx context.Context, device key.DevicePrivate, f protocol.Facts, authKey string) (Enrolment, error) {
	info, err := c.info(ctx)
	if err != nil {
		return Enrolment{}, err
	}
	e, err := protocol.SignEnrol(protocol.EnrolBody{
		Network: info.Network, Coordinator: info.Coordinator, Nonce: info.Nonce, Device: device.Public(), Facts: f, AuthKey: authKey,
	}, device)
	if err != nil {
		return Enrolment{}, err
	}
	var a protocol.EnrolAnswer
	if err := c.do(ctx, c.http, http.MethodPost, protocol.PathEnrol, e, &a, 0); err != nil {
		return Enrolment{}, err
	}
	return Enrolment{Coordinator: info.Coordinator, Network: info.Network, Admitted: a.Admitted, Ticket: a.Ticket}, nil
}

// TicketError says that a ticket ended without admission.
type TicketError struct {
	State   string // one of protocol's Ticket constants
	Message string
}

func (e *TicketError) Error() string { return e.Message }

// graceAfterTicket is how long after a ticket's end the coordinator is still asked about it, for clocks that differ a little.
const graceAfterTicket = time.Minute

// Wait blocks until the ticket is decided. A coordinator that cannot be reached meanwhile, or restarts, is asked again. Errors: a
// *TicketError when it was denied, spoiled or ran out; those of Enrol that trying again does not mend; ctx's.
func (c *Client) Wait(ctx context.Context, t protocol.Ticket) (protocol.Admission, error) {
	pause := newBackoff(c.timing)
	for {
		var a protocol.WaitAnswer
		asked := time.Now()
		err := c.do(ctx, c.http, http.MethodPost, protocol.PathWait, protocol.Wait{Ticket: t.ID, Secret: t.Secret}, &a, protocol.WaitHold)
		switch {
		case ctx.Err() != nil:
			return protocol.Admission{}, ctx.Err()
		case err != nil && !passing(err):
			return protocol.Admission{}, err
		case err == nil && a.State == protocol.TicketApproved:
			return *a.Admitted, nil
		case err == nil && a.State != protocol.TicketPending:
			return protocol.Admission{}, ticketError(a)
		case time.Now().After(t.Expires.Add(graceAfterTicket)):
			return protocol.Admission{}, ticketError(protocol.WaitAnswer{State: protocol.TicketExpired})
		case err == nil && time.Since(asked) > time.Second:
			pause.reset() // it was held, as it should be
			continue
		}
		if err := pause.wait(ctx, err, nil); err != nil {
			return protocol.Admission{}, err
		}
	}
}

// passing reports an error that trying again may mend.
func passing(err error) bool {
	var p *ProblemError
	if errors.As(err, &p) {
		return p.Code == protocol.CodeThrottled || p.Code == protocol.CodeUnavailable
	}
	return errors.Is(err, ErrUnreachable)
}

func ticketError(a protocol.WaitAnswer) error {
	message := protocol.Printable(a.Message)
	if message == "" {
		message = map[string]string{
			protocol.TicketDenied:  "the request to join was denied",
			protocol.TicketExpired: "nobody approved the request to join in time: run `picket up` again",
			protocol.TicketSpoiled: "the code was typed wrong too often: run `picket up` again",
		}[a.State]
	}
	if message == "" {
		message = "the request to join ended"
	}
	return &TicketError{a.State, message}
}
