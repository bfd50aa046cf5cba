//! Causes faults and heals them. What a fault is, is in [`pgplan::fault`]; here it is done.
//!
//! A fault is written down before it is caused and struck out after it was healed, so a run that is killed at any point
//! leaves nothing broken that nobody knows of. Causing and healing can both be repeated. The management network stays as
//! it is: a broken host can still be looked at.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use pgplan::{
    fault::{Fault, Record, network_script},
    lab::{Host, Lab},
    observed::DomainState,
};

use crate::{
    clock,
    every::every,
    execute,
    libvirt::Libvirt,
    ssh::{Session, Target, quote},
    state::LabState,
};

/// How long a host that is up may take to answer.
const CONNECT: Duration = Duration::from_secs(20);
/// How long a host may take to boot after its power was cut.
const BOOT: Duration = Duration::from_secs(240);
/// How long a script on a host may take: a service that stops in good order is the slowest.
const SCRIPT: Duration = Duration::from_secs(120);
/// The file that fills a disk.
const FILLING: &str = ".pgprov-fault";

/// The faults in force in a lab, in its state directory.
#[derive(Clone, Copy)]
pub struct Store<'a> {
    state: &'a LabState,
}

impl<'a> Store<'a> {
    /// Those of that lab.
    pub fn new(state: &'a LabState) -> Self {
        Self { state }
    }

    fn file(&self) -> PathBuf {
        self.state.topology().with_file_name("faults.json")
    }

    /// All of them, in the order in which they were caused.
    ///
    /// # Errors
    /// The file is there but cannot be read.
    pub fn list(&self) -> anyhow::Result<Vec<Record>> {
        let file = self.file();
        match fs::read(&file) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", file.display()))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    fn write(&self, records: &[Record]) -> anyhow::Result<()> {
        if records.is_empty() {
            return self.forget();
        }
        Ok(self.state.write(&self.file(), &serde_json::to_vec_pretty(records)?)?)
    }

    /// Strikes out power cuts and pauses of hosts that run: something else than healing has ended them.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn settle(&self, runs: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        let before = self.list()?;
        let ended = |fault: &Fault| match fault {
            Fault::Kill { host } | Fault::Pause { host } => runs(host),
            _ => false,
        };
        let after: Vec<Record> = before.iter().filter(|record| !ended(&record.fault)).cloned().collect();
        if after.len() == before.len() { Ok(()) } else { self.write(&after) }
    }

    /// Strikes out all faults: of hosts that are not there any more, or were taken back to a time before.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn forget(&self) -> anyhow::Result<()> {
        let file = self.file();
        match fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", file.display()))
            }
            _ => Ok(()),
        }
    }
}

/// What it takes to do something to the hosts of a lab.
pub struct Hands<'a> {
    /// The hypervisor.
    pub libvirt: &'a Libvirt,
    /// The lab.
    pub lab: &'a Lab,
    /// Its state; its lock is held.
    pub state: &'a LabState,
    /// Where its hosts answer, by name.
    pub targets: BTreeMap<String, Target>,
}

