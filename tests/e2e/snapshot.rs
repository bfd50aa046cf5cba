//! Hosts are copies of one machine that was booted once, and nothing depends on that.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt as _, path::Path};

use anyhow::{Context as _, Result, ensure};

use crate::suite::{Lab, MAIN, PAIR, Spec, Suite, UP_LIMIT};

/// Hosts woke up instead of booting, and each knows that it is not the machine that was saved.
pub fn hosts_woke_up(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    ensure!(lab.made.stderr.contains("m waking up"), "expected hosts to be copied:\n{}", lab.made);
    for (host, text) in lab.exec_everywhere("dmesg | grep -c 'crng reseeded due to virtual machine fork'")? {
        ensure!(text != "0", "expected the kernel of {host} to have drawn new random numbers, got {text:?}");
    }
    Ok(())
}

/// A lab that is booted is the same lab.
pub fn booted_lab_is_the_same(suite: &Suite) -> Result<()> {
    is_the_same_booted(suite, &PAIR)
}

/// The same with agents, pgload and backups.
pub fn booted_main_lab_is_the_same(suite: &Suite) -> Result<()> {
    is_the_same_booted(suite, &MAIN)
}

fn is_the_same_booted(suite: &Suite, spec: &Spec) -> Result<()> {
    suite.pgprov(["destroy", "--yes", spec.name]).limit(120).ok()?;
    suite.forget(spec);
    let file = suite.topology(spec)?;
    let boot = suite.pgprov(["up", "--boot"]).args([&file]).limit(UP_LIMIT).ok();
    let lab = suite.made(spec, boot)?;
    ensure!(lab.made.stderr.contains("m booting"), "expected hosts to boot:\n{}", lab.made);
    lab.streams("m", "s", "booted")?;
    lab.is_as_its_topology_says()?;
    let view = "nproc; cat /etc/machine-id; lspci 2>/dev/null; ls /sys/bus/pci/devices; ip -br address | awk '{print $1, $2, $3}'; \
                systemctl is-system-running; systemctl list-units --type=service --state=running --no-legend --plain | cut -d' ' -f1 | \
                grep -v systemd-networkd";
    let booted = lab.exec_everywhere(view)?;
    suite.pgprov(["destroy", "--yes", spec.name]).limit(120).ok()?;
    let copied = suite.pgprov(["up"]).args([&file]).limit(UP_LIMIT).ok();
    let lab = suite.made(spec, copied)?;
    ensure!(lab.made.stderr.contains("m waking up"), "expected hosts to be copied:\n{}", lab.made);
    let copied = lab.exec_everywhere(view)?;
    ensure!(booted == copied, "expected the same, booted:\n{booted:#?}\ncopied:\n{copied:#?}");
    asks_for_its_addresses(suite, &lab)
}

/// Copies are told their addresses. Whoever starts networkd there, or boots them, has the same ones from the DHCP server, which takes no
/// two of them for the same client.
fn asks_for_its_addresses(suite: &Suite, lab: &Lab) -> Result<()> {
    let addresses = "ip -br -4 address | awk '{print $1, $3}'";
    let told = lab.exec_everywhere(addresses)?;
    let bound = "systemctl start systemd-networkd; for try in $(seq 100); do \
                 [ $(ls /run/systemd/netif/leases | wc -l) = 2 ] && exit; sleep 0.2; done; networkctl status -a; exit 1";
    lab.exec_everywhere(bound)?;
    let asked = lab.exec_everywhere(addresses)?;
    ensure!(told == asked, "expected the same addresses, told:\n{told:#?}\nasked for:\n{asked:#?}");
    for network in ["data", "mgmt"] {
        let leases = suite.virsh(["net-dhcp-leases", &format!("pgprov-{}-{network}", lab.name)]).ok()?.stdout;
        let clients: BTreeSet<&str> = leases
            .lines()
            .filter(|line| line.contains("52:54:00:"))
            .filter_map(|line| line.split_whitespace().last())
            .collect();
        ensure!(clients.len() == told.len(), "expected {} different DHCP clients in\n{leases}", told.len());
    }
    Ok(())
}

