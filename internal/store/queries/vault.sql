-- name: PutFolder :exec
INSERT INTO folder (org, folder_uid, data, created) VALUES (?, ?, ?, ?)
ON CONFLICT (org, folder_uid) DO UPDATE SET data = excluded.data;

-- name: CountRecordsIn :one
SELECT count(*) FROM record WHERE org = ? AND folder_uid = ?;

-- name: PutFolderKey :exec
INSERT INTO folder_key (org, folder_uid, key_version, recipient_id, sealed) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (org, folder_uid, key_version, recipient_id) DO UPDATE SET sealed = excluded.sealed;

-- name: SealedFolderKey :one
SELECT sealed FROM folder_key WHERE org = ? AND folder_uid = ? AND key_version = ? AND recipient_id = ?;

-- name: FormerFolderKey :many
SELECT key_version, sealed FROM folder_key WHERE org = ? AND folder_uid = ? AND recipient_id = ? AND key_version < ? ORDER BY key_version DESC LIMIT 1;

-- name: FolderKeyRecipients :many
SELECT recipient_id FROM folder_key WHERE org = ? AND folder_uid = ? AND key_version = ?;

-- name: RecordByUID :one
SELECT * FROM record WHERE org = ? AND record_uid = ?;

-- What goes into an answer is counted, with the queries named sizes, before it is read.
-- name: SizesInFolder :many
SELECT record_uid, CAST(length(data) AS BIGINT) AS size FROM record
WHERE org = sqlc.arg(org) AND folder_uid = sqlc.arg(folder_uid) AND record_uid > sqlc.arg(after)
ORDER BY record_uid LIMIT sqlc.arg(n);

-- A list of parameters has to be the last of a query's: those after it would be miscounted.
-- name: SizesInFolderOfKinds :many
SELECT record_uid, CAST(length(data) AS BIGINT) AS size FROM record
WHERE org = sqlc.arg(org) AND folder_uid = sqlc.arg(folder_uid) AND record_uid > sqlc.arg(after)
  AND kind IN (sqlc.slice(kinds))
ORDER BY record_uid LIMIT 100;

-- name: SizesOf :many
SELECT record_uid, folder_uid, CAST(length(data) AS BIGINT) AS size FROM record
WHERE org = sqlc.arg(org) AND record_uid IN (sqlc.slice(uids));

-- name: SizesBeside :many
SELECT r.record_uid, CAST(
    coalesce(length(s.blob), 0) + coalesce(length(c.data) + length(c.result) + length(c.authority), 0) + coalesce(length(a.signed), 0)
    + coalesce((SELECT length(x.signed) FROM result x WHERE x.org = r.org AND x.subject_uid = r.record_uid ORDER BY x.n DESC LIMIT 1), 0)
  AS BIGINT) AS size
FROM record r
LEFT JOIN statement s ON s.org = r.org AND s.record_uid = r.record_uid AND s.seq = r.statement_seq
LEFT JOIN staged c ON c.org = r.org AND c.record_uid = r.record_uid
LEFT JOIN result a ON a.org = r.org AND a.digest = r.attestation
WHERE r.org = sqlc.arg(org) AND r.record_uid IN (sqlc.slice(uids));

-- name: RecordsByUID :many
SELECT * FROM record WHERE org = sqlc.arg(org) AND record_uid IN (sqlc.slice(uids));

-- name: CreateRecord :exec
INSERT INTO record (org, record_uid, folder_uid, sub_folder_uid, kind, record_key, key_version, made_version, data, data_digest, revision,
  value_seq, attestation, statement_seq, resource_uid, resource_folder, admin_uid, admin_folder, pool_id, created, updated)
VALUES (sqlc.arg(org), sqlc.arg(record_uid), sqlc.arg(folder_uid), sqlc.arg(none), sqlc.arg(kind), sqlc.arg(record_key), sqlc.arg(key_version),
  sqlc.arg(key_version), sqlc.arg(data), sqlc.arg(data_digest), 1, 0, sqlc.arg(none), 0, sqlc.arg(none), sqlc.arg(none), sqlc.arg(none), sqlc.arg(none),
  sqlc.arg(none), sqlc.arg(now), sqlc.arg(now));

