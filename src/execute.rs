//! Does what a plan says, and decides nothing.
//!
//! Steps on the hypervisor are quick and run one after the other. Then every host goes its own way, at the same time:
//! boot, connect, ask for facts, wait for the hosts it depends on, apply, ask again. A host that fails does not stop the
//! others, except those that wait for it.

mod inside;
mod looks;
mod off;
mod order;
mod pipeline;
mod turns;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use pgplan::{
    digest,
    lab::{Host, Lab, disk_name},
    machine::{self, BootImage, Hypervisor, ImagePart, SnapshotPart, Template},
    plan::{Plan, Restart, Step, Wanted},
    render::RenderedHost,
    size::Bytes,
    topology::DiskFormat,
};
use tokio::sync::{Semaphore, watch};

pub use self::{inside::set_clock, looks::Look, off::shut_down, turns::turns};
use self::{
    looks::Looks,
    order::{boot_order, order},
    pipeline::{Pipeline, Progress, Skipped},
};
use crate::{
    every::every,
    libvirt::Libvirt,
    observe::{self, Answer},
    snapshot::{self, Copier},
    ssh::{self, Target},
    ui::Ui,
};

/// The hosts of a lab, what each should have, and how to reach them.
pub struct Fleet {
    /// The terminal.
    pub ui: Ui,
    /// The lab.
    pub lab: Lab,
    /// Each host with its files and tasks.
    pub hosts: Vec<RenderedHost>,
    /// How to reach each host.
    pub targets: BTreeMap<String, Target>,
    /// How long a host may take to boot and answer.
    pub boot_limit: Duration,
    /// How many hosts may boot and get their files at the same time, those that were there before be configured: an emulated host takes a
    /// core.
    pub boots: usize,
    /// Since when hosts that run are asked what they have: those that have not answered yet are not waited for anew.
    pub asked: OnceLock<Instant>,
}

/// What steps on the hypervisor need to know.
pub struct World {
    /// The hosts.
    pub fleet: Arc<Fleet>,
    /// The hypervisor.
    pub libvirt: Libvirt,
    /// What definitions need to know about it.
    pub hypervisor: Hypervisor,
    /// What new hosts boot.
    pub image: BootImage,
    /// What new hosts are copied from instead of booting, when they can be.
    pub template: Option<Template>,
    /// Why hosts boot although they were to be copied, once that is known.
    pub boot_reason: OnceLock<String>,
    /// The number of the layer that a new disk is, by host; 0 for hosts that are not listed.
    pub next_layer: BTreeMap<String, u32>,
    /// Hosts take turns while they are copied.
    pub copying: Mutex<()>,
    /// Folder of the state of all labs.
    pub state_root: PathBuf,
    /// Size of that image in the pool.
    pub image_size: Bytes,
    /// The parts of that image on this machine, when it may have to be copied to the pool.
    pub image_files: Vec<(ImagePart, PathBuf)>,
    /// The lab's login key.
    pub ssh_public_key: String,
    /// Hosts whose SSH host key was pinned before this run.
    pub pinned: BTreeSet<String>,
}

/// How many networks, or hosts, are made at a time.
const SIDE_BY_SIDE: usize = 8;

/// The image under the disk of each host that has one, and the layer on top of it.
pub type MadeFrom = BTreeMap<String, (String, u32)>;

/// What one host cost.
#[derive(Clone, Debug)]
pub struct Timing {
    /// The host.
    pub host: String,
    /// Until it answered, through the hypervisor or over SSH; zero when it ran already.
    pub boot: Duration,
    /// From its turn until it was as it should be.
    pub configure: Duration,
    /// How many things were changed in it.
    pub changes: usize,
}

/// Hosts that failed, and why.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Failures {
    /// One paragraph a host; those that only waited for another one come last.
    pub text: String,
    /// Whether a wait ran into its limit.
    pub timeout: bool,
}

