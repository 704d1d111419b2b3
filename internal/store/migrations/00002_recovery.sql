-- +goose Up
-- When this database was put back from a backup; 0: never. While recovering is 1 no new
-- change of the log is taken.
ALTER TABLE org ADD COLUMN restored BIGINT NOT NULL DEFAULT 0;
ALTER TABLE org ADD COLUMN recovering BIGINT NOT NULL DEFAULT 0;
-- Who has said since then how much of the log he holds.
CREATE TABLE reported (
  org      BIGINT NOT NULL,
  entry_id BLOB   NOT NULL,
  changes  BIGINT NOT NULL, -- of the log
  time     BIGINT NOT NULL,
  PRIMARY KEY (org, entry_id)
);

-- +goose Down
DROP TABLE reported;
ALTER TABLE org DROP COLUMN recovering;
ALTER TABLE org DROP COLUMN restored;
