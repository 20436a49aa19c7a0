package protocol

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Bounds on DNS, so that each fits into one entry and a node's table of names stays small.
const (
	MaxNameservers = 8
	MaxSplits      = 64
	MaxSearch      = 6
	MaxRecords     = 1000
)

// DNS is the entry "dns": what operators say about names besides those of nodes. The zero DNS says nothing. A viewer is told of no record
// and no nameserver at an overlay address that is neither its own nor a peer's.
type DNS struct {
	Nameservers []Nameserver `json:"nameservers,omitempty"` // for all names that nothing else is said of; none: the host's own
	Split       []Split      `json:"split,omitempty"`       // at most one a domain
	Search      []string     `json:"search,omitempty"`      // tried for short names, after the network's own domain
	Records     []Record     `json:"records,omitempty"`
}

// IsZero reports that nothing is said.
func (d *DNS) IsZero() bool {
	return len(d.Nameservers)+len(d.Split)+len(d.Search)+len(d.Records) == 0
}

// Split says who answers for Domain and all below it. Without nameservers nobody does: such names go to no others.
type Split struct {
	Domain      string       `json:"domain"`
	Nameservers []Nameserver `json:"nameservers"`
}

// Record is a name with either addresses or another name that it stands for (CNAME, RFC 1034 section 3.6.2).
type Record struct {
	Name      string       `json:"name"` // whole, in lower case, without a dot at the end
	Addresses []netip.Addr `json:"addresses,omitempty"`
	CNAME     string       `json:"cname,omitempty"`
}

// Nameserver is how to reach a resolver:
//
//	192.0.2.1, 192.0.2.1:5353, [2001:db8::1]:53     plain, UDP and then TCP
//	tls://dns.example@192.0.2.1:853                 TLS (RFC 7858), its certificate for the name
//	https://dns.example@192.0.2.1/dns-query         HTTPS (RFC 8484), likewise
//
// Without NAME@ the certificate must be for the address. An address is always given: to look it up would take a resolver.
type Nameserver string

// Transport of a Nameserver.
type Transport string

// The transports.
const (
	TransportPlain Transport = "plain"
	TransportTLS   Transport = "tls"
	TransportHTTPS Transport = "https"
)

// Upstream is a Nameserver, taken apart.
type Upstream struct {
	Transport Transport
	Name      string // in the certificate; empty for plain, and where it is for the address
	Address   netip.AddrPort
	Path      string // of HTTPS
}

// Parse takes n apart. It refuses addresses that mean something on the node's own host only, or nothing: an operator must not be able to
// have nodes talk to their own services (R16).
func (n Nameserver) Parse() (u Upstream, err error) {
	if len(n) > maxText {
		return u, errors.New("a nameserver that is too long")
	}
	scheme, _, coded := strings.Cut(string(n), "://")
	if !coded {
		u = Upstream{Transport: TransportPlain}
		u.Address, err = addressAndPort(string(n), 53)
		return u, errors.Join(err, n.usable(u))
	}
	port := map[string]uint16{"tls": 853, "https": 443}[scheme]
	parts, err := url.Parse(string(n))
	if port == 0 || err != nil || parts.RawQuery != "" || parts.Fragment != "" || parts.Opaque != "" {
		return u, n.wrong()
	}
	u = Upstream{Transport: Transport(scheme), Name: parts.User.Username(), Path: parts.Path}
	if _, secret := parts.User.Password(); secret {
		return u, n.wrong()
	}
	if u.Address, err = addressAndPort(parts.Host, port); err != nil {
		return u, err
	}
	if u.Name != "" && CheckDomain(u.Name) != nil || u.Transport == TransportTLS && u.Path != "" || u.Transport == TransportHTTPS && !plainPath(u.Path) {
		return u, n.wrong()
	}
	return u, n.usable(u)
}

func (n Nameserver) wrong() error {
	return fmt.Errorf("%s is no nameserver: write 192.0.2.1, tls://dns.example@192.0.2.1 or https://dns.example@192.0.2.1/dns-query", strconv.Quote(clip(string(n))))
}

func (n Nameserver) usable(u Upstream) error {
	a := u.Address.Addr()
	if CheckAddr(a) != nil || a.IsLoopback() || a.IsLinkLocalUnicast() {
		return fmt.Errorf("%s is at an address that no other host can be reached by", strconv.Quote(clip(string(n))))
	}
	return nil
}

// plainPath holds a path to what needs no escapes.
func plainPath(s string) bool {
	return strings.HasPrefix(s, "/") && only(s, func(c byte) bool { return urlSafe(c) || c == '/' || c == '.' })
}

func addressAndPort(s string, port uint16) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return netip.AddrPortFrom(a, port), nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 {
		return ap, fmt.Errorf("%s is no address: write 192.0.2.1 or [2001:db8::1]:53; a name would have to be looked up first", strconv.Quote(clip(s)))
	}
	return ap, nil
}

