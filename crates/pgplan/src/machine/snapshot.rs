//! Boot snapshots: one machine of an image, booted once and saved with its memory, from which hosts are copied.
//!
//! The machine that is saved, the template, has the hardware of every host to come and nothing of their identity. Its
//! cables are not plugged in. A snapshot fits exactly one definition of hosts on one version of QEMU and libvirt: all
//! of that is hashed into its key, so that whatever changes, another snapshot is made.

use serde::{Deserialize, Serialize};
use serde_json::json;
use tera::Context;

use super::{Accel, BootImage, Hypervisor, MARK_URI, ROOT_PORTS, SLOW_FEATURES, render};
use crate::{digest::short_hash, size::KIB, topology::Vm};

/// Name of the virtio port on which a copy is told who it is.
pub const IDENTITY_PORT: &str = "dev.pgprov.identity";

/// Of the template, whose cables are not plugged in: a copy gets those of its host before they are.
const MACS: [&str; 2] = ["52:54:00:00:00:01", "52:54:00:00:00:02"];

/// Name of a boot snapshot: `IMAGE@KEY` in the pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Snapshot {
    /// Name of the image.
    pub image: String,
    /// Hash of everything that the saved memory depends on.
    pub key: String,
}

/// The files of a boot snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotPart {
    /// What the template wrote to its disk: an overlay of the image, under the disks of hosts.
    Disk,
    /// Its memory, as libvirt saves it.
    Memory,
    /// What its console said.
    Console,
    /// Empty; made last, so a snapshot that has it is whole.
    Complete,
}

impl SnapshotPart {
    const ALL: [Self; 4] = [Self::Disk, Self::Memory, Self::Console, Self::Complete];

    fn suffix(self) -> &'static str {
        match self {
            Self::Disk => ".qcow2",
            Self::Memory => ".memory",
            Self::Console => ".console",
            Self::Complete => ".complete",
        }
    }
}

impl Snapshot {
    /// Name of the volume of that part.
    pub fn volume(&self, part: SnapshotPart) -> String {
        format!("{}@{}{}", self.image, self.key, part.suffix())
    }

    /// The snapshot and its part that a volume of that name is.
    pub fn parse(volume: &str) -> Option<(Self, SnapshotPart)> {
        let (image, rest) = volume.split_once('@')?;
        let part = SnapshotPart::ALL.into_iter().find(|part| rest.ends_with(part.suffix()))?;
        let key = rest.strip_suffix(part.suffix())?;
        let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_hexdigit());
        (is_key && !image.is_empty()).then(|| (Self { image: image.to_owned(), key: key.to_owned() }, part))
    }
}

/// The machine that a boot snapshot is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// What comes of it.
    pub snapshot: Snapshot,
    /// Name of its domain, which exists only while the snapshot is made. No host's domain can have it: it has dots.
    pub domain: String,
    /// The domain.
    pub xml: String,
}

/// The template of hosts with that hardware. `software` names the versions of QEMU and libvirt, and the CPU when guests
/// see it. Nothing for an image that boots by itself: what it does until it is idle is not known.
pub fn template(vm: &Vm, hypervisor: &Hypervisor, image: &BootImage, software: &str) -> Option<Template> {
    image.kernel.as_ref()?;
    let xml = |key: &str| {
        let snapshot = Snapshot { image: image.name.clone(), key: key.to_owned() };
        let path = |part| format!("{}/{}", hypervisor.pool_path, snapshot.volume(part));
        let mut context = hardware_context(vm, hypervisor, image);
        context.insert("template", &snapshot);
        context.insert("domain", &domain_name(key));
        context.insert("mark", "");
        context.insert("mark_uri", MARK_URI);
        let nics = ["mgmt", "data"].iter().zip(MACS).map(|(kind, mac)| json!({"kind": kind, "mac": mac}));
        context.insert("nics", &nics.collect::<Vec<_>>());
        context.insert("disk", &path(SnapshotPart::Disk));
        context.insert("console", &path(SnapshotPart::Console));
        (snapshot, render("domain.xml", &context))
    };
    let key = short_hash(&[software, &xml("").1]);
    let (snapshot, xml) = xml(&key);
    Some(Template { domain: domain_name(&key), snapshot, xml })
}

fn domain_name(key: &str) -> String {
    format!("pgprov.boot.{key}")
}

/// What is the same for all machines of a lab.
pub(super) fn hardware_context(vm: &Vm, hypervisor: &Hypervisor, image: &BootImage) -> Context {
    let kvm = hypervisor.accel == Accel::Kvm;
    let mut context = Context::new();
    context.insert("image", image);
    context.insert("kvm", &kvm);
    context.insert("domain_type", if kvm { "kvm" } else { "qemu" });
    context.insert("slow_features", &SLOW_FEATURES);
    context.insert("cpus", &vm.cpus);
    context.insert("memory_kib", &(vm.memory.0 / KIB));
    context.insert("root_ports", &ROOT_PORTS);
    context.insert("identity_port", IDENTITY_PORT);
    context
}