impl Failures {
    /// Those failures, if any, and one more.
    pub fn with(earlier: Option<Self>, error: &anyhow::Error) -> Self {
        let timeout = earlier.as_ref().is_some_and(|failures| failures.timeout);
        let texts = earlier.map(|failures| failures.text).into_iter().chain([format!("{error:#}")]);
        Self { text: texts.collect::<Vec<_>>().join("\n"), timeout }
    }
}

/// A host that did not answer in time, with the end of its console.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NoAnswer(String);

/// A host that runs and does not answer: others go on without it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unreachable(String);

/// How the way of a host ended, for those that wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Ready,
    Unreachable,
    Failed,
}

/// What became of hosts.
pub struct Done<T> {
    /// What each host cost that is as it should be.
    pub timings: Vec<Timing>,
    /// Hosts that answered, as they are now.
    pub answers: BTreeMap<String, Answer>,
    /// Hosts that are not as they should be.
    pub failures: Option<Failures>,
    /// What hosts showed that were looked at.
    pub seen: BTreeMap<String, T>,
}

/// Performs a step on the hypervisor. Every one may be repeated: a step that was done before does no harm.
///
/// # Errors
/// What libvirt said, with the step.
pub fn step(world: &World, step: &Step, made_from: &MadeFrom) -> anyhow::Result<()> {
    let (World { libvirt, hypervisor, .. }, lab) = (world, &world.fleet.lab);
    let network = |kind: &str| if kind == "data" { &lab.data } else { &lab.mgmt };
    let host = |name: &str| lab.host(name).with_context(|| format!("the lab has no host {name}"));
    let name = lab.name.as_str();
    let done = match step {
        Step::CreatePool => libvirt.ensure_pool(Path::new(&hypervisor.pool_path)).map(drop),
        Step::UploadImage { image } => {
            // One without a disk would pass for complete afterwards.
            ensure!(!world.image_files.is_empty(), "image {image} was not looked up before: a defect");
            upload(world, image)
        }
        Step::CreateNetwork { network: kind } => {
            libvirt.create_network(name, kind, &machine::network(lab, network(kind)).xml)
        }
        Step::StartNetwork { network: kind } => libvirt.start_network(name, kind),
        Step::Reserve { network: kind, host: part } => {
            let nic = machine::nic(host(part)?, network(kind));
            libvirt.reserve(name, kind, part, &machine::reservation(part, nic))
        }
        Step::Unreserve { network: kind, host } => libvirt.unreserve(name, kind, host),
        Step::StopHost { host } | Step::GiveUpHost { host } => libvirt.stop_host(name, host),
        Step::PlugIn { host } => libvirt.plug_in(name, host),
        Step::CreateDisk { host } => {
            // The new host makes a key of its own; the pinned one is that of a host that is gone.
            ssh::forget(&world.fleet.targets[host].known_hosts, host)?;
            let layer = world.fresh_layer(host);
            let (volume, (backing, format)) = (disk_name(name, host, layer), world.base());
            let disk = machine::overlay_volume(&volume, lab.vm.disk, &backing, format);
            libvirt.create_disk(name, host, layer, &disk)
        }
        Step::DefineHost { host: part } => {
            let (image, layer) = made_from
                .get(part)
                .map_or((&world.image.name, world.fresh_layer(part)), |(name, layer)| (name, *layer));
            let image = BootImage::in_pool(&hypervisor.pool_path, image, &lab.image, &world.image.cmdline);
            let domain = machine::domain(lab, host(part)?, layer, hypervisor, &image, &world.ssh_public_key);
            libvirt.define_host(name, part, &domain.xml)
        }
        Step::MakeSnapshot { image, .. } => {
            make_snapshot(world, image);
            Ok(())
        }
        Step::StartHost { host } => libvirt.start_host(name, host),
        Step::CopyHost { host: part } => return copy_or_boot(world, host(part)?),
        Step::RemoveHost { host } | Step::ReplaceHost { host, .. } => {
            libvirt.remove_host(name, host).map(drop)
        }
    };
    done.with_context(|| format!("could not {step}"))
}

