package dns

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	mdns "github.com/miekg/dns"

	"picket.internal/coordinator/protocol"
)

const (
	// tryTime bounds one try at one resolver; for UDP, half of it is left for TCP.
	tryTime = 2 * time.Second
	// ednsSize is what we take by UDP, in bytes: it passes nearly everywhere in one piece (DNS flag day 2020).
	ednsSize = 1232
	// maxForged bounds how many datagrams that answer something else are read for one question.
	maxForged = 32
)

// Dial opens a connection to a resolver; network is "udp" or "tcp".
type Dial func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error)

// upstream is a resolver elsewhere.
type upstream struct {
	protocol.Upstream
	text string // for people
	dial Dial
	http *http.Client // of HTTPS
	// roots are whom certificates are believed from; nil: the system's. Tests have their own.
	roots *x509.CertPool
}

func newUpstream(u protocol.Upstream, text string, dial Dial) *upstream {
	up := &upstream{Upstream: u, text: text, dial: dial}
	if u.Transport == protocol.TransportHTTPS {
		up.http = &http.Client{
			Transport: &http.Transport{
				DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, "tcp", u.Address) },
				TLSClientConfig:     up.tls(),
				ForceAttemptHTTP2:   true,
				TLSHandshakeTimeout: tryTime,
				IdleConnTimeout:     30 * time.Second, MaxConnsPerHost: 4, MaxResponseHeaderBytes: 16 << 10,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return up
}

// close ends idle connections.
func (u *upstream) close() {
	if u.http != nil {
		u.http.CloseIdleConnections()
	}
}

func (u *upstream) tls() *tls.Config {
	name := u.Name
	if name == "" {
		name = u.Address.Addr().String()
	}
	return &tls.Config{ServerName: name, RootCAs: u.roots, MinVersion: tls.VersionTLS12}
}

// errNoAnswer is of a resolver that answers nothing, or something else than was asked.
var errNoAnswer = errors.New("no answer")

// ask sends a question and returns the answer to it. q is not changed.
func (u *upstream) ask(ctx context.Context, q *mdns.Msg) (*mdns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTime)
	defer cancel()
	switch u.Transport {
	case protocol.TransportTLS:
		return u.askStream(ctx, q, func(c net.Conn) (net.Conn, error) {
			t := tls.Client(c, u.tls())
			return t, t.HandshakeContext(ctx)
		})
	case protocol.TransportHTTPS:
		return u.askHTTPS(ctx, q)
	}
	half, cancelHalf := context.WithTimeout(ctx, tryTime/2)
	defer cancelHalf()
	answer, err := u.askUDP(half, q)
	if err == nil && !answer.Truncated {
		return answer, nil
	}
	// Also where answers were lost or forged: TCP shows who answers.
	return u.askStream(ctx, q, func(c net.Conn) (net.Conn, error) { return c, nil })
}

// askUDP asks from a port of its own, with a random id and random capitals (draft-vixie-dnsext-dns0x20): who cannot see the question has
// to guess all three.
func (u *upstream) askUDP(ctx context.Context, q *mdns.Msg) (*mdns.Msg, error) {
	c, err := u.dial(ctx, "udp", u.Address)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	sent := prepared(q, true)
	packed, err := sent.Pack()
	if err != nil {
		return nil, err
	}
	if _, err := c.Write(packed); err != nil {
		return nil, err
	}
	buffer := make([]byte, 64<<10)
	for range maxForged {
		n, err := c.Read(buffer)
		if err != nil {
			return nil, errNoAnswer
		}
		got := new(mdns.Msg)
		if got.Unpack(buffer[:n]) != nil || !answers(got, sent) {
			continue
		}
		if got.Question[0].Name != sent.Question[0].Name {
			return nil, errNoAnswer // forged, or of a resolver that keeps no capitals: TCP tells
		}
		return got, nil
	}
	return nil, errNoAnswer
}

func (u *upstream) askStream(ctx context.Context, q *mdns.Msg, secure func(net.Conn) (net.Conn, error)) (*mdns.Msg, error) {
	raw, err := u.dial(ctx, "tcp", u.Address)
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	c, err := secure(raw)
	if err != nil {
		return nil, err
	}
	sent, conn := prepared(q, false), mdns.Conn{Conn: c}
	if err := conn.WriteMsg(sent); err != nil {
		return nil, err
	}
	got, err := conn.ReadMsg()
	if err != nil {
		return nil, errNoAnswer
	}
	if !answers(got, sent) {
		return nil, errNoAnswer
	}
	return got, nil
}

// askHTTPS asks by POST, with id 0 as RFC 8484 section 4.1 wants it.
func (u *upstream) askHTTPS(ctx context.Context, q *mdns.Msg) (*mdns.Msg, error) {
	sent := prepared(q, false)
	sent.Id = 0
	packed, err := sent.Pack()
	if err != nil {
		return nil, err
	}
	const form = "application/dns-message"
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u.url(), bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", form)
	r.Header.Set("Accept", form)
	answer, err := u.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != form {
		return nil, fmt.Errorf("it answered with %s and %.60q", answer.Status, answer.Header.Get("Content-Type"))
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, mdns.MaxMsgSize+1))
	got := new(mdns.Msg)
	if err != nil || len(body) > mdns.MaxMsgSize || got.Unpack(body) != nil || !answers(got, sent) {
		return nil, errNoAnswer
	}
	return got, nil
}

// url names the host by its name, as the certificate does; the connection goes to the address.
func (u *upstream) url() string {
	host := u.Name
	if host == "" {
		host = u.Address.Addr().String()
	}
	return "https://" + net.JoinHostPort(host, fmt.Sprint(u.Address.Port())) + u.Path
}

// prepared is a copy of q to be sent: a fresh id, and on demand the letters of the name in random capitals.
func prepared(q *mdns.Msg, capitals bool) *mdns.Msg {
	sent := q.Copy()
	sent.Id = mdns.Id()
	if capitals {
		sent.Question[0].Name = randomCase(sent.Question[0].Name)
	}
	return sent
}

func randomCase(name string) string {
	b, coins := []byte(name), make([]byte, len(name))
	rand.Read(coins) // never fails
	for i, c := range b {
		if c >= 'a' && c <= 'z' && coins[i]&1 == 1 {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}

// answers reports whether got answers sent: the same id, and the question it repeats is the one that was asked.
func answers(got, sent *mdns.Msg) bool {
	if got.Id != sent.Id || !got.Response || got.Opcode != mdns.OpcodeQuery || len(got.Question) != 1 {
		return false
	}
	g, s := got.Question[0], sent.Question[0]
	return g.Qtype == s.Qtype && g.Qclass == s.Qclass && strings.EqualFold(g.Name, s.Name)
}
