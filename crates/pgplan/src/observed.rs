//! What exists on a hypervisor, as plain data: read by the caller, compared with the wish by the planner.
//!
//! [`Inventory`] is everything, as libvirt tells it. [`Inventory::infra`] is the part that one lab looks at, and
//! [`Inventory::labs`] lists the labs there are, without any topology file.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use serde::{Deserialize, Serialize};

use crate::{
    lab::{Lab, Pins, disk_name},
    machine::{Accel, Hypervisor, ImagePart, Mark, POOL_NAME, Snapshot, SnapshotPart, Volume},
    size::Bytes,
    subnet::Subnet,
};

/// Everything on a hypervisor that could matter to a lab, ours and others'.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Inventory {
    /// The machine itself.
    pub hypervisor: HypervisorSeen,
    /// Our storage pool.
    pub pool: PoolSeen,
    /// Volumes in our pool; none when it is not active.
    pub volumes: Vec<VolumeSeen>,
    /// All domains.
    pub domains: Vec<AnyDomain>,
    /// All libvirt networks.
    pub networks: Vec<AnyNetwork>,
    /// Network interfaces of the hypervisor by name. Empty when it is another machine, which does not tell.
    pub interfaces: BTreeSet<String>,
    /// Subnets the hypervisor has routes to, with the interface; without the default route. Empty as above.
    pub routes: Vec<(Subnet, String)>,
}

/// A hypervisor and its resources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HypervisorSeen {
    /// libvirt URI of the connection.
    pub uri: String,
    /// Its host name.
    pub hostname: String,
    /// Architecture of its CPUs, e.g. `x86_64`.
    pub arch: String,
    /// Its CPU as libvirt knows it, in short: guests see it with KVM.
    pub cpu: String,
    /// Version of libvirt on it, e.g. `9.0.0`.
    pub libvirt_version: String,
    /// Version of QEMU on it, e.g. `10.0.2`.
    pub qemu_version: String,
    /// How guests will run.
    pub accel: Accel,
    /// Why they will not run with KVM; nothing when they will.
    pub accel_reason: Option<String>,
    /// Logical CPUs.
    pub cpus: u32,
    /// Memory of the machine.
    pub memory: Bytes,
    /// Memory that new guests can have without swapping.
    pub memory_available: Bytes,
}

impl HypervisorSeen {
    /// What saved memory depends on beside the definition of its machine.
    pub fn software(&self) -> String {
        format!("QEMU {}, libvirt {}, CPU {}", self.qemu_version, self.libvirt_version, self.cpu)
    }
}

/// Our storage pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolSeen {
    /// There is none yet.
    Missing,
    /// A pool has our name but is not ours, or the folder belongs to another pool; the text says which.
    Foreign(String),
    /// It exists.
    Ours {
        /// Started.
        active: bool,
        /// Its folder.
        path: String,
        /// Free space on its file system; 0 while it is not active.
        free: Bytes,
    },
}

/// A volume in our pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSeen {
    /// Name: see [`Volume`].
    pub name: String,
    /// Size the guest sees.
    pub capacity: Bytes,
    /// Space it takes.
    pub allocation: Bytes,
    /// Path of the volume under an overlay.
    pub backing: Option<String>,
}

/// A domain, ours or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnyDomain {
    /// Name.
    pub name: String,
    /// UUID.
    pub uuid: String,
    /// Our mark, if it carries one.
    pub mark: Option<Mark>,
    /// State.
    pub state: DomainState,
    /// Whether its cable to the management network is pulled.
    pub unplugged: bool,
    /// Memory it may use.
    pub memory: Bytes,
}

/// A libvirt network, ours or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnyNetwork {
    /// Name.
    pub name: String,
    /// UUID.
    pub uuid: String,
    /// Our mark, if it carries one.
    pub mark: Option<Mark>,
    /// Started.
    pub active: bool,
    /// Its bridge, if it has one.
    pub bridge: Option<String>,
    /// Its IPv4 subnets.
    pub subnets: Vec<Subnet>,
    /// Address by host name, of the reservations that have both.
    pub reservations: BTreeMap<String, Ipv4Addr>,
}

/// State of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DomainState {
    /// It runs.
    Running,
    /// Its CPUs are stopped, its memory is there.
    Paused,
    /// It is off and its memory is saved: a start continues where it was.
    Saved,
    /// It is off.
    Off,
    /// Its guest crashed.
    Crashed,
}

