package relay

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"picket.internal/wgtun/key"
)

// Times and bounds of a server.
const (
	loginTime   = 10 * time.Second
	writeTime   = 10 * time.Second // for one batch to be taken by a client
	pingAfter   = 60 * time.Second // of silence
	goneAfter   = 90 * time.Second
	watchEvery  = 15 * time.Second // also how late a pass that ran out ends a connection; nothing of it is forwarded any longer
	clientBurst = 1 << 20
	frameCost   = 256      // bytes that the shortest frame counts as: it takes work too
	renewCost   = 64 << 10 // and a renewal, whose signature is verified
)

// ServerConfig of a Server.
type ServerConfig struct {
	Coordinator key.CoordinatorPublic // whose passes are good
	Network     string
	Name        string                  // of this relay, as maps call it
	Now         func() time.Time        // by the coordinator's clock; nil: this host's
	May         func(a, b Address) bool // asked beside the passes, which may lag behind; nil: they alone decide. Must not block
	Limits      Limits
	Logger      *slog.Logger // nil logs nothing
}

// Limits of a Server. A zero field takes the default.
type Limits struct {
	Clients int // connected at a time; 10,000
	Rate    int // bytes a second that one client may send; 32 MiB
}

// Server is a relay. All methods are safe for concurrent use.
type Server struct {
	config ServerConfig
	began  time.Time
	logins logins
	serverCounters

	mu      sync.RWMutex
	clients map[Address]*client
	closed  bool
}

// serverCounters count since NewServer.
type serverCounters struct {
	datagrams, bytes                 atomic.Uint64
	absent, forbidden, full, refused atomic.Uint64
}

// ServerStats is a snapshot.
type ServerStats struct {
	Clients   int
	Datagrams uint64 // carried, as far as the receiver's queue
	Bytes     uint64 // of those
	Absent    uint64 // dropped: nobody there has the address
	Forbidden uint64 // dropped: a pass, or May, does not let the two meet
	Full      uint64 // dropped: the receiver is slow, or too much is sent to it
	Refused   uint64 // connections: no login, a bad one, or a frame that does not belong there
}

// ErrClosed is returned for a connection to a server that was closed.
var ErrClosed = errors.New("the relay is closed")

// NewServer returns a relay without clients; it starts nothing.
func NewServer(c ServerConfig) *Server {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Limits.Clients == 0 {
		c.Limits.Clients = 10000
	}
	if c.Limits.Rate == 0 {
		c.Limits.Rate = 32 << 20
	}
	return &Server{config: c, began: time.Now(), clients: make(map[Address]*client)}
}

// client is one connection after its login.
type client struct {
	server  *Server
	address Address
	conn    net.Conn
	pass    atomic.Pointer[Pass] // the zero Pass once Drop, or a newer connection, has ended this one
	heard   atomic.Int64         // nanoseconds since the server began, which no step of the clock moves
	out     *outbox
	limit   *rate.Limiter
	prompt  *Prompt    // below conn; nil if conn's writes wait
	writing sync.Mutex // whoever takes from out and writes that

	ending atomic.Bool
	ended  chan struct{} // closed when end is done

	mu       sync.Mutex
	timer    *time.Timer // calls watch
	left     bool        // Serve is about to return
	farewell bool        // the last limit of writes is set
}

// refusal ends a connection with a word to the client.
type refusal struct {
	code byte
	text string
}

func (r *refusal) Error() string { return r.text }

func (r *refusal) frame() []byte {
	return appendFrame(nil, kindRefuse, []byte{r.code}, []byte(r.text[:min(len(r.text), maxRefusal)]))
}

// Codes of refusals. A client tries again after each of them.
const (
	codeForm byte = 1 + iota
	codeLogin
	codePass
	codeReplaced
	codeBusy
	codeDropped
)

// Serve is one client, from the challenge on, until it leaves or ctx ends; it closes the connection. The error says why it ended.
func (s *Server) Serve(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	r := &reader{r: conn}
	defer r.release()
	c, err := s.admit(conn, r)
	if err != nil {
		s.refused.Add(1)
		s.turnAway(conn, err)
		return err
	}
	defer s.remove(c)
	var writing sync.WaitGroup
	writing.Go(func() { c.write() })
	c.watchOn()
	err = (&arrivals{client: c, r: r}).run(ctx)
	c.watchNoMore()
	c.end(err)
	writing.Wait()
	return err
}

// turnAway tells a client that was never let in why.
func (s *Server) turnAway(conn net.Conn, err error) {
	var why *refusal
	if errors.As(err, &why) {
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		_, _ = conn.Write(why.frame())
	}
}

