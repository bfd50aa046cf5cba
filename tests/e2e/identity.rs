//! Hosts are identical machines with identities of their own.

use std::{
    collections::BTreeSet,
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    command::Program,
    suite::{Lab, MAIN, Suite},
};

const HOSTS: [&str; 4] = ["m", "s", "arbiter", "client"];
/// Elements of a domain's definition that tell one host from another, by how their lines begin.
const OWN: [&str; 6] = ["<name>", "<uuid>", "<genid>", "<mac ", "<source file=", "<log file="];

/// Machine id, host key, UUID, MAC and addresses are different on every host.
pub fn identities_differ(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let inside = lab.exec_everywhere(
        "cat /etc/machine-id /proc/sys/kernel/random/boot_id; cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub; hostname; \
         cat /sys/class/net/eth*/address; cat /proc/sys/kernel/random/uuid",
    )?;
    all_different(inside.values().flat_map(|text| text.lines()), HOSTS.len() * 7)?;
    let definitions = HOSTS.map(|host| suite.virsh(["dumpxml", &lab.domain(host)]).ok());
    let mut own = Vec::new();
    for definition in definitions {
        let definition = definition?.stdout;
        let lines = definition.lines().map(str::trim);
        own.extend(
            lines.filter(|line| line.starts_with("<uuid>") || line.starts_with("<genid>")).map(str::to_owned),
        );
    }
    all_different(own.iter().map(String::as_str), HOSTS.len() * 2)?;
    // What the guests see of it, as they woke up in the memory of another machine.
    let mut all = BTreeSet::new();
    let seen = "cat /sys/class/dmi/id/product_uuid; perl -ne 'BEGIN { $/ = undef } print unpack \"H*\", $_' /sys/firmware/dmi/tables/DMI";
    for (name, text) in lab.exec_everywhere(seen)? {
        let (uuid, table) = text.split_once('\n').unwrap_or_default();
        let is_own = own.iter().any(|line| *line == format!("<uuid>{uuid}</uuid>"));
        ensure!(is_own, "expected {name} to have the UUID of one of {own:#?}, it says {uuid}");
        let end = uuid.rsplit('-').next().unwrap_or_default();
        ensure!(table.contains(end), "expected {uuid} in the firmware's table of {name}");
        all.insert(uuid.to_owned());
    }
    ensure!(all.len() == HOSTS.len(), "expected a UUID for each host, got {all:?}");
    for (name, text) in &inside {
        ensure!(text.lines().any(|line| line == name), "expected the host name of {name} in\n{text}");
    }
    let keys = fs::read_to_string(lab.state_file("known_hosts"))?;
    for (name, text) in &inside {
        let key = text.lines().nth(2).unwrap_or_default();
        ensure!(
            keys.lines().any(|line| line == format!("{name} ssh-ed25519 {key}")),
            "expected the key of {name} in\n{keys}"
        );
    }
    Ok(())
}

fn all_different<'a>(values: impl Iterator<Item = &'a str>, count: usize) -> Result<()> {
    let values: Vec<&str> = values.collect();
    let different: BTreeSet<&&str> = values.iter().collect();
    ensure!(
        values.len() == count && different.len() == count,
        "expected {count} different values, got {values:#?}"
    );
    Ok(())
}

/// All VMs have the same hardware: their definitions differ in identity only.
pub fn hardware_is_the_same(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let mut definitions = Vec::new();
    for host in HOSTS {
        let definition = suite.virsh(["dumpxml", "--inactive", &lab.domain(host)]).ok()?.stdout;
        let is_own = |line: &&str| {
            let line = line.trim_start();
            OWN.iter().any(|start| line.starts_with(start))
                || line.contains("system.hostname")
                || line.contains("pgprov:lab")
        };
        let own: Vec<&str> = definition.lines().filter(is_own).collect();
        let rest: Vec<String> = definition.lines().filter(|line| !is_own(line)).map(str::to_owned).collect();
        ensure!(own.iter().any(|line| line.contains("pgprov:lab")), "expected our mark in\n{definition}");
        definitions.push((host, rest));
    }
    let (_, first) = definitions.first().context("no host")?;
    for (host, definition) in &definitions {
        ensure!(
            definition == first,
            "expected {host} to have the hardware of {}, got\n{definition:#?}",
            HOSTS[0]
        );
    }
    let cpus =
        lab.exec_everywhere("nproc; grep MemTotal /proc/meminfo; lsblk -bdno SIZE /dev/vda; uname -r")?;
    let different: BTreeSet<&String> = cpus.values().collect();
    ensure!(different.len() == 1, "expected the same processors, memory, disk and kernel on all: {cpus:#?}");
    Ok(())
}

