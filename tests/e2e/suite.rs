//! What cases work with: the program, the labs, and views of the hypervisor that do not go through the program.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use pgplan::machine::{POOL_NAME, POOL_PATH};
use serde_json::Value;

use crate::{
    command::{Output, Program, Running},
    secrets::{WATCH_INSIDE, Watch},
};

/// Seconds that an `up` may take here: CI machines emulate their VMs on two cores.
pub const UP_LIMIT: u64 = 600;

/// A lab that cases use: its name and topology.
pub struct Spec {
    /// Name of the lab.
    pub name: &'static str,
    /// Its topology: a file of the repository, or the text.
    pub topology: Topology,
}

/// Where a topology comes from.
pub enum Topology {
    /// A file that the repository ships.
    File(&'static str),
    /// A text.
    Text(&'static str),
}

/// The lab of the README: primary, synchronous standby, arbiter, client.
pub const MAIN: Spec = Spec { name: "lab", topology: Topology::File("topologies/lab.yaml") };

/// The hosts of [`MAIN`].
pub const MAIN_HOSTS: [&str; 4] = ["m", "s", "arbiter", "client"];

/// A small lab, for what breaks or destroys: primary and standby.
pub const PAIR: Spec = Spec {
    name: "pair",
    topology: Topology::Text(
        "lab: pair
postgres:
  databases: [{ name: app, owner: app }]
hosts:
  m: { roles: [postgres] }
  s: { roles: [postgres], follows: m }
",
    ),
};

/// A pair on the older release, with its PostgreSQL.
pub const TWELVE: Spec = Spec {
    name: "twelve",
    topology: Topology::Text(
        "lab: twelve
image: debian-12
hosts:
  m: { roles: [postgres] }
  s: { roles: [postgres], follows: m }
",
    ),
};

/// Everything that cases share.
pub struct Suite {
    dir: PathBuf,
    keep: bool,
    repository: PathBuf,
    pgprov: PathBuf,
    sandbox: PathBuf,
    pool: PathBuf,
    /// Labs that were brought up in this run: what `up` wrote, or nothing when it failed.
    labs: RefCell<BTreeMap<&'static str, Option<Output>>>,
    /// Arguments of the processes of this machine while the main lab was made.
    arguments: RefCell<Option<String>>,
}

/// A lab that is up.
#[derive(Clone)]
pub struct Lab<'a> {
    /// The suite.
    pub suite: &'a Suite,
    /// Its name.
    pub name: &'static str,
    /// Its topology file.
    pub file: PathBuf,
    /// What the `up` that made it wrote.
    pub made: Output,
}

impl Suite {
    /// The environment of the suite.
    ///
    /// # Errors
    /// It is not inside `scripts/sandbox`, or there is no program to test.
    pub fn new() -> Result<Self> {
        // Cases destroy all labs, which must never be those of a user.
        let sandbox = env::var_os("PGPROV_SANDBOX").map(PathBuf::from);
        let sandbox = sandbox.context("runs only inside `scripts/sandbox`: use `make test-e2e`")?;
        let pool =
            PathBuf::from(env::var_os("SANDBOX_POOL").context("SANDBOX_POOL is not set")?).join("pgprov");
        let repository = env::current_dir()?;
        let pgprov =
            PathBuf::from(env::var_os("PGPROV").context("PGPROV does not name the program to test")?);
        ensure!(pgprov.is_file(), "there is no program {}; `make build` makes it", pgprov.display());
        let (dir, keep) = match env::var_os("PGPROV_E2E_KEEP") {
            Some(dir) => (PathBuf::from(dir), true),
            None => (env::temp_dir().join(format!("pgprov-e2e-{}", std::process::id())), false),
        };
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self {
            dir,
            keep,
            repository,
            pgprov,
            sandbox,
            pool,
            labs: RefCell::default(),
            arguments: RefCell::default(),
        })
    }

    /// A line on what is tested where.
    pub fn describe(&self) -> String {
        let version =
            self.pgprov(["--version"]).run().map(|output| output.text().to_owned()).unwrap_or_default();
        format!("{version} from {}, labs and files in {}", self.pgprov.display(), self.dir.display())
    }

