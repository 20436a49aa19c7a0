package opsocket

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

// maxAnswer bounds what the client reads, in bytes.
const maxAnswer = 64 << 20

// Client calls the coordinator behind a socket.
type Client struct {
	path string
	http *http.Client
}

// NewClient returns a client; it connects with the first call.
func NewClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	return &Client{path, &http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Do makes the call. A refusal is a *coordinator.Error; a coordinator that is not there, one with CodeUnavailable.
func (c Call[Req, Res]) Do(ctx context.Context, client *Client, req Req) (Res, error) {
	var res Res
	body, err := json.Marshal(req)
	if err != nil {
		return res, fmt.Errorf("encode %s: %w", c.Name, err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://coordinator/v1/"+c.Name, bytes.NewReader(body))
	if err != nil {
		return res, err
	}
	answer, err := client.http.Do(r)
	if err != nil {
		return res, client.unreachable(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return res, fmt.Errorf("read the coordinator's answer: %w", err)
	}
	if answer.StatusCode != http.StatusOK {
		return res, refusal(c.Name, answer.StatusCode, text)
	}
	if err := json.Unmarshal(text, &res); err != nil {
		return res, fmt.Errorf("read the coordinator's answer to %s: %w", c.Name, err)
	}
	return res, nil
}

func refusal(call string, status int, text []byte) error {
	var p protocol.Problem
	if json.Unmarshal(text, &p) != nil || p.Message == "" {
		return fmt.Errorf("%s: the coordinator answered with status %d: are both programs of the same version?", call, status)
	}
	return &coordinator.Error{Code: p.Code, Message: p.Message, Errors: p.Errors}
}

// unreachable says what to do about a socket nobody answers on.
func (c *Client) unreachable(err error) error {
	message := fmt.Sprintf("cannot reach the coordinator at %s: %v", c.path, err)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		message = fmt.Sprintf("no coordinator answers at %s: start `picket-coordinator serve`, or name its directory with --dir", c.path)
	case errors.Is(err, fs.ErrPermission):
		message = fmt.Sprintf("no permission to use %s: run this as root or as the user the coordinator runs as", c.path)
	}
	return &coordinator.Error{Code: protocol.CodeUnavailable, Message: message}
}
