//! Roles on machines that pgprov did not make: VMs from a stock cloud image, defined by virsh and set up by cloud-init.

use std::{
    env, fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    command::Program,
    stock::serve,
    suite::{Lab, Suite},
};

/// Seconds that `up` may take: packages are installed on emulated machines.
const LIMIT: u64 = 900;
/// The first three bytes of the network that the machines are on.
const NET: &str = "10.78.78";
const HBA: &str = "etc/postgresql/17/main/pg_hba.conf";
const MACHINES: [(&str, &str, u8); 2] = [("m", "alpha", 11), ("s", "beta", 12)];

/// Two machines become a primary and its standby; what is their owner's stays.
pub fn become_a_lab(suite: &Suite) -> Result<()> {
    let made = Machines::make(suite)?;
    let lab = made.up(suite)?;
    lab.streams("m", "s", "on machines")?;
    let names = lab.exec_everywhere("hostname; test ! -e /etc/motd || cat /etc/motd; getent hosts m s")?;
    for ((_, said), (_, name, _)) in names.iter().zip(MACHINES) {
        ensure!(said.starts_with(name), "expected the name of the machine to be its owner's: {said}");
        ensure!(said.contains(&format!("{NET}.11")), "expected it to know m: {said}");
    }
    lab.is_as_its_topology_says()?;
    // The inventory is remembered, and everything else works as with VMs of our own.
    suite.pgprov(["up"]).args([&lab.file]).limit(120).ok()?.says("0 changes")?;
    suite.pgprov(["status", "there"]).limit(60).ok()?.says("standby")?;
    suite.pgprov(["psql", "m", "--lab", "there", "--", "-XAtc", "select 1"]).limit(60).ok()?.prints("1")?;
    suite.pgprov(["suspend", "there"]).run()?.exits(2)?.says("made of machines that were there before")?;
    suite.pgprov(["fault", "cut", "m", "--lab", "there"]).run()?.exits(2)?.says("it has no faults")?;
    // An edit is a reload, as everywhere.
    let text = fs::read_to_string(&lab.file)?;
    fs::write(&lab.file, text.replace("postgres:\n", "postgres:\n  settings: { work_mem: 7MB }\n"))?;
    let saved = suite.state().with_file_name("there.json");
    let plan = |rest: &[&Path]| suite.pgprov(["plan"]).args([&lab.file]).args(rest).run();
    plan(&["--hosts".as_ref(), &made.inventory, "--out".as_ref(), &saved])?.exits(4)?.says("work_mem")?;
    suite.pgprov(["up"]).args([&saved]).limit(120).ok()?;
    suite.pgprov(["diff"]).args([&lab.file]).args(["--hosts".as_ref(), made.inventory.as_path()]).ok()?;
    let out = suite.folder("there-rendered")?;
    suite.pgprov(["render"]).args([&lab.file]).args(["--out".as_ref(), out.as_path()]).ok()?;
    let rendered = fs::read_to_string(out.join(format!("s/{HBA}")))?;
    let installed = lab.exec("s", &format!("cat /{HBA}"))?;
    ensure!(!out.join("s/etc/hosts").exists(), "expected what is its owner's not to be rendered");
    ensure!(
        rendered.trim() == installed,
        "expected `render` to write what is installed:\n{rendered}\n{installed}"
    );
    let set = lab.psql("s", "show work_mem")?;
    ensure!(set == "7MB", "expected work_mem to be set on s, it is {set}");
    // Both come back from a power cut by themselves, cloud-init and all.
    for (_, name, _) in MACHINES {
        suite.virsh(["reset", name]).ok()?;
    }
    made.wait()?;
    suite.pgprov(["up"]).args([&lab.file]).limit(300).ok()?;
    lab.streams("m", "s", "after a power cut")?;

    // Forgotten, they are as before, and nobody takes what is not his: the cluster is not pgprov's any more.
    suite.pgprov(["status", "--all"]).ok()?.says("there  machines that were there before  m, s")?;
    suite.destroy_all()?;
    ensure!(!suite.state().join("there").exists(), "expected the lab to be forgotten with all others");
    made.run("m", "sudo rm -rf /var/lib/pgprov && sudo systemctl is-active postgresql@17-main")?;
    let plan =
        suite.pgprov(["up", "--hosts"]).args([&made.inventory, &lab.file]).limit(120).run()?.exits(1)?;
    plan.says("m: it has a PostgreSQL cluster in /var/lib/postgresql/17/main that pgprov did not make")?;
    suite.pgprov(["destroy", "there", "--yes"]).run()?;
    made.remove(suite)
}

/// The machines, and how their owner gets in.
struct Machines {
    key: PathBuf,
    inventory: PathBuf,
}

