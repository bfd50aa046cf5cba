//! Backups: cron really fires, as many are kept as was said, what fails leaves the good ones, and what is lost comes back.

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    command::Program,
    suite::{Lab, MAIN, Suite},
};

/// How many are kept here.
const KEPT: usize = 2;
/// Everything that has a name of a backup in the folder, good or not.
const NAMES: &str = "ls /var/backups/pgbackup";
const METRICS: &str = "/var/lib/pgbackup/metrics/pgbackup.prom";

fn backup<'a>(lab: &Lab, verb: &str, rest: impl IntoIterator<Item = &'a str>) -> Program {
    lab.suite.pgprov(["backup", verb, "--lab", lab.name, "-o", "json"]).args(rest).limit(120)
}

/// The main lab with other backups; without any when there is nothing to write.
fn with_backup(suite: &Suite, key: Option<&str>) -> Result<PathBuf> {
    let text = suite.repository_file("topologies/lab.yaml")?;
    let old = text.lines().find(|line| line.starts_with("backup:")).context("expected `backup:`")?;
    let edited = match key {
        Some(key) => text.replace(old, key),
        None => text.replace(old, "").replace(", backup]", "]"),
    };
    ensure!(edited != text, "expected another topology");
    suite.file("backup.yaml", &edited)
}

fn metric(lab: &Lab, name: &str) -> Result<u64> {
    let said = lab.exec("client", &format!("sed -n 's/^pg_backup_{name} //p' {METRICS}"))?;
    said.parse().with_context(|| format!("expected a number as pg_backup_{name}, got {said:?}"))
}

/// The entry fires by itself, every minute as it says; and the count is kept.
pub fn cron_fires_and_the_count_is_kept(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let before = backup(&lab, "list", []).ok()?.json()?;
    ensure!(before["interval_cron"] == "0 */6 * * *", "expected what the topology says in {before:#}");
    // Four times a day it has fired by itself since the lab came up.
    let made = before["backups"].as_array().cloned().context("expected backups as array")?;
    let file = with_backup(
        suite,
        Some(&format!("backup: {{ interval_cron: \"* * * * *\", retention_count: {KEPT} }}")),
    )?;
    // The node exporter knows since when something should have run, and whether something has.
    ensure!(
        metric(&lab, "installed_timestamp_seconds")? > 0 && metric(&lab, "retention_count")? > KEPT as u64
    );
    let succeeded = metric(&lab, "last_success_timestamp_seconds")? > 0;
    ensure!(
        succeeded != made.is_empty(),
        "expected a success only with a backup, got {succeeded} with {made:?}"
    );
    // `status` asks for it each time, and `watch` every two seconds: it may not cost more than a hundred processes.
    let cost = "a=$(date +%s%N); for i in $(seq 100); do /bin/true; done; b=$(date +%s%N); /usr/local/sbin/pgbackup brief >/dev/null; \
                c=$(date +%s%N); [ $((c - b)) -lt $((b - a)) ] || echo $((c - b)) ns, not $((b - a)) ns";
    let cost = lab.exec("client", cost)?;
    ensure!(cost.is_empty(), "expected `pgbackup brief` to be quick: {cost}");
    lab.up(&file)?.exits(0)?;
    ensure!(metric(&lab, "retention_count")? == KEPT as u64 && metric(&lab, "interval_seconds")? == 60);
    let begun = Instant::now();
    let first = loop {
        let list = backup(&lab, "list", []).ok()?.json()?;
        let mut all = list["backups"].as_array().into_iter().flatten();
        if let Some(new) = all.find(|one| made.iter().all(|old| old["id"] != one["id"])) {
            break new.clone();
        }
        ensure!(begun.elapsed().as_secs() < 100, "expected cron to fire within 100 s, at last {list:#}");
        thread::sleep(Duration::from_secs(2));
    };
    // Nobody but cron asked for it.
    ensure!(first["server"] == "s", "expected it to be read from the standby: {first:#}");
    // No more of them by themselves: the rest of this is about those made here.
    lab.up(&lab.file)?.exits(0)?;
    lab.exec(
        "client",
        &format!(
            "sed -i 's/^BACKUP_RETENTION_COUNT=.*/BACKUP_RETENTION_COUNT={KEPT}/' /etc/pgbackup/environment"
        ),
    )?;
    // The clock was wrong when those were made: they are the older ones all the same.
    lab.exec("client", "cd /var/backups/pgbackup; for id in *Z; do mv $id 2099${id#????}; done")?;
    let mut last = Value::Null;
    for _ in 0..KEPT {
        last = backup(&lab, "now", []).ok()?.json()?;
    }
    let kept = lab.exec("client", NAMES)?;
    ensure!(
        kept.lines().count() == KEPT && kept.lines().last() == last["id"].as_str(),
        "expected the last {KEPT}, up to {last:#}, got {kept}"
    );
    ensure!(metric(&lab, "retained")? == KEPT as u64 && metric(&lab, "last_exit_code")? == 0);
    // One at a time; that another one runs is no failure.
    lab.exec("client", "flock -o /var/lib/pgbackup/lock sleep 15 >/dev/null 2>&1 & sleep 0.5")?;
    backup(&lab, "now", []).run()?.exits(1)?.says("another one is running")?;
    ensure!(metric(&lab, "failures_total")? == 0, "expected that to be no failure");
    lab.exec("client", "flock /var/lib/pgbackup/lock true")?;
    let log = lab.pgprov("logs", ["client", "--role", "backup"]).ok()?;
    log.says(first["id"].as_str().unwrap_or_default()).map(drop)
}

