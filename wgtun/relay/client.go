package relay

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"picket.internal/wgtun/key"
)

// Times of a client.
const (
	pingIdle    = 25 * time.Second        // less than routers forget a connection in
	pingBusy    = 1250 * time.Millisecond // while the connection is in use
	busyFor     = 10 * time.Second        // after the last datagram either way; a path in use is probed each 5 s
	pingFirst   = time.Second             // between the first, for a latency; never are there two within less
	firstPings  = 3
	stalled     = 3 * time.Second // of silence after a ping; with pingBusy before it, a relay that stalls is left within 4.25 s
	backoffFrom = 500 * time.Millisecond
	backoffTo   = 30 * time.Second
	steady      = time.Minute // a connection that lasted so long starts the backoff anew
)

// ClientConfig of a Client.
type ClientConfig struct {
	Name    string // of the relay, as the map calls it
	Network string
	Dial    func(context.Context) (net.Conn, error)
	Device  key.DevicePrivate
	// Pass returns the newest signed pass, nil while there is none: then nothing is dialled until Renew is called.
	Pass func() []byte
	// Receive is called with each datagram that comes, one at a time. It must not block, nor keep the datagram.
	Receive func(from Address, datagram []byte)
	Logger  *slog.Logger // nil logs nothing
}

// Client keeps a connection to one relay. All methods are safe for concurrent use.
type Client struct {
	config ClientConfig
	made   time.Time
	renew  chan struct{} // room for one
	out    atomic.Pointer[outbox]
	used   atomic.Int64 // nanoseconds after made: the newest datagram either way; less than 0 for never
	check  atomic.Bool  // a ping is asked for
	kick   chan struct{}

	mu     sync.Mutex
	status ClientStatus
}

// ClientStatus is how a connection stands.
type ClientStatus struct {
	Connected bool
	Since     time.Time
	Latency   time.Duration // smoothed round trip; 0 while not known
	Asked     time.Time     // the newest ping, while it is unanswered; zero else
	Err       string        // why it is not connected, in words; "" when it never failed
}

// NewClient returns a client; it starts nothing.
func NewClient(c ClientConfig) *Client {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	client := &Client{config: c, made: time.Now(), renew: make(chan struct{}, 1), kick: make(chan struct{}, 1)}
	client.used.Store(-int64(busyFor))
	return client
}

// Status tells how the connection stands.
func (c *Client) Status() ClientStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// Send hands over a copy of a datagram; false when it was dropped, since there is no connection or an address gets more than it takes. It never blocks.
func (c *Client) Send(to Address, datagram []byte) bool {
	o := c.out.Load()
	if o == nil || len(datagram) == 0 || len(datagram) > MaxDatagram {
		return false
	}
	lost := o.put(to, to, datagram)
	o.signal()
	c.use()
	return lost == 0
}

// use notes a datagram. The first after a while has the relay pinged at once.
func (c *Client) use() {
	now := int64(time.Since(c.made))
	if time.Duration(now-c.used.Swap(now)) >= pingBusy {
		signal(c.kick)
	}
}

// Check pings now, unless that was done within the last second, so that a relay that is dead is left within 3 s (stalled).
func (c *Client) Check() {
	c.check.Store(true)
	signal(c.kick)
}

