package protocol

import (
	"bytes"
	"encoding/hex"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"picket.internal/wgtun/key"
)

// TestDigestGolden pins the digest: sha256("0001" "a" sha256("x") "0002" "bb" sha256("")).
func TestDigestGolden(t *testing.T) {
	const want = "e3e89c0d150ee37518ca6990b58d934e27fdce3276204ae3cbbe12a3ca1fb55d"
	if got := hex.EncodeToString(Digest(Entries{"bb": nil, "a": []byte("x")})); got != want {
		t.Errorf("digest is %s, want %s", got, want)
	}
}

func TestDigestTellsEntriesApart(t *testing.T) {
	all := []Entries{{}, {"a": nil}, {"a": []byte("b")}, {"ab": nil}, {"a": nil, "b": nil}, {"b": nil}, {"a": []byte("b"), "b": []byte("a")}}
	seen := map[string]int{}
	for i, e := range all {
		if j, ok := seen[string(Digest(e))]; ok {
			t.Errorf("entries %d and %d have one digest", i, j)
		}
		seen[string(Digest(e))] = i
	}
}

func TestOpenHeaderRefuses(t *testing.T) {
	whole, h := signed(t, 0, nil, testEntries(t, testContent()), 5)
	resigned := func(change func(*Header)) *Map {
		m, h := *whole, h
		change(&h)
		data, err := Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		m.Header, m.Signature = data, testCoordinator.Sign(ContextMap, data)
		return &m
	}
	flipped := func(at int) *Map {
		m := *whole
		m.Header = bytes.Clone(m.Header)
		m.Header[at] ^= 1
		return &m
	}
	unsigned := *whole
	unsigned.Signature = nil
	otherContext := *whole
	otherContext.Signature = testCoordinator.Sign(ContextInfo, whole.Header)
	garbage := &Map{Header: []byte("[]"), Signature: testCoordinator.Sign(ContextMap, []byte("[]"))}

	for name, c := range map[string]struct {
		m    *Map
		key  key.CoordinatorPublic
		want error
	}{
		"a changed byte":           {flipped(20), testCoordinator.Public(), ErrSignature},
		"no signature":             {&unsigned, testCoordinator.Public(), ErrSignature},
		"signed in another sense":  {&otherContext, testCoordinator.Public(), ErrSignature},
		"another coordinator":      {whole, key.NewCoordinator().Public(), ErrSignature},
		"no pinned key":            {whole, key.CoordinatorPublic{}, ErrSignature},
		"another network":          {resigned(func(h *Header) { h.Network = "other" }), testCoordinator.Public(), ErrForeign},
		"another node":             {resigned(func(h *Header) { h.Node = "n2" }), testCoordinator.Public(), ErrForeign},
		"generation 0":             {resigned(func(h *Header) { h.Generation = 0 }), testCoordinator.Public(), ErrMalformed},
		"a short digest":           {resigned(func(h *Header) { h.Digest = h.Digest[:31] }), testCoordinator.Public(), ErrMalformed},
		"a lease that is over":     {resigned(func(h *Header) { h.NotAfter = h.Issued }), testCoordinator.Public(), ErrMalformed},
		"a lease without an end":   {resigned(func(h *Header) { h.NotAfter = h.Issued.Add(MaxLease + 1) }), testCoordinator.Public(), ErrMalformed},
		"a time out of this world": {resigned(func(h *Header) { h.Issued = time.Time{}; h.NotAfter = time.Time{}.Add(1) }), testCoordinator.Public(), ErrMalformed},
		"no header at all":         {garbage, testCoordinator.Public(), ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := OpenHeader(c.m, c.key, "net", "n1"); !errors.Is(err, c.want) {
				t.Errorf("error is %v, want %v", err, c.want)
			}
		})
	}
	got, err := OpenHeader(whole, testCoordinator.Public(), "net", "n1")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(h, got); d != "" {
		t.Error(d)
	}
}

func TestSignHeaderRefusesWhatNobodyWouldOpen(t *testing.T) {
	if err := SignHeader(&Map{}, Header{Network: "net", Node: "n1", Digest: make([]byte, 32), Issued: testTime, NotAfter: testTime.Add(1)}, testCoordinator); err == nil {
		t.Error("a header of generation 0 was signed")
	}
}

