-- name: AgentClient :one
SELECT m.org, m.owner_id, m.public_key, m.revoked, o.org_id, o.epoch, o.head, o.restored
FROM machine_client m JOIN org o ON o.id = m.org
WHERE m.client_id = sqlc.arg(client_id) AND m.kind = 'agent';

-- name: RevokedAgents :many
SELECT owner_id FROM machine_client WHERE org = ? AND kind = 'agent' AND revoked = 1;

-- name: WaitingCommands :many
SELECT id, frame, n FROM command
WHERE org = sqlc.arg(org) AND agent_id = sqlc.arg(agent_id) AND acked = 0 AND n > sqlc.arg(after) AND expires > sqlc.arg(now)
ORDER BY n LIMIT sqlc.arg(rows);

-- name: CommandOfAgent :one
SELECT run_id, expires, acked FROM command WHERE org = ? AND agent_id = ? AND id = ?;

-- name: AckCommand :execrows
UPDATE command SET acked = 1, refused = sqlc.arg(reason)
WHERE org = sqlc.arg(org) AND agent_id = sqlc.arg(agent_id) AND id = sqlc.arg(id) AND acked = 0;

-- name: ExpiredCommands :many
SELECT org, id, agent_id, run_id FROM command WHERE acked = 0 AND expires < sqlc.arg(before) ORDER BY expires LIMIT sqlc.arg(rows);

-- name: NotePhase :exec
UPDATE run SET phase = sqlc.arg(phase)
WHERE org = sqlc.arg(org) AND run_id = sqlc.arg(run_id) AND agent_id = sqlc.arg(agent_id) AND finished = 0;

-- name: AgentHere :exec
INSERT INTO agent_seen (org, agent_id, seen, connected, node, version, os, arch, log_epoch)
VALUES (sqlc.arg(org), sqlc.arg(agent_id), sqlc.arg(seen), 1, sqlc.arg(node), sqlc.arg(version), sqlc.arg(os), sqlc.arg(arch), 0)
ON CONFLICT (org, agent_id) DO UPDATE SET seen = excluded.seen, connected = 1, node = excluded.node,
  version = excluded.version, os = excluded.os, arch = excluded.arch;

-- name: AgentSeen :exec
UPDATE agent_seen SET seen = sqlc.arg(seen) WHERE org = sqlc.arg(org) AND agent_id = sqlc.arg(agent_id) AND seen < sqlc.arg(seen);

-- name: AgentGone :exec
UPDATE agent_seen SET connected = 0 WHERE org = sqlc.arg(org) AND agent_id = sqlc.arg(agent_id) AND node = sqlc.arg(node);

-- name: AgentDrains :exec
UPDATE agent_seen SET connected = 2 WHERE org = sqlc.arg(org) AND agent_id = sqlc.arg(agent_id) AND node = sqlc.arg(node) AND connected = 1;

-- A run that was given back, to be tried again later, waits for that: a channel that comes
-- and goes must not make attempts of it, each of which may be a failed login.
-- name: LookAtRunsOf :exec
UPDATE run SET next_attempt = sqlc.arg(now)
WHERE run.org = sqlc.arg(org) AND run.agent_id = sqlc.arg(agent_id) AND finished = 0 AND next_attempt > sqlc.arg(now)
  AND (cause <> 'person' OR state NOT IN ('queued', 'leased'))
  AND (attempt = 0 OR EXISTS (SELECT 1 FROM lease l WHERE l.org = run.org AND l.account_uid = run.account_uid AND l.run_id = run.run_id AND l.live = 1));

-- name: NodeGone :exec
UPDATE agent_seen SET connected = 0 WHERE node = sqlc.arg(node) AND connected > 0;

-- name: FreshTerms :exec
UPDATE lease SET taken = sqlc.arg(now) WHERE live = 1;
