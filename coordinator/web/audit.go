package web

import (
	"net/http"
	"strconv"

	"picket.internal/coordinator"
)

// auditSize is how many records a page shows.
const auditSize = 100

// auditView is the data of the page "audit".
type auditView struct {
	Records []coordinator.AuditRecord
	Newest  bool
	Older   int64 // sequence number to page on from; 0: this is the end
}

func (s *site) auditPage(v *visit) (reply, error) {
	before := int64(0)
	if text := v.FormValue("before"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 1 {
			return problem(http.StatusNotFound, "There is no such page of the log", "Start from the newest records."), nil
		}
		before = n
	}
	records, err := s.api.Audit(v.Context(), v.actor(), auditSize, before)
	if err != nil {
		return reply{}, err
	}
	p := auditView{Records: records, Newest: before == 0}
	if len(records) == auditSize {
		p.Older = records[len(records)-1].Seq
	}
	return page("audit", p), nil
}