/// Every host started completely: no unit failed.
pub fn hosts_are_healthy(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let states =
        lab.exec_everywhere("systemctl is-system-running --wait; systemctl --failed --no-legend --plain")?;
    for (host, state) in states {
        ensure!(state == "running", "expected {host} to be running without failed units, got {state:?}");
    }
    // Else each `systemctl restart` begins with a warning.
    for (host, state) in lab.exec_everywhere("systemctl show -P NeedDaemonReload cron.service")? {
        ensure!(state == "no", "expected systemd of {host} to have read all of its files, got {state:?}");
    }
    Ok(())
}

/// Clocks of hosts agree with ours within two seconds.
pub fn clocks_are_right(suite: &Suite) -> Result<()> {
    check_clocks(&suite.lab(&MAIN)?)
}

/// Compares the clock of every host with ours.
///
/// # Errors
/// One differs by more than two seconds.
pub fn check_clocks(lab: &Lab) -> Result<()> {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs_f64());
    for host in HOSTS {
        let before = now()?;
        let there: f64 = lab.exec(host, "date +%s.%N")?.parse()?;
        let after = now()?;
        ensure!(
            before - 2.0 < there && there < after + 2.0,
            "expected the clock of {host} between {before:.1} and {after:.1}, it says {there:.1}"
        );
    }
    Ok(())
}

/// A machine with another host key at the address of a host is not talked to.
pub fn swapped_host_is_noticed(suite: &Suite) -> Result<()> {
    const HOST: &str = "arbiter";
    let lab = suite.lab(&MAIN)?;
    let status = lab.status()?;
    let address = crate::suite::host(&status, HOST)?["mgmt_address"].as_str().unwrap_or_default().to_owned();
    lab.exec(
        HOST,
        "mkdir /root/keys && mv /etc/ssh/ssh_host_* /root/keys/ && ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key \
         && systemctl restart ssh",
    )?;
    let noticed = refuses(&lab, HOST);
    // Whatever was seen: the host gets its key back, past the check.
    let key = lab.state_file("id_ed25519");
    let back =
        "rm /etc/ssh/ssh_host_* && mv /root/keys/* /etc/ssh/ && rmdir /root/keys && systemctl restart ssh";
    Program::new("ssh")
        .args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-i"])
        .args([&key])
        .args([&format!("root@{address}"), back])
        .ok()?;
    noticed?;
    lab.exec(HOST, "true").map(drop)
}

fn refuses(lab: &Lab, host: &str) -> Result<()> {
    let exec = lab.pgprov("exec", ["--host", host, "--", "echo reached"]).run()?.exits(1)?;
    ensure!(!exec.stdout.contains("reached\n"), "expected no command to run:\n{exec}");
    exec.says("the key of host arbiter is not the pinned one")?.says("known_hosts")?;
    let ssh = lab.pgprov("ssh", [host, "echo", "reached"]).run()?;
    ensure!(ssh.code != Some(0) && !ssh.stdout.contains("reached"), "expected a refusal of\n{ssh}");
    ssh.says("REMOTE HOST IDENTIFICATION HAS CHANGED")?;
    let status = lab.status()?;
    let state = &crate::suite::host(&status, host)?["state"];
    ensure!(state == "unreachable", "expected {host} to be unreachable in {status:#}");
    let plan = lab.suite.pgprov(["up"]).args([&lab.file]).limit(120).run()?;
    ensure!(plan.code != Some(0), "expected up to refuse as well:\n{plan}");
    plan.says("is not the pinned one").map(drop)
}