/// What exists on the hypervisor of one lab, and what is in its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Infra {
    /// The machine.
    pub hypervisor: HypervisorSeen,
    /// The storage pool of all labs.
    pub pool: PoolSeen,
    /// Complete images in the pool.
    pub images: BTreeSet<String>,
    /// Complete boot snapshots in the pool.
    pub snapshots: BTreeSet<Snapshot>,
    /// The lab's networks, by kind: `data`, `mgmt`.
    pub networks: BTreeMap<String, NetworkSeen>,
    /// The lab's domains, by host.
    pub domains: BTreeMap<String, DomainSeen>,
    /// The disks of the lab, by host.
    pub disks: BTreeMap<String, DiskSeen>,
    /// The number that the next layer of a disk gets, by host: of those that have any, also frozen ones.
    pub next_layer: BTreeMap<String, u32>,
    /// What is not the lab's.
    pub foreign: Foreign,
}

/// A network of the lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSeen {
    /// The definition it was made from.
    pub spec: String,
    /// Started.
    pub active: bool,
    /// Its subnet.
    pub subnet: Option<Subnet>,
    /// Reserved addresses, by host.
    pub reservations: BTreeMap<String, Ipv4Addr>,
}

/// A domain of the lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainSeen {
    /// The definition it was made from.
    pub spec: String,
    /// The image it was made from.
    pub image: String,
    /// State.
    pub state: DomainState,
    /// Whether its cable to the management network is pulled, as it is until a copied host knows who it is.
    pub unplugged: bool,
    /// UUID.
    pub uuid: String,
}

/// The disk of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSeen {
    /// Size the guest sees.
    pub capacity: Bytes,
    /// Space it takes.
    pub allocation: Bytes,
    /// The image under it.
    pub image: Option<String>,
    /// The layer that is written to; see [`Volume::Disk`].
    pub layer: u32,
}

/// What is on the hypervisor and not the lab's. It may belong to another lab, whose name is then given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    /// Domains.
    pub domains: Vec<Stranger>,
    /// Networks.
    pub networks: Vec<Stranger>,
    /// Bridges of those networks, and interfaces of the hypervisor.
    pub interfaces: BTreeSet<String>,
    /// Subnets, and who has them.
    pub subnets: Vec<(Subnet, String)>,
}

/// A domain or network that is not the lab's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stranger {
    /// Name.
    pub name: String,
    /// UUID.
    pub uuid: String,
    /// The lab it belongs to, if any.
    pub lab: Option<String>,
}

/// Something in the way of a lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Clash {
    /// What clashes: `domain`, `network`, `bridge`, `subnet`, `pool`.
    pub what: &'static str,
    /// Its name.
    pub name: String,
    /// Who has it.
    pub owner: String,
}

/// A lab as it is found on a hypervisor, without its topology.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LabSeen {
    /// Name.
    pub name: String,
    /// Its hosts, by name: those with a domain.
    pub hosts: BTreeMap<String, HostSeen>,
    /// Names of its libvirt networks.
    pub networks: Vec<String>,
    /// Names of its volumes.
    pub volumes: Vec<String>,
}

/// A host as it is found on a hypervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostSeen {
    /// Name of its domain.
    pub domain: String,
    /// State.
    pub state: DomainState,
    /// Address on the data network.
    pub data: Option<Ipv4Addr>,
    /// Address on the management network.
    pub mgmt: Option<Ipv4Addr>,
}

impl DomainState {
    /// Whether the machine holds memory of the hypervisor.
    pub fn has_memory(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Crashed)
    }
}

impl AnyDomain {
    /// The lab it belongs to: it carries the mark, under the name that the mark gives it. A copy that somebody made
    /// of one of our domains carries the mark too, but under another name: it is not ours.
    pub fn lab(&self) -> Option<&Mark> {
        self.mark.as_ref().filter(|mark| self.name == format!("{}-{}", mark.lab, mark.part))
    }
}

impl AnyNetwork {
    /// The lab it belongs to, as for domains.
    pub fn lab(&self) -> Option<&Mark> {
        self.mark.as_ref().filter(|mark| self.name == format!("pgprov-{}-{}", mark.lab, mark.part))
    }
}

