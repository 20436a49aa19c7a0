package clientaddr

import (
	"net/netip"
	"testing"
	"time"
)

func TestRatesCountByBlock(t *testing.T) {
	r := NewRates(0.001, 1)
	spend := func(s string) bool { return r.Spend(Block(netip.MustParseAddr(s))) == 0 }
	if !spend("2001:db8:1:2::1") || spend("2001:db8:1:2:ffff::9") {
		t.Error("two addresses of one /64 have two budgets")
	}
	if !spend("2001:db8:1:3::1") || !spend("192.0.2.1") || !spend("192.0.2.2") {
		t.Error("another block has no budget of its own")
	}
	if spend("::ffff:192.0.2.1") {
		t.Error("an address has a second budget in its IPv4-mapped form")
	}
	// Refused requests cost nothing: the budget comes back on time.
	if d := r.Spend(Block(netip.MustParseAddr("192.0.2.1"))); d > 1001*time.Second {
		t.Errorf("refusals put the next token off to %s", d)
	}
}

// TestRatesAreBounded: strangers from very many addresses cost bounded memory, and do not free one who keeps coming.
func TestRatesAreBounded(t *testing.T) {
	r := NewRates(0.001, 1)
	busy := netip.MustParsePrefix("192.0.2.1/32")
	r.Spend(busy)
	for i := range 3 * maxBlocks {
		r.Spend(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32))
		if i%(maxBlocks/2) == 0 && r.Spend(busy) == 0 {
			t.Fatal("a limited address was set free")
		}
	}
	if n := len(r.now) + len(r.old); n > 2*maxBlocks {
		t.Errorf("%d buckets", n)
	}
}

func TestSlots(t *testing.T) {
	a, b, c := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32"), netip.MustParsePrefix("192.0.2.3/32")
	s := NewSlots(3, 2)
	first, ok1 := s.Take(a)
	_, ok2 := s.Take(a)
	_, ok3 := s.Take(a)
	_, ok4 := s.Take(b)
	_, ok5 := s.Take(c)
	if !ok1 || !ok2 || ok3 || !ok4 || ok5 {
		t.Error("taken", ok1, ok2, ok3, ok4, ok5)
	}
	first()
	first()
	if s.Held() != 2 || s.taken[a] != 1 {
		t.Errorf("released twice: %d held, %d of it", s.Held(), s.taken[a])
	}
	if _, ok := s.Take(c); !ok {
		t.Error("a slot given back is not free")
	}
}
