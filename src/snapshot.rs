//! Boot snapshots on a hypervisor: makes one, and makes hosts of it.
//!
//! Booting is the slowest thing that happens to a host, and every host of an image boots in the same way. So one machine
//! is booted, without a name and without cables, until it is idle, and saved with its memory. A host is that memory over
//! a disk of its own, in a domain of its own. It wakes up waiting to be told who it is (see
//! `crates/pghost/src/identity.rs`), learns it before its cables are plugged in, and has in common with the others
//! what any two machines have that boot the same kernel.
//!
//! A snapshot is an accelerator and nothing depends on it: whatever goes wrong, the host is booted.

use std::{
    path::Path,
    sync::Mutex,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use pghost::wire;
use pgplan::{
    lab::{Host, Lab},
    machine::{BootImage, SnapshotPart, Template, overlay_volume},
    size::Bytes,
};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::{
    durable,
    libvirt::{self, Libvirt},
    ssh::{self, Target},
    state,
};

/// A machine that has booted uses less of a processor than this.
const IDLE: f64 = 0.05;
/// How long it is watched at a time.
const WATCH: Duration = Duration::from_millis(250);
/// How long a machine that is idle, or was woken, may take to ask who it is, and then to learn it.
const TALK: Duration = Duration::from_secs(60);
/// How often one that is restored is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// How long another pgprov may take that copies a host of the same snapshot.
const TURN: Duration = Duration::from_secs(120);

/// Boots the template and saves it, unless another pgprov did so meanwhile: they take turns, by a lock in `lock_dir`.
///
/// # Errors
/// It does not come up within `limit`, or libvirt refuses; what was made is then removed.
pub fn make(
    libvirt: &Libvirt,
    template: &Template,
    image: &BootImage,
    disk: Bytes,
    pool_path: &str,
    limit: Duration,
    lock_dir: &Path,
) -> anyhow::Result<()> {
    let snapshot = &template.snapshot;
    let lock = durable::open_lock(&lock_dir.join(".template.lock"))?;
    ensure!(
        durable::lock_until(&lock, Instant::now() + limit)?,
        "another pgprov has been booting a machine to copy for {} s",
        limit.as_secs()
    );
    let complete = snapshot.volume(SnapshotPart::Complete);
    if libvirt.inventory()?.volumes.iter().any(|volume| volume.name == complete) {
        return Ok(());
    }
    // Its memory was damaged, and went: another one made in its place would be another disk under those hosts.
    ensure!(
        !libvirt.is_based_on(snapshot)?,
        "the machine to copy has lost its memory, and cannot be made anew while there are hosts that were made of it"
    );
    let make = || -> anyhow::Result<()> {
        libvirt.remove_other_snapshots(snapshot)?;
        let overlay = overlay_volume(&snapshot.volume(SnapshotPart::Disk), disk, &image.disk, image.format);
        libvirt.start_template(template, &overlay)?;
        let deadline = Instant::now() + limit;
        // One whose services failed is idle as well, and never asks who it is.
        wait_until_idle(libvirt, &template.domain, deadline)?;
        libvirt.talk(&template.domain, None, TALK.min(limit))?;
        wait_until_idle(libvirt, &template.domain, deadline)?;
        let memory = snapshot.volume(SnapshotPart::Memory);
        libvirt.save_to(&template.domain, &format!("{pool_path}/{memory}"))?;
        libvirt.saved_header(&memory)?;
        Ok(libvirt.create_marker(&complete)?)
    };
    let made = make();
    if made.is_err() {
        // What keeps it from being removed matters less than why it was not made.
        let _ = libvirt.remove_template(template);
        let _ = libvirt.remove_snapshot(snapshot);
    }
    made
}

fn wait_until_idle(libvirt: &Libvirt, domain: &str, deadline: Instant) -> anyhow::Result<()> {
    let mut before = libvirt.cpu_time(domain)?;
    let mut quiet = 0;
    while quiet < 2 {
        ensure!(
            Instant::now() < deadline,
            "the template is still busy, {:.0} s of processor time",
            before.as_secs_f64()
        );
        thread::sleep(WATCH);
        let now = libvirt.cpu_time(domain)?;
        let share = now.saturating_sub(before).as_secs_f64() / WATCH.as_secs_f64();
        quiet = if share < IDLE { quiet + 1 } else { 0 };
        before = now;
    }
    Ok(())
}

/// What copies are made with.
pub struct Copier<'a> {
    /// The hypervisor.
    pub libvirt: &'a Libvirt,
    /// The lab of the hosts.
    pub lab: &'a Lab,
    /// What they are copied from.
    pub template: &'a Template,
    /// The lab's login key.
    pub ssh_public_key: &'a str,
    /// Folder of the storage pool, on the hypervisor.
    pub pool_path: &'a str,
    /// Held while the domain of a host is in the memory file, which all copies share.
    pub turn: &'a Mutex<()>,
    /// Folder with the same for other processes.
    pub lock_dir: &'a Path,
}