/// Performs all steps that start no host, in order. Networks are made side by side, and so are disks and VMs of different hosts.
///
/// # Errors
/// What libvirt said, with the first step that failed. Those beside it were done.
pub fn steps(world: &World, steps: &[Step], made_from: &MadeFrom) -> anyhow::Result<()> {
    let steps: Vec<&Step> = steps.iter().filter(|step| step.starts().is_none()).collect();
    let class = |step: &Step| made_of(step).map(|(class, _)| class);
    for alike in steps.chunk_by(|one, next| class(one).is_some() && class(one) == class(next)) {
        let mut parts: BTreeMap<&str, Vec<&Step>> = BTreeMap::new();
        for step in alike {
            parts.entry(made_of(step).map_or("", |(_, part)| part)).or_default().push(step);
        }
        let parts: Vec<_> = parts.into_values().collect();
        for parts in parts.chunks(SIDE_BY_SIDE) {
            let done = every(parts, |steps| steps.iter().try_for_each(|part| step(world, part, made_from)));
            done.into_iter().collect::<anyhow::Result<()>>()?;
        }
    }
    Ok(())
}

/// What is made, and the name of which one: what is made of one has nothing to do with another.
fn made_of(step: &Step) -> Option<(&'static str, &str)> {
    match step {
        Step::CreateNetwork { network } | Step::StartNetwork { network } => Some(("network", network)),
        Step::CreateDisk { host } | Step::DefineHost { host } => Some(("host", host)),
        _ => None,
    }
}

/// A host that cannot be copied is booted: a snapshot saves time and decides nothing.
fn make_snapshot(world: &World, image: &str) {
    let Some(template) = &world.template else { return };
    let line = world.fleet.ui.line("image", world.fleet.width());
    line.now(&format!("booting a machine of {image} once, to copy hosts from it"));
    let pool_path = &world.hypervisor.pool_path;
    let disk = world.fleet.lab.vm.disk;
    let (limit, locks) = (world.fleet.boot_limit, &world.state_root);
    match snapshot::make(&world.libvirt, template, &world.image, disk, pool_path, limit, locks) {
        Ok(()) => line.done(&format!("a machine of {image} is booted and saved")),
        Err(error) => {
            line.drop_quietly();
            world.boot_instead(&error);
        }
    }
}

fn copy_or_boot(world: &World, host: &Host) -> anyhow::Result<()> {
    let (libvirt, lab) = (&world.libvirt, &world.fleet.lab);
    let target = &world.fleet.targets[&host.name];
    if let (Some(template), None) = (&world.template, world.boot_reason.get()) {
        let copier = Copier {
            libvirt,
            lab,
            template,
            ssh_public_key: &world.ssh_public_key,
            pool_path: &world.hypervisor.pool_path,
            turn: &world.copying,
            lock_dir: &world.state_root,
        };
        match copier.copy(host, target) {
            Ok(()) => return Ok(()),
            Err(error) => world.boot_instead(&error),
        }
        libvirt.stop_host(&lab.name, &host.name)?;
        // It may have been told a key already; the one it makes at its boot counts.
        ssh::forget(&target.known_hosts, &host.name)?;
        // The next run makes another snapshot.
        let _ = libvirt.remove_snapshot(&template.snapshot);
    }
    libvirt.start_host(&lab.name, &host.name).with_context(|| format!("could not start {}", host.name))
}

fn upload(world: &World, name: &str) -> Result<(), crate::libvirt::Error> {
    let line = world.fleet.ui.line("image", world.fleet.width());
    line.now(&format!("copying {name} into the pool"));
    let mut progress = |done: u64, total: u64| {
        line.tick(&format!("copying {name} into the pool: {} %", done * 100 / total.max(1)));
    };
    world.libvirt.upload_image(name, &world.image_files, &mut progress)?;
    line.done(&format!("{name} is in the pool"));
    Ok(())
}

