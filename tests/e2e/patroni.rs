//! A lab under Patroni: two servers and an arbiter, each with a vote of etcd, and a client. The writer and the ledger are those of the other
//! engine's drills.
#![expect(clippy::print_stdout, reason = "one answer is a table")]

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use crate::{
    failover::{drill::Drill, times::gap},
    suite::{Lab, Spec, Suite, Topology, UP_LIMIT, host},
};

const LAB: Spec = Spec { name: "pat", topology: Topology::Text(TEXT) };
const TEXT: &str = "lab: pat
postgres:
  databases: [{ name: app, owner: app }]
replication: { mode: synchronous }
failover: { engine: patroni, rto: norm }
hosts:
  m: { roles: [postgres, etcd] }
  s: { roles: [postgres, etcd], follows: m }
  arbiter: { roles: [etcd] }
  client: { roles: [client] }
";

/// Hosts of that lab with PostgreSQL.
const SERVERS: [&str; 2] = ["m", "s"];
/// What `pgprov up topologies/patroni.yaml` makes.
const SHIPPED: Spec = Spec { name: "patroni", topology: Topology::File("topologies/patroni.yaml") };

/// The same for `rto: safe`, see below.
const FAILOVER_SAFE: u64 = 84 + 30;
/// The longest that `rto: norm` predicts until another host leads, and what an emulated host adds.
const FAILOVER: u64 = 44 + 30;
/// A server that was away has to be started, rewound and caught up.
const REJOIN: u64 = 150;

const KILL: &str = "kill -KILL $(head -1 /var/lib/postgresql/17/main/postmaster.pid)";
const IN_SYNC: &str = "select count(*) from pg_stat_replication where sync_state = 'sync'";

/// The leader hands over; then the network of the new one is cut under load, the other one takes over, nothing acknowledged is
/// lost, and the old leader rejoins by itself. In between the plan is empty, whoever leads.
///
/// # Errors
/// The first of these that does not happen in time.
pub fn leader_is_lost(suite: &Suite) -> Result<()> {
    let drill = begin(suite)?;
    drill.lab.is_as_its_topology_says()?;
    only_the_lab_may_change(&drill.lab)?;
    drill.ha(&["pause"]).limit(60).ok()?.says("nobody takes over")?;
    drill.ha(&["status"]).ok()?.says("paused: nobody takes over until")?;
    drill.ha(&["resume"]).limit(60).ok()?.says("Patroni takes care of PostgreSQL again")?;
    drill.ha(&["switchover"]).limit(150).ok()?.says("s leads, m follows it")?;
    drill.writes_go_on(20)?;
    drill.lab.psql_becomes("s", IN_SYNC, "1")?;
    drill.lab.is_as_its_topology_says()?;

    drill.cable("s", "down")?;
    // Nobody but s ever hears of this: its history and that of m go different ways, and pg_rewind takes it back.
    drill.lab.psql("s", "set synchronous_commit = local; create table heard_by_nobody ()")?;
    becomes(&drill.lab, "m", "primary", FAILOVER)?;
    drill.writes_go_on(20)?;
    drill.cable("s", "up")?;
    becomes(&drill.lab, "s", "replica", REJOIN)?;
    drill.lab.psql_becomes("m", IN_SYNC, "1")?;
    drill.lab.psql_becomes("s", "select to_regclass('heard_by_nobody') is null", "t")?;
    let rewound =
        drill.lab.exec("s", "journalctl -q -o cat -u patroni | grep -c 'pg_rewind exit code=0' || true")?;
    ensure!(rewound != "0", "expected pg_rewind to have taken s back");
    drill.writes_go_on(20)?;
    drill.ha(&["history"]).ok()?.says("no recovery target specified")?;
    drill.end(2).map(drop)
}

