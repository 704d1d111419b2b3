-- name: CreateOrg :exec
INSERT INTO org (id, org_id, epoch, head, created)
VALUES ((SELECT coalesce(max(id), 0) + 1 FROM org), ?, ?, ?, ?);

-- name: OrgByID :one
SELECT * FROM org WHERE org_id = ?;

-- name: SetHead :execrows
UPDATE org SET epoch = sqlc.arg(epoch), head = sqlc.arg(head) WHERE id = sqlc.arg(id) AND epoch = sqlc.arg(epoch) - 1;
