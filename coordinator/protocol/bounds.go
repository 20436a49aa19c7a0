package protocol

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"picket.internal/acl"
)

// Bounds on single fields. They are generous: they protect memory, not meaning.
const (
	nonceSize     = 32
	minNonce      = 16 // of InfoBody.Client
	digestSize    = 32
	signatureSize = 64
	maxText       = 1024 // hostnames, messages, codes, URLs: anything people write or read
	maxCiphertext = 4096 // signed bodies of Info and Enrol
	maxHints      = 20_000
)

// checker is a body that bounds what it holds; DecodeFrame and Unmarshal call it.
type checker interface{ check() error }

// first returns the first error.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func sized(name string, b []byte, min, max int) error {
	if len(b) < min || len(b) > max {
		return fmt.Errorf("%s has %d bytes", name, len(b))
	}
	return nil
}

func texts(max int, s ...string) error {
	for _, s := range s {
		if len(s) > max {
			return fmt.Errorf("a text of %d bytes, at most %d are read", len(s), max)
		}
	}
	return nil
}

func (h *Hello) check() error {
	digest := sized("digest", h.Digest, digestSize, digestSize)
	if h.Generation == 0 {
		digest = sized("digest", h.Digest, 0, 0)
	}
	if h.Device.IsZero() {
		return fmt.Errorf("no device key")
	}
	return first(sized("nonce", h.Nonce, nonceSize, nonceSize), digest, CheckNodeID(h.Node))
}

func (c *Challenge) check() error {
	return first(sized("nonce", c.Nonce, nonceSize, nonceSize), sized("signature", c.Signature, signatureSize, signatureSize),
		CheckNetworkID(c.Network), sane(c.Time))
}

func (p *Proof) check() error {
	return first(sized("signature", p.Signature, signatureSize, signatureSize), p.Report.check())
}

func (r *Report) check() error {
	return first(r.Facts.check(), sized("certificate", r.Certificate, 1, maxCertificate), sized("next certificate", r.Next, 0, maxCertificate),
		endpoints(r.Endpoints), checkRoutes(r.Routes), relayName(r.Relay))
}

func (f *Facts) check() error { return texts(maxText, f.Hostname, f.OS, f.Arch, f.Version) }

func (r *Receipt) check() error {
	if r.Generation == 0 || r.Applied < 0 || r.Cut < 0 {
		return fmt.Errorf("a number out of range")
	}
	return first(sized("digest", r.Digest, digestSize, digestSize), sized("signature", r.Signature, signatureSize, signatureSize))
}

func (e *Evidence) check() error { return first(CheckNodeID(e.Peer), texts(maxText, e.Kind, e.Flow)) }

func (a *AskFlows) check() error {
	if a.Ask == 0 || a.Max < 1 || a.Max > MaxFlows {
		return errors.New("a number out of range")
	}
	return nil
}

func (f *Flows) check() error {
	if f.Ask == 0 || f.Total > MaxLiveFlows || len(f.Flows) > MaxFlows {
		return errors.New("a number out of range")
	}
	listed := uint64(0)
	for _, c := range f.Flows {
		if err := c.check(); err != nil {
			return err
		}
		listed += c.Count // of at most MaxLiveFlows each: no overflow
	}
	if listed > f.Total || listed < f.Total && !f.Truncated {
		return fmt.Errorf("%d flows in the list of %d", listed, f.Total)
	}
	return nil
}

func (c *FlowCount) check() error {
	if c.Count == 0 || c.Count > MaxLiveFlows {
		return errors.New("a count out of range")
	}
	if c.Local.Is4() != c.Remote.Is4() || c.Port != 0 && !c.Proto.HasPorts() {
		return errors.New("a flow between two families, or to a port that its protocol has not")
	}
	return first(CheckNodeID(c.Peer), CheckAddr(c.Local), CheckAddr(c.Remote))
}

func (p *Problem) check() error {
	return first(texts(maxText, p.Code, p.Message), checkDiagnostics(p.Errors))
}

func (l *Live) check() error { return sane(l.Time) }