-- name: ReplaceRecord :execrows
UPDATE record SET kind = sqlc.arg(kind), record_key = sqlc.arg(record_key), key_version = sqlc.arg(key_version), data = sqlc.arg(data),
  data_digest = sqlc.arg(data_digest), revision = revision + 1, updated = sqlc.arg(now)
WHERE org = sqlc.arg(org) AND record_uid = sqlc.arg(record_uid) AND revision = sqlc.arg(revision);

-- name: RekeyRecord :execrows
UPDATE record SET record_key = sqlc.arg(record_key), key_version = sqlc.arg(key_version), made_version = sqlc.arg(key_version),
  data = sqlc.arg(data), data_digest = sqlc.arg(data_digest), revision = revision + 1, updated = sqlc.arg(now)
WHERE org = sqlc.arg(org) AND record_uid = sqlc.arg(record_uid) AND revision = sqlc.arg(revision);

-- name: RewrapRecord :execrows
UPDATE record SET record_key = sqlc.arg(wrapped), key_version = sqlc.arg(key_version)
WHERE org = sqlc.arg(org) AND folder_uid = sqlc.arg(folder_uid) AND record_uid = sqlc.arg(record_uid) AND record_key = sqlc.arg(former);

-- name: RewrapHistory :execrows
UPDATE record_history SET record_key = sqlc.arg(wrapped), key_version = sqlc.arg(key_version)
WHERE org = sqlc.arg(org) AND record_uid = sqlc.arg(record_uid) AND record_key = sqlc.arg(former);

-- name: FormerKeysOf :many
SELECT DISTINCT record_key, key_version FROM record_history WHERE org = ? AND record_uid = ?;

-- name: RewrapFormer :exec
UPDATE record_history SET record_key = sqlc.arg(wrapped), key_version = sqlc.arg(key_version)
WHERE org = sqlc.arg(org) AND record_uid = sqlc.arg(record_uid) AND record_key = sqlc.arg(former);

-- name: CountFormerNotUnder :one
SELECT count(*) FROM record_history WHERE org = sqlc.arg(org) AND record_uid = sqlc.arg(record_uid) AND key_version <> sqlc.arg(key_version);

-- name: RewrapSubfolder :execrows
UPDATE subfolder SET folder_key = sqlc.arg(wrapped)
WHERE org = sqlc.arg(org) AND folder_uid = sqlc.arg(folder_uid) AND root_uid = sqlc.arg(root_uid) AND folder_key = sqlc.arg(former);

-- name: CountRecordsNotUnder :one
SELECT count(*) FROM record WHERE org = ? AND folder_uid = ? AND key_version <> ?;

-- name: CountHistoryNotUnder :one
SELECT count(*) FROM record_history h JOIN record r ON r.org = h.org AND r.record_uid = h.record_uid
WHERE r.org = sqlc.arg(org) AND r.folder_uid = sqlc.arg(folder_uid) AND h.key_version > 0 AND h.key_version <> sqlc.arg(key_version);

-- name: KeysInFolder :many
SELECT record_uid, record_key FROM record WHERE org = sqlc.arg(org) AND folder_uid = sqlc.arg(folder_uid) AND record_uid > sqlc.arg(after)
ORDER BY record_uid LIMIT sqlc.arg(rows);

-- name: FormerKeysInFolder :many
SELECT DISTINCT h.record_uid, h.record_key FROM record_history h JOIN record r ON r.org = h.org AND r.record_uid = h.record_uid
WHERE r.org = sqlc.arg(org) AND r.folder_uid = sqlc.arg(folder_uid) AND r.record_uid > sqlc.arg(after) AND r.record_uid <= sqlc.arg(last)
  AND h.key_version > 0 AND h.record_key <> r.record_key;

-- name: SizesOfOldKeys :many
SELECT record_uid, CAST(length(data) AS BIGINT) AS size FROM record WHERE org = sqlc.arg(org) AND folder_uid = sqlc.arg(folder_uid) AND record_uid > sqlc.arg(after)
  AND made_version < sqlc.arg(key_version)
ORDER BY record_uid LIMIT sqlc.arg(rows);

-- name: CountOldKeysIn :one
SELECT count(*) FROM record WHERE org = ? AND folder_uid = ? AND made_version < ?;

