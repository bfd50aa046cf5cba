//! Compares what a lab should be with what was observed, and lists the steps to take, in order.
//!
//! The plan is everything that will be done: the one who executes it decides nothing. A plan of a lab that is as it
//! should be is empty; that is how `up` knows that it is finished.

mod show;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use serde::Serialize;

use crate::{
    host::{Call, Facts, HostPlan, Roll},
    lab::Lab,
    machine::{self, BootImage, Hypervisor, Snapshot},
    observed::{DomainState, Infra, PoolSeen},
    render::RenderedHost,
    size::{Bytes, GIB, MIB},
    topology::Image,
};

/// What a lab should be.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// The lab.
    pub lab: &'a Lab,
    /// Where it runs.
    pub hypervisor: &'a Hypervisor,
    /// What hosts boot.
    pub image: &'a BootImage,
    /// What new hosts are copied from; nothing when they are to boot.
    pub snapshot: Option<&'a Snapshot>,
    /// The lab's SSH key.
    pub ssh_public_key: &'a str,
    /// Hosts whose SSH host key is pinned: they were told who they are, or have answered.
    pub pinned: &'a BTreeSet<String>,
    /// Each host with its files and tasks, in the order of the lab.
    pub hosts: &'a [RenderedHost],
    /// What becomes of handlers that hosts run one after the other.
    pub restart: Restart,
}

/// What becomes of handlers that hosts run one after the other: restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restart {
    /// Those that are due run.
    #[default]
    Auto,
    /// None runs: those that are due stay so.
    Never,
    /// All run, due or not.
    Rolling,
}

/// What will be done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Name of the lab.
    pub lab: String,
    /// Steps on the hypervisor, in order.
    pub steps: Vec<Step>,
    /// What changes inside the hosts, in the order of the lab.
    pub hosts: Vec<HostPlan>,
    /// What hosts do after that, one after the other, in order.
    pub turns: Vec<Turn>,
    /// Hosts that exist but could not be asked: what changes in them is known once they run.
    pub unasked: Vec<String>,
    /// What is not as the topology says but is left alone, and why.
    pub notes: Vec<String>,
}

/// A handler that a host runs when it is its turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Turn {
    /// The host.
    pub host: String,
    /// The handler and why it runs.
    #[serde(flatten)]
    pub call: Call,
    /// Whether it runs although nothing calls it.
    pub asked: bool,
}

/// One step on the hypervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "step")]
pub enum Step {
    /// Make and start the storage pool.
    CreatePool,
    /// Copy the image into the pool.
    UploadImage {
        /// Name of the image.
        image: String,
    },
    /// Boot a machine of the image and save it, to copy hosts from.
    MakeSnapshot {
        /// Name of the image.
        image: String,
        /// Key of the snapshot.
        key: String,
    },
    /// Define and start a network.
    CreateNetwork {
        /// `data` or `mgmt`.
        network: String,
    },
    /// Start a network that is defined.
    StartNetwork {
        /// `data` or `mgmt`.
        network: String,
    },
    /// Reserve the address of a host on a network, replacing an older reservation.
    Reserve {
        /// `data` or `mgmt`.
        network: String,
        /// The host.
        host: String,
    },
    /// Forget the address of a host that is gone.
    Unreserve {
        /// `data` or `mgmt`.
        network: String,
        /// The host.
        host: String,
    },
    /// Power a host off, to define it anew.
    StopHost {
        /// The host.
        host: String,
    },
    /// Power off a host that was to be a copy and was never told who it is: an earlier run ended there.
    GiveUpHost {
        /// The host.
        host: String,
    },
    /// Plug in the cables of a host that an earlier run did not come to.
    PlugIn {
        /// The host.
        host: String,
    },
    /// Make the disk of a host over the image.
    CreateDisk {
        /// The host.
        host: String,
    },
    /// Define the VM of a host.
    DefineHost {
        /// The host.
        host: String,
    },
    /// Make a host run as a copy of the machine in the boot snapshot.
    CopyHost {
        /// The host.
        host: String,
    },
    /// Boot a host, or wake one that is suspended.
    StartHost {
        /// The host.
        host: String,
    },
    /// Destroy a host that the topology wants to be made of another release or disk, to make it anew.
    ReplaceHost {
        /// The host.
        host: String,
        /// The image that it was made from.
        was: String,
        /// The image that it will be made from.
        now: String,
    },
    /// Destroy a host that the topology no longer has, with its disk.
    RemoveHost {
        /// The host.
        host: String,
    },
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
            && self.unasked.is_empty()
            && self.turns.is_empty()
            && self.hosts.iter().all(HostPlan::is_empty)
    }

    /// How many changes are known, on the hypervisor and in hosts. Turns count when nothing else is left to do.
    pub fn len(&self) -> usize {
        match self.steps.len() + self.hosts.iter().map(HostPlan::len).sum::<usize>() {
            0 => self.turns.len(),
            changes => changes,
        }
    }

    /// What interrupts or destroys what runs, or loses data, in words: it needs the user's consent.
    pub fn disruptive(&self) -> Vec<String> {
        let steps = self.steps.iter().filter(|step| step.is_disruptive()).map(ToString::to_string);
        let losses =
            self.hosts.iter().flat_map(|host| host.losses().map(|loss| format!("{loss} on {}", host.host)));
        steps.chain(losses).collect()
    }
}

