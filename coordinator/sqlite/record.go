package sqlite

import (
	"database/sql"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"picket.internal/coordinator"
)

func (t *tx) Generation() (g uint64, at time.Time, err error) {
	err = t.sql.QueryRowContext(t.ctx, "SELECT generation, generation_at FROM network").Scan(&g, stamp{&at})
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("%w: it has no generation", ErrCorrupt)
	}
	return g, at, err
}

func (t *tx) SetGeneration(g uint64) error {
	n, err := t.exec("UPDATE network SET generation = ?1, generation_at = ?2 WHERE generation < ?1", int64(g), millis(t.now))
	if err == nil && n != 1 {
		return fmt.Errorf("set generation %d: the database is at that or a later one", g)
	}
	return err
}

func (t *tx) NetworkTold() (told []byte, err error) {
	err = t.sql.QueryRowContext(t.ctx, "SELECT told FROM network").Scan(&told)
	return told, err
}

func (t *tx) SetNetworkTold(told []byte) error {
	_, err := t.exec("UPDATE network SET told = ?1", told)
	return err
}

func scanPolicy(s scanner) (p coordinator.PolicyRow, err error) {
	err = s.Scan(&p.Text, &p.Source, &p.Commit, &p.Author, &p.Subject, &p.Signer, &p.SignerKey, stamp{&p.Committed}, stamp{&p.InForce}, &p.Generation, &p.By)
	return p, err
}

const policyColumns = "text, source, commit_id, author, subject, signer, signer_key, committed, in_force, generation, put_by"

func (t *tx) Policy() (coordinator.PolicyRow, error) {
	return get(t, scanPolicy, "SELECT "+policyColumns+" FROM policies ORDER BY generation DESC LIMIT 1")
}

func (t *tx) InsertPolicy(p coordinator.PolicyRow) error {
	_, err := t.exec("INSERT INTO policies ("+policyColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		notNil(p.Text), p.Source, p.Commit, p.Author, p.Subject, p.Signer, p.SignerKey, millis(p.Committed), millis(p.InForce), int64(p.Generation), p.By)
	return err
}

func (t *tx) PolicyScan(fn func(coordinator.PolicyRow) error) error {
	rows, err := t.sql.QueryContext(t.ctx, "SELECT "+policyColumns+" FROM policies ORDER BY generation DESC")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		p, err := scanPolicy(rows)
		if err != nil {
			return err
		}
		if err := fn(p); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (t *tx) PrunePolicies(rows int, size int64) error {
	_, err := t.exec(`DELETE FROM policies WHERE generation IN (
		SELECT generation FROM (
			SELECT generation, row_number() OVER newer AS place, sum(length(text)) OVER newer AS size FROM policies WINDOW newer AS (ORDER BY generation DESC)
		) WHERE place > 1 AND (place > ?1 OR size > ?2))`, rows, size)
	return err
}

func (t *tx) Hold() (coordinator.HoldRow, error) {
	return get(t, func(s scanner) (h coordinator.HoldRow, err error) {
		err = s.Scan(fixed{&h.Sum}, &h.Commit, &h.Author, &h.Subject, stamp{&h.Since}, &h.Accepted, document{&h.Impact})
		return h, err
	}, "SELECT sum, commit_id, author, subject, since, accepted, impact FROM policy_hold")
}

func (t *tx) SetHold(h coordinator.HoldRow) error {
	_, err := t.exec("INSERT OR REPLACE INTO policy_hold (one, sum, commit_id, author, subject, since, accepted, impact) VALUES (1, ?, ?, ?, ?, ?, ?, ?)",
		h.Sum[:], h.Commit, h.Author, h.Subject, millis(h.Since), h.Accepted, text(h.Impact))
	return err
}

func (t *tx) DropHold() (bool, error) {
	n, err := t.exec("DELETE FROM policy_hold")
	return n > 0, err
}

func (t *tx) Pin() (coordinator.PinRow, error) {
	return get(t, func(s scanner) (p coordinator.PinRow, err error) {
		err = s.Scan(&p.By, stamp{&p.Since})
		return p, err
	}, "SELECT pinned_by, since FROM policy_pin")
}

func (t *tx) SetPin(p coordinator.PinRow) error {
	_, err := t.exec("INSERT OR REPLACE INTO policy_pin (one, pinned_by, since) VALUES (1, ?, ?)", p.By, millis(p.Since))
	return err
}

func (t *tx) DropPin() (bool, error) {
	n, err := t.exec("DELETE FROM policy_pin")
	return n > 0, err
}

func (t *tx) AuditSize() (int64, error) {
	return get(t, value[int64], "SELECT coalesce(max(seq), -1) + 1 FROM audit")
}

func (t *tx) AuditPage(limit int, before int64) ([][]byte, error) {
	return list(t, value[[]byte], "SELECT record FROM audit WHERE ?1 = 0 OR seq < ?1 ORDER BY seq DESC LIMIT ?2", before, limit)
}

func (t *tx) AuditScan(fn func(seq int64, record []byte) error) error {
	const page = 1000 // a page at a time, because fn reads in the same transaction
	for next := int64(0); ; next += page {
		type line struct {
			seq    int64
			record []byte
		}
		lines, err := list(t, func(s scanner) (l line, err error) {
			err = s.Scan(&l.seq, &l.record)
			return l, err
		}, "SELECT seq, record FROM audit WHERE seq >= ? AND seq < ? ORDER BY seq", next, next+page)
		if err != nil {
			return err
		}
		for _, l := range lines {
			if err := fn(l.seq, l.record); err != nil {
				return err
			}
		}
		if size, err := t.AuditSize(); err != nil || next+page >= size {
			return err
		}
	}
}

func (t *tx) AuditHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, place := range indexes {
		h, err := get(t, func(s scanner) (h tlog.Hash, err error) {
			err = s.Scan(fixed{(*[32]byte)(&h)})
			return h, err
		}, "SELECT hash FROM audit_hashes WHERE place = ?", place)
		if err != nil {
			return nil, fmt.Errorf("audit hash %d: %w", place, err)
		}
		out[i] = h
	}
	return out, nil
}

