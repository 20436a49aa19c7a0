-- UDP ports at which relays tell nodes where they are seen from, "3478,3479"; empty for none.
-- +goose Up
ALTER TABLE relays ADD COLUMN reflect TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE relays DROP COLUMN reflect;
