package coordinator

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/time/rate"

	"picket.internal/acl"
	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

// maxCertificateLife bounds what a node may sign for itself, since its address is held that long after its removal.
const maxCertificateLife = 366 * 24 * time.Hour

// budgets bound what one node can make the coordinator do, also over many sessions (one who reconnects gets no fresh one).
type budgets struct {
	mu     sync.Mutex
	byNode map[acl.NodeID]*budget
}

type budget struct {
	changes  *rate.Limiter // of its certificate or facts: each makes new maps for its peers
	evidence *rate.Limiter // audit records
	replaced *rate.Limiter // audit records
	seeks    *rate.Limiter // each has another node ping

	mu     sync.Mutex
	unsaid []unsaid // at most one a peer, oldest first
}

func (b *budgets) of(id acl.NodeID) *budget {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.byNode == nil {
		b.byNode = make(map[acl.NodeID]*budget)
	}
	if b.byNode[id] == nil {
		b.byNode[id] = &budget{
			changes:  rate.NewLimiter(rate.Every(10*time.Second), 10),
			evidence: rate.NewLimiter(rate.Every(10*time.Second), 5),
			replaced: rate.NewLimiter(rate.Every(time.Minute), 5),
			seeks:    rate.NewLimiter(5, 50),
		}
	}
	return b.byNode[id]
}

// forget forgets those of the nodes that w does not have.
func (b *budgets) forget(w *world, nodes []acl.NodeID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range nodes {
		if w.node(id) == nil {
			delete(b.byNode, id)
		}
	}
}

// keep forgets all that w does not have: one may have been asked for after its node was removed.
func (b *budgets) keep(w *world) {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.byNode, func(id acl.NodeID, _ *budget) bool { return w.node(id) == nil })
}

// Report takes new facts, certificate and endpoints. A certificate that is not signed by the node's device key, or older than the newest
// one, refuses the whole report. A report that says what is known already costs nothing and changes no map.
func (s *Session) Report(ctx context.Context, r protocol.Report) error {
	if err := s.ended(); err != nil {
		return err
	}
	return s.c.outward(ctx, s.report(ctx, r, false))
}

func (s *Session) report(ctx context.Context, r protocol.Report, opening bool) error {
	facts := cleanFacts(r.Facts)
	n, err := s.c.world.Load().NodeByID(s.node)
	if err != nil {
		return standing(s.c.world.Load().node(s.node))
	}
	if err := s.c.checkCertificate(n, r.Certificate); err != nil {
		return err
	}
	if err := s.c.checkNext(n, r.Certificate, r.Next); err != nil {
		return err
	}
	routes := s.c.routable(r.Routes)
	if n.Facts != facts || !bytes.Equal(n.Certificate, r.Certificate) || !bytes.Equal(n.Next, r.Next) || !slices.Equal(n.Routing.routes(), routes) {
		if !s.c.budgets.of(s.node).changes.Allow() {
			return refuse(protocol.CodeThrottled, "the node changes what it says of itself too often: wait a minute")
		}
		if err := s.c.saveReport(ctx, s.actor(), s.node, told{facts, r.Certificate, r.Next, routes}); err != nil {
			return err
		}
	}
	s.setPlaces(s.c.usable(r.Endpoints), s.c.knownRelay(r.Relay), opening)
	return nil
}

// setPlaces takes where the node may be found, and tells its peers when that is news.
func (s *Session) setPlaces(e []netip.AddrPort, relay string, opening bool) {
	s.mu.Lock()
	same := fmt.Sprint(s.endpoints) == fmt.Sprint(e) && s.relay == relay
	s.endpoints, s.relay = e, relay
	s.mu.Unlock()
	if !same && !opening {
		s.c.announce(s.node)
	}
}

// usable drops endpoints nobody could be reached at, or that would make peers send into the overlay itself.
func (c *Coordinator) usable(all []netip.AddrPort) []netip.AddrPort {
	var out []netip.AddrPort
	for _, e := range all {
		a := e.Addr().Unmap()
		if len(out) == protocol.MaxEndpoints {
			break
		}
		if e.Port() == 0 || protocol.CheckAddr(a) != nil || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) ||
			c.config.Overlay4.Contains(a) || c.config.Overlay6.Contains(a) {
			continue
		}
		out = append(out, netip.AddrPortFrom(a, e.Port()))
	}
	return out
}

