//! The assignment: the primary loses its network, the standby takes over, the old primary comes back, and the roles go
//! back too. A client writes all the time, and what it was told is durable has to be there at the end.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::suite::{Lab, Spec, Suite, Topology};

/// The lab of docs/failover.md.
const FAILOVER: Spec = Spec { name: "failover", topology: Topology::File("topologies/failover.yaml") };

/// Writes one row after the other, and a line for each: what it was told.
const WRITER: &str = "rm -f /tmp/stop /tmp/ledger; cat >/tmp/writer.sh <<'END'
i=0
while [ ! -e /tmp/stop ]; do
  i=$((i+1))
  psql -XAtq service=failover-rw -c \"insert into ledger values ($i)\" 2>/dev/null && echo \"ok $i\" || echo \"unknown $i\"
done >/tmp/ledger
END
setsid sh /tmp/writer.sh >/dev/null 2>&1 </dev/null &";

/// Cut, failover, heal, rejoin, switchover.
///
/// # Errors
/// The first of these that does not happen in time, or an acknowledged row that is not there.
pub fn network_of_the_primary_is_cut(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&FAILOVER)?;
    until(&lab, "m", "sync", 90)?;
    lab.exec("client", "psql -XAtq service=failover-rw -c 'create table ledger(i int primary key)'")?;
    lab.exec("client", WRITER)?;
    thread::sleep(Duration::from_secs(5));

    let nic = data_nic(suite, "failover-m")?;
    suite.virsh(["domif-setlink", "failover-m", &nic, "down"]).ok()?;
    until(&lab, "s", "solo", 90)?;
    let open = lab.exec("m", "nft list set inet pgagent clients; nft list set inet pgagent peers")?;
    ensure!(!open.contains("elements"), "expected the port of m to be closed:\n{open}");
    lab.exec("client", "psql -XAtq service=failover-rw -c 'create table x(i int)'")?;

    suite.virsh(["domif-setlink", "failover-m", &nic, "up"]).ok()?;
    until(&lab, "s", "sync", 180)?;
    until(&lab, "m", "standby", 10)?;

    lab.exec("s", "pgagent switchover")?;
    until(&lab, "m", "sync", 90)?;
    until(&lab, "s", "standby", 10)?;

    lab.exec("client", "touch /tmp/stop; sleep 5")?;
    let told = lab.exec("client", "sed -n 's/^ok //p' /tmp/ledger")?;
    let there = lab.exec("client", "psql -XAtq service=failover-rw -c 'select i from ledger'")?;
    let there: BTreeSet<&str> = there.lines().collect();
    let lost: Vec<&str> = told.lines().filter(|row| !there.contains(row)).collect();
    ensure!(told.lines().count() > 5, "expected more rows than {told:?}");
    ensure!(lost.is_empty(), "acknowledged rows are lost: {lost:?}");
    Ok(())
}

fn data_nic(suite: &Suite, domain: &str) -> Result<String> {
    let list = suite.virsh(["domiflist", domain]).ok()?;
    let line = list.text().lines().find(|line| line.contains("-data"));
    let mac = line.and_then(|line| line.split_whitespace().nth(4));
    Ok(mac.with_context(|| format!("expected a data interface in\n{list}"))?.to_owned())
}

/// Waits until an agent is in a phase.
fn until(lab: &Lab<'_>, host: &str, phase: &str, seconds: u64) -> Result<()> {
    let begun = Instant::now();
    let wanted = format!("\"phase\": \"{phase}\"");
    loop {
        let seen = lab.exec(host, "pgagent status; pgagent explain")?;
        if seen.contains(&wanted) {
            return Ok(());
        }
        if begun.elapsed() > Duration::from_secs(seconds) {
            bail!("expected {host} to be {phase} within {seconds} s:\n{seen}");
        }
        thread::sleep(Duration::from_secs(1));
    }
}