// admit does the login, and enters the client in place of an earlier connection of its.
func (s *Server) admit(conn net.Conn, r *reader) (*client, error) {
	_ = conn.SetDeadline(time.Now().Add(loginTime)) // a connection without deadlines is closed with ctx
	l := s.logins.enter(conn)
	defer l.leave()
	r.more = l.more
	defer func() { r.more = nil }()
	nonce := make([]byte, nonceSize)
	_, _ = rand.Read(nonce) // never fails
	if _, err := conn.Write(appendFrame(nil, kindChallenge, []byte{version}, nonce)); err != nil {
		return nil, fmt.Errorf("challenge: %w", err)
	}
	r.only = func(k kind) bool { return k == kindLogin }
	_, login, err := r.next()
	if errors.Is(err, ErrFrame) {
		return nil, &refusal{codeForm, err.Error()}
	}
	if err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	signature, signed := login[:signatureSize], login[signatureSize:]
	pass, err := OpenPass(signed, s.config.Coordinator, s.config.Network, s.config.Now())
	if err != nil {
		return nil, &refusal{codePass, err.Error()}
	}
	if !pass.Device.Verify(contextLogin, loginText(nonce, s.config.Name, sha256.Sum256(signed)), signature) {
		return nil, &refusal{codeLogin, "the login is not signed by the pass's device for this relay"}
	}
	r.payload = nil // the pass was large, perhaps
	_ = conn.SetDeadline(time.Time{})
	c := &client{
		server: s, address: pass.Address(), conn: conn, out: newOutbox(serverBounds), ended: make(chan struct{}),
		limit: rate.NewLimiter(rate.Limit(s.config.Limits.Rate), clientBurst),
	}
	c.pass.Store(pass)
	c.heard.Store(int64(time.Since(s.began)))
	if c.prompt = promptOf(conn); c.prompt != nil {
		c.prompt.begin(c.out.signal)
	}
	c.out.say(kindWelcome, []byte{version})
	return c, s.enter(c)
}

func (s *Server) enter(c *client) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.clients[c.address]
	switch {
	case s.closed:
		return ErrClosed
	case old == nil && len(s.clients) >= s.config.Limits.Clients:
		return &refusal{codeBusy, "this relay is full"}
	}
	s.clients[c.address] = c
	if old != nil {
		old.pass.Store(&Pass{})                                                  // Drop would not find it any more
		go old.end(&refusal{codeReplaced, "the same device has connected anew"}) // it may have to wait for a write
	}
	return nil
}

func (s *Server) remove(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients[c.address] == c {
		delete(s.clients, c.address)
	}
}

// Drop ends the connection of an address, if there is one, without waiting: from now on nothing is carried to or from it, until it logs in anew.
func (s *Server) Drop(a Address) {
	s.mu.Lock()
	c := s.clients[a]
	delete(s.clients, a)
	s.mu.Unlock()
	if c != nil {
		c.pass.Store(&Pass{})
		go c.end(&refusal{codeDropped, "the coordinator has ended this node's access"})
	}
}

// Close ends all connections, and refuses new ones.
func (s *Server) Close() {
	s.logins.endAll()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, c := range s.clients {
		c.conn.Close()
	}
}

// Stats returns a snapshot.
func (s *Server) Stats() ServerStats {
	s.mu.RLock()
	n := len(s.clients)
	s.mu.RUnlock()
	return ServerStats{
		Clients: n, Datagrams: s.datagrams.Load(), Bytes: s.bytes.Load(), Absent: s.absent.Load(), Forbidden: s.forbidden.Load(),
		Full: s.full.Load(), Refused: s.refused.Load(),
	}
}

// renew takes a newer pass.
func (c *client) renew(signed []byte) error {
	s := c.server
	pass, err := OpenPass(signed, s.config.Coordinator, s.config.Network, s.config.Now())
	if err != nil {
		return &refusal{codePass, err.Error()}
	}
	now := c.pass.Load()
	// After Drop, or a newer connection, the present pass is nobody's, and this one another's.
	if pass.Device != now.Device || pass.NotAfter.Before(now.NotAfter) {
		return &refusal{codePass, "the new pass is another device's, or older"}
	}
	if !c.pass.CompareAndSwap(now, pass) { // or comes just now
		return &refusal{codeDropped, "this connection is over"}
	}
	return nil
}

// forward hands a datagram to its receiver's queue, if the two may meet now. It returns the receiver, or nil.
func (s *Server) forward(now time.Time, from *client, to Address, datagram []byte) *client {
	s.mu.RLock()
	c := s.clients[to]
	s.mu.RUnlock()
	if c == nil {
		s.absent.Add(1)
		return nil
	}
	a, b := from.pass.Load(), c.pass.Load()
	if !a.Holds(now) || !b.Holds(now) || !a.Names(to) || !b.Names(from.address) || s.config.May != nil && !s.config.May(from.address, to) {
		s.forbidden.Add(1)
		return nil
	}
	s.datagrams.Add(1)
	s.bytes.Add(uint64(len(datagram)))
	s.full.Add(uint64(c.out.put(from.address, from.address, datagram)))
	return c
}

// watch pings a silent client, and ends one that is gone or whose pass has run out.
func (c *client) watch() {
	silent := time.Since(c.server.began) - time.Duration(c.heard.Load())
	switch {
	case !c.pass.Load().Holds(c.server.config.Now()):
		c.end(&refusal{codePass, "the pass has run out"})
		return
	case silent >= goneAfter:
		c.conn.Close()
		return
	case silent >= pingAfter:
		c.out.say(kindPing, make([]byte, pingSize))
	}
	c.watchOn()
}

// watchOn has watch called after a while; no goroutine waits for that.
func (c *client) watchOn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.left {
		c.timer = time.AfterFunc(watchEvery, c.watch)
	}
}

func (c *client) watchNoMore() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = true
	if c.timer != nil {
		c.timer.Stop()
	}
}

// end closes the connection, after a word why when there is one and the client still reads. It returns when that is done, whoever does it.
func (c *client) end(err error) {
	if c.ending.Swap(true) {
		<-c.ended
		return
	}
	defer close(c.ended)
	c.out.close()
	var why *refusal
	if errors.As(err, &why) {
		c.server.config.Logger.Debug("a client is sent away", "reason", why.text)
		c.limitWrites(time.Second, true)
		_, _ = c.conn.Write(why.frame())
		c.drain() // the word may be held
	}
	c.conn.Close()
}
