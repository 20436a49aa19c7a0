-- Relays that run elsewhere, as operators named them. Maps are made of these rows too; they are few, and read whole with every change.
-- +goose Up
CREATE TABLE relays (
    name        TEXT    PRIMARY KEY,
    url         TEXT    NOT NULL,
    fingerprint TEXT    NOT NULL,
    created     INTEGER NOT NULL,
    made_by     TEXT    NOT NULL
) STRICT;

-- +goose Down
DROP TABLE relays;
