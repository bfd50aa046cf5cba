//! Labs disturb neither each other nor what others have on the same hypervisor, and leave nothing when they go.

use std::{collections::BTreeSet, fs};

use anyhow::{Result, ensure};

use crate::suite::{MAIN, PAIR, Suite, UP_LIMIT, host};

/// Two labs run at the same time, with names, subnets and state of their own.
pub fn two_labs_side_by_side(suite: &Suite) -> Result<()> {
    let (main, pair) = (suite.lab(&MAIN)?, suite.lab(&PAIR)?);
    let mut addresses = BTreeSet::new();
    for lab in [&main, &pair] {
        let status = lab.status()?;
        for name in ["m", "s"] {
            let host = host(&status, name)?;
            ensure!(host["state"] == "running", "expected {name} of lab {} to run: {status:#}", lab.name);
            for key in ["address", "mgmt_address"] {
                let address = host[key].as_str().unwrap_or_default();
                addresses.insert(address.rsplit_once('.').map_or("", |(subnet, _)| subnet).to_owned());
            }
        }
    }
    ensure!(addresses.len() == 4, "expected four subnets, got {addresses:?}");
    main.streams("m", "s", "in lab")?;
    pair.streams("m", "s", "in pair")?;
    let mixed = main.psql("m", "select count(*) from seen where mark = 'in pair'")?;
    ensure!(mixed == "0", "expected the row of lab pair in lab pair only");
    suite.pgprov(["psql", "m", "--", "-c", "select 1"]).run()?.exits(2)?.says("labs: lab, pair")?;
    suite.pgprov(["status"]).ok()?.says("4 of 4 running")?.says("2 of 2 running")?;
    // By their marks, whoever has their state.
    let elsewhere = suite.pgprov(["status", "--all"]).env("PGPROV_STATE_DIR", suite.folder("elsewhere")?);
    elsewhere.ok()?.says("4 of 4 running")?.says("2 of 2 running")?;
    for lab in [&main, &pair] {
        lab.is_as_its_topology_says()?;
    }
    Ok(())
}

/// Two labs are made at the same time, from nothing: the image, and the machine that both copy, are made once.
pub fn two_labs_at_once(suite: &Suite) -> Result<()> {
    suite.destroy_all()?;
    for volume in suite.everything()?.iter().filter_map(|name| name.strip_prefix("volume pgprov/")) {
        suite.virsh(["vol-delete", volume, "--pool", "pgprov"]).ok()?;
    }
    let begun = ["first", "second"].map(|lab| -> Result<_> {
        let text = format!("lab: {lab}\nhosts:\n  m: {{ roles: [postgres] }}\n");
        suite.pgprov(["up"]).args([&suite.file(&format!("{lab}.yaml"), &text)?]).limit(UP_LIMIT).start()
    });
    let mut booted = 0;
    for up in begun {
        let up = up?.wait()?.exits(0)?;
        booted += up.stderr.matches("once, to copy hosts from it").count();
        ensure!(!up.stderr.contains("hosts boot, because"), "expected hosts to be copied in\n{up}");
    }
    ensure!(booted >= 1, "expected a machine to be booted");
    for lab in ["first", "second"] {
        suite.pgprov(["psql", "m", "--lab", lab, "--", "-XAtc", "select 1"]).limit(60).ok()?.prints("1")?;
        suite.pgprov(["destroy", lab, "--yes"]).limit(120).ok()?;
    }
    Ok(())
}

/// A topology that wants the subnet of another lab is refused before anything is done.
pub fn overlapping_subnet_is_refused(suite: &Suite) -> Result<()> {
    suite.lab(&MAIN)?;
    let file = suite
        .file("overlap.yaml", "lab: overlap\nnetwork: 10.77.0.0/16\nhosts:\n  m: { roles: [postgres] }\n")?;
    let before = suite.everything()?;
    let refused = suite.pgprov(["up"]).args([&file]).run()?.exits(1)?;
    refused.says("subnet")?.says("10.77.0.0/16")?.says("pgprov-lab-data")?.says("`network`")?;
    unchanged(suite, &before)?;
    ensure!(!suite.state().join("overlap").exists(), "expected no state of a lab that was refused");
    Ok(())
}

fn unchanged(suite: &Suite, before: &BTreeSet<String>) -> Result<()> {
    let now = suite.everything()?;
    let gone: Vec<&String> = before.difference(&now).collect();
    let new: Vec<&String> = now.difference(before).collect();
    ensure!(
        gone.is_empty() && new.is_empty(),
        "expected libvirt to have what it had; gone: {gone:?}, new: {new:?}"
    );
    Ok(())
}

/// Destroying one lab leaves the other as it was.
pub fn one_of_two_labs_is_destroyed(suite: &Suite) -> Result<()> {
    let (main, pair) = (suite.lab(&MAIN)?, suite.lab(&PAIR)?);
    let boots = main.exec_everywhere("cat /proc/sys/kernel/random/boot_id")?;
    let edited = fs::read_to_string(&pair.file)?.replace("  s:", "  renamed:");
    let edited = suite.file("edited.yaml", &edited)?;
    suite.pgprov(["destroy", "--yes"]).args([&edited]).limit(120).ok()?.says("lab pair is destroyed")?;
    suite.forget(&PAIR);
    nothing_left(suite, "pair")?;
    ensure!(
        main.exec_everywhere("cat /proc/sys/kernel/random/boot_id")? == boots,
        "expected lab lab to run on"
    );
    main.streams("m", "s", "alone again")?;
    main.is_as_its_topology_says()
}

