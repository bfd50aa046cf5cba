//! Against libvirt's own test driver, which keeps everything in memory: each connection is a hypervisor of its own.
//! What only QEMU does (streams, saved memory on disk) is in the end-to-end tests.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use pgplan::{
    lab::{Lab, derive},
    machine::{self, Accel, BootImage, Hypervisor, Snapshot, SnapshotPart},
    observed::{DomainState, PoolSeen},
    topology::Topology,
};

use super::{Error, Libvirt, Result, observe::parse_routes, read, watched};

/// A hypervisor of its own, with nothing on it.
fn hypervisor() -> (Libvirt, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let node = folder.path().join("node.xml");
    std::fs::write(&node, "<node/>").unwrap();
    (Libvirt::connect(Some(&format!("test://{}", node.display()))).unwrap(), folder)
}

fn lab(name: &str) -> Lab {
    let text = format!(
        r#"{{"lab": "{name}", "hosts": {{"m": {{"roles": ["postgres"]}}, "s": {{"roles": ["client"]}}}}}}"#
    );
    let topology: Topology = serde_json::from_str(&text).unwrap();
    derive(&topology, &Default::default())
}

fn image(lab: &Lab) -> BootImage {
    BootImage::in_pool("/pool", "debian-13-00", &lab.image, "console=ttyS0")
}

/// The disk of a host.
fn overlay(lab: &Lab, host: &str) -> String {
    let image = image(lab);
    let name = pgplan::lab::disk_name(&lab.name, host, 0);
    machine::overlay_volume(&name, lab.vm.disk, &image.disk, image.format)
}

/// The definition of the domain, less what the test driver does not know.
fn domain_xml(lab: &Lab, host: &str) -> String {
    let hypervisor = Hypervisor { accel: Accel::Emulated, pool_path: "/pool".to_owned() };
    let xml =
        machine::domain(lab, lab.host(host).unwrap(), 0, &hypervisor, &image(lab), "ssh-ed25519 AAAA k").xml;
    xml.replace("type='qemu'>\n  <name>", "type='test'>\n  <name>")
        .replace("<type arch='x86_64' machine='q35'>", "<type>")
        .lines()
        .filter(|line| {
            !["<controller", "<cpu mode", "<feature policy", "</cpu>"].iter().any(|part| line.contains(part))
        })
        .collect()
}

/// Everything of a lab, as `up` makes it.
fn make(libvirt: &Libvirt, lab: &Lab) {
    libvirt.ensure_pool(Path::new("/pool")).unwrap();
    for network in lab.networks() {
        libvirt.create_network(&lab.name, &network.kind, &machine::network(lab, network).xml).unwrap();
    }
    for host in &lab.hosts {
        let disk = overlay(lab, &host.name);
        libvirt.create_disk(&lab.name, &host.name, 0, &disk).unwrap();
        libvirt.define_host(&lab.name, &host.name, &domain_xml(lab, &host.name)).unwrap();
        libvirt.start_host(&lab.name, &host.name).unwrap();
    }
}

/// Takes the mark off a definition: then it is somebody else's.
fn unmarked(xml: &str) -> String {
    let (before, rest) = xml.split_once("<metadata>").unwrap();
    let (_, after) = rest.split_once("</metadata>").unwrap();
    format!("{before}{after}")
}

fn assert_not_ours<T>(result: Result<T>) {
    assert!(matches!(result.err(), Some(Error::NotOurs { .. })));
}