impl Inventory {
    /// The part that matters to the lab of that name.
    pub fn infra(&self, lab: &str) -> Infra {
        let ours = |mark: Option<&Mark>| mark.filter(|mark| mark.lab == lab).cloned();
        let networks = self.networks.iter().filter_map(|network| {
            let mark = ours(network.lab())?;
            let subnet = network.subnets.first().copied();
            let reservations = network.reservations.clone();
            Some((mark.part, NetworkSeen { spec: mark.spec, active: network.active, subnet, reservations }))
        });
        let domains = self.domains.iter().filter_map(|domain| {
            let mark = ours(domain.lab())?;
            let AnyDomain { state, unplugged, .. } = *domain;
            let uuid = domain.uuid.clone();
            Some((mark.part, DomainSeen { spec: mark.spec, image: mark.image, state, unplugged, uuid }))
        });
        Infra {
            hypervisor: self.hypervisor.clone(),
            pool: self.pool.clone(),
            images: self.images(),
            snapshots: self.snapshots(),
            networks: networks.collect(),
            domains: domains.collect(),
            disks: self.disks(lab),
            next_layer: self.next_layer(lab),
            foreign: self.foreign(lab),
        }
    }

    fn layers(&self, lab: &str) -> impl Iterator<Item = (String, u32, &VolumeSeen)> {
        self.volumes.iter().filter_map(move |volume| match Volume::parse(&volume.name) {
            Volume::Disk { lab: owner, host, layer } if owner == lab => Some((host, layer, volume)),
            _ => None,
        })
    }

    /// Names of the volumes of a lab that neither its disks nor checkpoints need: layers that nothing is based on, and
    /// memory without a checkpoint. `checkpoints` are the layers that complete checkpoints have, with their names;
    /// without `disks` what hosts run on is not needed either.
    pub fn unneeded(
        &self,
        lab: &str,
        checkpoints: &BTreeSet<(String, u32, String)>,
        disks: bool,
    ) -> Vec<String> {
        let active = self.disks(lab);
        let mut needed: BTreeSet<String> =
            checkpoints.iter().map(|(host, layer, _)| disk_name(lab, host, *layer)).collect();
        if disks {
            needed.extend(active.iter().map(|(host, disk)| disk_name(lab, host, disk.layer)));
        }
        // From the top: a layer that is needed needs the one below it.
        let mut layers: Vec<_> = self.layers(lab).collect();
        layers.sort_by_key(|(_, layer, _)| std::cmp::Reverse(*layer));
        for (_, _, volume) in &layers {
            if needed.contains(&volume.name) {
                let below = volume.backing.as_deref().map(|path| path.rsplit('/').next().unwrap_or(path));
                needed.extend(below.map(str::to_owned));
            }
        }
        let unneeded = |volume: &&VolumeSeen| match Volume::parse(&volume.name) {
            Volume::Disk { lab: owner, .. } => owner == lab && !needed.contains(&volume.name),
            Volume::Memory { lab: owner, host, layer, checkpoint } => {
                owner == lab && !checkpoints.contains(&(host, layer, checkpoint))
            }
            _ => false,
        };
        self.volumes.iter().filter(unneeded).map(|volume| volume.name.clone()).collect()
    }

    fn next_layer(&self, lab: &str) -> BTreeMap<String, u32> {
        let mut next: BTreeMap<String, u32> = BTreeMap::new();
        for (host, layer, _) in self.layers(lab) {
            let highest = next.entry(host).or_default();
            *highest = (*highest).max(layer + 1);
        }
        next
    }

    /// The disks of a lab: of each host the layer on top, with what all of its layers take, and the image below them. A
    /// host has none when all layers belong to checkpoints: nothing may be written to those.
    fn disks(&self, lab: &str) -> BTreeMap<String, DiskSeen> {
        let frozen: BTreeSet<(String, u32)> = self
            .volumes
            .iter()
            .filter_map(|volume| match Volume::parse(&volume.name) {
                Volume::Memory { lab: owner, host, layer, .. } if owner == lab => Some((host, layer)),
                _ => None,
            })
            .collect();
        let mut disks: BTreeMap<String, DiskSeen> = BTreeMap::new();
        for (host, layer, volume) in self.layers(lab) {
            let disk = disks.entry(host.clone()).or_insert(DiskSeen {
                capacity: volume.capacity,
                allocation: Bytes(0),
                image: None,
                layer,
            });
            disk.layer = disk.layer.max(layer);
            disk.allocation = Bytes(disk.allocation.0 + volume.allocation.0);
            // Layers above are based on layers below: only the lowest one names the image.
            disk.image = volume.backing.as_deref().and_then(image_of).or(disk.image.take());
        }
        disks.retain(|host, disk| !frozen.contains(&(host.clone(), disk.layer)));
        disks
    }