/// On the leader: PostgreSQL is killed, Patroni is frozen, the power is cut. And a replica gets a fresh copy.
///
/// # Errors
/// An acknowledged row is lost, or the lab does not recover.
pub fn faults(suite: &Suite) -> Result<()> {
    let drill = begin(suite)?;
    let first = leads(&drill.lab, 5)?;
    drill.lab.exec(&first, KILL)?;
    drill.pause(2.0);
    drill.writes_go_on(FAILOVER)?;
    settled(&drill.lab, REJOIN)?;
    // Patroni starts it again, or gives up the lead.
    let leader = leads(&drill.lab, 30)?;
    let changes = usize::from(leader != first);

    let other = other(&leader);
    drill.power_off(&leader)?;
    becomes(&drill.lab, other, "primary", FAILOVER)?;
    drill.writes_go_on(20)?;
    drill.power_on(&leader)?;
    becomes(&drill.lab, &leader, "replica", REJOIN)?;
    settled(&drill.lab, 60)?;

    drill.ha(&["reinit", &leader, "--lab"]).limit(200).ok()?.says("follows with a fresh copy")?;
    drill.writes_go_on(20)?;
    drill.lab.is_as_its_topology_says()?;
    drill.end(changes + 1).map(drop)
}

/// While Patroni is paused, nobody takes over from a leader whose PostgreSQL was killed, and nobody starts it; resumed, the lab
/// serves again, whoever leads.
///
/// # Errors
/// Somebody did, an acknowledged row is lost, or the lab does not recover.
pub fn paused(suite: &Suite) -> Result<()> {
    let drill = begin(suite)?;
    let first = leads(&drill.lab, 5)?;
    let second = other(&first);
    drill.ha(&["pause"]).limit(60).ok()?;
    drill.lab.exec(&first, KILL)?;
    let begun = Instant::now();
    while begun.elapsed().as_secs() < FAILOVER {
        // It streams from nobody now.
        let seen: Value = serde_json::from_str(&drill.lab.exec(second, "patroni-lab status")?)?;
        ensure!(seen["role"] == "replica", "expected {second} to stay a replica in a pause: {seen:#}");
        let answers = drill.lab.exec(&first, "pg_isready -q && echo yes || echo no")?;
        ensure!(answers == "no", "expected nobody to start PostgreSQL on {first} in a pause");
        thread::sleep(Duration::from_secs(2));
    }
    drill.ha(&["resume"]).limit(60).ok()?;
    drill.writes_go_on(FAILOVER)?;
    settled(&drill.lab, REJOIN)?;
    let changes = usize::from(leads(&drill.lab, 30)? != first);
    drill.lab.is_as_its_topology_says()?;
    drill.end(changes).map(drop)
}

/// A lab under Patroni goes back to a checkpoint: the leader of then leads, the other one follows, and nothing since has happened.
///
/// # Errors
/// It does not, or not without a word of complaint.
pub fn goes_back(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&LAB)?;
    settled(&lab, 60)?;
    suite.pgprov(["checkpoint", "save", "settled", "--lab", lab.name]).limit(UP_LIMIT).ok()?;
    let first = leads(&lab, 5)?;
    lab.psql(&first, "create table since ()")?;
    lab.exec(&first, KILL)?;
    let went = lab.pgprov("reset", ["settled"]).limit(UP_LIMIT).ok()?;
    ensure!(!went.stderr.contains("warning"), "expected it to go without a warning:\n{went}");
    settled(&lab, 60)?;
    ensure!(leads(&lab, 5)? == first, "expected {first} to lead again");
    lab.psql_becomes(&first, "select to_regclass('since') is null", "t")?;
    lab.is_as_its_topology_says()?;
    suite.pgprov(["checkpoint", "remove", "settled", "--lab", lab.name]).limit(60).ok().map(drop)
}

/// Patroni stands still on the leader, whose PostgreSQL goes on: the watchdog resets the host.
///
/// # Errors
/// An acknowledged row is lost, or the lab does not recover.
pub fn frozen(suite: &Suite) -> Result<()> {
    let drill = begin(suite)?;
    let leader = leads(&drill.lab, 5)?;
    let other = other(&leader);
    // Its PostgreSQL would go on to take clients, and never answer their commits.
    let boot = "cat /proc/sys/kernel/random/boot_id";
    let before = drill.lab.exec(&leader, boot)?;
    drill.lab.exec(&leader, "systemctl kill -s STOP patroni")?;
    becomes(&drill.lab, other, "primary", FAILOVER)?;
    drill.writes_go_on(20)?;
    becomes(&drill.lab, &leader, "replica", REJOIN)?;
    ensure!(drill.lab.exec(&leader, boot)? != before, "expected the watchdog to reset {leader}");
    settled(&drill.lab, 60)?;
    drill.lab.is_as_its_topology_says()?;
    drill.end_frozen().map(drop)
}

