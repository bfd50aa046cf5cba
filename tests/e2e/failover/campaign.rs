//! The long list of faults, for `make verify`: each with a writer, each bounded, each with the lab as it was made.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::{
    drill::{Drill, FENCE, PROMOTE},
    ledger::Fate,
    times::gap,
};
use crate::suite::{Suite, UP_LIMIT};

/// What a fault has to end in.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// The primary stays, and takes writes all the time or again.
    Stays,
    /// The standby takes over.
    Moves,
    /// Nobody is open until all is mended; then the primary is what it was.
    Closed,
}

/// A link combination: which of m-s, m-arbiter, s-arbiter are cut.
type Cut = (&'static [(&'static str, &'static str)], Then);

const MS: (&str, &str) = ("m", "s");
const MA: (&str, &str) = ("m", "arbiter");
const SA: (&str, &str) = ("s", "arbiter");

/// All that can be cut, as docs/failover.md has it.
const CUTS: [Cut; 7] = [
    (&[MS], Then::Stays),
    (&[MA], Then::Stays),
    (&[SA], Then::Stays),
    (&[MS, MA], Then::Moves),
    (&[MS, SA], Then::Stays),
    (&[MA, SA], Then::Stays),
    (&[MS, MA, SA], Then::Closed),
];

/// All link combinations, in both directions.
pub fn links(suite: &Suite) -> Result<()> {
    for (links, then) in CUTS {
        let drill = Drill::begin(suite)?;
        drill.part(links)?;
        let told = ends_in(drill, then);
        told.with_context(|| format!("with {links:?} cut"))?;
    }
    Ok(())
}

/// Each link, and each pair that isolates a host, cut in one direction only: whatever follows, nothing is lost.
pub fn one_way(suite: &Suite) -> Result<()> {
    let from = |host: &'static str| ["m", "s", "arbiter"].into_iter().filter(move |other| *other != host);
    for host in ["m", "s", "arbiter"] {
        for outwards in [true, false] {
            let drill = Drill::begin(suite)?;
            let links: Vec<_> =
                from(host).map(|other| if outwards { (host, other) } else { (other, host) }).collect();
            drill.cut(&links)?;
            drill.pause(PROMOTE * 2.0);
            drill.mend()?;
            let primary = drill.settled(120)?;
            drill.writes_go_on(20)?;
            let changes = usize::from(primary == "s");
            drill.end(changes).with_context(|| format!("with {links:?} cut in that direction"))?;
        }
    }
    Ok(())
}

/// Waits for what has to follow, mends, and waits until all is well.
fn ends_in(drill: Drill<'_>, then: Then) -> Result<()> {
    match then {
        Then::Stays => {
            drill.stays("s", &["standby", "voting"], PROMOTE + 3.0)?;
            drill.writes_go_on(20)?;
        }
        Then::Moves => {
            drill.until("s", &["solo", "resyncing", "sync"], 60)?;
            drill.writes_go_on(20)?;
        }
        Then::Closed => {
            drill.pause(FENCE + 1.0);
            drill.nobody_writes(PROMOTE)?;
        }
    }
    drill.mend()?;
    let primary = if then == Then::Moves { "s" } else { "m" };
    drill.healthy(primary, 150)?;
    drill.writes_go_on(20)?;
    drill.end(usize::from(then == Then::Moves)).map(drop)
}

/// The power of each host is cut.
pub fn power(suite: &Suite) -> Result<()> {
    for (host, then) in [("m", Then::Moves), ("s", Then::Stays), ("arbiter", Then::Stays)] {
        let drill = Drill::begin(suite)?;
        drill.power_off(host)?;
        if host == "s" {
            drill.until("m", &["solo"], 60)?;
        } else if then == Then::Moves {
            drill.until("s", &["solo"], 60)?;
        }
        drill.writes_go_on(20)?;
        drill.power_on(host)?;
        drill.awake(host, 120)?;
        let primary = if then == Then::Moves { "s" } else { "m" };
        drill.healthy(primary, 180).with_context(|| format!("after the power cut of {host}"))?;
        drill
            .end(usize::from(then == Then::Moves))
            .with_context(|| format!("after the power cut of {host}"))?;
    }
    Ok(())
}

/// Processes are killed and stopped on the primary: whoever is primary afterwards, all is well.
pub fn processes(suite: &Suite) -> Result<()> {
    let faults = [
        ("the agent is killed", "systemctl kill -s KILL pgagent", ""),
        ("the agent is stopped", "systemctl kill -s STOP pgagent", "systemctl kill -s CONT pgagent || true"),
        ("the postmaster is killed", "kill -KILL $(head -1 /var/lib/postgresql/*/main/postmaster.pid)", ""),
        ("the postmaster is stopped", "kill -STOP $(head -1 /var/lib/postgresql/*/main/postmaster.pid)", ""),
        ("PostgreSQL is stopped behind the agent's back", "systemctl stop 'postgresql@*'", ""),
        (
            "a backend is killed, and the server recovers",
            "pkill -KILL -f '^postgres: .*wms' || pkill -KILL -f '^postgres: .*walwriter'",
            "",
        ),
    ];
    for (name, fault, mend) in faults {
        let drill = Drill::begin(suite)?;
        drill.lab.exec("m", fault)?;
        drill.pause(PROMOTE * 2.0);
        drill.lab.exec("m", &format!("true; {mend}"))?;
        drill.connects(90).context(name)?;
        let primary = drill.settled(150).context(name)?;
        drill.writes_go_on(20).context(name)?;
        drill.end(usize::from(primary == "s")).context(name)?;
    }
    Ok(())
}

/// The primary's machine stands still, for one promote time and for ten, and goes on.
pub fn pauses(suite: &Suite) -> Result<()> {
    for times in [1.0, 10.0] {
        let drill = Drill::begin(suite)?;
        suite.virsh(["suspend", &drill.lab.domain("m")]).ok()?;
        drill.pause(PROMOTE * times);
        suite.virsh(["resume", &drill.lab.domain("m")]).ok()?;
        let primary = drill.settled(150)?;
        drill.writes_go_on(20)?;
        let summary = drill.tries("m")?;
        ensure!(!summary.is_empty(), "expected the observer of m to have seen something");
        // A machine that was frozen may answer for what was left of its lease: docs/failover.md says so.
        drill.end_frozen().with_context(|| format!("after {times} promote times; {primary} is primary"))?;
    }
    Ok(())
}

/// Clocks are set an hour ahead and back: no time of day counts.
pub fn clocks(suite: &Suite) -> Result<()> {
    let drill = Drill::begin(suite)?;
    for host in ["m", "s", "arbiter"] {
        for step in ["+1 hour", "-2 hours", "+1 hour"] {
            drill.lab.exec(host, &format!("date -s '{step}' >/dev/null"))?;
            drill.stays("m", &["sync"], 3.0)?;
        }
    }
    drill.stays("m", &["sync"], PROMOTE)?;
    drill.stays("s", &["standby"], 1.0)?;
    drill.writes_go_on(5)?;
    drill.end(0).map(drop)
}

/// The disk of the primary fills up: whoever is primary then, writes go on, and it comes back when there is room again.
pub fn disk_full(suite: &Suite) -> Result<()> {
    let drill = Drill::begin(suite)?;
    drill.lab.exec(
        "m",
        "fallocate -l $(($(df --output=avail -B1 /var/lib/postgresql | tail -1) - 4194304)) /var/lib/postgresql/full;
         dd if=/dev/zero of=/var/lib/postgresql/full2 bs=64k 2>/dev/null; sync; df /var/lib/postgresql | tail -1",
    )?;
    let said = drill.lab.exec("m", "pgagent explain 2>&1 || true")?;
    ensure!(
        said.contains("MiB left") || said.contains("cannot reach"),
        "expected m to speak of its disk: {said}"
    );
    let sql = "create table if not exists big(t text); insert into big select repeat('x', 1000) from generate_series(1, 20000)";
    for _ in 0..5 {
        let _ = drill.lab.exec("client", &format!("psql -XAtqw service=lab-rw -c \"{sql}\" 2>&1 || true"))?;
    }
    drill.pause(PROMOTE * 2.0);
    drill.writes_go_on(60)?;
    drill.lab.exec("m", "rm -f /var/lib/postgresql/full /var/lib/postgresql/full2")?;
    let primary = drill.settled(180)?;
    drill.writes_go_on(20)?;
    drill.end(usize::from(primary == "s")).map(drop)
}

/// The arbiter forgets everything: it asks both hosts, and failover works again.
pub fn arbiter_wiped(suite: &Suite) -> Result<()> {
    let drill = Drill::begin(suite)?;
    drill
        .lab
        .exec("arbiter", "systemctl stop pgagent; rm -rf /var/lib/pgagent/*; systemctl start pgagent")?;
    drill.healthy("m", 60)?;
    drill.writes_go_on(5)?;
    drill.ha(&["arbiter", "replace"]).limit(130).ok()?.says("has a new record")?;
    drill.healthy("m", 60)?;
    drill.cable("m", "down")?;
    drill.until("s", &["solo"], 60)?;
    drill.cable("m", "up")?;
    drill.healthy("s", 150)?;
    drill.end(1).map(drop)
}

/// The arbiter forgets everything while the standby is away: one host is not enough for a record, unless the operator says so.
pub fn adopted(suite: &Suite) -> Result<()> {
    let drill = Drill::begin(suite)?;
    drill.power_off("s")?;
    drill.until("m", &["solo"], 60)?;
    drill
        .lab
        .exec("arbiter", "systemctl stop pgagent; rm -rf /var/lib/pgagent/*; systemctl start pgagent")?;
    drill.pause(FENCE * 2.0);
    drill.nobody_writes(PROMOTE)?;
    drill.ha(&["explain"]).ok()?.says("pgprov ha arbiter adopt")?;
    drill.ha(&["arbiter", "adopt"]).limit(130).ok()?.says("has a new record")?;
    drill.writes_go_on(30)?;
    drill.power_on("s")?;
    drill.awake("s", 120)?;
    drill.healthy("m", 180)?;
    drill.cable("m", "down")?;
    drill.until("s", &["solo"], 60)?;
    drill.cable("m", "up")?;
    drill.healthy("s", 180)?;
    drill.end(1).map(drop)
}

/// With `max-protection` commits wait for a standby, on whichever host, and nothing else changes.
pub fn max_protection(suite: &Suite) -> Result<()> {
    let drill = Drill::begin(suite)?;
    let text = suite.repository_file("topologies/lab.yaml")?;
    let (before, after) = ("durability: max-availability", "durability: max-protection");
    ensure!(text.contains(before), "expected `{before}` in topologies/lab.yaml");
    let careful = suite.file("careful.yaml", &text.replace(before, after))?;
    drill.lab.up(&careful)?.exits(0)?;
    drill.healthy("m", 60)?;
    drill.writes_go_on(20)?;

    drill.part(&[MS, SA])?;
    drill.pause(PROMOTE);
    drill.nobody_writes(PROMOTE)?;
    drill.ha(&["explain"]).ok()?.says("commits wait for the standby")?;
    drill.mend()?;
    drill.healthy("m", 90)?;
    drill.writes_go_on(20)?;

    drill.cable("m", "down")?;
    drill.until("s", &["solo", "degrading", "resyncing"], 60)?;
    drill.nobody_writes(PROMOTE)?;
    drill.cable("m", "up")?;
    drill.healthy("s", 180)?;
    drill.writes_go_on(20)?;
    drill.ha(&["switchover", "--wait", "60"]).limit(90).ok()?;
    drill.healthy("m", 90)?;
    drill.lab.up(&drill.lab.file)?.exits(0)?;
    drill.healthy("m", 60)?;
    drill.end(2).map(drop)
}

/// A bad network, for ten minutes: a fifth of all frames is lost between all hosts, each answer takes 200 ms longer, and nobody
/// is promoted, nor asks to be.
#[expect(clippy::print_stdout, reason = "how bad it was is an answer too")]
pub fn lossy(suite: &Suite) -> Result<()> {
    let minutes = minutes(10.0);
    let drill = Drill::begin(suite)?;
    for host in ["m", "s", "arbiter"] {
        let delay =
            "dev=$(ip -o -4 route show | sed -n 's/.*10\\.77\\.10.* dev \\([^ ]*\\).*/\\1/p' | head -1)
                     tc qdisc add dev $dev root netem delay 100ms";
        drill.lab.exec(host, delay)?;
    }
    drill.lossy(&[MS, MA, SA], 20)?;
    let since = drill.now();
    drill.stays("s", &["standby"], minutes * 60.0)?;
    let until = drill.now();
    let tries: Vec<_> =
        drill.tries("writer")?.into_iter().filter(|it| it.begin > since && it.end < until).collect();
    println!(
        "\n{} tries, {} ok, longest without {:.1} s",
        tries.len(),
        tries.iter().filter(|it| it.fate() == Fate::Ok).count(),
        gap(&tries, since)
    );
    drill.mend()?;
    drill.healthy("m", 60)?;
    drill.end(0).map(drop)
}

/// A cable that comes and goes.
pub fn flapping(suite: &Suite) -> Result<()> {
    let minutes = minutes(2.0);
    let drill = Drill::begin(suite)?;
    let begun = std::time::Instant::now();
    while begun.elapsed().as_secs_f64() < minutes * 60.0 {
        drill.part(&[MS, MA])?;
        drill.pause(1.0);
        drill.mend()?;
        drill.pause(1.0);
    }
    let primary = drill.settled(150)?;
    drill.writes_go_on(20)?;
    drill.end(usize::from(primary == "s")).map(drop)
}

/// All hosts lose their power and come back in another order; whoever is first, nothing is lost.
pub fn all_off_and_on(suite: &Suite) -> Result<()> {
    for order in [["m", "s", "arbiter"], ["s", "arbiter", "m"], ["arbiter", "s", "m"]] {
        let drill = Drill::begin(suite)?;
        for host in ["m", "s", "arbiter"] {
            drill.power_off(host)?;
        }
        for host in order {
            drill.power_on(host)?;
            drill.pause(5.0);
        }
        for host in order {
            drill.awake(host, 180)?;
        }
        let primary = drill.settled(240).with_context(|| format!("switched on as {order:?}"))?;
        drill.writes_go_on(30)?;
        drill.end(usize::from(primary == "s")).with_context(|| format!("switched on as {order:?}"))?;
    }
    Ok(())
}

/// What only an operator does.
pub fn operator(suite: &Suite) -> Result<()> {
    let drill = Drill::begin(suite)?;
    drill.ha(&["maintenance", "on", "--lab"]).limit(130).ok()?.says("maintenance is on")?;
    drill.power_off("s")?;
    drill.writes_go_on(10)?;
    drill.power_on("s")?;
    drill.awake("s", 120)?;
    drill.ha(&["maintenance", "off", "--lab"]).limit(130).ok()?.says("maintenance is off")?;
    drill.ha(&["rejoin", "s", "--lab"]).limit(130).ok()?.says("s follows with a fresh copy")?;
    drill.writes_go_on(10)?;
    // Both others are gone: only an operator may go on from here, and says what that may cost.
    drill.power_off("m")?;
    drill.cable("arbiter", "down")?;
    drill.stays("s", &["standby"], PROMOTE + 2.0)?;
    drill.cable("arbiter", "up")?;
    drill.until("s", &["solo"], 60)?;
    drill.end(1).map(drop)
}

/// The primary went on alone and is gone: the standby lacks commits, and only an operator may accept that.
pub fn forced(suite: &Suite) -> Result<()> {
    let drill = Drill::begin(suite)?;
    drill.part(&[MS, SA])?;
    drill.until("m", &["solo"], 60)?;
    drill.writes_go_on(10)?;
    drill.power_off("m")?;
    drill.mend()?;
    drill.stays("s", &["standby"], PROMOTE + 3.0)?;
    drill.ha(&["explain"]).ok()?.says("pgprov ha promote s --accept-data-loss")?;
    drill.ha(&["promote", "s", "--lab"]).run()?.exits(2)?;
    let promote = ["promote", "s", "--accept-data-loss", "--yes", "--lab"];
    drill.ha(&promote).limit(130).ok()?.says("s is primary")?;
    drill.writes_go_on(20)?;
    drill.power_on("m")?;
    drill.awake("m", 120)?;
    drill.healthy("s", 180)?;
    drill.ha(&["status"]).ok()?.says("1 promotion(s) accepted the loss of data").map(drop)
}

/// New settings and a new program reach the agents by `up`, under load: nobody is promoted, and agents agree again.
pub fn upgrade(suite: &Suite) -> Result<()> {
    let drill = Drill::begin(suite)?;
    let text = suite.repository_file("topologies/lab.yaml")?;
    ensure!(text.contains("rto: safe"), "expected `rto: safe` in topologies/lab.yaml");
    let wide = suite.file("wide.yaml", &text.replace("rto: safe", "rto: wide"))?;
    drill.lab.up(&wide)?.exits(0)?;
    for host in ["m", "s", "arbiter"] {
        let agent = drill.agent(host)?;
        ensure!(agent["timing"]["fence"] == 14_000, "expected the new times on {host}: {agent:#}");
    }
    drill.pause(3.0);
    let agent = drill.agent("m")?;
    ensure!(agent["other_settings"] == serde_json::json!([]), "expected all settings to agree: {agent:#}");
    drill.lab.up(&drill.lab.file)?.exits(0)?;
    drill.healthy("m", 60)?;

    // Another program, as far as its checksum says.
    let guests = PathBuf::from(std::env::var_os("PGPROV_GUEST_DIR").context("PGPROV_GUEST_DIR is not set")?);
    let folder = suite.folder("guest")?;
    for entry in std::fs::read_dir(&guests)? {
        let mut program = std::fs::read(entry.as_ref().map(std::fs::DirEntry::path).unwrap_or_default())?;
        program.push(0);
        std::fs::write(folder.join(entry?.file_name()), program)?;
    }
    let up = suite.pgprov(["up"]).args([&drill.lab.file]).env("PGPROV_GUEST_DIR", &folder);
    up.limit(UP_LIMIT).ok()?;
    drill.healthy("m", 60)?;
    drill.writes_go_on(10)?;
    drill.end(0).map(drop)
}

/// `PGPROV_MINUTES` instead of what a case does by itself.
fn minutes(otherwise: f64) -> f64 {
    std::env::var("PGPROV_MINUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

impl Drill<'_> {
    /// For some time the writer is told of nothing that it is durable.
    fn nobody_writes(&self, seconds: f64) -> Result<()> {
        let since = self.now();
        self.pause(seconds);
        let taken = self.tries("writer")?.into_iter().find(|it| it.answer == "ok" && it.end > since);
        ensure!(taken.is_none(), "expected nobody to take writes: {taken:?}");
        Ok(())
    }

    /// Time passes.
    pub fn pause(&self, seconds: f64) {
        std::thread::sleep(Duration::from_secs_f64(seconds));
    }
}