    /// Complete boot snapshots in the pool.
    pub fn snapshots(&self) -> BTreeSet<Snapshot> {
        let complete = |volume: &VolumeSeen| match Volume::parse(&volume.name) {
            Volume::Snapshot { snapshot, part: SnapshotPart::Complete } => Some(snapshot),
            _ => None,
        };
        self.volumes.iter().filter_map(complete).collect()
    }

    /// Complete images in the pool.
    pub fn images(&self) -> BTreeSet<String> {
        let with = |wanted: &[ImagePart]| -> BTreeSet<String> {
            let names = self.volumes.iter().filter_map(|volume| match Volume::parse(&volume.name) {
                Volume::Image { name, part } if wanted.contains(&part) => Some(name),
                _ => None,
            });
            names.collect()
        };
        // One whose disk somebody deleted is copied again.
        &with(&[ImagePart::Complete]) & &with(&[ImagePart::Qcow2, ImagePart::Raw])
    }

    /// Labs by the image that their disks are based on.
    pub fn image_users(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut users: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for volume in &self.volumes {
            let image = volume.backing.as_deref().and_then(image_of);
            if let (Some(image), Volume::Disk { lab, .. }) = (image, Volume::parse(&volume.name)) {
                users.entry(image).or_default().insert(lab);
            }
        }
        users
    }

    /// All labs on the hypervisor, also those of which only a volume is left.
    pub fn labs(&self) -> BTreeMap<String, LabSeen> {
        let mut labs: BTreeMap<String, LabSeen> = BTreeMap::new();
        let mut addresses: BTreeMap<(&str, &str, &str), Ipv4Addr> = BTreeMap::new();
        for (network, mark) in self.networks.iter().filter_map(|n| Some((n, n.lab()?))) {
            entry(&mut labs, &mark.lab).networks.push(network.name.clone());
            for (host, address) in &network.reservations {
                addresses.insert((&mark.lab, &mark.part, host), *address);
            }
        }
        for (domain, mark) in self.domains.iter().filter_map(|d| Some((d, d.lab()?))) {
            let address = |kind| addresses.get(&(mark.lab.as_str(), kind, mark.part.as_str())).copied();
            let host = HostSeen {
                domain: domain.name.clone(),
                state: domain.state,
                data: address("data"),
                mgmt: address("mgmt"),
            };
            entry(&mut labs, &mark.lab).hosts.insert(mark.part.clone(), host);
        }
        for volume in &self.volumes {
            if let Some((lab, _)) = Volume::parse(&volume.name).host() {
                entry(&mut labs, lab).volumes.push(volume.name.clone());
            }
        }
        labs
    }

    fn foreign(&self, lab: &str) -> Foreign {
        let mut foreign = Foreign::default();
        let owner = |mark: Option<&Mark>| mark.map(|mark| mark.lab.clone());
        for domain in self.domains.iter().filter(|d| d.lab().is_none_or(|mark| mark.lab != lab)) {
            let (name, uuid) = (domain.name.clone(), domain.uuid.clone());
            foreign.domains.push(Stranger { name, uuid, lab: owner(domain.lab()) });
        }
        // A bridge of a network of this lab, and the route over it, are the lab's own.
        let mut own_bridges: BTreeSet<&str> = BTreeSet::new();
        for network in &self.networks {
            if network.lab().is_some_and(|mark| mark.lab == lab) {
                own_bridges.extend(network.bridge.as_deref());
                continue;
            }
            let (name, uuid) = (network.name.clone(), network.uuid.clone());
            foreign.interfaces.extend(network.bridge.clone());
            let who = format!("libvirt network `{name}`");
            foreign.subnets.extend(network.subnets.iter().map(|subnet| (*subnet, who.clone())));
            foreign.networks.push(Stranger { name, uuid, lab: owner(network.lab()) });
        }
        let others = self.interfaces.iter().filter(|name| !own_bridges.contains(name.as_str()));
        foreign.interfaces.extend(others.cloned());
        // A route to a whole private block is what VPNs have: a network inside it takes precedence, and works.
        for (subnet, interface) in self.routes.iter().filter(|(subnet, _)| subnet.prefix() > 12) {
            if !own_bridges.contains(interface.as_str()) && !foreign.subnets.iter().any(|(s, _)| s == subnet)
            {
                foreign.subnets.push((*subnet, format!("interface `{interface}`")));
            }
        }
        foreign
    }
}

