-- The certificate of the tunnel key that a node is about to take up; empty for none.
-- +goose Up
ALTER TABLE nodes ADD COLUMN next_certificate BLOB NOT NULL DEFAULT x'';
CREATE INDEX nodes_next_tunnel ON nodes (substr(next_certificate, -144, 32)) WHERE removed = 0;
