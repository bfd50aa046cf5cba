//! Reads what exists on the hypervisor.

use std::{collections::BTreeSet, fs, net::Ipv4Addr};

use pgplan::{
    machine::{Accel, POOL_NAME, POOL_UUID},
    observed::{AnyDomain, AnyNetwork, DomainState, HypervisorSeen, Infra, Inventory, PoolSeen, VolumeSeen},
    size::{Bytes, GIB, KIB},
    subnet::Subnet,
};
use virt::{
    connect::Connect,
    domain::{Domain, DomainState as RawState},
    network::Network,
    storage_pool::StoragePool,
    sys,
};

use super::{
    Error, Libvirt, QUICK, Raw, Result, SLOW,
    error::{is_missing, optional},
    pool::start,
    read,
};

/// Architecture that images are built for.
const ARCH: &str = "x86_64";

impl Libvirt {
    /// What exists of the lab, and what is in its way.
    ///
    /// # Errors
    /// When libvirt does not answer, or not with what can be read.
    pub fn observe(&self, lab: &str) -> Result<Infra> {
        Ok(self.inventory()?.infra(lab))
    }

    /// Everything on the hypervisor that could matter to a lab.
    ///
    /// # Errors
    /// As [`Libvirt::observe`].
    pub fn inventory(&self) -> Result<Inventory> {
        let (pool, volumes) = self.see_pool()?;
        let domains = self.see_domains()?;
        let networks = self.see_networks()?;
        let hypervisor = self.see_hypervisor(&domains)?;
        let (interfaces, routes) =
            if self.is_local() { (interfaces(), routes()) } else { (BTreeSet::new(), Vec::new()) };
        Ok(Inventory { hypervisor, pool, volumes, domains, networks, interfaces, routes })
    }

    /// How guests will run, and when not with KVM, why.
    ///
    /// That `/dev/kvm` exists proves nothing, nor that libvirt offers KVM: on some virtual machines both are true and
    /// no guest boots. The CPU has to have the extensions too; libvirt knows its flags, also on another machine.
    ///
    /// # Errors
    /// When libvirt does not answer in time.
    pub fn probe_accel(&self) -> Result<(Accel, Option<String>)> {
        let probe = |connect: &Connect| {
            let offered = connect.domain_capabilities(None, Some(ARCH), Some("q35"), Some("kvm"), 0);
            Ok((offered.map_err(|error| error.message().to_owned()), cpu_features(connect)))
        };
        let (offered, features) = self.call("probe for KVM", QUICK, probe)?;
        let reason = match (offered, features) {
            (Err(message), _) => Some(format!("libvirt does not offer KVM: {message}")),
            (Ok(_), Ok(features)) if features.iter().any(|name| name == "vmx" || name == "svm") => None,
            (Ok(_), Ok(_)) => Some("the CPU flags show neither vmx nor svm".to_owned()),
            (Ok(_), Err(message)) => Some(format!("libvirt does not tell the CPU flags: {message}")),
        };
        Ok((if reason.is_none() { Accel::Kvm } else { Accel::Emulated }, reason))
    }

    fn see_hypervisor(&self, domains: &[AnyDomain]) -> Result<HypervisorSeen> {
        let ask = |connect: &Connect| {
            let versions = (connect.lib_version()?, connect.hyp_version()?);
            Ok((
                connect.hostname()?,
                connect.capabilities()?,
                connect.node_info()?,
                connect.free_memory(),
                versions,
            ))
        };
        let operation = "ask for the capabilities of the hypervisor";
        let (hostname, capabilities, node, free, (libvirt, qemu)) = self.call(operation, QUICK, ask)?;
        let (arch, cpu) = read::host_cpu(&capabilities).map_err(|m| answer(operation, m))?;
        let (accel, accel_reason) = self.probe_accel()?;
        // libvirt adds up what it thinks its NUMA nodes have; on some virtual machines that is too little.
        let memory = meminfo("MemTotal:").filter(|_| self.is_local()).unwrap_or(node.memory * KIB);
        let promised: u64 = domains.iter().filter(|d| d.state.has_memory()).map(|d| d.memory.0).sum();
        let available = match meminfo("MemAvailable:").filter(|_| self.is_local()) {
            Some(available) => available,
            // The free memory that libvirt tells of is without what caches would give back. Of what guests may use
            // they may not have used all yet.
            None => memory.saturating_sub(promised + GIB).max(free.unwrap_or(0)),
        };
        Ok(HypervisorSeen {
            uri: self.uri.clone(),
            hostname,
            arch,
            cpu: pgplan::digest::short_hash(&[&cpu]),
            libvirt_version: version(libvirt),
            qemu_version: version(qemu),
            accel,
            accel_reason,
            cpus: node.cpus,
            memory: Bytes(memory),
            memory_available: Bytes(available),
        })
    }

