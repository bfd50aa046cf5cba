//! The checked topology with everything derived: names, identities, addresses.
//!
//! Whatever identifies a host (UUID, MAC, address, disk) is derived from the names of lab and host alone, so adding
//! a host moves no other. Two hosts may want the same address: the one that already has it (see [`Pins`]), else the
//! one that stands first in the file, keeps it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    cron::Cron,
    machines::Machine,
    size::{Bytes, GIB},
    subnet::Subnet,
    topology::{
        self, BackupSource, Database, Failover, HbaRule, Image, Monitoring, Profile, Replication,
        ReplicationMode, Topology, User, Vm,
    },
};

/// The indexes in their subnets that hosts already have, by host name: see [`Subnet::host`].
pub type Pins = BTreeMap<String, u32>;

/// A lab: the topology with every default filled in and everything derived.
#[derive(Clone, Debug, Serialize)]
pub struct Lab {
    /// Name, unique per hypervisor.
    pub name: String,
    /// The disk that hosts start from.
    pub image: Image,
    /// Debian release of the hosts, e.g. `debian-13`.
    pub release: String,
    /// Hardware of each host.
    pub vm: Vm,
    /// The network of PostgreSQL, agents and clients.
    pub data: Network,
    /// The network of SSH and metrics.
    pub mgmt: Network,
    /// What holds for every server.
    pub postgres: Postgres,
    /// How standbys follow.
    pub replication: Replication,
    /// Who promotes.
    pub failover: Failover,
    /// What is saved when.
    pub backup: Option<Backup>,
    /// Who watches.
    pub monitoring: Option<Monitoring>,
    /// What its roles have passwords for that are not those of database users: nothing that templates need to know.
    #[serde(skip)]
    pub other_passwords: BTreeSet<String>,
    /// The hosts in the order of the file.
    pub hosts: Vec<Host>,
}

/// What holds for every PostgreSQL server of a lab.
#[derive(Clone, Debug, Serialize)]
pub struct Postgres {
    /// Major version.
    pub version: u32,
    /// Rules for the computed settings: never `auto`.
    pub profile: Profile,
    /// The user's settings for all servers, in the order of the file.
    pub settings: Vec<(String, String)>,
    /// Databases to create.
    pub databases: Vec<Database>,
    /// Login roles: those listed, then owners of databases that are not, then what roles of the hosts ask for.
    pub users: Vec<User>,
    /// The user's lines of pg_hba.conf.
    pub hba: Vec<HbaRule>,
    /// Whether servers offer TLS and require it.
    pub tls: bool,
}

/// What is saved when, with everything filled in.
#[derive(Clone, Debug, Serialize)]
pub struct Backup {
    /// When, as crontab(5) writes it.
    pub interval_cron: Cron,
    /// The longest time between two backups, in seconds.
    pub interval_seconds: u64,
    /// How many good ones are kept.
    pub retention_count: u32,
    /// Databases by name; empty: all.
    pub databases: Vec<String>,
    /// Which server is read.
    #[serde(rename = "where")]
    pub source: BackupSource,
}

/// A libvirt network of a lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Network {
    /// Name of the libvirt network: `pgprov-LAB-data`.
    pub name: String,
    /// `data` or `mgmt`.
    pub kind: String,
    /// Name of the bridge: at most 15 bytes, as the kernel wants.
    pub bridge: String,
    /// Hardware address of the bridge.
    pub mac: String,
    /// Derived from the name of the lab.
    pub uuid: String,
    /// Its addresses.
    pub subnet: Subnet,
    /// The hypervisor's address.
    pub gateway: Ipv4Addr,
    /// In dotted notation.
    pub netmask: Ipv4Addr,
}

