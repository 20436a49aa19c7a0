package coordinator

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"picket.internal/coordinator/protocol"
	"picket.internal/wgtun/key"
)

// The audit log is a Merkle tree (RFC 6962, as golang.org/x/mod/sumdb/tlog builds it) over the records' stored bytes. Each transaction that
// appends also writes a checkpoint: the tree's size and root and the generation, signed by the coordinator key. An edited, removed or
// added record, or an older generation, no longer fits the checkpoint; one who holds an earlier checkpoint notices a rewritten log too.

// AuditRecord is one line of the audit log. Its JSON is what is stored and hashed.
type AuditRecord struct {
	Seq        int64     `json:"seq"` // from 0, without gaps
	Time       time.Time `json:"time"`
	Actor      string    `json:"actor"` // "operator uid 0", "user alice@example.com", …
	From       string    `json:"from,omitempty"`
	Action     string    `json:"action"` // "node.remove"
	Object     string    `json:"object"`
	Detail     string    `json:"detail,omitempty"`
	Generation uint64    `json:"generation"` // after the change
}

// ContextCheckpoint separates the signature of an audit checkpoint.
const ContextCheckpoint = key.Context("audit checkpoint")

// Checkpoint speaks for the whole audit log at one moment. Signature is the coordinator key's over Text in ContextCheckpoint.
type Checkpoint struct {
	Network    protocol.NetworkID
	Size       int64 // records
	Root       tlog.Hash
	Generation uint64
	Signature  []byte
}

// Text is what is signed: five lines, the root in base64.
//
//	picket audit checkpoint
//	NETWORK
//	SIZE
//	ROOT
//	GENERATION
func (p Checkpoint) Text() []byte {
	return fmt.Appendf(nil, "picket audit checkpoint\n%s\n%d\n%s\n%d\n", p.Network, p.Size, base64.StdEncoding.EncodeToString(p.Root[:]), p.Generation)
}

// ErrAudit is wrapped when the audit log does not fit its checkpoint.
var ErrAudit = errors.New("the audit log was changed behind the coordinator's back: restore the database from a backup, and look who could write to it")

// appendAudit writes records, which it numbers, and the new checkpoint.
func (c *Coordinator) appendAudit(tx Tx, records []AuditRecord, generation uint64) error {
	size, err := tx.AuditSize()
	if err != nil {
		return err
	}
	for _, r := range records {
		r.Seq = size
		if err := appendRecord(tx, r); err != nil {
			return err
		}
		size++
	}
	root, err := tlog.TreeHash(size, tlog.HashReaderFunc(tx.AuditHashes))
	if err != nil {
		return fmt.Errorf("hash the audit log: %w", err)
	}
	p := Checkpoint{Network: c.config.Network, Size: size, Root: root, Generation: generation}
	p.Signature = c.config.Key.Sign(ContextCheckpoint, p.Text())
	return tx.SetCheckpoint(p)
}

func appendRecord(tx Tx, r AuditRecord) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode audit record: %w", err)
	}
	hashes, err := tlog.StoredHashes(r.Seq, data, tlog.HashReaderFunc(tx.AuditHashes))
	if err != nil {
		return fmt.Errorf("hash audit record: %w", err)
	}
	return tx.AppendAudit(r.Seq, data, tlog.StoredHashIndex(0, r.Seq), hashes)
}

// VerifyAudit holds the audit log in s against its newest checkpoint under k: every record, every stored hash, the size and the
// generation. A store in which nothing was ever recorded passes while its generation is still the first. Errors wrap ErrAudit when
// the log does not fit.
func VerifyAudit(ctx context.Context, s Store, k key.CoordinatorPublic, network protocol.NetworkID) error {
	return s.View(ctx, func(tx ReadTx) error {
		v := verification{tx: tx}
		if err := tx.AuditScan(v.add); err != nil {
			return err
		}
		p, err := tx.Checkpoint()
		g, _, generationErr := tx.Generation()
		switch {
		case generationErr != nil:
			return generationErr
		case errors.Is(err, ErrNoRow) && len(v.hashes) == 0 && g == 1:
			return nil
		case errors.Is(err, ErrNoRow):
			return fmt.Errorf("%w (there is no checkpoint)", ErrAudit)
		case err != nil:
			return err
		}
		return v.against(p, g, k, network)
	})
}

