-- What a node offers to serve, and what operators said to it, as JSON (coordinator.Routing).
-- +goose Up
ALTER TABLE nodes ADD COLUMN routing TEXT NOT NULL DEFAULT '{}';
