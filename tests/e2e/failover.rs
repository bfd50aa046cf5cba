//! The failover of topologies/lab.yaml, with a writer that remembers what it was told is durable: all of that has to be
//! there at the end, and never may two hosts take writes.

pub mod campaign;
pub mod drill;
mod ledger;
pub mod times;

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use pgprov::ssh::quote;

use self::drill::{CLIENT, Drill, FENCE, PROMOTE};
use crate::suite::Suite;

/// The assignment: the primary loses its network, the standby takes over under load, the old primary comes back by
/// itself, and a switchover gives it its role back.
///
/// # Errors
/// The first of these that does not happen in time, or an acknowledged row that is not there.
pub fn network_of_the_primary_is_cut(suite: &Suite) -> Result<()> {
    let drill = Drill::begin(suite)?;
    drill.lab.exec(
        "client",
        &format!(
            "pgbench -i -q -s 1 'service=lab-rw' >/dev/null 2>&1
             setsid sh -c 'while [ ! -e /tmp/drill/stop ]; do
               pgbench -n -c 2 -R 20 -T 600 \"service=lab-rw {CLIENT}\"; sleep 0.5
             done' >/tmp/drill/pgbench 2>&1 </dev/null &"
        ),
    )?;
    loaded(&drill)?;

    drill.cable("m", "down")?;
    drill.until("s", &["solo"], 60)?;
    let open = drill.lab.exec("m", "nft list set inet pgagent clients; nft list set inet pgagent peers")?;
    ensure!(!open.contains("elements"), "expected the port of m to be closed:\n{open}");
    drill.lab.exec("client", "psql -XAtqw 'service=lab-rw connect_timeout=10' -c 'create table x(i int)'")?;
    drill.writes_go_on(10)?;
    loaded(&drill)?;

    drill.cable("m", "up")?;
    drill.healthy("s", 120)?;
    drill
        .lab
        .suite
        .pgprov(["status", drill.lab.name])
        .ok()?
        .says("m: streams from s; in the topology it follows nobody")?;
    let said = drill.ha(&["switchover"]).limit(130).ok()?;
    said.says("m is primary, s follows it in sync")?;
    drill.writes_go_on(10)?;
    loaded(&drill)?;
    drill.ha(&["status"]).ok()?.says("primary m, standby in sync")?;
    let told = drill.end(2)?;
    ensure!(told.gap < 60.0, "expected writes to go on sooner: {told:?}");
    Ok(())
}

/// pgbench gets on.
fn loaded(drill: &Drill<'_>) -> Result<()> {
    let count = || -> Result<u64> {
        let sql = "psql -XAtqw 'service=lab-rw connect_timeout=10' -c 'select count(*) from pgbench_history'";
        Ok(drill.lab.exec("client", sql)?.parse()?)
    };
    let before = count()?;
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(500));
        if count()? > before {
            return Ok(());
        }
    }
    let log = drill.lab.exec("client", "tail -n 20 /tmp/drill/pgbench")?;
    anyhow::bail!("expected pgbench to get on within 10 s:\n{log}")
}

/// The rules that say no: none of these may promote the standby, and in each the primary takes writes.
///
/// # Errors
/// The standby is promoted, or writes stop.
pub fn nobody_is_promoted_needlessly(suite: &Suite) -> Result<()> {
    let drill = Drill::begin(suite)?;
    let numbers = "url=http://$(sed -n 's/^metrics = \"\\(.*\\)\"/\\1/p' /etc/pgagent/pgagent.toml)
                   curl -s $url/metrics; curl -s -o /dev/null -w 'role %{http_code}' $url/role";
    for (host, wanted) in
        [("m", ["pgagent_gate_open 1\n", "role 200"]), ("s", ["pgagent_in_sync 1\n", "role 503"])]
    {
        let seen = drill.lab.exec(host, numbers)?;
        ensure!(wanted.iter().all(|text| seen.contains(text)), "expected {wanted:?} of {host}:\n{seen}");
    }
    // What an agent had asked for when it died is not done behind the back of the next one.
    drill.lab.exec(
        "m",
        "PGAPPNAME=pgagent setsid psql -U postgres -XAtqc 'select pg_sleep(600)' >/tmp/former 2>&1 &
         sleep 1; systemctl kill -s KILL pgagent
         for i in $(seq 100); do grep -q terminating /tmp/former && exit; sleep 0.2; done; cat /tmp/former; exit 1",
    )?;
    drill.healthy("m", 30)?;

    // The arbiter is cut off: nothing happens.
    drill.cable("arbiter", "down")?;
    drill.stays("s", &["standby"], PROMOTE + 3.0)?;
    drill.writes_go_on(2)?;
    ensure!(drill.phase("m")? == "sync", "expected m to be in sync without the arbiter");
    drill.ha(&["explain"]).ok()?.says("failover is off, because the arbiter is not heard")?;
    drill.cable("arbiter", "up")?;
    drill.healthy("m", 30)?;

    // The standby hears neither of the others: it waits, and the primary goes on alone.
    drill.part(&[("m", "s"), ("arbiter", "s")])?;
    drill.until("m", &["solo"], 30)?;
    drill.writes_go_on(5)?;
    drill.stays("m", &["solo"], 4.0)?;
    drill.stays("s", &["standby"], 2.0)?;
    drill.mend()?;
    // However long they were cut off, agents talk to each other soon after.
    drill.hears("s", 10)?;
    drill.healthy("m", 60)?;

    // The standby does not hear the primary, the arbiter does: it may not be promoted, now or later.
    drill.part(&[("m", "s")])?;
    drill.until("m", &["solo"], 30)?;
    drill.writes_go_on(5)?;
    drill.stays("s", &["standby", "voting"], 3.0)?;
    drill.part(&[("m", "arbiter")])?;
    drill.stays("s", &["standby", "voting"], PROMOTE + 2.0)?;
    let told = drill.lab.exec("s", "pgagent explain")?;
    ensure!(told.contains("lacks acknowledged commits"), "expected s to say why it waits: {told}");
    drill.mend()?;
    drill.healthy("m", 60)?;

    a_connection_that_is_closed_ends(&drill)?;
    drill.healthy("m", 60)?;
    drill.end(0).map(drop)
}