#[test]
fn a_host_goes_through_its_states_and_every_step_can_be_repeated() {
    let ((libvirt, _folder), lab) = (hypervisor(), lab("lab"));
    make(&libvirt, &lab);
    let state = || libvirt.host_state("lab", "m").unwrap();
    for (step, expected) in [
        (Libvirt::start_host as fn(&Libvirt, &str, &str) -> Result, DomainState::Running),
        (Libvirt::pause_host, DomainState::Paused),
        (Libvirt::start_host, DomainState::Running),
        (Libvirt::save_host, DomainState::Saved),
        (Libvirt::start_host, DomainState::Running),
        (Libvirt::save_host, DomainState::Saved),
        (Libvirt::stop_host, DomainState::Off),
        (Libvirt::pause_host, DomainState::Off),
        (Libvirt::start_host, DomainState::Running),
        (Libvirt::stop_host, DomainState::Off),
    ] {
        for _ in 0..2 {
            step(&libvirt, "lab", "m").unwrap();
            assert_eq!(state(), Some(expected));
        }
    }
    assert!(libvirt.remove_domain("lab", "m").unwrap());
    assert!(!libvirt.remove_domain("lab", "m").unwrap());
    assert_eq!(state(), None);
    assert!(libvirt.start_host("lab", "m").is_err());
}

#[test]
fn what_was_made_is_what_is_observed() {
    let ((libvirt, _folder), lab) = (hypervisor(), lab("lab"));
    make(&libvirt, &lab);
    make(&libvirt, &lab);
    let infra = libvirt.observe("lab").unwrap();
    assert!(matches!(&infra.pool, PoolSeen::Ours { active: true, path, .. } if path == "/pool"));
    for network in lab.networks() {
        let seen = &infra.networks[&network.kind];
        assert_eq!((seen.active, seen.subnet), (true, Some(network.subnet)));
        assert_eq!(seen.spec, machine::network(&lab, network).spec);
        for host in &lab.hosts {
            assert_eq!(seen.reservations[&host.name], machine::nic(host, network).address);
        }
    }
    for host in &lab.hosts {
        let seen = &infra.domains[&host.name];
        assert_eq!((seen.state, &seen.uuid), (DomainState::Running, &host.uuid));
        assert_eq!(seen.image, "debian-13-00");
        assert_eq!(infra.disks[&host.name].capacity, lab.vm.disk);
        assert_eq!(infra.disks[&host.name].image.as_deref(), Some("debian-13-00"));
    }
    assert_eq!(infra.clashes(&lab), []);
    assert_eq!(infra.pins().len(), lab.hosts.len());
    assert_eq!(infra.hypervisor.accel, Accel::Emulated);
    assert!(infra.hypervisor.accel_reason.is_some());
}

#[test]
fn a_pool_that_was_stopped_is_started_by_whoever_looks() {
    let ((libvirt, _folder), lab) = (hypervisor(), lab("lab"));
    make(&libvirt, &lab);
    let before = libvirt.observe("lab").unwrap();
    let stop = |connect: &virt::connect::Connect| {
        let pool = connect.lookup_storage_pool_by_name("pgprov")?;
        pool.destroy()
    };
    libvirt.call("stop the pool", super::SLOW, stop).unwrap();
    let after = libvirt.observe("lab").unwrap();
    assert!(matches!(after.pool, PoolSeen::Ours { active: true, .. }));
    assert_eq!(before.disks, after.disks);
}

#[test]
fn a_lab_is_removed_with_all_that_is_its_own_and_nothing_else() {
    let ((libvirt, _folder), lab, other) = (hypervisor(), lab("lab"), lab("other"));
    make(&libvirt, &lab);
    make(&libvirt, &other);
    libvirt.save_host("lab", "s").unwrap();
    // A disk whose domain was never defined.
    libvirt.create_disk("lab", "x", 0, &overlay(&lab, "x")).unwrap();
    let before = libvirt.observe("other").unwrap();
    let removed = libvirt.remove_lab("lab").unwrap();
    assert_eq!(removed.hosts, ["m", "s"]);
    assert_eq!(removed.networks.len(), 2);
    assert_eq!(removed.volumes.len(), 3);
    assert_eq!(libvirt.inventory().unwrap().labs().keys().collect::<Vec<_>>(), ["other"]);
    let after = libvirt.observe("other").unwrap();
    assert_eq!((before.domains, before.networks, before.disks), (after.domains, after.networks, after.disks));
    assert!(libvirt.remove_lab("lab").unwrap().is_empty());
    // The pool goes with the last volume, not before.
    assert!(!libvirt.remove_empty_pool().unwrap());
    libvirt.remove_lab("other").unwrap();
    assert!(libvirt.remove_empty_pool().unwrap());
    assert!(!libvirt.remove_empty_pool().unwrap());
    assert_eq!(libvirt.observe("lab").unwrap().pool, PoolSeen::Missing);
}

