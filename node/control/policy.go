package control

import (
	"context"
	"errors"
	"net/http"
	"time"

	"picket.internal/coordinator/protocol"
)

// PolicyClient asks a coordinator about policies with a token. It is safe for concurrent use. Errors are those of Enrol; a token that the
// coordinator does not take is a *ProblemError with protocol.CodeToken.
type PolicyClient struct {
	client *Client
	token  string
}

// Policy returns a client that asks with token. The coordinator proves its key first, as before an enrolment: nobody else is shown the token.
func (c *Client) Policy(ctx context.Context, token string) (*PolicyClient, error) {
	if err := protocol.CheckToken(token); err != nil {
		return nil, err
	}
	if _, err := c.info(ctx); err != nil {
		return nil, err
	}
	return &PolicyClient{c, token}, nil
}

// Directory returns who and what exists, as a directory file, at most protocol.MaxDirectory bytes; acl.ParseDirectory is still to be asked about it.
func (p *PolicyClient) Directory(ctx context.Context) ([]byte, error) {
	return p.ask(ctx, call{method: http.MethodGet, path: protocol.PathPolicyDirectory, limit: protocol.MaxDirectory})
}

// InForce returns the policy that the network follows.
func (p *PolicyClient) InForce(ctx context.Context) (in protocol.PolicyInForce, err error) {
	return in, p.read(ctx, call{method: http.MethodGet, path: protocol.PathPolicy, limit: protocol.MaxPolicyGet}, &in)
}

// Impact returns what the policy with that text would take from the live flows. One that the coordinator finds unsound is a *ProblemError
// whose Errors are every mistake.
func (p *PolicyClient) Impact(ctx context.Context, text []byte) (i protocol.Impact, err error) {
	body, err := protocol.Marshal(protocol.PolicyText{Text: text})
	if err != nil {
		return i, err
	}
	return i, p.read(ctx, call{method: http.MethodPost, path: protocol.PathPolicyImpact, body: body, limit: protocol.MaxPolicyGet, hold: protocol.ImpactHold}, &i)
}

func (p *PolicyClient) read(ctx context.Context, q call, out any) error {
	answer, err := p.ask(ctx, q)
	if err == nil && protocol.Unmarshal(answer, out) != nil {
		err = p.client.notPicket()
	}
	return err
}

// maxAsks is how often a coordinator is asked that says it has too much to do.
const maxAsks = 3

func (p *PolicyClient) ask(ctx context.Context, q call) ([]byte, error) {
	q.token = p.token
	for n := 1; ; n++ {
		answer, err := p.client.send(ctx, p.client.http, q)
		var problem *ProblemError
		if n == maxAsks || !errors.As(err, &problem) || problem.Code != protocol.CodeThrottled {
			return answer, err
		}
		pause := time.NewTimer(max(problem.RetryAfter, time.Second))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil, ctx.Err()
		}
	}
}