/// When the gate closes between another agent and the server, the server learns of it at once. Else what waits for the rest
/// of a greeting holds up a shutdown for `authentication_timeout`.
fn a_connection_that_is_closed_ends(drill: &Drill<'_>) -> Result<()> {
    drill.lab.exec(
        "arbiter",
        // Not to the server that is about to be stopped.
        "setsid bash -c 'for i in $(seq 100); do (exec 3<>/dev/tcp/s/5432) 2>/dev/null || break; sleep 0.1; done
         for i in $(seq 200); do
             { exec 3<>/dev/tcp/s/5432 && exec sleep 20; } 2>/dev/null; sleep 0.1
         done' >/dev/null 2>&1 </dev/null &",
    )?;
    let server =
        "use IO::Socket::INET; $SIG{PIPE} = 'IGNORE'; $SIG{ALRM} = sub { die \"nobody came\\n\" }; alarm 10;
        my $port = IO::Socket::INET->new(LocalPort => 5432, Listen => 9, ReuseAddr => 1) or die \"$@\\n\";
        system(\"nft add element inet pgagent peers '{ 5432 timeout 3s }'\") == 0 or die;
        my ($arbiter) = split ' ', `getent ahostsv4 arbiter`;
        my $peer; do { $peer = $port->accept } until $peer->peerhost eq $arbiter; alarm 0; sleep 4;
        for (1 .. 20) { syswrite($peer, 'x') or exit 0; select(undef, undef, undef, 0.1) }
        die \"the connection is still there\\n\"";
    let began = "systemctl stop pgagent postgresql@17-main";
    let said = drill.lab.exec("s", &format!("{began}; perl -e {}", quote(server)));
    drill.lab.exec("s", "systemctl start pgagent")?;
    said.map(drop)
}

/// A primary that hears nobody closes its port in time, also with an agent that stands still and can do nothing about it;
/// clients are told at once; and then the standby takes over.
///
/// # Errors
/// The port stays open for too long, or clients are left to wait.
pub fn a_lonely_primary_closes_its_port(suite: &Suite) -> Result<()> {
    alone(suite, "systemctl kill -s STOP pgagent")
}

/// The same with an agent that is well, and with one that is dead.
///
/// # Errors
/// The port stays open for too long, or clients are left to wait.
pub fn with_its_agent_well_or_dead(suite: &Suite) -> Result<()> {
    for before in ["true", "systemctl kill -s KILL pgagent"] {
        alone(suite, before).with_context(|| format!("with `{before}` just before"))?;
    }
    Ok(())
}

fn alone(suite: &Suite, before: &str) -> Result<()> {
    let drill = Drill::begin(suite)?;
    drill.lab.exec("m", before)?;
    drill.part(&[("m", "s"), ("m", "arbiter")])?;
    let cut = drill.now();
    drill.until("s", &["solo"], 60)?;
    drill.writes_go_on(10)?;
    let seen = drill.tries("m")?;
    let last = seen.iter().rev().find(|it| it.answer == "primary").context("expected m to have been open")?;
    let closed = last.end - cut;
    // A lease runs at most for the fence time; the kernel and an emulated machine need a little more.
    ensure!(closed < FENCE + 1.0, "expected m to be closed within {FENCE} s, it answered for {closed:.1} s");
    let after: Vec<_> = seen.iter().filter(|it| it.begin > last.end).collect();
    let first = after.first().context("expected the client to try again")?;
    let reset = ["reset by peer", "closed the connection", "Connection refused"];
    ensure!(
        reset.iter().any(|text| first.answer.contains(text)) && first.end - first.begin < 1.0,
        "expected the client to be told at once: {first:?}"
    );
    let refused = after.iter().any(|it| it.answer.contains("Connection refused"));
    ensure!(refused, "expected new connections to be refused: {after:?}");
    drill.end(1).map(drop)
}
