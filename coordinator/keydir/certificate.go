package keydir

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

const (
	caFile   = "ca.crt"
	certFile = "tls.crt"
	keyFile  = "tls.key"

	// caLife outlives any coordinator key that is rotated as it should be.
	caLife = 20 * 365 * 24 * time.Hour
	// leafLife is short enough for browsers, which accept at most 398 days.
	leafLife  = 397 * 24 * time.Hour
	leafRenew = 60 * 24 * time.Hour // before its end
	// backdate lets clients whose clock is a little behind accept a certificate at once.
	backdate = time.Hour
)

// Certificates hands out the coordinator's own TLS certificate: a leaf signed by an authority whose key is the coordinator key.
// Nodes therefore need nothing but that key's fingerprint to know that they talk to their coordinator.
type Certificates struct {
	dir   *Dir
	hosts []string
	mu    sync.Mutex
	now   *tls.Certificate
}

// Certificates makes, or reads, authority and leaf for hosts (names and addresses).
func (d *Dir) Certificates(hosts []string) (*Certificates, error) {
	c := &Certificates{dir: d, hosts: hosts}
	_, err := c.Get(nil)
	return c, err
}

// Get is for tls.Config.GetCertificate; it renews the leaf when it nears its end.
func (c *Certificates) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == nil {
		c.now = c.read()
	}
	if c.now != nil && c.fresh(c.now.Leaf) {
		return c.now, nil
	}
	cert, err := c.make()
	if err != nil {
		return nil, fmt.Errorf("make the certificate for HTTPS: %w", err)
	}
	c.now = cert
	return cert, nil
}

func (c *Certificates) fresh(leaf *x509.Certificate) bool {
	if time.Until(leaf.NotAfter) < leafRenew || time.Now().Before(leaf.NotBefore) {
		return false
	}
	return !slices.ContainsFunc(c.hosts, func(h string) bool { return leaf.VerifyHostname(h) != nil })
}

// read returns what is on disk when it is whole and of this authority; nil has a new one made.
func (c *Certificates) read() *tls.Certificate {
	ca, err := c.authority()
	if err != nil {
		return nil
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(c.dir.Path, certFile), filepath.Join(c.dir.Path, keyFile))
	if err != nil || cert.Leaf.CheckSignatureFrom(ca) != nil {
		return nil
	}
	cert.Certificate = [][]byte{cert.Leaf.Raw, ca.Raw}
	return &cert
}

// authority returns the certificate of the coordinator key, making it once.
func (c *Certificates) authority() (*x509.Certificate, error) {
	path := filepath.Join(c.dir.Path, caFile)
	signer := c.dir.Key.X509()
	if text, err := os.ReadFile(path); err == nil {
		if block, _ := pem.Decode(text); block != nil {
			ca, err := x509.ParseCertificate(block.Bytes)
			if err == nil && ca.CheckSignature(ca.SignatureAlgorithm, ca.RawTBSCertificate, ca.Signature) == nil && publicIs(ca, signer.Public()) {
				return ca, nil
			}
		}
	}
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "Picket coordinator " + string(c.dir.Network)},
		NotBefore:             time.Now().Add(-backdate),
		NotAfter:              time.Now().Add(caLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		return nil, err
	}
	if err := writePEM(path, "CERTIFICATE", der); err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func publicIs(cert *x509.Certificate, k crypto.PublicKey) bool {
	p, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return ok && p.Equal(k)
}

// make signs a new leaf and writes key before certificate, so that a crash between leaves a pair that does not match and is made anew.
func (c *Certificates) make() (*tls.Certificate, error) {
	ca, err := c.authority()
	if err != nil {
		return nil, err
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: "Picket coordinator"},
		NotBefore:    time.Now().Add(-backdate),
		NotAfter:     time.Now().Add(leafLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range c.hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, private.Public(), c.dir.Key.X509())
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(
		writePEM(filepath.Join(c.dir.Path, keyFile), "PRIVATE KEY", pkcs8),
		writePEM(filepath.Join(c.dir.Path, certFile), "CERTIFICATE", der),
	); err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	return &tls.Certificate{Certificate: [][]byte{der, ca.Raw}, PrivateKey: private, Leaf: leaf}, err
}

func writePEM(path, kind string, der []byte) error {
	return writeAtomic(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// serial is 127 random bits: positive, and well over the 64 that RFC 5280 section 4.1.2.2 and browsers ask for.
func serial() *big.Int {
	b := random(16)
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}