func TestMergeRefuses(t *testing.T) {
	old := testEntries(t, testContent())
	next := maps.Clone(old)
	next["rule/1"] = []byte("{}")
	delete(next, "peer/n2")
	whole, wholeHeader := signed(t, 0, nil, next, 6)
	delta, deltaHeader := signed(t, 5, old, next, 6)
	change := func(m *Map, f func(*Map)) *Map {
		c := *m
		c.Put, c.Remove = append([]Entry(nil), m.Put...), append([]EntryID(nil), m.Remove...)
		f(&c)
		return &c
	}
	older := wholeHeader
	older.Generation = 4
	same := wholeHeader
	same.Generation = 5

	for name, c := range map[string]struct {
		m    *Map
		h    Header
		base uint64
		want error
	}{
		"an older generation (replay)":           {whole, older, 5, ErrStale},
		"a second content of one generation":     {whole, same, 5, ErrStale},
		"a delta on another generation":          {delta, deltaHeader, 4, ErrResync},
		"a delta when nothing is held":           {delta, deltaHeader, 0, ErrResync},
		"a delta with an entry missing":          {change(delta, func(m *Map) { m.Put = nil }), deltaHeader, 5, ErrResync},
		"a delta that removes too little":        {change(delta, func(m *Map) { m.Remove = nil }), deltaHeader, 5, ErrResync},
		"a delta with an entry changed":          {change(delta, func(m *Map) { m.Put[0].Data = []byte("[]") }), deltaHeader, 5, ErrResync},
		"a whole map with an entry missing":      {change(whole, func(m *Map) { m.Put = m.Put[1:] }), wholeHeader, 5, ErrMalformed},
		"a whole map with an entry more":         {change(whole, func(m *Map) { m.Put = append(m.Put, Entry{ID: "x"}) }), wholeHeader, 5, ErrMalformed},
		"a whole map that removes":               {change(whole, func(m *Map) { m.Remove = []EntryID{"x"} }), wholeHeader, 5, ErrMalformed},
		"an entry twice":                         {change(whole, func(m *Map) { m.Put = append(m.Put, m.Put[0]) }), wholeHeader, 5, ErrMalformed},
		"an entry without an id":                 {change(delta, func(m *Map) { m.Put[0].ID = "" }), deltaHeader, 5, ErrMalformed},
		"an entry with a very long id":           {change(delta, func(m *Map) { m.Put[0].ID = EntryID(strings.Repeat("a", maxEntryID+1)) }), deltaHeader, 5, ErrMalformed},
		"an entry with very much data":           {change(delta, func(m *Map) { m.Put[0].Data = make([]byte, maxEntryData+1) }), deltaHeader, 5, ErrMalformed},
		"a delta that grows beyond every bounds": {change(delta, func(m *Map) { m.Put = manyEntries(maxEntries + 1) }), deltaHeader, 5, ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			before := maps.Clone(old)
			got, err := Merge(old, c.base, c.m, c.h)
			if !errors.Is(err, c.want) || got != nil {
				t.Errorf("merged %d entries, error %v, want %v", len(got), err, c.want)
			}
			if d := cmp.Diff(before, old); d != "" {
				t.Errorf("what was held changed: %s", d)
			}
		})
	}
}

func manyEntries(n int) []Entry {
	out := make([]Entry, n)
	for i := range out {
		out[i].ID = EntryID(hex.EncodeToString([]byte{byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	return out
}

// TestMergeOmittedIsGone: a whole map replaces, a delta removes what it names, and either gives exactly the signed entries (R6).
func TestMergeOmittedIsGone(t *testing.T) {
	old := testEntries(t, testContent())
	next := Entries{"self": old["self"], "network": old["network"], "rule/0": []byte("{}")}
	for name, base := range map[string]uint64{"whole": 0, "delta": 5} {
		t.Run(name, func(t *testing.T) {
			from := old
			if base == 0 {
				from = nil
			}
			m, h := signed(t, base, from, next, 6)
			got, err := Merge(old, 5, m, h)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(next, got); d != "" {
				t.Error(d)
			}
			if _, ok := old["peer/n2"]; !ok {
				t.Error("what was held changed")
			}
		})
	}
}

// TestMergeRenewsLease: the same generation with the same content passes, as a delta without changes and whole.
func TestMergeRenewsLease(t *testing.T) {
	held := testEntries(t, testContent())
	for name, base := range map[string]uint64{"whole": 0, "delta": 5} {
		from := held
		if base == 0 {
			from = nil
		}
		m, h := signed(t, base, from, held, 5)
		got, err := Merge(held, 5, m, h)
		if d := cmp.Diff(held, got); err != nil || d != "" {
			t.Errorf("%s: %v %s", name, err, d)
		}
	}
}

// FuzzMerge: whatever is put and removed, the result is what the header signs or nothing, and what was held stays as it was.
func FuzzMerge(f *testing.F) {
	f.Add([]byte("{}"), uint64(0))
	if frame, err := EncodeFrame(TypeMap, Map{Base: 5, Header: []byte("h"), Signature: make([]byte, 64), Remove: []EntryID{"a"}, Put: []Entry{{ID: "b", Data: []byte("2")}}}); err == nil {
		f.Add(frame, uint64(5))
	}
	held := Entries{"a": []byte("1"), "c": []byte("3")}
	wants := []Entries{{"b": []byte("2"), "c": []byte("3")}, {"a": []byte("1"), "c": []byte("3")}, {}}
	f.Fuzz(func(t *testing.T, frame []byte, base uint64) {
		msg, err := DecodeFrame(frame)
		m, ok := msg.Body.(Map)
		if err != nil || !ok {
			return
		}
		for _, want := range wants {
			got, err := Merge(held, base, &m, Header{Generation: base + 1, Digest: Digest(want)})
			if err == nil && !cmp.Equal(map[EntryID]string(asText(got)), asText(want)) {
				t.Fatalf("got %v, the header signs %v", got, want)
			}
			if len(held) != 2 || string(held["a"]) != "1" {
				t.Fatal("what was held changed")
			}
		}
	})
}

func asText(e Entries) map[EntryID]string {
	out := map[EntryID]string{}
	for id, data := range e {
		out[id] = string(data)
	}
	return out
}

// BenchmarkMergeDelta is one changed peer among 10,000.
func BenchmarkMergeDelta(b *testing.B) {
	old := Entries{}
	for _, e := range manyEntries(10_000) {
		old[e.ID] = bytes.Repeat([]byte{'p'}, 600)
	}
	next := maps.Clone(old)
	next["00000a"] = []byte("changed")
	m, h := signed(b, 5, old, next, 6)
	for b.Loop() {
		if _, err := Merge(old, 5, m, h); err != nil {
			b.Fatal(err)
		}
	}
}
