-- name: OrgByNumber :one
SELECT * FROM org WHERE id = ?;

-- name: ListOrgs :many
SELECT * FROM org ORDER BY id;

-- name: AddChange :exec
INSERT INTO log_change (org, epoch, digest, signed, received) VALUES (?, ?, ?, ?, ?);

-- name: SizesOfChanges :many
SELECT epoch, CAST(length(signed) AS BIGINT) AS size FROM log_change WHERE org = sqlc.arg(org) AND epoch >= sqlc.arg(epoch) ORDER BY epoch LIMIT sqlc.arg(n);

-- name: ChangesFrom :many
SELECT epoch, signed FROM log_change WHERE org = sqlc.arg(org) AND epoch >= sqlc.arg(epoch) ORDER BY epoch LIMIT sqlc.arg(n);

-- name: PutEntryKeys :exec
INSERT INTO entry_keys (org, entry_id, keys) VALUES (?, ?, ?)
ON CONFLICT (org, entry_id) DO UPDATE SET keys = excluded.keys;

-- name: EntryKeys :one
SELECT keys FROM entry_keys WHERE org = ? AND entry_id = ?;

-- name: EntryKeysOf :many
SELECT entry_id, keys FROM entry_keys WHERE org = sqlc.arg(org) AND entry_id IN (sqlc.slice(ids));

-- name: PutEnrolBlob :exec
INSERT INTO enrol_blob (org, entry_id, blob) VALUES (?, ?, ?)
ON CONFLICT (org, entry_id) DO UPDATE SET blob = excluded.blob;

-- name: EnrolBlob :one
SELECT blob FROM enrol_blob WHERE org = ? AND entry_id = ?;

-- name: DeleteEnrolBlob :exec
DELETE FROM enrol_blob WHERE org = ? AND entry_id = ?;

-- name: AddSession :exec
INSERT INTO session (bearer_hash, org, entry_id, enrolment, expires) VALUES (?, ?, ?, ?, ?);

-- name: SessionByHash :one
SELECT * FROM session WHERE bearer_hash = ?;

-- name: EndSessionsOf :exec
DELETE FROM session WHERE org = ? AND entry_id = ?;

-- name: EndOtherSessionsOf :exec
DELETE FROM session WHERE org = sqlc.arg(org) AND entry_id = sqlc.arg(entry_id) AND bearer_hash <> sqlc.arg(bearer_hash);

-- name: EndExpiredSessions :exec
DELETE FROM session WHERE expires <= sqlc.arg(now);

-- name: PutAgentClient :exec
INSERT INTO machine_client (client_id, org, kind, owner_id, name, public_key, encrypted_app_key,
  token_expires, access_expires, lock_address, address, confirmed, revoked, created, last_seen)
VALUES (sqlc.arg(client_id), sqlc.arg(org), 'agent', sqlc.arg(owner_id), sqlc.arg(name), sqlc.arg(public_key), sqlc.arg(none),
  0, 0, 0, '', 1, 0, sqlc.arg(created), 0)
ON CONFLICT (client_id) DO UPDATE SET org = excluded.org, kind = 'agent', owner_id = excluded.owner_id, name = excluded.name,
  public_key = excluded.public_key, confirmed = 1, revoked = 0, access_expires = 0;

-- name: RevokeClientsOf :exec
UPDATE machine_client SET revoked = 1 WHERE org = ? AND owner_id = ?;

-- name: DeleteFolderKeysOf :exec
DELETE FROM folder_key WHERE org = ? AND recipient_id = ?;

-- name: DeleteAppKeysOf :exec
DELETE FROM app_key WHERE org = ? AND recipient_id = ?;
