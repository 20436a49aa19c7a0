package control

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"picket.internal/wgtun/key"
)

// verify judges a TLS connection's certificates at time now. lenient takes a certificate of the pinned key that is too early or too
// late; it is for asking the time, and nothing but Info goes over such a connection.
func (c *Client) verify(cs tls.ConnectionState, now time.Time, lenient bool) error {
	certs := cs.PeerCertificates
	if len(certs) == 0 {
		return &Error{Kind: ErrUntrusted, Message: "the coordinator at " + c.join.URL + " showed no certificate"}
	}
	pinErr := c.verifyPinned(certs, now, lenient)
	if pinErr == nil || lenient {
		return pinErr
	}
	host := c.host
	if cs.ServerName != "" {
		host = cs.ServerName // of an HTTPS proxy, when one stands between; ours otherwise, unless it is an address
	}
	_, sysErr := certs[0].Verify(x509.VerifyOptions{DNSName: host, Roots: c.roots, Intermediates: pool(certs[1:]), CurrentTime: now})
	if sysErr == nil {
		return nil
	}
	return c.untrusted(certs, pinErr, sysErr, now)
}

// errNoPin is verifyPinned's answer when no certificate carries the pinned key.
var errNoPin = errors.New("no certificate of the coordinator's key")

// timeError is verifyPinned's answer when only the time of day stands against a chain.
type timeError struct{ notBefore, notAfter, now time.Time }

func (e *timeError) Error() string {
	return fmt.Sprintf("valid from %s to %s, and this machine's clock says %s", stamp(e.notBefore), stamp(e.notAfter), stamp(e.now))
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// verifyPinned checks that the leaf chains to a certificate whose own key is the pinned one. The host's name does not matter: the key
// is the identity. That such a certificate is merely among those shown proves nothing, it is public (R2).
func (c *Client) verifyPinned(certs []*x509.Certificate, now time.Time, lenient bool) error {
	err := errNoPin
	for _, ca := range certs {
		print, ok := fingerprintOf(ca)
		if c.pin.IsZero() || !ok || !print.Equal(c.pin) {
			continue
		}
		if err = chain(certs, ca, now); err == nil {
			return nil
		}
		if within := clamp(now, certs[0], ca); !within.Equal(now) && chain(certs, ca, within) == nil {
			if lenient {
				return nil
			}
			return &timeError{later(certs[0].NotBefore, ca.NotBefore), earlier(certs[0].NotAfter, ca.NotAfter), now}
		}
	}
	return err
}

func chain(certs []*x509.Certificate, ca *x509.Certificate, at time.Time) error {
	_, err := certs[0].Verify(x509.VerifyOptions{Roots: pool([]*x509.Certificate{ca}), Intermediates: pool(certs[1:]), CurrentTime: at})
	return err
}

// clamp moves t into the time when both certificates hold.
func clamp(t time.Time, a, b *x509.Certificate) time.Time {
	if from := later(a.NotBefore, b.NotBefore); t.Before(from) {
		return from
	}
	if to := earlier(a.NotAfter, b.NotAfter); t.After(to) {
		return to
	}
	return t
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func pool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}

// fingerprintOf is that of an authority's Ed25519 key, as a coordinator's is.
func fingerprintOf(cert *x509.Certificate) (key.Fingerprint, bool) {
	k, ok := cert.PublicKey.(ed25519.PublicKey)
	if !ok || !cert.IsCA || len(k) != key.Size {
		return key.Fingerprint{}, false
	}
	return key.CoordinatorPublic(k).Fingerprint(), true
}

// untrusted puts a refused chain into words: what is wrong, and what to do.
func (c *Client) untrusted(certs []*x509.Certificate, pinErr, sysErr error, now time.Time) error {
	var early *timeError
	if errors.As(pinErr, &early) {
		return &Error{Kind: ErrUntrusted, Err: pinErr, Message: "the certificate of the coordinator at " + c.join.URL + " is " + early.Error() + ": set this machine's clock if it is wrong, else the coordinator needs a new certificate"}
	}
	if pinErr != errNoPin {
		return &Error{Kind: ErrUntrusted, Message: "the server at " + c.join.URL + " shows the coordinator's certificate but is not the coordinator: do not join, and tell its operator"}
	}
	var invalid x509.CertificateInvalidError
	if errors.As(sysErr, &invalid) && invalid.Reason == x509.Expired {
		e := timeError{certs[0].NotBefore, certs[0].NotAfter, now}
		return &Error{Kind: ErrUntrusted, Message: "the certificate at " + c.join.URL + " is " + e.Error() + ": set this machine's clock if it is wrong, else the coordinator needs a new certificate"}
	}
	if c.pin.IsZero() {
		return &Error{Kind: ErrUntrusted, Message: "the certificate at " + c.join.URL + " is not trusted by this system (" + sysErr.Error() +
			"): use the whole join string that the coordinator prints when it starts, " + c.join.URL + "#FINGERPRINT"}
	}
	for _, cert := range certs {
		if print, ok := fingerprintOf(cert); ok {
			return c.wrongKey(print)
		}
	}
	return &Error{Kind: ErrUntrusted, Message: "the certificate at " + c.join.URL + " is neither of the coordinator's key " + c.pin.String() +
		" nor trusted by this system (" + sysErr.Error() + "): is something else answering there, or a proxy looking into the connection?"}
}

// wrongKey says that the coordinator has the key got instead of the pinned one.
func (c *Client) wrongKey(got key.Fingerprint) error {
	if c.pinned {
		return &Error{Kind: ErrWrongKey, Message: "the coordinator at " + c.join.URL + " has key " + got.String() + ", but this node is enrolled with key " + c.pin.String() +
			": either it was set up anew or somebody stands between; ask its operator, and if it is a new one run `picket logout` and join again"}
	}
	return &Error{Kind: ErrWrongKey, Message: "the coordinator at " + c.join.URL + " has key " + got.String() + ", the join string says " + c.pin.String() +
		": ask its operator for the right join string, and do not join if nobody can explain the difference"}
}

// explain replaces a certificate's wrong time by what the coordinator's signed time says of this machine's clock, when it can be asked.
func (c *Client) explain(ctx context.Context, err error) error {
	var early *timeError
	if !errors.As(err, &early) {
		return err
	}
	b, askErr := c.askInfo(ctx, c.lenient)
	if askErr != nil {
		return err
	}
	if off := clockError(time.Now(), b.Time); off != nil {
		return off
	}
	return &Error{Kind: ErrUntrusted, Err: err, Message: "the certificate of the coordinator at " + c.join.URL + " is " + early.Error() +
		", which agrees with the coordinator's: its operator must give it a new certificate"}
}
