package coordinator_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"picket.internal/coordinator"
)

// TestAuditTampering edits the stored log as one with access to the file could, and expects the start to refuse.
func TestAuditTampering(t *testing.T) {
	for name, statements := range map[string][]string{
		"a record edited":                {`UPDATE audit SET record = CAST(replace(CAST(record AS TEXT), 'node.remove', 'node.rename') AS BLOB) WHERE seq = (SELECT max(seq) FROM audit)`},
		"an early record edited":         {`UPDATE audit SET record = x'7b7d' WHERE seq = 0`},
		"the last record removed":        {`DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit)`},
		"a record in the middle removed": {`DELETE FROM audit WHERE seq = 2`},
		"everything removed":             {`DELETE FROM audit`, `DELETE FROM audit_hashes`, `DELETE FROM audit_checkpoint`},
		"all but the checkpoint removed": {`DELETE FROM audit`, `DELETE FROM audit_hashes`},
		"the checkpoint removed":         {`DELETE FROM audit_checkpoint`},
		"a record added":                 {`INSERT INTO audit (seq, record) SELECT max(seq) + 1, record FROM audit`},
		"a record edited and hashed anew": {
			`UPDATE audit SET record = x'7b7d' WHERE seq = 0`,
			`UPDATE audit_hashes SET hash = x'` + "f7e4e4d8a1b4b4d8a1b4b4d8a1b4b4d8a1b4b4d8a1b4b4d8a1b4b4d8a1b4b4d8" + `' WHERE place = 0`},
		"a hash added":                      {`INSERT INTO audit_hashes (place, hash) SELECT max(place) + 1, hash FROM audit_hashes`},
		"an inner hash edited":              {`UPDATE audit_hashes SET hash = zeroblob(32) WHERE place = 2`},
		"the checkpoint's size edited":      {`UPDATE audit_checkpoint SET size = size - 1`},
		"the checkpoint's signature edited": {`UPDATE audit_checkpoint SET signature = zeroblob(64)`},
		"the generation set back":           {`UPDATE network SET generation = generation - 1`},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNet(t)
			n.device("a").joinTagged("tag:db")
			if _, err := n.RemoveNode(n.ctx, operator, "a"); err != nil {
				t.Fatal(err)
			}
			if err := coordinator.VerifyAudit(n.ctx, n.store, n.config.Key.Public(), testNetwork); err != nil {
				t.Fatalf("before: %v", err)
			}
			n.stop()
			edit(t, n.dir, statements)
			s, err := openStore(n.ctx, n.dir)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			n.config.Store = s
			if _, err := coordinator.New(n.ctx, n.config); !errors.Is(err, coordinator.ErrAudit) {
				t.Errorf("New: %v", err)
			}
		})
	}
}

// One who edits a record and makes every stored hash fit it is caught by the signed root.
func TestAuditRewrittenWithItsHashes(t *testing.T) {
	n := newNet(t)
	n.device("a").joinTagged("tag:db")
	var hashes []tlog.Hash
	err := n.store.View(n.ctx, func(tx coordinator.ReadTx) error {
		read := tlog.HashReaderFunc(func(at []int64) (out []tlog.Hash, err error) {
			for _, i := range at {
				out = append(out, hashes[i])
			}
			return out, nil
		})
		return tx.AuditScan(func(seq int64, record []byte) error {
			if seq == 0 {
				record = []byte(`{}`)
			}
			h, err := tlog.StoredHashes(seq, record, read)
			hashes = append(hashes, h...)
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	n.stop()
	statements := []string{`UPDATE audit SET record = CAST('{}' AS BLOB) WHERE seq = 0`}
	for i, h := range hashes {
		statements = append(statements, fmt.Sprintf("UPDATE audit_hashes SET hash = x'%x' WHERE place = %d", h[:], i))
	}
	edit(t, n.dir, statements)
	s, err := openStore(n.ctx, n.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := coordinator.VerifyAudit(n.ctx, s, n.config.Key.Public(), testNetwork); !errors.Is(err, coordinator.ErrAudit) {
		t.Errorf("VerifyAudit: %v", err)
	}
}

func edit(t *testing.T, dir string, statements []string) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "picket.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, s := range statements {
		r, err := db.Exec(s)
		if err != nil {
			t.Fatal(err)
		}
		if n, _ := r.RowsAffected(); n == 0 {
			t.Fatalf("%s changed nothing: this test tampers with the wrong thing", s)
		}
	}
}

// Each committed change has exactly one record, and a refused one none.
func TestEveryChangeIsRecordedOnce(t *testing.T) {
	n := newNet(t)
	alice := n.admin()
	d := n.device("a").join(alice)
	for _, step := range []struct {
		do   func() error
		want []string
	}{
		{func() error { _, err := n.RenameNode(n.ctx, operator, "a", "b"); return err }, []string{"node.rename"}},
		{func() error { _, err := n.RenameNode(n.ctx, operator, "a", "c"); return err }, nil},
		{func() error { _, err := n.QuarantineNode(n.ctx, operator, "b", true); return err }, []string{"node.quarantine"}},
		{func() error { _, err := n.QuarantineNode(n.ctx, operator, "b", true); return err }, nil},
		{func() error { _, err := n.QuarantineNode(n.ctx, operator, "b", false); return err }, []string{"node.release"}},
		{func() error { return d.attach() }, []string{"node.report"}},
		{func() error { _, _, err := n.AddUser(n.ctx, alice.actor(), "bob@example.com", "member"); return err }, []string{"user.add"}},
		{func() error { _, err := n.RemoveUser(n.ctx, alice.actor(), "bob@example.com"); return err }, []string{"user.remove"}},
		{func() error { _, err := n.RemoveNode(n.ctx, alice.actor(), "b"); return err }, []string{"node.remove"}},
		{func() error { return n.signIn(alice, nil) }, []string{"user.sign-in"}},
	} {
		before := n.actions()
		_ = step.do()
		if got := n.actions()[len(before):]; len(got) != len(step.want) || len(got) == 1 && got[0] != step.want[0] {
			t.Errorf("recorded %v, want %v", got, step.want)
		}
	}
	records, err := n.Audit(n.ctx, operator, 3, 5)
	if err != nil || len(records) != 3 || records[0].Seq != 4 || records[2].Seq != 2 {
		t.Errorf("a page: %+v, %v", records, err)
	}
	last, _ := n.Audit(n.ctx, operator, 1, 0)
	if last[0].Actor != "user "+alice.Login || last[0].From != home.String() {
		t.Errorf("who: %+v", last[0])
	}
}

// The audit log is written in the change's own transaction: when it cannot be, there is no change (R21).
func TestNoChangeWithoutRecord(t *testing.T) {
	n := newNet(t)
	n.device("a").joinTagged("tag:db")
	n.config.Store = unauditable{n.store}
	c, err := coordinator.New(n.ctx, n.config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.RenameNode(n.ctx, operator, "a", "b"); err == nil {
		t.Error("a change went through without its record")
	}
	if v, err := n.Node(n.ctx, operator, "a"); err != nil || v.Name != "a" {
		t.Errorf("%+v, %v", v, err)
	}
}

// unauditable is a store that cannot write the audit log.
type unauditable struct{ coordinator.Store }

type noAudit struct{ coordinator.Tx }

func (u unauditable) Update(ctx context.Context, fn func(coordinator.Tx) error) error {
	return u.Store.Update(ctx, func(tx coordinator.Tx) error { return fn(noAudit{tx}) })
}

func (noAudit) SetCheckpoint(coordinator.Checkpoint) error { return errors.New("no room") }
