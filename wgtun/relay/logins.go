package relay

import (
	"container/list"
	"net"
	"sync"
	"time"
)

// Bounds of logins under way. When there are more, the oldest is ended: an honest one takes a round trip or two, and a stranger who wants to keep all
// others out has to come anew faster than that, instead of merely holding places.
const (
	maxLogins     = 512
	maxLoginBytes = 16 << 20 // that they have sent, together
)

// logins are the connections that have proved nothing yet. All methods are safe for concurrent use.
type logins struct {
	mu    sync.Mutex
	order list.List // of *login, oldest first
	bytes int
}

// login is one connection.
type login struct {
	all   *logins
	conn  net.Conn
	place *list.Element // nil once it is over
	bytes int
}

// enter counts a connection; leave must be called when its login is over.
func (l *logins) enter(conn net.Conn) *login {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.order.Len() >= maxLogins {
		l.end(l.oldest())
	}
	x := &login{all: l, conn: conn}
	x.place = l.order.PushBack(x)
	return x
}

// more counts n bytes that the connection is about to send.
func (x *login) more(n int) {
	l := x.all
	l.mu.Lock()
	defer l.mu.Unlock()
	if x.place == nil {
		return
	}
	x.bytes += n
	l.bytes += n
	for l.bytes > maxLoginBytes && l.oldest() != x {
		l.end(l.oldest())
	}
}

func (x *login) leave() {
	x.all.mu.Lock()
	defer x.all.mu.Unlock()
	x.all.remove(x)
}

// endAll ends all that are under way.
func (l *logins) endAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.order.Len() > 0 {
		l.end(l.oldest())
	}
}

func (l *logins) oldest() *login { return l.order.Front().Value.(*login) }

func (l *logins) remove(x *login) {
	if x.place != nil {
		l.order.Remove(x.place)
		l.bytes -= x.bytes
		x.place = nil
	}
}

// end has whoever reads from the connection give up. Closing it might wait for the other side.
func (l *logins) end(x *login) {
	l.remove(x)
	_ = x.conn.SetDeadline(time.Unix(1, 0))
}
