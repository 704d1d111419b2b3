-- One schema for SQLite and PostgreSQL: only BLOB, BIGINT and TEXT (a store for
-- PostgreSQL reads BLOB as BYTEA), every column NOT NULL, absent is the empty
-- value. Times are Unix milliseconds. org is the small number of an
-- organisation on this server; org_id is its name everywhere else.

-- +goose Up
CREATE TABLE org (
  id      BIGINT NOT NULL PRIMARY KEY,
  org_id  BLOB   NOT NULL UNIQUE,
  epoch   BIGINT NOT NULL, -- of the log's head
  head    BLOB   NOT NULL,
  created BIGINT NOT NULL
);

-- ---- directory ----
CREATE TABLE log_change (
  org      BIGINT NOT NULL,
  epoch    BIGINT NOT NULL,
  digest   BLOB   NOT NULL,
  signed   BLOB   NOT NULL,
  received BIGINT NOT NULL,
  PRIMARY KEY (org, epoch)
);
CREATE TABLE entry_keys (
  org         BIGINT NOT NULL,
  entry_id    BLOB   NOT NULL,
  keys        BLOB   NOT NULL,
  PRIMARY KEY (org, entry_id)
);
CREATE TABLE enrol_blob (
  org      BIGINT NOT NULL,
  entry_id BLOB   NOT NULL,
  blob     BLOB   NOT NULL,
  PRIMARY KEY (org, entry_id)
);
CREATE TABLE folder_key (
  org          BIGINT NOT NULL,
  folder_uid   BLOB   NOT NULL,
  key_version  BIGINT NOT NULL,
  recipient_id BLOB   NOT NULL,
  sealed       BLOB   NOT NULL,
  PRIMARY KEY (org, folder_uid, key_version, recipient_id)
);
CREATE INDEX folder_key_recipient ON folder_key (org, recipient_id);
-- A person's signed-in session. The bearer itself is not kept.
CREATE TABLE session (
  bearer_hash BLOB   NOT NULL PRIMARY KEY,
  org         BIGINT NOT NULL,
  entry_id    BLOB   NOT NULL,
  enrolment   BIGINT NOT NULL, -- 1: signed in with an enrolment's key, good for enrolling alone
  expires     BIGINT NOT NULL
);
CREATE INDEX session_expires ON session (expires);
CREATE INDEX session_entry ON session (org, entry_id);