impl Step {
    /// The host whose disk the step makes.
    pub fn creates(&self) -> Option<&str> {
        match self {
            Self::CreateDisk { host } => Some(host),
            _ => None,
        }
    }

    /// Whether the lab has another host after the step, or one less.
    pub fn changes_hosts(&self) -> bool {
        self.creates().or(self.destroys()).is_some()
    }

    /// The host that the step destroys.
    pub fn destroys(&self) -> Option<&str> {
        match self {
            Self::RemoveHost { host } | Self::ReplaceHost { host, .. } => Some(host),
            _ => None,
        }
    }

    /// The host that does not run any more after the step.
    pub fn stops(&self) -> Option<&str> {
        match self {
            Self::StopHost { host } => Some(host),
            _ => self.destroys(),
        }
    }

    /// The host that the step starts.
    pub fn starts(&self) -> Option<&str> {
        match self {
            Self::StartHost { host } | Self::CopyHost { host } => Some(host),
            _ => None,
        }
    }

    /// The host that the step copies from the boot snapshot.
    pub fn copies(&self) -> Option<&str> {
        match self {
            Self::CopyHost { host } => Some(host),
            _ => None,
        }
    }

    /// Whether the step interrupts or destroys what runs.
    pub fn is_disruptive(&self) -> bool {
        self.stops().is_some()
    }
}

/// Compares the wish with what was observed. `facts` has the hosts that could be asked.
pub fn plan(wanted: &Wanted, infra: &Infra, facts: &BTreeMap<String, Facts>) -> Plan {
    let mut plan = Plan { lab: wanted.lab.name.clone(), ..Plan::default() };
    if !matches!(infra.pool, PoolSeen::Ours { active: true, .. }) {
        plan.steps.push(Step::CreatePool);
    }
    let gone = |host: &&String| wanted.lab.host(host).is_none();
    for host in infra.domains.keys().filter(gone) {
        plan.steps.push(Step::RemoveHost { host: host.clone() });
    }
    let (left, facts) = replace(wanted, infra, facts, &mut plan);
    let (infra, facts) = (&left, &facts);
    plan_image(wanted, infra, &mut plan);
    networks(wanted.lab, infra, &mut plan);
    for host in &wanted.lab.hosts {
        plan_host(wanted, infra, &host.name, &mut plan);
    }
    plan_hosts(wanted.hosts, |host| infra.disks.contains_key(host), facts, &mut plan);
    take_turns(wanted.lab, wanted.hosts, wanted.restart, facts, &mut plan);
    plan
}

/// Adds the steps that take away hosts whose image is another one altogether; returns what is there without them. An image of the
/// same release that is only newer is no reason: the host goes on with the one that it has.
fn replace(
    wanted: &Wanted,
    infra: &Infra,
    facts: &BTreeMap<String, Facts>,
    plan: &mut Plan,
) -> (Infra, BTreeMap<String, Facts>) {
    let (mut infra, mut facts) = (infra.clone(), facts.clone());
    let now = &wanted.image.name;
    for host in &wanted.lab.hosts {
        let host = &host.name;
        let was = infra.disks.get(host).and_then(|disk| disk.image.clone());
        if let Some(was) = was.filter(|was| is_other(&wanted.lab.image, was, now)) {
            plan.steps.push(Step::ReplaceHost { host: host.clone(), was, now: now.clone() });
            infra.disks.remove(host);
            infra.domains.remove(host);
            facts.remove(host);
        }
    }
    (infra, facts)
}

/// Whether a host that was made from one image has to be made anew from another one.
pub fn is_other(image: &Image, was: &str, now: &str) -> bool {
    let kind = |name: &str| match (image, name.rsplit_once('-')) {
        (Image::Built { .. }, Some((release, _))) => release.to_owned(),
        _ => name.to_owned(),
    };
    kind(was) != kind(now)
}