/// However one fails, the good ones stay, nothing half made is left, and the metric is raised.
pub fn what_fails_leaves_the_good_ones(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let good = lab.exec("client", NAMES)?;
    ensure!(!good.is_empty(), "expected good ones of the case before");
    let failures = metric(&lab, "failures_total")?;
    let failed = |count: u64, status: u64| -> Result<()> {
        let now = lab.exec("client", NAMES)?;
        ensure!(now == good, "expected {good}, got {now}");
        let seen = (metric(&lab, "failures_total")? - failures, metric(&lab, "last_exit_code")?);
        ensure!(seen == (count, status), "expected {count} failures, the last with {status}, got {seen:?}");
        Ok(())
    };
    let on_primary = |sql: &str| lab.psql("m", sql);
    let in_wms =
        |sql: &str| lab.exec("m", &format!("cd /; runuser -u postgres -- psql -XAtqw -d wms -c \"{sql}\""));

    on_primary("alter database wms rename to elsewhere")?;
    let gone = backup(&lab, "now", []).run();
    on_primary("alter database elsewhere rename to wms")?;
    gone?.exits(1)?.says("database \"wms\" does not exist")?;
    failed(1, 12)?;

    // Held by a lock, it is killed in the middle: pg_dump here, then the script itself, which can then say nothing.
    let half_way = |what: &str| {
        format!(
            "cd /; runuser -u postgres -- psql -XAtqw -d \"host=m,s port=5432 user=postgres passfile=/etc/pgbackup/pgpass dbname=wms \
             target_session_attrs=read-write sslmode=require\" -c 'begin; lock table public.held; select pg_sleep(20)' >/dev/null 2>&1 & holder=$!; \
             sleep 2; /usr/local/sbin/pgbackup now >/tmp/said 2>&1 & script=$!; \
             for try in $(seq 100); do test -e /var/backups/pgbackup/*.part/wms.dump && break; sleep 0.1; done; sleep 1; {what}; \
             wait $script; echo $?; pkill -u postgres -x psql; pkill -u postgres -x pg_dump; wait; cat /tmp/said"
        )
    };
    in_wms("create table public.held as select 1 as a")?;
    let primary = "sed -i 's/^BACKUP_WHERE=.*/BACKUP_WHERE=primary/' /etc/pgbackup/environment";
    lab.exec("client", primary)?;
    let said = lab.exec("client", &half_way("pkill -9 -u postgres -x pg_dump"))?;
    ensure!(said.starts_with("12\n"), "expected status 12: {said}");
    failed(2, 12)?;
    let said = lab.exec("client", &half_way("kill -9 $script"))?;
    ensure!(said.starts_with("137"), "expected status 137: {said}");
    in_wms("drop table public.held")?;
    ensure!(metric(&lab, "running")? == 1, "expected it to be seen that it did not end");
    // All of them do.
    backup(&lab, "verify", ["Z"]).run()?.exits(2)?.says("several backups end with Z")?;

    // The next one clears up, counts it, and finds too little space; then so little that pg_dump itself meets the end of it.
    let fill = |free: u64| {
        let script = format!(
            "fallocate -l $(($(df --output=avail -B1 /var/backups | tail -n 1) - ({free} << 20))) /var/backups/filler"
        );
        lab.exec("client", &script)
    };
    fill(2)?;
    let refused = backup(&lab, "now", []).run();
    lab.exec("client", "rm /var/backups/filler")?;
    refused?.exits(1)?.says("too little space")?;
    failed(4, 11)?;
    in_wms(
        "create table public.much as select i, sha512(i::text::bytea) as noise from generate_series(1, 60000) i",
    )?;
    lab.exec("client", "sed -i 's/^BACKUP_RESERVE_MIB=.*/BACKUP_RESERVE_MIB=0/' /etc/pgbackup/environment")?;
    fill(2)?;
    let full = backup(&lab, "now", []).run();
    lab.exec("client", "rm /var/backups/filler")?;
    in_wms("drop table public.much")?;
    full?.exits(1)?.says("No space left on device")?;
    failed(5, 12)
}

