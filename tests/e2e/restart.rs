//! Reloads and restarts: in the right order, only when they are due, and with a way back.

use anyhow::{Context as _, Result, ensure};

use crate::{
    change::with_setting,
    suite::{Lab, MAIN, PAIR, Suite},
};

const STARTED: &str = "select pg_postmaster_start_time()";
const CONF: &str = "/etc/postgresql/17/main/conf.d";

/// When the servers of m and s were started.
fn started(lab: &Lab) -> Result<[String; 2]> {
    Ok([lab.psql("m", STARTED)?, lab.psql("s", STARTED)?])
}

/// A setting that needs a restart restarts the servers, the standby first, and replication goes on.
pub fn standby_is_restarted_first(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let file = with_setting(suite, "shared_buffers.yaml", "shared_buffers: 80MB")?;
    let before = started(&lab)?;
    let plan = suite.pgprov(["plan"]).args([&file]).run()?.exits(4)?;
    let because = "restart PostgreSQL, because of shared_buffers";
    let turns: Vec<&str> = plan.stdout.lines().filter(|line| line.contains(because)).collect();
    ensure!(
        turns.len() == 2 && turns[0].starts_with("~ s: ") && turns[1].starts_with("~ m: "),
        "expected s and then m to be restarted in\n{plan}"
    );
    lab.up(&file)?.exits(0)?;
    lab.psql_becomes("m", "show shared_buffers", "80MB")?;
    lab.psql_becomes("s", "show shared_buffers", "80MB")?;
    let now = started(&lab)?;
    ensure!(
        now[0] != before[0] && now[1] < now[0],
        "expected s to be restarted, then m: {before:?}, {now:?}"
    );
    // One that was put off and done by hand has been done.
    suite.pgprov(["up", "--restart", "never"]).args([&lab.file]).limit(200).ok()?;
    lab.exec("s", "sleep 1; systemctl restart postgresql@17-main")?;
    let plan = suite.pgprov(["plan"]).args([&lab.file]).run()?.exits(4)?.says("m: restart PostgreSQL")?;
    ensure!(!plan.stdout.contains("s: restart PostgreSQL"), "expected s to be done:\n{plan}");
    lab.up(&lab.file)?.exits(0)?;
    let before = started(&lab)?;
    suite.pgprov(["up", "--restart", "rolling"]).args([&lab.file]).limit(200).ok()?;
    let now = started(&lab)?;
    ensure!(
        now[0] > before[1] && now[1] < now[0],
        "expected both to be restarted, s first: {before:?}, {now:?}"
    );
    lab.streams("m", "s", "after restarts")?;
    lab.is_as_its_topology_says()
}

/// A restart can be put off, `status` and `plan` say so; fewer connections restart the primary first.
pub fn fewer_connections_restart_the_primary_first(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let file = with_setting(suite, "connections.yaml", "max_connections: 40")?;
    let before = started(&lab)?;
    let up = suite.pgprov(["up", "--restart", "never"]).args([&file]).limit(200).ok()?;
    up.says("left for later: m: restart PostgreSQL, because of max_connections")?;
    let now = started(&lab)?;
    ensure!(now == before, "expected no restart: {before:?} became {now:?}");
    suite.pgprov(["status", "lab"]).ok()?.says("max_connections waits for a restart")?;
    suite.pgprov(["plan", "--restart", "never"]).args([&file]).ok()?;
    // What gets smaller is known to the next run, although the files are there already.
    let plan = suite.pgprov(["plan"]).args([&file]).run()?.exits(4)?;
    let turns: Vec<&str> = plan.stdout.lines().filter(|line| line.contains("restart PostgreSQL")).collect();
    ensure!(
        turns.len() == 2 && turns[0].starts_with("~ m: ") && turns[1].starts_with("~ s: "),
        "expected m and then s to be restarted in\n{plan}"
    );
    lab.up(&file)?.exits(0)?;
    let now = started(&lab)?;
    ensure!(
        now[0] != before[0] && now[0] < now[1],
        "expected m to be restarted, then s: {before:?}, {now:?}"
    );
    for host in ["m", "s"] {
        lab.psql_becomes(host, "show max_connections", "40")?;
    }
    lab.streams("m", "s", "with fewer connections")?;
    lab.up(&lab.file)?.exits(0)?;
    let now = started(&lab)?;
    ensure!(now[1] < now[0], "expected s to be restarted first for more connections: {now:?}");
    lab.is_as_its_topology_says()
}