/// The same for machines that are there already: only what is in them is compared.
pub fn machines(
    lab: &Lab,
    hosts: &[RenderedHost],
    restart: Restart,
    facts: &BTreeMap<String, Facts>,
) -> Plan {
    let mut plan = Plan { lab: lab.name.clone(), ..Plan::default() };
    plan_hosts(hosts, |_| true, facts, &mut plan);
    take_turns(lab, hosts, restart, facts, &mut plan);
    for (host, facts) in facts {
        plan.notes.extend(facts.refusals.iter().map(|why| format!("{host} may not be touched: {why}")));
    }
    plan
}

fn plan_hosts(
    hosts: &[RenderedHost],
    is_there: impl Fn(&str) -> bool,
    facts: &BTreeMap<String, Facts>,
    plan: &mut Plan,
) {
    for host in hosts {
        let name = &host.host;
        if is_there(name) && !facts.contains_key(name) {
            plan.unasked.push(name.clone());
        } else {
            plan.hosts.push(HostPlan::new(host, facts.get(name)));
        }
    }
}

/// Those that follow come before those that they follow; when something gets smaller, the other way round. Who leads is
/// asked: after a failover it is not the one that the topology names.
fn take_turns(
    lab: &Lab,
    hosts: &[RenderedHost],
    restart: Restart,
    facts: &BTreeMap<String, Facts>,
    plan: &mut Plan,
) {
    let depth = |host: &str| lab.host(host).map_or(0, |host| host.depth);
    let mut rolls: Vec<(String, Roll)> = Vec::new();
    for host in &mut plan.hosts {
        let mut own = std::mem::take(&mut host.rolling);
        let rendered = hosts.iter().find(|rendered| rendered.host == host.host);
        if let (Restart::Rolling, Some(rendered), Some(facts)) = (restart, rendered, facts.get(&host.host)) {
            let asked = HostPlan::all_rolls(rendered, facts, "--restart=rolling");
            own.extend(
                asked
                    .into_iter()
                    .filter(|roll| own.iter().all(|due| due.call.what != roll.call.what))
                    .collect::<Vec<_>>(),
            );
        }
        rolls.extend(own.into_iter().map(|roll| (host.host.clone(), roll)));
    }
    rolls.sort_by_key(|(host, roll)| (roll.leads, Reverse(depth(host))));
    if rolls.iter().any(|(_, roll)| roll.reversed) {
        rolls.reverse();
    }
    let turns = rolls.into_iter().map(|(host, roll)| Turn {
        host,
        asked: restart == Restart::Rolling,
        call: roll.call,
    });
    match restart {
        Restart::Never => plan.notes.extend(turns.map(|turn| format!("left for later: {turn}"))),
        Restart::Auto | Restart::Rolling => plan.turns = turns.collect(),
    }
}

/// The image is copied only when a disk is to be made of it.
fn plan_image(wanted: &Wanted, infra: &Infra, plan: &mut Plan) {
    let name = &wanted.image.name;
    let new = wanted.lab.hosts.iter().any(|host| !infra.disks.contains_key(&host.name));
    if new && !infra.images.contains(name) {
        plan.steps.push(Step::UploadImage { image: name.clone() });
    }
    if let Some(snapshot) = wanted.snapshot.filter(|snapshot| new && !infra.snapshots.contains(snapshot)) {
        let (image, key) = (snapshot.image.clone(), snapshot.key.clone());
        plan.steps.push(Step::MakeSnapshot { image, key });
    }
    for (host, disk) in &infra.disks {
        if let Some(older) = disk.image.as_ref().filter(|image| *image != name) {
            plan.notes.push(format!(
                "{host} was made from image {older}, the topology now means {name}: `pgprov destroy` and `pgprov up` take the new one"
            ));
        }
    }
}

/// Adds the steps that bring the networks of a lab in line.
pub fn networks(lab: &Lab, infra: &Infra, plan: &mut Plan) {
    for network in lab.networks() {
        let kind = network.kind.clone();
        let Some(seen) = infra.networks.get(&kind) else {
            plan.steps.push(Step::CreateNetwork { network: kind });
            continue;
        };
        if seen.spec != machine::network(lab, network).spec {
            let was = seen.subnet.map(|subnet| subnet.to_string()).unwrap_or_default();
            plan.notes.push(format!(
                "network {} is {was} and cannot change to {} while the lab stands: `pgprov destroy` first",
                network.name, network.subnet
            ));
            continue;
        }
        for host in seen.reservations.keys().filter(|host| lab.host(host).is_none()) {
            plan.steps.push(Step::Unreserve { network: kind.clone(), host: host.clone() });
        }
        for host in &lab.hosts {
            if seen.reservations.get(&host.name) != Some(&machine::nic(host, network).address) {
                plan.steps.push(Step::Reserve { network: kind.clone(), host: host.name.clone() });
            }
        }
        if !seen.active {
            plan.steps.push(Step::StartNetwork { network: kind });
        }
    }
}

