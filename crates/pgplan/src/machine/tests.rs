use super::*;
use crate::{lab::derive, topology::Topology};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKey pgprov\n";

fn lab(image: &str) -> Lab {
    let text = format!(
        r#"{{"lab": "lab", "image": {image}, "network": "10.77.10.0/24", "management_network": "10.77.11.0/24",
            "hosts": {{"m": {{"roles": ["postgres"]}}, "s": {{"roles": ["postgres"], "follows": "m"}}}}}}"#
    );
    let topology: Topology = serde_json::from_str(&text).unwrap();
    derive(&topology, &Default::default())
}

fn built() -> Lab {
    lab(r#""debian-13""#)
}

fn stock() -> Lab {
    lab(r#"{"url": "file:///cloud.raw", "sha256": "00", "format": "raw", "release": "debian-12"}"#)
}

fn hypervisor(accel: Accel) -> Hypervisor {
    Hypervisor { accel, pool_path: POOL_PATH.to_owned() }
}

fn boot(lab: &Lab, name: &str) -> BootImage {
    BootImage::in_pool(POOL_PATH, name, &lab.image, "console=ttyS0 root=/dev/vda rw")
}

fn domain_of(lab: &Lab, host: &str, accel: Accel, image: &str) -> Definition {
    domain(lab, lab.host(host).unwrap(), 0, &hypervisor(accel), &boot(lab, image), KEY)
}

#[test]
fn domain_with_direct_kernel_boot() {
    insta::assert_snapshot!(domain_of(&built(), "m", Accel::Kvm, "debian-13-0123456789ab").xml);
}

#[test]
fn domain_that_boots_from_its_disk_under_emulation() {
    insta::assert_snapshot!(domain_of(&stock(), "m", Accel::Emulated, "stock-0123456789ab").xml);
}

#[test]
fn networks_end_at_the_hypervisor_unless_packages_come_from_the_internet() {
    let (built, stock) = (built(), stock());
    insta::assert_snapshot!("network_data", network(&built, &built.data).xml);
    insta::assert_snapshot!("network_mgmt", network(&built, &built.mgmt).xml);
    insta::assert_snapshot!("network_mgmt_stock", network(&stock, &stock.mgmt).xml);
    assert!(!network(&stock, &stock.data).xml.contains("<forward"));
}

#[test]
fn pool_and_volumes() {
    let image = boot(&built(), "debian-13-0123456789ab");
    let size = Bytes(8 * 1024 * 1024 * 1024);
    insta::assert_snapshot!("pool", pool(POOL_PATH));
    insta::assert_snapshot!(
        "volume_overlay",
        overlay_volume(&disk_name("lab", "m", 0), size, &image.disk, image.format)
    );
    insta::assert_snapshot!("volume_upload", upload_volume("debian-13-0123456789ab.vmlinuz", 12345));
}

#[test]
fn hosts_differ_in_identity_only() {
    let lab = built();
    let xml = |host: &str| domain_of(&lab, host, Accel::Kvm, "image").xml;
    let (m, s) = (xml("m"), xml("s"));
    let differing: Vec<&str> =
        m.lines().zip(s.lines()).filter(|(a, b)| a != b).map(|(a, _)| a.trim()).collect();
    assert_eq!(m.lines().count(), s.lines().count());
    let fields = [
        "<name>",
        "<uuid>",
        "<genid>",
        "<pgprov:lab",
        "<entry>",
        "<source file",
        "<mac",
        "<mac",
        "<log file",
    ];
    assert_eq!(differing.len(), fields.len(), "{differing:#?}");
    for (line, field) in differing.iter().zip(fields) {
        assert!(line.starts_with(field), "{line} is not {field}");
    }
}

#[test]
fn a_changed_definition_has_another_spec() {
    let (lab, mut larger) = (built(), built());
    larger.vm.cpus += 1;
    let spec = |lab: &Lab, image: &str| domain_of(lab, "m", Accel::Kvm, image).spec;
    assert_eq!(spec(&lab, "a"), spec(&lab, "a"));
    assert_ne!(spec(&lab, "a"), spec(&larger, "a"));
    assert_ne!(spec(&lab, "a"), spec(&lab, "b"));
    let definition = domain_of(&lab, "m", Accel::Kvm, "a");
    assert!(definition.xml.contains(&format!("spec='{}'", definition.spec)));
}

#[test]
fn a_new_host_changes_the_reservations_of_a_network_but_not_its_spec() {
    let (lab, mut fewer) = (built(), built());
    fewer.hosts.pop();
    let (before, after) = (network(&fewer, &fewer.data), network(&lab, &lab.data));
    assert_eq!(before.spec, after.spec);
    assert_ne!(before.xml, after.xml);
    let mut moved = built();
    moved.data.subnet = "10.99.0.0/24".parse().unwrap();
    moved.data.gateway = moved.data.subnet.gateway();
    assert_ne!(network(&moved, &moved.data).spec, after.spec);
}

#[test]
fn every_value_is_escaped() {
    let lab = built();
    let evil = r#"'/><evil a="&"#;
    let hypervisor = Hypervisor { accel: Accel::Kvm, pool_path: evil.to_owned() };
    let image = BootImage::in_pool(evil, evil, &lab.image, evil);
    let mut host = lab.hosts[0].clone();
    host.name = evil.to_owned();
    let mut other = lab.clone();
    other.name = evil.to_owned();
    let texts = [
        domain(&other, &host, 0, &hypervisor, &image, evil).xml,
        network(&other, &other.data).xml,
        reservation(evil, &host.data),
        pool(evil),
        overlay_volume(evil, Bytes(1), evil, DiskFormat::Qcow2),
        upload_volume(evil, 1),
    ];
    for text in texts {
        assert!(text.contains("&#39;/&gt;&lt;evil a=&quot;&amp;"), "{text}");
        assert!(!text.contains("<evil"), "{text}");
    }
}

#[test]
fn volumes_are_known_by_their_names() {
    let disk = |lab: &str, host: &str, layer| Volume::Disk { lab: lab.into(), host: host.into(), layer };
    let of_host = |lab: &str, host: &str| Volume::OfHost { lab: lab.into(), host: host.into() };
    for layer in [0, 1, 12] {
        assert_eq!(Volume::parse(&disk_name("my-lab", "m", layer)), disk("my-lab", "m", layer));
        assert_eq!(Volume::parse(&disk_name("lab", "a--b", layer)), disk("lab", "a--b", layer));
    }
    let memory = Volume::parse(&memory_name("my-lab", "m", 2, "ready"));
    let expected =
        Volume::Memory { lab: "my-lab".into(), host: "m".into(), layer: 2, checkpoint: "ready".into() };
    assert_eq!(memory, expected);
    let snapshot = Snapshot { image: "debian-13-0123456789ab".to_owned(), key: "00ff".to_owned() };
    for part in [SnapshotPart::Disk, SnapshotPart::Memory, SnapshotPart::Console, SnapshotPart::Complete] {
        let expected = Volume::Snapshot { snapshot: snapshot.clone(), part };
        assert_eq!(Volume::parse(&snapshot.volume(part)), expected);
    }
    assert_eq!(Volume::parse(&console_name("lab", "m")), of_host("lab", "m"));
    assert_eq!(Volume::parse("lab--m.console.0"), of_host("lab", "m"));
    for part in ImagePart::ALL {
        let name = "debian-13-0123456789ab".to_owned();
        assert_eq!(Volume::parse(&part.volume(&name)), Volume::Image { name, part });
    }
    for name in [
        "",
        ".qcow2",
        "lab--m",
        "lab--m.iso",
        "lab--m.x.qcow2",
        "lab--m.x.ready.memory",
        "lab--m.0..memory",
        "notes.txt",
        "--",
        "a@.memory",
        "a@g.memory",
        "@0.memory",
    ] {
        assert_eq!(Volume::parse(name), Volume::Unknown, "{name}");
    }
}

#[test]
fn a_layer_over_a_disk_is_no_change_of_the_definition() {
    let lab = built();
    let at = |layer| {
        let image = boot(&lab, "image");
        domain(&lab, lab.host("m").unwrap(), layer, &hypervisor(Accel::Kvm), &image, KEY)
    };
    assert_eq!(at(0).spec, at(3).spec);
    assert!(at(3).xml.contains("/lab--m.3.qcow2'") && at(0).xml.contains("/lab--m.qcow2'"));
}

fn template_of(lab: &Lab, software: &str) -> Option<Template> {
    template(&lab.vm, &hypervisor(Accel::Emulated), &boot(lab, "debian-13-0123456789ab"), software)
}

#[test]
fn a_template_is_a_host_without_identity() {
    insta::assert_snapshot!(template_of(&built(), "qemu 10").unwrap().xml);
}

#[test]
fn a_template_has_the_hardware_of_its_hosts() {
    let lab = built();
    let devices = |xml: &str| {
        let tags = xml.lines().map(str::trim).filter_map(|line| line.split([' ', '>', '/']).next());
        let same =
            |tag: &&str| !["<link", "<source", "<metadata", "<pgprov:lab", "<pgprov:template"].contains(tag);
        let all: Vec<String> = tags.filter(same).map(str::to_owned).collect();
        let begin = all.iter().position(|tag| tag == "<features").unwrap();
        all[begin..].join(" ")
    };
    let host = domain_of(&lab, "m", Accel::Emulated, "debian-13-0123456789ab").xml;
    assert_eq!(devices(&template_of(&lab, "").unwrap().xml), devices(&host));
}

#[test]
fn whatever_memory_depends_on_makes_another_snapshot() {
    let (lab, mut larger) = (built(), built());
    larger.vm.memory = Bytes(2 * lab.vm.memory.0);
    let key = |lab: &Lab, software: &str| template_of(lab, software).unwrap().snapshot.key;
    assert_eq!(key(&lab, "qemu 10"), key(&lab, "qemu 10"));
    assert_ne!(key(&lab, "qemu 10"), key(&lab, "qemu 11"));
    assert_ne!(key(&lab, "qemu 10"), key(&larger, "qemu 10"));
    assert_eq!(template_of(&stock(), "qemu 10"), None);
}
