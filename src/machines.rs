//! Labs of machines that were there before: which ones they are, kept in the state directory of the lab.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use pgplan::{
    excerpt,
    lab::{self, Lab, Pins},
    machines::{self, Machines},
    topology::Topology,
};

use crate::{
    error::{Error, Kind, Result},
    files::read_limited,
    ssh::{self, Target},
    state::{self, LabState},
};

/// Reads an inventory for a lab. Relative paths of keys are beside the inventory.
///
/// # Errors
/// It cannot be read, or has errors: the findings are the message.
pub fn read(file: &Path, lab: &Lab) -> Result<Machines> {
    let text = String::from_utf8_lossy(&read_limited(file)?).into_owned();
    let (machines, findings) = machines::read(&text, lab);
    let name = file.display().to_string();
    let mut machines = machines.ok_or_else(|| {
        let shown = excerpt::render(&findings, &name, &text);
        Error::new(Kind::Invalid, format!("{name} has errors\n{}", shown.trim_end()))
    })?;
    let folder = file.parent().unwrap_or(Path::new("."));
    for (host, machine) in &mut machines.hosts {
        let key = match (machine.key.strip_prefix("~/"), env::home_dir()) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => folder.join(&machine.key),
        };
        let key = fs::canonicalize(key)
            .with_context(|| format!("cannot find the key of {host}, {}", machine.key))?;
        machine.key = key.display().to_string();
    }
    Ok(machines)
}

/// The labs that are made of such machines.
///
/// # Errors
/// The folder with the state of all labs cannot be read.
pub fn labs(root: &Path) -> Result<Vec<(LabState, Machines)>> {
    let mut labs = Vec::new();
    for name in state::list(root)? {
        if let Some(state) = LabState::open(root, &name)?
            && let Some(machines) = kept(&state)?
        {
            labs.push((state, machines));
        }
    }
    Ok(labs)
}

fn file(state: &LabState) -> PathBuf {
    state.topology().with_file_name("machines.json")
}

/// The machines of a lab whose hosts are machines that are there already: those that the inventory names, else those of the last
/// `up`.
///
/// # Errors
/// The inventory has errors, or what was kept is damaged.
pub fn of(
    inventory: Option<&Path>,
    state: Option<&LabState>,
    topology: &Topology,
) -> Result<Option<Machines>> {
    match inventory {
        Some(inventory) => read(inventory, &lab::derive(topology, &Pins::new())).map(Some),
        None => Ok(state.map(kept).transpose()?.flatten()),
    }
}

/// The machines of a lab, if it is made of such.
///
/// # Errors
/// The file is there but cannot be read.
pub fn kept(state: &LabState) -> Result<Option<Machines>> {
    let file = file(state);
    match fs::read(&file) {
        Ok(bytes) => {
            let damaged = || format!("{} is damaged", file.display());
            Ok(Some(serde_json::from_slice(&bytes).with_context(damaged)?))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            Err(anyhow::Error::new(error).context(format!("cannot read {}", file.display())).into())
        }
    }
}

/// Keeps which machines the lab is made of.
///
/// # Errors
/// The file cannot be written.
pub fn keep(state: &LabState, machines: &Machines) -> Result {
    Ok(state.write(&file(state), &serde_json::to_vec_pretty(machines)?)?)
}

/// Pins the host key that the inventory gives a host, if it does.
///
/// # Errors
/// It is no key, or another one is pinned.
pub fn pin(target: &Target, machines: &Machines) -> Result {
    let machine = machines.hosts.get(&target.name);
    let Some(key) = machine.and_then(|machine| machine.host_key.as_deref()) else { return Ok(()) };
    let blob = key.split(' ').nth(1).unwrap_or_default();
    let blob = STANDARD.decode(blob).with_context(|| format!("host_key of {} is no key", target.name))?;
    Ok(ssh::pin(&target.known_hosts, &target.name, &blob)?)
}

/// That a lab of machines has nothing of what a hypervisor does.
pub fn has_none(lab: &str, what: &str) -> Error {
    Error::usage(format!("lab {lab} is made of machines that were there before: it has no {what}"))
        .hint("that needs VMs which pgprov makes")
}
