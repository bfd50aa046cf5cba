//! A lab goes back to a checkpoint, whatever was done to it.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    command::Output,
    neighbours::nothing_left,
    suite::{Lab, MAIN, PAIR, Suite, UP_LIMIT, host},
};

/// Something terrible, on host s or m of the pair.
type Fault = fn(&Lab) -> Result<()>;

/// What a lab has to survive, by name.
const FAULTS: [(&str, Fault); 7] = [
    ("a data directory is deleted", |lab| {
        lab.exec("m", "rm -rf /var/lib/postgresql/*/main && systemctl kill -s KILL 'postgresql@*'").map(drop)
    }),
    ("a host is wrecked", |lab| {
        // What runs goes on for a while; nothing new starts.
        lab.exec(
            "s",
            "rm -rf /etc/postgresql /usr/lib/postgresql; mv /usr/lib/systemd /usr/lib/gone; : >/etc/shadow",
        )
        .map(drop)
    }),
    ("a host has no power", |lab| lab.suite.virsh(["destroy", &lab.domain("m")]).ok().map(drop)),
    ("a host stands still", |lab| lab.suite.virsh(["suspend", &lab.domain("s")]).ok().map(drop)),
    ("a cable is pulled and an address is gone", |lab| {
        let domain = lab.domain("s");
        let interfaces = lab.suite.virsh(["domiflist", &domain]).ok()?.stdout;
        let first = interfaces.split_whitespace().next().unwrap_or_default().to_owned();
        lab.exec("m", "ip link set eth1 down")?;
        lab.suite.virsh(["domif-setlink", &domain, &first, "down"]).ok().map(drop)
    }),
    ("a host is deleted", |lab| {
        lab.suite.virsh(["destroy", &lab.domain("s")]).ok()?;
        lab.suite.virsh(["undefine", &lab.domain("s")]).ok().map(drop)
    }),
    ("a network is deleted", |lab| {
        let network = format!("pgprov-{}-data", lab.name);
        lab.suite.virsh(["net-destroy", &network]).ok()?;
        lab.suite.virsh(["net-undefine", &network]).ok().map(drop)
    }),
];

/// What `pgprov fault` can do to the pair, besides what stands above.
const INJECTED: [&[&str]; 12] = [
    &["isolate", "s"],
    &["partition", "s", "--from", "m"],
    &["delay", "m", "300ms"],
    &["loss", "s", "60%"],
    &["rate", "m", "100kbit"],
    &["pause", "m"],
    &["stop-service", "s", "postgresql@17-main"],
    &["fill-disk", "m", "/var/lib/postgresql"],
    &["slow-disk", "s"],
    &["clock", "s", "+60m"],
    &["clock", "m", "-60m"],
    &["kill-process", "m", "postgres"],
];

fn reset(lab: &Lab, name: &str) -> Result<Output> {
    lab.pgprov("reset", [name]).limit(UP_LIMIT).ok()
}

/// `up` has made a checkpoint, which is listed with what it costs.
pub fn ready_is_made(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&PAIR)?;
    let list = lab.suite.pgprov(["checkpoint", "list", "--lab", lab.name, "-o", "json"]).ok()?;
    let ready = &list.json()?["checkpoints"][0];
    ensure!(ready["name"] == "ready" && ready["usable"] == true, "expected a usable checkpoint in\n{list}");
    let memory = ready["memory_bytes"].as_u64().unwrap_or_default();
    ensure!(memory > 50 << 20, "expected the memory of two hosts to be more than 50 MiB in\n{list}");
    suite.pgprov(["checkpoint", "list", "--lab", lab.name]).ok()?.says("MEMORY")?.says("ready").map(drop)
}

/// After each fault, `reset` brings the lab back: hosts run, replication streams, what was written since is gone.
pub fn reset_after_each_fault(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&PAIR)?;
    reset(&lab, "ready")?;
    for (name, fault) in FAULTS {
        lab.psql("m", "create table thrown_away ()")?;
        fault(&lab).map_err(|error| error.context(format!("expected to bring it about: {name}")))?;
        reset(&lab, "ready").map_err(|error| error.context(format!("after: {name}")))?;
        as_it_was(&lab).map_err(|error| error.context(format!("after: {name}")))?;
    }
    Ok(())
}

/// The same for the faults that pgprov brings about itself; none of them is in force afterwards.
pub fn reset_after_each_injected_fault(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&PAIR)?;
    reset(&lab, "ready")?;
    for fault in INJECTED {
        let after = |error: anyhow::Error| error.context(format!("after fault {}", fault.join(" ")));
        lab.psql("m", "create table thrown_away ()")?;
        suite.pgprov(["fault"]).args(fault).args(["--lab", lab.name]).limit(60).ok().map_err(after)?;
        reset(&lab, "ready").map_err(after)?;
        let left = suite.pgprov(["fault", "list", "--lab", lab.name, "-o", "json"]).ok()?.json()?;
        let left = left["faults"].as_array().map(Vec::len);
        ensure!(left == Some(0), "expected no fault after fault {}, found {left:?}", fault.join(" "));
        as_it_was(&lab).map_err(after)?;
    }
    Ok(())
}