-- ---- records ----
CREATE TABLE folder ( -- shared root folders
  org        BIGINT NOT NULL,
  folder_uid BLOB   NOT NULL,
  data       BLOB   NOT NULL,
  created    BIGINT NOT NULL,
  PRIMARY KEY (org, folder_uid)
);
CREATE TABLE subfolder (
  org        BIGINT NOT NULL,
  folder_uid BLOB   NOT NULL,
  root_uid   BLOB   NOT NULL,
  parent_uid BLOB   NOT NULL, -- empty: directly below the root
  folder_key BLOB   NOT NULL, -- CBC under the root folder's key
  data       BLOB   NOT NULL,
  created    BIGINT NOT NULL,
  PRIMARY KEY (org, folder_uid)
);
CREATE INDEX subfolder_root ON subfolder (org, root_uid);
CREATE TABLE record (
  org            BIGINT NOT NULL,
  record_uid     BLOB   NOT NULL,
  folder_uid     BLOB   NOT NULL,
  sub_folder_uid BLOB   NOT NULL,
  kind           TEXT   NOT NULL,
  record_key     BLOB   NOT NULL, -- wrapped under the folder key of key_version
  key_version    BIGINT NOT NULL,
  data           BLOB   NOT NULL,
  data_digest    BLOB   NOT NULL,
  revision       BIGINT NOT NULL,
  value_seq      BIGINT NOT NULL, -- of the newest attestation, 0: none
  attestation    BLOB   NOT NULL, -- digest of the newest committed or edited result
  statement_seq  BIGINT NOT NULL, -- of the current statement, 0: none
  resource_uid   BLOB   NOT NULL, -- clear hints (links), trusted by nobody
  resource_folder BLOB  NOT NULL,
  admin_uid      BLOB   NOT NULL,
  admin_folder   BLOB   NOT NULL,
  pool_id        BLOB   NOT NULL,
  created        BIGINT NOT NULL,
  updated        BIGINT NOT NULL,
  PRIMARY KEY (org, record_uid)
);
CREATE INDEX record_folder ON record (org, folder_uid, record_uid);
CREATE TABLE record_history (
  org         BIGINT NOT NULL,
  record_uid  BLOB   NOT NULL,
  n           BIGINT NOT NULL, -- counts within the record
  revision    BIGINT NOT NULL,
  record_key  BLOB   NOT NULL,
  key_version BIGINT NOT NULL, -- of the folder key; below zero: under the record's own key, see made_version
  data        BLOB   NOT NULL,
  why         TEXT   NOT NULL, -- replaced, abandoned, rolled_back, rekeyed
  run_id      BLOB   NOT NULL,
  result      BLOB   NOT NULL, -- digest of the result that attested it
  time        BIGINT NOT NULL,
  PRIMARY KEY (org, record_uid, n)
);
CREATE TABLE statement (
  org        BIGINT NOT NULL,
  record_uid BLOB   NOT NULL,
  seq        BIGINT NOT NULL,
  folder_uid BLOB   NOT NULL,
  digest     BLOB   NOT NULL,
  blob       BLOB   NOT NULL,
  time       BIGINT NOT NULL,
  PRIMARY KEY (org, record_uid, seq)
);
CREATE TABLE result (
  org        BIGINT NOT NULL,
  digest     BLOB   NOT NULL,
  subject_uid BLOB  NOT NULL, -- account, or the resource of a reply
  run_id     BLOB   NOT NULL,
  phase      BIGINT NOT NULL,
  by_id      BLOB   NOT NULL,
  value_seq  BIGINT NOT NULL,
  data_digest BLOB  NOT NULL,
  signed     BLOB   NOT NULL,
  detail     BLOB   NOT NULL,
  n          BIGINT NOT NULL, -- order of arrival within the organisation
  time       BIGINT NOT NULL,
  PRIMARY KEY (org, digest)
);
CREATE INDEX result_subject ON result (org, subject_uid, n);
CREATE INDEX result_run ON result (org, run_id, n);
CREATE INDEX result_n ON result (org, n);
CREATE TABLE staged (
  org         BIGINT NOT NULL,
  record_uid  BLOB   NOT NULL,
  owner_kind  TEXT   NOT NULL, -- agent, client
  owner_id    BLOB   NOT NULL, -- agent entry, or client id
  run_id      BLOB   NOT NULL,
  epoch       BIGINT NOT NULL,
  base_revision BIGINT NOT NULL,
  data        BLOB   NOT NULL,
  data_digest BLOB   NOT NULL,
  value_seq   BIGINT NOT NULL,
  result      BLOB   NOT NULL, -- Signed{Result} staged
  authority   BLOB   NOT NULL,
  time        BIGINT NOT NULL,
  PRIMARY KEY (org, record_uid)
);
CREATE TABLE file (
  org         BIGINT NOT NULL,
  file_uid    BLOB   NOT NULL,
  record_uid  BLOB   NOT NULL,
  file_key    BLOB   NOT NULL, -- GCM under the record key
  data        BLOB   NOT NULL, -- metadata, GCM under the file key
  size        BIGINT NOT NULL,
  upload_hash BLOB   NOT NULL, -- of the single-use upload secret; empty: used
  present     BIGINT NOT NULL, -- 1: the contents have arrived
  created     BIGINT NOT NULL,
  PRIMARY KEY (org, file_uid)
);
CREATE INDEX file_record ON file (org, record_uid);

