package web

import (
	"errors"
	"net/http"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

// statusOf is the HTTP status of each refusal of the coordinator's. A code that is not here is a plain 400.
var statusOf = map[string]int{
	coordinator.CodeForbidden:  http.StatusForbidden,
	coordinator.CodeNotFound:   http.StatusNotFound,
	coordinator.CodeConflict:   http.StatusConflict,
	coordinator.CodeInvalid:    http.StatusUnprocessableEntity,
	coordinator.CodeSignIn:     http.StatusForbidden,
	coordinator.CodeWrongCode:  http.StatusUnprocessableEntity,
	coordinator.CodeTicketOver: http.StatusGone,
	protocol.CodeThrottled:     http.StatusTooManyRequests,
	protocol.CodeUnavailable:   http.StatusServiceUnavailable,
	protocol.CodeExhausted:     http.StatusServiceUnavailable,
	protocol.CodeUnknownNode:   http.StatusNotFound,
	protocol.CodeRemoved:       http.StatusGone,
	codeTooLarge:               http.StatusRequestEntityTooLarge,
}

// codeTooLarge is ours: a form beyond maxBody whose length was not announced.
const codeTooLarge = "too-large"

func statusFor(e *coordinator.Error) int {
	if status, ok := statusOf[e.Code]; ok {
		return status
	}
	return http.StatusBadRequest
}

var headingOf = map[string]string{
	coordinator.CodeForbidden:  "That is not yours to do",
	coordinator.CodeNotFound:   "There is no such thing here",
	coordinator.CodeConflict:   "That does not fit with what is there",
	coordinator.CodeTicketOver: "This login request is over",
	protocol.CodeThrottled:     "Too many tries",
	protocol.CodeUnavailable:   "Not available just now",
}

// refusal returns the coordinator's refusal in err; nil when err is something that people cannot be told.
func refusal(err error) *coordinator.Error {
	var e *coordinator.Error
	errors.As(err, &e)
	return e
}

// correctable returns a refusal that the person can answer by filling in the form again; nil for any other error.
func correctable(err error) *coordinator.Error {
	e := refusal(err)
	if e == nil {
		return nil
	}
	switch e.Code {
	case coordinator.CodeInvalid, coordinator.CodeConflict, coordinator.CodeSignIn, coordinator.CodeWrongCode, protocol.CodeThrottled:
		return e
	}
	return nil
}

// failure is the page for an error that a handler did not answer itself: the coordinator's own sentence when it is meant for people.
func (s *site) failure(v *visit, err error) reply {
	e := refusal(err)
	if e == nil {
		return s.internal(v, err)
	}
	heading := headingOf[e.Code]
	if heading == "" {
		heading = "That did not work"
	}
	return problem(statusFor(e), heading, e.Message)
}

// badForm is a form that could not be read. It says nothing of the contents, which may be secret.
func badForm(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return &coordinator.Error{Code: codeTooLarge, Message: "That is too much at once: a form here holds at most 64 KiB."}
	}
	return &coordinator.Error{Code: coordinator.CodeInvalid, Message: "The form could not be read. Go back, and send it again."}
}