impl Hands<'_> {
    /// Causes a fault. One that it replaces is no more.
    ///
    /// # Errors
    /// It cannot be caused: what was done of it is undone, and it is not in force.
    pub fn cause(&self, fault: Fault, lasting: Option<Duration>) -> anyhow::Result<Record> {
        self.check(&fault)?;
        let store = Store::new(self.state);
        let before = store.list()?;
        let now = clock::since_1970();
        let replaced = before.iter().find(|record| fault.replaces(&record.fault));
        let record = Record {
            id: before.iter().map(|record| record.id).max().unwrap_or(0) + 1,
            since: now.as_secs(),
            until: lasting.map(|lasting| (now + lasting).as_secs_f64().ceil() as u64),
            fault,
        };
        let others = before.iter().filter(|other| Some(*other) != replaced);
        let after: Vec<Record> = others.chain([&record]).cloned().collect();
        store.write(&after)?;
        let Err(error) = self.act(&record.fault, &after) else { return Ok(record) };
        match self.heal(record.id) {
            Ok(()) => Err(error.context("the fault is not in force")),
            Err(left) => Err(error.context(format!("what was done of it could not be undone ({left:#})"))),
        }
    }

    /// Undoes a fault, and strikes it out. Does nothing when there is none of that number.
    ///
    /// # Errors
    /// It cannot be undone; it stays in force then.
    pub fn heal(&self, id: u32) -> anyhow::Result<()> {
        let store = Store::new(self.state);
        let records = store.list()?;
        let Some(record) = records.iter().find(|record| record.id == id) else { return Ok(()) };
        let others: Vec<Record> = records.iter().filter(|other| other.id != id).cloned().collect();
        self.undo(&record.fault, &others)?;
        store.write(&others)
    }

    /// Whether it can be done at all, before anything is.
    fn check(&self, fault: &Fault) -> anyhow::Result<()> {
        for host in fault.hosts() {
            let state = self.libvirt.host_state(&self.lab.name, host)?;
            let state =
                state.with_context(|| format!("host {host} does not exist; make it with `pgprov up`"))?;
            // A cable can be pulled and plugged in whether or not the machine runs.
            if !fault.cuts_off() && state != DomainState::Running {
                bail!("host {host} does not run, it is {}", format!("{state:?}").to_lowercase());
            }
        }
        if let Fault::StopService { host, unit } = fault {
            let script = format!("systemctl is-active -q -- {}", quote(unit));
            self.run(host, &script).with_context(|| format!("{unit} does not run on {host}"))?;
        }
        if let Fault::FillDisk { host, path } = fault {
            let script = format!("test -d {}", quote(path));
            self.run(host, &script).with_context(|| format!("there is no folder {path} on {host}"))?;
        }
        Ok(())
    }

    /// Does it. `all` are the faults that are in force then.
    fn act(&self, fault: &Fault, all: &[Record]) -> anyhow::Result<()> {
        let lab = &self.lab.name;
        match fault {
            Fault::Cut { host } => Ok(self.libvirt.set_data_link(lab, host, false)?),
            Fault::Isolate { host } => Ok(self.libvirt.isolate(lab, host, true)?),
            Fault::Kill { host } => Ok(self.libvirt.stop_host(lab, host)?),
            Fault::Pause { host } => Ok(self.libvirt.pause_host(lab, host)?),
            Fault::SlowDisk { host, kib } => {
                Ok(self.libvirt.limit_disk(lab, host, u64::from(*kib) * 1024)?)
            }
            Fault::StopService { host, unit } => {
                self.run(host, &format!("systemctl stop -- {}", quote(unit)))
            }
            Fault::FillDisk { host, path } => self.run(host, &fill(path)),
            Fault::Clock { host, seconds } => {
                let now = clock::since_1970().as_secs();
                let wrong = i64::try_from(now)?.saturating_add(*seconds);
                self.run(host, &format!("date -u -s @{wrong} >/dev/null"))
            }
            Fault::Partition { .. } | Fault::Delay { .. } | Fault::Loss { .. } | Fault::Rate { .. } => {
                self.rewire(fault, all)
            }
        }
    }

    /// Undoes it, whether or not it was done. `others` are the faults that stay in force.
    fn undo(&self, fault: &Fault, others: &[Record]) -> anyhow::Result<()> {
        let lab = &self.lab.name;
        let mut gone = true;
        for host in fault.hosts() {
            gone &= self.libvirt.host_state(lab, host)?.is_none();
        }
        if gone {
            return Ok(());
        }
        match fault {
            Fault::Cut { host } => Ok(self.libvirt.set_data_link(lab, host, true)?),
            Fault::Isolate { host } => {
                self.libvirt.isolate(lab, host, false)?;
                let alone = |record: &Record| matches!(record.fault, Fault::Isolate { .. });
                if !others.iter().any(alone) {
                    self.libvirt.remove_network(lab, "isolated")?;
                }
                Ok(())
            }
            Fault::Kill { host } => {
                self.libvirt.start_host(lab, host)?;
                self.connect(host, BOOT).map(drop)
            }
            Fault::Pause { host } => {
                self.libvirt.start_host(lab, host)?;
                // It does not know that it stood still.
                execute::set_clock(&self.connect(host, CONNECT)?)
            }
            Fault::SlowDisk { host, .. } => Ok(self.libvirt.limit_disk(lab, host, 0)?),
            Fault::StopService { host, unit } => {
                self.run(host, &format!("systemctl start -- {}", quote(unit)))
            }
            Fault::FillDisk { host, path } => {
                self.run(host, &format!("rm -f -- {}", quote(&format!("{path}/{FILLING}"))))
            }
            Fault::Clock { host, .. } => execute::set_clock(&self.session(host)?),
            Fault::Partition { .. } | Fault::Delay { .. } | Fault::Loss { .. } | Fault::Rate { .. } => {
                self.rewire(fault, others)
            }
        }
    }

    /// Makes the network faults inside the hosts of `fault` what `records` say, all hosts at once.
    fn rewire(&self, fault: &Fault, records: &[Record]) -> anyhow::Result<()> {
        let faults: Vec<&Fault> = records.iter().map(|record| &record.fault).collect();
        let hosts: Vec<&Host> = fault.hosts().into_iter().filter_map(|name| self.lab.host(name)).collect();
        let rewire = |host: &Host| self.run(&host.name, &network_script(self.lab, host, &faults));
        every(hosts, rewire).into_iter().collect()
    }

    fn session(&self, host: &str) -> anyhow::Result<Session> {
        let state = self.libvirt.host_state(&self.lab.name, host)?;
        ensure!(
            state == Some(DomainState::Running),
            "host {host} does not run: heal what stopped it, or start it with `pgprov up`"
        );
        self.connect(host, CONNECT)
    }

    fn connect(&self, host: &str, limit: Duration) -> anyhow::Result<Session> {
        let target = self.targets.get(host).with_context(|| format!("there is no host {host}"))?;
        Ok(Session::connect(target, Instant::now() + limit)?)
    }

    fn run(&self, host: &str, script: &str) -> anyhow::Result<()> {
        let output = self.session(host)?.run("sh -s", script.as_bytes(), &mut |_| {}, SCRIPT)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.success(), "a script failed on {host} ({:?}): {}", output.exit, said.trim());
        Ok(())
    }
}