    /// Destroys all labs of this sandbox, unless they are to be kept.
    pub fn clean_up(&self) -> Result<()> {
        if self.keep {
            return Ok(());
        }
        let destroyed = self.pgprov(["destroy", "--all", "--yes"]).limit(120).always().ok();
        let _ = fs::remove_dir_all(&self.dir);
        destroyed.map(drop)
    }

    /// After a case that failed: takes its labs away, which may be wrecked, so that the next case is told about itself only.
    pub fn start_afresh(&self) -> Result<()> {
        if self.keep {
            return Ok(());
        }
        // One that did not come up is not tried again by each case that needs it.
        self.labs.borrow_mut().retain(|_, made| made.is_none());
        self.pgprov(["destroy", "--all", "--yes"]).limit(180).ok().map(drop)
    }

    /// The program with those arguments, its state in the suite's folder.
    pub fn pgprov(&self, args: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) -> Program {
        Program::new(&self.pgprov)
            .without(&[
                "PGPROV_LAB",
                "PGPROV_ASSETS",
                "PGPROV_POOL_PATH",
                "NO_COLOR",
                "PGSERVICEFILE",
                "PGPASSFILE",
            ])
            .env("PGPROV_STATE_DIR", self.state())
            .args(args)
    }

    /// The program that is tested.
    pub fn program(&self) -> &Path {
        &self.pgprov
    }

    /// Folder of the repository.
    pub fn repository(&self) -> &Path {
        &self.repository
    }

    /// virsh with those arguments: what really exists.
    pub fn virsh<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Program {
        Program::new("virsh").args(["-q"]).args(args)
    }

    /// Where the program keeps its state.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The folder of the storage pool, as this process sees it.
    pub fn pool(&self) -> &Path {
        &self.pool
    }

    /// Does something while libvirtd sees an empty file system of that many MiB where its pool is; disks of VMs that run
    /// stay open behind it.
    ///
    /// # Errors
    /// There is no way to mount it, or the thing failed.
    pub fn with_small_pool<T>(&self, mib: u32, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let pid = fs::read_to_string(self.sandbox.join("libvirtd.pid")).context("no pid of libvirtd")?;
        let inside =
            |args: &[&str]| Program::new("nsenter").args(["-m", "-t", pid.trim()]).args(args).always();
        let size = format!("size={mib}m");
        inside(&["mount", "-t", "tmpfs", "-o", &size, "pgprov-e2e", POOL_PATH]).ok()?;
        let result = work();
        inside(&["umount", POOL_PATH]).ok()?;
        self.virsh(["pool-refresh", POOL_NAME]).ok()?;
        result
    }

    /// The folder of libvirt's definitions.
    pub fn definitions(&self) -> PathBuf {
        self.sandbox.join("etc/qemu")
    }

    /// Writes a file into the suite's folder.
    pub fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Makes a folder in the suite's folder.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// The text of a file of the repository.
    pub fn repository_file(&self, name: &str) -> Result<String> {
        fs::read_to_string(self.repository.join(name)).with_context(|| format!("cannot read {name}"))
    }

    /// The topology file of a lab.
    pub fn topology(&self, spec: &Spec) -> Result<PathBuf> {
        match spec.topology {
            Topology::File(name) => Ok(self.repository.join(name)),
            Topology::Text(text) => self.file(&format!("{}.yaml", spec.name), text),
        }
    }