impl World {
    /// What the lab should be, for the planner.
    pub fn wanted(&self, restart: Restart) -> Wanted<'_> {
        Wanted {
            lab: &self.fleet.lab,
            hypervisor: &self.hypervisor,
            image: &self.image,
            snapshot: self.template.as_ref().map(|template| &template.snapshot),
            ssh_public_key: &self.ssh_public_key,
            pinned: &self.pinned,
            hosts: &self.fleet.hosts,
            restart,
        }
    }

    /// SHA-256 of what hosts should have, whatever they have.
    ///
    /// # Errors
    /// A defect.
    pub fn digest_of_hosts(&self) -> anyhow::Result<String> {
        Ok(digest::hex(&serde_json::to_vec(&self.fleet.hosts)?))
    }

    fn fresh_layer(&self, host: &str) -> u32 {
        self.next_layer.get(host).copied().unwrap_or(0)
    }

    /// The disk that new disks are based on.
    fn base(&self) -> (String, DiskFormat) {
        match (&self.template, self.boot_reason.get()) {
            (Some(template), None) => {
                let disk = template.snapshot.volume(SnapshotPart::Disk);
                (format!("{}/{disk}", self.hypervisor.pool_path), DiskFormat::Qcow2)
            }
            _ => (self.image.disk.clone(), self.image.format),
        }
    }

    /// Says once why hosts boot that were to be copied.
    fn boot_instead(&self, error: &anyhow::Error) {
        if self.boot_reason.set(format!("{error:#}")).is_ok() {
            self.fleet.ui.warn(&format!("hosts boot, because they cannot be copied: {error:#}"));
        }
    }

    /// The domain of a host that runs scripts which the hypervisor sends: one of our image, on this machine.
    pub fn listening(&self, host: &str) -> Option<&str> {
        observe::listening(&self.libvirt, &self.fleet.lab, host)
    }
}

impl Fleet {
    /// What a host should have.
    pub fn rendered(&self, host: &str) -> Option<&RenderedHost> {
        self.hosts.iter().find(|rendered| rendered.host == host)
    }

    /// Width of the names of hosts on the terminal.
    pub fn width(&self) -> usize {
        self.hosts.iter().map(|host| host.host.len()).chain([8]).max().unwrap_or(8)
    }
}

