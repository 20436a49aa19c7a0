package coordinator

import (
	"context"
	"errors"
	"fmt"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
)

// Error is a refusal for people and programs: Code is one of protocol's Code constants or those below.
type Error struct {
	Code    string
	Message string // one sentence, and what to do
	// Errors are every mistake in a policy's text that was asked about; none otherwise.
	Errors []acl.Diagnostic
}

func (e *Error) Error() string { return e.Message }

// Codes beside protocol's.
const (
	CodeForbidden  = "forbidden"
	CodeNotFound   = "not-found"
	CodeConflict   = "conflict" // e.g. a name in use
	CodeInvalid    = "invalid"
	CodeSignIn     = "sign-in"     // wrong e-mail, password or code, not saying which
	CodeWrongCode  = "wrong-code"  // the code typed for a joining node
	CodeTicketOver = "ticket-over" // expired, used, denied or spoiled
)

func refuse(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// outward is err as callers may see it: refusals and the caller's own cancellation as they are, anything else logged here and named
// without detail, since it comes from below and may hold what outsiders must not read.
func (c *Coordinator) outward(ctx context.Context, err error) error {
	var e *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return e
	case ctx.Err() != nil:
		return ctx.Err()
	}
	c.log.Error("storage failed", "err", err)
	return refuse(protocol.CodeUnavailable, "the coordinator cannot use its database now; its log says why")
}

// isStorage reports that err is the store's failure, not a refusal.
func isStorage(err error) bool {
	var e *Error
	return err != nil && (!errors.As(err, &e) || e.Code == protocol.CodeUnavailable)
}
