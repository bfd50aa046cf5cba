//! The yardstick: the same VMs from the same image, booted at once by nothing but libvirt, until their sshd greets. And the
//! same with hosts copied from the boot snapshot, and saved and restored by libvirt alone.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use pgplan::{
    lab::{self, Host, Lab, Pins},
    machine::{self, BootImage, POOL_PATH, SnapshotPart},
    schema,
    topology::{DiskFormat, Topology},
    yaml::Limits,
};
use pgprov::{libvirt::Libvirt, snapshot::Copier, ssh};

const LIMIT: Duration = Duration::from_secs(300);
/// Never used to log in: the bench only waits for the greeting.
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA bench";

/// How hosts come up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// They boot.
    Boot,
    /// They are copied from the boot snapshot, which has to be there.
    Copy,
}

/// Brings all hosts of the topology up under another lab name, and takes them away again.
pub fn hosts(topology: &Path, image_name: &str, way: Way) -> anyhow::Result<Duration> {
    let text =
        std::fs::read_to_string(topology)?.replace("lab: lab", "lab: bare").replace("10.77.10", "10.77.20");
    let (topology, _) = schema::load::<Topology>(&text, Limits::default()).finish();
    let lab = lab::derive(&topology.context("the topology has errors")?, &Pins::new());
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

fn all_up(libvirt: &Libvirt, lab: &Lab, image_name: &str, way: Way) -> anyhow::Result<Duration> {
    let infra = libvirt.observe(&lab.name)?;
    let hypervisor = infra.hypervisor(POOL_PATH);
    let name = image_name;
    let image = BootImage::in_pool(&hypervisor.pool_path, name, &lab.image, pgprov::image::CMDLINE);
    let template = machine::template(&lab.vm, &hypervisor, &image, &infra.hypervisor.software())
        .context("an image that is not ours")?;
    let below = template.snapshot.volume(SnapshotPart::Disk);
    let (base, format) = match way {
        Way::Boot => (image.disk.clone(), image.format),
        Way::Copy => (format!("{}/{below}", hypervisor.pool_path), DiskFormat::Qcow2),
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
    let copier = Copier {
        libvirt,
        lab,
        template: &template,
        ssh_public_key: KEY,
        pool_path: &hypervisor.pool_path,
        turn: &turn,
        lock_dir: folder.path(),
    };
    let one = |host: &Host| -> anyhow::Result<()> {
        let address = SocketAddr::from((host.mgmt.address, 22));
        let target = ssh::Target {
            name: host.name.clone(),
            addr: address,
            user: "root".to_owned(),
            key_file: folder.path().join("key"),
            known_hosts: folder.path().join("known_hosts"),
        };
        match way {
            Way::Boot => libvirt.start_host(&lab.name, &host.name)?,
            Way::Copy => copier.copy(host, &target)?,
        }
        ssh::wait_for_banner(&host.name, address, Instant::now() + LIMIT)?;
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = lab.hosts.iter().map(|host| scope.spawn(|| one(host))).collect();
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("waiting for a host panicked"))??;
        }
        anyhow::Ok(())
    })?;
    Ok(begun.elapsed())
}