fn entry<'a>(labs: &'a mut BTreeMap<String, LabSeen>, name: &str) -> &'a mut LabSeen {
    let seen = labs.entry(name.to_owned()).or_default();
    name.clone_into(&mut seen.name);
    seen
}

/// The image whose disk has that path.
fn image_of(path: &str) -> Option<String> {
    let file = path.rsplit_once('/').map_or(path, |(_, file)| file);
    match Volume::parse(file) {
        Volume::Image { name, part: ImagePart::Qcow2 | ImagePart::Raw } => Some(name),
        Volume::Snapshot { snapshot, part: SnapshotPart::Disk } => Some(snapshot.image),
        _ => None,
    }
}

impl Infra {
    /// What the definitions have to know. `default_pool_path` holds until the pool exists.
    pub fn hypervisor(&self, default_pool_path: &str) -> Hypervisor {
        let pool_path = match &self.pool {
            PoolSeen::Ours { path, .. } => path.clone(),
            PoolSeen::Missing | PoolSeen::Foreign(_) => default_pool_path.to_owned(),
        };
        Hypervisor { accel: self.hypervisor.accel, pool_path }
    }

    /// The places in their subnets that the hosts of the lab have: by the reservations of its networks.
    pub fn pins(&self) -> Pins {
        let indexes = |kind: &str| {
            let network = self.networks.get(kind)?;
            let subnet = network.subnet?;
            let index =
                move |(host, address): (&String, &Ipv4Addr)| Some((host.clone(), subnet.index_of(*address)?));
            Some(network.reservations.iter().filter_map(index).collect::<Pins>())
        };
        // On the mgmt network every host has the address of its index; on the data network the file may give one.
        let mut pins = indexes("data").unwrap_or_default();
        pins.extend(indexes("mgmt").unwrap_or_default());
        pins
    }

    /// Everything that is in the way of the lab: names and subnets that others have.
    pub fn clashes(&self, lab: &Lab) -> Vec<Clash> {
        let mut clashes = Vec::new();
        if let PoolSeen::Foreign(owner) = &self.pool {
            clashes.push(Clash { what: "pool", name: POOL_NAME.to_owned(), owner: owner.clone() });
        }
        for host in &lab.hosts {
            clashes.extend(stranger("domain", &self.foreign.domains, &host.domain, &host.uuid));
        }
        for network in lab.networks() {
            clashes.extend(stranger("network", &self.foreign.networks, &network.name, &network.uuid));
            if self.foreign.interfaces.contains(&network.bridge) {
                let owner = "an interface of the hypervisor".to_owned();
                clashes.push(Clash { what: "bridge", name: network.bridge.clone(), owner });
            }
            let overlapping =
                self.foreign.subnets.iter().filter(|(subnet, _)| subnet.overlaps(network.subnet));
            clashes.extend(overlapping.map(|(subnet, owner)| Clash {
                what: "subnet",
                name: network.subnet.to_string(),
                owner: format!("{owner} ({subnet})"),
            }));
        }
        clashes
    }
}

fn stranger(what: &'static str, strangers: &[Stranger], name: &str, uuid: &str) -> Option<Clash> {
    let found = strangers.iter().find(|other| other.name == name || other.uuid == uuid)?;
    let owner = match &found.lab {
        Some(lab) => format!("lab `{lab}`"),
        None if found.name == name => format!("a {what} that pgprov did not make"),
        None => format!("{what} `{}`, which has the same UUID", found.name),
    };
    Some(Clash { what, name: name.to_owned(), owner })
}

#[cfg(test)]
mod tests;
