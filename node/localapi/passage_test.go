package localapi

import (
	"context"
	"errors"
	"net/netip"
	"testing"
)

func TestPassagesStream(t *testing.T) {
	c := NewClient(serve(t, &fakeAgent{}))
	at := netip.MustParseAddrPort("127.0.0.1:5432")
	if err := c.Forward(t.Context(), AskForward{}, func(PassageEvent) {}); err == nil || err.Error() != "of what?" {
		t.Errorf("refused: %v, want the agent's sentence alone", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var heard []PassageEvent
	err := c.Forward(ctx, AskForward{[]Forward{{Listen: at, Peer: "db", Port: 1}}}, func(e PassageEvent) {
		heard = append(heard, e)
		cancel() // only an event that is not kept back can end this
	})
	if !errors.Is(err, context.Canceled) || len(heard) != 1 || heard[0].Listen != at {
		t.Errorf("heard %+v, then %v", heard, err)
	}
	if err := c.Forward(t.Context(), AskForward{[]Forward{{Listen: at, Peer: "stops"}}}, func(PassageEvent) {}); !errors.Is(err, errCutShort) {
		t.Errorf("an agent that stops: %v", err)
	}
	heard = nil
	if err := c.Expose(t.Context(), AskExpose{}, func(e PassageEvent) { heard = append(heard, e) }); !errors.Is(err, errCutShort) || heard[0].Kind != PassageWarning {
		t.Errorf("expose: heard %+v, then %v", heard, err)
	}
}
