package httpapi

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"strings"

	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
)

// maxWebhook bounds a webhook's body. A push of very many commits may exceed it: the next poll then finds it.
const maxWebhook = 1 << 20

// webhook asks for a fetch of the policy. It takes nothing from the body: what is fetched, and from where, is configured here.
func (h *Handler) webhook(w http.ResponseWriter, r *http.Request, _ caller) error {
	if len(h.secret) == 0 {
		return &refusal{http.StatusNotFound, protocol.Problem{Code: coordinator.CodeNotFound, Message: "no webhook secret is configured here"}}
	}
	body, err := h.body(w, r, maxWebhook)
	if err != nil {
		return err
	}
	if !h.knowsSecret(r.Header, body) {
		return &refusal{http.StatusForbidden, protocol.Problem{Code: coordinator.CodeForbidden, Message: "the webhook's secret is not the one configured here"}}
	}
	h.api.PokePolicy()
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// knowsSecret accepts GitHub's and Gitea's X-Hub-Signature-256 ("sha256=" and the hexadecimal HMAC-SHA-256 of the body), GitLab's
// X-Gitlab-Token, and a bearer token. The first of them that is present decides. All comparisons take constant time.
func (h *Handler) knowsSecret(head http.Header, body []byte) bool {
	if sig := head.Get("X-Hub-Signature-256"); sig != "" {
		digits, _ := strings.CutPrefix(sig, "sha256=")
		got, err := hex.DecodeString(digits)
		mac := hmac.New(sha256.New, h.secret)
		mac.Write(body)
		return err == nil && hmac.Equal(got, mac.Sum(nil))
	}
	token := head.Get("X-Gitlab-Token")
	if token == "" {
		token, _ = strings.CutPrefix(head.Get("Authorization"), "Bearer ")
	}
	// Hashed first, so that not even the length can be measured.
	got, want := sha256.Sum256([]byte(token)), sha256.Sum256(h.secret)
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1
}