-- ---- machine applications ----
CREATE TABLE app (
  org       BIGINT NOT NULL,
  app_id    BLOB   NOT NULL,
  app_data  BLOB   NOT NULL,
  owner_pub BLOB   NOT NULL,
  created   BIGINT NOT NULL,
  PRIMARY KEY (org, app_id)
);
CREATE TABLE app_key (
  org          BIGINT NOT NULL,
  app_id       BLOB   NOT NULL,
  recipient_id BLOB   NOT NULL,
  sealed       BLOB   NOT NULL,
  PRIMARY KEY (org, app_id, recipient_id)
);
CREATE TABLE app_folder (
  org         BIGINT NOT NULL,
  app_id      BLOB   NOT NULL,
  folder_uid  BLOB   NOT NULL,
  key_version BIGINT NOT NULL,
  wrapped     BLOB   NOT NULL,
  PRIMARY KEY (org, app_id, folder_uid)
);
-- client_id is the SDKs' 64 bytes; an agent's is SHA-512 of keys.md 3.6.
CREATE TABLE machine_client (
  client_id         BLOB   NOT NULL PRIMARY KEY,
  org               BIGINT NOT NULL,
  kind              TEXT   NOT NULL, -- app, agent
  owner_id          BLOB   NOT NULL, -- app entry or agent entry
  name              TEXT   NOT NULL,
  public_key        BLOB   NOT NULL, -- P-256 point; empty: not yet bound
  encrypted_app_key BLOB   NOT NULL,
  token_expires     BIGINT NOT NULL,
  access_expires    BIGINT NOT NULL, -- 0: never
  lock_address      BIGINT NOT NULL,
  address           TEXT   NOT NULL,
  confirmed         BIGINT NOT NULL, -- 0: a repeated binding by the same key is served
  revoked           BIGINT NOT NULL,
  created           BIGINT NOT NULL,
  last_seen         BIGINT NOT NULL
);
CREATE INDEX machine_client_owner ON machine_client (org, owner_id);