/// A table that is dropped comes back with its rows, which were counted before and after.
pub fn a_dropped_table_is_restored(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let on_client = |sql: &str| lab.exec("client", &format!("psql -XAtqw service=lab-rw -c \"{sql}\""));
    // With its schema: what has none goes into that of the warehouse, which is the user's, where pgload has made it.
    // The standby that is read is behind: what was committed before is in the backup all the same.
    lab.psql("s", "select pg_wal_replay_pause()")?;
    on_client(
        "create table public.treasure (id int primary key, what text not null); \
         create index on public.treasure (what); insert into public.treasure select i, 'coin ' || i from generate_series(1, 1234) i",
    )?;
    lab.psql("m", "create role guest login password 'a guest'")?;
    let saving = backup(&lab, "now", []).start()?;
    thread::sleep(Duration::from_secs(4));
    lab.psql("s", "select pg_wal_replay_resume()")?;
    let saved = saving.wait()?.exits(0)?.json()?;
    ensure!(saved["server"] == "s", "expected the standby to be read, not\n{saved:#}");
    backup(&lab, "verify", []).ok()?;
    a_dropped_role_is_in_globals(&lab, saved["id"].as_str().unwrap_or_default())?;
    backup(&lab, "restore", ["--table", "public.trove"])
        .run()?
        .exits(2)?
        .says("has no table public.trove")?;
    on_client("drop table public.treasure")?;
    let done = backup(&lab, "restore", ["--table", "public.treasure"]).run()?;
    let log = || lab.exec("client", "tail -n 20 /var/lib/pgbackup/log").unwrap_or_default();
    ensure!(done.code == Some(0), "expected the table to be restored: {done}\n{}", log());
    let done = done.json()?;
    let rows =
        done["tables"].as_array().into_iter().flatten().find(|table| table["name"] == "public.treasure");
    ensure!(rows.is_some_and(|table| table["rows"] == 1234), "expected 1234 rows in {done:#}");
    let back = on_client(
        "select count(*), min(what), (select count(*) from pg_indexes where tablename = 'treasure'), \
         (select tableowner from pg_tables where tablename = 'treasure') from public.treasure",
    )?;
    ensure!(back == "1234|coin 1|2|wms", "expected the table as it was, got {back}");
    backup(&lab, "restore", ["--table", "public.treasure"])
        .run()?
        .exits(2)?
        .says("exists in database wms")?;
    on_client("drop table public.treasure")?;
    let left = lab.psql("m", "select count(*) from pg_database where datname like 'restore%'")?;
    ensure!(left == "0", "expected the database that was restored into to be gone");
    damage_is_noticed(&lab)
}

/// A byte that is another one makes a backup that must not be trusted.
/// With its password, in statements that psql takes.
fn a_dropped_role_is_in_globals(lab: &Lab, id: &str) -> Result<()> {
    let password = || lab.psql("m", "select rolpassword from pg_authid where rolname = 'guest'");
    let before = password()?;
    lab.psql("m", "drop role guest")?;
    let restore = format!(
        ". /etc/pgbackup/environment; grep -E '^(CREATE|ALTER) ROLE guest' /var/backups/pgbackup/{id}/globals.sql | \
         psql -XAtqw -v ON_ERROR_STOP=1 -d \"host=$BACKUP_HOSTS $BACKUP_CONNECT dbname=postgres target_session_attrs=read-write\""
    );
    lab.exec("client", &restore)?;
    let after = password()?;
    ensure!(before.starts_with("SCRAM-SHA-256") && after == before, "expected {before}, got {after}");
    lab.psql("m", "drop role guest").map(drop)
}

fn damage_is_noticed(lab: &Lab) -> Result<()> {
    let newest = "cd /var/backups/pgbackup/$(ls /var/backups/pgbackup | tail -n 1)";
    lab.exec(
        "client",
        &format!("{newest}; printf x | dd of=wms.dump bs=1 seek=3000 conv=notrunc status=none"),
    )?;
    backup(lab, "verify", []).run()?.exits(1)?.says("is damaged")?;
    backup(lab, "restore", []).run()?.exits(1)?.says("is damaged").map(drop)
}

/// Without `backup:` there is neither entry nor script; what was saved stays.
pub fn entry_goes_with_its_key(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let there = "ls /etc/cron.d/pgbackup /usr/local/sbin/pgbackup 2>/dev/null | wc -l";
    ensure!(lab.exec("client", there)? == "2");
    lab.up(&with_backup(suite, None)?)?.exits(0)?;
    ensure!(lab.exec("client", there)? == "0", "expected the entry to be gone");
    ensure!(!lab.exec("client", NAMES)?.is_empty(), "expected what was saved to stay");
    lab.up(&lab.file)?.exits(0)?;
    ensure!(lab.exec("client", there)? == "2", "expected the entry to be back");
    lab.is_as_its_topology_says()
}
