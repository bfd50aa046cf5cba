//! Load from outside: `pgprov load` on the client VM of the main lab, against PostgreSQL 17 over TLS.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    command::Program,
    failover::drill::Drill,
    suite::{Lab, MAIN, Suite},
};

/// Seconds that an emulated host may take for a run of some seconds with everything around it.
const LIMIT: u64 = 200;

fn load<'a>(lab: &Lab, verb: &str, rest: impl IntoIterator<Item = &'a str>) -> Program {
    lab.suite.pgprov(["load", verb, "--lab", lab.name]).args(rest).limit(LIMIT)
}

fn status(lab: &Lab) -> Result<Value> {
    load(lab, "status", ["-o", "json"]).ok()?.json()
}

/// Looks until the live view shows what is wanted.
fn live(lab: &Lab, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let begun = Instant::now();
    loop {
        let status = status(lab)?;
        if wanted(&status) {
            return Ok(status);
        }
        ensure!(begun.elapsed().as_secs() < 90, "expected {what} within 90 s, at last {status:#}");
        thread::sleep(Duration::from_millis(500));
    }
}

/// The warehouse, made in the lab: the same as anywhere, and once.
pub fn init(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    ensure!(status(&lab)?["state"] == "idle", "expected nothing to run yet");
    let init = |rest: &[&'static str]| {
        let words = ["--scale", "0.0625", "-o", "json"].into_iter().chain(rest.iter().copied());
        load(&lab, "init", words).run()
    };
    let first = init(&[])?.exits(0)?.json()?;
    ensure!(first["rows"].as_u64() > Some(50_000), "expected rows in {first:#}");
    // Of the data itself, as it was made here.
    let digest = first["digest"].as_str().context("expected a digest")?;
    ensure!(digest.starts_with(DIGEST), "expected digest {DIGEST}, got {digest}");
    let again = init(&[])?.exits(0)?.json()?;
    ensure!(again["rows"] == 0 && again["digest"] == digest, "expected nothing to be done again: {again:#}");
    init(&["--seed=2"])?.exits(1)?.says("--replace")?;
    let sum = "select count(*) from wms.sales_order";
    let orders = lab.exec("client", &format!("psql -XAtqw service=lab-rw -c '{sum}'"))?;
    let copied = lab.exec("client", &format!("psql -XAtqw service=lab-ro -c '{sum}'"))?;
    ensure!(orders.parse::<u32>()? > 1000 && orders == copied, "{orders} orders on m, {copied} on s");
    Ok(())
}

/// How the digest of the smallest warehouse with seed 1 begins: a test of the generator says the same.
const DIGEST: &str = "4e0c9b0a738419d0";

