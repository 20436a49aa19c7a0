package wgtun

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"picket.internal/wgtun/key"
)

// Bounds of the configuration socket, which only root reaches.
const (
	uapiTimeout     = 5 * time.Second
	uapiConnections = 8
	uapiRequest     = 64 << 10 // bytes one connection may send
)

// Error numbers of the protocol: those of Linux, whatever system this is, as other implementations do.
const (
	errnoNone     = 0
	errnoEPERM    = 1
	errnoEIO      = 5
	errnoENODEV   = 19
	errnoEPROTO   = 71
	getOperation  = "get=1"
	setOperation  = "set=1"
	uapiLineLimit = 4096
)

// ServeUAPI answers WireGuard's cross-platform configuration protocol (wireguard.com/xplatform) on l until ctx ends, then
// closes l, waits for its connections and returns nil. It answers "get" only; "set" is refused with EPERM, because peers come
// from signed maps alone. The answer to "get" holds the device's private key, as `wg` expects: l must be root's alone.
func (t *Tunnel) ServeUAPI(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	defer l.Close()
	var served sync.WaitGroup
	defer served.Wait()
	slots := make(chan struct{}, uapiConnections)
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = c.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept a configuration connection: %w", err)
		}
		select {
		case slots <- struct{}{}:
			served.Go(func() {
				defer func() { <-slots }()
				t.serveUAPIConn(ctx, c)
			})
		default:
			_ = c.Close()
		}
	}
}

// serveUAPIConn answers one connection's requests until it closes, breaks the protocol, exceeds a bound, or ctx ends.
func (t *Tunnel) serveUAPIConn(ctx context.Context, c net.Conn) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	in := bufio.NewReaderSize(io.LimitReader(c, uapiRequest), uapiLineLimit)
	for {
		_ = c.SetDeadline(time.Now().Add(uapiTimeout))
		operation, err := readUAPIRequest(in)
		if err != nil {
			return
		}
		if _, err := io.WriteString(c, t.answerUAPI(operation)); err != nil || operation == "" {
			return
		}
	}
}

// readUAPIRequest reads one request up to its blank line and returns its first line; "" for one that is none.
func readUAPIRequest(in *bufio.Reader) (operation string, err error) {
	for first := true; ; first = false {
		line, tooLong, err := in.ReadLine()
		if err != nil {
			return "", err
		}
		if tooLong {
			return "", errors.New("line too long")
		}
		switch {
		case first && (string(line) == getOperation || string(line) == setOperation):
			operation = string(line)
		case first:
			return "", nil
		case len(line) == 0:
			return operation, nil
		case operation == getOperation:
			return "", nil // a get has no lines
		}
	}
}

func (t *Tunnel) answerUAPI(operation string) string {
	switch operation {
	case setOperation:
		return uapiErrno(errnoEPERM)
	case getOperation:
	default:
		return uapiErrno(errnoEPROTO)
	}
	text, err := t.roster.describe()
	switch {
	case errors.Is(err, ErrClosed):
		return uapiErrno(errnoENODEV)
	case err != nil:
		return uapiErrno(errnoEIO)
	}
	return text + uapiErrno(errnoNone)
}

// describe is the device's own answer to "get", and in the same form the peers that are not in it. The error is ErrClosed when the device is
// not up.
func (r *roster) describe() (string, error) {
	r.turn.Lock()
	defer r.turn.Unlock()
	if r.engine == nil {
		return "", ErrClosed
	}
	text, err := r.engine.IpcGet()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	describeAwake(&b, text, r.peers)
	for _, m := range r.nodes {
		if m.awake == nil {
			describeAsleep(&b, m)
		}
	}
	return b.String(), nil
}

// describeAwake copies the device's lines, and adds to its counters those of each peer's earlier lives in it.
func describeAwake(b *strings.Builder, text string, peers map[key.TunnelPublic]*member) {
	var past peerCounters
	none := false // no handshake in this life
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		switch name {
		case "public_key":
			past = peerCounters{}
			if m := peers[hexToKey(value)]; m != nil {
				past = m.before()
			}
		case "last_handshake_time_sec":
			if none = value == "0"; none {
				fmt.Fprintf(b, "%s=%d\n", name, past.seconds)
				continue
			}
		case "last_handshake_time_nsec":
			if none {
				fmt.Fprintf(b, "%s=%d\n", name, past.nanoseconds)
				continue
			}
		case "tx_bytes":
			fmt.Fprintf(b, "tx_bytes=%d\n", parseCount(value)+past.tx)
			continue
		case "rx_bytes":
			fmt.Fprintf(b, "rx_bytes=%d\n", parseCount(value)+past.rx)
			continue
		}
		b.WriteString(line)
	}
}

func describeAsleep(b *strings.Builder, m *member) {
	c := m.before()
	configKey(b, m.peer.Tunnel)
	fmt.Fprintf(b, "protocol_version=1\nlast_handshake_time_sec=%d\nlast_handshake_time_nsec=%d\ntx_bytes=%d\nrx_bytes=%d\npersistent_keepalive_interval=0\n",
		c.seconds, c.nanoseconds, c.tx, c.rx)
	configPrefixes(b, "", m.prefixes())
}

func uapiErrno(n int) string { return fmt.Sprintf("errno=%d\n\n", n) }
