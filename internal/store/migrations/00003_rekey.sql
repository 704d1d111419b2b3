-- +goose Up
-- The version of the folder key when the record's own key was made: below the folder's,
-- the record waits for another.
ALTER TABLE record ADD COLUMN made_version BIGINT NOT NULL DEFAULT 0;
UPDATE record SET made_version = key_version;

-- +goose Down
ALTER TABLE record DROP COLUMN made_version;
