package dns

import (
	"net/netip"
	"os"
	"slices"
	"strings"

	mdns "github.com/miekg/dns"
)

// HostSettings are what the host is to ask the resolver at Server about.
type HostSettings struct {
	Interface string     // the tunnel's
	Server    netip.Addr // Listen's
	Match     []string   // domains that only Server knows; most to the front
	Search    []string   // tried for short names
	All       bool       // every name goes to Server, not only those in Match
}

// HostState is what became of it.
type HostState struct {
	Mode    string   // "systemd-resolved", "networkmanager", "resolvconf", "file" or "none"
	Why     string   // why that mode, or why none
	Changed []string // what was changed on the host, in words
	Trouble string   // what stands in the way; a sentence
}

// Host is what makes the programs of this machine ask our resolver. Its methods must not be called concurrently.
type Host interface {
	// Apply brings the host to s. It is called for each change and every few seconds, and leaves alone what others changed meanwhile.
	Apply(s HostSettings) HostState
	// Restore takes back what Apply did, of this process or of one that was killed.
	Restore() error
	// Upstreams are the resolvers that the host would use without us; none is known when it is empty.
	Upstreams() []netip.AddrPort
	// Flush makes the host forget answers; it is called after names have changed.
	Flush()
}

const resolvPath = "/etc/resolv.conf"

// noHost changes nothing.
type noHost struct{ why string }

// NoHost is a Host that changes nothing, because of why.
func NoHost(why string) Host { return noHost{why} }

func (n noHost) Apply(HostSettings) HostState { return HostState{Mode: "none", Why: n.why} }
func (noHost) Restore() error                 { return nil }

func (noHost) Upstreams() []netip.AddrPort {
	text, _ := os.ReadFile(resolvPath) // there is none on some systems
	return parseResolvConf(text).nameservers
}

func (noHost) Flush() {}

// maxMatch bounds HostSettings.Match: systemd-resolved takes 256 domains a link (LINK_SEARCH_DOMAINS_MAX), searched ones among them.
const maxMatch = 240

// hostSettings says what a host needs to know of what the resolver answers. Where that is too much, every name is to come here.
func (k *knowledge) hostSettings(tun string) HostSettings {
	s := HostSettings{Interface: tun, Server: Listen.Addr(), All: len(k.said.Nameservers) > 0}
	if k.zone.domain != "" {
		s.Search, s.Match = append(s.Search, k.zone.domain), append(s.Match, k.zone.domain)
	}
	for _, d := range k.said.Search {
		if !slices.Contains(s.Search, d) {
			s.Search = append(s.Search, d)
		}
	}
	for _, split := range k.said.Split {
		s.Match = append(s.Match, split.Domain)
	}
	for name := range k.zone.names {
		if !under(name, k.zone.domain) {
			s.Match = append(s.Match, name)
		}
	}
	slices.Sort(s.Match[min(1, len(s.Match)):]) // the network's own stays in front
	for _, p := range k.zone.overlay {
		if n := reverseDomains(p); len(s.Match)+len(n) <= maxMatch {
			s.Match = append(s.Match, n...)
		}
	}
	if len(s.Match) > maxMatch {
		s.Match, s.All = s.Match[:1], true
	}
	return s
}

func (s HostSettings) equal(o HostSettings) bool {
	return s.Interface == o.Interface && s.Server == o.Server && s.All == o.All && slices.Equal(s.Match, o.Match) && slices.Equal(s.Search, o.Search)
}

// resolvConf is what of a resolv.conf(5) matters here.
type resolvConf struct {
	nameservers []netip.AddrPort
	search      []string
	options     []string
}

// maxResolvConf bounds what is read of a file, in bytes; maxOwn how many resolvers of the host are asked.
const (
	maxResolvConf = 64 << 10
	maxOwn        = 6
)

// parseResolvConf reads a resolv.conf. What it does not understand is left out.
func parseResolvConf(text []byte) (c resolvConf) {
	for line := range strings.Lines(string(text[:min(len(text), maxResolvConf)])) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(fields[1]); err == nil && len(c.nameservers) < maxOwn && !a.IsUnspecified() {
				c.nameservers = append(c.nameservers, netip.AddrPortFrom(a, 53))
			}
		case "domain", "search":
			c.search = nil
			for _, d := range fields[1:] {
				if _, ok := mdns.IsDomainName(d); ok && d != "." && len(c.search) < maxOwn && plainName(d) {
					c.search = append(c.search, d)
				}
			}
		case "options":
			for _, o := range fields[1:] {
				if plainName(o) && len(c.options) < 16 {
					c.options = append(c.options, o)
				}
			}
		}
	}
	return c
}

// plainName holds what is written into files to letters, digits and a few marks.
func plainName(s string) bool {
	return s != "" && len(s) <= 253 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:") == ""
}
