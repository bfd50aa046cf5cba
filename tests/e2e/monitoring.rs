//! Monitoring: every target answers, every panel has data, alerts fire because of real faults and end with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    command::Program,
    suite::{Lab, MAIN, Spec, Suite, Topology},
};

/// A primary and its standby, watched.
const WATCHED: Spec = Spec { name: "watched", topology: Topology::File("topologies/monitored.yaml") };
/// Its targets, but for pgload.
const WATCHED_JOBS: [(&str, usize); 3] = [("node", 3), ("postgres", 2), ("prometheus", 1)];
/// The lab of the README, watched.
const AGENTS: Spec = Spec {
    name: "agents",
    topology: Topology::Text(
        "lab: agents
postgres: { databases: [{ name: wms, owner: wms }] }
replication: { mode: synchronous }
failover: { engine: pgagent, rto: safe }
monitoring: { scrape_seconds: 5 }
hosts:
  m: { roles: [postgres] }
  s: { roles: [postgres], follows: m }
  arbiter: { roles: [arbiter] }
  client: { roles: [client, load, monitor] }
",
    ),
};
/// Servers under Patroni, watched.
const PATRONI: Spec = Spec {
    name: "keepers",
    topology: Topology::Text(
        "lab: keepers
postgres: { databases: [{ name: wms, owner: wms }] }
replication: { mode: synchronous }
failover: { engine: patroni, rto: safe }
monitoring: { scrape_seconds: 5 }
hosts:
  db1: { roles: [postgres, etcd] }
  db2: { roles: [postgres, etcd], follows: db1 }
  vote: { roles: [etcd] }
  client: { roles: [client, load, monitor] }
",
    ),
};
const DASHBOARDS: [&str; 7] = ["overview", "instance", "replication", "node", "load", "stages", "backups"];
/// How metrics begin of what not every lab has.
const OF_AGENTS: &[&str] = &["pgagent_"];
const OF_PATRONI: &[&str] = &["patroni_", "etcd_"];

/// What Prometheus answers.
fn ask(lab: &Lab, path: &str) -> Result<Value> {
    let script = format!("curl -sf http://$(ss -tlnH sport = :9090 | awk '{{ print $4 }}')/api/v1/{path}");
    Ok(serde_json::from_str(&lab.exec("client", &script)?)?)
}

/// Waits until nothing is seen that is otherwise than expected.
///
/// # Errors
/// It still is after that many seconds, with what was seen last.
pub fn until(what: &str, seconds: u64, mut holds: impl FnMut() -> Result<Option<String>>) -> Result<()> {
    let begun = Instant::now();
    while let Some(seen) = holds()? {
        ensure!(begun.elapsed().as_secs() < seconds, "expected {what} within {seconds} s, at last {seen}");
        thread::sleep(Duration::from_secs(2));
    }
    Ok(())
}

/// Why an exporter cannot reach its server.
const EXPORTER_SAYS: &str = "journalctl -q --no-pager -o cat -n 3 -u prometheus-postgres-exporter";

/// The targets that Prometheus has.
fn targets(lab: &Lab) -> Result<Vec<Value>> {
    let answer = ask(lab, "targets?state=active")?;
    let all = answer.pointer("/data/activeTargets").and_then(Value::as_array);
    all.cloned().context("expected targets")
}

/// Waits until all targets answer, pgload's apart, and there are as many of each job as that.
fn all_answer(lab: &Lab, wanted: &[(&str, usize)]) -> Result<()> {
    until("all targets to answer", 90, || {
        let (mut up, mut silent) = (BTreeMap::new(), Vec::new());
        for target in targets(lab)?.iter().filter(|target| target["labels"]["job"] != "pgload") {
            let job = target["labels"]["job"].as_str().context("expected a job")?.to_owned();
            match target["health"] == "up" {
                true => *up.entry(job).or_insert(0) += 1,
                false => silent.push(format!("{} {}", target["labels"], target["lastError"])),
            }
        }
        let wanted: BTreeMap<String, usize> =
            wanted.iter().map(|(job, count)| ((*job).to_owned(), *count)).collect();
        Ok((up != wanted || !silent.is_empty()).then(|| format!("{up:?}, silent {silent:?}")))
    })?;
    // An exporter also answers when it cannot reach its server.
    let servers = wanted.iter().find(|(job, _)| *job == "postgres").map_or(0, |(_, count)| *count);
    until("all servers to be read", 90, || {
        let read = ask(lab, "query?query=lab_server_in_recovery")?;
        let read = read.pointer("/data/result").and_then(Value::as_array).context("expected figures")?;
        let missing = read.len() != servers;
        Ok(missing.then(|| format!("{read:?}; {:?}", lab.exec_everywhere(EXPORTER_SAYS))))
    })
}

