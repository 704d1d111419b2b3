-- name: InsertEvent :exec
INSERT INTO event (org, seq, time, name, actor, folder_uid, record_uid, run_id, reason, fields)
VALUES (sqlc.arg(org), (SELECT coalesce(max(seq), 0) + 1 FROM event WHERE event.org = sqlc.arg(org)),
  sqlc.arg(time), sqlc.arg(name), sqlc.arg(actor), sqlc.arg(folder_uid), sqlc.arg(record_uid), sqlc.arg(run_id),
  sqlc.arg(reason), sqlc.arg(fields));

-- name: EventsAfter :many
SELECT * FROM event WHERE org = sqlc.arg(org) AND seq > sqlc.arg(seq) ORDER BY seq LIMIT sqlc.arg(n);

-- name: EventsBefore :many
SELECT * FROM event WHERE org = sqlc.arg(org) AND seq < sqlc.arg(seq) ORDER BY seq DESC LIMIT sqlc.arg(n);

-- name: EventsNamedAfter :many
SELECT * FROM event WHERE org = sqlc.arg(org) AND name = sqlc.arg(name) AND seq > sqlc.arg(seq) ORDER BY seq LIMIT sqlc.arg(n);

-- name: EventsNamedBefore :many
SELECT * FROM event WHERE org = sqlc.arg(org) AND name = sqlc.arg(name) AND seq < sqlc.arg(seq) ORDER BY seq DESC LIMIT sqlc.arg(n);
