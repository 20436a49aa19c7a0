-- What operators say about names, as JSON (protocol.DNS), and the domain of nodes' names; without a row, nothing and the usual one.
-- Nodes learn of their domain by a generation of its own: one generation of a map has one content.
-- +goose Up
ALTER TABLE network ADD COLUMN dns_changed INTEGER NOT NULL DEFAULT 0;
UPDATE network SET generation = generation + 1;

CREATE TABLE dns (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    domain  TEXT    NOT NULL,
    config  TEXT    NOT NULL,
    set_by  TEXT    NOT NULL,
    since   INTEGER NOT NULL
) STRICT;

-- +goose StatementBegin
CREATE TRIGGER dns_inserted AFTER INSERT ON dns BEGIN
    UPDATE network SET revision = revision + 1, dns_changed = revision + 1;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER dns_updated AFTER UPDATE ON dns BEGIN
    UPDATE network SET revision = revision + 1, dns_changed = revision + 1;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER dns_deleted AFTER DELETE ON dns BEGIN
    UPDATE network SET revision = revision + 1, dns_changed = revision + 1;
END;
-- +goose StatementEnd
