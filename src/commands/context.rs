//! What commands start from: roles, a checked topology, a lab that exists.

use std::{
    env,
    ffi::OsStr,
    fs,
    net::{SocketAddr, ToSocketAddrs as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use pgplan::{
    check::{self, Checked},
    excerpt,
    finding::Severity,
    lab::{Host, Lab, Pins},
    observed::Infra,
    render::{RenderedHost, Roles},
    secrets::Secrets,
    topology::Topology,
};

use crate::{
    cli::Global,
    error::{Error, Kind, Result},
    files,
    libvirt::Libvirt,
    machines,
    ssh::{Session, Target},
    state::{self, LabState},
    ui::Ui,
};

const NO_LAB: &str = "make one: pgprov up topologies/lab.yaml";
/// How long a host that is up may take to answer.
pub const CONNECT: Duration = Duration::from_secs(20);

/// Roles and templates.
pub struct Assets {
    /// The roles, parsed.
    pub roles: Roles,
}

impl Assets {
    /// Reads built-in roles and those of `--assets`.
    ///
    /// # Errors
    /// A manifest or template that cannot be used.
    pub fn load(global: &Global) -> Result<Self> {
        let sources = files::sources(global.assets.as_deref())?;
        let roles = Roles::parse(&sources).map_err(|bad| {
            let text = |file: &str| {
                let role = file.strip_prefix("roles/").and_then(|name| sources.roles.get(name));
                let template = || sources.templates.get(file.strip_prefix("templates/")?);
                role.or_else(template).map_or("", String::as_str)
            };
            let all: String =
                bad.iter().map(|(file, findings)| excerpt::render(findings, file, text(file))).collect();
            Error::new(Kind::Invalid, format!("role manifests or templates have errors\n{all}"))
        })?;
        Ok(Self { roles })
    }

    /// Reads and checks a topology file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn check_file(&self, file: &Path) -> Result<(String, Checked)> {
        let bytes = files::read_limited(file)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok((text.clone(), self.check(&text)))
    }

    /// Checks a topology.
    pub fn check(&self, text: &str) -> Checked {
        check::check_text(text, &self.roles.known())
    }

    /// Reads a topology file that has no errors; its warnings are printed.
    ///
    /// # Errors
    /// The file cannot be read, or has errors: the findings are the message.
    pub fn topology(&self, ui: &Ui, file: &Path) -> Result<(String, Topology)> {
        let (text, checked) = self.check_file(file)?;
        let name = file.display().to_string();
        let shown = excerpt::render(&checked.findings, &name, &text);
        match checked.topology {
            Some(topology) if checked.findings.iter().all(|f| f.severity != Severity::Error) => {
                if !shown.is_empty() {
                    ui.say(shown.trim_end());
                }
                Ok((text, topology))
            }
            _ => Err(Error::new(Kind::Invalid, format!("{name} has errors\n{}", shown.trim_end()))),
        }
    }
}

/// A lab that `up` has made, as it was last applied.
pub struct OpenLab {
    /// Its state directory.
    pub state: LabState,
    /// Its topology with everything derived.
    pub lab: Lab,
}

impl OpenLab {
    /// Opens a lab by name, by topology file, or the only one there is.
    ///
    /// # Errors
    /// There is no such lab, or the choice is not clear.
    pub fn find(global: &Global, wanted: Option<&str>) -> Result<(Self, Assets)> {
        let assets = Assets::load(global)?;
        let root = state::root()?;
        let name = match wanted {
            Some(wanted) => lab_name(&assets, wanted)?,
            None => only_lab(&root)?,
        };
        let state = LabState::open(&root, &name)?.ok_or_else(|| {
            let labs = state::list(&root).unwrap_or_default();
            Error::usage(format!("there is no lab `{name}`")).hint(match labs.is_empty() {
                true => NO_LAB.to_owned(),
                false => format!("labs: {}", labs.join(", ")),
            })
        })?;
        let lab = applied(&assets, &state)?;
        Ok((Self { state, lab }, assets))
    }

    /// The host of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn host(&self, name: &str) -> Result<&Host> {
        self.lab.host(name).ok_or_else(|| {
            let names: Vec<&str> = self.lab.hosts.iter().map(|host| host.name.as_str()).collect();
            Error::usage(format!("lab {} has no host `{name}`", self.lab.name))
                .hint(format!("hosts: {}", names.join(", ")))
        })
    }

    /// Connects to a host that is up.
    ///
    /// # Errors
    /// It does not answer in time, or is not the one we know.
    pub fn connect(&self, host: &Host) -> Result<Session> {
        Ok(Session::connect(&target(&self.state, host)?, Instant::now() + CONNECT)?)
    }

    /// The hypervisor; `what` of it is wanted.
    ///
    /// # Errors
    /// It does not answer, or the lab is made of machines that were there before.
    pub fn hypervisor(&self, global: &Global, what: &str) -> Result<Libvirt> {
        if self.lab.is_on_machines() {
            return Err(machines::has_none(&self.lab.name, what));
        }
        Ok(Libvirt::connect(global.connect.as_deref())?)
    }

    /// The hypervisor and what there is of the lab on it, if it is made of VMs.
    ///
    /// # Errors
    /// The hypervisor does not answer.
    pub fn observe(&self, global: &Global) -> Result<Option<(Libvirt, Infra)>> {
        if self.lab.is_on_machines() {
            return Ok(None);
        }
        let libvirt = Libvirt::connect(global.connect.as_deref())?;
        let infra = libvirt.observe(&self.lab.name)?;
        Ok(Some((libvirt, infra)))
    }

    /// What roles say about the host: status and log scripts, files without their secrets.
    ///
    /// # Errors
    /// A template that cannot be rendered.
    pub fn rendered(&self, assets: &Assets) -> Result<Vec<RenderedHost>> {
        Ok(assets.roles.render(&self.lab, &masked(&self.lab))?)
    }
}

