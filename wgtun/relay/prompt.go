package relay

import (
	"errors"
	"net"
	"sync"
	"syscall"
)

// maxHeld bounds what a Prompt holds, in bytes: one batch, and what TLS and WebSocket say of their own accord meanwhile.
const maxHeld = 64 << 10

var errHeld = errors.New("the other end takes nothing, and more is held for it than may be")

// Prompt is a TCP connection whose Write, after begin, waits for nobody: what the network does not take at once is held, and goes out with drain. So
// whoever has something for a client can write it himself, through TLS and what else is above, where a goroutine would have to be woken for it.
type Prompt struct {
	net.Conn
	raw  syscall.RawConn
	idle func() // called by Read before it may wait; nil for nothing. Owned by whoever reads

	mu       sync.Mutex
	behind   func() // called when something begins to be held; nil before begin
	held     []byte
	draining bool
	broken   error // nothing may follow the gap: a drain failed, or a piece was taken in part
	trying   []byte
	tried    int
	failed   error
	try      func(fd uintptr) bool // writeOnce, made once
}

// PromptListener has what a TCP listener accepts be a Prompt, where the system can write without waiting. Make it the innermost listener, below TLS.
func PromptListener(l net.Listener) net.Listener { return promptListener{l} }

type promptListener struct{ net.Listener }

func (l promptListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newPrompt(c), nil
}

// newPrompt returns a Prompt around c, or c where that cannot be.
func newPrompt(c net.Conn) net.Conn {
	t, ok := c.(*net.TCPConn)
	if !ok || !canTry {
		return c
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return c
	}
	p := &Prompt{Conn: c, raw: raw}
	p.try = p.writeOnce
	return p
}

// promptOf finds the Prompt below a connection that tells what is below it, as TLS does; nil if there is none.
func promptOf(c net.Conn) *Prompt {
	for {
		switch below := c.(type) {
		case *Prompt:
			return below
		case interface{ NetConn() net.Conn }:
			c = below.NetConn()
		default:
			return nil
		}
	}
}

// begin has Write wait for nobody from now on. behind is called, under a lock, when something has to be held; it must not block.
func (p *Prompt) begin(behind func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.behind = behind
}

// Read reads, after a call of idle: so what layers above still have of earlier reads is known to be used up.
func (p *Prompt) Read(b []byte) (int, error) {
	if p.idle != nil {
		p.idle()
	}
	return p.Conn.Read(b)
}

// Write writes, or holds, all of b, or fails when too much is held already.
func (p *Prompt) Write(b []byte) (int, error) {
	p.mu.Lock()
	if p.behind == nil {
		p.mu.Unlock()
		return p.Conn.Write(b)
	}
	defer p.mu.Unlock()
	if p.broken != nil {
		return 0, p.broken
	}
	n := 0
	if !p.isBehind() {
		p.trying, p.tried, p.failed = b, 0, nil
		err := p.raw.Write(p.try)
		p.trying, n = nil, p.tried
		if err = errors.Join(err, p.failed); err != nil {
			return n, err
		}
	}
	rest := b[n:]
	switch {
	case len(rest) == 0:
		return len(b), nil
	case len(p.held)+len(rest) > maxHeld:
		if n > 0 {
			p.broken = errHeld
		}
		return n, errHeld
	case !p.isBehind():
		p.behind()
	}
	p.held = append(p.held, rest...)
	return len(b), nil
}

// writeOnce writes of p.trying what the network takes at once.
func (p *Prompt) writeOnce(fd uintptr) bool {
	p.tried, p.failed = writeNow(fd, p.trying)
	return true // never wait
}

func (p *Prompt) isBehind() bool { return p.draining || len(p.held) > 0 }

// Behind reports whether something is held, so that what is written now would wait behind it.
func (p *Prompt) Behind() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.isBehind()
}

// drain writes what is held, and waits for that; one call at a time.
func (p *Prompt) drain() error {
	for {
		p.mu.Lock()
		out, err := p.held, p.broken
		p.held, p.draining = nil, len(out) > 0
		p.mu.Unlock()
		if err != nil || len(out) == 0 {
			return err
		}
		if _, err := p.Conn.Write(out); err != nil {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.broken = err
			return err
		}
	}
}