impl Copier<'_> {
    /// Makes a host, defined but not running, of the boot snapshot, and pins its key.
    ///
    /// # Errors
    /// Anything at all: the host is then to be booted. It does not run, or does not answer and has to be switched off.
    pub fn copy(&self, host: &Host, target: &Target) -> anyhow::Result<()> {
        let xml = self.libvirt.host_xml(&self.lab.name, &host.name)?;
        let identity = Identity::new(self.lab, host, self.ssh_public_key)?;
        self.wake(host, &xml)?;
        self.libvirt.talk(&host.domain, Some(identity.message(SystemTime::now())?), TALK)?;
        ssh::pin(&target.known_hosts, &host.name, &identity.host_key)?;
        Ok(self.libvirt.plug_in(&self.lab.name, &host.name)?)
    }

    /// Restores the saved memory as that host, its cables pulled.
    fn wake(&self, host: &Host, xml: &str) -> anyhow::Result<()> {
        let memory = self.template.snapshot.volume(SnapshotPart::Memory);
        let mine = self.turn.lock().map_err(|_| anyhow::anyhow!("another host's thread panicked"))?;
        let lock = durable::open_lock(&self.lock_dir.join(".snapshot.lock"))?;
        ensure!(
            durable::lock_until(&lock, Instant::now() + TURN)?,
            "another pgprov has been copying hosts for {} s",
            TURN.as_secs()
        );
        let header = self.libvirt.saved_header(&memory)?;
        if libvirt::hardware(&header.xml) != libvirt::hardware(xml) {
            bail!("the saved machine has other hardware");
        }
        self.libvirt.write_saved_header(&memory, &header, &libvirt::unplugged(xml))?;
        let what = format!("host {} from the boot snapshot", host.name);
        let path = format!("{}/{memory}", self.pool_path);
        thread::scope(|scope| {
            let restored = scope.spawn(|| self.libvirt.restore_from(&what, &path, false));
            // libvirt has read the domain when it is active, and its memory is that of every other: the next may come. While that cannot
            // be asked it may not.
            while !restored.is_finished() && !self.libvirt.is_active(&host.domain).unwrap_or(false) {
                thread::sleep(LOOK);
            }
            drop((mine, lock));
            restored.join().map_err(|_| anyhow::anyhow!("restoring panicked"))?.map_err(Into::into)
        })
    }
}

/// What one copy has that no other has.
struct Identity {
    lines: String,
    /// Its public SSH key, in wire format.
    host_key: Vec<u8>,
}

