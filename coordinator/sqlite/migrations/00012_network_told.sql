-- What the network's entry in the maps said last, by its hash: when a restart changes it, the generation must rise.
-- +goose Up
ALTER TABLE network ADD COLUMN told BLOB NOT NULL DEFAULT x'';

-- +goose Down
ALTER TABLE network DROP COLUMN told;