// verification recomputes the tree from the records alone.
type verification struct {
	tx     ReadTx
	next   int64
	hashes []tlog.Hash // by storage index
}

func (v *verification) read(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, n := range indexes {
		out[i] = v.hashes[n]
	}
	return out, nil
}

func (v *verification) add(seq int64, record []byte) error {
	if seq != v.next {
		return fmt.Errorf("%w (record %d is missing)", ErrAudit, v.next)
	}
	hashes, err := tlog.StoredHashes(seq, record, tlog.HashReaderFunc(v.read))
	if err != nil {
		return fmt.Errorf("hash audit record %d: %w", seq, err)
	}
	index := tlog.StoredHashIndex(0, seq)
	stored := make([]int64, len(hashes))
	for i := range stored {
		stored[i] = index + int64(i)
	}
	have, err := v.tx.AuditHashes(stored)
	if err != nil {
		return fmt.Errorf("%w (a hash of record %d is missing)", ErrAudit, seq)
	}
	for i := range hashes {
		if hashes[i] != have[i] {
			return fmt.Errorf("%w (record %d is not what was written)", ErrAudit, seq)
		}
	}
	v.hashes = append(v.hashes, hashes...)
	v.next++
	return nil
}

func (v *verification) against(p Checkpoint, generation uint64, k key.CoordinatorPublic, network protocol.NetworkID) error {
	switch {
	case !k.Verify(ContextCheckpoint, p.Text(), p.Signature):
		return fmt.Errorf("%w (the checkpoint is not signed by this coordinator's key)", ErrAudit)
	case p.Network != network:
		return fmt.Errorf("%w (the checkpoint is of another network)", ErrAudit)
	case p.Size != v.next:
		return fmt.Errorf("%w (it has %d records, the checkpoint speaks for %d)", ErrAudit, v.next, p.Size)
	case p.Generation != generation:
		return fmt.Errorf("%w (the generation is %d, the checkpoint speaks for %d)", ErrAudit, generation, p.Generation)
	}
	root, err := tlog.TreeHash(v.next, tlog.HashReaderFunc(v.read))
	if err != nil {
		return fmt.Errorf("hash the audit log: %w", err)
	}
	if root != p.Root {
		return fmt.Errorf("%w (its root is not the checkpoint's)", ErrAudit)
	}
	count, err := v.tx.AuditHashCount()
	if err != nil {
		return err
	}
	if count != int64(len(v.hashes)) {
		return fmt.Errorf("%w (it has %d hashes for %d records)", ErrAudit, count, v.next)
	}
	return nil
}

// maxAuditPage bounds Audit's answer.
const maxAuditPage = 10_000

// Audit lists the newest records first, at most limit (0: 100), older than before (0: from the newest).
func (c *Coordinator) Audit(ctx context.Context, a Actor, limit int, before int64) ([]AuditRecord, error) {
	if limit <= 0 {
		limit = 100
	}
	var out []AuditRecord
	err := c.store.View(ctx, func(tx ReadTx) error {
		if _, err := reachOf(tx, a, rightReadAudit); err != nil {
			return err
		}
		page, err := tx.AuditPage(min(limit, maxAuditPage), before)
		if err != nil {
			return err
		}
		out = make([]AuditRecord, len(page))
		for i, data := range page {
			if err := json.Unmarshal(data, &out[i]); err != nil {
				return fmt.Errorf("read audit record: %w", err)
			}
		}
		return nil
	})
	return out, c.outward(ctx, err)
}
