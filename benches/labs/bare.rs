//! The yardstick: the same VMs from the same image, booted at once by nothing but libvirt, until they take connections for SSH, and
//! until their sshd greets. And the
//! same with hosts copied from the boot snapshot, and saved and restored by libvirt alone; and the same VMs from an image
//! of Debian's packages as they are, and from a stock cloud image, which is what other provisioners start from.

use std::{
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use pgplan::{
    lab::{self, Host, Lab, Pins},
    machine::{self, BootImage, ImagePart, POOL_PATH, SnapshotPart},
    schema,
    topology::{DiskFormat, Topology},
    yaml::Limits,
};
use pgprov::{libvirt::Libvirt, snapshot::Copier, ssh};

/// What an image of Debian's packages boots with: see scripts/plain-image.
const PLAIN_CMDLINE: &str = "root=/dev/vda rw console=ttyS0 net.ifnames=0";
/// Four stock images on two emulated cores take minutes.
const LIMIT: Duration = Duration::from_secs(900);
/// Never used to log in: the bench only waits for the greeting.
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA bench";

/// How hosts come up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// They boot our image.
    Boot,
    /// They are copied from the boot snapshot, which has to be there.
    Copy,
    /// They boot an image of the same packages as they are, with Debian's kernel and initrd.
    Plain,
    /// They boot a stock cloud image, by its boot loader.
    Stock,
}

/// Name of the stock image in the pool.
pub const STOCK: &str = "bench-stock";
/// Name there of the image of Debian's packages as they are.
pub const PLAIN: &str = "bench-plain";