/// A run is seen while it goes on, ended by request, kept, and compared with another.
pub fn run_status_stop_compare(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let out = suite.folder("load-out")?;
    let first =
        load(&lab, "run", ["-w", "mixed", "-c", "2", "-d", "8s", "--warmup", "1s", "--ledger", "-o", "json"]);
    let first = first.args(["--out"]).args([&out]).ok()?.json()?;
    let folder = first["folder"].as_str().context("expected a folder")?;
    for file in ["run.json", "seconds.csv", "histograms.json", "plans/check_stock.json"] {
        ensure!(fs::metadata(format!("{folder}/{file}")).is_ok(), "expected {file} in {folder}");
    }
    let good = |run: &Value| -> u64 {
        let statements = run["statements"].as_array().into_iter().flatten();
        statements.filter_map(|statement| statement["counts"]["ok"].as_u64()).sum()
    };
    ensure!(good(&first["run"]) > 5, "expected statements in {first:#}");
    ensure!(
        first["run"]["environment"]["server"].as_str().is_some_and(|text| text.starts_with("PostgreSQL 17"))
    );

    let detached = load(
        &lab,
        "run",
        ["-w", "mixed", "-r", "3", "-d", "10m", "--ledger", "--stage", "second", "--detach"],
    );
    detached.ok()?.says("mixed runs on client")?;
    let seen = live(&lab, "statements in the live view", |status| status["live"]["ok"].as_u64() > Some(30))?;
    ensure!(
        seen["state"] == "running" && seen["live"]["connected"]["m:5432"].as_u64() > Some(0),
        "expected connections to m: {seen:#}"
    );
    let table = load(&lab, "status", []).ok()?;
    table.says("STATEMENT")?.says("mixed running, second ")?;
    encrypted_and_without_secrets(&lab)?;
    let metrics = "curl -sf http://$(ss -tlnH sport = :9188 | awk '{ print $4 }')/metrics";
    let metrics = lab.exec("client", metrics)?;
    ensure!(metrics.contains("pgload_ops_total{query="), "expected metrics for Prometheus, got {metrics}");
    load(&lab, "run", ["--detach"]).run()?.exits(2)?.says("pgprov load stop")?;
    load(&lab, "verify", []).run()?.exits(2)?.says("its last transactions are not decided")?;
    let stopped = load(&lab, "stop", ["-o", "json"]).ok()?.json()?;
    ensure!(
        stopped["run"]["interrupted"] == true && good(&stopped["run"]) > 2,
        "expected a run in {stopped:#}"
    );
    ensure!(stopped["run"]["stage"] == "second", "expected the stage in {stopped:#}");
    load(&lab, "stop", []).run()?.exits(2)?.says("nothing runs on client")?;

    let idle = status(&lab)?;
    let runs = idle["runs"].as_array().context("expected runs")?;
    ensure!(idle["state"] == "idle" && runs.len() == 2, "expected two runs in {idle:#}");
    let html = suite.file("compare.html", "")?;
    let compared = load(&lab, "compare", ["--html"]).args([&html]).ok()?;
    compared.says("STATEMENT")?;
    ensure!(fs::read_to_string(&html)?.contains("<svg"), "expected plots in {}", html.display());
    let by_name = runs.iter().filter_map(|run| run["id"].as_str()?.get(16..)).collect::<Vec<_>>();
    let compared = load(&lab, "compare", by_name).args(["-o", "json"]).ok()?.json()?;
    ensure!(compared["rows"].as_array().is_some_and(|rows| rows.len() >= 3), "expected rows in {compared:#}");
    Ok(())
}

/// While load runs: TLS with the certificate checked, and the password in no command line and not among the results.
fn encrypted_and_without_secrets(lab: &Lab) -> Result<()> {
    let sessions = "select bool_and(ssl), count(*) > 0 from pg_stat_ssl join pg_stat_activity using (pid) \
                    where application_name = 'pgload'";
    let tls = lab.psql("m", sessions)?;
    ensure!(tls == "t|t", "expected encrypted sessions, got {tls}");
    // Out of a file, so that the search itself has it in no command line.
    let leak = "umask 077; sed -n 's/^.*:wms://p' /etc/pgload/pgpass >/run/wanted; test $(wc -c </run/wanted) -gt 15 || exit 1; \
                grep -rqsFf /run/wanted /var/lib/pgload /etc/pgload/environment && echo in files; \
                cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | grep -aqFf /run/wanted && echo in a process; \
                rm /run/wanted; stat -c %a /etc/pgload/pgpass";
    let seen = lab.exec("client", leak)?;
    ensure!(seen == "600", "expected the password in /etc/pgload/pgpass alone, got {seen:?}");
    let wrong = lab.exec("client", ". /etc/pgload/environment; pgload workloads >/dev/null && \
        pgload verify --ledger /var/lib/pgload/ledger --dsn \"$(echo $PGLOAD_DSN | sed 's/host=m,s/host=elsewhere,other/')\" 2>&1 || true")?;
    ensure!(wrong.contains("certificate"), "expected certificates of other names to be refused: {wrong}");
    Ok(())
}

/// What was acknowledged is there, and what is taken away is missed.
pub fn verify(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let clean = load(&lab, "verify", ["-o", "json"]).ok()?.json()?;
    let ledgers = clean["ledgers"].as_array().context("expected ledgers")?;
    let kept: u64 = ledgers.iter().filter_map(|ledger| ledger["kept"].as_u64()).sum();
    ensure!(ledgers.len() == 2 && kept > 5, "expected two ledgers in {clean:#}");
    ensure!(clean["violations"].as_array().is_some_and(Vec::is_empty), "expected no violations in {clean:#}");
    let on_m = |sql: &str| lab.exec("client", &format!("psql -XAtqw service=lab-rw -c \"{sql}\""));
    on_m(
        "create table lost as select * from pgload.ledger order by lsn desc limit 3; \
          delete from pgload.ledger l using lost where (l.run, l.client, l.seq) = (lost.run, lost.client, lost.seq)",
    )?;
    let missed = load(&lab, "verify", []).run()?.exits(1)?;
    ensure!(
        missed.stdout.contains("3  acknowledged and LOST"),
        "expected three lost transactions in\n{missed}"
    );
    on_m("insert into pgload.ledger select * from lost; drop table lost")?;
    load(&lab, "verify", []).ok().map(drop)
}

