//! What libvirt is told: the XML of domains, networks, the storage pool and its volumes.
//!
//! Two kinds of mark say what is ours. Domains and networks carry a [`Mark`] in their `<metadata>`: the lab, the host
//! or network, and the `spec`, a hash of the definition, by which a changed definition is seen without comparing XML
//! (libvirt rewrites it). Volumes have no metadata in libvirt: they are ours by lying in our own pool, which is
//! recognised by [`POOL_UUID`], and belong to a lab by their names (see [`Volume`]).
//!
//! The XML itself is in the templates of the folder `machine/`, as readable as XML gets; every value is escaped.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use tera::{Context, Tera};

pub use snapshot::{IDENTITY_PORT, Snapshot, SnapshotPart, Template, template};

use crate::{
    lab::{Host, Lab, Network, Nic, disk_name},
    size::Bytes,
    topology::{DiskFormat, Image},
};

/// Namespace of our element in `<metadata>`.
pub const MARK_URI: &str = "https://pgprov.dev/xml/1";
/// Name of the storage pool of all labs.
pub const POOL_NAME: &str = "pgprov";
/// UUID of that pool: a pool of the same name with another UUID is not ours.
pub const POOL_UUID: &str = "3c1f6f5e-70c9-8d0e-9b6a-7067706c6f76";
/// Folder of the pool unless told otherwise.
pub const POOL_PATH: &str = "/var/lib/libvirt/images/pgprov";

/// PCIe ports for devices: disk, two NICs, virtio-serial, rng, and two to spare.
const ROOT_PORTS: u32 = 7;
/// What a CPU of QEMU's has that makes an emulated host slower, by a sixth all in all: where it says that it copies strings fast
/// (erms, fsrm) they are copied byte by byte, and the others make each change into the kernel, or each look at a page, longer.
const SLOW_FEATURES: [&str; 7] = ["erms", "fsrm", "la57", "pku", "smap", "smep", "umip"];

/// What the definitions have to know about the hypervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hypervisor {
    /// How guests run.
    pub accel: Accel,
    /// Folder of the storage pool, on the hypervisor.
    pub pool_path: String,
}

/// How guests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// With the CPU's help.
    Kvm,
    /// In software: works everywhere, ten times slower or more.
    Emulated,
}

/// An image in the pool, as hosts boot it. Paths are those on the hypervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootImage {
    /// Name of the image.
    pub name: String,
    /// The disk that overlays are based on.
    pub disk: String,
    /// Format of that disk.
    pub format: DiskFormat,
    /// Kernel for direct boot; without it the boot loader on the disk decides.
    pub kernel: Option<String>,
    /// Its initial file system.
    pub initrd: Option<String>,
    /// Its command line; nothing without a kernel.
    pub cmdline: String,
}

/// A definition and the hash by which a change of it is seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Definition {
    /// For libvirt; carries the mark.
    pub xml: String,
    /// First 16 hex digits of the SHA-256 of the definition without its mark.
    pub spec: String,
}

/// Our element in the metadata of a domain or network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The lab.
    pub lab: String,
    /// Host (of a domain) or kind (of a network): `m`, `data`.
    pub part: String,
    /// Hash of the definition, see [`Definition::spec`].
    pub spec: String,
    /// Name of the image that the host was made from; empty for networks.
    pub image: String,
}

/// A volume of the pool, by its name.
///
/// `LAB--HOST.qcow2` is a disk, `LAB--HOST.1.qcow2` a layer over it, `LAB--HOST.console` what its serial console said,
/// `LAB--HOST.1.NAME.memory` its memory in a checkpoint; `IMAGE@KEY` begins the parts of a boot snapshot; everything else
/// belongs to an image. Names of labs have no double hyphen, so the first one ends the name of the lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Volume {
    /// Disk of a host, or a layer of it.
    Disk {
        /// The lab.
        lab: String,
        /// The host.
        host: String,
        /// Which layer: the one with the highest number is written to, those below it belong to checkpoints.
        layer: u32,
    },
    /// Memory of a host in a checkpoint. The layer of its disk that it goes with is never written to again.
    Memory {
        /// The lab.
        lab: String,
        /// The host.
        host: String,
        /// The layer of the disk.
        layer: u32,
        /// Name of the checkpoint.
        checkpoint: String,
    },
    /// Another file of a host: console log, rotated console log.
    OfHost {
        /// The lab.
        lab: String,
        /// The host.
        host: String,
    },
    /// A part of an image.
    Image {
        /// Name of the image.
        name: String,
        /// Which part.
        part: ImagePart,
    },
    /// A part of a boot snapshot.
    Snapshot {
        /// Which snapshot.
        snapshot: Snapshot,
        /// Which part.
        part: SnapshotPart,
    },
    /// Somebody else's file.
    Unknown,
}

/// The files of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImagePart {
    /// The disk, in qcow2.
    Qcow2,
    /// The disk, as it is.
    Raw,
    /// The kernel.
    Kernel,
    /// The initial file system.
    Initrd,
    /// Empty; written last, so an image that has it has everything.
    Complete,
}