    /// The lab, brought up if no case needed it before.
    ///
    /// # Errors
    /// It did not come up, now or for an earlier case.
    pub fn lab(&self, spec: &Spec) -> Result<Lab<'_>> {
        let made = self.labs.borrow().get(spec.name).cloned();
        match made {
            None => self.made(spec, self.watched_up(spec)),
            Some(Some(made)) => Ok(Lab { suite: self, name: spec.name, file: self.topology(spec)?, made }),
            Some(None) => bail!("lab {} is not up: see the case that needed it first", spec.name),
        }
    }

    /// Keeps how bringing a lab up went, for the cases that need it.
    ///
    /// # Errors
    /// It did not come up.
    pub fn made(&self, spec: &Spec, made: Result<Output>) -> Result<Lab<'_>> {
        self.labs.borrow_mut().insert(spec.name, made.as_ref().ok().cloned());
        let made = made.with_context(|| format!("expected lab {} to be up", spec.name))?;
        Ok(Lab { suite: self, name: spec.name, file: self.topology(spec)?, made })
    }

    /// Brings a lab up. While it is the main one, the arguments of all processes are watched, here and on its hosts.
    /// That slows the hosts down, and PGPROV_E2E_UNWATCHED=1 is for who wants to measure something else.
    fn watched_up(&self, spec: &Spec) -> Result<Output> {
        if env::var_os("PGPROV_E2E_UNWATCHED").is_some() {
            return self.pgprov(["up", "--yes"]).args([self.topology(spec)?]).limit(UP_LIMIT).ok();
        }
        let watch = Watch::start();
        let mut up = self.pgprov(["up", "--yes"]).args([self.topology(spec)?]).limit(UP_LIMIT).start()?;
        let mut watched: BTreeMap<&str, Result<Running>> = BTreeMap::new();
        let watch_hosts = |up: &Running| {
            let said = up.stderr();
            for host in MAIN_HOSTS.into_iter().filter(|_| spec.name == MAIN.name) {
                let answers = ["applying", "waiting for its turn"].map(|what| format!("{host} {what}"));
                if !watched.contains_key(host) && answers.iter().any(|answer| said.contains(answer)) {
                    let watch = self.pgprov(["exec", "--lab", spec.name, "--host", host, "--", WATCH_INSIDE]);
                    watched.insert(host, watch.start());
                }
            }
            false
        };
        up.wait_until(watch_hosts)?;
        let made = up.wait()?.exits(0);
        for started in watched.into_values() {
            started?.wait()?.exits(0)?;
        }
        if spec.name == MAIN.name {
            self.arguments.replace(Some(watch.seen()));
        }
        made
    }

    /// The arguments of all processes that ran while the main lab was made, one process a line.
    pub fn arguments_seen(&self) -> Result<String> {
        self.arguments.borrow().clone().context("the main lab was not made by this run")
    }

    /// A lab that a case destroyed: who needs it makes it again.
    pub fn forget(&self, spec: &Spec) {
        self.labs.borrow_mut().remove(spec.name);
    }

    /// Destroys all labs: who needs one makes it again.
    ///
    /// # Errors
    /// That failed.
    pub fn destroy_all(&self) -> Result<()> {
        self.labs.borrow_mut().clear();
        self.pgprov(["destroy", "--all", "--yes"]).limit(180).ok().map(drop)
    }

    /// Everything that libvirt has, one line each: `domain lab-m`, `network pgprov-lab-data`, `volume pgprov/x`.
    pub fn everything(&self) -> Result<BTreeSet<String>> {
        let mut all = BTreeSet::new();
        for domain in self.names(["list", "--all", "--name"])? {
            all.insert(format!("domain {domain}"));
        }
        for network in self.names(["net-list", "--all", "--name"])? {
            all.insert(format!("network {network}"));
        }
        for pool in self.names(["pool-list", "--name"])? {
            self.virsh(["pool-refresh", &pool]).ok()?;
            let volumes = self.virsh(["vol-list", &pool]).ok()?;
            let names = volumes.stdout.lines().filter_map(|line| line.split_whitespace().next());
            all.extend(names.map(|name| format!("volume {pool}/{name}")));
        }
        Ok(all)
    }

    /// The names of all files that libvirtd keeps for good: definitions, leases, saved memory, volumes of our pool.
    pub fn files_of_libvirt(&self) -> Result<Vec<String>> {
        let mut files = Vec::new();
        let mut folders = vec![self.sandbox.join("etc"), self.sandbox.join("lib"), self.pool.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten() {
                let path = entry?.path();
                if path.is_dir() && !path.is_symlink() {
                    folders.push(path.clone());
                }
                files.push(path.display().to_string());
            }
        }
        Ok(files)
    }

    fn names<const N: usize>(&self, args: [&str; N]) -> Result<Vec<String>> {
        let output = self.virsh(args).ok()?;
        Ok(output.stdout.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }
}