/// The shipped topology, with two replicas that could lead: the network of the leader is cut, the synchronous one takes over, the
/// third follows it, and nothing acknowledged is lost.
///
/// # Errors
/// The first of these that does not happen in time.
pub fn two_replicas(suite: &Suite) -> Result<()> {
    const SERVERS: [&str; 3] = ["db1", "db2", "db3"];
    // Two clusters at once have too little of two cores to keep their times.
    suite.destroy_all()?;
    let lab = suite.lab(&SHIPPED)?;
    all_settled(&lab, &SERVERS, 90)?;
    lab.is_as_its_topology_says()?;
    let leader = leader_of(&lab, &SERVERS, 5)?;
    let sync =
        lab.psql(&leader, "select application_name from pg_stat_replication where sync_state = 'sync'")?;
    let third = SERVERS.into_iter().find(|host| *host != leader && *host != sync).unwrap_or_default();
    let mut drill = Drill::of(lab, &SERVERS, &["client"])?;
    drill.load()?;

    drill.cable(&leader, "down")?;
    becomes(&drill.lab, &sync, "primary", FAILOVER_SAFE)?;
    drill.writes_go_on(60)?;
    let followers =
        "select string_agg(application_name, ',') from pg_stat_replication where state = 'streaming'";
    drill.lab.psql_becomes(&sync, followers, third)?;
    drill.lab.psql_becomes(&sync, IN_SYNC, "1")?;
    let status = drill.lab.status()?;
    let now = host(&status, &sync)?;
    ensure!(
        now["role"] == "primary" && now["postgres"]["standbys"] == serde_json::json!([third]),
        "expected {sync} to be primary, and {third} its standby, in {status:#}"
    );

    drill.cable(&leader, "up")?;
    becomes(&drill.lab, &leader, "replica", REJOIN)?;
    all_settled(&drill.lab, &SERVERS, REJOIN)?;
    drill.writes_go_on(20)?;
    drill.lab.is_as_its_topology_says()?;
    drill.end(1)?;
    suite.destroy_all()
}

/// Settings come, change and go by one PATCH; what somebody else made stays; a restart is rolled through.
///
/// # Errors
/// A server has another value, or the plan is not empty at the end.
pub fn settings(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&LAB)?;
    settled(&lab, 60)?;
    let file = |settings: &str| {
        let text = TEXT.replacen("postgres:", &format!("postgres:\n  settings: {{ {settings} }}"), 1);
        suite.file("pat-settings.yaml", &text)
    };
    let both = |sql: &str, wanted: &str| -> Result<()> {
        ["m", "s"].iter().try_for_each(|host| lab.psql_becomes(host, sql, wanted))
    };
    let theirs = "patroni-lab rest PATCH /config '{\"postgresql\": {\"parameters\": {\"log_statement\": \"ddl\", \"work_mem\": \"2MB\"}}}'";
    lab.exec("m", theirs)?;
    let said = suite.pgprov(["plan"]).args([&lab.file]).run()?;
    ensure!(said.code == Some(4), "expected drift:\n{said}");
    said.says("~ postgresql.parameters.work_mem: 2MB -> 4MB")?;

    lab.up(&file("work_mem: 7MB, log_min_duration_statement: 900ms, max_connections: 70")?)?.exits(0)?;
    both("show work_mem", "7MB")?;
    both("show log_min_duration_statement", "900ms")?;
    both("show log_statement", "ddl")?;
    both("show max_connections", "70")?;
    lab.up(&file("work_mem: 8MB, max_connections: 65")?)?.exits(0)?;
    both("show work_mem", "8MB")?;
    both("show log_min_duration_statement", "-1")?;
    both("show max_connections", "65")?;
    lab.up(&lab.file)?.exits(0)?;
    both("show work_mem", "4MB")?;
    settled(&lab, 60)?;
    broken_file_is_refused(suite, &lab)?;
    lab.is_as_its_topology_says()
}

