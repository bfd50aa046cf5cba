-- Results of runs, for Grafana and SQL. `pgload publish` makes it and fills it.
SET client_min_messages = warning;
CREATE SCHEMA IF NOT EXISTS pgload;
CREATE TABLE IF NOT EXISTS pgload.run (
    id text PRIMARY KEY,
    started timestamptz NOT NULL,
    workload text NOT NULL,
    workload_digest text NOT NULL,
    stage text NOT NULL,
    load text NOT NULL,
    target text NOT NULL,
    elapsed float8 NOT NULL,            -- seconds that were counted
    cpu float8 NOT NULL,                -- cores that the client used
    outage float8,                      -- longest time without a successful write, seconds
    invalid text[] NOT NULL,
    document jsonb NOT NULL             -- all of run.json: environment, settings, counters
);
CREATE TABLE IF NOT EXISTS pgload.statement (
    run text NOT NULL REFERENCES pgload.run ON DELETE CASCADE,
    name text NOT NULL,
    kind text NOT NULL,
    ok bigint NOT NULL, weak bigint NOT NULL, idle bigint NOT NULL, aborted bigint NOT NULL, indeterminate bigint NOT NULL,
    retries bigint NOT NULL,
    rate float8 NOT NULL,
    mean_us float8 NOT NULL,            -- response, from when it was due
    p50_us bigint NOT NULL, p95_us bigint NOT NULL, p99_us bigint NOT NULL, max_us bigint NOT NULL,
    plan jsonb,                         -- EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)
    PRIMARY KEY (run, name)
);
CREATE TABLE IF NOT EXISTS pgload.second (
    run text NOT NULL REFERENCES pgload.run ON DELETE CASCADE,
    at timestamptz NOT NULL,
    statement text NOT NULL,
    ok bigint NOT NULL, weak bigint NOT NULL, idle bigint NOT NULL, aborted bigint NOT NULL, indeterminate bigint NOT NULL,
    retries bigint NOT NULL,
    mean_us float8 NOT NULL,
    p50_us bigint NOT NULL, p95_us bigint NOT NULL, p99_us bigint NOT NULL, max_us bigint NOT NULL,
    PRIMARY KEY (run, statement, at)
);
CREATE TABLE IF NOT EXISTS pgload.error (
    run text NOT NULL REFERENCES pgload.run ON DELETE CASCADE,
    statement text,                     -- NULL: connecting
    phase text NOT NULL,
    sqlstate text NOT NULL,
    count bigint NOT NULL,
    first_s float8 NOT NULL,
    last_s float8 NOT NULL,
    message text NOT NULL
);
RESET client_min_messages;
