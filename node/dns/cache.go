package dns

import (
	"sync"
	"time"

	mdns "github.com/miekg/dns"
)

// Bounds on what is remembered.
const (
	maxCached   = 4096
	maxTTL      = time.Hour
	maxNegative = 5 * time.Minute
)

// cacheKey is what an answer depends on.
type cacheKey struct {
	name   string
	qtype  uint16
	do, cd bool // DNSSEC records wanted; not to be validated
}

type cached struct {
	msg   *mdns.Msg // never changed
	from  string
	since time.Time
	until time.Time
}

// cache remembers answers of resolvers elsewhere for as long as they say, within bounds.
type cache struct {
	mu sync.Mutex
	m  map[cacheKey]cached
}

// get returns an answer with what is left of its times to live.
func (c *cache) get(k cacheKey) (*mdns.Msg, string, bool) {
	c.mu.Lock()
	e, ok := c.m[k]
	c.mu.Unlock()
	now := time.Now()
	if !ok || !now.Before(e.until) {
		return nil, "", false
	}
	msg, age := e.msg.Copy(), uint32(now.Sub(e.since)/time.Second)
	for _, section := range [][]mdns.RR{msg.Answer, msg.Ns} {
		for _, rr := range section {
			h := rr.Header()
			h.Ttl -= min(h.Ttl, age)
		}
	}
	return msg, e.from, true
}

// put remembers msg, unless it says not to. When all places are taken, one of any answer is given up.
func (c *cache) put(k cacheKey, msg *mdns.Msg, from string) {
	life := lifeOf(msg)
	if life <= 0 {
		return
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = make(map[cacheKey]cached)
	}
	if _, there := c.m[k]; !there && len(c.m) >= maxCached {
		for victim := range c.m {
			delete(c.m, victim)
			break
		}
	}
	c.m[k] = cached{msg.Copy(), from, now, now.Add(life)}
}

// lifeOf is how long an answer may be remembered: the least of its times to live; where it says no, by its SOA (RFC 2308 section 5), and
// without one not at all.
func lifeOf(msg *mdns.Msg) time.Duration {
	if msg.Rcode != mdns.RcodeSuccess && msg.Rcode != mdns.RcodeNameError {
		return 0
	}
	if msg.Rcode == mdns.RcodeNameError || len(msg.Answer) == 0 {
		for _, rr := range msg.Ns {
			if soa, ok := rr.(*mdns.SOA); ok {
				return min(time.Duration(min(soa.Hdr.Ttl, soa.Minttl))*time.Second, maxNegative)
			}
		}
		return 0
	}
	life := maxTTL
	for _, rr := range msg.Answer {
		life = min(life, time.Duration(rr.Header().Ttl)*time.Second)
	}
	return life
}
