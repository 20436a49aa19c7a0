package opsocket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"time"

	"picket.internal/coordinator"
)

// ErrInUse is wrapped when another process answers on the socket.
var ErrInUse = errors.New("another coordinator answers there")

// Listen opens the socket with mode 0600, in place of one that nobody answers on any more. ErrInUse when somebody does.
func Listen(path string) (net.Listener, error) {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("operator socket %s: %w", path, ErrInUse)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("operator socket %s: something that is no socket has that name: move it away", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("operator socket %s: remove the old one: %w", path, err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("operator socket: %w", err)
	}
	// The directory is the coordinator's, mode 0700: nobody else reaches the socket between bind and chmod.
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("operator socket: %w", err)
	}
	return l, nil
}

type actorKey struct{}

// actorOf returns the operator behind a connection that peerAllowed let in.
func actorOf(ctx context.Context) (coordinator.Actor, bool) {
	a, ok := ctx.Value(actorKey{}).(coordinator.Actor)
	return a, ok
}

// Serve answers on l until ctx ends.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      maxAwait + 10*time.Second,
		MaxHeaderBytes:    8 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			uid, err := peerUID(c)
			if err != nil || !peerAllowed(uid) {
				return ctx // without an actor: every call is refused with a sentence
			}
			return context.WithValue(ctx, actorKey{}, coordinator.Actor{Kind: coordinator.ActorOperator, Name: fmt.Sprintf("uid %d", uid)})
		},
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve operator socket: %w", err)
	}
	return nil
}

// peerAllowed lets in root and the user this process runs as.
func peerAllowed(uid int) bool { return uid == 0 || uid == os.Geteuid() }
