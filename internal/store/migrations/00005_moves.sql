-- +goose Up
-- When an agent is gone, what it had or was told of is found at once.
CREATE INDEX run_agent ON run (org, agent_id) WHERE finished = 0;

-- +goose Down
DROP INDEX run_agent;