/// The scrapes that tests/it/dashboards.rs knows metrics from are made here: with PGPROV_E2E_SCRAPES=FOLDER, a file for each
/// job, of each metric the first line.
fn keep_scrapes(lab: &Lab) -> Result<()> {
    let Some(folder) = env::var_os("PGPROV_E2E_SCRAPES") else { return Ok(()) };
    let mut files: BTreeMap<String, (BTreeSet<String>, String)> = BTreeMap::new();
    // No load runs in some labs.
    for target in targets(lab)?.into_iter().filter(|target| target["health"] == "up") {
        let of = |pointer: &str| target.pointer(pointer).and_then(Value::as_str).context("expected a target");
        let scrape = lab.exec("client", &format!("curl -sk {}", of("/scrapeUrl")?))?;
        let (seen, text) = files.entry(of("/labels/job")?.to_owned()).or_default();
        for line in scrape.lines().filter(|line| !line.starts_with("# HELP")) {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            let key = if name == "#" { line } else { name };
            if seen.insert(key.to_owned()) {
                *text += &format!("{line}\n");
            }
        }
    }
    for (job, (_, text)) in files {
        fs::write(Path::new(&folder).join(format!("live-{job}.txt")), text)?;
    }
    Ok(())
}

/// Draws a dashboard, and names the queries without data.
fn empty_queries(lab: &Lab, name: &str) -> Result<Vec<String>> {
    let page = lab.suite.folder("dashboards")?.join(format!("{name}.html"));
    let words = ["dashboard", "preview", name, "--minutes", "5", "-o", "json", "--lab", lab.name, "--out"];
    let drawn = lab.suite.pgprov(words).args([&page]).ok()?.json()?;
    let panels = drawn["panels"].as_array().context("expected panels")?;
    let text = fs::read_to_string(&page)?;
    let mut empty = Vec::new();
    for panel in panels {
        let title = panel["title"].as_str().context("expected a title")?;
        ensure!(text.contains(title), "expected {title:?} in {}", page.display());
        let queries =
            panel["queries"].as_array().with_context(|| format!("expected an answer in {panel}"))?;
        ensure!(!queries.is_empty(), "expected {title:?} to ask for something");
        let without = queries.iter().filter(|query| query["series"] == 0);
        empty.extend(without.map(|query| format!("{title}: {}", query["query"])));
    }
    Ok(empty)
}

/// Waits until every query of every panel of those dashboards gives something, but for those about what the lab does not have.
fn queries_have_data(lab: &Lab, names: &[&str], but: &[&[&str]]) -> Result<()> {
    for name in names {
        until(&format!("data from every query of {name}"), 100, || {
            let elsewhere = |query: &String| but.iter().copied().flatten().any(|start| query.contains(start));
            let empty: Vec<String> =
                empty_queries(lab, name)?.into_iter().filter(|query| !elsewhere(query)).collect();
            Ok((!empty.is_empty()).then(|| format!("none from {}", empty.join(", "))))
        })?;
    }
    Ok(())
}

/// Starts a run that goes on by itself.
fn load(lab: &Lab) -> Result<()> {
    let load = |words: &[&'static str]| lab.suite.pgprov(["load"]).args(words).args(["--lab", lab.name]);
    load(&["init", "--scale", "0.0625"]).limit(200).ok()?;
    load(&["run", "-w", "mixed", "-r", "3", "-d", "10m", "--detach"]).limit(100).ok().map(drop)
}

/// A backup was made and load runs: all targets answer, and every query of every dashboard gives something.
pub fn every_query_has_data(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&WATCHED)?;
    all_answer(&lab, &WATCHED_JOBS)?;
    suite.pgprov(["backup", "now", "--lab", lab.name]).limit(200).ok()?;
    load(&lab)?;
    queries_have_data(&lab, &DASHBOARDS, &[OF_AGENTS, OF_PATRONI])?;
    keep_scrapes(&lab)?;
    lab.is_as_its_topology_says()?;
    suite.pgprov(["load", "stop", "--lab", lab.name]).limit(260).ok().map(drop)
}