#[test]
fn what_does_not_carry_our_mark_is_not_touched() {
    let ((libvirt, _folder), lab) = (hypervisor(), lab("lab"));
    make(&libvirt, &lab);
    // The same names, without the mark.
    libvirt.remove_lab("lab").unwrap();
    let taken = libvirt.connections.take().unwrap();
    let connect = &taken.connect;
    let domain = connect.define_domain_xml(&unmarked(&domain_xml(&lab, "m"))).unwrap();
    domain.create().unwrap();
    let network = connect.define_network_xml(&unmarked(&machine::network(&lab, &lab.data).xml)).unwrap();
    network.create().unwrap();

    assert_not_ours(libvirt.define_host("lab", "m", &domain_xml(&lab, "m")));
    assert_not_ours(libvirt.host_state("lab", "m"));
    for step in [Libvirt::start_host, Libvirt::pause_host, Libvirt::save_host, Libvirt::stop_host] {
        assert_not_ours(step(&libvirt, "lab", "m"));
    }
    assert_not_ours(libvirt.remove_host("lab", "m"));
    let reservation = machine::reservation("m", &lab.hosts[0].data);
    assert_not_ours(libvirt.create_network("lab", "data", &machine::network(&lab, &lab.data).xml));
    assert_not_ours(libvirt.start_network("lab", "data"));
    assert_not_ours(libvirt.reserve("lab", "data", "m", &reservation));
    assert_not_ours(libvirt.unreserve("lab", "data", "m"));
    assert_not_ours(libvirt.remove_network("lab", "data"));
    assert!(libvirt.remove_lab("lab").unwrap().is_empty());

    assert!(domain.is_active().unwrap() && network.is_active().unwrap());
    let clashes = libvirt.observe("lab").unwrap().clashes(&lab);
    let clashes: Vec<&str> = clashes.iter().map(|clash| clash.what).collect();
    assert_eq!(clashes, ["domain", "network", "bridge", "subnet"]);
}

/// The disk of a boot snapshot is under the disks of the hosts that were made of it.
#[test]
fn a_boot_snapshot_that_hosts_are_made_of_stays() {
    let ((libvirt, _folder), lab) = (hypervisor(), lab("lab"));
    libvirt.ensure_pool(Path::new("/pool")).unwrap();
    let snapshot = |key: &str| Snapshot { image: "debian-13-00".to_owned(), key: key.to_owned() };
    let parts = [SnapshotPart::Disk, SnapshotPart::Memory, SnapshotPart::Complete];
    for key in ["aa", "bb", "cc"] {
        for part in parts {
            libvirt.create_marker(&snapshot(key).volume(part)).unwrap();
        }
    }
    let (name, format) = (pgplan::lab::disk_name("lab", "m", 0), pgplan::topology::DiskFormat::Qcow2);
    let backing = format!("/pool/{}", snapshot("aa").volume(SnapshotPart::Disk));
    let disk = machine::overlay_volume(&name, lab.vm.disk, &backing, format);
    libvirt.create_disk("lab", "m", 0, &disk).unwrap();
    let left = || {
        let names = libvirt.inventory().unwrap().volumes.into_iter().map(|volume| volume.name);
        let mut left: Vec<String> =
            names.filter_map(|name| Some(name.split_once('@')?.1.to_owned())).collect();
        left.sort();
        left.join(" ")
    };
    assert!(libvirt.is_based_on(&snapshot("aa")).unwrap() && !libvirt.is_based_on(&snapshot("bb")).unwrap());
    libvirt.remove_other_snapshots(&snapshot("cc")).unwrap();
    assert_eq!(left(), "aa.complete aa.memory aa.qcow2 cc.complete cc.memory cc.qcow2");
    for key in ["aa", "cc"] {
        libvirt.remove_snapshot(&snapshot(key)).unwrap();
    }
    assert_eq!(left(), "aa.qcow2");
}

