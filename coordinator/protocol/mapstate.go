package protocol

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"picket.internal/acl"
	"picket.internal/wgtun/key"
)

// Refusals of a map. Each is wrapped with what was wrong.
var (
	// ErrForeign: signed, but for another network or node.
	ErrForeign = errors.New("meant for another network or node")
	// ErrStale: older than what is held, or a second content for one generation. The map is dropped; asking again would not help.
	ErrStale = errors.New("stale map")
	// ErrResync: a delta that does not fit what is held. Ask for the whole map.
	ErrResync = errors.New("map does not fit: a whole one is needed")
)

// MaxLease bounds Header.NotAfter - Header.Issued: no signed map, however it was come by, is believed for longer.
const MaxLease = 31 * 24 * time.Hour

// Bounds on a map.
const (
	maxHeader    = 4096
	maxEntries   = 100_000
	maxEntryID   = 128
	maxEntryData = 1 << 20
)

// Entries is a map's entries by id. The data is shared between maps and never changed in place.
type Entries map[EntryID][]byte

// Digest is the SHA-256 over the entries sorted by id, each as: id length (2 bytes, big-endian), id, SHA-256 of the data.
func Digest(e Entries) []byte {
	h := sha256.New()
	var b []byte
	for _, id := range slices.Sorted(maps.Keys(e)) {
		sum := sha256.Sum256(e[id])
		b = append(field(b[:0], id), sum[:]...)
		h.Write(b)
	}
	return h.Sum(nil)
}

// Diff returns what turns old into new, each sorted by id.
func Diff(old, new Entries) (remove []EntryID, put []Entry) {
	for id := range old {
		if _, ok := new[id]; !ok {
			remove = append(remove, id)
		}
	}
	for id, data := range new {
		if was, ok := old[id]; !ok || !bytes.Equal(was, data) {
			put = append(put, Entry{ID: id, Data: data})
		}
	}
	slices.Sort(remove)
	slices.SortFunc(put, func(a, b Entry) int { return bytes.Compare([]byte(a.ID), []byte(b.ID)) })
	return remove, put
}

// SignHeader fills Header and Signature of m. A header that OpenHeader would refuse is an error.
func SignHeader(m *Map, h Header, k key.CoordinatorPrivate) error {
	if err := h.check(); err != nil {
		return fmt.Errorf("sign map header: %w", err)
	}
	data, err := Marshal(h)
	if err != nil {
		return fmt.Errorf("sign map header: %w", err)
	}
	m.Header, m.Signature = data, k.Sign(ContextMap, data)
	return nil
}

// OpenHeader verifies a map's signature and that it is for this network and node, and returns the header. It reads nothing before the
// signature holds. Errors wrap ErrSignature, ErrForeign or ErrMalformed. Whether the lease is over is the caller's to judge, by its own
// idea of the coordinator's time.
func OpenHeader(m *Map, k key.CoordinatorPublic, network NetworkID, node acl.NodeID) (Header, error) {
	if !k.Verify(ContextMap, m.Header, m.Signature) {
		return Header{}, fmt.Errorf("%w: the map is not from the coordinator's key %s", ErrSignature, k.Short())
	}
	var h Header
	if err := unmarshal(m.Header, &h, "map header"); err != nil {
		return Header{}, err
	}
	if h.Network != network || h.Node != node {
		return Header{}, fmt.Errorf("map header: %w", ErrForeign)
	}
	if err := h.check(); err != nil {
		return Header{}, fmt.Errorf("%w: map header: %w", ErrMalformed, err)
	}
	return h, nil
}

func (h Header) check() error {
	if h.Generation == 0 {
		return errors.New("generation 0 is no map's")
	}
	if !h.NotAfter.After(h.Issued) || h.NotAfter.Sub(h.Issued) > MaxLease {
		return fmt.Errorf("a lease that is not between nothing and %s", MaxLease)
	}
	return first(CheckNetworkID(h.Network), CheckNodeID(h.Node), sized("digest", h.Digest, digestSize, digestSize), sane(h.Issued), sane(h.NotAfter))
}

// Merge applies m, whose header h OpenHeader returned, to the entries of generation base (0: none are held) and returns the entries of
// h's generation. It does not change old. Errors:
//   - ErrStale: h is older than base, or of the same generation with another content. Generations only rise, and one generation of a
//     node's map has one content; a lease is renewed by the same generation with a later NotAfter.
//   - ErrResync: a delta on another generation than base, or one whose result has not the header's digest.
//   - ErrMalformed: a whole map whose entries have not the header's digest, or one with entries out of bounds.
func Merge(old Entries, base uint64, m *Map, h Header) (Entries, error) {
	if h.Generation < base {
		return nil, fmt.Errorf("%w: generation %d came after %d", ErrStale, h.Generation, base)
	}
	if m.Base != 0 && m.Base != base {
		return nil, fmt.Errorf("%w: it changes generation %d, held is %d", ErrResync, m.Base, base)
	}
	if h.Generation == base && !bytes.Equal(Digest(old), h.Digest) {
		return nil, fmt.Errorf("%w: generation %d is held with another content", ErrStale, base)
	}
	out, err := put(old, m)
	if err != nil {
		return nil, err
	}
	if bytes.Equal(Digest(out), h.Digest) {
		return out, nil
	}
	if m.Base == 0 {
		return nil, fmt.Errorf("%w: the whole map's entries are not what its header signs", ErrMalformed)
	}
	return nil, fmt.Errorf("%w: the entries are not what the header signs", ErrResync)
}

// put applies the changes of m within bounds, without judging the digest.
func put(old Entries, m *Map) (Entries, error) {
	out := Entries{}
	if m.Base != 0 {
		maps.Copy(out, old)
	} else if len(m.Remove) != 0 {
		return nil, fmt.Errorf("%w: a whole map that removes entries", ErrMalformed)
	}
	for _, id := range m.Remove {
		delete(out, id)
	}
	seen := make(map[EntryID]bool, len(m.Put))
	for _, e := range m.Put {
		if len(e.ID) == 0 || len(e.ID) > maxEntryID || len(e.Data) > maxEntryData || seen[e.ID] {
			return nil, fmt.Errorf("%w: an entry twice, or out of bounds", ErrMalformed)
		}
		seen[e.ID] = true
		out[e.ID] = e.Data
	}
	if len(out) > maxEntries {
		return nil, fmt.Errorf("%w: %d entries are more than %d", ErrMalformed, len(out), maxEntries)
	}
	return out, nil
}
