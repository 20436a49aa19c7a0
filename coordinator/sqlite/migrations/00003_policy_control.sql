-- What operators decided about the policy: which commit waits for confirmation, and whether the one in force is pinned.
-- +goose Up
ALTER TABLE policies ADD COLUMN put_by TEXT NOT NULL DEFAULT '';

CREATE TABLE policy_hold (
    one       INTEGER PRIMARY KEY CHECK (one = 1),
    sum       BLOB    NOT NULL CHECK (length(sum) = 32),
    commit_id TEXT    NOT NULL,
    author    TEXT    NOT NULL,
    subject   TEXT    NOT NULL,
    since     INTEGER NOT NULL,
    accepted  INTEGER NOT NULL CHECK (accepted IN (0, 1)),
    impact    TEXT    NOT NULL
) STRICT;

CREATE TABLE policy_pin (
    one       INTEGER PRIMARY KEY CHECK (one = 1),
    pinned_by TEXT    NOT NULL,
    since     INTEGER NOT NULL
) STRICT;
