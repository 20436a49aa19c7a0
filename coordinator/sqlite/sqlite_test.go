package sqlite_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/pressly/goose/v3"
	"golang.org/x/mod/sumdb/tlog"

	"picket.internal/acl"
	"picket.internal/coordinator"
	"picket.internal/coordinator/protocol"
	"picket.internal/coordinator/sqlite"
	"picket.internal/wgtun/key"
)

const network = protocol.NetworkID("net-a")

var (
	_ coordinator.Store = (*sqlite.Store)(nil)
	_ scs.CtxStore      = (*sqlite.Sessions)(nil)
)

func open(t *testing.T, path string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path, network)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func fresh(t *testing.T) *sqlite.Store {
	t.Helper()
	return open(t, filepath.Join(t.TempDir(), "picket.db"))
}

// made is the path of a sound, closed database.
func made(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "picket.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func raw(t *testing.T, path string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
}

// Every refusal leaves the file as it was.
func TestOpenRefuses(t *testing.T) {
	for _, tc := range []struct {
		name string
		make func(t *testing.T) string
		want error
		says string
	}{
		{"a database from a newer version", func(t *testing.T) string {
			path := made(t)
			raw(t, path, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)")
			return path
		}, sqlite.ErrNewer, "start the newer version"},
		{"another network's", func(t *testing.T) string {
			path := made(t)
			raw(t, path, "UPDATE network SET id = 'net-b'")
			return path
		}, sqlite.ErrForeign, "net-b"},
		{"one that does not say whose it is", func(t *testing.T) string {
			path := made(t)
			raw(t, path, "DELETE FROM network")
			return path
		}, sqlite.ErrCorrupt, "backup"},
		{"one that lacks a table", func(t *testing.T) string {
			path := made(t)
			raw(t, path, "DROP TABLE network")
			return path
		}, sqlite.ErrCorrupt, "backup"},
		{"another program's", func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "picket.db")
			raw(t, path, "CREATE TABLE songs (name TEXT)", "INSERT INTO songs VALUES ('x')")
			return path
		}, sqlite.ErrForeign, "another program"},
		{"an empty file", func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "picket.db")
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}, sqlite.ErrCorrupt, "holds nothing"},
		{"a file of something else", func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "picket.db")
			if err := os.WriteFile(path, bytes.Repeat([]byte("not a database. "), 1000), 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}, sqlite.ErrCorrupt, "backup"},
		{"one cut short", func(t *testing.T) string {
			path := made(t)
			info, _ := os.Stat(path)
			if err := os.Truncate(path, info.Size()/2); err != nil {
				t.Fatal(err)
			}
			return path
		}, sqlite.ErrCorrupt, "backup"},
		{"one with pages overwritten", func(t *testing.T) string {
			path := made(t)
			b, _ := os.ReadFile(path)
			for i := 4096; i < len(b); i++ {
				b[i] = 0xa5
			}
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}, sqlite.ErrCorrupt, "backup"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := tc.make(t)
			before, _ := os.ReadFile(path)
			s, err := sqlite.Open(t.Context(), path, network)
			if s != nil {
				s.Close()
			}
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want %v saying %q", err, tc.want, tc.says)
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("the file was changed")
			}
		})
	}
	if _, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "none", "picket.db"), network); err == nil {
		t.Error("a directory that is not there was taken")
	}
	if _, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "picket.db"), "no network!"); err == nil {
		t.Error("a network id that is none was taken")
	}
}

func TestCreateIsWholeAndPrivate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "picket.db")
	// What an attempt that was cut short left behind is no obstacle.
	if err := os.WriteFile(path+".new", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, path)
	for _, name := range []string{"picket.db", "picket.db-wal", "picket.db-shm"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		} else if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", name, info.Mode().Perm())
		}
	}
	if left, _ := filepath.Glob(path + ".new*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestFullDisk(t *testing.T) {
	path := made(t)
	s := open(t, path)
	if err := s.Limit(t.Context()); err != nil {
		t.Fatal(err)
	}
	var err error
	for i := 0; i < 1000 && err == nil; i++ {
		err = s.Update(t.Context(), func(tx coordinator.Tx) error {
			return tx.InsertPolicy(coordinator.PolicyRow{Text: make([]byte, 10_000), Generation: uint64(i + 1)})
		})
	}
	var e *coordinator.Error
	if !errors.As(err, &e) || e.Code != protocol.CodeUnavailable || !strings.Contains(e.Message, "the disk holding "+filepath.Dir(path)+" is full") {
		t.Fatalf("got %v", err)
	}
	if err := s.View(t.Context(), func(tx coordinator.ReadTx) error { _, err := tx.Policy(); return err }); err != nil {
		t.Errorf("reading: %v", err)
	}
}

