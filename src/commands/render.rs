//! `pgprov render`: all files of all hosts in a folder, without a lab.

use std::{fs, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use anyhow::Context as _;
use pgplan::lab::Pins;

use super::{
    context::{self, Assets},
    secrets,
};
use crate::{
    cli::{Global, Render},
    error::{Error, Result},
    machines,
    state::{self, LabState},
    ui::Ui,
};

/// Renders into `OUT/HOST/path/of/file`; secrets are masked unless they are asked for.
///
/// # Errors
/// The topology has errors, a template fails, a file cannot be written, or there is no lab to have secrets.
pub fn run(ui: &Ui, global: &Global, args: &Render) -> Result {
    let assets = Assets::load(global)?;
    let (_, topology) = assets.topology(ui, &args.file)?;
    // Hosts of a lab that exists keep their addresses.
    let state = LabState::open(&state::root()?, &topology.lab)?;
    let pins = state.as_ref().map(context::pins).transpose()?.unwrap_or_else(Pins::new);
    let mut lab = assets.roles.derive(&topology, &pins)?;
    if let Some(machines) = machines::of(args.hosts.as_deref(), state.as_ref(), &topology)? {
        lab = assets.roles.derive(&topology, &Pins::new())?;
        lab.settle_on(&machines);
    }
    let secrets = match (&state, args.secrets) {
        (_, false) => context::masked(&lab),
        (Some(state), true) if state.secrets().exists() => secrets::look_at(state, &lab)?,
        _ => {
            return Err(Error::usage(format!("lab {} has no secrets: `up` makes them", lab.name))
                .hint("render without --secrets, or bring the lab up first"));
        }
    };
    let hosts = assets.roles.render(&lab, &secrets)?;
    let mut count = 0;
    for host in &hosts {
        for file in &host.files {
            let path = args.out.join(&host.host).join(file.path.trim_start_matches('/'));
            let cannot = || format!("cannot write {}", path.display());
            fs::create_dir_all(path.parent().unwrap_or(&args.out)).with_context(cannot)?;
            write(&path, file.bytes(), if args.secrets { 0o600 } else { 0o666 }).with_context(cannot)?;
            count += 1;
        }
    }
    ui.out(&format!("{count} files of {} hosts in {}", hosts.len(), args.out.display()));
    Ok(())
}

/// `mode` is that of a new file, less the umask. One that is there is replaced: it might be readable by others.
fn write(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?.write_all(bytes)
}