/// A workload of one's own, without Rust; its serialization failures are tried again until they succeed.
pub fn own_workload_is_retried(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let yaml = "workload: counter
setup: CREATE TABLE IF NOT EXISTS counter (id int PRIMARY KEY, n int NOT NULL); INSERT INTO counter VALUES (1, 0) ON CONFLICT DO NOTHING
statements:
  count:
    kind: write
    isolation: serializable
    sql: |
      --: keep
      SELECT n + 1 AS next FROM counter WHERE id = 1;
      UPDATE counter SET n = :next WHERE id = 1;
";
    lab.exec("client", &format!("mkdir -p /etc/pgload/sql/workloads; cat >/etc/pgload/sql/workloads/counter.yaml <<'END'\n{yaml}END"))?;
    let words = [
        "-w", "counter", "-c", "4", "-d", "60s", "--warmup", "0s", "-o", "json", "--", "--count", "10",
        "--tries", "500",
    ];
    let run = load(&lab, "run", words).ok()?.json()?;
    let counts = &run["run"]["statements"][0]["counts"];
    ensure!(
        counts["ok"] == 40 && counts["aborted"] == 0 && counts["indeterminate"] == 0,
        "expected 40 in {counts:#}"
    );
    ensure!(counts["retries"].as_u64() > Some(0), "expected clients to meet: {counts:#}");
    let n = lab.exec(
        "client",
        "psql -XAtqw service=lab-rw -c 'select n from counter'; rm -r /etc/pgload/sql/workloads",
    )?;
    ensure!(n == "40", "expected 40, got {n}");
    load(&lab, "run", ["-w", "counter"]).run()?.exits(1)?.says("counter").map(drop)
}

/// The primary loses its network under load: load goes on at the new one, the outage is in the results with its errors, and
/// nothing that was acknowledged is lost.
///
/// # Errors
/// The first of these that is not so.
pub fn goes_on_after_failover(suite: &Suite) -> Result<()> {
    let drill = Drill::begin(suite)?;
    let lab = &drill.lab;
    load(lab, "init", ["--scale", "0.0625"]).ok()?;
    load(
        lab,
        "run",
        ["-w", "oltp", "-r", "2", "-d", "10m", "--ledger", "--detach", "--", "--deadline", "10s"],
    )
    .ok()?;
    let before = live(lab, "statements at m", |status| status["live"]["ok"].as_u64() > Some(20))?;
    ensure!(
        before["live"]["connected"]["m:5432"].as_u64() > Some(0),
        "expected connections to m: {before:#}"
    );

    drill.cable("m", "down")?;
    drill.until("s", &["solo"], 60)?;
    let count = |status: &Value| status["live"]["ok"].as_u64().unwrap_or_default();
    let cut = count(&status(lab)?);
    live(lab, "statements at s", |status| {
        count(status) > cut + 20 && status["live"]["connected"]["s:5432"].as_u64() > Some(0)
    })?;
    drill.cable("m", "up")?;
    drill.healthy("s", 240)?;
    drill.ha(&["switchover"]).limit(130).ok()?;
    let switched = count(&status(lab)?);
    live(lab, "statements at m again", |status| {
        count(status) > switched + 20 && status["live"]["connected"]["m:5432"].as_u64() > Some(0)
    })?;

    let run = load(lab, "stop", ["-o", "json"]).ok()?.json()?["run"].clone();
    let outage = &run["outage"];
    let length = outage["to"].as_f64().zip(outage["from"].as_f64()).map(|(to, from)| to - from);
    ensure!(
        length.is_some_and(|seconds| (1.0..60.0).contains(&seconds)),
        "expected an outage of seconds: {outage:#}"
    );
    ensure!(
        outage["recovered"] == true && outage["first_error"].is_array(),
        "expected its errors: {outage:#}"
    );
    let verified = load(lab, "verify", []).ok()?;
    ensure!(
        verified.stdout.contains(" 0  acknowledged and LOST"),
        "expected nothing to be lost:\n{verified}"
    );
    drill.end(2).map(drop)
}