#[test]
fn a_pool_of_somebody_else_is_not_used() {
    let ((libvirt, _folder), lab) = (hypervisor(), lab("lab"));
    let foreign = machine::pool("/pool").replace(machine::POOL_UUID, "11111111-2222-4333-8444-555555555555");
    libvirt
        .connections
        .take()
        .unwrap()
        .connect
        .define_storage_pool_xml(&foreign, 0)
        .unwrap()
        .create(0)
        .unwrap();
    assert_not_ours(libvirt.ensure_pool(Path::new("/pool")));
    assert_not_ours(libvirt.create_disk("lab", "m", 0, &overlay(&lab, "m")));
    assert_not_ours(libvirt.remove_volumes("lab", "m"));
    assert!(matches!(libvirt.observe("lab").unwrap().pool, PoolSeen::Foreign(_)));
}

#[test]
fn reservations_change_while_the_network_runs() {
    let ((libvirt, _folder), lab) = (hypervisor(), lab("lab"));
    make(&libvirt, &lab);
    let addresses = || libvirt.observe("lab").unwrap().networks["data"].reservations.clone();
    let mut nic = lab.hosts[0].data.clone();
    nic.address = lab.data.subnet.host(0).unwrap();
    for _ in 0..2 {
        libvirt.reserve("lab", "data", "m", &machine::reservation("m", &nic)).unwrap();
        assert_eq!(addresses()["m"], nic.address);
        assert_eq!(addresses().len(), 2);
    }
    for _ in 0..2 {
        libvirt.unreserve("lab", "data", "s").unwrap();
        assert_eq!(addresses().keys().collect::<Vec<_>>(), ["m"]);
    }
    assert!(libvirt.unreserve("absent", "data", "m").is_err());
}

#[test]
fn a_call_that_hangs_is_given_up_and_one_that_moves_is_not() {
    let limit = Duration::from_millis(100);
    let started = Instant::now();
    let hangs = |_: &dyn Fn(())| std::thread::sleep(Duration::from_secs(30));
    let error = watched("wait for nothing", limit, hangs, |()| {}).unwrap_err();
    assert!(error.is_timeout() && started.elapsed() < Duration::from_secs(10));
    assert_eq!(error.to_string(), "cannot wait for nothing: no answer from libvirt within 0 s");
    let moves = |report: &dyn Fn(u32)| {
        (0..10).for_each(|step| {
            std::thread::sleep(Duration::from_millis(30));
            report(step);
        });
        "done"
    };
    let mut seen = Vec::new();
    assert_eq!(watched("count", limit * 20, moves, |step| seen.push(step)).unwrap(), "done");
    assert_eq!(seen, (0..10).collect::<Vec<_>>());
}

#[test]
fn a_connection_that_fails_says_what_to_do() {
    let failure = |uri: &str| Libvirt::connect(Some(uri)).err().unwrap();
    let error = failure("qemu+unix:///system?socket=/nonexistent/sock");
    assert!(error.hint().unwrap().contains("systemctl start libvirtd"), "{error}");
    assert!(
        error
            .to_string()
            .starts_with("cannot connect to libvirt at qemu+unix:///system?socket=/nonexistent/sock: ")
    );
    assert!(failure("qemu+nonsense:///system").hint().is_none());
}