// checkCertificate verifies a certificate under the device key of n, and that its serial rose.
func (c *Coordinator) checkCertificate(n NodeRow, signed []byte) error {
	now := c.now()
	if bytes.Equal(n.Certificate, signed) && len(signed) > 0 {
		return nil // it was verified when it was stored; peers judge its time
	}
	cert, err := key.OpenCertificate(signed, string(n.ID), n.Device, now)
	switch {
	case errors.Is(err, key.ErrCertificateTime):
		return refuse(protocol.CodeClock, "the node's key certificate does not hold now (%s): set the node's clock, and check the coordinator's", now.Format(time.DateTime))
	case err != nil:
		return refuse(protocol.CodeBadRequest, "the node's key certificate was refused: %s", err)
	case cert.NotAfter.Sub(now) > maxCertificateLife:
		return refuse(protocol.CodeBadRequest, "the node's key certificate runs for more than a year: make a shorter one")
	}
	if old, ok := newestSerial(n); ok && cert.Serial <= old {
		return refuse(protocol.CodeBadRequest, "the node's key certificate has serial %d, but %d was seen before: its state is an older copy, or in use twice; log out and join again", cert.Serial, old)
	}
	return nil
}

// checkNext verifies the certificate of a node's next tunnel key beside its present one; none is right, too.
func (c *Coordinator) checkNext(n NodeRow, present, signed []byte) error {
	if len(signed) == 0 {
		return nil
	}
	now := c.now()
	next, err := key.OpenCertificate(signed, string(n.ID), n.Device, now)
	if err != nil && !(errors.Is(err, key.ErrCertificateTime) && bytes.Equal(n.Next, signed)) {
		return refuse(protocol.CodeBadRequest, "the certificate of the node's next tunnel key was refused: %s", err)
	}
	cert, err := key.OpenCertificate(present, string(n.ID), n.Device, now)
	if err != nil && !errors.Is(err, key.ErrCertificateTime) {
		return refuse(protocol.CodeBadRequest, "the node's key certificate was refused: %s", err)
	}
	switch {
	case next.Serial <= cert.Serial:
		return refuse(protocol.CodeBadRequest, "the certificate of the node's next tunnel key has serial %d, which must be above %d", next.Serial, cert.Serial)
	case next.Tunnel == cert.Tunnel || next.Probe != cert.Probe:
		return refuse(protocol.CodeBadRequest, "the certificate of the node's next tunnel key must have another tunnel key, and the same probe key")
	case next.NotAfter.Sub(now) > maxCertificateLife:
		return refuse(protocol.CodeBadRequest, "the certificate of the node's next tunnel key runs for more than a year: make a shorter one")
	}
	return nil
}

// tunnelKey is the one in a certificate of n's, whatever its time; the zero key when there is none.
func tunnelKey(n NodeRow, signed []byte) key.TunnelPublic {
	cert, err := key.OpenCertificate(signed, string(n.ID), n.Device, n.Created)
	if err != nil && !errors.Is(err, key.ErrCertificateTime) {
		return key.TunnelPublic{}
	}
	return cert.Tunnel
}

// newestSerial is that of the certificate stored for n; false when it has none.
func newestSerial(n NodeRow) (uint64, bool) {
	cert, err := key.OpenCertificate(n.Certificate, string(n.ID), n.Device, n.Created)
	if err != nil && !errors.Is(err, key.ErrCertificateTime) {
		return 0, false
	}
	return cert.Serial, true
}

// told is what a node says of itself that is kept.
type told struct {
	facts       protocol.Facts
	certificate []byte
	next        []byte
	routes      []netip.Prefix
}