/// Takes all room that those who are not root may use; what the file itself needs in the file system comes on top.
fn fill(path: &str) -> String {
    let (folder, file) = (quote(path), quote(&format!("{path}/{FILLING}")));
    format!(
        "set -eu\nrm -f -- {file}\nfree=$(df --output=avail -B1 -- {folder} | tail -n 1)\n\
         fallocate -l \"$free\" -- {file} 2>/dev/null || fallocate -l $((free - 4194304)) -- {file}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fills_a_disk_is_named_safely() {
        assert!(fill("/a b").contains("-- '/a b/.pgprov-fault'"), "{}", fill("/a b"));
    }

    #[test]
    fn faults_are_kept_in_order_and_struck_out() {
        let root = tempfile::tempdir().unwrap();
        let state = LabState::create(root.path(), "lab").unwrap();
        let store = Store::new(&state);
        assert!(store.list().unwrap().is_empty());
        let record = |id| Record { id, since: 1, until: None, fault: Fault::Cut { host: format!("h{id}") } };
        store.write(&[record(2), record(1)]).unwrap();
        assert_eq!(store.list().unwrap(), [record(2), record(1)]);
        fs::write(store.file(), "[{").unwrap();
        assert!(store.list().unwrap_err().to_string().ends_with("faults.json is damaged"));
        let on = |id, fault| Record { id, since: 1, until: None, fault };
        let (m, s) = (|| "m".to_owned(), || "s".to_owned());
        let all = [
            on(1, Fault::Kill { host: m() }),
            on(2, Fault::Pause { host: s() }),
            on(3, Fault::Cut { host: m() }),
        ];
        store.write(&all).unwrap();
        store.settle(|host| host == "m").unwrap();
        assert_eq!(store.list().unwrap(), all[1..]);
        store.write(&[]).unwrap();
        assert!(store.list().unwrap().is_empty() && !store.file().exists());
        store.forget().unwrap();
    }
}
