package localapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
)

// ErrNoAgent is wrapped when nobody answers on the socket.
var ErrNoAgent = errors.New("no agent answers")

// Client asks the agent at one socket. It is safe for concurrent use.
type Client struct {
	path string
	http http.Client
}

// NewClient makes a client for the socket at path; it connects when asked something.
func NewClient(path string) *Client {
	c := &Client{path: path}
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}
	return c
}

// Status asks for the agent's state.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return ask[Status](ctx, c, http.MethodGet, "status", nil)
}

// Peers asks for the peers, by name.
func (c *Client) Peers(ctx context.Context) ([]Peer, error) {
	return ask[[]Peer](ctx, c, http.MethodGet, "peers", nil)
}

// Down stops the tunnel.
func (c *Client) Down(ctx context.Context) error {
	_, err := ask[struct{}](ctx, c, http.MethodPost, "down", struct{}{})
	return err
}

// Logout gives up the admission.
func (c *Client) Logout(ctx context.Context) error {
	_, err := ask[struct{}](ctx, c, http.MethodPost, "logout", struct{}{})
	return err
}

// Set changes what is routed.
func (c *Client) Set(ctx context.Context, r ChangeRouting) (Status, error) {
	return ask[Status](ctx, c, http.MethodPost, "set", r)
}

// Rotate changes the tunnel key and waits until that is done.
func (c *Client) Rotate(ctx context.Context, r Rotate) (Rotation, error) {
	return ask[Rotation](ctx, c, http.MethodPost, "rotate", r)
}

// Trust accepts a refused peer's new device key.
func (c *Client) Trust(ctx context.Context, t Trust) error {
	_, err := ask[struct{}](ctx, c, http.MethodPost, "trust", t)
	return err
}

// DNS asks how names are resolved.
func (c *Client) DNS(ctx context.Context) (DNS, error) {
	return ask[DNS](ctx, c, http.MethodGet, "dns", nil)
}

// QueryDNS asks for a name as the host's programs do.
func (c *Client) QueryDNS(ctx context.Context, q QueryDNS) (DNSReply, error) {
	return ask[DNSReply](ctx, c, http.MethodPost, "query", q)
}

// Why asks about a flow.
func (c *Client) Why(ctx context.Context, w Why) (WhyAnswer, error) {
	return ask[WhyAnswer](ctx, c, http.MethodPost, "why", w)
}

// Ping pings once.
func (c *Client) Ping(ctx context.Context, p Ping) (PingAnswer, error) {
	return ask[PingAnswer](ctx, c, http.MethodPost, "ping", p)
}

// Netcheck has the agent look at what its network lets paths do.
func (c *Client) Netcheck(ctx context.Context) (Netcheck, error) {
	return ask[Netcheck](ctx, c, http.MethodPost, "netcheck", struct{}{})
}

// Up joins or starts, calling event for each line until the last; the error is that of an event's Error field, or of the connection.
func (c *Client) Up(ctx context.Context, u Up, event func(UpEvent)) (Status, error) {
	resp, err := c.send(ctx, http.MethodPost, "up", u)
	if err != nil {
		return Status{}, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e UpEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return Status{}, errors.New("the agent's answer cannot be read: are the picket command and the agent of the same version?")
		}
		if e.Error != "" {
			return Status{}, errors.New(e.Error)
		}
		if e.Done != nil {
			return *e.Done, nil
		}
		event(e)
	}
	if ctx.Err() != nil {
		return Status{}, ctx.Err()
	}
	return Status{}, errors.New("the agent stopped before it was done: look at its log, then try again")
}

// Flows asks for the live flows used last.
func (c *Client) Flows(ctx context.Context, q AskFlows) (f Flows, err error) {
	f.FlowTotals, f.List, err = askList[FlowTotals, Flow](ctx, c, "flows", q)
	return f, err
}

// Denials asks for refused packets.
func (c *Client) Denials(ctx context.Context, q AskDenials) (d Denials, err error) {
	d.DenialTotals, d.List, err = askList[DenialTotals, Denial](ctx, c, "denials", q)
	return d, err
}

// Capture calls event for each event but the last, which it returns. When ctx ends before that, or event fails, it returns that error.
func (c *Client) Capture(ctx context.Context, q AskCapture, event func(CaptureEvent) error) (CaptureEnd, error) {
	resp, err := c.send(ctx, http.MethodPost, "capture", q)
	if err != nil {
		return CaptureEnd{}, err
	}
	defer resp.Body.Close()
	for d := json.NewDecoder(resp.Body); ; {
		var e CaptureEvent
		switch err := d.Decode(&e); {
		case ctx.Err() != nil:
			return CaptureEnd{}, ctx.Err()
		case err != nil:
			return CaptureEnd{}, errCutShort
		case e.End != nil:
			return *e.End, nil
		}
		if err := event(e); err != nil {
			return CaptureEnd{}, err
		}
	}
}

// errCutShort is of an answer whose end is missing.
var errCutShort = errors.New("the agent stopped before its answer was whole: look at its log, then try again")

// askList reads an answer that comes one object a line: what stands over the list, and each entry.
func askList[H, L any](ctx context.Context, c *Client, path string, q any) (head H, list []L, err error) {
	resp, err := c.send(ctx, http.MethodPost, path, q)
	if err != nil {
		return head, nil, err
	}
	defer resp.Body.Close()
	d := json.NewDecoder(resp.Body)
	var opening listHead[H]
	if err := d.Decode(&opening); err != nil {
		return head, nil, errCutShort
	}
	list = make([]L, 0, max(0, min(opening.Listed, MaxListed)))
	for range opening.Listed {
		var entry L
		if err := d.Decode(&entry); err != nil {
			return head, nil, errCutShort
		}
		list = append(list, entry)
	}
	return opening.Head, list, nil
}

func ask[A any](ctx context.Context, c *Client, method, path string, q any) (a A, err error) {
	resp, err := c.send(ctx, method, path, q)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		return a, errors.New("the agent's answer cannot be read: are the picket command and the agent of the same version?")
	}
	return a, nil
}

// send returns an answer of status 200; the caller closes its body.
func (c *Client) send(ctx context.Context, method, path string, q any) (*http.Response, error) {
	req, err := newRequest(ctx, method, path, q)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, refusal(resp)
}

func newRequest(ctx context.Context, method, path string, q any) (*http.Request, error) {
	var body io.Reader
	if q != nil {
		text, err := json.Marshal(q)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(text)
	}
	return http.NewRequestWithContext(ctx, method, "http://"+host+"/v1/"+path, body)
}

// refusal is the sentence of an answer that is not 200.
func refusal(resp *http.Response) error {
	var f failure
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&f); err != nil || f.Error == "" {
		return fmt.Errorf("the agent answered %s", resp.Status)
	}
	return errors.New(f.Error)
}

func (c *Client) explain(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, fs.ErrNotExist) || isRefused(err):
		return fmt.Errorf("%w on %s", ErrNoAgent, c.path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the socket %s belongs to another user: use sudo", c.path)
	}
	return fmt.Errorf("ask the agent on %s: %s", c.path, plain(err))
}
