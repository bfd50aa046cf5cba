//! Checkpoints: all hosts of a lab at one moment, with their memory, to go back to.
//!
//! A host's disk is a chain of overlays. A checkpoint freezes the one on top and keeps the memory that goes with it; the
//! host goes on with a new layer above. To go back means a new layer over the frozen one, and the memory restored into
//! it: nothing is copied, and what the host wrote since is thrown away with its layer. Saving ends with the same going
//! back, so every checkpoint has been restored once before anyone relies on it.
//!
//! Hosts see each other at the same moment: all are paused before the first is saved, and all are restored before the
//! first resumes, so that no lease runs out and no session times out in between.
//!
//! What is under way is noted in the lab's state. A run that is killed is finished by the next `up`, `reset` or
//! `checkpoint save`: see [`settle`].

mod back;
mod settle;
mod verify;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use pgplan::{
    lab::{Host, Pins},
    machine::{self, BootImage, Volume, memory_name},
    observed::{DomainState, Infra, PoolSeen, VolumeSeen},
    render::RenderedHost,
    size::{Bytes, MIB},
};
use serde::{Deserialize, Serialize};

pub use self::settle::settle;
use self::{back::go_back, verify::PORT};
use crate::{
    clock, durable,
    every::every,
    execute::World,
    fault,
    libvirt::{Header, Libvirt},
    state::LabState,
};

/// The checkpoint that `up` makes.
pub const READY: &str = "ready";
/// Changes when an older pgprov could not use checkpoints any more.
const FORMAT: u32 = 1;
/// Beyond the memory that hosts have in use: room for them to go on.
const SPARE: u64 = 512 * MIB;
/// How long hosts are left alone before their memory is saved: what was just asked of them leaves something to do, such as a shell for
/// the next question, which they would do whenever they go on, with code that nobody has translated yet.
const STILL: Duration = Duration::from_millis(300);

/// A checkpoint, as its file in the lab's state says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    format: u32,
    /// Name.
    pub name: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// The hypervisor's software: memory is restored by the very same only.
    pub software: String,
    /// The topology of the lab then.
    pub topology: String,
    /// The places of its hosts in their subnets.
    pub pins: Pins,
    /// The pinned host keys.
    known_hosts: String,
    /// Its hosts.
    pub hosts: BTreeMap<String, SavedHost>,
    /// SHA-256 of what its hosts were to have, if all of them were known to have it then: see [`World::digest_of_hosts`].
    #[serde(default)]
    pub in_line: Option<String>,
    /// Whether nothing on its hosts breaks off because the clock jumps when they go on.
    #[serde(default)]
    calm: bool,
}

/// A host in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedHost {
    /// The image under its disk.
    pub image: String,
    /// The layer of its disk that is frozen.
    pub layer: u32,
    /// Its definition: see [`machine::Definition::spec`].
    pub spec: String,
}

/// What is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "operation")]
pub enum Pending {
    /// A checkpoint is being made of these layers.
    Save {
        /// Its name.
        name: String,
        /// The layer of each host's disk that is saved.
        layers: BTreeMap<String, u32>,
    },
    /// The lab goes back to a checkpoint.
    Reset {
        /// Its name.
        name: String,
    },
}

/// Whether a checkpoint can have that name.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    match name.len() {
        1..=32 if name.bytes().all(fits) && !name.starts_with('-') => Ok(()),
        _ => Err(format!(
            "`{name}` cannot be the name of a checkpoint: lower-case letters, digits and hyphens, at most 32"
        )),
    }
}

/// The checkpoints of a lab, in its state directory.
#[derive(Clone, Debug)]
pub struct Store<'a> {
    state: &'a LabState,
}

impl<'a> Store<'a> {
    /// Those of that lab.
    pub fn new(state: &'a LabState) -> Self {
        Self { state }
    }

    fn dir(&self) -> PathBuf {
        self.state.topology().with_file_name("checkpoints")
    }

    fn pending_file(&self) -> PathBuf {
        self.state.topology().with_file_name("pending.json")
    }

