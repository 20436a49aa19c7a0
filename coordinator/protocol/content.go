package protocol

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/go-json-experiment/json"

	"picket.internal/acl"
	"picket.internal/wgtun/key"
)

// ErrRestriction is returned for a map that holds a restriction of a kind this build does not know: an entry whose id begins with
// Critical. Such a map is refused whole, because reading it without the restriction would allow too much.
var ErrRestriction = errors.New("the map holds a restriction that this version does not know: update picket")

// Critical begins the id of every entry that takes away (a deny; one day a ceiling). Entries of other unknown kinds are ignored.
const Critical = "!"

// Bounds on one node.
const (
	maxNodeID      = 64
	maxAddresses   = 16
	maxRoutes      = 1024
	maxRoles       = 4096
	maxTags        = 64
	maxCertificate = key.MaxCertificateSize
	maxOverlay     = 16
)

// Ids of the entries.
const (
	entrySelf    = EntryID("self")
	entryNetwork = EntryID("network")
	entryDNS     = EntryID("dns")
	peerPrefix   = "peer/"
	rulePrefix   = "rule/"
	denyPrefix   = Critical + "deny/"
	relayPrefix  = "relay/"
)

// Content is a map's entries, decoded.
type Content struct {
	Self    Self
	Network Network
	DNS     DNS
	Peers   []Peer     // sorted by node id
	Rules   []acl.Rule // in policy file order
	Denies  []acl.Rule // in policy file order
	Relays  []Relay    // sorted by name
	// Skipped are the rules that could not be read whole, and so allow nothing, and the entry "dns", likewise. Encode ignores it.
	Skipped []SkippedRule
}

// SkippedRule is a rule, or the entry "dns", that was left out. A rule with a member this build does not know is left out too: the member may restrict it.
type SkippedRule struct {
	ID     EntryID
	Reason string
}

// Encode turns content into entries: "self", "network", "dns" when it says something, "peer/NODE" for each peer, "rule/0" and "!deny/0" and up in order, "relay/NAME" for each relay. It fails on content that
// Decode would refuse, so that a mistake stays at the coordinator.
func (c Content) Encode() (Entries, error) {
	count := len(c.Peers) + len(c.Rules) + len(c.Denies) + len(c.Relays) + 2
	e := make(Entries, count)
	add := func(id EntryID, v any) error {
		data, err := Marshal(v)
		if err != nil {
			return fmt.Errorf("encode map entry %s: %w", id, err)
		}
		e[id] = data
		return nil
	}
	err := first(add(entrySelf, c.Self), add(entryNetwork, c.Network))
	if !c.DNS.IsZero() {
		count++
		err = first(err, c.DNS.Check(), add(entryDNS, c.DNS))
	}
	for _, p := range c.Peers {
		err = first(err, add(EntryID(peerPrefix+string(p.Node)), p))
	}
	for i, r := range c.Rules {
		err = first(err, checkRule(r), add(EntryID(rulePrefix+strconv.Itoa(i)), r))
	}
	for i, r := range c.Denies {
		err = first(err, checkRule(r), add(EntryID(denyPrefix+strconv.Itoa(i)), r))
	}
	for _, r := range c.Relays {
		err = first(err, add(EntryID(relayPrefix+r.Name), r))
	}
	if len(e) != count {
		err = first(err, errors.New("encode map: a peer or relay twice"))
	}
	if err = first(err, c.check()); err != nil {
		return nil, err
	}
	return e, nil
}

