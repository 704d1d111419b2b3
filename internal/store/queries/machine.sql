-- name: MachineClientByID :one
SELECT * FROM machine_client WHERE client_id = ?;

-- name: BindClient :execrows
UPDATE machine_client SET public_key = sqlc.arg(public_key), address = sqlc.arg(address), last_seen = sqlc.arg(now)
WHERE client_id = sqlc.arg(client_id) AND length(public_key) = 0;

-- name: ConfirmClient :exec
UPDATE machine_client SET confirmed = 1, encrypted_app_key = sqlc.arg(none), address = sqlc.arg(address), last_seen = sqlc.arg(now)
WHERE client_id = sqlc.arg(client_id);

-- name: SeenClient :exec
UPDATE machine_client SET last_seen = ? WHERE client_id = ?;

-- name: AppFolderKeys :many
SELECT * FROM app_folder WHERE org = ? AND app_id = ? ORDER BY folder_uid;

-- name: AppFolderKey :one
SELECT * FROM app_folder WHERE org = ? AND app_id = ? AND folder_uid = ?;

-- name: FolderByUID :one
SELECT * FROM folder WHERE org = ? AND folder_uid = ?;

-- name: SubfolderByUID :one
SELECT * FROM subfolder WHERE org = ? AND folder_uid = ?;

-- name: SubfoldersOf :many
SELECT * FROM subfolder WHERE org = ? AND root_uid = ? ORDER BY created, folder_uid;

-- name: SubfolderKeysOf :many
SELECT folder_uid, parent_uid, folder_key FROM subfolder WHERE org = ? AND root_uid = ? ORDER BY created, folder_uid;

-- name: SizeOfSubfolders :one
SELECT CAST(coalesce(sum(length(data) + length(folder_key)), 0) AS BIGINT) AS size, count(*) AS folders FROM subfolder WHERE org = ? AND root_uid = ?;

-- name: CountSubfoldersOf :one
SELECT count(*) FROM subfolder WHERE org = ? AND root_uid = ?;

-- name: AddSubfolder :exec
INSERT INTO subfolder (org, folder_uid, root_uid, parent_uid, folder_key, data, created) VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: RenameSubfolder :exec
UPDATE subfolder SET data = ? WHERE org = ? AND folder_uid = ?;

-- name: DeleteSubfolder :exec
DELETE FROM subfolder WHERE org = ? AND folder_uid = ?;

-- name: SizesInSubfolders :many
SELECT record_uid, statement_seq, CAST(length(data) AS BIGINT) AS size FROM record WHERE org = sqlc.arg(org) AND folder_uid = sqlc.arg(folder_uid) AND sub_folder_uid IN (sqlc.slice(sub_folders))
ORDER BY record_uid LIMIT 100000;

-- name: SetSubfolder :exec
UPDATE record SET sub_folder_uid = ? WHERE org = ? AND record_uid = ?;

-- name: AddFile :exec
INSERT INTO file (org, file_uid, record_uid, file_key, data, size, upload_hash, present, created) VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?);

-- name: FileByUID :one
SELECT * FROM file WHERE org = ? AND file_uid = ?;

-- name: SizeOfFiles :one
SELECT CAST(coalesce(sum(length(data) + length(file_key)), 0) AS BIGINT) AS size, count(*) AS files FROM file
WHERE org = sqlc.arg(org) AND record_uid IN (sqlc.slice(uids));

-- name: FilesOfRecords :many
SELECT * FROM file WHERE org = sqlc.arg(org) AND record_uid IN (sqlc.slice(uids)) ORDER BY created, file_uid;

-- name: CountFilesOf :one
SELECT count(*) FROM file WHERE org = ? AND record_uid = ?;

-- name: FileArrived :execrows
UPDATE file SET present = 1, upload_hash = sqlc.arg(none)
WHERE org = sqlc.arg(org) AND file_uid = sqlc.arg(file_uid) AND upload_hash = sqlc.arg(upload_hash) AND present = 0;

-- name: DeleteFile :exec
DELETE FROM file WHERE org = ? AND file_uid = ?;
