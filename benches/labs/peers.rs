//! The same work by the tools that people have now, on the same machines in turns: an edit by ansible-playbook, and VMs by
//! Vagrant. Both are Debian's own packages (`scripts/setup --vagrant --ansible`).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use pgplan::{
    lab::{self, Pins},
    render::{RenderedHost, Roles},
    schema,
    secrets::Secrets,
    topology::Topology,
    yaml::Limits,
};
use serde_json::json;

use super::{median, rounds, timed};

/// A primary and two standbys.
const TOPOLOGY: &str = "lab: three
postgres:
  settings:
    work_mem: 4MB
  databases: [{ name: app, owner: app }]
hosts:
  m: { roles: [postgres] }
  s: { roles: [postgres], follows: m }
  t: { roles: [postgres], follows: m }
";

/// What an experienced user of ansible would write for the files of a host: one loop, and a reload when one of PostgreSQL's
/// changed. It is given the files as pgprov renders them, so it renders nothing itself, which is in its favour.
const PLAYBOOK: &str = r#"- hosts: all
  tasks:
    - name: install the files of PostgreSQL
      copy: { src: "files/{{ inventory_hostname }}{{ item.path }}", dest: "{{ item.path }}", owner: "{{ item.owner }}", group: "{{ item.group }}", mode: "{{ item.mode }}" }
      loop: "{{ files | selectattr('path', 'match', '/etc/postgresql/') | list }}"
      loop_control: { label: "{{ item.path }}" }
      notify: reload PostgreSQL
    - name: install the other files
      copy: { src: "files/{{ inventory_hostname }}{{ item.path }}", dest: "{{ item.path }}", owner: "{{ item.owner }}", group: "{{ item.group }}", mode: "{{ item.mode }}" }
      loop: "{{ files | rejectattr('path', 'match', '/etc/postgresql/') | list }}"
      loop_control: { label: "{{ item.path }}" }
  handlers:
    - name: reload PostgreSQL
      service: { name: postgresql@17-main, state: reloaded }
"#;

/// Pipelining, facts cached, connections kept, all hosts at once.
const CONFIG: &str = "[defaults]
inventory = hosts.ini
forks = 10
gathering = smart
fact_caching = jsonfile
fact_caching_connection = facts
[ssh_connection]
pipelining = True
ssh_args = -F ssh_config -o ControlMaster=auto -o ControlPersist=120s
";

/// Nothing to do, and `work_mem` edited on three hosts: by pgprov and by ansible-playbook, in turns.
pub fn edits(pgprov: &Path) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let play = Playbook { pgprov, folder: folder.path().to_owned() };
    let pgprov = |words: &[&str]| timed(pgprov, folder.path(), words);
    let file = |memory: &str| -> anyhow::Result<String> {
        let file = folder.path().join(format!("three-{memory}.yaml"));
        fs::write(&file, TOPOLOGY.replace("4MB", memory))?;
        Ok(file.display().to_string())
    };
    let plain = file("4MB")?;
    pgprov(&["up", "--no-checkpoint", &plain])?;
    play.write(&plain)?;
    // The first time it asks for facts.
    play.run(0)?;
    let mut times: [Vec<Duration>; 4] = Default::default();
    for round in 1..=rounds() {
        let [ours, theirs, our_edit, their_edit] = &mut times;
        for _ in 0..5 {
            ours.push(pgprov(&["up", &plain])?);
        }
        theirs.push(play.run(0)?);
        let edited = file(&format!("{}MB", 4 + round))?;
        our_edit.push(pgprov(&["up", &edited])?);
        play.in_force(&format!("{}MB", 4 + round))?;
        play.render(&plain)?;
        their_edit.push(play.run(1)?);
        play.in_force("4MB")?;
        println!("round {round}: {}", last(&times));
    }
    pgprov(&["destroy", "three", "--yes"])?;
    println!("| 3 hosts | pgprov, s | ansible-playbook, s | ratio |");
    println!("|---|---|---|---|");
    for (what, [ours, theirs]) in [("nothing to do", [0, 1]), ("`work_mem` edited, reload", [2, 3])]
        .map(|(what, at)| (what, at.map(|at| median(&times[at]))))
    {
        println!("| {what} | {ours:.2} | {theirs:.2} | {:.1} |", theirs / ours);
    }
    Ok(())
}

