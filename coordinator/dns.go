package coordinator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"picket.internal/coordinator/protocol"
)

// DefaultDomain is what nodes' names stand under unless the operator says otherwise: "internal" is reserved for private use (ICANN, July 2024).
const DefaultDomain = "picket.internal"

// DNSRow is what is said about names. It is part of every map, so that a write of it raises the generation.
type DNSRow struct {
	Domain string `json:"domain"`
	protocol.DNS
	By    string    `json:"by,omitempty"` // who wrote it last; empty: nobody ever did
	Since time.Time `json:"since"`
}

type dnsReader interface {
	DNS() (DNSRow, error) // ErrNoRow when nothing was ever said
}

type dnsWriter interface {
	SetDNS(DNSRow) error // replaces
}

// readDNS is tx.DNS with the usual in the place of nothing.
func readDNS(tx ReadTx) (DNSRow, error) {
	d, err := tx.DNS()
	if errors.Is(err, ErrNoRow) {
		return DNSRow{Domain: DefaultDomain}, nil
	}
	return d, err
}

// DNS is what is said about names now.
func (c *Coordinator) DNS(ctx context.Context, a Actor) (DNSRow, error) {
	if err := c.viewAllowed(ctx, a, rightDNS); err != nil {
		return DNSRow{}, c.outward(ctx, err)
	}
	return *c.world.Load().dns, nil
}

// SetDNS replaces what is said about names, but for the domain of nodes.
func (c *Coordinator) SetDNS(ctx context.Context, a Actor, d protocol.DNS) (Change, error) {
	g, err := c.update(ctx, a, func(ch *change) error {
		if err := ch.allowed(rightDNS); err != nil {
			return err
		}
		row, err := readDNS(ch)
		if err != nil {
			return err
		}
		if err := checkDNS(d, row.Domain); err != nil {
			return err
		}
		row.DNS = d
		ch.record("dns.set", row.Domain, dnsSummary(d))
		return ch.putDNS(row)
	})
	if err != nil {
		return Change{}, c.outward(ctx, err)
	}
	return Change{Generation: g, Summary: "names: " + dnsSummary(d)}, nil
}

func (ch *change) putDNS(row DNSRow) error {
	ch.narrow() // a nameserver that is taken away is one to hear of at once
	row.By, row.Since = ch.actor.String(), ch.Now()
	return ch.SetDNS(row)
}

// noteDomain puts a domain that the operator started with in force.
func (c *Coordinator) noteDomain(ctx context.Context) error {
	if c.config.Domain == "" || c.config.Domain == c.world.Load().dns.Domain {
		return nil
	}
	_, err := c.update(ctx, Actor{Kind: ActorOperator, Name: "serve --domain"}, func(ch *change) error {
		row, err := readDNS(ch)
		if err != nil {
			return err
		}
		if err := checkDNS(row.DNS, c.config.Domain); err != nil {
			return err
		}
		ch.record("dns.domain", c.config.Domain, "was "+row.Domain)
		row.Domain = c.config.Domain
		return ch.putDNS(row)
	})
	return err
}

// checkDNS refuses what nodes would refuse, and what would take nodes' own names from them.
func checkDNS(d protocol.DNS, domain string) error {
	if err := d.Check(); err != nil {
		return refuse(CodeInvalid, "%s", oneLine(err.Error(), 500))
	}
	for _, s := range d.Split {
		if under(s.Domain, domain) || under(domain, s.Domain) {
			return refuse(CodeInvalid, "the split domain %s and the network's own, %s, lie in each other: nodes answer for their own names", s.Domain, domain)
		}
	}
	for _, r := range d.Records {
		if r.Name == domain {
			return refuse(CodeInvalid, "the record %s is the network's own domain: records stand below it, or elsewhere", r.Name)
		}
	}
	return nil
}

// under reports whether name is domain, or below it.
func under(name, domain string) bool { return name == domain || strings.HasSuffix(name, "."+domain) }

// dnsFor is what the viewer, whose map content is but for it, may know of d: no address of the overlay but its own and its peers', and no name of
// another node (R30). A split domain keeps its place without nameservers: else its names would go to others.
func (w *world) dnsFor(content *protocol.Content, overlay []netip.Prefix) (out protocol.DNS) {
	d := w.dns.DNS
	if d.IsZero() {
		return d
	}
	known := make(map[netip.Addr]bool)
	names := map[string]bool{content.Self.Name: true}
	for _, a := range content.Self.Addresses {
		known[a] = true
	}
	for _, p := range content.Peers {
		names[p.Name] = true
		for _, a := range p.Addresses {
			known[a] = true
		}
	}
	may := func(a netip.Addr) bool {
		return known[a] || !slices.ContainsFunc(overlay, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	out.Search = d.Search
	out.Nameservers = reachableServers(d.Nameservers, may)
	for _, s := range d.Split {
		out.Split = append(out.Split, protocol.Split{Domain: s.Domain, Nameservers: reachableServers(s.Nameservers, may)})
	}
	out.Records = visibleRecords(d.Records, may, func(node string) bool { return names[node] }, w.dns.Domain)
	return out
}

func reachableServers(list []protocol.Nameserver, may func(netip.Addr) bool) (out []protocol.Nameserver) {
	for _, n := range list {
		if u, err := n.Parse(); err == nil && may(u.Address.Addr()) {
			out = append(out, n)
		}
	}
	return out
}

// visibleRecords leaves out records about nodes that the viewer does not know, and records that stand for a record left out.
func visibleRecords(records []protocol.Record, may func(netip.Addr) bool, node func(string) bool, domain string) (out []protocol.Record) {
	visible := make(map[string]bool, len(records))
	for _, r := range records {
		r.Addresses = slices.DeleteFunc(slices.Clone(r.Addresses), func(a netip.Addr) bool { return !may(a) })
		if r.CNAME != "" || len(r.Addresses) > 0 {
			out = append(out, r)
			visible[r.Name] = true
		}
	}
	for again := true; again; { // a chain is as long as there are records at most, and each round takes one away
		again = false
		out = slices.DeleteFunc(out, func(r protocol.Record) bool {
			label, ours := strings.CutSuffix(r.CNAME, "."+domain)
			hidden := r.CNAME != "" && ours && !visible[r.CNAME] && !node(label)
			if hidden {
				delete(visible, r.Name)
				again = true
			}
			return hidden
		})
	}
	return out
}

// dnsSummary is d in a few words.
func dnsSummary(d protocol.DNS) string {
	if d.IsZero() {
		return "nothing besides those of nodes"
	}
	return fmt.Sprintf("%d nameservers, %d split domains, %d search domains, %d records", len(d.Nameservers), len(d.Split), len(d.Search), len(d.Records))
}