/// A host of a lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Host {
    /// Name in the lab.
    pub name: String,
    /// Name of the libvirt domain: `LAB-HOST`.
    pub domain: String,
    /// Derived from the names of lab and host.
    pub uuid: String,
    /// Roles in the order of the file, `base` first.
    pub roles: Vec<String>,
    /// The host it is a standby of.
    pub follows: Option<String>,
    /// Its standbys, in the order of the file.
    pub followers: Vec<String>,
    /// 0 for a primary (and for hosts without PostgreSQL), 1 for its standbys, 2 for theirs.
    pub depth: u32,
    /// On the data network.
    pub data: Nic,
    /// On the management network.
    pub mgmt: Nic,
    /// PostgreSQL settings of this host only, in the order of the file.
    pub settings: Vec<(String, String)>,
    /// What the user says about it.
    pub description: Option<String>,
    /// The machine that it is, when pgprov does not make it: nothing that templates need to know.
    #[serde(skip)]
    pub machine: Option<Machine>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Nic {
    /// `52:54:00:xx:xx:xx`, derived.
    pub mac: String,
    /// Reserved with DHCP.
    pub address: Ipv4Addr,
}

/// The role that every host has.
pub const BASE_ROLE: &str = "base";
/// The database role that standbys stream with.
pub const REPLICATION_USER: &str = "replicator";
/// The role of hosts that run PostgreSQL.
pub const POSTGRES_ROLE: &str = "postgres";

/// Derives the lab from a topology that has passed [`crate::check`], without what its roles ask for: see
/// [`Roles::derive`](crate::render::Roles::derive). Hosts in `pins` keep their index in the subnets.
///
/// Hosts that find no address (a subnet that is full, which the check reports) are left out.
pub fn derive(topology: &Topology, pins: &Pins) -> Lab {
    let name = topology.lab.as_str();
    let data = network(name, "data", data_subnet(topology));
    let mgmt = network(name, "mgmt", mgmt_subnet(topology));
    let indexes = indexes(topology, data.subnet, mgmt.subnet, pins);
    let hosts = topology
        .hosts
        .iter()
        .filter_map(|(host, spec)| {
            let index = *indexes.get(host)?;
            let roles = std::iter::once(BASE_ROLE)
                .chain(spec.roles.iter().map(String::as_str).filter(|r| *r != BASE_ROLE));
            Some(Host {
                name: host.clone(),
                domain: format!("{name}-{host}"),
                uuid: uuid(&["domain", name, host]),
                roles: roles.map(str::to_owned).collect(),
                follows: spec.follows.clone(),
                followers: followers(topology, host),
                depth: depth(topology, host),
                data: Nic {
                    mac: mac(&[name, host, "data"]),
                    address: spec.address.or(data.subnet.host(index))?,
                },
                mgmt: Nic { mac: mac(&[name, host, "mgmt"]), address: mgmt.subnet.host(index)? },
                settings: spec.settings.iter().map(|(k, v)| (k.clone(), v.0.clone())).collect(),
                description: spec.description.clone(),
                machine: None,
            })
        })
        .collect();
    Lab {
        name: name.to_owned(),
        image: topology.image.clone(),
        release: topology.image.release().name().to_owned(),
        vm: topology.vm.clone(),
        data,
        mgmt,
        postgres: postgres(topology),
        replication: topology.replication.clone(),
        failover: topology.failover.clone(),
        backup: topology.backup.as_ref().map(|spec| backup(topology, spec)),
        monitoring: topology.monitoring.clone(),
        other_passwords: BTreeSet::new(),
        hosts,
    }
}

/// The data subnet: the one in the file, or one derived from the name of the lab.
pub fn data_subnet(topology: &Topology) -> Subnet {
    topology.network.unwrap_or_else(|| derived_subnet(&topology.lab, 0))
}

/// The management subnet: the one in the file, or one derived from the name of the lab.
pub fn mgmt_subnet(topology: &Topology) -> Subnet {
    topology.management_network.unwrap_or_else(|| derived_subnet(&topology.lab, 1))
}

