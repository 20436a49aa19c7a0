package proxy

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// Join copies both ways until both have ended, one has failed, or ctx ends, and closes both. The end of one direction is passed on and does not
// end the other; a failure is passed on as a reset, so that nobody takes a cut connection for a finished one. err is the first failure, ctx's
// cause among them; passed counts from near's side.
func Join(ctx context.Context, near, far net.Conn) (passed Bytes, err error) {
	j := joint{near: near, far: far}
	stop := context.AfterFunc(ctx, func() { j.fail(context.Cause(ctx)) })
	defer stop()
	defer far.Close()
	defer near.Close()
	var both sync.WaitGroup
	both.Go(func() { passed.Sent = j.pass(far, near) })
	both.Go(func() { passed.Received = j.pass(near, far) })
	both.Wait()
	if failed := j.failed.Load(); failed != nil {
		err = *failed
	}
	return passed, err
}

// joint is two connections that are one.
type joint struct {
	near, far net.Conn
	failed    atomic.Pointer[error]
}

func (j *joint) fail(err error) {
	if j.failed.CompareAndSwap(nil, &err) {
		Reset(j.near)
		Reset(j.far)
	}
}

func (j *joint) pass(to, from net.Conn) uint64 {
	n, err := io.Copy(to, from)
	if err == nil {
		err = closeWrite(to)
	}
	if err != nil {
		j.fail(err)
	}
	return uint64(n)
}

// closeWrite passes on the end of what is written; a connection that cannot end one way ends both.
func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// Reset closes a connection such that its other end reads an error and no end, where it can.
func Reset(c net.Conn) {
	if tcp, ok := c.(interface{ SetLinger(seconds int) error }); ok {
		_ = tcp.SetLinger(0)
	}
	c.Close()
}