func (h *Hints) check() error {
	if len(h.Hints) > maxHints {
		return fmt.Errorf("%d hints", len(h.Hints))
	}
	if len(h.Check) > MaxRelays {
		return fmt.Errorf("%d relays to check", len(h.Check))
	}
	for _, name := range h.Check {
		if err := CheckName(name); err != nil {
			return err
		}
	}
	for _, h := range h.Hints {
		if err := first(CheckNodeID(h.Node), endpoints(h.Endpoints), relayName(h.Relay)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Seek) check() error { return CheckNodeID(s.Node) }

func (s *Sought) check() error { return first(CheckNodeID(s.Node), endpoints(s.Endpoints)) }

func (p *RelayPass) check() error { return sized("pass", p.Pass, 1, MaxRelayPass) }

func (m *Map) check() error {
	return first(sized("header", m.Header, 1, maxHeader), sized("signature", m.Signature, signatureSize, signatureSize))
}

func (i *Info) check() error {
	return first(sized("body", i.Body, 1, maxCiphertext), sized("signature", i.Signature, signatureSize, signatureSize))
}

func (e *Enrol) check() error {
	return first(sized("body", e.Body, 1, MaxEnrolBody), sized("signature", e.Signature, signatureSize, signatureSize))
}

func (w *Wait) check() error { return texts(maxText, w.Ticket, w.Secret) }

func (a *EnrolAnswer) check() error {
	if (a.Admitted == nil) == (a.Ticket == nil) {
		return fmt.Errorf("an answer to enrolment has either an admission or a ticket")
	}
	if a.Ticket == nil {
		return a.Admitted.check()
	}
	for _, s := range []string{a.Ticket.ID, a.Ticket.Secret, a.Ticket.URL, a.Ticket.Code} {
		if s == "" || Printable(s) != s {
			return errors.New("a ticket with a text that is missing or cannot be shown")
		}
	}
	if !strings.HasPrefix(a.Ticket.URL, "https://") {
		return errors.New("a login page that is not https")
	}
	return sane(a.Ticket.Expires)
}

func (w *WaitAnswer) check() error {
	if (w.State == TicketApproved) != (w.Admitted != nil) {
		return fmt.Errorf("an approved ticket comes with an admission, and no other does")
	}
	if w.Admitted != nil {
		return w.Admitted.check()
	}
	return texts(maxText, w.State, w.Message)
}

func (a *Admission) check() error {
	if len(a.Addresses) == 0 || len(a.Addresses) > maxAddresses {
		return fmt.Errorf("%d addresses", len(a.Addresses))
	}
	for _, addr := range a.Addresses {
		if err := CheckAddr(addr); err != nil {
			return err
		}
	}
	return first(CheckNodeID(a.Node), checkLabels(a.Name, a.Owner, a.Tags), sane(a.Expires))
}

// endpoints bounds addresses of UDP ports on the outer network.
func endpoints(e []netip.AddrPort) error {
	if len(e) > MaxEndpoints {
		return fmt.Errorf("%d endpoints, at most %d are read", len(e), MaxEndpoints)
	}
	for _, ap := range e {
		if !ap.IsValid() || ap.Port() == 0 || ap.Addr().Is4In6() || ap.Addr().Zone() != "" {
			return fmt.Errorf("an endpoint that is no plain address and port")
		}
	}
	return nil
}

// CheckAddr refuses an address that is not in its one form: invalid, IPv4-mapped or zoned (R34).
func CheckAddr(a netip.Addr) error {
	if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
		return fmt.Errorf("an address that is no plain unicast one")
	}
	return nil
}

// CheckPrefix refuses a prefix that is not in its one form: invalid, IPv4-mapped, zoned, or with host bits set (R34).
func CheckPrefix(p netip.Prefix) error {
	if !p.IsValid() || p.Addr().Is4In6() || p != p.Masked() {
		return fmt.Errorf("a prefix with host bits set, or none at all")
	}
	return nil
}

// CheckNodeID refuses what is no node id: 1 to 64 bytes of [a-z0-9].
func CheckNodeID(id acl.NodeID) error {
	if len(id) == 0 || len(id) > maxNodeID || !only(string(id), lowerAlnum) {
		return fmt.Errorf("a node id that is none")
	}
	return nil
}

// CheckNetworkID refuses what is no network id: 1 to 64 bytes of [A-Za-z0-9_-].
func CheckNetworkID(id NetworkID) error {
	if len(id) == 0 || len(id) > maxNodeID || !only(string(id), urlSafe) {
		return fmt.Errorf("a network id that is none")
	}
	return nil
}

// CheckName refuses what is no DNS label in lower case (RFC 1123 section 2.1): 1 to 63 bytes of [a-z0-9-], no hyphen at either end (R20).
func CheckName(s string) error {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' || !only(s, func(c byte) bool { return lowerAlnum(c) || c == '-' }) {
		return fmt.Errorf("a name that is no DNS label")
	}
	return nil
}

func only(s string, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}

func lowerAlnum(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

func urlSafe(c byte) bool { return lowerAlnum(c) || c >= 'A' && c <= 'Z' || c == '-' || c == '_' }

// sane refuses a time that no coordinator of ours would write: it keeps later arithmetic from overflowing.
func sane(t time.Time) error {
	if y := t.UTC().Year(); y < 2000 || y > 2200 {
		return fmt.Errorf("a time out of any sane range")
	}
	return nil
}
