-- Times are Unix milliseconds; 0 is never. Hashes and keys are their 32 bytes.
-- +goose Up
CREATE TABLE network (
    one           INTEGER PRIMARY KEY CHECK (one = 1),
    id            TEXT    NOT NULL,
    generation    INTEGER NOT NULL CHECK (generation >= 1),
    generation_at INTEGER NOT NULL
) STRICT;

CREATE TABLE users (
    id        TEXT    PRIMARY KEY,
    login     TEXT    NOT NULL UNIQUE,
    role      TEXT    NOT NULL CHECK (role IN ('admin', 'member')),
    active    INTEGER NOT NULL CHECK (active IN (0, 1)),
    password  TEXT    NOT NULL,
    totp      BLOB    NOT NULL,
    totp_step INTEGER NOT NULL,
    created   INTEGER NOT NULL
) STRICT;

CREATE TABLE recovery_codes (
    user TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    mac  BLOB NOT NULL,
    PRIMARY KEY (user, mac)
) STRICT, WITHOUT ROWID;

-- user is empty on the first admin's token, so it is no reference.
CREATE TABLE setup_tokens (
    hash    BLOB    PRIMARY KEY,
    user    TEXT    NOT NULL,
    expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX setup_tokens_user ON setup_tokens (user);

CREATE TABLE tries (
    bucket TEXT    NOT NULL,
    at     INTEGER NOT NULL
) STRICT;
CREATE INDEX tries_bucket ON tries (bucket, at);
CREATE INDEX tries_at ON tries (at);

-- A removed node stays as a tombstone: its id is never given out again.
CREATE TABLE nodes (
    id          TEXT    PRIMARY KEY,
    device      BLOB    NOT NULL CHECK (length(device) = 32),
    name        TEXT    NOT NULL,
    owner       TEXT    NOT NULL,
    tags        TEXT    NOT NULL,
    facts       TEXT    NOT NULL,
    certificate BLOB    NOT NULL,
    created     INTEGER NOT NULL,
    expires     INTEGER NOT NULL,
    expired     INTEGER NOT NULL CHECK (expired IN (0, 1)),
    quarantined INTEGER NOT NULL CHECK (quarantined IN (0, 1)),
    removed     INTEGER NOT NULL,
    attached    INTEGER NOT NULL CHECK (attached IN (0, 1)),
    last_seen   INTEGER NOT NULL,
    lease_ends  INTEGER NOT NULL,
    CHECK ((owner = '') <> (tags = '[]'))
) STRICT;
CREATE UNIQUE INDEX nodes_device ON nodes (device) WHERE removed = 0;
CREATE UNIQUE INDEX nodes_name ON nodes (name) WHERE removed = 0;

-- held is 0 while the node lives, and then until when the address rests.
CREATE TABLE addresses (
    address TEXT    PRIMARY KEY,
    node    TEXT    NOT NULL REFERENCES nodes (id),
    place   INTEGER NOT NULL,
    held    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX addresses_node ON addresses (node);

CREATE TABLE tickets (
    id           TEXT    PRIMARY KEY,
    secret       BLOB    NOT NULL,
    code         BLOB    NOT NULL,
    device       BLOB    NOT NULL,
    facts        TEXT    NOT NULL,
    from_address TEXT    NOT NULL,
    bucket       TEXT    NOT NULL,
    created      INTEGER NOT NULL,
    expires      INTEGER NOT NULL,
    state        TEXT    NOT NULL,
    wrong        INTEGER NOT NULL,
    node         TEXT    NOT NULL
) STRICT;
CREATE INDEX tickets_pending ON tickets (expires) WHERE state = 'pending';

CREATE TABLE auth_keys (
    id       TEXT    PRIMARY KEY,
    hash     BLOB    NOT NULL UNIQUE,
    tags     TEXT    NOT NULL,
    reusable INTEGER NOT NULL CHECK (reusable IN (0, 1)),
    uses     INTEGER NOT NULL,
    created  INTEGER NOT NULL,
    expires  INTEGER NOT NULL,
    revoked  INTEGER NOT NULL CHECK (revoked IN (0, 1)),
    made_by  TEXT    NOT NULL,
    user     TEXT    NOT NULL,
    CHECK (reusable = 1 OR uses <= 1)
) STRICT;

CREATE TABLE policies (
    generation INTEGER PRIMARY KEY,
    text       BLOB    NOT NULL,
    source     TEXT    NOT NULL,
    commit_id  TEXT    NOT NULL,
    author     TEXT    NOT NULL,
    subject    TEXT    NOT NULL,
    committed  INTEGER NOT NULL,
    in_force   INTEGER NOT NULL
) STRICT;

CREATE TABLE audit (
    seq    INTEGER PRIMARY KEY,
    record BLOB    NOT NULL
) STRICT;

CREATE TABLE audit_hashes (
    place INTEGER PRIMARY KEY,
    hash  BLOB    NOT NULL CHECK (length(hash) = 32)
) STRICT;

CREATE TABLE audit_checkpoint (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    network    TEXT    NOT NULL,
    size       INTEGER NOT NULL,
    root       BLOB    NOT NULL,
    generation INTEGER NOT NULL,
    signature  BLOB    NOT NULL
) STRICT;

CREATE TABLE receipts (
    node       TEXT    NOT NULL REFERENCES nodes (id),
    generation INTEGER NOT NULL,
    digest     BLOB    NOT NULL,
    applied    INTEGER NOT NULL,
    after      INTEGER NOT NULL,
    cut        INTEGER NOT NULL,
    signature  BLOB    NOT NULL,
    received   INTEGER NOT NULL,
    PRIMARY KEY (node, generation)
) STRICT, WITHOUT ROWID;

CREATE TABLE page_sessions (
    hash    BLOB    PRIMARY KEY,
    data    BLOB    NOT NULL,
    expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX page_sessions_expires ON page_sessions (expires);