/// A copy that is rebooted boots as itself.
pub fn copy_survives_a_reboot(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&PAIR)?;
    let view = "hostname; cat /etc/machine-id; cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub; cat /sys/class/net/eth*/address";
    let before = lab.exec("s", view)?;
    suite.virsh(["reset", &lab.domain("s")]).ok()?;
    lab.up(&lab.file)?.exits(0)?;
    let after = lab.exec("s", view)?;
    ensure!(before == after, "expected the same host after a reboot: {before:?} became {after:?}");
    lab.streams("m", "s", "after the reboot")
}

/// With a damaged snapshot hosts boot, one line says why, and the next lab has a snapshot again.
pub fn damaged_snapshot_is_not_used(suite: &Suite) -> Result<()> {
    suite.pgprov(["destroy", "pair", "--yes"]).limit(120).ok()?;
    suite.forget(&PAIR);
    let file = suite.topology(&PAIR)?;
    for damage in [cut_off as fn(&[u8]) -> Vec<u8>, other_version] {
        let memory = memory_file(suite)?;
        fs::write(&memory, damage(&fs::read(&memory)?))?;
        let up = suite.pgprov(["up", "--no-checkpoint"]).args([&file]).limit(UP_LIMIT).ok()?;
        let up = up.says("hosts boot, because they cannot be copied")?;
        let said = up.stderr.matches("cannot be copied").count();
        ensure!(said == 1, "expected it to be said once, not {said} times:\n{up}");
        suite.pgprov(["plan"]).args([&file]).ok()?.says("nothing to do")?;
        nobody_touches_its_disk(suite, &file, &memory)?;
        suite.pgprov(["destroy", "pair", "--yes"]).limit(120).ok()?;
        let up = suite.pgprov(["up", "--no-checkpoint"]).args([&file]).limit(UP_LIMIT).ok()?;
        ensure!(up.stderr.contains("m waking up"), "expected copies again:\n{up}");
        suite.pgprov(["destroy", "pair", "--yes"]).limit(120).ok()?;
    }
    Ok(())
}

/// Hosts stand on the disk of the machine whose memory was damaged: it is not made anew under them.
fn nobody_touches_its_disk(suite: &Suite, file: &Path, memory: &Path) -> Result<()> {
    let disk = memory.with_extension("qcow2");
    let is = || fs::metadata(&disk).map(|data| (data.ino(), data.len(), data.modified().ok()));
    let before = is()?;
    let text = fs::read_to_string(file)?;
    let more = suite.file("one-more.yaml", &format!("{text}  visitor: {{ roles: [client] }}\n"))?;
    let up = suite.pgprov(["up", "--no-checkpoint"]).args([&more]).limit(UP_LIMIT).ok()?;
    up.says("hosts boot, because they cannot be copied: the machine to copy has lost its memory")?;
    ensure!(is()? == before, "expected {} to be left alone", disk.display());
    Ok(())
}

fn cut_off(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len() / 2].to_vec()
}

/// The byte after the magic is the version of the format.
fn other_version(bytes: &[u8]) -> Vec<u8> {
    let mut other = bytes.to_vec();
    other[16] = 9;
    other
}

fn memory_file(suite: &Suite) -> Result<std::path::PathBuf> {
    let files = fs::read_dir(suite.pool())?.filter_map(|file| Some(file.ok()?.path()));
    // Snapshots of other images may be there, too: the newest is the one that was used last.
    let memories = files.filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.contains('@') && name.ends_with(".memory")
    });
    memories
        .max_by_key(|path| path.metadata().and_then(|data| data.modified()).ok())
        .context("expected a boot snapshot in the pool")
}
