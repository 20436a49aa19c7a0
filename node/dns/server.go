package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
)

// Bounds on whoever asks.
const (
	maxUDP       = 256 // questions answered at one time; more are dropped, and asked again
	maxTCP       = 64  // connections
	maxQuestions = 128 // on one connection
	idleTime     = 10 * time.Second
	// minUDP is what every client takes (RFC 1035 section 4.2.1), in bytes.
	minUDP = 512
)

// server answers on one address.
type server struct {
	resolver *Resolver
	log      *slog.Logger
	udp      net.PacketConn
	tcp      net.Listener // nil where another program has that port at every address
}

// listen opens the sockets of a server; its Run closes them. Where another program has the port at every address, as dnsmasq does unless told
// otherwise, the system leaves us UDP only, which is what clients ask by; tcp is nil then.
func listen(ctx context.Context, address string, r *Resolver, logger *slog.Logger) (*server, error) {
	var lc net.ListenConfig
	udp, err := lc.ListenPacket(ctx, "udp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		if udp, err := listenBeside(ctx, address); err == nil {
			return &server{r, logger, udp, nil}, nil
		}
	}
	if err != nil {
		return nil, cannotAnswer(address, err)
	}
	tcp, err := lc.Listen(ctx, "tcp", udp.LocalAddr().String())
	if err != nil {
		udp.Close()
		return nil, cannotAnswer(address, err)
	}
	return &server{r, logger, udp, tcp}, nil
}

func cannotAnswer(address string, err error) error {
	return fmt.Errorf("the resolver cannot answer on %s: another program does, another agent perhaps (one that answers at every address must leave this one out: "+
		"bind-dynamic in /etc/dnsmasq.conf): %w", address, err)
}

// Run answers until ctx ends, then closes the sockets and waits for whoever is being answered; nil on cancellation.
func (s *server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { s.close() })
	defer stop()
	g.Go(func() error { return s.runUDP(ctx) })
	if s.tcp != nil {
		g.Go(func() error { return s.runTCP(ctx) })
	}
	return g.Wait()
}

func (s *server) close() {
	s.udp.Close()
	if s.tcp != nil {
		s.tcp.Close()
	}
}

func (s *server) runUDP(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, maxUDP)
	buffer := make([]byte, 64<<10)
	for {
		n, from, err := s.udp.ReadFrom(buffer)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("the resolver's socket was closed: %w", err)
			}
			continue // of an earlier datagram: an ICMP error
		}
		select {
		case slots <- struct{}{}:
		default:
			continue
		}
		packet := append([]byte(nil), buffer[:n]...)
		running.Go(func() {
			defer func() { <-slots }()
			if answer := s.answer(ctx, packet, true); answer != nil {
				_, _ = s.udp.WriteTo(answer, from) // whoever asked is gone
			}
		})
	}
}

func (s *server) runTCP(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, maxTCP)
	for {
		c, err := s.tcp.Accept()
		if ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("the resolver's socket was closed: %w", err)
		}
		if err != nil { // out of descriptors, say
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			c.Close()
			continue
		}
		running.Go(func() {
			defer func() { <-slots }()
			s.converse(ctx, c)
		})
	}
}

// converse answers what one connection asks, in order.
func (s *server) converse(ctx context.Context, raw net.Conn) {
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	c := mdns.Conn{Conn: raw}
	for range maxQuestions {
		raw.SetDeadline(time.Now().Add(idleTime))
		packet, err := c.ReadMsgHeader(nil)
		if err != nil {
			return
		}
		answer := s.answer(ctx, packet, false)
		if answer == nil {
			return
		}
		raw.SetDeadline(time.Now().Add(idleTime))
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// answer turns a packet into the one to send back; nil for what deserves none, because it is no question.
func (s *server) answer(ctx context.Context, packet []byte, udp bool) []byte {
	if len(packet) < 12 || packet[2]&0x80 != 0 { // QR: an answer to an answer could go round for ever
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	q, out := new(mdns.Msg), new(mdns.Msg)
	if err := q.Unpack(packet); err != nil {
		out.Id, out.Response, out.Rcode = uint16(packet[0])<<8|uint16(packet[1]), true, mdns.RcodeFormatError
	} else {
		out = s.resolver.Exchange(ctx, q).Msg
	}
	if udp {
		size := minUDP
		if opt := q.IsEdns0(); opt != nil {
			size = min(max(int(opt.UDPSize()), minUDP), ednsSize)
		}
		out.Truncate(size)
	} else {
		out.Truncate(mdns.MaxMsgSize)
	}
	packed, err := out.Pack()
	if err != nil {
		failed := new(mdns.Msg)
		failed.SetRcode(q, mdns.RcodeServerFailure)
		packed, _ = failed.Pack() // of a question that was unpacked
	}
	return packed
}

// Exchange answers a question as it came off the wire.
func (r *Resolver) Exchange(ctx context.Context, q *mdns.Msg) Answer {
	a := r.exchange(ctx, q)
	out := a.Msg
	out.Id, out.Response, out.Opcode = q.Id, true, q.Opcode
	out.RecursionDesired, out.RecursionAvailable, out.CheckingDisabled = q.RecursionDesired, true, q.CheckingDisabled
	out.Question = q.Question
	if opt := q.IsEdns0(); opt != nil {
		out.SetEdns0(ednsSize, opt.Do())
		if opt.Version() != 0 {
			out.Rcode, out.Answer, out.Ns = mdns.RcodeBadVers, nil, nil
		}
	}
	return a
}

func (r *Resolver) exchange(ctx context.Context, q *mdns.Msg) Answer {
	switch {
	case q.Opcode != mdns.OpcodeQuery:
		return Answer{failure(mdns.RcodeNotImplemented), "this node"}
	case len(q.Question) != 1:
		return Answer{failure(mdns.RcodeFormatError), "this node"}
	}
	ask := q.Question[0]
	switch ask.Qtype {
	case mdns.TypeAXFR, mdns.TypeIXFR, mdns.TypeMAILA, mdns.TypeMAILB, mdns.TypeOPT, mdns.TypeTSIG, mdns.TypeTKEY, mdns.TypeNone:
		return Answer{failure(mdns.RcodeRefused), "this node"}
	}
	if ask.Qclass != mdns.ClassINET {
		return Answer{failure(mdns.RcodeRefused), "this node"}
	}
	opt := q.IsEdns0()
	a := r.resolve(ctx, question{name: canonical(ask.Name), qtype: ask.Qtype, do: opt != nil && opt.Do(), cd: q.CheckingDisabled})
	a.Msg.Zero = false
	for _, rr := range a.Msg.Answer { // the name as it was asked, capitals included: clients may look at them
		if h := rr.Header(); h.Name != ask.Name && canonical(h.Name) == canonical(ask.Name) {
			h.Name = ask.Name
		}
	}
	return a
}
