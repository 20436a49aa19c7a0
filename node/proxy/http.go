package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
)

// maxRequestHead bounds the request line and headers of a CONNECT, in bytes.
const maxRequestHead = 16 << 10

// httpError is a refusal with its status.
type httpError struct {
	status int
	cause  error
}

func (e *httpError) Error() string { return e.cause.Error() }

func serveHTTP(ctx context.Context, p *Proxy, c net.Conn) error {
	limited := &io.LimitedReader{R: c, N: maxRequestHead}
	reader := bufio.NewReader(limited)
	host, port, err := readConnect(reader)
	if err != nil {
		return answerHTTPError(c, err)
	}
	to, err := p.target(host, port)
	if err != nil {
		return answerHTTPError(c, &httpError{http.StatusForbidden, err})
	}
	far, err := p.dial(ctx, to)
	if err != nil {
		return answerHTTPError(c, &httpError{http.StatusBadGateway, err})
	}
	if _, err := io.WriteString(c, "HTTP/1.1 200 Connected\r\n\r\n"); err != nil {
		far.Close()
		return err
	}
	early, _ := reader.Peek(reader.Buffered()) // what the client sent without waiting
	if _, err := far.Write(early); err != nil {
		far.Close()
		return err
	}
	splice(ctx, c, far)
	return nil
}

// readConnect reads one CONNECT request; an *httpError is to be answered.
func readConnect(r *bufio.Reader) (host string, port uint16, err error) {
	req, err := http.ReadRequest(r)
	if err != nil {
		return "", 0, &httpError{http.StatusBadRequest, errors.New("not an HTTP request, or too long a one")}
	}
	if req.Method != http.MethodConnect {
		return "", 0, &httpError{http.StatusMethodNotAllowed, errors.New("this proxy does CONNECT only")}
	}
	// The request line alone says where to; a Host header that differs is somebody trying to have one place checked and another dialled.
	host, text, err := net.SplitHostPort(req.RequestURI)
	if err != nil || req.Host != req.RequestURI {
		return "", 0, &httpError{http.StatusBadRequest, errors.New("the request does not name one HOST:PORT")}
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || strconv.FormatUint(n, 10) != text {
		return "", 0, &httpError{http.StatusBadRequest, errors.New("the port is not a number from 1 to 65535")}
	}
	if req.ContentLength > 0 || len(req.TransferEncoding) > 0 {
		return "", 0, &httpError{http.StatusBadRequest, errors.New("a CONNECT has no body")}
	}
	return host, uint16(n), nil
}

func answerHTTPError(c io.Writer, err error) error {
	var refused *httpError
	if errors.As(err, &refused) {
		text := refused.Error() + "\n"
		// The client may be gone.
		_, _ = fmt.Fprintf(c, "HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
			refused.status, http.StatusText(refused.status), len(text), text)
	}
	return err
}