impl Lab {
    /// The host of that name.
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name == name)
    }

    /// Hosts that have the role, in the order of the file.
    pub fn with_role<'a>(&'a self, role: &'a str) -> impl Iterator<Item = &'a Host> {
        self.hosts.iter().filter(move |host| host.has_role(role))
    }

    /// The host that starts as primary, if the lab runs PostgreSQL.
    pub fn primary(&self) -> Option<&Host> {
        self.with_role(POSTGRES_ROLE).find(|host| host.follows.is_none())
    }

    /// The network by kind: `data` or `mgmt`.
    pub fn networks(&self) -> [&Network; 2] {
        [&self.data, &self.mgmt]
    }

    /// Database roles that need a password: superuser, replication, owners of databases, and those in the topology.
    pub fn database_users(&self) -> BTreeSet<String> {
        let own = ["postgres", REPLICATION_USER].map(str::to_owned);
        own.into_iter().chain(self.postgres.users.iter().map(|user| user.name.clone())).collect()
    }

    /// Whatever needs a password: database roles, and what roles of the hosts have one for.
    pub fn passwords(&self) -> BTreeSet<String> {
        self.database_users().into_iter().chain(self.other_passwords.iter().cloned()).collect()
    }

    /// Whether a commit waits for a standby.
    pub fn synchronous(&self) -> bool {
        self.replication.mode == ReplicationMode::Synchronous
    }

    /// The places in their subnets that its hosts have.
    pub fn pins(&self) -> Pins {
        let index = |host: &Host| Some((host.name.clone(), self.mgmt.subnet.index_of(host.mgmt.address)?));
        self.hosts.iter().filter_map(index).collect()
    }
}

impl Host {
    /// Whether the host has the role.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|r| r == role)
    }
}

/// Name of the volume that is a layer of the disk of a host: 0 is the lowest, and the only one until a checkpoint.
pub fn disk_name(lab: &str, host: &str, layer: u32) -> String {
    match layer {
        0 => format!("{lab}--{host}.qcow2"),
        _ => format!("{lab}--{host}.{layer}.qcow2"),
    }
}

fn postgres(topology: &Topology) -> Postgres {
    let spec = &topology.postgres;
    let mut users = spec.users.clone();
    for database in &spec.databases {
        if database.owner != "postgres" && !users.iter().any(|user| user.name == database.owner) {
            users.push(User { name: database.owner.clone(), attributes: Vec::new(), member_of: Vec::new() });
        }
    }
    Postgres {
        version: spec.version.unwrap_or_else(|| topology.image.release().postgres_version()),
        profile: match spec.profile {
            Profile::Auto if topology.vm.memory < Bytes(2 * GIB) => Profile::Tiny,
            Profile::Auto => Profile::Oltp,
            other => other,
        },
        settings: spec.settings.iter().map(|(k, v)| (k.clone(), v.0.clone())).collect(),
        databases: spec.databases.clone(),
        users,
        hba: spec.hba.clone(),
        tls: spec.tls,
    }
}

fn backup(topology: &Topology, spec: &topology::Backup) -> Backup {
    let of_topology = || topology.postgres.databases.iter().map(|database| database.name.clone()).collect();
    Backup {
        interval_cron: spec.interval_cron.clone(),
        interval_seconds: spec.interval_cron.schedule().map_or(0, |schedule| schedule.longest_gap()),
        retention_count: spec.retention_count,
        databases: if spec.databases.is_empty() { of_topology() } else { spec.databases.clone() },
        source: spec.source,
    }
}

/// Name of the bridge of a network of a lab: at most 15 bytes, as the kernel wants.
pub(crate) fn bridge_name(lab: &str, kind: &str) -> String {
    let hash = digest(&["bridge", lab, kind]);
    format!("pgp{}{:02x}{:02x}{:02x}{:02x}", &kind[..1], hash[0], hash[1], hash[2], hash[3])
}