    fn see_pool(&self) -> Result<(PoolSeen, Vec<VolumeSeen>)> {
        let ask = |connect: &Connect| {
            let Some(pool) = optional(connect.lookup_storage_pool_by_name(POOL_NAME))? else {
                return Ok(None);
            };
            let (uuid, xml) = (pool.uuid_string()?, pool.xml_desc(0)?);
            // What is in one that somebody stopped would pass for gone. It is started, by whoever looks.
            let active = uuid == POOL_UUID && (pool.is_active()? || start(&pool).is_ok());
            if !active {
                return Ok(Some((uuid, xml, active, 0, Vec::new())));
            }
            // Files that came and went without libvirt. It refuses while a volume is written: then its list will do.
            let _ = pool.refresh(0);
            Ok(Some((uuid, xml, active, pool.info()?.available, volumes(&pool)?)))
        };
        let operation = "read the storage pool";
        let Some((uuid, xml, active, free, volumes)) = self.call(operation, SLOW, ask)? else {
            return Ok((PoolSeen::Missing, Vec::new()));
        };
        if uuid != POOL_UUID {
            let owner = format!("a storage pool with UUID {uuid}, which pgprov did not make");
            return Ok((PoolSeen::Foreign(owner), Vec::new()));
        }
        let path = read::pool_path(&xml).map_err(|message| answer(operation, message))?;
        Ok((PoolSeen::Ours { active, path, free: Bytes(free) }, volumes))
    }

    fn see_domains(&self) -> Result<Vec<AnyDomain>> {
        self.call("list the domains", SLOW, |connect| {
            let domains = connect.list_all_domains(0)?;
            // One that is removed while we look is one that is not there.
            domains.iter().filter_map(|domain| optional(see_domain(domain)).transpose()).collect()
        })
    }

    fn see_networks(&self) -> Result<Vec<AnyNetwork>> {
        let operation = "list the networks";
        let seen = self.call(operation, SLOW, |connect| {
            let networks = connect.list_all_networks(0)?;
            networks
                .iter()
                .filter_map(|network| optional(see_network(network)).transpose())
                .collect::<Raw<Vec<_>>>()
        })?;
        let read = |(name, uuid, active, xml): (String, String, bool, String)| {
            let network = read::network(&xml).map_err(|message| answer(operation, message))?;
            let reservations = network.by_name();
            let read::Network { mark, bridge, subnets, .. } = network;
            Ok(AnyNetwork { name, uuid, mark, active, bridge, subnets, reservations })
        };
        seen.into_iter().map(read).collect()
    }
}

fn see_domain(domain: &Domain) -> Raw<AnyDomain> {
    let mark = domain_mark(domain)?;
    // Read of hosts only: what others have is not our business.
    let is_up = mark.is_some() && domain.is_active()?;
    Ok(AnyDomain {
        name: domain.name()?,
        uuid: domain.uuid_string()?,
        mark,
        state: domain_state(domain)?,
        unplugged: is_up && read::is_unplugged(&domain.xml_desc(0)?, "mgmt"),
        memory: Bytes(domain.max_memory()? * KIB),
    })
}

