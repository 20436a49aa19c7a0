package httpapi

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"time"

	"picket.internal/coordinator/protocol"
)

// info signs an answer for anyone who sends a nonce of his own.
func (h *Handler) info(w http.ResponseWriter, r *http.Request, _ caller) error {
	client, err := protocol.ParseClientNonce(r.URL.Query().Get("nonce"))
	if err != nil {
		return err
	}
	info, err := h.api.Info(client)
	if err != nil {
		return err
	}
	h.answer(w, http.StatusOK, info)
	return nil
}

func (h *Handler) enrol(w http.ResponseWriter, r *http.Request, c caller) error {
	var e protocol.Enrol
	if err := h.read(w, r, &e); err != nil {
		return err
	}
	a, err := h.api.Enrol(r.Context(), e, c.addr.Addr())
	if err != nil {
		return err
	}
	h.answer(w, http.StatusOK, a)
	return nil
}

// wait holds its request; the slots keep strangers from holding all there are.
func (h *Handler) wait(w http.ResponseWriter, r *http.Request, c caller) error {
	var q protocol.Wait
	if err := h.read(w, r, &q); err != nil {
		return err
	}
	release, ok := h.waiting.Take(c.block)
	if !ok {
		return throttled(time.Second)
	}
	defer release()
	a, err := h.api.Wait(r.Context(), q)
	if err != nil {
		return err
	}
	h.answer(w, http.StatusOK, a)
	return nil
}

// read takes a JSON body of at most MaxEnrolBody bytes.
func (h *Handler) read(w http.ResponseWriter, r *http.Request, v any) error {
	return h.readUpTo(w, r, protocol.MaxEnrolBody, v)
}

// readUpTo takes a JSON body of at most limit bytes within the deadline. It insists on the content type because a page in a browser
// cannot send that one to another site without being asked first.
func (h *Handler) readUpTo(w http.ResponseWriter, r *http.Request, limit int64, v any) error {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return &refusal{http.StatusUnsupportedMediaType, protocol.Problem{Code: protocol.CodeBadRequest, Message: "the body must be application/json"}}
	}
	body, err := h.body(w, r, limit)
	if err != nil {
		return err
	}
	return protocol.Unmarshal(body, v)
}

// body reads at most limit bytes within the deadline for it. A longer body, announced or not, is refused without being read.
func (h *Handler) body(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, tooLarge()
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(h.timing.Body)) // not every test's writer can
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return nil, tooLarge()
	case err != nil:
		return nil, badRequest("the body did not arrive whole")
	}
	_ = rc.SetReadDeadline(time.Time{}) // the handler may now hold the request, as Wait does
	return body, nil
}

func tooLarge() error {
	return &refusal{http.StatusRequestEntityTooLarge, protocol.Problem{Code: protocol.CodeBadRequest, Message: "the body is larger than this page takes"}}
}