/// Brings hosts in line, all at the same time.
///
/// `answers` has the hosts that were asked already; the others are started (when the plan says so) and asked here. All that
/// can succeed has when it returns. Hosts are looked at as soon as what they show is what they will show then.
///
/// # Errors
/// A defect.
pub async fn hosts<T: Send + 'static>(
    fleet: &Arc<Fleet>,
    world: Option<Arc<World>>,
    plan: &Plan,
    mut answers: BTreeMap<String, Answer>,
    made_from: Arc<MadeFrom>,
    look: Option<Look<T>>,
) -> anyhow::Result<Done<T>> {
    let starts: Vec<&str> = plan.steps.iter().filter_map(Step::starts).collect();
    let copies: Vec<&str> = plan.steps.iter().filter_map(Step::copies).collect();
    let fresh: Vec<&str> = plan.steps.iter().filter_map(Step::creates).collect();
    let planned = plan.hosts.iter().filter(|host| !host.is_empty()).map(|host| host.host.as_str());
    // Its receiver may think for ten seconds more that it streams from a host that lost its power.
    let begins_anew = |host: &RenderedHost| {
        let started = |name: &str| starts.contains(&name) && !fresh.contains(&name);
        started(&host.host)
            || host.waits_for.iter().any(|name| started(name)) && !fresh.contains(&&*host.host)
    };
    let told: BTreeSet<&str> = fleet
        .hosts
        .iter()
        .filter(|host| begins_anew(host) && !host.after_a_jump().is_empty())
        .map(|host| host.host.as_str())
        .collect();
    let work: BTreeSet<&str> = planned
        .chain(plan.unasked.iter().map(String::as_str))
        .chain(starts.iter().copied())
        .chain(told.iter().copied())
        .collect();
    let mut ready: BTreeMap<String, watch::Receiver<Progress>> = BTreeMap::new();
    let mut senders = BTreeMap::new();
    for host in &work {
        let (sender, receiver) =
            watch::channel(Progress { fresh: fresh.contains(host), end: None, given: BTreeMap::new() });
        senders.insert((*host).to_owned(), sender);
        ready.insert((*host).to_owned(), receiver);
    }
    let is_local = |host: &str| {
        let plan = plan.hosts.iter().find(|plan| plan.host == host);
        let is_local = plan.zip(fleet.rendered(host)).is_some_and(|(plan, rendered)| plan.is_local(rendered));
        is_local && !starts.contains(&host)
    };
    let order = order(&fleet.hosts, plan, &work, &fresh, is_local)?;
    let boots = Arc::new(Semaphore::new(fleet.boots.max(1)));
    let mut tasks = tokio::task::JoinSet::new();
    for name in boot_order(&fleet.hosts) {
        let Some(sender) = senders.remove(&name) else { continue };
        let rendered =
            fleet.hosts.iter().position(|host| host.host == name).context("a plan for an unknown host")?;
        let pipeline = Pipeline {
            waits: order[name.as_str()]
                .iter()
                .filter_map(|(other, need)| Some(((*other).to_owned(), *need, ready.get(*other)?.clone())))
                .collect(),
            start: match copies.contains(&name.as_str()) {
                true => Some(Step::CopyHost { host: name.clone() }),
                false => starts.contains(&name.as_str()).then(|| Step::StartHost { host: name.clone() }),
            },
            fresh: fresh.contains(&name.as_str()),
            told: told.contains(&name.as_str()),
            answer: answers.remove(&name),
            line: fleet.ui.line(&name, fleet.width()),
            fleet: Arc::clone(fleet),
            world: world.clone(),
            made_from: Arc::clone(&made_from),
            rendered,
            progress: sender.clone(),
        };
        let boots = Arc::clone(&boots);
        tasks.spawn(async move {
            let line = pipeline.line.clone();
            let result = pipeline.run(&boots).await;
            sender.send_modify(|progress| progress.end = Some(end(&result)));
            match &result {
                Ok((timing, _)) => line.done(&summary(timing)),
                Err(_) => line.failed("failed"),
            }
            (name, result)
        });
    }
    let mut timings = Vec::new();
    let mut failures = Vec::new();
    let mut looks = Looks::new(look, &fleet.lab, &work);
    looks.begin(&mut answers);
    while let Some(task) = tasks.join_next().await {
        let (name, result) = task.context("a host's thread ended unexpectedly")?;
        looks.ended(&name);
        match result {
            Ok((timing, answer)) => {
                timings.push(timing);
                answers.insert(name, answer);
            }
            Err(error) => failures.push((name, error)),
        }
        looks.begin(&mut answers);
    }
    let seen = looks.end(&mut answers).await;
    let failures = if failures.is_empty() { None } else { Some(gather(failures)) };
    Ok(Done { timings, answers, failures, seen })
}

fn end<T>(result: &anyhow::Result<T>) -> End {
    match result {
        Ok(_) => End::Ready,
        Err(error) if error.is::<Unreachable>() => End::Unreachable,
        Err(_) => End::Failed,
    }
}

fn gather(mut failures: Vec<(String, anyhow::Error)>) -> Failures {
    // What only waited for another host that failed is not a cause.
    failures.sort_by_key(|(_, error)| error.downcast_ref::<Skipped>().is_some());
    let text: Vec<String> = failures.iter().map(|(name, error)| format!("{name}: {error:#}")).collect();
    let timed_out = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<NoAnswer>() || cause.downcast_ref::<ssh::Error>().is_some_and(ssh::Error::is_timeout)
    };
    let timeout = failures.iter().any(|(_, error)| error.chain().any(timed_out));
    Failures { text: text.join("\n"), timeout }
}

fn summary(timing: &Timing) -> String {
    match timing.boot.as_millis() {
        0 => format!("configured in {:.1} s", timing.configure.as_secs_f64()),
        _ => format!(
            "up in {:.1} s, configured in {:.1} s",
            timing.boot.as_secs_f64(),
            timing.configure.as_secs_f64()
        ),
    }
}