/// An image in the pool, until this is dropped.
pub struct Image(Libvirt, &'static str);

impl Image {
    /// Copies it there.
    pub fn upload(name: &'static str, parts: &[(ImagePart, PathBuf)]) -> anyhow::Result<Self> {
        let image = Self(Libvirt::connect(None)?, name);
        image.0.upload_image(name, parts, &mut |_, _| {})?;
        Ok(image)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // The next bench removes what this one could not.
        let _ = self.0.remove_image(self.1);
    }
}

/// When the last of all hosts was as far.
#[derive(Clone, Copy, Default)]
pub struct Reached {
    /// It has been told who it is and its cables are plugged in: what `up` goes on from. Nothing for one that boots.
    pub told: Duration,
    /// Its port for SSH takes connections: that of systemd, in images whose sshd starts with the first.
    pub open: Duration,
    /// Its sshd has greeted the first who came.
    pub greets: Duration,
}

/// How long a connection may take to be accepted, and to be greeted, until another one is tried.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));
/// How long until then.
const PAUSE: Duration = Duration::from_millis(50);

/// Brings all hosts of the topology up under another lab name, and takes them away again.
pub fn hosts(topology: &Path, image_name: &str, way: Way) -> anyhow::Result<Reached> {
    let mut text =
        std::fs::read_to_string(topology)?.replace("lab: lab", "lab: bare").replace("10.77.10", "10.77.20");
    let image_name = match way {
        Way::Boot | Way::Copy => image_name,
        Way::Plain => PLAIN,
        Way::Stock => {
            let stock = format!("image: {{ url: file:///nowhere, sha256: {} }}", "a".repeat(64));
            text = text.replace("image: debian-13", &stock);
            STOCK
        }
    };
    let (topology, findings) = schema::load::<Topology>(&text, Limits::default()).finish();
    let topology = topology.with_context(|| format!("the topology has errors: {findings:?}"))?;
    let lab = lab::derive(&topology, &Pins::new());
    let libvirt = Libvirt::connect(None)?;
    let result = all_up(&libvirt, &lab, image_name, way);
    libvirt.remove_lab(&lab.name)?;
    result
}

/// The image that a lab runs on.
pub fn image_of(lab: &str) -> anyhow::Result<String> {
    let infra = Libvirt::connect(None)?.observe(lab)?;
    infra.domains.into_values().next().map(|domain| domain.image).context("the lab has no hosts")
}

/// Saves the hosts of a lab by libvirt alone, all at once, and returns how long it takes to restore them.
pub fn restore(lab: &str) -> anyhow::Result<Duration> {
    let libvirt = Libvirt::connect(None)?;
    let hosts: Vec<String> = libvirt.observe(lab)?.domains.into_keys().collect();
    let each = |work: fn(&Libvirt, &str, &str) -> pgprov::libvirt::Result| -> anyhow::Result<()> {
        thread::scope(|scope| {
            let threads: Vec<_> =
                hosts.iter().map(|host| scope.spawn(|| work(&libvirt, lab, host))).collect();
            for thread in threads {
                thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
            }
            Ok(())
        })
    };
    each(Libvirt::save_host)?;
    let begun = Instant::now();
    each(Libvirt::start_host)?;
    Ok(begun.elapsed())
}

/// Waits until a host takes connections, and greets.
fn reach(address: SocketAddr, begun: Instant) -> anyhow::Result<Reached> {
    let mut open = None;
    while begun.elapsed() < LIMIT {
        if let Ok(stream) = TcpStream::connect_timeout(&address, PATIENCE.0) {
            let open = *open.get_or_insert_with(|| begun.elapsed());
            stream.set_read_timeout(Some(PATIENCE.1))?;
            let mut line = String::new();
            if BufReader::new(stream).read_line(&mut line).is_ok() && line.starts_with("SSH-") {
                return Ok(Reached { told: Duration::ZERO, open, greets: begun.elapsed() });
            }
        }
        thread::sleep(PAUSE);
    }
    anyhow::bail!("{address} did not greet within {} s", LIMIT.as_secs())
}

fn all_up(libvirt: &Libvirt, lab: &Lab, image_name: &str, way: Way) -> anyhow::Result<Reached> {
    let infra = libvirt.observe(&lab.name)?;
    let hypervisor = infra.hypervisor(POOL_PATH);
    let name = image_name;
    let cmdline = if way == Way::Plain { PLAIN_CMDLINE } else { pgprov::image::CMDLINE };
    let image = BootImage::in_pool(&hypervisor.pool_path, name, &lab.image, cmdline);
    let template = match way {
        Way::Boot | Way::Plain | Way::Stock => None,
        Way::Copy => Some(
            machine::template(&lab.vm, &hypervisor, &image, &infra.hypervisor.software())
                .context("an image that is not ours")?,
        ),
    };
    let (base, format) = match &template {
        None => (image.disk.clone(), image.format),
        Some(template) => {
            let disk = template.snapshot.volume(SnapshotPart::Disk);
            (format!("{}/{disk}", hypervisor.pool_path), DiskFormat::Qcow2)
        }
    };
    let folder = tempfile::tempdir()?;
    let begun = Instant::now();
    for network in lab.networks() {
        libvirt.create_network(&lab.name, &network.kind, &machine::network(lab, network).xml)?;
    }
    for host in &lab.hosts {
        let disk =
            machine::overlay_volume(&lab::disk_name(&lab.name, &host.name, 0), lab.vm.disk, &base, format);
        libvirt.create_disk(&lab.name, &host.name, 0, &disk)?;
        libvirt.define_host(
            &lab.name,
            &host.name,
            &machine::domain(lab, host, 0, &hypervisor, &image, KEY).xml,
        )?;
    }
    let turn = Mutex::new(());
    let copier = template.as_ref().map(|template| Copier {
        libvirt,
        lab,
        template,
        ssh_public_key: KEY,
        pool_path: &hypervisor.pool_path,
        turn: &turn,
        lock_dir: folder.path(),
    });
    let one = |host: &Host| -> anyhow::Result<Reached> {
        let address = SocketAddr::from((host.mgmt.address, 22));
        let target = ssh::Target {
            name: host.name.clone(),
            addr: address,
            user: "root".to_owned(),
            key_file: folder.path().join("key"),
            known_hosts: folder.path().join("known_hosts"),
        };
        match &copier {
            None => libvirt.start_host(&lab.name, &host.name)?,
            Some(copier) => copier.copy(host, &target)?,
        }
        let told = begun.elapsed();
        Ok(Reached { told, ..reach(address, begun)? })
    };
    thread::scope(|scope| {
        let threads: Vec<_> = lab.hosts.iter().map(|host| scope.spawn(|| one(host))).collect();
        let mut last = Reached::default();
        for thread in threads {
            let host = thread.join().map_err(|_| anyhow::anyhow!("waiting for a host panicked"))??;
            last = Reached {
                told: last.told.max(host.told),
                open: last.open.max(host.open),
                greets: last.greets.max(host.greets),
            };
        }
        Ok(last)
    })
}