/// Fails when anything of the lab is left: in libvirt, in its folders, in the state, among the interfaces.
///
/// # Errors
/// Something is left.
pub fn nothing_left(suite: &Suite, lab: &str) -> Result<()> {
    let ours = [format!("domain {lab}-"), format!("network pgprov-{lab}-"), format!("volume pgprov/{lab}--")];
    let all = suite.everything()?;
    let left: Vec<&String> =
        all.iter().filter(|name| ours.iter().any(|start| name.starts_with(start))).collect();
    ensure!(left.is_empty(), "expected nothing of lab {lab} in libvirt, found {left:?}");
    ensure!(!suite.state().join(lab).exists(), "expected no state of lab {lab}");
    let (disk, network) = (format!("{lab}--"), format!("pgprov-{lab}-"));
    let files = suite.files_of_libvirt()?;
    let left: Vec<&String> =
        files.iter().filter(|name| name.contains(&disk) || name.contains(&network)).collect();
    ensure!(left.is_empty(), "expected no file of lab {lab}, found {left:?}");
    Ok(())
}

/// A network, VMs and a volume that are not ours stay, whatever is destroyed; and names that others have are not taken.
pub fn strangers_are_left_alone(suite: &Suite) -> Result<()> {
    let made = make_strangers(suite);
    let seen = made.and_then(|()| leaves_strangers_alone(suite));
    // Later cases need their names.
    let removed = remove_strangers(suite);
    seen.and(removed)
}

fn leaves_strangers_alone(suite: &Suite) -> Result<()> {
    let main = suite.lab(&MAIN)?;
    let strangers = strangers(suite)?;
    ensure!(strangers.len() == 5, "expected five strangers, found {strangers:?}");

    // A VM of somebody else has the name of one of ours: nothing is touched.
    let before = suite.everything()?;
    let refused = suite.pgprov(["up"]).args([suite.topology(&PAIR)?]).run()?.exits(1)?;
    refused.says("pair-m")?.says("a domain that pgprov did not make")?;
    unchanged(suite, &before)?;
    suite.pgprov(["destroy", "pair", "--yes"]).ok()?;
    main.is_as_its_topology_says()?;

    suite.pgprov(["destroy", "lab", "--yes"]).limit(120).ok()?.says("lab lab is destroyed")?;
    suite.forget(&MAIN);
    let left = strangers_left(suite, &strangers)?;
    ensure!(left, "expected the strangers {strangers:?} to outlive the lab");
    suite.pgprov(["destroy", "lab", "--yes"]).ok()?.says("nothing to destroy")?;
    suite.pgprov(["destroy", "--all", "--yes"]).ok()?;
    let left = strangers_left(suite, &strangers)?;
    ensure!(left, "expected the strangers {strangers:?} to outlive all labs");
    suite.virsh(["undefine", "lab-m-copy"]).ok()?;
    nothing_left(suite, "lab")
}

fn strangers(suite: &Suite) -> Result<BTreeSet<String>> {
    Ok(suite.everything()?.into_iter().filter(|name| is_stranger(name)).collect())
}

/// Whether all strangers are there and their network is up.
fn strangers_left(suite: &Suite, strangers: &BTreeSet<String>) -> Result<bool> {
    let active = suite.virsh(["net-list", "--name"]).ok()?.stdout.contains("stranger-net");
    Ok(active && self::strangers(suite)? == *strangers)
}

fn is_stranger(name: &str) -> bool {
    name.contains("stranger") || name == "domain pair-m" || name == "domain lab-m-copy"
}

fn make_strangers(suite: &Suite) -> Result<()> {
    let main = suite.lab(&MAIN)?;
    let vm = |name: &str| {
        format!(
            "<domain type='qemu'><name>{name}</name><memory>65536</memory><os><type arch='x86_64'>hvm</type></os></domain>"
        )
    };
    for name in ["stranger-vm", "pair-m"] {
        suite.virsh(["define", "/dev/stdin"]).input(vm(name)).ok()?;
    }
    // A copy that somebody made of one of our VMs carries our mark, and is not ours.
    let definition = suite.virsh(["dumpxml", "--inactive", &main.domain("m")]).ok()?.stdout;
    let other =
        |line: &&str| !line.trim_start().starts_with("<uuid>") && !line.trim_start().starts_with("<genid>");
    let lines: Vec<&str> = definition.lines().filter(other).collect();
    let copy = lines.join("\n").replace("<name>lab-m</name>", "<name>lab-m-copy</name>");
    suite.virsh(["define", "/dev/stdin"]).input(copy).ok()?;
    let network = "<network><name>stranger-net</name><bridge name='virbr-str'/>\
                   <ip address='192.168.150.1' netmask='255.255.255.0'/></network>";
    suite.virsh(["net-define", "/dev/stdin"]).input(network).ok()?;
    suite.virsh(["net-start", "stranger-net"]).ok()?;
    suite.virsh(["vol-create-as", "pgprov", "stranger.img", "4096"]).ok().map(drop)
}

/// Tries all, and fails with the first that could not be removed.
fn remove_strangers(suite: &Suite) -> Result<()> {
    let mut results = Vec::new();
    for name in strangers(suite)? {
        results.push(match name.split_once(' ') {
            Some(("domain", domain)) => suite.virsh(["undefine", domain]).ok(),
            Some(("network", network)) => suite
                .virsh(["net-destroy", network])
                .ok()
                .and_then(|_| suite.virsh(["net-undefine", network]).ok()),
            _ => suite.virsh(["vol-delete", "stranger.img", "--pool", "pgprov"]).ok(),
        });
    }
    results.into_iter().collect::<Result<Vec<_>>>().map(drop)
}