#[test]
fn only_connections_to_this_machine_are_local() {
    let (libvirt, _folder) = hypervisor();
    let is_local = |uri: &str| Libvirt { uri: uri.to_owned(), ..libvirt.clone() }.is_local();
    assert!(is_local("qemu:///system") && is_local("qemu+unix:///system?socket=/run/x"));
    assert!(!is_local("qemu+ssh://root@hv/system") && !is_local("qemu://hv/system") && !is_local("odd"));
}

#[test]
fn networks_are_read_as_libvirt_writes_them() {
    let network = read::network(
        "<network connections='2'><name>n</name>
           <metadata><p:lab xmlns:p=\"https://pgprov.dev/xml/1\" name=\"lab\" network=\"mgmt\" spec=\"1\"/></metadata>
           <bridge name='b0' stp='on'/>
           <ip address='10.1.2.1' netmask='255.255.252.0'><dhcp><range start='10.1.2.2' end='10.1.2.9'/>
             <host mac='52:54:00:00:00:01' name='m' ip='10.1.2.3'><lease expiry='0'/></host>
             <host mac='52:54:00:00:00:02' ip='10.1.2.4'/></dhcp></ip>
           <ip address='192.168.7.1' prefix='28'/><ip address='10.9.9.9'/><ip family='ipv6' address='fd00::1'/>
         </network>",
    )
    .unwrap();
    assert_eq!(network.mark.as_ref().map(|mark| mark.part.as_str()), Some("mgmt"));
    assert_eq!(network.bridge.as_deref(), Some("b0"));
    let subnets: Vec<String> = network.subnets.iter().map(ToString::to_string).collect();
    assert_eq!(subnets, ["10.1.0.0/22", "192.168.7.0/28", "10.0.0.0/8"]);
    assert_eq!(network.by_name().len(), 1);
    assert_eq!(network.reservations.len(), 2);
    // An element of that name in another namespace is no mark.
    let other = "<network><metadata><lab xmlns='https://other.example' name='lab' network='mgmt'/></metadata></network>";
    assert_eq!(read::network(other).unwrap().mark, None);
    assert!(read::network("<network").is_err());
}

#[test]
fn routes_are_read_without_the_default() {
    // As a little-endian machine writes them.
    let text = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
                eth0 00000000 0101A8C0 0003 0 0 100 00000000 0 0 0\n\
                eth0 0001A8C0 00000000 0001 0 0 100 00FFFFFF 0 0 0\n\
                odd line\n";
    let routes = if cfg!(target_endian = "little") { parse_routes(text) } else { Vec::new() };
    assert_eq!(routes, [("192.168.1.0/24".parse().unwrap(), "eth0".to_owned())]);
}

/// libvirt's own schema, where its tool is installed (package libvirt-clients with libxml2-utils).
#[test]
fn definitions_follow_the_schema_of_libvirt() {
    let lab = lab("lab");
    let hypervisor = |accel| Hypervisor { accel, pool_path: "/pool".to_owned() };
    let domain = |accel| machine::domain(&lab, &lab.hosts[0], 0, &hypervisor(accel), &image(&lab), "key").xml;
    let definitions = [
        ("domain", domain(Accel::Kvm)),
        ("domain", domain(Accel::Emulated)),
        ("network", machine::network(&lab, &lab.data).xml),
        ("storagepool", machine::pool("/pool")),
        ("storagevol", overlay(&lab, "m")),
        ("storagevol", machine::upload_volume("debian-13-00.vmlinuz", 1)),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (index, (schema, xml)) in definitions.iter().enumerate() {
        let file: PathBuf = folder.path().join(format!("{index}.xml"));
        std::fs::write(&file, xml).unwrap();
        if let Ok(output) = Command::new("virt-xml-validate").arg(&file).arg(schema).output() {
            let said = String::from_utf8_lossy(&output.stderr);
            let no_tool = said.contains("xmllint: not found") || said.contains("No such file");
            assert!(output.status.success() || no_tool, "{schema}: {said}\n{xml}");
        }
    }
}
