-- name: DueRotations :many
SELECT * FROM rotation WHERE next_due > 0 AND paused = 0 AND next_due <= sqlc.arg(now) ORDER BY next_due LIMIT sqlc.arg(rows);

-- name: NextRotationDue :one
SELECT next_due FROM rotation WHERE next_due > 0 AND paused = 0 ORDER BY next_due LIMIT 1;

-- name: FireRotation :execrows
UPDATE rotation SET next_due = sqlc.arg(next_due), next_nominal = sqlc.arg(next_nominal), last_due = sqlc.arg(last_due),
  state = sqlc.arg(state), reason = sqlc.arg(reason), run_id = sqlc.arg(run_id), updated = sqlc.arg(now)
WHERE org = sqlc.arg(org) AND account_uid = sqlc.arg(account_uid) AND next_due = sqlc.arg(was_due);

-- name: SettleRotation :exec
UPDATE rotation SET next_due = sqlc.arg(next_due), next_nominal = sqlc.arg(next_nominal), failures = sqlc.arg(failures),
  state = sqlc.arg(state), reason = sqlc.arg(reason), updated = sqlc.arg(now)
WHERE org = sqlc.arg(org) AND account_uid = sqlc.arg(account_uid);

-- name: RotationsOfLater :many
SELECT * FROM rotation WHERE next_due > 0 AND updated > sqlc.arg(until) ORDER BY updated LIMIT sqlc.arg(rows);

-- name: HastenRuns :exec
UPDATE run SET next_attempt = sqlc.arg(now) WHERE next_attempt > sqlc.arg(until)
  AND (next_attempt > sqlc.arg(until_untaken) OR cause <> 'person' OR state NOT IN ('queued', 'leased'));

-- name: LeasesOfLater :exec
UPDATE lease SET taken = sqlc.arg(now) WHERE live = 1 AND taken > sqlc.arg(now);

-- name: SeenLater :exec
UPDATE agent_seen SET seen = sqlc.arg(now) WHERE seen > sqlc.arg(now);

-- name: DueRuns :many
SELECT * FROM run WHERE next_attempt > 0 AND next_attempt <= sqlc.arg(now) ORDER BY next_attempt LIMIT sqlc.arg(rows);

-- name: NextRunDue :one
SELECT next_attempt FROM run WHERE next_attempt > 0 ORDER BY next_attempt LIMIT 1;

-- name: LonelyRuns :many
SELECT * FROM run WHERE org = sqlc.arg(org) AND pool_id = sqlc.arg(pool_id) AND reason = 'no_agent' AND next_attempt > 0
ORDER BY next_attempt LIMIT sqlc.arg(rows);

-- name: AskAgain :exec
UPDATE run SET next_attempt = sqlc.arg(next_attempt), reason = sqlc.arg(reason)
WHERE org = sqlc.arg(org) AND run_id = sqlc.arg(run_id) AND finished = 0;

-- name: TellAgent :exec
UPDATE run SET agent_id = sqlc.arg(agent_id), next_attempt = sqlc.arg(next_attempt), reason = sqlc.arg(reason)
WHERE org = sqlc.arg(org) AND run_id = sqlc.arg(run_id) AND finished = 0;

-- name: EndUntakenRun :execrows
UPDATE run SET state = 'failed', phase = 'failed', reason = sqlc.arg(reason), finished = sqlc.arg(now), next_attempt = 0
WHERE org = sqlc.arg(org) AND run_id = sqlc.arg(run_id) AND finished = 0 AND (state = 'queued' OR state = 'leased');

-- name: OverdueRuns :many
SELECT * FROM run WHERE finished = 0 AND late_told = 0 AND created <= sqlc.arg(before) ORDER BY created LIMIT sqlc.arg(rows);

-- name: MarkOverdue :execrows
UPDATE run SET late_told = 1 WHERE org = sqlc.arg(org) AND run_id = sqlc.arg(run_id) AND finished = 0 AND late_told = 0;