-- ---- work ----
CREATE TABLE lease (
  org         BIGINT NOT NULL,
  account_uid BLOB   NOT NULL,
  run_id      BLOB   NOT NULL,
  epoch       BIGINT NOT NULL,
  agent_id    BLOB   NOT NULL,
  live        BIGINT NOT NULL, -- 1: held; 0: given back, the epoch stays
  taken       BIGINT NOT NULL, -- a lease lives until max(taken, agent's seen) + term
  PRIMARY KEY (org, account_uid)
);
CREATE INDEX lease_agent ON lease (org, agent_id, live);
CREATE TABLE agent_seen (
  org       BIGINT NOT NULL,
  agent_id  BLOB   NOT NULL,
  seen      BIGINT NOT NULL,
  connected BIGINT NOT NULL, -- 1: by node; 2: and begins nothing more, since it drains; 0: not
  node      TEXT   NOT NULL,
  version   TEXT   NOT NULL,
  os        TEXT   NOT NULL,
  arch      TEXT   NOT NULL,
  log_epoch BIGINT NOT NULL,
  PRIMARY KEY (org, agent_id)
);
CREATE TABLE run (
  org          BIGINT NOT NULL,
  run_id       BLOB   NOT NULL,
  account_uid  BLOB   NOT NULL,
  folder_uid   BLOB   NOT NULL,
  resource_uid BLOB   NOT NULL,
  resource_folder BLOB NOT NULL,
  pool_id      BLOB   NOT NULL,
  agent_id     BLOB   NOT NULL,
  action       TEXT   NOT NULL, -- rotate, verify
  cause        TEXT   NOT NULL, -- person, schedule, recover
  state        TEXT   NOT NULL, -- queued, leased, staged, committed, finished, failed, alert, dropped
  phase        TEXT   NOT NULL, -- newest hint
  attempt      BIGINT NOT NULL,
  command_id   BLOB   NOT NULL,
  credential   BIGINT NOT NULL,
  dependents   BIGINT NOT NULL,
  scripts      BIGINT NOT NULL,
  class        TEXT   NOT NULL,
  reason       TEXT   NOT NULL,
  created      BIGINT NOT NULL,
  started      BIGINT NOT NULL,
  finished     BIGINT NOT NULL, -- 0: not yet
  next_attempt BIGINT NOT NULL, -- when "run due" goes out (again); 0: never; below zero: held while a restored server recovers
  late_told    BIGINT NOT NULL, -- 1: it was told of as overdue
  PRIMARY KEY (org, run_id)
);
CREATE INDEX run_due ON run (next_attempt) WHERE next_attempt > 0;
CREATE INDEX run_account ON run (org, account_uid, created);
CREATE INDEX run_created ON run (org, created);
CREATE INDEX run_open ON run (org, created) WHERE finished = 0;
CREATE INDEX run_late ON run (created) WHERE finished = 0 AND late_told = 0;
CREATE INDEX run_bad ON run (org, created) WHERE state = 'failed' OR state = 'alert';
CREATE TABLE command ( -- the agents' outbox
  org      BIGINT NOT NULL,
  id       BLOB   NOT NULL,
  agent_id BLOB   NOT NULL,
  from_id  BLOB   NOT NULL,
  run_id   BLOB   NOT NULL,
  frame    BLOB   NOT NULL,
  expires  BIGINT NOT NULL,
  created  BIGINT NOT NULL,
  n        BIGINT NOT NULL, -- order within the organisation
  acked    BIGINT NOT NULL, -- 0: delivered again at the next contact
  refused  TEXT   NOT NULL,
  reply    BLOB   NOT NULL, -- Signed{Result} replied
  reply_detail BLOB NOT NULL,
  PRIMARY KEY (org, id)
);
CREATE INDEX command_waiting ON command (org, agent_id, n) WHERE acked = 0;
CREATE INDEX command_n ON command (org, n);
CREATE INDEX command_expires ON command (expires) WHERE acked = 0;
CREATE TABLE rotation (
  org          BIGINT NOT NULL,
  account_uid  BLOB   NOT NULL,
  folder_uid   BLOB   NOT NULL,
  resource_uid BLOB   NOT NULL,
  resource_folder BLOB NOT NULL,
  pool_id      BLOB   NOT NULL,
  schedule     BLOB   NOT NULL, -- encoded rotunda.client.v1.Schedule
  missed       TEXT   NOT NULL, -- skip, once
  jitter_s     BIGINT NOT NULL,
  paused       BIGINT NOT NULL, -- 1: by a person; 2 more: held while the server recovers
  next_due     BIGINT NOT NULL, -- with jitter; 0: none
  next_nominal BIGINT NOT NULL, -- the firing itself
  last_due     BIGINT NOT NULL,
  failures     BIGINT NOT NULL, -- since the last success
  state        TEXT   NOT NULL, -- scheduled, running, retrying, alert, done
  reason       TEXT   NOT NULL,
  run_id       BLOB   NOT NULL, -- of the newest run
  updated      BIGINT NOT NULL,
  PRIMARY KEY (org, account_uid)
);
CREATE INDEX rotation_due ON rotation (next_due) WHERE next_due > 0 AND paused = 0;
CREATE TABLE event (
  org        BIGINT NOT NULL,
  seq        BIGINT NOT NULL,
  time       BIGINT NOT NULL,
  name       TEXT   NOT NULL,
  actor      BLOB   NOT NULL,
  folder_uid BLOB   NOT NULL,
  record_uid BLOB   NOT NULL,
  run_id     BLOB   NOT NULL,
  reason     TEXT   NOT NULL,
  fields     TEXT   NOT NULL, -- JSON object
  PRIMARY KEY (org, seq)
);
CREATE INDEX event_name ON event (org, name, seq);

-- +goose Down
DROP TABLE event; DROP TABLE rotation; DROP TABLE command; DROP TABLE run; DROP TABLE agent_seen; DROP TABLE lease;
DROP TABLE machine_client; DROP TABLE app_folder; DROP TABLE app_key; DROP TABLE app; DROP TABLE file; DROP TABLE staged;
DROP TABLE result; DROP TABLE statement; DROP TABLE record_history; DROP TABLE record; DROP TABLE subfolder; DROP TABLE folder;
DROP TABLE session; DROP TABLE folder_key; DROP TABLE enrol_blob; DROP TABLE entry_keys; DROP TABLE log_change; DROP TABLE org;