// Decode reads entries. Entries of an unknown kind are ignored, unless they are Critical (ErrRestriction). A malformed self, network
// or peer refuses the whole map with ErrMalformed, and so do two nodes with one address. A rule that does not parse, or has a member
// this build does not know, allows nothing: it is left out and named in Skipped. A relay that cannot be read is left out. A deny of that kind refuses the whole map with
// ErrRestriction: without it too much would be allowed.
func Decode(e Entries) (Content, error) {
	c := Content{Peers: make([]Peer, 0, countPeers(e))} // a node keeps it, and there may be thousands
	var rules, denies []numbered
	for id, data := range e {
		var err error
		switch kind, rest := splitID(id); kind {
		case string(entrySelf):
			err = unmarshal(data, &c.Self, "self")
		case string(entryNetwork):
			err = unmarshal(data, &c.Network, "network")
		case string(entryDNS):
			c.takeDNS(id, data)
		case peerPrefix:
			err = c.addPeer(rest, data)
		case relayPrefix:
			c.addRelay(rest, data)
		case rulePrefix:
			rules = c.addRule(rules, id, rest, data)
		case denyPrefix:
			var d numbered
			if d, err = readRule(rest, data); err == nil && refusesNothing(d.rule) {
				err = errors.New("it refuses nothing")
			}
			if err != nil {
				err = fmt.Errorf("%w (%s: %w)", ErrRestriction, strconv.Quote(clip(string(id))), err)
			}
			denies = append(denies, d)
		case Critical:
			err = fmt.Errorf("%w (%s)", ErrRestriction, strconv.Quote(clip(string(id))))
		}
		if err != nil {
			return Content{}, err
		}
	}
	slices.SortFunc(c.Peers, func(a, b Peer) int { return strings.Compare(string(a.Node), string(b.Node)) })
	slices.SortFunc(c.Relays, func(a, b Relay) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(c.Skipped, func(a, b SkippedRule) int { return strings.Compare(string(a.ID), string(b.ID)) })
	c.Rules, c.Denies = inOrder(rules), inOrder(denies)
	if err := c.check(); err != nil {
		return Content{}, fmt.Errorf("%w: map: %w", ErrMalformed, err)
	}
	return c, nil
}

func countPeers(e Entries) (n int) {
	for id := range e {
		if kind, _ := splitID(id); kind == peerPrefix {
			n++
		}
	}
	return n
}

// Ruleset is the rules with self and peers as subjects.
func (c Content) Ruleset() *acl.Ruleset {
	rs := &acl.Ruleset{Rules: c.Rules, Denies: c.Denies, Subjects: make([]acl.Subject, 0, len(c.Peers)+1)}
	rs.Subjects = append(rs.Subjects, c.Self.Subject)
	for _, p := range c.Peers {
		rs.Subjects = append(rs.Subjects, p.Subject)
	}
	return rs
}

// numbered is a rule with its place.
type numbered struct {
	n    int
	rule acl.Rule
}

// refusesNothing reports whether a deny cannot refuse any flow at any time, and so was meant to say something else.
func refusesNothing(r acl.Rule) bool {
	empty := func(s acl.Set) bool { return len(s.Roles)+len(s.Prefixes)+len(s.Beyond) == 0 }
	backwards := slices.ContainsFunc(r.Ports, func(p acl.Ports) bool { return p.First > p.Last })
	return len(r.Ports) == 0 || backwards || empty(r.Src) || empty(r.Dst) || r.Until < 0
}

func inOrder(rules []numbered) (out []acl.Rule) {
	slices.SortFunc(rules, func(a, b numbered) int { return cmp.Compare(a.n, b.n) })
	for _, r := range rules {
		out = append(out, r.rule)
	}
	return out
}

// splitID returns an entry's kind, as the constants above have it, and what follows it. An unknown id is its own kind.
func splitID(id EntryID) (kind, rest string) {
	for _, p := range []string{peerPrefix, rulePrefix, denyPrefix, relayPrefix, Critical} {
		if rest, ok := strings.CutPrefix(string(id), p); ok {
			return p, rest
		}
	}
	return string(id), ""
}

func (c *Content) addPeer(node string, data []byte) error {
	var p Peer
	if err := unmarshal(data, &p, "peer"); err != nil {
		return err
	}
	if string(p.Node) != node {
		return fmt.Errorf("%w: a peer under another node's id", ErrMalformed)
	}
	p.OS = Printable(p.OS) // the peer's own claim: it must not spoil the map, nor a terminal
	c.Peers = append(c.Peers, p)
	return nil
}

// takeDNS reads the entry "dns". One that this build cannot read whole says nothing: names do not open flows, and a map must not be refused
// for them, because it may take something away.
func (c *Content) takeDNS(id EntryID, data []byte) {
	err := unmarshal(data, &c.DNS, "dns")
	if err == nil {
		err = c.DNS.Check()
	}
	if err != nil {
		c.DNS = DNS{}
		c.Skipped = append(c.Skipped, SkippedRule{ID: id, Reason: err.Error()})
	}
}

func (c *Content) addRule(rules []numbered, id EntryID, place string, data []byte) []numbered {
	r, err := readRule(place, data)
	if err != nil {
		c.Skipped = append(c.Skipped, SkippedRule{ID: id, Reason: err.Error()})
		return rules
	}
	return append(rules, r)
}

func readRule(place string, data []byte) (r numbered, err error) {
	r.n, err = strconv.Atoi(place)
	if err != nil || r.n < 0 || strconv.Itoa(r.n) != place {
		return r, errors.New("its id has no place in the order")
	}
	if err = strict(data, &r.rule); err == nil {
		err = checkRule(r.rule)
	}
	return r, err
}

// strict reads a rule: a member this build does not know may restrict it, so it is an error here and only here.
func strict(data []byte, r *acl.Rule) error {
	if unmarshal(data, r, "rule") != nil {
		return errors.New("it is not of its form")
	}
	if json.Unmarshal(data, new(acl.Rule), wire, json.RejectUnknownMembers(true)) != nil {
		return errors.New("it has a member that this version does not know: update picket")
	}
	return nil
}

// checkRule refuses a rule whose prefixes could be read in two ways (R34).
func checkRule(r acl.Rule) error {
	for _, set := range []acl.Set{r.Src, r.Dst} {
		for _, p := range slices.Concat(set.Prefixes, set.Beyond) {
			if err := CheckPrefix(p); err != nil {
				return err
			}
		}
	}
	return texts(maxText, append(slices.Clone(r.Postures), r.Reason, r.Log)...)
}

// check holds content to what the tunnel relies on: every address in its one form, inside the overlay and of one node only.
func (c Content) check() error {
	if err := c.Network.check(); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	if err := first(checkSubject(c.Self.Subject), checkLabels(c.Self.Name, c.Self.Login, c.Self.Tags), sane(c.Self.Expires)); err != nil {
		return fmt.Errorf("self: %w", err)
	}
	if err := checkRelays(c.Relays); err != nil {
		return err
	}
	taken := make(map[netip.Addr]acl.NodeID, 2*len(c.Peers)+2)
	if err := c.take(taken, c.Self.Subject); err != nil {
		return err
	}
	for _, p := range c.Peers {
		if p.Node == c.Self.Node {
			return errors.New("this node is among its own peers")
		}
		if err := p.check(); err != nil {
			return fmt.Errorf("peer %s: %w", strconv.Quote(clip(string(p.Node))), err)
		}
		if err := c.take(taken, p.Subject); err != nil {
			return err
		}
	}
	return nil
}

// take notes s's addresses. Two nodes with one address would let the tunnel hand packets to the wrong key.
func (c Content) take(taken map[netip.Addr]acl.NodeID, s acl.Subject) error {
	for _, a := range s.Addresses {
		if other, ok := taken[a]; ok {
			return fmt.Errorf("the address %s is given twice, to %s and %s", a, other, s.Node)
		}
		if !c.Network.holds(a) {
			return fmt.Errorf("the address %s of %s is outside the overlay", a, s.Node)
		}
		taken[a] = s.Node
	}
	for _, r := range s.Routes {
		for _, o := range c.Network.Overlay {
			if r.Bits() > 0 && o.Overlaps(r) {
				return fmt.Errorf("the route %s of %s overlaps the overlay", r, s.Node)
			}
		}
	}
	return nil
}

func (n Network) check() error {
	if len(n.Overlay) == 0 || len(n.Overlay) > maxOverlay {
		return fmt.Errorf("%d overlay ranges", len(n.Overlay))
	}
	for _, p := range n.Overlay {
		if err := CheckPrefix(p); err != nil {
			return err
		}
	}
	if n.Domain != "" {
		if err := CheckNetworkDomain(n.Domain); err != nil {
			return err
		}
	}
	if len(n.Reflectors) > MaxReflectors {
		return fmt.Errorf("%d reflectors", len(n.Reflectors))
	}
	for _, r := range n.Reflectors {
		if err := r.check(); err != nil {
			return err
		}
	}
	return texts(maxText, n.Policy.Commit, n.Policy.File)
}

// check refuses a host that is neither an address nor of the letters of a name (RFC 1123 section 2.1).
func (r Reflector) check() error {
	if r.Port == 0 || len(r.Host) > 253 {
		return errors.New("a reflector without a port, or with a long name")
	}
	if a, err := netip.ParseAddr(r.Host); err == nil {
		return CheckAddr(a)
	}
	if !only(r.Host, func(c byte) bool { return lowerAlnum(c) || c >= 'A' && c <= 'Z' || c == '-' || c == '.' }) {
		return errors.New("a reflector's host that is neither a name nor an address")
	}
	return nil
}

func (n Network) holds(a netip.Addr) bool {
	return slices.ContainsFunc(n.Overlay, func(p netip.Prefix) bool { return p.Contains(a) })
}

func (p Peer) check() error {
	if p.Device.IsZero() {
		return errors.New("no device key")
	}
	return first(checkSubject(p.Subject), checkLabels(p.Name, p.Login, p.Tags), sized("certificate", p.Certificate, 1, maxCertificate),
		sized("next certificate", p.Next, 0, maxCertificate), sane(p.Expires), checkPostures(p.Postures))
}

// checkPostures holds names that programs compare, and people read, to the form that policies give them.
func checkPostures(names []string) error {
	if len(names) > acl.MaxPostures {
		return fmt.Errorf("%d postures", len(names))
	}
	for i, name := range names {
		if !acl.IsPostureName(name) || i > 0 && names[i-1] >= name {
			return errors.New("a posture that is none, or postures out of order")
		}
	}
	return nil
}

func checkSubject(s acl.Subject) error {
	if err := CheckNodeID(s.Node); err != nil {
		return err
	}
	if len(s.Addresses) == 0 || len(s.Addresses) > maxAddresses || len(s.Routes) > maxRoutes || len(s.Roles) > maxRoles {
		return errors.New("too many or too few addresses, routes or roles")
	}
	for _, a := range s.Addresses {
		if err := CheckAddr(a); err != nil {
			return err
		}
	}
	for _, r := range s.Routes {
		if err := CheckPrefix(r); err != nil {
			return err
		}
	}
	return texts(maxText, string(s.Owner))
}

// checkLabels holds what people will read, and what reaches hosts files and shells, to plain text.
func checkLabels(name, login string, tags []string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if len(tags) > maxTags {
		return fmt.Errorf("%d tags", len(tags))
	}
	for _, s := range append([]string{login}, tags...) {
		if len(s) > maxText || Printable(s) != s {
			return errors.New("a login or tag that cannot be shown")
		}
	}
	return nil
}

// Printable is s without what a terminal would act on, and at most 1024 bytes of it: for words of the other side that people will read.
func Printable(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
}
