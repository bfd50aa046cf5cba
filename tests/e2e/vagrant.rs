//! The Vagrantfile of the repository: the real Vagrant makes the VMs, pgprov applies the roles.

use anyhow::{Result, ensure};

use crate::{
    command::Program,
    suite::{Lab, Suite},
};

const TOPOLOGY: &str = "lab: vag
postgres:
  databases: [{ name: app, owner: app }]
hosts:
  m: { roles: [postgres] }
  s: { roles: [postgres], follows: m }
";

/// `vagrant up` ends with a primary and its standby; from then on everything of pgprov works on them.
pub fn makes_the_machines(suite: &Suite) -> Result<()> {
    let boxes = suite.folder("boxes")?;
    let file = suite.file("vag.yaml", TOPOLOGY)?;
    let home = suite.folder("vagrant")?;
    let vagrant = |words: &[&str]| {
        let program = Program::new("vagrant").args(words).limit(600);
        program
            .env("VAGRANT_HOME", &home)
            .env("VAGRANT_DOTFILE_PATH", home.join("machines"))
            .env("VAGRANT_CWD", suite.repository())
            .env("PGPROV", suite.program())
            .env("PGPROV_STATE_DIR", suite.state())
            .env("PGPROV_LAB", &file)
            // No KVM in the machines that test this.
            .env("PGPROV_VAGRANT_DRIVER", "qemu")
    };
    suite.pgprov(["image", "box", "debian-13", "--out"]).args([&boxes]).limit(120).ok()?;
    let catalog = boxes.join("pgprov-debian-13.json").display().to_string();
    vagrant(&["box", "add", "--provider", "libvirt", &catalog]).ok()?;
    let made = vagrant(&["up"]).ok()?;
    let lab = Lab { suite, name: "vag", file: file.clone(), made };
    lab.streams("m", "s", "on machines of Vagrant")?;
    lab.is_as_its_topology_says()?;
    suite.pgprov(["up"]).args([&file]).limit(120).ok()?.says("0 changes")?;
    suite.pgprov(["status", "vag"]).limit(60).ok()?.says("standby")?;
    let names = lab.exec_everywhere("hostname")?;
    ensure!(names.iter().all(|(host, name)| host == name), "expected hosts to have their names: {names:?}");
    vagrant(&["ssh", "m", "-c", "hostname"]).ok()?.prints("m")?;
    // Vagrant lets pgprov bring them in line again after an edit.
    let text = TOPOLOGY.replace("hosts:", "  settings: { work_mem: 9MB }\nhosts:");
    suite.file("vag.yaml", &text)?;
    vagrant(&["provision"]).ok()?;
    ensure!(lab.psql("m", "show work_mem")? == "9MB", "expected the edit to be applied");
    vagrant(&["destroy", "-f"]).ok()?;
    suite.pgprov(["status", "vag"]).run()?.exits(2)?.says("there is no lab `vag`")?;
    let domains = suite.virsh(["list", "--all", "--name"]).ok()?;
    ensure!(!domains.text().contains("vagrant-vag"), "expected nothing of Vagrant to be left:\n{domains}");
    Ok(())
}
