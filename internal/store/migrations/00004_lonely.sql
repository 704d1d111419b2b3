-- +goose Up
-- What waits for an agent of a pool goes out when one comes.
CREATE INDEX run_lonely ON run (org, pool_id, next_attempt) WHERE reason = 'no_agent' AND next_attempt > 0;

-- +goose Down
DROP INDEX run_lonely;