-- name: DeleteFormerFolderKeys :exec
DELETE FROM folder_key WHERE org = ? AND folder_uid = ? AND key_version < ?;

-- name: AppFoldersNotUnder :many
SELECT app_id FROM app_folder WHERE org = ? AND folder_uid = ? AND key_version <> ?;

-- name: SetFileKey :execrows
UPDATE file SET file_key = ? WHERE org = ? AND record_uid = ? AND file_uid = ?;

-- name: CountRunsUnderWay :one
SELECT count(*) FROM run WHERE org = ? AND account_uid = ? AND finished = 0 AND state IN ('leased', 'staged', 'committed');

-- name: SetRecordLinks :exec
UPDATE record SET resource_uid = ?, resource_folder = ?, admin_uid = ?, admin_folder = ?, pool_id = ? WHERE org = ? AND record_uid = ?;

-- name: SetRecordValue :exec
UPDATE record SET value_seq = ?, attestation = ? WHERE org = ? AND record_uid = ?;

-- name: SetRecordStatement :exec
UPDATE record SET statement_seq = ? WHERE org = ? AND record_uid = ?;

-- name: DeleteRecordRow :exec
DELETE FROM record WHERE org = ? AND record_uid = ?;

-- name: KeepInHistory :exec
INSERT INTO record_history (org, record_uid, n, revision, record_key, key_version, data, why, run_id, result, time)
VALUES (sqlc.arg(org), sqlc.arg(record_uid),
  (SELECT coalesce(max(h.n), 0) + 1 FROM record_history h WHERE h.org = sqlc.arg(org) AND h.record_uid = sqlc.arg(record_uid)),
  sqlc.arg(revision), sqlc.arg(record_key), sqlc.arg(key_version), sqlc.arg(data), sqlc.arg(why), sqlc.arg(run_id), sqlc.arg(result), sqlc.arg(time));

-- name: SizesOfHistory :many
SELECT h.n, CAST(length(h.data) + coalesce((SELECT length(a.signed) FROM result a WHERE a.org = h.org AND a.digest = h.result), 0) AS BIGINT) AS size
FROM record_history h WHERE h.org = sqlc.arg(org) AND h.record_uid = sqlc.arg(record_uid) AND h.n < sqlc.arg(before) ORDER BY h.n DESC LIMIT sqlc.arg(rows);

-- name: HistoryBefore :many
SELECT * FROM record_history WHERE org = sqlc.arg(org) AND record_uid = sqlc.arg(record_uid) AND n < sqlc.arg(before) ORDER BY n DESC LIMIT sqlc.arg(rows);

-- name: DeleteHistory :exec
DELETE FROM record_history WHERE org = ? AND record_uid = ?;

-- name: AddStatement :exec
INSERT INTO statement (org, record_uid, seq, folder_uid, digest, blob, time) VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: StatementBySeq :one
SELECT * FROM statement WHERE org = ? AND record_uid = ? AND seq = ?;

-- name: StatementsOf :many
SELECT s.* FROM statement s JOIN record r ON r.org = s.org AND r.record_uid = s.record_uid AND r.statement_seq = s.seq
WHERE s.org = sqlc.arg(org) AND s.record_uid IN (sqlc.slice(uids));

-- name: SizesOfFormerStatements :many
SELECT s.seq, CAST(length(s.blob) AS BIGINT) AS size FROM statement s JOIN record r ON r.org = s.org AND r.record_uid = s.record_uid AND r.statement_seq > s.seq
WHERE s.org = sqlc.arg(org) AND s.record_uid = sqlc.arg(record_uid) AND s.seq < sqlc.arg(before) ORDER BY s.seq DESC LIMIT sqlc.arg(rows);

-- name: FormerStatements :many
SELECT s.* FROM statement s JOIN record r ON r.org = s.org AND r.record_uid = s.record_uid AND r.statement_seq > s.seq
WHERE s.org = sqlc.arg(org) AND s.record_uid = sqlc.arg(record_uid) AND s.seq < sqlc.arg(before) ORDER BY s.seq DESC LIMIT sqlc.arg(rows);

-- name: DeleteStatements :exec
DELETE FROM statement WHERE org = ? AND record_uid = ?;