/// A lab from the image in the store: by pgprov, and by Vagrant with pgprov as its provisioner.
pub fn machines(pgprov: &Path) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (boxes, home) = (folder.path().join("boxes"), folder.path().join("vagrant"));
    fs::create_dir_all(&home)?;
    let file = folder.path().join("three.yaml");
    fs::write(&file, TOPOLOGY)?;
    let (topology, boxes) = (file.display().to_string(), boxes.display().to_string());
    let vagrant = |words: &[&str]| -> anyhow::Result<Duration> {
        let mut command = Command::new("vagrant");
        command
            .args(words)
            .env("VAGRANT_HOME", &home)
            .env("VAGRANT_DOTFILE_PATH", home.join("machines"))
            .env("PGPROV", pgprov)
            .env("PGPROV_STATE_DIR", folder.path().join("vagrant-state"))
            .env("PGPROV_LAB", &file)
            .env("PGPROV_VAGRANT_DRIVER", driver()?);
        measured(command, &format!("vagrant {}", words.join(" "))).map(|(elapsed, _)| elapsed)
    };
    let pgprov = |words: &[&str]| timed(pgprov, folder.path(), words);
    // Neither figure has the copy of the image into the pool in it.
    pgprov(&["up", "--no-checkpoint", &topology])?;
    pgprov(&["destroy", "three", "--yes"])?;
    pgprov(&["image", "box", "debian-13", "--out", &boxes])?;
    vagrant(&["box", "add", "--provider", "libvirt", &format!("{boxes}/pgprov-debian-13.json")])?;
    let mut times: [Vec<Duration>; 3] = Default::default();
    for round in 0..=rounds() {
        let [copied, booted, theirs] = &mut times;
        let by_vagrant = vagrant(&["up"])?;
        vagrant(&["destroy", "-f"])?;
        // The first time it makes a volume of its box.
        if round == 0 {
            continue;
        }
        theirs.push(by_vagrant);
        copied.push(pgprov(&["up", "--no-checkpoint", &topology])?);
        pgprov(&["destroy", "three", "--yes"])?;
        booted.push(pgprov(&["up", "--boot", "--no-checkpoint", &topology])?);
        pgprov(&["destroy", "three", "--yes"])?;
        println!("round {round}: {}", last(&times));
    }
    println!("| a lab of 3 hosts, from nothing to its roles | s | ratio |");
    println!("|---|---|---|");
    let base = median(&times[0]);
    for (what, times) in ["`pgprov up`", "`pgprov up --boot`", "`vagrant up`"].iter().zip(&times) {
        println!("| {what} | {:.1} | {:.1} |", median(times), median(times) / base);
    }
    Ok(())
}

/// A folder with a playbook that installs what pgprov renders.
struct Playbook<'a> {
    pgprov: &'a Path,
    folder: PathBuf,
}