// saveReport commits what is new in t, judged once more against the row in the transaction (R4).
func (c *Coordinator) saveReport(ctx context.Context, a Actor, id acl.NodeID, t told) error {
	_, err := c.update(ctx, a, func(ch *change) error {
		n, err := ch.NodeByID(id)
		if err != nil && !errors.Is(err, ErrNoRow) {
			return err
		}
		if err != nil || !n.Removed.IsZero() {
			return refuse(protocol.CodeRemoved, "this node was removed from the network: join again with picket up")
		}
		if err := c.checkCertificate(n, t.certificate); err != nil {
			return err
		}
		if !bytes.Equal(n.Certificate, t.certificate) {
			if err := ch.keysFree(n, t.certificate); err != nil {
				return err
			}
		}
		if err := c.checkNext(n, t.certificate, t.next); err != nil {
			return err
		}
		if len(t.next) > 0 && !bytes.Equal(n.Next, t.next) {
			if err := ch.keysFree(n, t.next); err != nil {
				return err
			}
		}
		what := t.differences(n)
		if len(what) == 0 {
			return nil
		}
		if ch.raise(); len(without(n.Routing.routes(), t.routes)) > 0 {
			ch.narrow()
		}
		if !slices.Equal(n.Routing.routes(), t.routes) {
			n.Routing.advertise(t.routes, ch.Now())
		}
		if was, is := tunnelKey(n, n.Certificate), tunnelKey(n, t.certificate); !was.IsZero() && was != is {
			ch.record("node.rotate", string(id), fmt.Sprintf("tunnel key %s follows %s", is.Short(), was.Short()))
		}
		n.Facts, n.Certificate, n.Next = t.facts, t.certificate, t.next
		ch.record("node.report", string(id), strings.Join(what, "; "))
		return ch.UpdateNode(n)
	})
	return err
}

// differences says in words what of t is not in n yet.
func (t told) differences(n NodeRow) (what []string) {
	if !bytes.Equal(n.Certificate, t.certificate) {
		what = append(what, "new key certificate")
	}
	if len(t.next) > 0 && !bytes.Equal(n.Next, t.next) {
		what = append(what, "certificate of its next tunnel key")
	}
	if len(t.next) == 0 && len(n.Next) > 0 {
		what = append(what, "no next tunnel key")
	}
	if f := t.facts; n.Facts != f {
		what = append(what, fmt.Sprintf("host %q, %s/%s, picket %s", f.Hostname, f.OS, f.Arch, f.Version))
	}
	if !slices.Equal(n.Routing.routes(), t.routes) {
		what = append(what, "advertises "+cmp.Or(prefixList(t.routes), "no routes"))
	}
	return what
}

// keysFree refuses a certificate with a key that another node has: a node may sign what it likes, and peers of both could use neither.
func (ch *change) keysFree(n NodeRow, signed []byte) error {
	cert, err := key.OpenCertificate(signed, string(n.ID), n.Device, ch.Now())
	if err != nil {
		return refuse(protocol.CodeBadRequest, "the node's key certificate was refused: %s", err)
	}
	taken, err := ch.KeysTaken(n.ID, cert.Tunnel, cert.Probe)
	if err == nil && taken {
		return refuse(protocol.CodeBadRequest, "the node's key certificate has a key that is another node's: its state is a copy of that node's; remove it and join again")
	}
	return err
}

// Evidence takes what a node saw of a misbehaving peer, and writes it into the audit log: at most a few records a minute from one node,
// whose counts include what was left out.
func (s *Session) Evidence(ctx context.Context, e protocol.Evidence) error {
	if err := s.ended(); err != nil {
		return err
	}
	if e.Kind != "egress-bypass" {
		return refuse(protocol.CodeBadRequest, "the coordinator does not know this kind of evidence")
	}
	w := s.c.world.Load()
	if w.node(s.node) == nil || !s.c.mapOf(w, s.node).hasPeer(e.Peer) { // the same of strangers and of nobody (R30)
		return refuse(protocol.CodeBadRequest, "the evidence is about no peer of this node")
	}
	s.c.accused.note(e.Peer, Accusation{By: s.actor().Name, Flow: oneLine(e.Flow, 200), At: s.c.now()})
	said, ok := s.c.budgets.of(s.node).countEvidence(unsaid{e.Peer, e.Count, e.Flow})
	if !ok {
		return nil
	}
	_, err := s.c.update(ctx, s.actor(), func(ch *change) error {
		ch.record("node.evidence", string(said.peer), s.c.describeEvidence(w.node(said.peer), e.Kind, said))
		return nil
	})
	return s.c.outward(ctx, err)
}

// cleanFacts makes a host's claims fit to be shown: one line each, printable, bounded.
func cleanFacts(f protocol.Facts) protocol.Facts {
	return protocol.Facts{
		Hostname: oneLine(f.Hostname, 255), OS: oneLine(f.OS, 64), Arch: oneLine(f.Arch, 32), Version: oneLine(f.Version, 64),
	}
}

// oneLine is s without what a terminal or a log reader would act on, and at most max bytes.
func oneLine(s string, max int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == unicode.ReplacementChar || !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	for len(s) > max {
		s = s[:max]
		s = strings.ToValidUTF8(s, "")
	}
	return strings.TrimSpace(s)
}
