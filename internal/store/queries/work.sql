-- name: LeaseOf :one
SELECT * FROM lease WHERE org = ? AND account_uid = ?;

-- name: PutLease :exec
INSERT INTO lease (org, account_uid, run_id, epoch, agent_id, live, taken) VALUES (?, ?, ?, ?, ?, 1, ?)
ON CONFLICT (org, account_uid) DO UPDATE SET run_id = excluded.run_id, epoch = excluded.epoch, agent_id = excluded.agent_id,
  live = 1, taken = excluded.taken;

-- name: ReturnLease :exec
UPDATE lease SET live = 0 WHERE org = ? AND account_uid = ? AND epoch = ?;

-- name: AgentSeenAt :one
SELECT seen FROM agent_seen WHERE org = ? AND agent_id = ?;

-- name: AddRun :exec
INSERT INTO run (org, run_id, account_uid, folder_uid, resource_uid, resource_folder, pool_id, agent_id, action, cause, state, phase,
  attempt, command_id, credential, dependents, scripts, class, reason, created, started, finished, next_attempt, late_told)
VALUES (sqlc.arg(org), sqlc.arg(run_id), sqlc.arg(account_uid), sqlc.arg(folder_uid), sqlc.arg(resource_uid), sqlc.arg(resource_folder),
  sqlc.arg(pool_id), sqlc.arg(agent_id), sqlc.arg(action), sqlc.arg(cause), 'queued', '',
  0, sqlc.arg(command_id), 0, 0, 0, '', '', sqlc.arg(created), 0, 0, sqlc.arg(next_attempt), 0);

-- name: AimRun :exec
UPDATE run SET agent_id = ?, command_id = ? WHERE org = ? AND run_id = ?;

-- name: MoveRun :exec
UPDATE run SET state = ?, phase = ?, agent_id = ?, attempt = ?, class = ?, reason = ?, started = ?, finished = ?, next_attempt = ?,
  credential = ?, dependents = ?, scripts = ?
WHERE org = ? AND run_id = ?;

-- name: OpenRecoveriesOf :many
SELECT * FROM run WHERE org = ? AND account_uid = ? AND finished = 0 AND cause = 'recover';

-- name: CommittedRunsOf :many
SELECT * FROM run WHERE org = sqlc.arg(org) AND account_uid = sqlc.arg(account_uid) AND finished = 0 AND state = 'committed' AND run_id <> sqlc.arg(but);

-- name: AddStaged :exec
INSERT INTO staged (org, record_uid, owner_kind, owner_id, run_id, epoch, base_revision, data, data_digest, value_seq, result, authority, time)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: CommitRecord :exec
UPDATE record SET data = ?, data_digest = ?, revision = revision + 1, value_seq = ?, attestation = ?, updated = ?
WHERE org = ? AND record_uid = ?;

-- name: HasResult :one
SELECT count(*) FROM result WHERE org = ? AND digest = ?;

-- name: SetReply :exec
UPDATE command SET reply = ?, reply_detail = ? WHERE org = ? AND id = ?;

-- name: RecentResults :many
SELECT signed FROM result WHERE org = ? AND subject_uid = ? ORDER BY n DESC LIMIT 16;

-- name: ReplacedByRun :many
SELECT * FROM record_history WHERE org = ? AND record_uid = ? AND why = 'replaced' AND length(run_id) > 0 ORDER BY n DESC LIMIT 1;

-- name: ResultsOfReplacing :many
SELECT a.signed FROM result a WHERE a.org = sqlc.arg(org) AND a.digest = sqlc.arg(former)
UNION SELECT b.signed FROM result b
  WHERE b.org = sqlc.arg(org) AND b.run_id = sqlc.arg(run_id) AND b.subject_uid = sqlc.arg(subject_uid) AND b.phase = sqlc.arg(committed)
UNION SELECT c.signed FROM result c WHERE c.org = sqlc.arg(org) AND c.digest = (
  SELECT d.digest FROM result d
  WHERE d.org = sqlc.arg(org) AND d.run_id = sqlc.arg(run_id) AND d.subject_uid = sqlc.arg(subject_uid) AND d.phase = sqlc.arg(finished)
  ORDER BY d.n DESC LIMIT 1);

-- name: AgentConfirmed :exec
UPDATE agent_seen SET log_epoch = sqlc.arg(log_epoch)
WHERE org = sqlc.arg(org) AND agent_id = sqlc.arg(agent_id) AND log_epoch < sqlc.arg(log_epoch);
