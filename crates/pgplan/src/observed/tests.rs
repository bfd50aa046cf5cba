use super::*;
use crate::{
    lab::derive,
    machine::{self, BootImage},
    topology::{DiskFormat, Topology},
};

fn lab(name: &str, network: &str, hosts: &str) -> Lab {
    let text = format!(r#"{{"lab": "{name}", "network": "{network}", "hosts": {{{hosts}}}}}"#);
    let topology: Topology = serde_json::from_str(&text).unwrap();
    derive(&topology, &Pins::new())
}

fn two_hosts() -> Lab {
    lab(
        "lab",
        "10.77.10.0/24",
        r#""m": {"roles": ["postgres"]}, "s": {"roles": ["postgres"], "follows": "m"}"#,
    )
}

fn empty() -> Inventory {
    Inventory {
        hypervisor: HypervisorSeen {
            uri: "qemu:///system".into(),
            hostname: "hv".into(),
            arch: "x86_64".into(),
            libvirt_version: "9.0.0".into(),
            qemu_version: "10.0.2".into(),
            cpu: "00".into(),
            accel: Accel::Kvm,
            accel_reason: None,
            cpus: 2,
            memory: Bytes(1 << 34),
            memory_available: Bytes(1 << 33),
        },
        pool: PoolSeen::Missing,
        volumes: Vec::new(),
        domains: Vec::new(),
        networks: Vec::new(),
        interfaces: BTreeSet::from(["lo".into(), "eth0".into()]),
        routes: vec![("192.168.1.0/24".parse().unwrap(), "eth0".into())],
    }
}

/// What libvirt would tell after `lab` was made.
fn add(inventory: &mut Inventory, lab: &Lab) {
    for network in lab.networks() {
        let reserved = |host: &crate::lab::Host| (host.name.clone(), machine::nic(host, network).address);
        inventory.networks.push(AnyNetwork {
            name: network.name.clone(),
            uuid: network.uuid.clone(),
            mark: Some(mark(&lab.name, &network.kind)),
            active: true,
            bridge: Some(network.bridge.clone()),
            subnets: vec![network.subnet],
            reservations: lab.hosts.iter().map(reserved).collect(),
        });
        inventory.interfaces.insert(network.bridge.clone());
        inventory.routes.push((network.subnet, network.bridge.clone()));
    }
    for host in &lab.hosts {
        inventory.domains.push(AnyDomain {
            name: host.domain.clone(),
            uuid: host.uuid.clone(),
            mark: Some(mark(&lab.name, &host.name)),
            unplugged: false,
            state: DomainState::Running,
            memory: lab.vm.memory,
        });
        for name in
            [crate::lab::disk_name(&lab.name, &host.name, 0), machine::console_name(&lab.name, &host.name)]
        {
            let backing = name.ends_with(".qcow2").then(|| "/pool/debian-13-00.qcow2".to_owned());
            let (capacity, allocation) = (lab.vm.disk, Bytes(1024));
            inventory.volumes.push(VolumeSeen { name, capacity, allocation, backing });
        }
    }
    inventory.pool = PoolSeen::Ours { active: true, path: "/pool".into(), free: Bytes(1 << 40) };
}

fn mark(lab: &str, part: &str) -> Mark {
    Mark { lab: lab.into(), part: part.into(), spec: "s".into(), image: "debian-13-00".into() }
}

fn image_volume(inventory: &mut Inventory, name: &str) {
    let (capacity, allocation) = (Bytes(1024), Bytes(1024));
    inventory.volumes.push(VolumeSeen { name: name.into(), capacity, allocation, backing: None });
}

#[test]
fn a_lab_sees_itself_and_nothing_in_its_way() {
    let lab = two_hosts();
    let mut inventory = empty();
    add(&mut inventory, &lab);
    let infra = inventory.infra("lab");
    assert_eq!(infra.domains.keys().collect::<Vec<_>>(), ["m", "s"]);
    assert_eq!(infra.networks.keys().collect::<Vec<_>>(), ["data", "mgmt"]);
    assert_eq!(infra.disks["m"].image.as_deref(), Some("debian-13-00"));
    assert_eq!(infra.clashes(&lab), []);
    assert_eq!(infra.hypervisor("/other").pool_path, "/pool");
}

#[test]
fn what_others_have_is_in_the_way() {
    let lab = two_hosts();
    let mut inventory = empty();
    add(&mut inventory, &lab);
    // Unmarked, renamed, and on the route: none of this is the lab's.
    inventory.domains[0].mark = None;
    inventory.domains[1].name = "renamed".into();
    inventory.networks[0].mark = Some(mark("other", "data"));
    inventory.routes.push(("10.77.0.0/16".parse().unwrap(), "tun0".into()));
    inventory.routes.push(("10.0.0.0/8".parse().unwrap(), "vpn0".into()));
    inventory.pool = PoolSeen::Foreign("a pool with another UUID".into());
    let infra = inventory.infra("lab");
    assert!(infra.domains.is_empty());
    assert_eq!(infra.networks.keys().collect::<Vec<_>>(), ["mgmt"]);
    let clashes = infra.clashes(&lab);
    let clashes: Vec<String> =
        clashes.iter().map(|c| format!("{} {}: {}", c.what, c.name, c.owner)).collect();
    insta::assert_snapshot!(clashes.join("\n"));
}

#[test]
fn two_labs_are_told_apart() {
    let (a, b) = (two_hosts(), lab("other", "10.78.0.0/24", r#""m": {"roles": ["postgres"]}"#));
    let mut inventory = empty();
    add(&mut inventory, &a);
    add(&mut inventory, &b);
    assert_eq!(inventory.infra("lab").domains.len(), 2);
    assert_eq!(inventory.infra("other").domains.len(), 1);
    assert_eq!(inventory.infra("lab").clashes(&a), []);
    assert_eq!(inventory.infra("other").clashes(&b), []);
    let labs = inventory.labs();
    assert_eq!(labs.keys().collect::<Vec<_>>(), ["lab", "other"]);
    assert_eq!(labs["lab"].hosts["s"].data, Some(a.host("s").unwrap().data.address));
    assert_eq!(labs["lab"].hosts["s"].mgmt, Some(a.host("s").unwrap().mgmt.address));
    assert_eq!(labs["other"].volumes, ["other--m.qcow2", "other--m.console"]);
    assert_eq!(inventory.image_users()["debian-13-00"], BTreeSet::from(["lab".into(), "other".into()]));
}

#[test]
fn an_image_counts_only_when_it_is_complete() {
    let mut inventory = empty();
    image_volume(&mut inventory, "debian-13-00.qcow2");
    image_volume(&mut inventory, "debian-12-00.qcow2");
    image_volume(&mut inventory, "debian-12-00.complete");
    assert_eq!(inventory.images(), BTreeSet::from(["debian-12-00".into()]));
    let image = BootImage::in_pool("/pool", "x", &Default::default(), "");
    assert_eq!((image.disk.as_str(), image.format), ("/pool/x.qcow2", DiskFormat::Qcow2));
}

#[test]
fn hosts_keep_their_places_when_others_come_and_when_the_subnet_moves() {
    let lab = two_hosts();
    let mut inventory = empty();
    add(&mut inventory, &lab);
    let pins = inventory.infra("lab").pins();
    for host in &lab.hosts {
        assert_eq!(lab.mgmt.subnet.host(pins[&host.name]), Some(host.mgmt.address));
    }
    // Half a lab: the killed `up` made the data network only.
    inventory.networks.retain(|network| network.name.ends_with("-data"));
    assert_eq!(inventory.infra("lab").pins(), pins);
    inventory.networks.clear();
    assert_eq!(inventory.infra("lab").pins(), Pins::new());
}

fn layered(volumes: &[(&str, Option<&str>)]) -> Inventory {
    let mut inventory = empty();
    inventory.volumes = volumes
        .iter()
        .map(|(name, backing)| VolumeSeen {
            name: (*name).to_owned(),
            capacity: Bytes(8),
            allocation: Bytes(1),
            backing: backing.map(|name| format!("/pool/{name}")),
        })
        .collect();
    inventory
}

/// A checkpoint of layer 0, one of layer 2 over it, a layer 1 that was thrown away, and what the host runs on.
const LAYERS: [(&str, Option<&str>); 7] = [
    ("lab--m.qcow2", Some("debian-13-00@ff.qcow2")),
    ("lab--m.0.ready.memory", None),
    ("lab--m.1.qcow2", Some("lab--m.qcow2")),
    ("lab--m.2.qcow2", Some("lab--m.qcow2")),
    ("lab--m.2.later.memory", None),
    ("lab--m.3.qcow2", Some("lab--m.2.qcow2")),
    ("other--m.qcow2", Some("debian-13-00.qcow2")),
];

#[test]
fn the_disk_of_a_host_is_its_highest_layer_that_no_checkpoint_has() {
    let infra = layered(&LAYERS).infra("lab");
    assert_eq!(infra.disks["m"].layer, 3);
    assert_eq!(infra.disks["m"].image.as_deref(), Some("debian-13-00"));
    assert_eq!(infra.disks["m"].allocation, Bytes(4));
    assert_eq!(infra.next_layer["m"], 4);
    // Only checkpoints are left: nothing may be written to them.
    let infra = layered(&LAYERS[..2]).infra("lab");
    assert!(!infra.disks.contains_key("m"));
    assert_eq!(infra.next_layer["m"], 1);
}

#[test]
fn layers_that_nothing_is_based_on_are_not_needed() {
    let inventory = layered(&LAYERS);
    let checkpoint = |layer, name: &str| ("m".to_owned(), layer, name.to_owned());
    let both = BTreeSet::from([checkpoint(0, "ready"), checkpoint(2, "later")]);
    assert_eq!(inventory.unneeded("lab", &both, true), ["lab--m.1.qcow2"]);
    assert_eq!(inventory.unneeded("lab", &both, false), ["lab--m.1.qcow2", "lab--m.3.qcow2"]);
    // The layer of a checkpoint that is gone stays while another is based on it.
    let later = BTreeSet::from([checkpoint(2, "later")]);
    assert_eq!(inventory.unneeded("lab", &later, true), ["lab--m.0.ready.memory", "lab--m.1.qcow2"]);
    assert_eq!(inventory.unneeded("lab", &BTreeSet::new(), false).len(), 6);
}