/// The mark that a domain carries.
pub(super) fn domain_mark(domain: &Domain) -> Raw<Option<pgplan::machine::Mark>> {
    let kind = i32::try_from(sys::VIR_DOMAIN_METADATA_ELEMENT).unwrap_or_default();
    let metadata = optional(domain.metadata(kind, Some(pgplan::machine::MARK_URI), 0))?;
    Ok(metadata.as_deref().and_then(read::domain_mark))
}

/// The state of a domain.
pub(super) fn domain_state(domain: &Domain) -> Raw<DomainState> {
    let (state, _) = domain.state()?;
    Ok(match state.unwrap_or(RawState::NoState) {
        RawState::Running | RawState::Blocked | RawState::Shutdown => DomainState::Running,
        RawState::Paused | RawState::PMSuspended => DomainState::Paused,
        RawState::Crashed => DomainState::Crashed,
        RawState::Shutoff | RawState::NoState => match domain.has_managed_save(0) {
            Ok(true) => DomainState::Saved,
            Ok(false) => DomainState::Off,
            Err(error) if is_missing(&error) => return Err(error),
            // The driver has no such thing.
            Err(_) => DomainState::Off,
        },
    })
}

/// Name, UUID, whether it is active, and the definition: the live one, with the reservations that hold now.
fn see_network(network: &Network) -> Raw<(String, String, bool, String)> {
    Ok((network.name()?, network.uuid_string()?, network.is_active()?, network.xml_desc(0)?))
}

fn volumes(pool: &StoragePool) -> Raw<Vec<VolumeSeen>> {
    let see = |volume: &virt::storage_vol::StorageVol| -> Raw<VolumeSeen> {
        let (name, info) = (volume.name()?, volume.info()?);
        let backing = read::backing_path(&volume.xml_desc(0)?);
        Ok(VolumeSeen { name, capacity: Bytes(info.capacity), allocation: Bytes(info.allocation), backing })
    };
    let volumes = pool.list_all_volumes(0)?;
    volumes.iter().filter_map(|volume| optional(see(volume)).transpose()).collect()
}

fn cpu_features(connect: &Connect) -> std::result::Result<Vec<String>, String> {
    let message = |error: virt::error::Error| error.message().to_owned();
    let (_, cpu) = read::host_cpu(&connect.capabilities().map_err(message)?)?;
    // The capabilities name a CPU model and what the machine has on top; this spells the model out.
    let expanded = connect.baseline_cpu(&[&cpu], sys::VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES);
    read::features(&expanded.map_err(message)?)
}

/// libvirt counts versions as 1000000 * major + 1000 * minor + micro.
fn version(number: u32) -> String {
    format!("{}.{}.{}", number / 1_000_000, number / 1000 % 1000, number % 1000)
}

fn answer(operation: &str, message: String) -> Error {
    Error::Answer { operation: operation.to_owned(), message }
}

/// A figure of `/proc/meminfo` of this machine, in bytes. `MemAvailable` is what can be had without swapping.
fn meminfo(key: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * KIB)
}

/// Network interfaces of this machine.
fn interfaces() -> BTreeSet<String> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Subnets that this machine has routes to, with the interface.
fn routes() -> Vec<(Subnet, String)> {
    parse_routes(&fs::read_to_string("/proc/net/route").unwrap_or_default())
}

/// `/proc/net/route`: a title, then interface, destination, ..., mask (the eighth); addresses in hexadecimal of the
/// machine's byte order. The default route is left out: it leads everywhere.
pub(super) fn parse_routes(text: &str) -> Vec<(Subnet, String)> {
    let address = |hex: &str| Some(Ipv4Addr::from(u32::from_str_radix(hex, 16).ok()?.to_ne_bytes()));
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let mask = u32::from(address(fields.get(7)?)?);
        let subnet = Subnet::new(address(fields.get(1)?)?, u8::try_from(mask.leading_ones()).ok()?)?;
        (mask != 0).then(|| (subnet, fields[0].to_owned()))
    };
    text.lines().skip(1).filter_map(route).collect()
}