fn plan_host(wanted: &Wanted, infra: &Infra, name: &str, plan: &mut Plan) {
    let host = || name.to_owned();
    let Some(spec) = wanted.lab.host(name) else { return };
    let disk = infra.disks.get(name);
    if disk.is_none() {
        plan.steps.push(Step::CreateDisk { host: host() });
    }
    let start = match disk {
        None if wanted.snapshot.is_some() => Step::CopyHost { host: host() },
        _ => Step::StartHost { host: host() },
    };
    let made_from = disk.and_then(|disk| disk.image.clone());
    let image = BootImage::in_pool(
        &wanted.hypervisor.pool_path,
        made_from.as_deref().unwrap_or(&wanted.image.name),
        &wanted.lab.image,
        &wanted.image.cmdline,
    );
    let fresh_layer = infra.next_layer.get(name).copied().unwrap_or(0);
    let layer = disk.map_or(fresh_layer, |disk| disk.layer);
    let definition =
        machine::domain(wanted.lab, spec, layer, wanted.hypervisor, &image, wanted.ssh_public_key);
    match infra.domains.get(name) {
        Some(seen) if seen.spec == definition.spec => {
            if seen.unplugged && !wanted.pinned.contains(name) {
                plan.steps.push(Step::GiveUpHost { host: host() });
                plan.steps.push(start);
                return;
            }
            if seen.unplugged {
                plan.steps.push(Step::PlugIn { host: host() });
            }
            if seen.state != DomainState::Running {
                plan.steps.push(start);
            }
        }
        seen => {
            if seen.is_some_and(|seen| seen.state != DomainState::Off) {
                plan.steps.push(Step::StopHost { host: host() });
            }
            plan.steps.push(Step::DefineHost { host: host() });
            plan.steps.push(start);
        }
    }
}

/// A resource of the hypervisor that a plan needs more of than there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shortage {
    /// What.
    pub what: &'static str,
    /// How much the plan needs.
    pub needed: String,
    /// How much there is.
    pub available: String,
    /// What to do about it.
    pub remedy: &'static str,
}

/// Memory that QEMU needs beside the guest's.
const OVERHEAD: u64 = 128 * MIB;
/// Disk that a fresh host uses at least, above its image: data directory, WAL, logs.
const FRESH_DISK: u64 = 512 * MIB;

/// What a boot snapshot takes: about 100 MiB of memory and a few of disk, with room for a larger image.
const SNAPSHOT_DISK: u64 = 256 * MIB;

/// What the hypervisor lacks for the plan; looked at before the first change.
pub fn shortages(plan: &Plan, wanted: &Wanted, infra: &Infra, image_size: Bytes) -> Vec<Shortage> {
    let count = |wanted: fn(&Step) -> bool| plan.steps.iter().filter(|step| wanted(step)).count() as u64;
    let starts = count(|step| step.starts().is_some());
    let disks = count(|step| matches!(step, Step::CreateDisk { .. }));
    let uploads = count(|step| matches!(step, Step::UploadImage { .. }));
    let memory = Bytes(starts * (wanted.lab.vm.memory.0 + OVERHEAD));
    let snapshots = count(|step| matches!(step, Step::MakeSnapshot { .. }));
    let space = Bytes(disks * FRESH_DISK + uploads * image_size.0 + snapshots * SNAPSHOT_DISK);
    let mut shortages = Vec::new();
    if memory > infra.hypervisor.memory_available {
        shortages.push(Shortage {
            what: "memory",
            needed: gib(memory),
            available: gib(infra.hypervisor.memory_available),
            remedy: "make vm.memory smaller, or suspend another lab",
        });
    }
    if let PoolSeen::Ours { active: true, free, .. } = &infra.pool
        && space > *free
    {
        shortages.push(Shortage {
            what: "disk",
            needed: gib(space),
            available: gib(*free),
            remedy: "remove labs or images that are not needed, or free space on that file system",
        });
    }
    shortages
}

fn gib(bytes: Bytes) -> String {
    format!("{:.1} GiB", bytes.0 as f64 / GIB as f64)
}