/// Both hosts run and stream, nothing of what came after the checkpoint is there, clocks are right, and `up` has nothing to
/// do.
fn as_it_was(lab: &Lab) -> Result<()> {
    let left = lab.psql("m", "select count(*) from pg_tables where tablename = 'thrown_away'")?;
    ensure!(left == "0", "expected what was written after the checkpoint to be gone");
    let status = lab.status()?;
    for name in ["m", "s"] {
        let host = host(&status, name)?;
        ensure!(host["state"] == "running", "expected {name} to run: {status:#}");
    }
    lab.streams("m", "s", "after the reset")?;
    for (host, text) in lab.exec_everywhere("systemctl is-system-running; date +%s")? {
        let (state, clock) = text.split_once('\n').unwrap_or_default();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        ensure!(state == "running", "expected {host} to be healthy, it is {state}");
        ensure!(
            now.abs_diff(clock.parse()?) <= 3,
            "expected the clock of {host} to be right: {clock}, not {now}"
        );
    }
    lab.is_as_its_topology_says()
}

/// The jump of the clock breaks no stream off: the receiver is still that of the checkpoint, which is longer ago than its timeout. And
/// timeouts are in force again: a receiver that stands still, whose kernel goes on, is noticed.
pub fn streams_outlive_a_reset(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let receiver = || lab.psql("s", "select pid from pg_stat_wal_receiver");
    reset(&lab, "ready")?;
    let before = receiver()?;
    thread::sleep(Duration::from_secs(11));
    reset(&lab, "ready")?;
    lab.streams("m", "s", "after the reset")?;
    thread::sleep(Duration::from_secs(11));
    let after = receiver()?;
    ensure!(before == after, "expected the stream of receiver {before} to go on, it is {after} now");
    // Agents rested while the lab went on, and have told of it since.
    for host in ["m", "s"] {
        lab.exec(host, "journalctl -q -b -u pgagent | grep -q '\"event\":\"clock\"'")?;
    }
    lab.exec("s", &format!("kill -STOP {after}"))?;
    lab.psql_becomes("m", "select count(*) from pg_stat_replication where application_name = 's'", "0")?;
    lab.exec("s", &format!("kill -CONT {after}"))?;
    reset(&lab, "ready").map(drop)
}

/// Going back twice is as good as once.
pub fn two_resets_in_a_row(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&PAIR)?;
    reset(&lab, "ready")?;
    reset(&lab, "ready")?;
    as_it_was(&lab)
}

/// Checkpoints of one's own: each has its own past; a removed one takes its volumes along.
pub fn several_checkpoints(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&PAIR)?;
    reset(&lab, "ready")?;
    lab.psql("m", "create table later as select 1 as i")?;
    suite.pgprov(["checkpoint"]).run()?.exits(2)?;
    let save = || suite.pgprov(["checkpoint", "save", "later", "--lab", lab.name]).limit(UP_LIMIT);
    save().ok()?;
    save().run()?.exits(2)?.says("checkpoint later exists")?.says("--replace")?;
    let more = || suite.pgprov(["checkpoint", "save", "more", "--lab", lab.name]).limit(60).run();
    let refused = suite.with_small_pool(60, more)?.exits(1)?;
    refused.says("MiB left, a checkpoint takes up to")?.says("remove checkpoints, labs or images")?;
    // Nobody was paused for it, and nothing of it is left.
    lab.psql_becomes("s", "select i from later", "1")?;
    lab.pgprov("reset", ["more"]).run()?.exits(2)?.says("no checkpoint `more`")?;
    lab.psql("m", "drop table later")?;
    reset(&lab, "later")?;
    lab.psql_becomes("s", "select i from later", "1")?;
    reset(&lab, "ready")?;
    let gone = lab.psql("m", "select count(*) from pg_tables where tablename = 'later'")?;
    ensure!(gone == "0", "expected `ready` to be before the table");
    let volumes = || -> Result<usize> {
        Ok(suite
            .everything()?
            .iter()
            .filter(|name| name.contains("/pair--") && name.contains(".later."))
            .count())
    };
    ensure!(volumes()? == 2, "expected the memory of two hosts");
    suite.pgprov(["checkpoint", "remove", "later", "--lab", lab.name]).ok()?;
    ensure!(volumes()? == 0, "expected its memory to be gone with checkpoint later");
    lab.pgprov("reset", ["later"]).run()?.exits(2)?.says("no checkpoint `later`")?.says("ready")?;
    as_it_was(&lab)
}