impl ImagePart {
    const ALL: [Self; 5] = [Self::Qcow2, Self::Raw, Self::Kernel, Self::Initrd, Self::Complete];

    /// Name of the volume of that part of the image.
    pub fn volume(self, image: &str) -> String {
        format!("{image}{}", self.suffix())
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Qcow2 => ".qcow2",
            Self::Raw => ".raw",
            Self::Kernel => ".vmlinuz",
            Self::Initrd => ".initrd.img",
            Self::Complete => ".complete",
        }
    }
}

impl From<DiskFormat> for ImagePart {
    fn from(format: DiskFormat) -> Self {
        match format {
            DiskFormat::Qcow2 => Self::Qcow2,
            DiskFormat::Raw => Self::Raw,
        }
    }
}

impl Volume {
    /// What the volume of that name is.
    pub fn parse(name: &str) -> Self {
        if let Some((snapshot, part)) = Snapshot::parse(name) {
            return Self::Snapshot { snapshot, part };
        }
        let Some((lab, rest)) = name.split_once("--") else {
            return Self::parse_image(name);
        };
        let Some((host, kind)) = rest.split_once('.') else {
            return Self::Unknown;
        };
        let (lab, host) = (lab.to_owned(), host.to_owned());
        match kind {
            "qcow2" => Self::Disk { lab, host, layer: 0 },
            "console" => Self::OfHost { lab, host },
            _ if kind.starts_with("console.") => Self::OfHost { lab, host },
            _ => Self::parse_layer(lab, host, kind),
        }
    }

    fn parse_layer(lab: String, host: String, kind: &str) -> Self {
        if let Some(Ok(layer)) = kind.strip_suffix(".qcow2").map(str::parse) {
            return Self::Disk { lab, host, layer };
        }
        let memory = kind.strip_suffix(".memory").and_then(|rest| rest.split_once('.'));
        match memory.map(|(layer, name)| (layer.parse(), name)) {
            Some((Ok(layer), name)) if !name.is_empty() => {
                Self::Memory { lab, host, layer, checkpoint: name.to_owned() }
            }
            _ => Self::Unknown,
        }
    }

    fn parse_image(name: &str) -> Self {
        let part = |part: ImagePart| Some((name.strip_suffix(part.suffix())?.to_owned(), part));
        match ImagePart::ALL.into_iter().find_map(part) {
            Some((name, part)) if !name.is_empty() => Self::Image { name, part },
            _ => Self::Unknown,
        }
    }

    /// Lab and host, for what belongs to one.
    pub fn host(&self) -> Option<(&str, &str)> {
        match self {
            Self::Disk { lab, host, .. } | Self::Memory { lab, host, .. } | Self::OfHost { lab, host } => {
                Some((lab, host))
            }
            Self::Image { .. } | Self::Snapshot { .. } | Self::Unknown => None,
        }
    }
}

impl BootImage {
    /// The image of that name in the pool: a stock image boots by its boot loader, ours by its kernel with `cmdline`.
    pub fn in_pool(pool_path: &str, name: &str, image: &Image, cmdline: &str) -> Self {
        let path = |part: ImagePart| format!("{pool_path}/{}", part.volume(name));
        let (format, direct) = match image {
            Image::Built { .. } => (DiskFormat::Qcow2, true),
            // Downloads are kept as qcow2, whatever they were.
            Image::Stock(_) => (DiskFormat::Qcow2, false),
        };
        Self {
            name: name.to_owned(),
            disk: path(format.into()),
            format,
            kernel: direct.then(|| path(ImagePart::Kernel)),
            initrd: direct.then(|| path(ImagePart::Initrd)),
            cmdline: if direct { cmdline.to_owned() } else { String::new() },
        }
    }
}

/// Name of the volume that the serial console of a host is logged to.
pub fn console_name(lab: &str, host: &str) -> String {
    format!("{lab}--{host}.console")
}

/// Name of the volume with the memory of a host in a checkpoint, which goes with that layer of its disk.
pub fn memory_name(lab: &str, host: &str, layer: u32, checkpoint: &str) -> String {
    format!("{lab}--{host}.{layer}.{checkpoint}.memory")
}

/// The domain of a host whose disk has that layer on top. `ssh_public_key` is one line as in authorized_keys.
///
/// The layer is no part of the `spec`: it changes with every checkpoint, and with it nothing that the guest could see.
pub fn domain(
    lab: &Lab,
    host: &Host,
    layer: u32,
    hypervisor: &Hypervisor,
    image: &BootImage,
    ssh_public_key: &str,
) -> Definition {
    let in_pool = |name: String| format!("{}/{name}", hypervisor.pool_path);
    let nics = [(&lab.mgmt, &host.mgmt), (&lab.data, &host.data)]
        .map(|(network, nic)| json!({"kind": network.kind, "network": network.name, "mac": nic.mac}));
    let mut context = snapshot::hardware_context(&lab.vm, hypervisor, image);
    context.insert("template", &false);
    context.insert("domain", &host.domain);
    context.insert("nics", &nics);
    context.insert("lab", lab);
    context.insert("host", host);
    context.insert("disk", &in_pool(disk_name(&lab.name, &host.name, 0)));
    context.insert("console", &in_pool(console_name(&lab.name, &host.name)));
    context.insert("ssh_public_key", ssh_public_key.trim());
    let spec = marked("domain.xml", context.clone()).spec;
    context.insert("disk", &in_pool(disk_name(&lab.name, &host.name, layer)));
    Definition { xml: with_mark("domain.xml", context, &spec), spec }
}

