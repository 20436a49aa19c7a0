package sqlite_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"picket.internal/acl"
	"picket.internal/coordinator"
	"picket.internal/coordinator/sqlite"
	"picket.internal/wgtun/key"
)

// inWorld are the tables that Nodes, Users, Policy and DNS read; readWhole are read with every snapshot, whatever changed; all else that the file
// holds is unseen by maps.
var (
	inWorld   = []string{"users", "nodes", "addresses", "policies", "dns"}
	readWhole = []string{"relays"}
	unseen    = []string{
		"network", "users_removed", "recovery_codes", "setup_tokens", "tries", "tickets", "auth_keys", "audit", "audit_hashes", "audit_checkpoint",
		"receipts", "page_sessions", "policy_hold", "policy_pin", "tokens", "goose_db_version",
	}
)

// populated has a user, a node of his, and a policy.
func populated(t *testing.T) *sqlite.Store {
	t.Helper()
	s := fresh(t)
	update(t, s, func(tx coordinator.Tx) error {
		n := sampleNode("n1", "db", 1, "100.64.0.20")
		for _, err := range []error{
			tx.InsertUser(coordinator.UserRow{ID: "u1", Login: "ann@example.com", Role: coordinator.RoleMember}), tx.InsertNode(n),
			tx.InsertPolicy(coordinator.PolicyRow{Text: []byte("{}"), Generation: 2}), tx.SetDNS(coordinator.DNSRow{Domain: "example.internal"}),
		} {
			if err != nil {
				return err
			}
		}
		return nil
	})
	return s
}

