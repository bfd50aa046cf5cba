-- One row for each transaction that a run with --ledger committed, written by that very transaction.
SET client_min_messages = warning;
CREATE SCHEMA IF NOT EXISTS pgload;
CREATE TABLE IF NOT EXISTS pgload.ledger (
    run bigint NOT NULL,
    client int NOT NULL,
    seq bigint NOT NULL,
    statement text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    lsn pg_lsn NOT NULL DEFAULT pg_current_wal_insert_lsn(),
    PRIMARY KEY (run, client, seq)
);
RESET client_min_messages;
