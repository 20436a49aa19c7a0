package httpapi

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

// refusal is an error answer whose words and status are settled.
type refusal struct {
	status  int
	problem protocol.Problem
}

func (r *refusal) Error() string { return r.problem.Message }

// throttle is a refusal that says when to come back.
type throttle struct {
	refusal
	after time.Duration
}

func throttled(after time.Duration) error {
	return &throttle{refusal{http.StatusTooManyRequests, protocol.Problem{
		Code: protocol.CodeThrottled, Message: "too many requests from this address: try again in a moment"}}, after}
}

// errStopping ends what is held when the program ends. An empty answer would tell a waiting node that this is no coordinator at all.
var errStopping = &refusal{http.StatusServiceUnavailable, protocol.Problem{
	Code: protocol.CodeUnavailable, Message: "the coordinator is stopping: try again in a moment"}}

func badRequest(message string) error {
	return &refusal{http.StatusBadRequest, protocol.Problem{Code: protocol.CodeBadRequest, Message: message}}
}

// problemOf says what the other side is told of err, and whether it is ours to log: an error that was not made for outsiders is shown
// to none.
func problemOf(err error) (p protocol.Problem, internal bool) {
	var ours *coordinator.Error
	var r *refusal
	var th *throttle
	switch {
	case errors.As(err, &ours):
		return protocol.Problem{Code: ours.Code, Message: ours.Message, Errors: ours.Errors}, false
	case errors.As(err, &th):
		return th.problem, false
	case errors.As(err, &r):
		return r.problem, false
	case errors.Is(err, protocol.ErrMalformed), errors.Is(err, protocol.ErrSignature), errors.Is(err, protocol.ErrForeign):
		return protocol.Problem{Code: protocol.CodeBadRequest, Message: err.Error()}, false
	}
	return protocol.Problem{Code: protocol.CodeUnavailable, Message: "the coordinator could not do this just now; its log says why: try again in a moment"}, true
}

// statuses of problem codes where they are not 400.
var statuses = map[string]int{
	protocol.CodeUnknownNode:  http.StatusForbidden,
	protocol.CodeRemoved:      http.StatusForbidden,
	protocol.CodeExpired:      http.StatusForbidden,
	protocol.CodeAuthKey:      http.StatusForbidden,
	protocol.CodeToken:        http.StatusUnauthorized,
	coordinator.CodeForbidden: http.StatusForbidden,
	coordinator.CodeNotFound:  http.StatusNotFound,
	coordinator.CodeConflict:  http.StatusConflict,
	protocol.CodeThrottled:    http.StatusTooManyRequests,
	protocol.CodeExhausted:    http.StatusServiceUnavailable,
	protocol.CodeUnavailable:  http.StatusServiceUnavailable,
}

// refuse answers with a Problem.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		err = errStopping // or nobody is there to read it
	}
	p, internal := problemOf(err)
	if internal {
		h.log.Error("request failed", "path", r.URL.Path, "err", err)
	}
	status, ok := statuses[p.Code]
	if !ok {
		status = http.StatusBadRequest
	}
	var settled *refusal
	var th *throttle
	switch {
	case errors.As(err, &th):
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(th.after.Seconds()))))
	case errors.As(err, &settled):
		status = settled.status
	}
	if status == http.StatusTooManyRequests && w.Header().Get("Retry-After") == "" {
		w.Header().Set("Retry-After", "1")
	}
	h.answer(w, status, p)
}

// answer writes one of protocol's types as JSON, within the deadline for it.
func (h *Handler) answer(w http.ResponseWriter, status int, v any) {
	body, err := protocol.Marshal(v)
	if err != nil {
		h.log.Error("encode answer failed", "err", err)
		http.Error(w, "", http.StatusInternalServerError)
		return
	}
	h.write(w, status, body)
}

// write answers with a JSON text.
func (h *Handler) write(w http.ResponseWriter, status int, body []byte) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(h.timing.Body)) // not every test's writer can
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that went away is no news
}