    /// All of them, oldest first. A file that cannot be read is not one.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn list(&self) -> anyhow::Result<Vec<Checkpoint>> {
        let dir = self.dir();
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("cannot list {}", dir.display()))?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                all.extend(fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()));
            }
        }
        all.retain(|checkpoint: &Checkpoint| checkpoint.format == FORMAT);
        all.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        Ok(all)
    }

    /// The checkpoint of that name.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub fn find(&self, name: &str) -> anyhow::Result<Option<Checkpoint>> {
        Ok(self.list()?.into_iter().find(|checkpoint| checkpoint.name == name))
    }

    fn write(&self, checkpoint: &Checkpoint) -> anyhow::Result<()> {
        let dir = self.dir();
        durable::private_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let file = dir.join(format!("{}.json", checkpoint.name));
        Ok(self.state.write(&file, &serde_json::to_vec_pretty(checkpoint)?)?)
    }

    /// Forgets a checkpoint; its volumes go with [`Store::sweep`].
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn forget(&self, name: &str) -> anyhow::Result<()> {
        let file = self.dir().join(format!("{name}.json"));
        match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", file.display()))
            }
            _ => Ok(()),
        }
    }

    /// What a run that was killed has left to do.
    ///
    /// # Errors
    /// The file is there but cannot be read.
    pub fn pending(&self) -> anyhow::Result<Option<Pending>> {
        let file = self.pending_file();
        match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .with_context(|| format!("{} is damaged", file.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    fn begin(&self, pending: &Pending) -> anyhow::Result<()> {
        Ok(self.state.write(&self.pending_file(), &serde_json::to_vec_pretty(pending)?)?)
    }

    fn end(&self) -> anyhow::Result<()> {
        let file = self.pending_file();
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
    }

    /// Removes layers and memory that nothing needs any more; without `disks`, also what hosts run on.
    ///
    /// # Errors
    /// What libvirt refuses.
    pub fn sweep(&self, libvirt: &Libvirt, disks: bool) -> anyhow::Result<()> {
        let unneeded = libvirt.inventory()?.unneeded(self.state.lab(), &self.layers()?, disks);
        Ok(libvirt.remove_named(self.state.lab(), unneeded)?)
    }

    fn layers(&self) -> anyhow::Result<BTreeSet<(String, u32, String)>> {
        let layers = |checkpoint: Checkpoint| {
            let name = checkpoint.name;
            checkpoint.hosts.into_iter().map(move |(host, saved)| (host, saved.layer, name.clone()))
        };
        Ok(self.list()?.into_iter().flat_map(layers).collect())
    }
}

impl Checkpoint {
    /// What it takes on the hypervisor: its memory, and the layers that it alone froze, in bytes.
    pub fn cost(&self, lab: &str, volumes: &[VolumeSeen]) -> (Bytes, Bytes) {
        let mut cost = (0, 0);
        for volume in volumes {
            match Volume::parse(&volume.name) {
                Volume::Memory { lab: owner, host, layer, checkpoint }
                    if owner == lab && checkpoint == self.name && self.has(&host, layer) =>
                {
                    cost.0 += volume.allocation.0;
                }
                Volume::Disk { lab: owner, host, layer } if owner == lab && self.has(&host, layer) => {
                    cost.1 += volume.allocation.0;
                }
                _ => {}
            }
        }
        (Bytes(cost.0), Bytes(cost.1))
    }

    fn has(&self, host: &str, layer: u32) -> bool {
        self.hosts.get(host).is_some_and(|saved| saved.layer == layer)
    }

    /// Why the lab cannot go back to it; nothing when it can. The lab of `world` has to be that of its own topology.
    pub fn obstacle(&self, world: &World, infra: &Infra) -> Option<String> {
        let software = infra.hypervisor.software();
        if self.software != software {
            return Some(format!("it was made with {}, the hypervisor has {software} now", self.software));
        }
        let saved: BTreeSet<&String> = self.hosts.keys().collect();
        let hosts = &world.fleet.lab.hosts;
        let wanted: BTreeSet<&String> = hosts.iter().map(|host| &host.name).collect();
        if saved != wanted {
            return Some("it has other hosts than its topology".to_owned());
        }
        let other = hosts.iter().find(|host| {
            let saved = &self.hosts[&host.name];
            definition(world, host, saved, saved.layer).spec != saved.spec
        })?;
        Some(format!("the machine of {} is defined otherwise now (another version of pgprov?)", other.name))
    }
}

fn definition(world: &World, host: &Host, saved: &SavedHost, layer: u32) -> machine::Definition {
    let image = BootImage::in_pool(
        &world.hypervisor.pool_path,
        &saved.image,
        &world.fleet.lab.image,
        &world.image.cmdline,
    );
    machine::domain(&world.fleet.lab, host, layer, &world.hypervisor, &image, &world.ssh_public_key)
}

/// Makes a checkpoint of a lab that runs, and lets the lab go on. One of that name is replaced when all is well. `in_line`:
/// all hosts were seen to have all that they should, and nothing else happened since.
///
/// # Errors
/// A host does not run, the pool has no room, libvirt refuses. The lab goes on, or is finished by [`settle`].
pub fn save(
    world: &World,
    infra: &Infra,
    state: &LabState,
    name: &str,
    text: &str,
    in_line: bool,
) -> anyhow::Result<()> {
    let line = world.fleet.ui.line("lab", world.fleet.width());
    let store = Store::new(state);
    let hosts: Vec<&Host> = world.fleet.lab.hosts.iter().collect();
    if let Some(record) = fault::Store::new(state).list()?.first() {
        bail!(
            "{}: a checkpoint is of a lab without faults; heal them: pgprov fault heal --all",
            record.fault
        );
    }
    for host in &hosts {
        let domain = infra.domains.get(&host.name);
        let domain = domain.filter(|it| matches!(it.state, DomainState::Running | DomainState::Paused));
        let domain = domain.with_context(|| {
            format!("host {} does not run: a checkpoint is of all hosts at one moment", host.name)
        })?;
        // Memory is restored on the machine as this program defines it.
        let runs = SavedHost { image: domain.image.clone(), layer: 0, spec: domain.spec.clone() };
        ensure!(
            definition(world, host, &runs, 0).spec == runs.spec,
            "the machine of {} is defined otherwise now (another version of pgprov?): `pgprov up` brings it in line",
            host.name
        );
    }
    check_room(world, infra, &hosts)?;
    let layer = |host: &&Host| Some((host.name.clone(), infra.disks.get(&host.name)?.layer));
    let layers: BTreeMap<String, u32> = hosts.iter().filter_map(layer).collect();
    ensure!(layers.len() == hosts.len(), "a host has no disk of its own in the storage pool");
    store.begin(&Pending::Save { name: name.to_owned(), layers: layers.clone() })?;
    line.now(&format!("saving {} hosts with their memory", hosts.len()));
    let calm = each(&hosts, |host| whisper(world, infra, host, |rendered| rendered.timeouts(false))).is_ok();
    // It only spares time later.
    let _ = each(&hosts, |host| whisper(world, infra, host, RenderedHost::rest));
    thread::sleep(STILL);
    write_memory(world, &hosts, name, &layers)?;
    let in_line = in_line.then(|| world.digest_of_hosts()).transpose()?;
    finish_save(world, state, name, text, &layers, in_line, calm)?;
    let checkpoint = store.find(name)?.context("the checkpoint was not written")?;
    let infra = world.libvirt.observe(&world.fleet.lab.name)?;
    go_back(world, &infra, state, &checkpoint, &saved_memory(world, &checkpoint)?, &line)?;
    line.done(&format!("checkpoint {name} is made"));
    Ok(())
}

/// Tells a host something before its memory is saved, if there is something to tell it.
fn whisper(
    world: &World,
    infra: &Infra,
    host: &Host,
    what: impl Fn(&RenderedHost) -> String,
) -> anyhow::Result<()> {
    let script = what(world.fleet.rendered(&host.name).context("it has no roles")?);
    if script.is_empty() {
        return Ok(());
    }
    let state = infra.domains.get(&host.name).map(|domain| domain.state);
    ensure!(state == Some(DomainState::Running), "it stands still");
    let domain = world.listening(&host.name).context("nobody listens there")?;
    Ok(world.libvirt.run_script(domain, script, PORT).map(drop)?)
}

/// All hosts are paused before the first is saved; those that were saved already, by a run that was killed, are off.
fn write_memory(
    world: &World,
    hosts: &[&Host],
    name: &str,
    layers: &BTreeMap<String, u32>,
) -> anyhow::Result<()> {
    let (World { libvirt, hypervisor, .. }, lab) = (world, &world.fleet.lab);
    hosts.iter().try_for_each(|host| libvirt.pause_host(&lab.name, &host.name))?;
    let save = |host: &Host| -> anyhow::Result<()> {
        let alive = libvirt.host_state(&lab.name, &host.name)? == Some(DomainState::Paused);
        let memory = memory_name(&lab.name, &host.name, layers[&host.name], name);
        if alive {
            libvirt.save_to(&host.domain, &format!("{}/{memory}", hypervisor.pool_path))?;
        }
        libvirt.saved_header(&memory).map(drop).context("its memory was not saved completely")
    };
    each(hosts, save).map(drop)
}

fn finish_save(
    world: &World,
    state: &LabState,
    name: &str,
    text: &str,
    layers: &BTreeMap<String, u32>,
    in_line: Option<String>,
    calm: bool,
) -> anyhow::Result<()> {
    let infra = world.libvirt.observe(&world.fleet.lab.name)?;
    let saved = |host: &Host| -> anyhow::Result<(String, SavedHost)> {
        let domain = infra.domains.get(&host.name).context("a host vanished while it was saved")?;
        let (image, spec) = (domain.image.clone(), domain.spec.clone());
        Ok((host.name.clone(), SavedHost { image, layer: layers[&host.name], spec }))
    };
    Store::new(state).write(&Checkpoint {
        format: FORMAT,
        name: name.to_owned(),
        created: clock::since_1970().as_secs(),
        software: infra.hypervisor.software(),
        topology: text.to_owned(),
        pins: world.fleet.lab.pins(),
        known_hosts: fs::read_to_string(state.known_hosts()).unwrap_or_default(),
        hosts: world.fleet.lab.hosts.iter().map(saved).collect::<anyhow::Result<_>>()?,
        in_line,
        calm,
    })
}

/// The memory that hosts have touched is what saving it takes, at most.
fn check_room(world: &World, infra: &Infra, hosts: &[&Host]) -> anyhow::Result<()> {
    let mut needed = SPARE;
    for host in hosts {
        needed += world.libvirt.resident(&host.domain)?.0.min(world.fleet.lab.vm.memory.0);
    }
    match &infra.pool {
        PoolSeen::Ours { free, .. } if free.0 >= needed => Ok(()),
        PoolSeen::Ours { free, .. } => bail!(
            "the storage pool has {} MiB left, a checkpoint takes up to {} MiB: remove checkpoints, labs or images",
            free.0 / MIB,
            needed / MIB
        ),
        PoolSeen::Missing | PoolSeen::Foreign(_) => bail!("there is no storage pool"),
    }
}

/// Takes the lab back to a checkpoint, whatever has become of its hosts, and waits until all is as it was.
///
/// # Errors
/// It does not fit any more (the lab is then untouched), libvirt refuses, or a host does not come back.
pub fn reset(world: &World, infra: &Infra, state: &LabState, checkpoint: &Checkpoint) -> anyhow::Result<()> {
    if let Some(obstacle) = checkpoint.obstacle(world, infra) {
        bail!("cannot go back to checkpoint {}: {obstacle}", checkpoint.name);
    }
    let lab = &world.fleet.lab.name;
    let memory = saved_memory(world, checkpoint)
        .with_context(|| format!("cannot go back to checkpoint {}", checkpoint.name))?;
    Store::new(state).begin(&Pending::Reset { name: checkpoint.name.clone() })?;
    let line = world.fleet.ui.line("lab", world.fleet.width());
    line.now(&format!("going back to checkpoint {}", checkpoint.name));
    for host in infra.domains.keys().filter(|host| world.fleet.lab.host(host).is_none()) {
        world.libvirt.remove_host(lab, host)?;
    }
    go_back(world, infra, state, checkpoint, &memory, &line)?;
    line.done(&format!("the lab is as it was at checkpoint {}", checkpoint.name));
    Ok(())
}

/// What the memory of each host begins with.
///
/// # Errors
/// That of a host is gone, or not complete.
fn saved_memory(world: &World, checkpoint: &Checkpoint) -> anyhow::Result<BTreeMap<String, Header>> {
    let hosts: Vec<&Host> = world.fleet.lab.hosts.iter().collect();
    each(&hosts, |host| Ok(world.libvirt.saved_header(&memory_of(world, host, checkpoint)?)?))
}

fn memory_of(world: &World, host: &Host, checkpoint: &Checkpoint) -> anyhow::Result<String> {
    let saved = checkpoint.hosts.get(&host.name).context("it is not in the checkpoint")?;
    Ok(memory_name(&world.fleet.lab.name, &host.name, saved.layer, &checkpoint.name))
}

/// Does the same with every host at once, and returns what came of it by host; or tells which ones failed; what kind of failure it
/// is, the first one says.
fn each<T: Send>(
    hosts: &[&Host],
    work: impl Fn(&Host) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<BTreeMap<String, T>> {
    let (mut done, mut failed) = (BTreeMap::new(), Vec::new());
    for (host, result) in hosts.iter().zip(every(hosts, |host| work(host))) {
        match result {
            Ok(result) => drop(done.insert(host.name.clone(), result)),
            Err(error) => failed.push((host.name.clone(), error)),
        }
    }
    if failed.is_empty() {
        return Ok(done);
    }
    let (name, first) = failed.remove(0);
    let others: String = failed.iter().map(|(name, error)| format!("{name}: {error:#}\n")).collect();
    Err(first.context(format!("{others}{name}")))
}
