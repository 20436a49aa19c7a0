-- What the coordinator's picture of the network is made of (users, nodes with their addresses, policies) says of each row when it was written
-- last, so that a change is read at its own size. Triggers see to that, whichever statement writes: it must not be possible to forget.
--
-- network.revision counts the writes; users.changed and nodes.changed are the revision of a row's last one, users_removed is what is left
-- of removed users, and network.policy_changed is the revision of the last write to policies. None of these is written but here.
-- REPLACE tells the triggers of what it deletes only under PRAGMA recursive_triggers, hence the conditions on stamping.
-- +goose Up
ALTER TABLE network ADD COLUMN revision       INTEGER NOT NULL DEFAULT 0;
ALTER TABLE network ADD COLUMN policy_changed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE users   ADD COLUMN changed        INTEGER NOT NULL DEFAULT 0;
ALTER TABLE nodes   ADD COLUMN changed        INTEGER NOT NULL DEFAULT 0;
CREATE INDEX users_changed ON users (changed);
CREATE INDEX nodes_changed ON nodes (changed);

CREATE TABLE users_removed (
    id      TEXT    PRIMARY KEY,
    changed INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX users_removed_changed ON users_removed (changed);

-- +goose StatementBegin
CREATE TRIGGER users_inserted AFTER INSERT ON users BEGIN
    UPDATE network SET revision = revision + 1;
    UPDATE users SET changed = (SELECT revision FROM network) WHERE id = NEW.id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER users_updated AFTER UPDATE ON users WHEN NEW.changed = OLD.changed BEGIN
    UPDATE network SET revision = revision + 1;
    UPDATE users SET changed = (SELECT revision FROM network) WHERE id = NEW.id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER users_deleted AFTER DELETE ON users BEGIN
    UPDATE network SET revision = revision + 1;
    INSERT OR REPLACE INTO users_removed (id, changed) VALUES (OLD.id, (SELECT revision FROM network));
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER users_renumbered BEFORE UPDATE OF id ON users WHEN NEW.id <> OLD.id BEGIN
    SELECT RAISE(ABORT, 'a user keeps his id');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER nodes_inserted AFTER INSERT ON nodes BEGIN
    UPDATE network SET revision = revision + 1;
    UPDATE nodes SET changed = (SELECT revision FROM network) WHERE id = NEW.id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER nodes_updated AFTER UPDATE ON nodes WHEN NEW.changed = OLD.changed BEGIN
    UPDATE network SET revision = revision + 1;
    UPDATE nodes SET changed = (SELECT revision FROM network) WHERE id = NEW.id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER nodes_deleted BEFORE DELETE ON nodes BEGIN
    SELECT RAISE(ABORT, 'a removed node stays as a tombstone');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER nodes_renumbered BEFORE UPDATE OF id ON nodes WHEN NEW.id <> OLD.id BEGIN
    SELECT RAISE(ABORT, 'a node keeps its id');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER addresses_inserted AFTER INSERT ON addresses BEGIN
    UPDATE network SET revision = revision + 1;
    UPDATE nodes SET changed = (SELECT revision FROM network) WHERE id = NEW.node;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER addresses_updated AFTER UPDATE ON addresses BEGIN
    UPDATE network SET revision = revision + 1;
    UPDATE nodes SET changed = (SELECT revision FROM network) WHERE id IN (OLD.node, NEW.node);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER addresses_deleted AFTER DELETE ON addresses BEGIN
    UPDATE network SET revision = revision + 1;
    UPDATE nodes SET changed = (SELECT revision FROM network) WHERE id = OLD.node;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER policies_inserted AFTER INSERT ON policies BEGIN
    UPDATE network SET revision = revision + 1, policy_changed = revision + 1;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER policies_updated AFTER UPDATE ON policies BEGIN
    UPDATE network SET revision = revision + 1, policy_changed = revision + 1;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER policies_deleted AFTER DELETE ON policies BEGIN
    UPDATE network SET revision = revision + 1, policy_changed = revision + 1;
END;
-- +goose StatementEnd

-- A key is looked for in every living node's certificate. Its tunnel and probe key stand 144 and 112 bytes before its end (version 1).
CREATE INDEX nodes_tunnel  ON nodes (substr(certificate, -144, 32)) WHERE removed = 0;
CREATE INDEX nodes_probe   ON nodes (substr(certificate, -112, 32)) WHERE removed = 0;
