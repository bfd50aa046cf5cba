//! The yardstick: the same VMs from the same image, booted at once by nothing but libvirt, until their sshd greets.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use pgplan::{
    lab::{self, Lab, Pins},
    machine::{self, BootImage, POOL_PATH},
    schema,
    topology::Topology,
    yaml::Limits,
};
use pgprov::{libvirt::Libvirt, ssh};

const LIMIT: Duration = Duration::from_secs(300);
/// Never used to log in: the bench only waits for the greeting.
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA bench";

/// Boots all hosts of the topology under another lab name, and takes them away again.
pub fn boot(topology: &Path) -> anyhow::Result<Duration> {
    let text =
        std::fs::read_to_string(topology)?.replace("lab: lab", "lab: bare").replace("10.77.10", "10.77.20");
    let (topology, _) = schema::load::<Topology>(&text, Limits::default()).finish();
    let lab = lab::derive(&topology.context("the topology has errors")?, &Pins::new());
    let libvirt = Libvirt::connect(None)?;
    let result = boot_all(&libvirt, &lab);
    libvirt.remove_lab(&lab.name)?;
    result
}

fn boot_all(libvirt: &Libvirt, lab: &Lab) -> anyhow::Result<Duration> {
    let infra = libvirt.observe(&lab.name)?;
    let hypervisor = infra.hypervisor(POOL_PATH);
    let name = infra.images.iter().next_back().context("no image in the pool: run `pgprov up` first")?;
    let image = BootImage::in_pool(&hypervisor.pool_path, name, &lab.image, pgprov::image::CMDLINE);
    let begun = Instant::now();
    for network in lab.networks() {
        libvirt.create_network(&lab.name, &network.kind, &machine::network(lab, network).xml)?;
    }
    for host in &lab.hosts {
        let disk = machine::overlay_volume(
            &lab::disk_name(&lab.name, &host.name, 0),
            lab.vm.disk,
            &image.disk,
            image.format,
        );
        libvirt.create_disk(&lab.name, &host.name, 0, &disk)?;
        libvirt.define_host(
            &lab.name,
            &host.name,
            &machine::domain(lab, host, 0, &hypervisor, &image, KEY).xml,
        )?;
    }
    let waits: BTreeMap<&str, thread::JoinHandle<anyhow::Result<()>>> = lab
        .hosts
        .iter()
        .map(|host| {
            let (libvirt, lab, name) = (libvirt.clone(), lab.name.clone(), host.name.clone());
            let address = SocketAddr::from((host.mgmt.address, 22));
            let wait = move || {
                libvirt.start_host(&lab, &name)?;
                ssh::wait_for_banner(&name, address, Instant::now() + LIMIT)?;
                Ok(())
            };
            (host.name.as_str(), thread::spawn(wait))
        })
        .collect();
    for (host, wait) in waits {
        wait.join().map_err(|_| anyhow::anyhow!("waiting for {host} panicked"))??;
    }
    Ok(begun.elapsed())
}