/// A replica without a vote is added, follows, and goes again.
///
/// # Errors
/// It does not, or something of it stays.
pub fn replica_comes_and_goes(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&LAB)?;
    settled(&lab, 60)?;
    let more = suite.file("pat-more.yaml", &format!("{TEXT}  t: {{ roles: [postgres], follows: m }}\n"))?;
    lab.up(&more)?.exits(0)?;
    becomes(&lab, "t", "replica", REJOIN)?;
    suite.pgprov(["plan"]).args([&more]).ok()?.says("nothing to do")?;
    suite.pgprov(["up", "--yes"]).args([&lab.file]).limit(200).ok()?;
    let begun = Instant::now();
    while suite.pgprov(["ha", "status", lab.name]).ok()?.text().contains("\nt ") {
        ensure!(begun.elapsed().as_secs() < FAILOVER, "expected t to leave the cluster");
        thread::sleep(Duration::from_secs(1));
    }
    lab.is_as_its_topology_says()
}

/// Each `rto`, the least and the most seconds that it predicts for this lab when the leader's network is lost.
const PREDICTED: [(&str, f64, f64); 4] =
    [("fast", 16.0, 34.0), ("norm", 26.0, 44.0), ("safe", 51.0, 84.0), ("wide", 101.0, 164.0)];

/// How long clients cannot write when the network of the leader is cut, for each `rto`, as a table for docs/benchmarks.md.
///
/// # Errors
/// An acknowledged row is lost, or the lab does not recover.
pub fn times(suite: &Suite) -> Result<()> {
    let mut rows = String::new();
    let (drill, mut changes) = (begin(suite)?, 0);
    for (rto, least, most) in PREDICTED {
        let file = suite.file("pat-rto.yaml", &TEXT.replace("rto: norm", &format!("rto: {rto}")))?;
        drill.lab.up(&file)?.exits(0)?;
        settled(&drill.lab, REJOIN)?;
        let leader = leads(&drill.lab, 30)?;
        let other = other(&leader);
        drill.pause(5.0);
        let since = drill.now();
        drill.cable(&leader, "down")?;
        becomes(&drill.lab, other, "primary", 300)?;
        drill.writes_go_on(60)?;
        changes += 1;
        let healed = Instant::now();
        drill.cable(&leader, "up")?;
        becomes(&drill.lab, &leader, "replica", 300)?;
        settled(&drill.lab, 120)?;
        let back = healed.elapsed().as_secs_f64();
        let gap = gap(&drill.tries("writer")?, since);
        // The client's own limits come on top.
        ensure!(
            gap < most + 10.0,
            "expected rto {rto} to take at most {most} s, clients waited for {gap:.1} s"
        );
        rows.push_str(&format!("| `{rto}` | {least} to {most} | {gap:.1} | {back:.1} |\n"));
    }
    drill.end(changes)?;
    println!(
        "\n| rto | predicted, s | write gap, s | old leader in sync again, s |\n|---|---|---|---|\n{rows}"
    );
    Ok(())
}

/// The lab, in sync, with its clients.
fn begin(suite: &Suite) -> Result<Drill<'_>> {
    let mut drill = Drill::of(suite.lab(&LAB)?, &SERVERS, &["client"])?;
    settled(&drill.lab, 60)?;
    drill.load()?;
    Ok(drill)
}

/// A patroni.yml that Patroni would not take is not installed: the one before stays, and Patroni goes on with it.
fn broken_file_is_refused(suite: &Suite, lab: &Lab<'_>) -> Result<()> {
    const FILE: &str = "/etc/patroni/patroni.yml";
    let template = suite.repository_file("templates/patroni/patroni.yml")?;
    let broken = template.replace("listen: 0.0.0.0:8008", "listen: nowhere");
    ensure!(broken != template, "expected to break the template");
    let folder = suite.folder("broken/templates/patroni")?;
    fs::write(folder.join("patroni.yml"), broken)?;
    let assets = folder.ancestors().nth(2).unwrap_or(&folder);
    let state = format!("sha256sum {FILE}; systemctl show -P ExecMainStartTimestamp patroni");
    let before = lab.exec("m", &state)?;
    let up = suite.pgprov(["up"]).args([&lab.file]).env("PGPROV_ASSETS", assets).limit(UP_LIMIT).run()?;
    ensure!(up.code != Some(0), "expected a refusal:\n{up}");
    up.says(FILE)?.says("restapi.listen")?;
    ensure!(lab.exec("m", &state)? == before, "expected {FILE} and Patroni to be as they were");
    lab.is_as_its_topology_says()
}

