package sqlite

import (
	"picket.internal/acl"
	"picket.internal/coordinator"
)

// Which rows changed is noted by triggers (migrations/00005_changes.sql, 00007_dns.sql), not by the statements in this package.

func (t *tx) Revision() (int64, error) {
	return get(t, value[int64], "SELECT revision FROM network")
}

func (t *tx) ChangedSince(revision int64) (c coordinator.Changes, err error) {
	if c.Users, err = list(t, scanUser, "SELECT "+userColumns+" FROM users WHERE changed > ?", revision); err != nil {
		return c, err
	}
	if c.UsersGone, err = list(t, value[acl.UserID], "SELECT id FROM users_removed WHERE changed > ?", revision); err != nil {
		return c, err
	}
	if c.Nodes, err = list(t, scanNode, "SELECT "+nodeColumns+" FROM nodes WHERE changed > ?", revision); err != nil {
		return c, err
	}
	if c.DNS, err = get(t, value[bool], "SELECT dns_changed > ? FROM network", revision); err != nil {
		return c, err
	}
	c.Policy, err = get(t, value[bool], "SELECT policy_changed > ? FROM network", revision)
	return c, err
}