impl Playbook<'_> {
    /// Everything, for the hosts of that topology, whose lab is there.
    fn write(&self, topology: &str) -> anyhow::Result<()> {
        fs::write(self.folder.join("ansible.cfg"), CONFIG)?;
        fs::write(self.folder.join("site.yaml"), PLAYBOOK)?;
        let mut inventory = String::new();
        fs::create_dir_all(self.folder.join("host_vars"))?;
        for host in rendered(&fs::read_to_string(topology)?)? {
            inventory.push_str(&format!(
                "{0} ansible_host=three-{0} ansible_python_interpreter=/usr/bin/python3\n",
                host.host
            ));
            let files: Vec<_> = host
                .files
                .iter()
                .filter(|file| !file.once)
                .map(|file| json!({ "path": file.path, "owner": file.owner, "group": file.group, "mode": file.mode }))
                .collect();
            let vars = self.folder.join(format!("host_vars/{}.json", host.host));
            fs::write(vars, serde_json::to_vec(&json!({ "files": files }))?)?;
        }
        fs::write(self.folder.join("hosts.ini"), inventory)?;
        let (_, config) = self.ask(&["ssh-config", "three"])?;
        fs::write(self.folder.join("ssh_config"), config)?;
        self.render(topology)
    }

    /// The files as they are to be.
    fn render(&self, topology: &str) -> anyhow::Result<()> {
        let out = self.folder.join("files").display().to_string();
        self.ask(&["render", "--secrets", "--out", &out, topology]).map(drop)
    }

    fn ask(&self, words: &[&str]) -> anyhow::Result<(Duration, String)> {
        let mut command = Command::new(self.pgprov);
        command.args(words).env("PGPROV_STATE_DIR", self.folder.join("state"));
        measured(command, &format!("pgprov {}", words.join(" ")))
    }

    /// Runs the playbook, which changes that many files on each host.
    fn run(&self, files: usize) -> anyhow::Result<Duration> {
        let mut command = Command::new("ansible-playbook");
        command
            .arg("site.yaml")
            .current_dir(&self.folder)
            .env("ANSIBLE_NOCOLOR", "1")
            .env("LC_ALL", "C.UTF-8");
        let (elapsed, said) = measured(command, "ansible-playbook")?;
        let changed = said.lines().filter(|line| line.starts_with("changed: [")).count();
        // Three hosts, and each reload is a change as well.
        let expected = if files == 0 { 0 } else { 3 * (files + 1) };
        ensure!(changed == expected, "ansible changed {changed} things, not {expected}:\n{said}");
        Ok(elapsed)
    }

    /// That all servers have this value.
    fn in_force(&self, value: &str) -> anyhow::Result<()> {
        for host in ["m", "s", "t"] {
            let (_, said) = self.ask(&["psql", "--lab", "three", host, "--", "-XAtqc", "show work_mem"])?;
            ensure!(said.trim() == value, "work_mem of {host} is {said}, not {value}");
        }
        Ok(())
    }
}

/// What pgprov would install; secrets are masked, which lists of files do not have in them.
fn rendered(topology: &str) -> anyhow::Result<Vec<RenderedHost>> {
    let roles = Roles::parse(&pgprov::files::sources(None)?).map_err(|bad| anyhow::anyhow!("{bad:?}"))?;
    let (topology, _) = schema::load::<Topology>(topology, Limits::default()).finish();
    let lab = lab::derive(&topology.context("the topology has errors")?, &Pins::new());
    let secrets = Secrets::masked(lab.database_users(), lab.hosts.iter().map(|host| host.name.clone()));
    Ok(roles.render(&lab, &secrets)?)
}

/// What Vagrant calls the hypervisor that there is.
fn driver() -> anyhow::Result<&'static str> {
    let infra = pgprov::libvirt::Libvirt::connect(None)?.observe("three")?;
    Ok(if infra.hypervisor.accel == pgplan::machine::Accel::Emulated { "qemu" } else { "kvm" })
}

fn measured(mut command: Command, name: &str) -> anyhow::Result<(Duration, String)> {
    let begun = Instant::now();
    let output =
        command.output().with_context(|| format!("cannot run {name}: scripts/setup --vagrant --ansible"))?;
    let elapsed = begun.elapsed();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} failed:\n{said}\n{complaint}");
    Ok((elapsed, said))
}

fn last(times: &[Vec<Duration>]) -> String {
    let last = |all: &Vec<Duration>| format!("{:.2}", all.last().map_or(0.0, Duration::as_secs_f64));
    times.iter().map(last).collect::<Vec<_>>().join(" ")
}