fn network(lab: &str, kind: &str, subnet: Subnet) -> Network {
    Network {
        name: format!("pgprov-{lab}-{kind}"),
        kind: kind.to_owned(),
        bridge: bridge_name(lab, kind),
        mac: mac(&["network", lab, kind]),
        uuid: uuid(&["network", lab, kind]),
        subnet,
        gateway: subnet.gateway(),
        netmask: subnet.netmask(),
    }
}

/// Index of each host in both subnets: fixed addresses first, then pins, then hashes in the order of the file.
fn indexes(topology: &Topology, data: Subnet, mgmt: Subnet, pins: &Pins) -> BTreeMap<String, u32> {
    let capacity = data.capacity().min(mgmt.capacity());
    let mut taken: BTreeSet<u32> = BTreeSet::new();
    let mut indexes = BTreeMap::new();
    let fixed = topology.hosts.iter().filter_map(|(name, host)| Some((name, data.index_of(host.address?)?)));
    let pinned = topology.hosts.keys().filter_map(|name| Some((name, *pins.get(name)?)));
    for (name, index) in fixed.chain(pinned) {
        if index < capacity && !indexes.contains_key(name) && taken.insert(index) {
            indexes.insert(name.clone(), index);
        }
    }
    for name in topology.hosts.keys().filter(|_| capacity > 0) {
        if indexes.contains_key(name) {
            continue;
        }
        let start = number(&["address", &topology.lab, name]) % capacity;
        if let Some(index) = first_free(&taken, start, capacity) {
            taken.insert(index);
            indexes.insert(name.clone(), index);
        }
    }
    indexes
}

/// The first number from `start` on, wrapping at `capacity`, that is not taken.
fn first_free(taken: &BTreeSet<u32>, start: u32, capacity: u32) -> Option<u32> {
    if taken.len() >= capacity as usize {
        return None;
    }
    let gap = |from: u32, to: u32| {
        let mut next = from;
        for index in taken.range(from..to) {
            if *index != next {
                break;
            }
            next += 1;
        }
        (next < to).then_some(next)
    };
    gap(start, capacity).or_else(|| gap(0, start))
}

fn followers(topology: &Topology, host: &str) -> Vec<String> {
    let follows = |spec: &crate::topology::Host| spec.follows.as_deref() == Some(host);
    topology.hosts.iter().filter(|(_, spec)| follows(spec)).map(|(name, _)| name.clone()).collect()
}

/// How many hosts stand between `host` and its primary. A circle, which the check reports, ends at the host count.
fn depth(topology: &Topology, host: &str) -> u32 {
    let mut depth = 0;
    let mut current = host;
    while let Some(next) = topology.hosts.get(current).and_then(|spec| spec.follows.as_deref()) {
        depth += 1;
        current = next;
        if depth as usize >= topology.hosts.len() {
            break;
        }
    }
    depth
}

/// A /24 of 10.64.0.0/10 (rarely used by offices and clouds) chosen by the name of the lab; data even, mgmt odd.
fn derived_subnet(lab: &str, offset: u32) -> Subnet {
    let pair = number(&["subnet", lab]) % (64 * 128);
    let address = (10 << 24) | (64 << 16) | ((pair * 2 + offset) << 8);
    Subnet::new(Ipv4Addr::from(address), 24).expect("24 is a prefix length")
}

fn digest(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"pgprov-1");
    for part in parts {
        hash.update([0]);
        hash.update(part.as_bytes());
    }
    hash.finalize().into()
}

fn number(parts: &[&str]) -> u32 {
    let hash = digest(parts);
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
}

/// A UUID of version 8 (custom) from a hash.
fn uuid(parts: &[&str]) -> String {
    let mut b = digest(parts);
    b[6] = (b[6] & 0x0f) | 0x80;
    b[8] = (b[8] & 0x3f) | 0x80;
    let hex: String = b[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// An address under QEMU's prefix; the other three bytes are a hash.
fn mac(parts: &[&str]) -> String {
    let b = digest(parts);
    format!("52:54:00:{:02x}:{:02x}:{:02x}", b[0], b[1], b[2])
}