/// Who reads for monitoring may look at statistics, and at nothing else.
pub fn user_may_only_look(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&WATCHED)?;
    let user = "select rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls, \
                (select array_agg(roleid::regrole order by 1) from pg_auth_members where member = pg_roles.oid) \
                from pg_roles where rolname = 'monitor'";
    let said = lab.psql("m", user)?;
    ensure!(said == "t|f|f|f|f|f|{pg_monitor}", "expected a user with pg_monitor only, got {said}");
    lab.psql("m", "create table if not exists private (a int)")?;
    let refused = lab.try_psql("m", "set role monitor; select * from private")?;
    ensure!(
        refused.code != Some(0) && refused.stderr.contains("permission denied"),
        "expected a refusal\n{refused}"
    );
    lab.psql("m", "drop table private").map(drop)
}

/// Nobody who does not ask for monitoring pays for it: its programs are in the image, and do not run.
pub fn is_off_without_its_key(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let running = "pgrep -c '^prometheus'; ls -A /var/lib/prometheus/metrics2 2>/dev/null; \
                   systemctl list-unit-files --state enabled --no-legend 'prometheus*'";
    let running = lab.exec_everywhere(&format!("{running} || true"))?;
    ensure!(running.values().all(|said| said == "0"), "expected nothing to run: {running:?}");
    Ok(())
}

/// The agents of the lab of the README are read, and what depends on them is shown.
pub fn agents_are_read(suite: &Suite) -> Result<()> {
    suite.destroy_all()?;
    let lab = suite.lab(&AGENTS)?;
    all_answer(&lab, &[("node", 4), ("pgagent", 3), ("postgres", 2), ("prometheus", 1)])?;
    queries_have_data(&lab, &["replication"], &[OF_PATRONI])?;
    keep_scrapes(&lab)
}

/// So are Patroni and etcd.
pub fn patroni_is_read(suite: &Suite) -> Result<()> {
    suite.destroy_all()?;
    let lab = suite.lab(&PATRONI)?;
    all_answer(&lab, &[("etcd", 3), ("node", 4), ("patroni", 2), ("postgres", 2), ("prometheus", 1)])?;
    queries_have_data(&lab, &["replication"], &[OF_AGENTS])?;
    keep_scrapes(&lab)
}

/// What is rendered for Prometheus, Grafana and docker compose is taken by those who know: promtool, which also sees every alert
/// fire in its test and none in a lab that is well, and docker compose.
pub fn files_are_valid(suite: &Suite) -> Result<()> {
    let compose = env::var_os("PGPROV_COMPOSE")
        .context("PGPROV_COMPOSE does not name docker compose; `scripts/compose` finds it")?;
    let Topology::Text(text) = PATRONI.topology else { unreachable!("it is a text") };
    let file = suite.file(
        "contained.yaml",
        &text.replace("{ scrape_seconds: 5 }", "{ engine: containers, images: /x.tar }"),
    )?;
    let out = suite.folder("contained")?;
    suite.pgprov(["render"]).args([&file]).args(["--out"]).args([&out]).ok()?;
    let root = out.join("client");
    let said = Program::new(&compose)
        .args(["-f"])
        .args([root.join("srv/monitoring/docker-compose.yml")])
        .args(["config", "--format", "json"])
        .ok()?
        .json()?;
    let services = said["services"].as_object().context("expected services")?;
    ensure!(services.keys().eq(["grafana", "prometheus"]), "expected two services in {said:#}");
    for (name, service) in services {
        let pinned = service["image"].as_str().and_then(|image| image.split_once(':'));
        ensure!(pinned.is_some_and(|(_, tag)| tag != "latest"), "expected {name} to have a pinned image");
        ensure!(service["healthcheck"]["test"].is_array(), "expected {name} to have a health check");
        ensure!(
            service["volumes"].as_array().is_some_and(|all| all.len() > 1),
            "expected {name} to keep things"
        );
    }
    let lab = suite.lab(&WATCHED)?;
    let rules = fs::read_to_string(root.join("etc/prometheus/rules/lab.yml"))?;
    let tests = |name: &str| suite.repository_file(&format!("tests/it/data/monitoring/{name}"));
    let config = fs::read_to_string(root.join("etc/prometheus/prometheus.yml"))?;
    let (fire, quiet) = (tests("rules-test.yml")?, tests("rules-quiet-test.yml")?);
    for (name, text) in [
        ("rules.yml", rules),
        ("rules-test.yml", fire),
        ("rules-quiet-test.yml", quiet),
        ("prometheus.yml", config),
    ] {
        lab.pgprov("ssh", ["client", &format!("cat >/tmp/{name}")]).input(text).ok()?;
    }
    // Hours of a lab that is well, and every alert: minutes of work for an emulated host.
    for name in ["rules-test.yml", "rules-quiet-test.yml"] {
        let test = format!("promtool test rules /tmp/{name} 2>&1");
        lab.pgprov("exec", ["--host", "client", "--", test.as_str()]).limit(600).ok()?;
    }
    lab.exec("client", "promtool check config --syntax-only --lint=all /tmp/prometheus.yml 2>&1").map(drop)
}

