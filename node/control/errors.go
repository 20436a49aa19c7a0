package control

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"picket.internal/coordinator/protocol"
)

// Kinds of failure, for errors.Is. What people read is the error's text.
var (
	ErrUnreachable = errors.New("coordinator unreachable")               // no answer: trying again may help
	ErrUntrusted   = errors.New("coordinator's certificate not trusted") // neither pinned key nor system roots
	ErrWrongKey    = errors.New("coordinator has another key")           // than the join string says, or than is pinned
	ErrClock       = errors.New("clock differs from the coordinator's")  // by more than protocol.MaxClockSkew; see ClockError
	ErrVersion     = errors.New("coordinator speaks another version")    // of the protocol
	ErrNotPicket   = errors.New("what answers is no Picket coordinator") //
	ErrOffline     = errors.New("not connected to the coordinator")      // of Session.Logout
)

// Error is a failure with one sentence that says what to do.
type Error struct {
	Kind    error // one of the Err variables
	Message string
	Err     error // beneath; may be nil
}

func (e *Error) Error() string   { return e.Message }
func (e *Error) Unwrap() []error { return []error{e.Kind, e.Err} }

// ClockError says how far this machine's clock is ahead (negative: behind) of the coordinator's signed time.
type ClockError struct{ Ahead time.Duration }

func (e *ClockError) Error() string {
	way, by := "ahead of", e.Ahead
	if by < 0 {
		way, by = "behind", -by
	}
	return fmt.Sprintf("this machine's clock is %s %s the coordinator's: set the clock (for instance `timedatectl set-ntp true`), nothing is trusted until they agree to %s",
		by.Round(time.Second), way, protocol.MaxClockSkew)
}

// Is makes errors.Is(err, ErrClock) hold.
func (e *ClockError) Is(target error) bool { return target == ErrClock }

func clockError(local, signed time.Time) error {
	if ahead, off := protocol.ClockOff(local, signed); off {
		return &ClockError{ahead}
	}
	return nil
}

// ProblemError is a refusal by the coordinator, in its words.
type ProblemError struct {
	protocol.Problem
	RetryAfter time.Duration // not before; 0 when it did not say
}

func (e *ProblemError) Error() string { return e.Message }

// problem keeps what a terminal would act on out of the coordinator's words.
func problem(p protocol.Problem, after time.Duration) error {
	p.Message = protocol.Printable(p.Message)
	for i := range p.Errors {
		p.Errors[i].Message, p.Errors[i].Hint = protocol.Printable(p.Errors[i].Message), protocol.Printable(p.Errors[i].Hint)
	}
	if p.Code == protocol.CodeVersion {
		return &Error{Kind: ErrVersion, Message: p.Message, Err: &ProblemError{Problem: p}}
	}
	return &ProblemError{p, after}
}

func versionError(theirs int) error {
	return &Error{Kind: ErrVersion, Message: fmt.Sprintf("the coordinator speaks version %d of the protocol and this picket version %d: update the older one of the two", theirs, protocol.Version)}
}

func (c *Client) notPicket() error {
	return &Error{Kind: ErrNotPicket, Message: "what answers at " + c.join.URL + " is no Picket coordinator: check the address and port of the join string"}
}

// isPage reports an answer for browsers.
func isPage(resp *http.Response) bool {
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return kind == "text/html"
}

// notPicketBut is notPicket of an answer of which more can be told: networks that want guests to log in first answer everything with a page, or send
// everybody to one.
func (c *Client) notPicketBut(resp *http.Response) error {
	what := ""
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		what = "a redirect to somewhere else"
	case isPage(resp):
		what = "a web page"
	default:
		return c.notPicket()
	}
	return &Error{Kind: ErrNotPicket, Message: "what answers at " + c.join.URL + " is no Picket coordinator, but " + what +
		": if this network wants its guests to log in first, do so in a browser, else check the address and port of the join string"}
}

// connectError puts a failed request into words. An error of this package, out of the TLS handshake, stays as it is.
func (c *Client) connectError(err error) error {
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	return &Error{Kind: ErrUnreachable, Err: err, Message: "cannot reach the coordinator at " + c.join.URL + ": " + c.reason(err)}
}

func (c *Client) reason(err error) string {
	var dns *net.DNSError
	var record tls.RecordHeaderError
	var netErr net.Error
	if why := proxyReason(err); why != "" {
		return why
	}
	switch {
	case errors.As(err, &dns):
		return "the name " + dns.Name + " is not found: check its spelling, and this machine's DNS"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there (connection refused): is the coordinator running, and is the port right?"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "this machine has no route there: check its network"
	case strings.Contains(err.Error(), "tls: protocol version not supported"):
		return "it speaks no TLS 1.3: allow TLS 1.3 at the proxy in front of it (nginx: ssl_protocols TLSv1.3)"
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch), strings.Contains(err.Error(), "tls: received unexpected handshake message"):
		return "it does not speak TLS: is the port right, and does nothing on the way answer in its place, such as a network that wants its guests to log in first?"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		return "it does not answer: check that a firewall, or a proxy on the way, lets TCP through to it"
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.ErrUnexpectedEOF):
		return "it closed the connection"
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // without the URL, which is said already and may hold a nonce
	}
	return err.Error()
}
