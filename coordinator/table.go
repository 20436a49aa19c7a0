package coordinator

import (
	"iter"

	"github.com/tidwall/btree"
)

// table is a map in the order of its keys, of which a copy costs nothing: the two then share what neither changes. The zero table is empty.
// It is not safe for concurrent use, but for reading and having read.
type table[K ~string, V any] struct{ tree btree.Map[K, V] }

// tableDegree bounds a node of the tree: 2*tableDegree-1 keys. A change copies one on each level.
const tableDegree = 8

func newTable[K ~string, V any]() *table[K, V] {
	return &table[K, V]{*btree.NewMap[K, V](tableDegree)}
}

// copied returns a copy. No other copy of t may be made at the same time, nor t be written.
func (t *table[K, V]) copied() *table[K, V] { return &table[K, V]{*t.tree.Copy()} }

func (t *table[K, V]) get(k K) (V, bool) { return t.tree.Get(k) }
func (t *table[K, V]) set(k K, v V)      { t.tree.Set(k, v) }
func (t *table[K, V]) remove(k K)        { t.tree.Delete(k) }
func (t *table[K, V]) len() int          { return t.tree.Len() }

// all lists in the order of keys.
func (t *table[K, V]) all() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) { t.tree.Scan(yield) }
}