// maxDomain leaves room for a label and a dot in a name of 253 bytes (RFC 1035 section 2.3.4).
const maxDomain = 253 - 64

// CheckDomain refuses what is no domain in lower case: DNS labels (CheckName) joined by dots, at most 189 bytes, no dot at the end.
func CheckDomain(s string) error {
	if s == "" || len(s) > maxDomain {
		return errors.New("a domain that is empty, or too long")
	}
	for label := range strings.SplitSeq(s, ".") {
		if CheckName(label) != nil {
			return errors.New("a domain that is not made of DNS labels")
		}
	}
	return nil
}

// unusable are top-level domains that mean something else everywhere: multicast DNS (RFC 6762), this host (RFC 6761), addresses
// (RFC 3172), Tor (RFC 7686), and nothing.
var unusable = []string{"local", "localhost", "arpa", "onion", "invalid"}

// CheckNetworkDomain refuses what nodes' names cannot stand under: besides what CheckDomain refuses, a single label, which would take a whole
// top-level domain from the nodes, and what is below domains of another meaning.
func CheckNetworkDomain(s string) error {
	if err := CheckDomain(s); err != nil {
		return err
	}
	labels := strings.Split(s, ".")
	if len(labels) < 2 {
		return errors.New("a network's domain of one label, which would take a top-level domain from its nodes")
	}
	return checkTop(labels)
}

func checkTop(labels []string) error {
	top := labels[len(labels)-1]
	if slices.Contains(unusable, top) || only(top, func(c byte) bool { return c >= '0' && c <= '9' }) {
		return fmt.Errorf("a domain below %q, which has another meaning", top)
	}
	return nil
}

// ReservedName reports whether programs take a host of this name for something else than a host: the browser's proxy settings (WPAD),
// tunnels (ISATAP), this host. No node answers to it: whoever names his machine so must not come between others and the world.
func ReservedName(label string) bool {
	return label == "wpad" || label == "isatap" || label == "localhost" || label == "broadcasthost"
}

// Check refuses, in words for whoever wrote it, what is not within bounds and in its one form.
func (d *DNS) Check() error {
	if len(d.Nameservers) > MaxNameservers || len(d.Split) > MaxSplits || len(d.Search) > MaxSearch || len(d.Records) > MaxRecords {
		return fmt.Errorf("more than %d nameservers, %d split domains, %d search domains or %d records", MaxNameservers, MaxSplits, MaxSearch, MaxRecords)
	}
	if err := checkNameservers(d.Nameservers); err != nil {
		return err
	}
	domains := make(map[string]bool)
	for _, s := range d.Split {
		if err := first(checkListed("split", s.Domain), checkNameservers(s.Nameservers)); err != nil {
			return err
		}
		if domains[s.Domain] {
			return fmt.Errorf("the split domain %s twice", s.Domain)
		}
		domains[s.Domain] = true
	}
	for _, s := range d.Search {
		if err := checkListed("search", s); err != nil {
			return err
		}
	}
	return checkRecords(d.Records)
}

func checkListed(what, domain string) error {
	err := CheckDomain(domain)
	if err == nil {
		err = checkTop(strings.Split(domain, "."))
	}
	if err != nil {
		return fmt.Errorf("the %s domain %s: %w", what, strconv.Quote(clip(domain)), err)
	}
	return nil
}

func checkNameservers(list []Nameserver) error {
	if len(list) > MaxNameservers {
		return fmt.Errorf("more than %d nameservers", MaxNameservers)
	}
	for _, n := range list {
		if _, err := n.Parse(); err != nil {
			return err
		}
	}
	return nil
}

func checkRecords(records []Record) error {
	names := make(map[string]bool)
	for _, r := range records {
		if err := r.check(); err != nil {
			return fmt.Errorf("the record %s: %w", strconv.Quote(clip(r.Name)), err)
		}
		if names[r.Name] {
			return fmt.Errorf("the record %s twice: give all its addresses in one", r.Name)
		}
		names[r.Name] = true
	}
	return nil
}

func (r Record) check() error {
	labels := strings.Split(r.Name, ".")
	switch {
	case CheckDomain(r.Name) != nil || len(labels) < 2:
		return errors.New("its name is not two or more DNS labels in lower case")
	case checkTop(labels) != nil:
		return checkTop(labels)
	case ReservedName(labels[0]):
		return errors.New("its name is one that programs take for something else than a host")
	case (r.CNAME == "") == (len(r.Addresses) == 0) || len(r.Addresses) > maxAddresses:
		return fmt.Errorf("it has neither or both of addresses and cname, or more than %d addresses", maxAddresses)
	case r.CNAME != "" && (CheckDomain(r.CNAME) != nil || r.CNAME == r.Name):
		return errors.New("its cname is no other domain in lower case")
	}
	for _, a := range r.Addresses {
		if err := CheckAddr(a); err != nil {
			return err
		}
		if a.IsLoopback() || a.IsLinkLocalUnicast() {
			return errors.New("its address means something on one host or link only")
		}
	}
	return nil
}