func (t *tx) AuditHashCount() (int64, error) {
	return get(t, value[int64], "SELECT count(*) FROM audit_hashes")
}

func (t *tx) AppendAudit(seq int64, record []byte, index int64, hashes []tlog.Hash) error {
	if _, err := t.exec("INSERT INTO audit (seq, record) VALUES (?, ?)", seq, record); err != nil {
		return err
	}
	for i, h := range hashes {
		if _, err := t.exec("INSERT INTO audit_hashes (place, hash) VALUES (?, ?)", index+int64(i), h[:]); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) Checkpoint() (coordinator.Checkpoint, error) {
	return get(t, func(s scanner) (p coordinator.Checkpoint, err error) {
		err = s.Scan(&p.Network, &p.Size, fixed{(*[32]byte)(&p.Root)}, &p.Generation, &p.Signature)
		return p, err
	}, "SELECT network, size, root, generation, signature FROM audit_checkpoint")
}

func (t *tx) SetCheckpoint(p coordinator.Checkpoint) error {
	_, err := t.exec("INSERT OR REPLACE INTO audit_checkpoint (one, network, size, root, generation, signature) VALUES (1, ?, ?, ?, ?, ?)",
		string(p.Network), p.Size, p.Root[:], int64(p.Generation), p.Signature)
	return err
}

const receiptColumns = "node, generation, digest, applied, after, cut, signature, received"

func (t *tx) NewestReceipts() ([]coordinator.ReceiptRow, error) {
	return list(t, func(s scanner) (r coordinator.ReceiptRow, err error) {
		err = s.Scan(&r.Node, &r.Generation, &r.Digest, &r.Applied, &r.After, &r.Cut, &r.Signature, stamp{&r.Received})
		return r, err
	}, `SELECT `+receiptColumns+` FROM receipts r WHERE generation = (SELECT max(generation) FROM receipts WHERE node = r.node)
		AND node IN (SELECT id FROM nodes WHERE removed = 0)`)
}

func (t *tx) AddReceipts(rows []coordinator.ReceiptRow, keep int) error {
	for _, r := range rows {
		_, err := t.exec("INSERT OR IGNORE INTO receipts ("+receiptColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
			string(r.Node), int64(r.Generation), r.Digest, int64(r.Applied), int64(r.After), r.Cut, r.Signature, millis(r.Received))
		if err != nil {
			return err
		}
		_, err = t.exec(`DELETE FROM receipts WHERE node = ?1 AND generation <= (SELECT generation FROM receipts WHERE node = ?1 ORDER BY generation DESC LIMIT 1 OFFSET ?2)`,
			string(r.Node), keep)
		if err != nil {
			return err
		}
	}
	return nil
}
