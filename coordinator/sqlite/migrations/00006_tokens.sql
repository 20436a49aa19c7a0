-- What programs elsewhere ask with: each reads what its scope names, and changes nothing.
-- +goose Up
CREATE TABLE tokens (
    id      TEXT    PRIMARY KEY,
    hash    BLOB    NOT NULL UNIQUE CHECK (length(hash) = 32),
    scope   TEXT    NOT NULL,
    note    TEXT    NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    used    INTEGER NOT NULL,
    revoked INTEGER NOT NULL CHECK (revoked IN (0, 1)),
    made_by TEXT    NOT NULL,
    user    TEXT    NOT NULL
) STRICT;