impl Identity {
    /// The identity of a host: by its name where a booted host would have the same, else random.
    fn new(lab: &Lab, host: &Host, ssh_public_key: &str) -> anyhow::Result<Self> {
        let key = state::new_key("").map_err(anyhow::Error::msg)?;
        let private = key.to_openssh(ssh_key::LineEnding::LF)?;
        let public = key.public_key().to_openssh()?;
        let mut lines = format!("hostname {}\n", host.name);
        // As systemd does it in a virtual machine that boots.
        lines += &format!("machine-id {}\n", host.uuid.replace('-', ""));
        lines += &format!("boot-id {}\n", random_uuid()?);
        // What its firmware would say.
        lines += &format!("uuid {}\n", host.uuid);
        lines += &format!("entropy {}\n", STANDARD.encode(random::<64>()?));
        for (name, nic, network) in [("eth0", &host.mgmt, &lab.mgmt), ("eth1", &host.data, &lab.data)] {
            lines += &format!("interface {name} {} {}/{}\n", nic.mac, nic.address, network.subnet.prefix());
        }
        lines += &format!("authorized-key {}\n", ssh_public_key.trim());
        lines += &format!("host-key {}\n", public.trim());
        lines += &format!("host-private-key {}\n", STANDARD.encode(private.as_bytes()));
        Ok(Self { lines, host_key: key.public_key().to_bytes()? })
    }

    /// What the guest is told; the clock as late as possible.
    fn message(&self, now: SystemTime) -> anyhow::Result<String> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).context("the clock is before 1970")?;
        Ok(format!("{}clock {}\nend\n", self.lines, wire::seconds(now)))
    }
}

fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
    Ok(bytes)
}

/// A random UUID, version 4.
fn random_uuid() -> anyhow::Result<String> {
    let mut bytes = random::<16>()?;
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgplan::{
        lab::{self, Nic, Pins},
        schema,
        topology::Topology,
        yaml::Limits,
    };

    fn lab() -> Lab {
        let text =
            "lab: x\nnetwork: 10.0.0.0/20\nmanagement_network: 10.1.0.0/24\nhosts: { m: { roles: [base] } }";
        let (topology, _) = schema::load::<Topology>(text, Limits::default()).finish();
        lab::derive(&topology.unwrap(), &Pins::new())
    }

    fn host() -> Host {
        let nic = |mac: &str| Nic { mac: mac.to_owned(), address: [10, 0, 0, 2].into() };
        Host {
            name: "m".into(),
            domain: "lab-m".into(),
            uuid: "aaaaaaaa-bbbb-8ccc-8ddd-eeeeeeeeeeee".into(),
            roles: Vec::new(),
            follows: None,
            followers: Vec::new(),
            depth: 0,
            data: nic("52:54:00:aa:aa:aa"),
            mgmt: nic("52:54:00:bb:bb:bb"),
            settings: Vec::new(),
            description: None,
            machine: None,
        }
    }

    #[test]
    fn a_guest_is_told_everything_line_by_line() {
        let identity = Identity::new(&lab(), &host(), "ssh-ed25519 AAAA lab\n").unwrap();
        let message = identity.message(SystemTime::UNIX_EPOCH + Duration::from_millis(1500)).unwrap();
        let word = |line: &str| line.split(' ').next().unwrap().to_owned();
        let words: Vec<String> = message.lines().map(word).collect();
        let expected = "hostname machine-id boot-id uuid entropy interface interface authorized-key host-key host-private-key clock end";
        assert_eq!(words.join(" "), expected);
        for line in [
            "hostname m",
            "machine-id aaaaaaaabbbb8ccc8dddeeeeeeeeeeee",
            "interface eth0 52:54:00:bb:bb:bb 10.0.0.2/24",
            "interface eth1 52:54:00:aa:aa:aa 10.0.0.2/20",
            "authorized-key ssh-ed25519 AAAA lab",
            "clock 1.500000000",
        ] {
            assert!(message.lines().any(|l| l == line), "{line} in {message}");
        }
    }

    #[test]
    fn no_two_copies_are_told_the_same_secrets() {
        let message =
            || Identity::new(&lab(), &host(), "k").unwrap().message(SystemTime::UNIX_EPOCH).unwrap();
        let (one, other) = (message(), message());
        for word in ["boot-id", "entropy", "host-key", "host-private-key"] {
            let line = |text: &str| text.lines().find(|line| line.starts_with(word)).unwrap().to_owned();
            assert_ne!(line(&one), line(&other));
        }
    }
}