/// What hosts were last made to have, without their secrets, when that was by another topology than `text`; nothing when it
/// cannot be told any more.
pub fn rendered_before(roles: &Roles, state: &LabState, text: &str) -> Vec<RenderedHost> {
    let assets = Assets { roles: roles.clone() };
    let render = |lab: Lab| assets.roles.render(&lab, &masked(&lab)).ok();
    match fs::read_to_string(state.topology()) {
        Ok(before) if before != text => applied(&assets, state).ok().and_then(render).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// The lab as it was last applied, from the copy of its topology and the addresses its hosts got.
fn applied(assets: &Assets, state: &LabState) -> Result<Lab> {
    let file = state.topology();
    let text = fs::read_to_string(&file).map_err(|error| {
        let message =
            format!("lab {} was never brought up: cannot read {}: {error}", state.lab(), file.display());
        Error::failed(message)
            .hint(format!("finish it with `pgprov up`, or take it away: pgprov destroy {}", state.lab()))
    })?;
    let checked = assets.check(&text);
    let topology = checked.topology.ok_or_else(|| {
        let file = file.display().to_string();
        let shown = excerpt::render(&checked.findings, &file, &text);
        Error::new(Kind::Invalid, format!("{file} has errors\n{}", shown.trim_end()))
            .hint("a lab with roles of its own needs the --assets that `up` had: set PGPROV_ASSETS")
    })?;
    let mut lab = assets.roles.derive(&topology, &pins(state)?)?;
    if let Some(machines) = machines::kept(state)? {
        lab.settle_on(&machines);
    }
    Ok(lab)
}

/// This very program, to be run beside this one with the same hypervisor, roles and pool, and nothing to read.
///
/// # Errors
/// Its file cannot be found.
pub fn this_program(global: &Global) -> anyhow::Result<Command> {
    let mut command = Command::new(env::current_exe().context("cannot find this program")?);
    command.stdin(Stdio::null());
    let given = [
        ("LIBVIRT_DEFAULT_URI", global.connect.as_deref().map(OsStr::new)),
        ("PGPROV_ASSETS", global.assets.as_deref().map(Path::as_os_str)),
        ("PGPROV_POOL_PATH", global.pool_path.as_deref().map(OsStr::new)),
    ];
    command.envs(given.into_iter().filter_map(|(name, value)| Some((name, value?))));
    Ok(command)
}

/// Secrets that are none, for files that are only looked at.
pub fn masked(lab: &Lab) -> Secrets {
    Secrets::masked(lab.passwords(), lab.hosts.iter().map(|host| host.name.clone()))
}

/// Where and how to reach a host over SSH.
///
/// # Errors
/// The name of a machine has no address.
pub fn target(state: &LabState, host: &Host) -> anyhow::Result<Target> {
    let (addr, user, key_file) = match &host.machine {
        None => (SocketAddr::from((host.mgmt.address, 22)), "root".to_owned(), state.key()),
        Some(machine) => {
            let name = machine.ssh.clone().unwrap_or_else(|| machine.address.to_string());
            let found = (name.as_str(), machine.port).to_socket_addrs();
            let addr =
                found.with_context(|| format!("cannot find the address of {}: {name}", host.name))?.next();
            let addr = addr.with_context(|| format!("{} has no address: {name}", host.name))?;
            (addr, machine.user.clone(), PathBuf::from(&machine.key))
        }
    };
    let known_hosts = state.known_hosts();
    Ok(Target { name: host.name.clone(), addr, user, key_file, known_hosts })
}

fn pins_file(state: &LabState) -> PathBuf {
    state.topology().with_file_name("addresses.json")
}

/// The indexes in their subnets that hosts of the lab got.
///
/// # Errors
/// The file is there but cannot be read.
pub fn pins(state: &LabState) -> Result<Pins> {
    let file = pins_file(state);
    match fs::read(&file) {
        Ok(bytes) => {
            Ok(serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", file.display()))?)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Pins::new()),
        Err(error) => {
            Err(anyhow::Error::new(error).context(format!("cannot read {}", file.display())).into())
        }
    }
}

/// Keeps which indexes in their subnets the hosts of the lab have.
///
/// # Errors
/// The file cannot be written.
pub fn keep_pins(state: &LabState, lab: &Lab) -> Result {
    Ok(state.write(&pins_file(state), &serde_json::to_vec_pretty(&lab.pins())?)?)
}

/// The name of a lab that was given by name or by topology file.
///
/// # Errors
/// A file that is no topology.
pub fn lab_name(assets: &Assets, wanted: &str) -> Result<String> {
    let file = Path::new(wanted);
    let is_file = wanted.contains(['/', '.']) || file.is_file();
    if !is_file {
        return Ok(wanted.to_owned());
    }
    let (_, checked) = assets.check_file(file)?;
    let topology = checked.topology.ok_or_else(|| {
        Error::new(Kind::Invalid, format!("{wanted} has errors"))
            .hint(format!("see `pgprov validate {wanted}`, or give the name of the lab"))
    })?;
    Ok(topology.lab)
}

/// The only lab there is.
///
/// # Errors
/// There is none, or more than one.
pub fn only_lab(root: &Path) -> Result<String> {
    let mut labs = state::list(root)?;
    match labs.len() {
        1 => Ok(labs.remove(0)),
        0 => Err(Error::usage("there is no lab").hint(NO_LAB)),
        _ => Err(Error::usage(format!("there are {} labs: say which one", labs.len()))
            .hint(format!("labs: {}", labs.join(", ")))),
    }
}
