-- +goose Up
-- A run of which dependents or scripts failed ended badly, too (3: failed).
DROP INDEX run_bad;
CREATE INDEX run_bad ON run (org, created) WHERE state = 'failed' OR state = 'alert' OR credential = 3 OR dependents = 3 OR scripts = 3;

-- +goose Down
DROP INDEX run_bad;
CREATE INDEX run_bad ON run (org, created) WHERE state = 'failed' OR state = 'alert';