/// Whoever has no certificate of the lab may look at Patroni, and at nothing of etcd.
fn only_the_lab_may_change(lab: &Lab<'_>) -> Result<()> {
    let curl = "curl -s -m 5 -o /dev/null -w '%{http_code} ' --cacert /etc/pgprov/ca.crt";
    let key = format!("{curl} -d '{{\"key\": \"AA==\"}}'");
    let script = format!(
        "{curl} https://m:8008/patroni; {curl} -X PATCH -d '{{\"ttl\": 99}}' https://m:8008/config; \
         {curl} -X POST https://m:8008/restart; {key} https://m:2379/v3/kv/range || echo refused"
    );
    let said = lab.exec("client", &script)?;
    ensure!(said == "200 403 403 000 refused", "expected only to be let look, got {said:?}");
    let member = "--cert /etc/patroni/host.crt --key /etc/patroni/host.key";
    let said = lab.exec("s", &format!("{key} {member} https://m:2379/v3/kv/range"))?;
    ensure!(said == "200", "expected a member of the lab to be let in, got {said:?}");
    Ok(())
}

/// What Patroni on a host says.
fn member(lab: &Lab<'_>, host: &str) -> Result<Value> {
    Ok(serde_json::from_str(&lab.exec(host, "patroni-lab serves && patroni-lab status")?)?)
}

/// Waits until a host serves in that role.
fn becomes(lab: &Lab<'_>, host: &str, role: &str, seconds: u64) -> Result<()> {
    let begun = Instant::now();
    loop {
        let seen = member(lab, host);
        if seen.as_ref().is_ok_and(|seen| seen["role"] == role) {
            return Ok(());
        }
        if begun.elapsed().as_secs() > seconds {
            let log = lab.exec(host, "journalctl -q -o cat -n 30 -u patroni").unwrap_or_default();
            bail!("expected {host} to be {role} within {seconds} s: {seen:?}\n{log}");
        }
        thread::sleep(Duration::from_millis(500));
    }
}

/// Who leads.
fn leads(lab: &Lab<'_>, seconds: u64) -> Result<String> {
    leader_of(lab, &SERVERS, seconds)
}

/// The other one of two servers.
fn other(host: &str) -> &'static str {
    if host == "m" { "s" } else { "m" }
}

/// Which of those hosts leads.
fn leader_of(lab: &Lab<'_>, servers: &[&str], seconds: u64) -> Result<String> {
    let begun = Instant::now();
    loop {
        let leads = |host: &&&str| member(lab, host).is_ok_and(|it| it["role"] == "primary");
        if let Some(host) = servers.iter().find(leads) {
            return Ok((*host).to_owned());
        }
        ensure!(
            begun.elapsed().as_secs() < seconds,
            "expected one of {servers:?} to lead within {seconds} s"
        );
        thread::sleep(Duration::from_millis(500));
    }
}

/// Waits until one leads and the other one is its synchronous standby.
fn settled(lab: &Lab<'_>, seconds: u64) -> Result<()> {
    all_settled(lab, &SERVERS, seconds)
}

/// Waits until one of those hosts leads, the others follow, and one of them is synchronous.
fn all_settled(lab: &Lab<'_>, servers: &[&str], seconds: u64) -> Result<()> {
    let leader = leader_of(lab, servers, seconds)?;
    for host in servers.iter().filter(|host| **host != leader) {
        becomes(lab, host, "replica", seconds)?;
    }
    lab.psql_becomes(&leader, IN_SYNC, "1")
}
