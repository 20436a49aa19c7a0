package relay

import (
	"context"
	"errors"
	"time"
)

// arrivals are what one client sends. What comes in one piece is looked at together where that makes no difference: the time, the client's rate, and
// the delivery to each receiver.
type arrivals struct {
	client *client
	r      *reader
	fed    fed
	owed   int       // bytes that count against the rate and are not yet paid for
	now    time.Time // of passes: when the piece came, or was paid for
	noted  int       // reads when now was
}

// run takes what the client sends until it ends.
func (a *arrivals) run(ctx context.Context) error {
	a.r.only = func(k kind) bool { return k == kindDatagram || k == kindRenew || k == kindPing || k == kindPong }
	a.r.before = func() error { return a.pause(ctx) }
	if p := a.client.prompt; p != nil {
		p.idle = a.fed.deliver
	}
	defer a.fed.deliver()
	for {
		k, payload, err := a.r.next()
		if errors.Is(err, ErrFrame) {
			a.client.server.refused.Add(1)
			return &refusal{codeForm, err.Error()}
		}
		if err != nil {
			return err
		}
		if a.noted != a.r.reads {
			a.noted, a.now = a.r.reads, a.client.server.config.Now()
			a.client.heard.Store(int64(time.Since(a.client.server.began)))
		}
		if a.owed += cost(k, len(payload)); a.owed > recordSize {
			if err := a.pay(ctx); err != nil {
				return err
			}
		}
		if err := a.take(k, payload); err != nil {
			return err
		}
	}
}

// pause is before the connection is read.
func (a *arrivals) pause(ctx context.Context) error {
	if a.client.prompt == nil { // which calls idle itself, and more seldom
		a.fed.deliver()
	}
	if a.owed == 0 {
		return nil
	}
	return a.pay(ctx)
}

// pay has a client wait that has sent more than its share; nobody else does.
func (a *arrivals) pay(ctx context.Context) error {
	n := a.owed
	a.owed = 0
	if a.client.limit.AllowN(time.Now(), n) {
		return nil
	}
	a.fed.deliver()
	err := a.client.limit.WaitN(ctx, n)
	a.now = a.client.server.config.Now()
	return err
}

func (a *arrivals) take(k kind, payload []byte) error {
	c := a.client
	switch k {
	case kindDatagram:
		datagram := payload[addressSize:]
		if to := c.server.forward(a.now, c, Address(payload[:addressSize]), datagram); to != nil {
			a.fed.add(to, len(datagram))
		}
	case kindRenew:
		if err := c.renew(payload); err != nil {
			c.server.refused.Add(1)
			return err
		}
	case kindPing:
		c.out.say(kindPong, payload)
	}
	return nil
}

// cost is what a frame counts as against a client's rate, in bytes.
func cost(k kind, payload int) int {
	if k == kindRenew {
		return max(payload, renewCost)
	}
	return max(payload+headerSize, frameCost)
}
