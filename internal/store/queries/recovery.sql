-- name: MarkRestored :exec
UPDATE org SET restored = sqlc.arg(restored), recovering = 1 WHERE id = sqlc.arg(id);

-- name: EndRecovering :execrows
UPDATE org SET recovering = 0 WHERE id = sqlc.arg(id) AND recovering = 1 AND restored = sqlc.arg(restored);

-- name: RecoveringSince :one
SELECT CAST(count(*) AS BIGINT) AS n, CAST(coalesce(min(restored), 0) AS BIGINT) AS since FROM org WHERE recovering = 1;

-- name: PutReported :exec
INSERT INTO reported (org, entry_id, changes, time) VALUES (?, ?, ?, ?)
ON CONFLICT (org, entry_id) DO UPDATE SET changes = CASE WHEN excluded.changes > reported.changes THEN excluded.changes ELSE reported.changes END, time = excluded.time;

-- name: ReportedOf :many
SELECT * FROM reported WHERE org = ? ORDER BY entry_id;

-- name: ForgetReported :exec
DELETE FROM reported WHERE org = ?;

-- name: HoldRotations :exec
UPDATE rotation SET paused = paused + 2 WHERE org = ? AND paused < 2;

-- name: ReleaseRotations :exec
UPDATE rotation SET paused = paused - 2 WHERE org = ? AND paused >= 2;

-- Below zero: not due before the recovery has ended.
-- name: HoldRuns :exec
UPDATE run SET next_attempt = -next_attempt WHERE org = ? AND finished = 0 AND next_attempt > 0
  AND (cause <> 'person' OR state NOT IN ('queued', 'leased'));

-- name: ReleaseRuns :exec
UPDATE run SET next_attempt = -next_attempt WHERE org = ? AND next_attempt < 0;