// since reads the revision and what changed after another.
func since(t *testing.T, s *sqlite.Store, revision int64) (now int64, c coordinator.Changes) {
	t.Helper()
	err := s.View(t.Context(), func(tx coordinator.ReadTx) (err error) {
		if now, err = tx.Revision(); err != nil {
			return err
		}
		c, err = tx.ChangedSince(revision)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return now, c
}

// told reports whether c names what a write to the table concerned.
func told(c coordinator.Changes, table string) bool {
	switch table {
	case "users":
		return slices.ContainsFunc(c.Users, func(u coordinator.UserRow) bool { return u.ID == "u1" }) || slices.Contains(c.UsersGone, "u1")
	case "policies":
		return c.Policy
	case "dns":
		return c.DNS
	}
	return slices.ContainsFunc(c.Nodes, func(n coordinator.NodeRow) bool { return n.ID == "n1" })
}

// No write to what maps are made of goes unnoticed, whichever column it is of and whichever statement makes it: a missed one would be a
// wrong map. A table that is added must be put on one of the two lists.
func TestEveryWriteIsNoticed(t *testing.T) {
	s := populated(t)
	tables, err := s.Strings(t.Context(), "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		if !slices.Contains(readWhole, table) && slices.Contains(unseen, table) == slices.Contains(inWorld, table) {
			t.Errorf("table %s: is the coordinator's world made of it? Then it needs triggers as in 00005_changes.sql", table)
		}
	}
	statements := []struct{ table, sql string }{
		{"users", "INSERT OR REPLACE INTO users (id, login, role, active, password, totp, totp_step, created) VALUES ('u9', 'ann@example.com', 'member', 1, '', x'', 0, 0)"},
		{"users", "INSERT INTO users (id, login, role, active, password, totp, totp_step, created) VALUES ('u1', 'eve@example.com', 'member', 1, '', x'', 0, 0)"},
		{"users", "DELETE FROM users WHERE id = 'u1'"},
		{"addresses", "INSERT INTO addresses (address, node, place, held) VALUES ('100.64.0.21', 'n1', 1, 0)"},
		{"addresses", "INSERT OR REPLACE INTO addresses (address, node, place, held) VALUES ('100.64.0.21', 'n1', 2, 0)"},
		{"addresses", "DELETE FROM addresses WHERE address = '100.64.0.21'"},
		{"policies", "INSERT INTO policies (generation, text, source, commit_id, author, subject, committed, in_force) VALUES (9, x'', '', '', '', '', 0, 0)"},
		{"policies", "DELETE FROM policies WHERE generation = 9"},
		{"dns", "DELETE FROM dns"},
		{"dns", "INSERT INTO dns (one, domain, config, set_by, since) VALUES (1, '', '{}', '', 0)"},
	}
	for _, table := range inWorld {
		columns, err := s.Strings(t.Context(), "SELECT name FROM pragma_table_info(?)", table)
		if err != nil {
			t.Fatal(err)
		}
		for _, column := range columns {
			if column != "changed" {
				statements = slices.Insert(statements, 0, struct{ table, sql string }{table, fmt.Sprintf("UPDATE %[1]s SET %[2]s = %[2]s", table, column)})
			}
		}
	}
	for _, st := range statements {
		before, _ := since(t, s, 0)
		if err := s.Exec(t.Context(), st.sql); err != nil {
			t.Fatalf("%s: %v", st.sql, err)
		}
		if now, c := since(t, s, before); now <= before || !told(c, st.table) {
			t.Errorf("%s: revision %d after %d, and changed is %+v", st.sql, now, before, c)
		}
	}
}

// What cannot be told as a change of a row is refused.
func TestRowsKeepTheirIDs(t *testing.T) {
	s := populated(t)
	for _, statement := range []string{
		"DELETE FROM nodes", "UPDATE nodes SET id = 'n2' WHERE id = 'n1'", "UPDATE users SET id = 'u2' WHERE id = 'u1'",
		"INSERT OR REPLACE INTO nodes SELECT * FROM nodes",
	} {
		if err := s.Exec(t.Context(), statement); err == nil || !strings.Contains(err.Error(), "keeps") && !strings.Contains(err.Error(), "tombstone") {
			t.Errorf("%s: %v", statement, err)
		}
	}
}

// Each row is told once, at its newest, and one's own revision tells nothing; what a failed transaction wrote raises none.
func TestChangedSince(t *testing.T) {
	s := populated(t)
	start, _ := since(t, s, 0)
	_ = s.Update(t.Context(), func(tx coordinator.Tx) error {
		_ = tx.DeleteUser("u1")
		return fmt.Errorf("changed my mind")
	})
	if now, c := since(t, s, start); now != start || len(c.Users)+len(c.UsersGone)+len(c.Nodes) > 0 || c.Policy {
		t.Errorf("after nothing: revision %d, was %d, %+v", now, start, c)
	}
	n := sampleNode("n1", "web", 1, "100.64.0.20")
	update(t, s, func(tx coordinator.Tx) error { return tx.UpdateNode(n) })
	n.Removed = time.UnixMilli(5).UTC()
	update(t, s, func(tx coordinator.Tx) error {
		if err := tx.UpdateNode(n); err != nil {
			return err
		}
		return tx.HoldAddresses(n.ID, tx.Now())
	})
	update(t, s, func(tx coordinator.Tx) error { return tx.DeleteUser("u1") })
	_, c := since(t, s, start)
	if len(c.Nodes) != 1 || c.Nodes[0].Name != "web" || !c.Nodes[0].Removed.Equal(n.Removed) || !slices.Equal(c.UsersGone, []acl.UserID{"u1"}) || c.Policy {
		t.Errorf("%+v", c)
	}
}

// Keys are found in the certificates where they stand, by an index, whatever the number of nodes.
func TestKeysTaken(t *testing.T) {
	s, n := fresh(t), sampleNode("n1", "db", 1, "100.64.0.20")
	cert := key.Certificate{Node: "n1", Serial: 1, Tunnel: key.NewTunnel().Public(), Probe: key.NewProbe().Public(), NotBefore: time.Unix(1, 0), NotAfter: time.Unix(2, 0)}
	n.Certificate = cert.Sign(key.NewDevice())
	update(t, s, func(tx coordinator.Tx) error { return tx.InsertNode(n) })
	taken := func(id acl.NodeID, tunnel key.TunnelPublic, probe key.ProbePublic) (taken bool) {
		t.Helper()
		if err := s.View(t.Context(), func(tx coordinator.ReadTx) (err error) { taken, err = tx.KeysTaken(id, tunnel, probe); return err }); err != nil {
			t.Fatal(err)
		}
		return taken
	}
	otherTunnel, otherProbe := key.NewTunnel().Public(), key.NewProbe().Public()
	for name, got := range map[string]bool{
		"its tunnel key":              taken("n2", cert.Tunnel, otherProbe),
		"its probe key":               taken("n2", otherTunnel, cert.Probe),
		"its tunnel key as probe key": taken("n2", otherTunnel, key.ProbePublic(cert.Tunnel)),
		"its probe key as tunnel key": taken("n2", key.TunnelPublic(cert.Probe), otherProbe),
	} {
		if !got {
			t.Errorf("%s of another node is free", name)
		}
	}
	if taken("n1", cert.Tunnel, cert.Probe) || taken("n2", otherTunnel, otherProbe) {
		t.Error("its own keys, or keys of nobody, are taken")
	}
	n.Removed = time.UnixMilli(5)
	update(t, s, func(tx coordinator.Tx) error { return tx.UpdateNode(n) })
	if taken("n2", cert.Tunnel, cert.Probe) {
		t.Error("a removed node's keys are taken")
	}
	plan, err := s.KeysTakenPlan(t.Context())
	if err != nil || slices.ContainsFunc(plan, func(l string) bool { return strings.HasPrefix(l, "SCAN nodes") }) {
		t.Errorf("%v; every node is looked at:\n%s", err, strings.Join(plan, "\n"))
	}
}
