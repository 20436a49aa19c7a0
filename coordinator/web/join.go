package web

import (
	"net/http"
	"net/netip"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

// The join page is where a phished click must come to nothing: the person sees which machine asks, from where and since when, and must
// type a code that only that machine's terminal shows.

// joinForm is the data of the page "join".
type joinForm struct {
	Ticket    coordinator.TicketView
	Code      string     // as typed
	You       netip.Addr // where the person comes from
	Elsewhere bool       // the machine's address is another
	Fault     faults
}

func newJoinForm(v *visit, t coordinator.TicketView, code string, f faults) joinForm {
	return joinForm{Ticket: t, Code: code, You: v.from, Elsewhere: v.from.IsValid() && t.From.IsValid() && v.from != t.From, Fault: f}
}

func (s *site) joinPage(v *visit) (reply, error) {
	return s.showTicket(v, v.PathValue("ticket"))
}

// showTicket is the ticket as it stands: the form, or why there is none any more.
func (s *site) showTicket(v *visit, id string) (reply, error) {
	t, err := s.api.Ticket(v.Context(), v.actor(), id)
	if err != nil {
		return reply{}, err
	}
	if t.State != protocol.TicketPending {
		return formPage(http.StatusGone, "join-over", t), nil
	}
	return page("join", newJoinForm(v, t, "", nil)), nil
}

func (s *site) approve(v *visit) (reply, error) {
	id, typed := v.PathValue("ticket"), v.PostFormValue("code")
	code, ok := joinCode(typed)
	if !ok {
		return s.codeAgain(v, http.StatusUnprocessableEntity, id, typed,
			"The code has eight letters and digits, such as B7KD-2MXR. It is in the terminal of the machine that asks.")
	}
	n, err := s.api.Approve(v.Context(), v.actor(), id, code)
	switch e := refusal(err); {
	case e != nil && e.Code == coordinator.CodeWrongCode:
		return s.codeAgain(v, statusFor(e), id, typed, e.Message)
	case e != nil && e.Code == coordinator.CodeTicketOver:
		return s.showTicket(v, id)
	case err != nil:
		return reply{}, err
	}
	return page("join-done", n), nil
}

// codeAgain asks for the code once more. A wrong code may have been the last one allowed: then the page says that instead.
func (s *site) codeAgain(v *visit, status int, id, typed, fault string) (reply, error) {
	t, err := s.api.Ticket(v.Context(), v.actor(), id)
	if err != nil {
		return reply{}, err
	}
	if t.State != protocol.TicketPending {
		return formPage(http.StatusGone, "join-over", t), nil
	}
	return formPage(status, "join", newJoinForm(v, t, clean(typed, 16), faults{"code": fault})), nil
}

func (s *site) deny(v *visit) (reply, error) {
	id := v.PathValue("ticket")
	t, err := s.api.Ticket(v.Context(), v.actor(), id)
	if err != nil {
		return reply{}, err
	}
	err = s.api.DenyTicket(v.Context(), v.actor(), id)
	if e := refusal(err); e != nil && e.Code == coordinator.CodeTicketOver {
		return s.showTicket(v, id)
	}
	if err != nil {
		return reply{}, err
	}
	return page("join-denied", t), nil
}