impl Machines {
    fn make(suite: &Suite) -> Result<Self> {
        let folder =
            env::var_os("PGPROV_STOCK").context("PGPROV_STOCK is not set: run `scripts/stock-image`")?;
        let folder = PathBuf::from(folder);
        let key = suite.state().with_file_name("owner");
        let _ = fs::remove_file(&key);
        Program::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).args([&key]).ok()?;
        let public = fs::read_to_string(key.with_extension("pub"))?;
        let packages = serve(folder.join("apt"))?;
        let seeds = suite.state().with_file_name("seeds");
        let signed_by = fs::read_to_string(folder.join("key.asc"))?.replace('\n', "\n      ");
        let user_data = format!(
            "#cloud-config
users:
  - name: owner
    sudo: 'ALL=(ALL) NOPASSWD:ALL'
    shell: /bin/bash
    ssh_authorized_keys: [\"{}\"]
write_files:
  - path: /etc/apt/keyrings/tests.asc
    content: |
      {signed_by}
  - path: /etc/apt/sources.list.d/debian.sources
    content: |
      Types: deb
      URIs: http://{NET}.1:{packages}
      Suites: trixie
      Components: main
      Signed-By: /etc/apt/keyrings/tests.asc
",
            public.trim()
        );
        let network = format!(
            "<network><name>there</name><bridge name='there0'/><ip address='{NET}.1' netmask='255.255.255.0'><dhcp>{}</dhcp></ip></network>",
            MACHINES
                .map(|(_, name, last)| format!(
                    "<host mac='52:54:00:78:78:{last}' name='{name}' ip='{NET}.{last}'/>"
                ))
                .concat()
        );
        let network = suite.file("there-network.xml", &network)?;
        suite.virsh(["net-create", &network.display().to_string()]).ok()?;
        for (_, name, last) in MACHINES {
            let seed = seeds.join(name);
            fs::create_dir_all(&seed)?;
            fs::write(seed.join("user-data"), &user_data)?;
            fs::write(seed.join("meta-data"), format!("instance-id: {name}\nlocal-hostname: {name}\n"))?;
            fs::write(seed.join("vendor-data"), "")?;
            let port = serve(seed)?;
            let disk = suite.pool().join(format!("there-{name}.qcow2"));
            let base = folder.join("disk.qcow2");
            Program::new("qemu-img")
                .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
                .args([&base, &disk])
                .args(["8G"])
                .ok()?;
            let domain = suite
                .file(&format!("there-{name}.xml"), &domain(name, last, &disk.display().to_string(), port))?;
            suite.virsh(["create", &domain.display().to_string()]).ok()?;
        }
        let hosts = MACHINES.map(|(host, _, last)| {
            format!("  {host}: {{ address: {NET}.{last}, user: owner, key: owner }}\n")
        });
        let inventory = suite.state().with_file_name("machines.yaml");
        fs::write(&inventory, format!("hosts:\n{}", hosts.concat()))?;
        let made = Self { key, inventory };
        made.wait()?;
        Ok(made)
    }

    /// Waits until cloud-init has done all of it.
    fn wait(&self) -> Result<()> {
        let begun = Instant::now();
        for (host, ..) in MACHINES {
            while let Err(error) = self.run(host, "cloud-init status --wait >/dev/null; sudo true") {
                ensure!(
                    begun.elapsed() < Duration::from_secs(300),
                    "expected {host} to boot within 300 s: {error:#}"
                );
                thread::sleep(Duration::from_secs(2));
            }
        }
        Ok(())
    }

    /// Runs a command as the owner.
    fn run(&self, host: &str, command: &str) -> Result<String> {
        let last = MACHINES.iter().find(|(name, ..)| *name == host).context("no such machine")?.2;
        let options = [
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=5",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
        ];
        let ssh = Program::new("ssh").args(options).args(["-i"]).args([&self.key]);
        Ok(ssh.args([&format!("owner@{NET}.{last}"), command]).limit(200).ok()?.text().to_owned())
    }

    fn up<'a>(&self, suite: &'a Suite) -> Result<Lab<'a>> {
        let text = format!(
            "lab: there
network: {NET}.0/24
postgres:
  databases: [{{ name: app, owner: app }}]
hosts:
  m: {{ roles: [postgres] }}
  s: {{ roles: [postgres], follows: m }}
"
        );
        let file = suite.file("there.yaml", &text)?;
        let made = suite.pgprov(["up", "--hosts"]).args([&self.inventory, &file]).limit(LIMIT).ok()?;
        Ok(Lab { suite, name: "there", file, made })
    }

    fn remove(self, suite: &Suite) -> Result<()> {
        for (_, name, _) in MACHINES {
            suite.virsh(["destroy", name]).ok()?;
            fs::remove_file(suite.pool().join(format!("there-{name}.qcow2")))?;
        }
        suite.virsh(["net-destroy", "there"]).ok().map(drop)
    }
}

/// A machine as somebody else would define it, set up over HTTP.
fn domain(name: &str, last: u8, disk: &str, port: u16) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>768</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/><smbios mode='sysinfo'/></os>
<sysinfo type='smbios'><system><entry name='serial'>ds=nocloud;s=http://{NET}.1:{port}/</entry></system></sysinfo>
<features><acpi/><apic/></features><cpu mode='maximum'/>
<devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='unsafe'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>
<interface type='network'><mac address='52:54:00:78:78:{last}'/><source network='there'/><model type='virtio'/></interface>
<serial type='pty'/><rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
</devices></domain>"
    )
}
