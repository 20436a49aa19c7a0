package web

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"picket.internal/coordinator"
)

// enforceWait is how long the page of a change waits for the nodes. It is about what they need; whoever wants to know more reloads.
const enforceWait = 900 * time.Millisecond

// after leads from an action to the page of the change it made, or to otherwise when nothing changed.
func after(c coordinator.Change, otherwise string, err error) (reply, error) {
	if err != nil {
		return reply{}, err
	}
	if c.Generation == 0 {
		return redirect(otherwise), nil
	}
	return redirect("/changes/" + strconv.FormatUint(c.Generation, 10)), nil
}

// changeView is the data of the page "change": who enforces a generation by now.
type changeView struct {
	coordinator.Enforcement
	What    *coordinator.AuditRecord // what made the generation; nil when that is long ago
	InForce int
	Waiting int // connected, and no receipt yet
	Offline int // not connected, and no receipt
	Slowest time.Duration
	Cut     int
}

// changePage reports on a generation. It takes no text from the address, so a link cannot put words in our mouth.
func (s *site) changePage(v *visit) (reply, error) {
	g, err := strconv.ParseUint(v.PathValue("generation"), 10, 64)
	if err != nil || g == 0 {
		return problem(http.StatusNotFound, "There is no such change", "Generations are numbers from 1."), nil
	}
	what, err := s.made(v, g)
	if err != nil {
		return reply{}, err
	}
	ctx, cancel := context.WithTimeout(v.Context(), enforceWait)
	defer cancel()
	e, err := s.api.Enforced(ctx, v.actor(), g)
	if err != nil {
		return reply{}, err
	}
	return page("change", newChangeView(e, what)), nil
}

// made finds what the audit log says made generation g: its oldest record there, as later ones that change no map carry it too.
func (s *site) made(v *visit, g uint64) (*coordinator.AuditRecord, error) {
	records, err := s.api.Audit(v.Context(), v.actor(), auditSize, 0)
	if err != nil {
		return nil, err
	}
	var what *coordinator.AuditRecord
	for i := range records {
		if records[i].Generation == g {
			what = &records[i]
		}
	}
	return what, nil
}

func newChangeView(e coordinator.Enforcement, what *coordinator.AuditRecord) changeView {
	c := changeView{Enforcement: e, What: what}
	for _, n := range e.Nodes {
		switch {
		case n.Enforced:
			c.InForce++
			c.Cut += n.Cut
			c.Slowest = max(c.Slowest, n.After)
		case n.Online:
			c.Waiting++
		default:
			c.Offline++
		}
	}
	return c
}