-- name: AddResult :exec
INSERT INTO result (org, digest, subject_uid, run_id, phase, by_id, value_seq, data_digest, signed, detail, n, time)
VALUES (sqlc.arg(org), sqlc.arg(digest), sqlc.arg(subject_uid), sqlc.arg(run_id), sqlc.arg(phase), sqlc.arg(by_id), sqlc.arg(value_seq),
  sqlc.arg(data_digest), sqlc.arg(signed), sqlc.arg(detail), (SELECT coalesce(max(r.n), 0) + 1 FROM result r WHERE r.org = sqlc.arg(org)), sqlc.arg(time));

-- name: ResultsByDigest :many
SELECT digest, signed FROM result WHERE org = sqlc.arg(org) AND digest IN (sqlc.slice(digests));

-- name: LastResultsOf :many
SELECT subject_uid, signed FROM result WHERE result.org = sqlc.arg(org) AND result.n IN (
  SELECT max(r.n) FROM result r WHERE r.org = sqlc.arg(org) AND r.subject_uid IN (sqlc.slice(uids)) GROUP BY r.subject_uid);

-- name: ResultsOfRun :many
SELECT digest, signed, CAST(length(detail) AS BIGINT) AS detail FROM result
WHERE org = sqlc.arg(org) AND run_id = sqlc.arg(run_id) AND subject_uid = sqlc.arg(subject_uid) ORDER BY n LIMIT sqlc.arg(rows);

-- name: DetailOf :one
SELECT detail FROM result WHERE org = ? AND digest = ?;

-- name: DeleteResultsOf :exec
DELETE FROM result WHERE org = ? AND subject_uid = ?;

-- name: StagedOf :one
SELECT * FROM staged WHERE org = ? AND record_uid = ?;

-- name: StagedByUID :many
SELECT * FROM staged WHERE org = sqlc.arg(org) AND record_uid IN (sqlc.slice(uids));

-- name: DeleteStagedOf :exec
DELETE FROM staged WHERE org = ? AND record_uid = ?;

-- name: DeleteFilesOf :exec
DELETE FROM file WHERE org = ? AND record_uid = ?;

-- name: PutRotation :exec
INSERT INTO rotation (org, account_uid, folder_uid, resource_uid, resource_folder, pool_id, schedule, missed, jitter_s, paused,
  next_due, next_nominal, last_due, failures, state, reason, run_id, updated)
VALUES (sqlc.arg(org), sqlc.arg(account_uid), sqlc.arg(folder_uid), sqlc.arg(resource_uid), sqlc.arg(resource_folder), sqlc.arg(pool_id),
  sqlc.arg(schedule), sqlc.arg(missed), sqlc.arg(jitter_s), sqlc.arg(paused), sqlc.arg(next_due), sqlc.arg(next_nominal), 0, 0,
  'scheduled', '', sqlc.arg(none), sqlc.arg(now))
ON CONFLICT (org, account_uid) DO UPDATE SET folder_uid = excluded.folder_uid, resource_uid = excluded.resource_uid,
  resource_folder = excluded.resource_folder, pool_id = excluded.pool_id, schedule = excluded.schedule, missed = excluded.missed,
  jitter_s = excluded.jitter_s, paused = excluded.paused, next_due = excluded.next_due, next_nominal = excluded.next_nominal,
  failures = 0,
  state = CASE WHEN rotation.state = 'running' THEN 'running' ELSE 'scheduled' END, reason = '', updated = excluded.updated;

-- name: PauseRotation :exec
UPDATE rotation SET paused = ?, next_due = ?, next_nominal = ?, updated = ? WHERE org = ? AND account_uid = ?;

-- name: RotationOf :one
SELECT * FROM rotation WHERE org = ? AND account_uid = ?;

-- name: RotationsAfter :many
SELECT * FROM rotation WHERE org = sqlc.arg(org) AND account_uid > sqlc.arg(after) ORDER BY account_uid LIMIT sqlc.arg(rows);

-- name: DeleteRotation :execrows
DELETE FROM rotation WHERE org = ? AND account_uid = ?;

-- name: RunByID :one
SELECT * FROM run WHERE org = ? AND run_id = ?;