impl Lab<'_> {
    /// The program with a verb, the lab as option, and the rest.
    pub fn pgprov<'a>(&self, verb: &str, rest: impl IntoIterator<Item = &'a str>) -> Program {
        self.suite.pgprov([verb, "--lab", self.name]).args(rest)
    }

    /// Runs a shell script on a host; returns what it printed.
    ///
    /// # Errors
    /// It failed there.
    pub fn exec(&self, host: &str, script: &str) -> Result<String> {
        let output = self.pgprov("exec", ["--host", host, "-o", "json", "--", script]).limit(120).ok()?;
        let answers = output.json()?;
        let text = answers.pointer("/0/stdout").and_then(Value::as_str);
        Ok(text.with_context(|| format!("expected an answer of {host} in\n{output}"))?.trim().to_owned())
    }

    /// Runs a shell script on all hosts; returns what each printed.
    ///
    /// # Errors
    /// It failed on one.
    pub fn exec_everywhere(&self, script: &str) -> Result<BTreeMap<String, String>> {
        let output = self.pgprov("exec", ["-o", "json", "--", script]).limit(120).ok()?;
        let answers = output.json()?;
        let answer =
            |row: &Value| Some((row["host"].as_str()?.to_owned(), row["stdout"].as_str()?.trim().to_owned()));
        let all = answers.as_array().and_then(|rows| rows.iter().map(answer).collect());
        all.with_context(|| format!("expected an answer of each host in\n{output}"))
    }

    /// Runs SQL as superuser on a host, for its exit code and messages.
    pub fn try_psql(&self, host: &str, sql: &str) -> Result<Output> {
        self.pgprov("psql", [host, "--", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql]).run()
    }

    /// Runs SQL as superuser on a host; returns what it printed.
    ///
    /// # Errors
    /// The server refused it.
    pub fn psql(&self, host: &str, sql: &str) -> Result<String> {
        Ok(self.try_psql(host, sql)?.exits(0)?.text().to_owned())
    }

    /// Waits until SQL prints that text.
    ///
    /// # Errors
    /// It does not within 30 seconds.
    pub fn psql_becomes(&self, host: &str, sql: &str, wanted: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let output = self.try_psql(host, sql)?;
            if output.code == Some(0) && output.text() == wanted {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "expected {wanted:?} on {host} within 30 s, at last\n{output}"
            );
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Writes a row on one host and waits for it on another: data streams.
    ///
    /// # Errors
    /// It does not arrive.
    pub fn streams(&self, from: &str, to: &str, mark: &str) -> Result<()> {
        self.psql(from, "create table if not exists seen (mark text)")?;
        self.psql(
            from,
            &format!("delete from seen where mark = '{mark}'; insert into seen values ('{mark}')"),
        )?;
        self.psql_becomes(to, &format!("select count(*) from seen where mark = '{mark}'"), "1")
    }

    /// What `status -o json` says.
    pub fn status(&self) -> Result<Value> {
        self.suite.pgprov(["status", "-o", "json", self.name]).ok()?.json()
    }

    /// Brings the lab in line with a topology file.
    pub fn up(&self, file: &Path) -> Result<Output> {
        self.suite.pgprov(["up"]).args([file]).limit(UP_LIMIT).run()
    }

    /// Fails unless the plan is empty.
    pub fn is_as_its_topology_says(&self) -> Result<()> {
        self.suite.pgprov(["plan"]).args([&self.file]).ok()?.says("nothing to do").map(drop)
    }

    /// The libvirt name of a host.
    pub fn domain(&self, host: &str) -> String {
        format!("{}-{host}", self.name)
    }

    /// A file of the lab's state directory.
    pub fn state_file(&self, name: &str) -> PathBuf {
        self.suite.state().join(self.name).join(name)
    }
}

/// The object of that name in the array `hosts` of a status.
pub fn host<'a>(status: &'a Value, name: &str) -> Result<&'a Value> {
    let hosts =
        status["hosts"].as_array().with_context(|| format!("expected an array `hosts` in {status:#}"))?;
    let found = hosts.iter().find(|host| host["name"] == name);
    found.with_context(|| format!("expected host {name} in {status:#}"))
}