// Renew presents the newest pass, or has a client that waits for one dial.
func (c *Client) Renew() { signal(c.renew) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run connects, and connects again with growing pauses, until ctx ends; then it returns nil.
func (c *Client) Run(ctx context.Context) error {
	pause := backoffFrom
	for ctx.Err() == nil {
		signed := c.config.Pass()
		if signed == nil {
			select {
			case <-c.renew:
			case <-ctx.Done():
			}
			continue
		}
		began := time.Now()
		err := c.connect(ctx, signed)
		if ctx.Err() != nil {
			break
		}
		if time.Since(began) >= steady {
			pause = backoffFrom
		}
		c.down(err)
		c.config.Logger.Info("no connection to a relay", "relay", c.config.Name, "reason", err)
		select {
		case <-time.After(pause/2 + rand.N(pause/2)):
		case <-ctx.Done():
		}
		pause = min(2*pause, backoffTo)
	}
	c.down(nil)
	return nil
}

func (c *Client) down(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = ClientStatus{Err: c.status.Err}
	if err != nil {
		c.status.Err = err.Error()
	}
}

// connect is one connection, from dialling to its end.
func (c *Client) connect(ctx context.Context, signed []byte) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conn, err := c.config.Dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	r := &reader{r: conn}
	defer r.release()
	if err := c.login(conn, r, signed); err != nil {
		return err
	}
	l := &session{client: c, conn: conn, out: newOutbox(clientBounds), began: time.Now(), fail: cancel}
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer l.out.close()
	defer cancel(nil)
	tasks.Go(l.write)
	tasks.Go(func() { l.tend(ctx, signed) })
	c.mu.Lock()
	c.status = ClientStatus{Connected: true, Since: time.Now()}
	c.mu.Unlock()
	c.out.Store(l.out)
	defer c.out.Store(nil)
	c.config.Logger.Info("connected to a relay", "relay", c.config.Name)
	err = l.read(r)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// login answers the challenge and waits for the welcome.
func (c *Client) login(conn net.Conn, r *reader, signed []byte) error {
	_ = conn.SetDeadline(time.Now().Add(loginTime))
	r.only = func(k kind) bool { return k == kindChallenge || k == kindRefuse }
	k, payload, err := r.next()
	switch {
	case err != nil:
		return fmt.Errorf("the relay %s says nothing that a relay would: %w", c.config.Name, err)
	case k == kindRefuse:
		return c.refused(payload)
	case payload[0] != version:
		return fmt.Errorf("the relay %s speaks version %d and this picket version %d: update the older one of the two", c.config.Name, payload[0], version)
	}
	signature := c.config.Device.Sign(contextLogin, loginText(payload[1:], c.config.Name, sha256.Sum256(signed)))
	if _, err := conn.Write(appendFrame(nil, kindLogin, signature, signed)); err != nil {
		return fmt.Errorf("log in at the relay %s: %w", c.config.Name, err)
	}
	r.only = func(k kind) bool { return k == kindWelcome || k == kindRefuse }
	k, payload, err = r.next()
	switch {
	case err != nil:
		return fmt.Errorf("the relay %s does not answer the login: %w", c.config.Name, err)
	case k == kindRefuse:
		return c.refused(payload)
	}
	return conn.SetDeadline(time.Time{})
}

func (c *Client) refused(payload []byte) error {
	text := strings.Map(func(r rune) rune { // it is the relay's word, for people to read
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, string(payload[1:]))
	return fmt.Errorf("the relay %s refuses this node: %s", c.config.Name, text)
}

// session is one connection of a client's, after its login.
type session struct {
	client *Client
	conn   net.Conn
	out    *outbox
	began  time.Time
	heard  atomic.Int64 // nanoseconds after began: the newest frame of any kind
	fail   context.CancelCauseFunc

	writing atomic.Int64 // nanoseconds after began: the batch that is being written; 0 for none

	mu     sync.Mutex
	pings  uint64
	pinged time.Time // the newest ping
	asked  time.Time // the same while it is unanswered; zero else
}

// read takes what the relay sends until the connection ends.
func (l *session) read(r *reader) error {
	r.only = func(k kind) bool { return k == kindDatagram || k == kindPing || k == kindPong || k == kindRefuse }
	heard, used := 0, 0 // reads when the two were noted: what comes in one piece comes at one time
	for {
		k, payload, err := r.next()
		if err != nil {
			return fmt.Errorf("the relay %s: %w", l.client.config.Name, err)
		}
		if heard != r.reads {
			heard = r.reads
			l.heard.Store(int64(time.Since(l.began)))
		}
		switch k {
		case kindDatagram:
			if used != r.reads {
				used = r.reads
				l.client.use()
			}
			l.client.config.Receive(Address(payload[:addressSize]), payload[addressSize:])
		case kindPing:
			l.out.say(kindPong, payload)
		case kindPong:
			l.pong(binary.BigEndian.Uint64(payload))
		case kindRefuse:
			return l.client.refused(payload)
		}
	}
}

// write writes what is in the outbox until it is closed.
func (l *session) write() {
	for range l.out.wake {
		batch := batches.Get().(*[]byte)
		for {
			b := l.out.take((*batch)[:0])
			if len(b) == 0 {
				break
			}
			l.writing.Store(max(1, int64(time.Since(l.began)))) // no deadline: a timer that is moved wakes a thread
			if _, err := l.conn.Write(b); err != nil {
				l.fail(fmt.Errorf("the relay %s takes nothing: %w", l.client.config.Name, err))
				l.out.close()
				break
			}
		}
		l.writing.Store(0)
		batches.Put(batch)
		if l.out.over() {
			return
		}
	}
}

// tend pings, leaves a relay that does not answer, and presents new passes.
func (l *session) tend(ctx context.Context, shown []byte) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.client.renew:
			if signed := l.client.config.Pass(); signed != nil && string(signed) != string(shown) {
				shown = signed
				l.out.say(kindRenew, signed)
			}
			continue
		case <-l.client.kick:
		case <-timer.C:
		}
		next, dead := l.look(time.Now())
		if dead {
			l.fail(fmt.Errorf("the relay %s does not answer any more", l.client.config.Name))
			return
		}
		timer.Reset(next)
	}
}

// look pings, and says when to look again, or that the relay is dead.
func (l *session) look(now time.Time) (next time.Duration, dead bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// Under load a pong may be long in coming behind what else is under way; that comes, then.
	quiet := min(now.Sub(l.asked), now.Sub(l.began)-time.Duration(l.heard.Load()))
	if !l.asked.IsZero() && quiet >= stalled {
		return 0, true
	}
	if w := l.writing.Load(); w != 0 && now.Sub(l.began)-time.Duration(w) >= writeTime { // it talks, and takes nothing
		return 0, true
	}
	every := pingIdle
	switch c := l.client; {
	case l.pings < firstPings, c.check.Load():
		every = pingFirst
	case now.Sub(c.made)-time.Duration(c.used.Load()) < busyFor:
		every = pingBusy
	}
	if l.asked.IsZero() && now.Sub(l.pinged) >= every {
		l.ask(now)
	}
	next = every - now.Sub(l.pinged)
	if !l.asked.IsZero() {
		next = stalled - quiet
	}
	return max(next, time.Millisecond), false
}

func (l *session) ask(now time.Time) {
	l.client.check.Store(false)
	l.asked, l.pinged = now, now
	l.pings++
	l.out.say(kindPing, binary.BigEndian.AppendUint64(nil, l.pings))
	l.client.mu.Lock()
	defer l.client.mu.Unlock()
	l.client.status.Asked = now
}

// pong takes an answer to the newest ping.
func (l *session) pong(number uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if number != l.pings || l.asked.IsZero() {
		return
	}
	trip := max(time.Since(l.asked), time.Microsecond)
	l.asked = time.Time{}
	c := l.client
	signal(c.kick) // for the next ping
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status.Asked = time.Time{}
	if c.status.Latency == 0 {
		c.status.Latency = trip
	} else {
		c.status.Latency += (trip - c.status.Latency) / 4
	}
}