-- name: QueuedRunsOf :many
SELECT run_id FROM run WHERE org = ? AND account_uid = ? AND state = 'queued' AND finished = 0;

-- name: RunsBefore :many
SELECT * FROM run WHERE org = sqlc.arg(org)
  AND (created < sqlc.arg(created) OR (created = sqlc.arg(created) AND run_id < sqlc.arg(run_id)))
ORDER BY created DESC, run_id DESC LIMIT sqlc.arg(rows);

-- name: RunsOfAccountBefore :many
SELECT * FROM run WHERE org = sqlc.arg(org) AND account_uid = sqlc.arg(account_uid)
  AND (created < sqlc.arg(created) OR (created = sqlc.arg(created) AND run_id < sqlc.arg(run_id)))
ORDER BY created DESC, run_id DESC LIMIT sqlc.arg(rows);

-- name: OpenRunsBefore :many
SELECT * FROM run WHERE org = sqlc.arg(org) AND finished = 0
  AND (created < sqlc.arg(created) OR (created = sqlc.arg(created) AND run_id < sqlc.arg(run_id)))
ORDER BY created DESC, run_id DESC LIMIT sqlc.arg(rows);

-- name: BadRunsBefore :many
-- Outcomes are those of rotunda.trust.v1: 2 done, 3 failed, 4 not to be verified.
SELECT * FROM run WHERE org = sqlc.arg(org) AND (state = 'failed' OR state = 'alert' OR credential = 3 OR dependents = 3 OR scripts = 3)
  AND (created < sqlc.arg(created) OR (created = sqlc.arg(created) AND run_id < sqlc.arg(run_id)))
ORDER BY created DESC, run_id DESC LIMIT sqlc.arg(rows);

-- name: UnmendedRunsBefore :many
-- Those that failed, and what they were to do has not been done since. A rotation does for
-- a verify, too.
SELECT * FROM run WHERE run.org = sqlc.arg(org) AND (run.state = 'failed' OR run.state = 'alert' OR run.credential = 3 OR run.dependents = 3 OR run.scripts = 3)
  AND (run.state = 'failed' OR run.state = 'alert' OR run.credential = 3)
  AND NOT EXISTS (SELECT 1 FROM run later WHERE later.org = run.org AND later.account_uid = run.account_uid
    AND later.created > run.created AND later.state = 'finished' AND later.credential <> 3
    AND (later.action = run.action OR later.action = 'rotate' AND later.credential IN (2, 4)))
  AND (run.created < sqlc.arg(created) OR (run.created = sqlc.arg(created) AND run.run_id < sqlc.arg(run_id)))
ORDER BY run.created DESC, run.run_id DESC LIMIT sqlc.arg(rows);

-- name: UnmendedDependentsBefore :many
-- Those that did not reach their dependents, and neither has a rotation since.
SELECT * FROM run WHERE run.org = sqlc.arg(org) AND (run.state = 'failed' OR run.state = 'alert' OR run.credential = 3 OR run.dependents = 3 OR run.scripts = 3)
  AND run.dependents = 3
  AND NOT EXISTS (SELECT 1 FROM run later WHERE later.org = run.org AND later.account_uid = run.account_uid
    AND later.created > run.created AND later.state = 'finished' AND later.dependents <> 3
    AND later.action = 'rotate' AND later.credential IN (2, 4))
  AND (run.created < sqlc.arg(created) OR (run.created = sqlc.arg(created) AND run.run_id < sqlc.arg(run_id)))
ORDER BY run.created DESC, run.run_id DESC LIMIT sqlc.arg(rows);

-- name: UnmendedScriptsBefore :many
-- Those whose scripts failed, and have not run well since.
SELECT * FROM run WHERE run.org = sqlc.arg(org) AND (run.state = 'failed' OR run.state = 'alert' OR run.credential = 3 OR run.dependents = 3 OR run.scripts = 3)
  AND run.scripts = 3
  AND NOT EXISTS (SELECT 1 FROM run later WHERE later.org = run.org AND later.account_uid = run.account_uid
    AND later.created > run.created AND later.state = 'finished' AND later.scripts <> 3
    AND (later.action = 'script' AND later.scripts = 2 OR later.action = 'rotate' AND later.credential IN (2, 4)))
  AND (run.created < sqlc.arg(created) OR (run.created = sqlc.arg(created) AND run.run_id < sqlc.arg(run_id)))
