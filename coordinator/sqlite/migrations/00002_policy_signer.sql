-- +goose Up
ALTER TABLE policies ADD COLUMN signer     TEXT NOT NULL DEFAULT '';
ALTER TABLE policies ADD COLUMN signer_key TEXT NOT NULL DEFAULT '';