/// A network of the lab, with a reservation for every host.
///
/// Hosts are no part of its `spec`: they are added and removed while the network runs, see [`reservation`]. Neither is its own hardware
/// address, which networks of earlier versions do not have.
pub fn network(lab: &Lab, network: &Network) -> Definition {
    let reservations: Vec<String> =
        lab.hosts.iter().map(|host| reservation(&host.name, nic(host, network))).collect();
    let mut context = Context::new();
    context.insert("lab", lab);
    context.insert("network", network);
    context.insert("nat", &(network.kind == lab.mgmt.kind && matches!(lab.image, Image::Stock(_))));
    context.insert("reservations", &Vec::<String>::new());
    context.insert("mac", "");
    let spec = marked("network.xml", context.clone()).spec;
    context.insert("reservations", &reservations);
    context.insert("mac", &network.mac);
    Definition { xml: with_mark("network.xml", context, &spec), spec }
}

/// The network of a lab that nobody is on, and the name of it.
pub fn isolated(lab: &str) -> (String, Definition) {
    let mut context = Context::new();
    context.insert("lab", lab);
    context.insert("bridge", &crate::lab::bridge_name(lab, "isolated"));
    (format!("pgprov-{lab}-isolated"), marked("isolated.xml", context))
}

/// The interface of the host on that network.
pub fn nic<'a>(host: &'a Host, network: &Network) -> &'a Nic {
    if network.kind == "data" { &host.data } else { &host.mgmt }
}

/// The `<host>` element of a network's `<dhcp>`: the address of one host.
pub fn reservation(host: &str, nic: &Nic) -> String {
    let mut context = Context::new();
    context.insert("mac", &nic.mac);
    context.insert("name", host);
    context.insert("address", &nic.address);
    render("reservation.xml", &context)
}

/// The storage pool, a folder at `path` on the hypervisor.
pub fn pool(path: &str) -> String {
    let mut context = Context::new();
    context.insert("name", POOL_NAME);
    context.insert("uuid", POOL_UUID);
    context.insert("path", path);
    render("pool.xml", &context)
}

/// A disk of `size` that is an overlay: what it does not have itself is read from the disk at `backing`, of that format.
pub fn overlay_volume(name: &str, size: Bytes, backing: &str, format: DiskFormat) -> String {
    let mut context = volume(name, size.0, "qcow2", "0600");
    context.insert("backing", &json!({"disk": backing, "format": format}));
    render("volume.xml", &context)
}

/// A volume of `length` bytes to upload a file into. Of format raw whatever the file is: libvirt shall not write into
/// it, and sees the true format when it looks at the file next.
pub fn upload_volume(name: &str, length: u64) -> String {
    render("volume.xml", &volume(name, length, "raw", "0644"))
}

fn volume(name: &str, capacity: u64, format: &str, mode: &str) -> Context {
    let mut context = Context::new();
    context.insert("name", name);
    context.insert("capacity", &capacity);
    context.insert("format", format);
    context.insert("mode", mode);
    context.insert("backing", &None::<()>);
    context
}

static TEMPLATES: LazyLock<Tera> = LazyLock::new(|| {
    let mut tera = Tera::new();
    // Names that end in .xml are escaped.
    tera.add_raw_templates([
        ("domain.xml", include_str!("machine/domain.xml")),
        ("isolated.xml", include_str!("machine/isolated.xml")),
        ("network.xml", include_str!("machine/network.xml")),
        ("pool.xml", include_str!("machine/pool.xml")),
        ("reservation.xml", include_str!("machine/reservation.xml")),
        ("volume.xml", include_str!("machine/volume.xml")),
    ])
    .expect("the templates are part of the program and covered by tests");
    tera
});

/// Renders the template, hashes it, and renders it again with the mark that carries the hash.
fn marked(template: &str, mut context: Context) -> Definition {
    context.insert("mark", "");
    context.insert("mark_uri", MARK_URI);
    let hash = Sha256::digest(render(template, &context));
    let spec: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Definition { xml: with_mark(template, context, &spec), spec }
}

fn with_mark(template: &str, mut context: Context, spec: &str) -> String {
    context.insert("mark", spec);
    context.insert("mark_uri", MARK_URI);
    render(template, &context)
}

fn render(template: &str, context: &Context) -> String {
    let text = TEMPLATES.render(template, context).expect("the context has what the template names");
    text.trim_end().to_owned()
}

mod snapshot;
#[cfg(test)]
mod tests;