ORDER BY run.created DESC, run.run_id DESC LIMIT sqlc.arg(rows);

-- name: AddCommand :exec
INSERT INTO command (org, id, agent_id, from_id, run_id, frame, expires, created, n, acked, refused, reply, reply_detail)
VALUES (sqlc.arg(org), sqlc.arg(id), sqlc.arg(agent_id), sqlc.arg(from_id), sqlc.arg(run_id), sqlc.arg(frame), sqlc.arg(expires),
  sqlc.arg(created), (SELECT coalesce(max(c.n), 0) + 1 FROM command c WHERE c.org = sqlc.arg(org)), 0, '', sqlc.arg(none), sqlc.arg(none));

-- name: CommandByID :one
SELECT * FROM command WHERE org = ? AND id = ?;

-- name: CountWaitingCommands :one
SELECT count(*) FROM command WHERE org = ? AND agent_id = ? AND acked = 0;

-- name: PresenceOf :many
SELECT * FROM agent_seen WHERE org = sqlc.arg(org) AND agent_id IN (sqlc.slice(ids));

-- name: LeasesOf :many
SELECT agent_id, count(*) AS leases FROM lease WHERE org = sqlc.arg(org) AND live = 1 AND agent_id IN (sqlc.slice(ids)) GROUP BY agent_id;

-- name: PutApp :exec
INSERT INTO app (org, app_id, app_data, owner_pub, created) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (org, app_id) DO UPDATE SET app_data = excluded.app_data, owner_pub = excluded.owner_pub;

-- name: AppByID :one
SELECT * FROM app WHERE org = ? AND app_id = ?;

-- name: AppsAfter :many
SELECT * FROM app WHERE org = sqlc.arg(org) AND app_id > sqlc.arg(after) ORDER BY app_id LIMIT sqlc.arg(rows);

-- name: PutAppKey :exec
INSERT INTO app_key (org, app_id, recipient_id, sealed) VALUES (?, ?, ?, ?)
ON CONFLICT (org, app_id, recipient_id) DO UPDATE SET sealed = excluded.sealed;

-- name: SealedAppKey :one
SELECT sealed FROM app_key WHERE org = ? AND app_id = ? AND recipient_id = ?;

-- name: AppKeyRecipients :many
SELECT recipient_id FROM app_key WHERE org = ? AND app_id = ?;

-- name: PutAppFolder :exec
INSERT INTO app_folder (org, app_id, folder_uid, key_version, wrapped) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (org, app_id, folder_uid) DO UPDATE SET key_version = excluded.key_version, wrapped = excluded.wrapped;

-- name: DeleteAppFolder :exec
DELETE FROM app_folder WHERE org = ? AND app_id = ? AND folder_uid = ?;

-- name: AppFolders :many
SELECT folder_uid FROM app_folder WHERE org = ? AND app_id = ? ORDER BY folder_uid;

-- name: AddAppClient :exec
INSERT INTO machine_client (client_id, org, kind, owner_id, name, public_key, encrypted_app_key,
  token_expires, access_expires, lock_address, address, confirmed, revoked, created, last_seen)
VALUES (sqlc.arg(client_id), sqlc.arg(org), 'app', sqlc.arg(owner_id), sqlc.arg(name), sqlc.arg(public_key), sqlc.arg(encrypted_app_key),
  sqlc.arg(token_expires), sqlc.arg(access_expires), sqlc.arg(lock_address), '', 0, 0, sqlc.arg(created), 0);

-- name: AppClients :many
SELECT * FROM machine_client WHERE org = sqlc.arg(org) AND owner_id = sqlc.arg(owner_id) AND kind = 'app' ORDER BY created, client_id LIMIT sqlc.arg(rows);

-- name: CountAppClients :one
SELECT count(*) FROM machine_client WHERE org = ? AND owner_id = ?;

-- name: RevokeAppClient :execrows
UPDATE machine_client SET revoked = 1 WHERE client_id = sqlc.arg(client_id) AND org = sqlc.arg(org) AND owner_id = sqlc.arg(owner_id) AND kind = 'app';