/// A value that PostgreSQL does not accept: the files before are back and in force, and the place is named.
pub fn broken_setting_is_taken_back(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let before = started(&lab)?;
    let zone = with_setting(suite, "zone.yaml", "timezone: Nowhere/City")?;
    let up = lab.up(&zone)?.exits(1)?;
    up.says("could not reload PostgreSQL")?
        .says(&format!("{CONF}/10-reload.conf:"))?
        .says("TimeZone: setting could not be applied")?
        .says("put back as they were: ")?;
    lab.psql_becomes("m", "show timezone", "Etc/UTC")?;
    suite.pgprov(["plan"]).args([&lab.file]).ok()?;

    let library = with_setting(suite, "library.yaml", "shared_preload_libraries: nosuch")?;
    let up = lab.up(&library)?.exits(1)?;
    up.says("s: could not restart PostgreSQL")?
        .says("nosuch")?
        .says("m: goes on as before, with its old files")?;
    let now = started(&lab)?;
    ensure!(now[0] == before[0], "expected m not to be restarted: {before:?} became {now:?}");
    lab.psql_becomes("s", "show shared_preload_libraries", "")?;
    lab.streams("m", "s", "after a setting that was taken back")?;
    lab.up(&lab.file)?.exits(0)?;
    lab.is_as_its_topology_says()
}

/// Another size of the VMs powers hosts off and on, after asking, and changes what is computed from it.
pub fn memory_is_changed(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&PAIR)?;
    lab.streams("m", "s", "with the old memory")?;
    let text = std::fs::read_to_string(&lab.file)?;
    let file = suite.file("memory.yaml", &format!("{text}vm: {{ memory: 1200MiB }}\n"))?;
    let boot = lab.exec("m", "cat /proc/sys/kernel/random/boot_id")?;
    lab.up(&file)?.exits(2)?.says("power m off, because its hardware changes")?.says("--yes")?;
    let same = lab.exec("m", "cat /proc/sys/kernel/random/boot_id")?;
    ensure!(same == boot, "expected m to be left alone without consent");
    let before = lab.psql("m", "show shared_buffers")?;
    let up = suite.pgprov(["up", "--yes"]).args([&file]).limit(300).ok()?;
    let at = |text: &str| up.stderr.find(text).with_context(|| format!("expected `{text}` in\n{up}"));
    ensure!(at("s shutting down")? < at("m shutting down")?, "expected the standby to go first in\n{up}");
    for host in ["m", "s"] {
        let log = lab.exec(host, "grep -h 'database system was' /var/log/postgresql/*.log | tail -n 2")?;
        ensure!(
            log.contains("was shut down") && !log.contains("interrupted"),
            "expected PostgreSQL of {host} to be shut down before the power was cut:\n{log}"
        );
        let now = lab.psql(host, "show shared_buffers")?;
        ensure!(
            before == "204MB" && now == "240MB",
            "expected a fifth of the memory of {host}: {before}, {now}"
        );
        let kib = lab.exec(host, "awk '/^MemTotal/ { print $2 }' /proc/meminfo")?;
        ensure!(kib.parse::<u64>()? > 1_100_000, "expected {host} to have 1200 MiB, it has {kib} kB");
    }
    lab.streams("m", "s", "with more memory")?;
    suite.pgprov(["plan"]).args([&file]).ok()?.says("nothing to do")?;
    suite.pgprov(["up", "--yes"]).args([&lab.file]).limit(300).ok()?;
    lab.is_as_its_topology_says()
}
