//! The failover engine of a lab that stands comes and goes, and nobody takes over on the way.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::suite::{Lab, Spec, Suite, Topology};

const LAB: Spec = Spec { name: "engine", topology: Topology::Text(TEXT) };
const TEXT: &str = "lab: engine
postgres: { databases: [{ name: app, owner: app }] }
replication: { mode: synchronous }
hosts:
  m: { roles: [postgres] }
  s: { roles: [postgres], follows: m }
  arbiter: { roles: [arbiter] }
";
const AGENT: &str = "failover: { engine: pgagent, rto: safe }\nhosts:";
const BOOT: &str =
    "cd /etc/systemd/system/multi-user.target.wants; ls | grep -E 'postgres|pgagent'; nft list tables";
const SYNC: &str = "select count(*) from pg_stat_replication where sync_state = 'sync'";

/// The agent is given to servers that stand and taken from them, when each has the part that the topology says; not else, and
/// Patroni never.
///
/// # Errors
/// The first of these that does not happen.
pub fn comes_and_goes(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&LAB)?;
    lab.streams("m", "s", "before the agent")?;
    let timeline = lab.psql("m", TIMELINE)?;
    let agent = suite.file("agent.yaml", &TEXT.replace("hosts:", AGENT))?;
    let patroni = TEXT.replace("hosts:", "failover: { engine: patroni }\nhosts:");
    let patroni = patroni.replace("[postgres]", "[postgres, etcd]").replace("[arbiter]", "[etcd]");
    let patroni = suite.file("patroni.yaml", &patroni)?;
    let kept = "Patroni is not given to servers that exist";
    lab.up(&patroni)?.exits(1)?.says(kept)?.says("nothing was changed")?;
    lab.is_as_its_topology_says()?;

    lab.up(&agent)?.exits(0)?;
    settled(suite, &lab, &agent)?;
    boots(&lab, "pgagent-gate.service\npgagent.service\ntable inet pgagent")?;
    lab.up(&patroni)?.exits(1)?.says(kept)?;

    // As a standby, m would lose its slot on s, and s would wait for it with every commit.
    suite
        .pgprov(["ha", "switchover", "--lab", lab.name])
        .limit(130)
        .ok()?
        .says("s is primary, m follows it in sync")?;
    let refused = lab.up(&lab.file)?.exits(1)?;
    refused
        .says("m: it is a standby, and in the topology it is the primary")?
        .says("pgprov ha switchover")?;
    lab.streams("s", "m", "with the parts exchanged")?;
    suite
        .pgprov(["ha", "switchover", "--lab", lab.name])
        .limit(130)
        .ok()?
        .says("m is primary, s follows it in sync")?;
    let timeline_after = lab.psql("m", TIMELINE)?;
    ensure!(timeline_after != timeline, "expected two switchovers to begin timelines");

    // The agent on s hears of it before that on m, whatever becomes of s meanwhile: here it is cut off from pgprov only.
    suite.pgprov(["plan"]).args([&lab.file]).run()?.exits(4)?.says("m: pgagent.service ends for good")?;
    lab.up(&lab.file)?.exits(2)?.says("stop pgagent.service for good on m")?.says("--yes")?;
    // Neither by SSH nor through the hypervisor.
    let hold = "systemctl kill -s STOP lab-identity; \
                nft add table inet hold; nft add chain inet hold input '{ type filter hook input priority -10; }'; \
                nft add rule inet hold input tcp dport 22 drop; sleep 90; nft delete table inet hold; systemctl kill -s CONT lab-identity";
    lab.exec("s", &format!("systemd-run -q --no-block -u hold sh -c \"sleep 2; {hold}\""))?;
    let held = Instant::now();
    thread::sleep(Duration::from_secs(4));
    let cut = suite.pgprov(["up", "--yes"]).args([&lab.file]).limit(200).run()?.exits(1)?;
    cut.says("m: not configured, because s failed")?;
    let phase = lab.exec("m", "pgagent brief | jq -r .phase")?;
    ensure!(phase == "sync", "expected the agent of m to be left alone, it is {phase}");
    lab.psql_becomes("m", SYNC, "1")?;

    thread::sleep(Duration::from_secs(95).saturating_sub(held.elapsed()));
    suite.pgprov(["up", "--yes"]).args([&lab.file]).limit(200).ok()?;
    settled(suite, &lab, &lab.file)?;
    boots(&lab, "postgresql@17-main.service")?;
    let now = lab.psql("m", TIMELINE)?;
    ensure!(now == timeline_after, "expected nobody to take over: timeline {timeline_after} became {now}");
    lab.streams("m", "s", "without the agent")?;
    let seen = lab.psql("m", "select count(*) from seen")?;
    ensure!(seen == "3", "expected the rows of all three times, found {seen}");
    Ok(())
}

const TIMELINE: &str = "select timeline_id from pg_control_checkpoint()";

/// Nothing is left to do, and commits wait for the standby.
fn settled(suite: &Suite, lab: &Lab, file: &Path) -> Result<()> {
    suite.pgprov(["plan"]).args([file]).ok()?.says("nothing to do")?;
    lab.psql_becomes("m", SYNC, "1")
}

/// What the boot of m starts of these, and whether its port has a gate.
fn boots(lab: &Lab, expected: &str) -> Result<()> {
    let seen = lab.exec("m", BOOT)?;
    ensure!(seen == expected, "expected the boot of m to start\n{expected}\nbut found\n{seen}");
    Ok(())
}