/// A checkpoint of other software, other machines or half a memory is refused before anything is touched.
pub fn what_does_not_fit_is_refused(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&PAIR)?;
    reset(&lab, "ready")?;
    lab.psql("m", "create table since_ready as select 1 as i")?;
    let file = lab.state_file("checkpoints").join("ready.json");
    let kept = std::fs::read_to_string(&file)?;
    let saved: Value = serde_json::from_str(&kept)?;
    let refuses = |pointer: &str, value: Value, why: &str| {
        let mut other = saved.clone();
        *other.pointer_mut(pointer).with_context(|| format!("expected {pointer} in\n{kept}"))? = value;
        std::fs::write(&file, other.to_string())?;
        lab.pgprov("reset", []).run()?.exits(1)?.says("cannot go back to checkpoint ready")?.says(why)
    };
    let told = [
        refuses("/software", "QEMU 1.0".into(), "it was made with QEMU 1.0"),
        refuses("/hosts/s/spec", "another machine".into(), "the machine of s is defined otherwise now"),
        refuses("/hosts/s/layer", 77.into(), "ready"),
    ];
    std::fs::write(&file, &kept)?;
    told.into_iter().collect::<Result<Vec<_>>>()?;
    lab.psql_becomes("s", "select i from since_ready", "1")?;
    reset(&lab, "ready")?;
    as_it_was(&lab)
}

/// A lab whose hosts do not all run has no moment to save.
pub fn save_needs_all_hosts(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&PAIR)?;
    suite.virsh(["destroy", &lab.domain("s")]).ok()?;
    let refused = suite.pgprov(["checkpoint", "save", "half", "--lab", lab.name]).limit(60).run()?;
    refused.exits(1)?.says("host s does not run")?;
    reset(&lab, "ready")?;
    as_it_was(&lab)
}

/// `up` starts a lab that was put away from its checkpoint, and forgets nothing.
pub fn up_starts_from_ready(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&PAIR)?;
    suite
        .pgprov(["destroy", "pair", "--yes", "--keep-checkpoints"])
        .limit(120)
        .ok()?
        .says("checkpoints are kept")?;
    suite.pgprov(["plan"]).args([&lab.file]).run()?.exits(4)?.says("`up` goes back to checkpoint ready")?;
    let up = lab.up(&lab.file)?.exits(0)?.says("checkpoint ready")?;
    ensure!(!up.stderr.contains("make the data directory"), "expected nothing to be built in\n{up}");
    // Its networks are new ones, and its hosts remember who else was on those before.
    let begun = Instant::now();
    lab.exec_everywhere("true")?;
    let took = begun.elapsed();
    ensure!(
        took < Duration::from_secs(4),
        "expected hosts to answer over the network at once, it took {took:?}"
    );
    as_it_was(&lab)?;
    lab.is_as_its_topology_says()?;

    // An edit from before is brought in line, although the machines are those of the checkpoint.
    suite.pgprov(["destroy", "pair", "--yes", "--keep-checkpoints"]).limit(120).ok()?;
    let text = std::fs::read_to_string(&lab.file)?;
    let edited = text.replace("postgres:\n", "postgres:\n  settings: { work_mem: 11MB }\n");
    let up = lab.up(&suite.file("ready.yaml", &edited)?)?.exits(0)?.says("checkpoint ready")?;
    let set = lab.psql("s", "show work_mem")?;
    ensure!(set == "11MB", "expected work_mem to be set on s, it is {set}; said\n{up}");
    suite.pgprov(["destroy", "pair", "--yes"]).limit(120).ok()?;
    suite.forget(&PAIR);
    nothing_left(suite, "pair")
}

/// Killed while a checkpoint is made: the next call finishes it, the lab has lost nothing.
pub fn killed_while_saving(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&PAIR)?;
    for (attempt, delay) in [0, 400, 1200, 2500].into_iter().enumerate() {
        let mark = format!("before save {attempt}");
        lab.streams("m", "s", &mark)?;
        let name = format!("killed-{attempt}");
        let mut save = suite.pgprov(["checkpoint", "save", &name, "--lab", lab.name]).limit(120).start()?;
        save.wait_until(|save| save.stderr().contains("saving 2 hosts"))?;
        thread::sleep(Duration::from_millis(delay));
        save.kill()?;
        save.wait()?;
        let next = lab.up(&lab.file)?.exits(0)?;
        let kept = lab.psql("m", &format!("select count(*) from seen where mark = '{mark}'"))?;
        ensure!(
            kept == "1",
            "expected the row written before the save, killed after {delay} ms; then\n{next}"
        );
        lab.streams("m", "s", &format!("after kill {attempt}"))?;
        lab.is_as_its_topology_says()?;
        ensure!(!lab.state_file("pending.json").exists(), "expected nothing to be left to do");
    }
    Ok(())
}

/// Killed on the way back: the next call goes the rest of the way.
pub fn killed_while_restoring(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&PAIR)?;
    for (attempt, delay) in [0, 300, 900, 2000].into_iter().enumerate() {
        lab.psql("m", "create table thrown_away ()")?;
        let mut reset = lab.pgprov("reset", []).limit(120).start()?;
        reset.wait_until(|reset| reset.stderr().contains("going back"))?;
        thread::sleep(Duration::from_millis(delay));
        reset.kill()?;
        reset.wait()?;
        match attempt % 2 {
            0 => lab.up(&lab.file)?.exits(0)?,
            _ => lab.pgprov("reset", []).limit(UP_LIMIT).ok()?,
        };
        as_it_was(&lab).map_err(|error| error.context(format!("killed after {delay} ms")))?;
    }
    Ok(())
}
