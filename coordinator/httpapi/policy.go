package httpapi

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

// What programs elsewhere ask with a token. A request passes, in this order: the rate limit of its address, the limit of wrong tokens of its
// address, its token, the cap on such requests, and only then are its body read and the coordinator asked.

// PolicyAPI is what the handler needs of a coordinator for those. TokenActor refuses with protocol.CodeToken.
type PolicyAPI interface {
	TokenActor(ctx context.Context, token string, from netip.Addr) (coordinator.Actor, error)
	PolicyInForce(ctx context.Context, a coordinator.Actor) (protocol.PolicyInForce, error)
	PolicyDirectory(ctx context.Context, a coordinator.Actor) ([]byte, error)
	PolicyImpact(ctx context.Context, a coordinator.Actor, text []byte) (protocol.Impact, error)
}

// wrongTokenEvery is after how long an address may try one more wrong token, beyond Limits.WrongTokens.
const wrongTokenEvery = 15 * time.Second

// tokenRoute serves one path in one method to who has a token.
func (h *Handler) tokenRoute(method, path string, serve func(http.ResponseWriter, *http.Request, coordinator.Actor) error) {
	h.route(method, path, func(w http.ResponseWriter, r *http.Request, c caller) error {
		if after := h.wrong.Wait(c.block); after > 0 {
			return throttled(after)
		}
		a, err := h.api.TokenActor(r.Context(), bearer(r.Header), c.addr.Addr())
		if err != nil {
			if p, _ := problemOf(err); p.Code == protocol.CodeToken {
				h.wrong.Spend(c.block)
				w.Header().Set("WWW-Authenticate", "Bearer") // RFC 6750 section 3
			}
			return err
		}
		release, ok := h.asking.Take(c.block) // who has no token holds none
		if !ok {
			return throttled(time.Second)
		}
		defer release()
		return serve(w, r, a)
	})
}

// bearer is the token of a request; empty when there is none.
func bearer(head http.Header) string {
	token, ok := strings.CutPrefix(head.Get("Authorization"), "Bearer ")
	if !ok {
		return ""
	}
	return token
}

func (h *Handler) policyInForce(w http.ResponseWriter, r *http.Request, a coordinator.Actor) error {
	p, err := h.api.PolicyInForce(r.Context(), a)
	if err != nil {
		return err
	}
	h.answer(w, http.StatusOK, p)
	return nil
}

func (h *Handler) policyDirectory(w http.ResponseWriter, r *http.Request, a coordinator.Actor) error {
	text, err := h.api.PolicyDirectory(r.Context(), a)
	if err != nil {
		return err
	}
	h.write(w, http.StatusOK, text)
	return nil
}

func (h *Handler) policyImpact(w http.ResponseWriter, r *http.Request, a coordinator.Actor) error {
	var p protocol.PolicyText
	if err := h.readUpTo(w, r, protocol.MaxPolicyAsk, &p); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), protocol.ImpactHold)
	defer cancel()
	i, err := h.api.PolicyImpact(ctx, a, p.Text)
	if err != nil {
		return err
	}
	h.answer(w, http.StatusOK, i)
	return nil
}