func update(t *testing.T, s *sqlite.Store, fn func(coordinator.Tx) error) {
	t.Helper()
	if err := s.Update(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func TestFailedUpdateLeavesNothing(t *testing.T) {
	s := fresh(t)
	mine := errors.New("mine")
	err := s.Update(t.Context(), func(tx coordinator.Tx) error {
		if err := tx.SetGeneration(7); err != nil {
			return err
		}
		return mine
	})
	if !errors.Is(err, mine) {
		t.Errorf("got %v", err)
	}
	func() {
		defer func() { _ = recover() }()
		_ = s.Update(t.Context(), func(tx coordinator.Tx) error {
			if err := tx.SetGeneration(8); err != nil {
				return err
			}
			panic("in the middle")
		})
	}()
	_ = s.View(t.Context(), func(tx coordinator.ReadTx) error {
		if g, _, err := tx.Generation(); g != 1 || err != nil {
			t.Errorf("generation %d, %v", g, err)
		}
		return nil
	})
	update(t, s, func(tx coordinator.Tx) error { return tx.SetGeneration(2) }) // the writer is free again
}

func TestViewCannotWrite(t *testing.T) {
	s := fresh(t)
	err := s.View(t.Context(), func(tx coordinator.ReadTx) error { return tx.(coordinator.Tx).SetGeneration(9) })
	if err == nil {
		t.Error("a reading transaction wrote")
	}
}

func TestGenerationOnlyRises(t *testing.T) {
	s := fresh(t)
	update(t, s, func(tx coordinator.Tx) error { return tx.SetGeneration(5) })
	for _, g := range []uint64{5, 4, 0} {
		if err := s.Update(t.Context(), func(tx coordinator.Tx) error { return tx.SetGeneration(g) }); err == nil {
			t.Errorf("generation 5 became %d", g)
		}
	}
}

func TestUpdatesDoNotOverlap(t *testing.T) {
	s := fresh(t)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			err := s.Update(t.Context(), func(tx coordinator.Tx) error {
				g, _, err := tx.Generation()
				if err != nil {
					return err
				}
				return tx.SetGeneration(g + 1)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	_ = s.View(t.Context(), func(tx coordinator.ReadTx) error {
		if g, _, _ := tx.Generation(); g != 51 {
			t.Errorf("50 updates made generation %d", g)
		}
		return nil
	})
}

func TestViewIsOneState(t *testing.T) {
	s := fresh(t)
	err := s.View(t.Context(), func(tx coordinator.ReadTx) error {
		before, _, err := tx.Generation()
		if err != nil {
			return err
		}
		update(t, s, func(tx coordinator.Tx) error { return tx.SetGeneration(before + 1) })
		if after, _, _ := tx.Generation(); after != before {
			t.Errorf("within one View the generation went from %d to %d", before, after)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func sampleNode(id, name string, device byte, address string) coordinator.NodeRow {
	at := time.UnixMilli(1_700_000_000_123).UTC()
	return coordinator.NodeRow{
		ID: acl.NodeID(id), Device: key.DevicePublic{device}, Name: name, Tags: []string{"tag:db"}, Addresses: []netip.Addr{netip.MustParseAddr(address)},
		Facts: protocol.Facts{Hostname: name, OS: "linux"}, Certificate: []byte{1, 2}, Created: at, Expires: at.Add(time.Hour),
		Presence: coordinator.Presence{Attached: true, LastSeen: at, LeaseEnds: at.Add(time.Minute)},
		Routing:  coordinator.Routing{Advertised: []coordinator.Advertised{{Route: netip.MustParsePrefix("10.33.0.0/16"), Since: at}}, Away: true},
	}
}

func TestNodeRows(t *testing.T) {
	s := fresh(t)
	n := sampleNode("n1", "db", 1, "100.64.0.20")
	n.Addresses = append(n.Addresses, netip.MustParseAddr("fd7a::20"))
	update(t, s, func(tx coordinator.Tx) error { return tx.InsertNode(n) })
	read := func() (got coordinator.NodeRow) {
		t.Helper()
		if err := s.View(t.Context(), func(tx coordinator.ReadTx) (err error) { got, err = tx.NodeByID("n1"); return err }); err != nil {
			t.Fatal(err)
		}
		return got
	}
	same := cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})
	if diff := cmp.Diff(n, read(), same); diff != "" {
		t.Errorf("inserted and read: %s", diff)
	}
	for name, other := range map[string]coordinator.NodeRow{
		"the same name":    sampleNode("n2", "db", 2, "100.64.0.21"),
		"the same device":  sampleNode("n2", "web", 1, "100.64.0.21"),
		"the same address": sampleNode("n2", "web", 2, "100.64.0.20"),
		"the same id":      sampleNode("n1", "web", 2, "100.64.0.21"),
	} {
		if err := s.Update(t.Context(), func(tx coordinator.Tx) error { return tx.InsertNode(other) }); !errors.Is(err, coordinator.ErrTaken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	both := sampleNode("n2", "web", 2, "100.64.0.21")
	both.Owner = "u1"
	if err := s.Update(t.Context(), func(tx coordinator.Tx) error { return tx.InsertNode(both) }); err == nil {
		t.Error("a node with an owner and tags was taken")
	}
	n.Removed = n.Created.Add(time.Minute)
	update(t, s, func(tx coordinator.Tx) error {
		return errors.Join(tx.UpdateNode(n), tx.HoldAddresses("n1", tx.Now().Add(time.Hour)))
	})
	if diff := cmp.Diff(n, read(), same); diff != "" {
		t.Errorf("a tombstone: %s", diff)
	}
	update(t, s, func(tx coordinator.Tx) error { return tx.InsertNode(sampleNode("n2", "db", 1, "100.64.0.21")) }) // name and device are free
	if err := s.Update(t.Context(), func(tx coordinator.Tx) error { return tx.InsertNode(sampleNode("n3", "x", 3, "100.64.0.20")) }); !errors.Is(err, coordinator.ErrTaken) {
		t.Errorf("a resting address: %v", err)
	}
	_ = s.View(t.Context(), func(tx coordinator.ReadTx) error {
		for name, find := range map[string]func() error{
			"id":     func() error { _, err := tx.NodeByID("n9"); return err },
			"name":   func() error { _, err := tx.NodeByName("nope"); return err },
			"device": func() error { _, err := tx.NodeByDevice(key.DevicePublic{9}); return err },
			"login":  func() error { _, err := tx.UserByLogin("nope"); return err },
			"ticket": func() error { _, err := tx.Ticket("nope"); return err },
			"policy": func() error { _, err := tx.Policy(); return err },
			"check":  func() error { _, err := tx.Checkpoint(); return err },
		} {
			if err := find(); !errors.Is(err, coordinator.ErrNoRow) {
				t.Errorf("by %s: %v", name, err)
			}
		}
		return nil
	})
}

func TestNodeNames(t *testing.T) {
	s := fresh(t)
	update(t, s, func(tx coordinator.Tx) error {
		for i, name := range []string{"web", "web-2", "web-server", "web0", "webb", "we", "db"} {
			n := sampleNode("n"+name, name, byte(i+1), netip.AddrFrom4([4]byte{100, 64, 1, byte(i + 1)}).String())
			if err := tx.InsertNode(n); err != nil {
				return err
			}
		}
		got, err := tx.NodeNames("web")
		if diff := cmp.Diff([]string{"web", "web-2", "web-server"}, got); diff != "" {
			t.Error(diff)
		}
		return err
	})
}

func TestReceiptsAreKeptWithinBounds(t *testing.T) {
	s := fresh(t)
	update(t, s, func(tx coordinator.Tx) error {
		if err := tx.InsertNode(sampleNode("n1", "db", 1, "100.64.0.20")); err != nil {
			return err
		}
		var rows []coordinator.ReceiptRow
		for g := range uint64(80) {
			rows = append(rows, coordinator.ReceiptRow{Node: "n1", Generation: g + 1, Digest: []byte{1}, Signature: []byte{2}, Received: tx.Now()})
		}
		return tx.AddReceipts(rows, 50)
	})
	if got := s.Count(t.Context(), "receipts"); got != 50 {
		t.Errorf("%d receipts are kept", got)
	}
	_ = s.View(t.Context(), func(tx coordinator.ReadTx) error {
		rows, err := tx.NewestReceipts()
		if err != nil || len(rows) != 1 || rows[0].Generation != 80 {
			t.Errorf("%+v, %v", rows, err)
		}
		return nil
	})
}

func TestMissingAuditHashIsAnError(t *testing.T) {
	s := fresh(t)
	update(t, s, func(tx coordinator.Tx) error { return tx.AppendAudit(0, []byte("{}"), 0, []tlog.Hash{{1}}) })
	err := s.View(t.Context(), func(tx coordinator.ReadTx) error { _, err := tx.AuditHashes([]int64{0, 1}); return err })
	if !errors.Is(err, coordinator.ErrNoRow) {
		t.Errorf("got %v", err)
	}
}

func TestSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "picket.db")
		s := open(t, path)
		p := s.Sessions()
		ctx := context.Background()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		const token = "a-very-secret-session-token"
		must(p.CommitCtx(ctx, token, []byte("one"), time.Now().Add(time.Hour)))
		must(p.CommitCtx(ctx, token, []byte("two"), time.Now().Add(time.Hour)))
		if data, ok, err := p.FindCtx(ctx, token); !ok || string(data) != "two" || err != nil {
			t.Errorf("%q, %v, %v", data, ok, err)
		}
		if _, ok, err := p.FindCtx(ctx, token+"x"); ok || err != nil {
			t.Errorf("an unknown token: %v, %v", ok, err)
		}
		if err := p.CommitCtx(ctx, "big", make([]byte, 1<<20), time.Now().Add(time.Hour)); err == nil {
			t.Error("a session of a megabyte was stored")
		}
		for _, name := range []string{path, path + "-wal"} {
			if b, _ := os.ReadFile(name); bytes.Contains(b, []byte(token)) {
				t.Errorf("%s holds the token", name)
			}
		}
		must(p.CommitCtx(ctx, "other", nil, time.Now().Add(2*time.Hour)))
		must(p.DeleteCtx(ctx, "other"))
		must(p.DeleteCtx(ctx, "other"))
		if _, ok, _ := p.FindCtx(ctx, "other"); ok {
			t.Error("a deleted session is found")
		}
		time.Sleep(time.Hour)
		if _, ok, _ := p.FindCtx(ctx, token); ok {
			t.Error("a session is found after its end")
		}
		must(p.CommitCtx(ctx, "new", nil, time.Now().Add(time.Hour)))
		if got := s.Count(ctx, "page_sessions"); got != 1 {
			t.Errorf("%d sessions are kept", got)
		}
		must(s.Close())
	})
}

// The store itself spends a key only while it may be (R4), whoever asks.
func TestSpendAuthKey(t *testing.T) {
	s := fresh(t)
	insert := func(id string, change func(*coordinator.AuthKeyRow)) [32]byte {
		k := coordinator.AuthKeyRow{ID: id, Tags: []string{"tag:db"}, Created: time.Now(), Expires: time.Now().Add(time.Hour)}
		copy(k.Hash[:], id)
		if change != nil {
			change(&k)
		}
		update(t, s, func(tx coordinator.Tx) error { return tx.InsertAuthKey(k) })
		return k.Hash
	}
	spend := func(hash [32]byte) (ok bool) {
		update(t, s, func(tx coordinator.Tx) (err error) { ok, err = tx.SpendAuthKey(hash); return err })
		return ok
	}
	single := insert("single", nil)
	many := insert("many", func(k *coordinator.AuthKeyRow) { k.Reusable = true })
	for i, want := range []bool{true, false} {
		if got := spend(single); got != want {
			t.Errorf("a single-use key, use %d: %v", i+1, got)
		}
		if !spend(many) {
			t.Errorf("a reusable key, use %d, was refused", i+1)
		}
	}
	if spend(insert("expired", func(k *coordinator.AuthKeyRow) { k.Expires = time.Now().Add(-time.Second) })) {
		t.Error("an expired key was spent")
	}
	if spend(insert("revoked", func(k *coordinator.AuthKeyRow) { k.Revoked = true })) {
		t.Error("a revoked key was spent")
	}
	if spend([32]byte{9}) {
		t.Error("an unknown key was spent")
	}
}

// The store itself keeps back a token that is over (R4), whoever asks.
func TestValidToken(t *testing.T) {
	s, now := fresh(t), time.Now().UTC().Truncate(time.Millisecond)
	view := func(fn func(coordinator.ReadTx) error) {
		t.Helper()
		if err := s.View(t.Context(), fn); err != nil {
			t.Error(err)
		}
	}
	insert := func(id string, change func(*coordinator.TokenRow)) (r coordinator.TokenRow) {
		r = coordinator.TokenRow{ID: id, Scope: "policy:read", Note: "CI", Created: now, Expires: now.Add(time.Hour), By: "user x", User: "u1"}
		copy(r.Hash[:], id)
		if change != nil {
			change(&r)
		}
		update(t, s, func(tx coordinator.Tx) error { return tx.InsertToken(r) })
		return r
	}
	good := insert("good", nil)
	insert("expired", func(r *coordinator.TokenRow) { r.Expires = now.Add(-time.Second) })
	insert("revoked", func(r *coordinator.TokenRow) { r.Revoked = true })
	view(func(tx coordinator.ReadTx) error {
		for _, id := range []string{"expired", "revoked", "none", ""} {
			if r, err := tx.ValidToken(id); !errors.Is(err, coordinator.ErrNoRow) {
				t.Errorf("%q: %+v, %v", id, r, err)
			}
		}
		for what, get := range map[string]func() (coordinator.TokenRow, error){
			"by id":   func() (coordinator.TokenRow, error) { return tx.ValidToken("good") },
			"by hash": func() (coordinator.TokenRow, error) { return tx.TokenByHash(good.Hash) },
		} {
			got, err := get()
			if d := cmp.Diff(good, got); d != "" || err != nil {
				t.Errorf("%s: %v %s", what, err, d)
			}
		}
		return nil
	})
	update(t, s, func(tx coordinator.Tx) error {
		if n, err := tx.RevokeTokensOf("u1"); n != 2 || err != nil {
			t.Errorf("%d revoked, %v", n, err)
		}
		if err := tx.UseToken("none"); !errors.Is(err, coordinator.ErrNoRow) {
			t.Errorf("a token that is not there was used: %v", err)
		}
		return tx.UseToken("good")
	})
	view(func(tx coordinator.ReadTx) error {
		r, err := tx.TokenByHash(good.Hash)
		if err != nil || !r.Revoked || r.Used.IsZero() {
			t.Errorf("%+v, %v", r, err)
		}
		return nil
	})
}

func TestTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fresh(t)
		try := func(bucket string) (ok bool) {
			update(t, s, func(tx coordinator.Tx) (err error) { ok, err = tx.Try(bucket, 2, time.Minute); return err })
			return ok
		}
		for i, want := range []bool{true, true, false} {
			if got := try("a"); got != want {
				t.Errorf("try %d of a: %v", i+1, got)
			}
		}
		if !try("b") {
			t.Error("b is throttled for what a did")
		}
		time.Sleep(time.Minute)
		if !try("a") || s.Count(t.Context(), "tries") != 1 {
			t.Errorf("after the window %d tries are kept", s.Count(t.Context(), "tries"))
		}
		update(t, s, func(tx coordinator.Tx) error { return tx.ClearTries("a") })
		if s.Count(t.Context(), "tries") != 0 {
			t.Error("cleared tries are kept")
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// first is the path of a database as the first version of its schema made it.
func first(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "picket.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	p, err := goose.NewProvider(goose.DialectSQLite3, db, os.DirFS("migrations"), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	now, err := sql.Open("sqlite", made(t))
	if err != nil {
		t.Fatal(err)
	}
	defer now.Close()
	var id string
	if err := now.QueryRow("PRAGMA application_id").Scan(&id); err != nil {
		t.Fatal(err)
	}
	raw(t, path, "PRAGMA application_id = "+id, "INSERT INTO network (one, id, generation, generation_at) VALUES (1, '"+string(network)+"', 3, 0)")
	return path
}

// A database from before signers were kept is brought up to date, and what it holds stays.
func TestPolicyFromBeforeSigners(t *testing.T) {
	path := first(t)
	raw(t, path, "INSERT INTO policies (generation, text, source, commit_id, author, subject, committed, in_force) VALUES (3, x'7b7d', 'repo', 'c0ffee', 'Ann', 'first', 1000, 2000)")
	s := open(t, path)
	old := coordinator.PolicyRow{Text: []byte("{}"), Source: "repo", Commit: "c0ffee", Author: "Ann", Subject: "first",
		Committed: time.UnixMilli(1000), InForce: time.UnixMilli(2000), Generation: 3}
	next := old
	next.Generation, next.Signer, next.SignerKey = 4, "ann@example.com", "SHA256:abc"
	for _, want := range []coordinator.PolicyRow{old, next} {
		if want.Generation > 3 {
			update(t, s, func(tx coordinator.Tx) error { return tx.InsertPolicy(want) })
		}
		var got coordinator.PolicyRow
		err := s.View(t.Context(), func(tx coordinator.ReadTx) (err error) { got, err = tx.Policy(); return err })
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	}
}

func TestPoliciesAreKeptWithinBounds(t *testing.T) {
	s := fresh(t)
	update(t, s, func(tx coordinator.Tx) error {
		for g := range uint64(10) {
			p := coordinator.PolicyRow{Text: bytes.Repeat([]byte("x"), 1000), Commit: fmt.Sprint(g), Generation: g + 1, By: "operator", InForce: time.UnixMilli(int64(g) + 1).UTC()}
			if err := tx.InsertPolicy(p); err != nil {
				return err
			}
		}
		return nil
	})
	kept := func() (commits []string) {
		t.Helper()
		err := s.View(t.Context(), func(tx coordinator.ReadTx) error {
			return tx.PolicyScan(func(p coordinator.PolicyRow) error {
				if len(p.Text) != 1000 || p.By != "operator" || p.InForce.IsZero() {
					t.Errorf("%+v", p)
				}
				commits = append(commits, p.Commit)
				return nil
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		return commits
	}
	for _, c := range []struct {
		rows int
		size int64
		want string
	}{
		{100, 1 << 20, "9 8 7 6 5 4 3 2 1 0"},
		{8, 1 << 20, "9 8 7 6 5 4 3 2"},
		{100, 5500, "9 8 7 6 5"},
		{2, 5500, "9 8"},
		{100, 10, "9"},
		{0, 0, "9"},
	} {
		update(t, s, func(tx coordinator.Tx) error { return tx.PrunePolicies(c.rows, c.size) })
		if got := strings.Join(kept(), " "); got != c.want {
			t.Errorf("%d rows, %d bytes: kept %s, want %s", c.rows, c.size, got, c.want)
		}
	}
	stop := errors.New("enough")
	err := s.View(t.Context(), func(tx coordinator.ReadTx) error {
		return tx.PolicyScan(func(coordinator.PolicyRow) error { return stop })
	})
	if !errors.Is(err, stop) {
		t.Errorf("fn's error came back as %v", err)
	}
}

func TestHoldAndPin(t *testing.T) {
	s := fresh(t)
	hold := coordinator.HoldRow{
		Sum: [32]byte{1, 2}, Commit: "c1", Author: "Ann", Subject: "less", Since: time.UnixMilli(5).UTC(), Accepted: true,
		Impact: coordinator.Impact{Live: 20, Cut: 7, Cuts: []coordinator.CutFlows{{Src: "a", Dst: "b", Ports: "tcp 1", Rule: "r", Flows: 7}}},
	}
	pin := coordinator.PinRow{By: "operator uid 0", Since: time.UnixMilli(6).UTC()}
	look := func(wantHold, wantPin bool) {
		t.Helper()
		update(t, s, func(tx coordinator.Tx) error {
			if h, err := tx.Hold(); wantHold && (err != nil || cmp.Diff(hold, h) != "") || !wantHold && !errors.Is(err, coordinator.ErrNoRow) {
				t.Errorf("hold %+v, %v", h, err)
			}
			if p, err := tx.Pin(); wantPin && (err != nil || p != pin) || !wantPin && !errors.Is(err, coordinator.ErrNoRow) {
				t.Errorf("pin %+v, %v", p, err)
			}
			return nil
		})
	}
	look(false, false)
	update(t, s, func(tx coordinator.Tx) error {
		return errors.Join(tx.SetHold(coordinator.HoldRow{Commit: "older"}), tx.SetHold(hold), tx.SetPin(coordinator.PinRow{By: "x"}), tx.SetPin(pin))
	})
	look(true, true)
	for _, want := range []bool{true, false} {
		update(t, s, func(tx coordinator.Tx) error {
			was, err := tx.DropHold()
			wasPin, err2 := tx.DropPin()
			if was != want || wasPin != want {
				t.Errorf("dropped %v, %v, want %v", was, wasPin, want)
			}
			return errors.Join(err, err2)
		})
		look(false, false)
	}
}