/// Whether an alert about an instance fires.
fn fires(lab: &Lab, alert: &str, instance: &str) -> Result<bool> {
    let alerts = ask(lab, "alerts")?;
    let all = alerts.pointer("/data/alerts").and_then(Value::as_array).context("expected alerts")?;
    Ok(all.iter().any(|it| {
        it["state"] == "firing"
            && it["labels"]["alertname"] == alert
            && it["labels"]["instance"].as_str().unwrap_or_default() == instance
    }))
}

fn fire_and_end(
    lab: &Lab,
    alert: &str,
    instance: &str,
    cause: &dyn Fn() -> Result<()>,
    heal: &dyn Fn() -> Result<()>,
) -> Result<()> {
    ensure!(!fires(lab, alert, instance)?, "expected {alert} not to fire before its cause");
    cause()?;
    let fired = until(&format!("{alert} to fire"), 150, || {
        Ok((!fires(lab, alert, instance)?).then(|| "quiet".to_owned()))
    });
    heal()?;
    fired?;
    until(&format!("{alert} to end"), 120, || Ok(fires(lab, alert, instance)?.then(|| "firing".to_owned())))
}

/// Three of them: a server is stopped, a standby loses its network, a backup fails.
pub fn alerts_fire_and_end(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&WATCHED)?;
    all_answer(&lab, &WATCHED_JOBS)?;
    let on = |host: &'static str, script: &'static str| {
        let lab = lab.clone();
        move || lab.exec(host, script).map(drop)
    };
    fire_and_end(
        &lab,
        "PostgresDown",
        "s",
        &on("s", "systemctl stop postgresql@17-main"),
        &on("s", "systemctl start postgresql@17-main"),
    )?;
    let fault =
        |verb: &'static str| move || suite.pgprov(["fault", verb, "s", "--lab", "watched"]).ok().map(drop);
    fire_and_end(&lab, "StandbyCutOff", "s", &fault("cut"), &fault("heal"))?;
    let rename = |from: &'static str, to: &'static str| {
        lab.psql("m", &format!("alter database {from} rename to {to}"))
    };
    let fail = || {
        rename("wms", "elsewhere")?;
        let failed = suite.pgprov(["backup", "now", "--lab", "watched"]).limit(100).run();
        rename("elsewhere", "wms")?;
        failed?.exits(1).map(drop)
    };
    let succeed = || suite.pgprov(["backup", "now", "--lab", "watched"]).limit(100).ok().map(drop);
    fire_and_end(&lab, "BackupFailed", "client", &fail, &succeed)
}

/// Without the key nothing of it runs any more.
pub fn goes_with_its_key(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&WATCHED)?;
    let text = suite.repository_file("topologies/monitored.yaml")?;
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("monitoring:")).collect();
    let file = suite.file("unwatched.yaml", &lines.join("\n").replace(", monitor]", "]"))?;
    let running = "pgrep -c '^prometheus' || true";
    ensure!(lab.exec_everywhere(running)?.values().all(|count| count != "0"), "expected them to run");
    suite.pgprov(["up", "--yes"]).args([&file]).limit(200).ok()?;
    let left = lab.exec_everywhere(running)?;
    ensure!(left.values().all(|count| count == "0"), "expected nothing to be left of it: {left:?}");
    let user = lab.psql("m", "select count(*) from pg_roles where rolname = 'monitor'")?;
    ensure!(user == "0", "expected the user to be gone");
    lab.up(&lab.file)?.exits(0).map(drop)
}
