//! `pgprov ssh`: a shell on a host, or one command. The terminal belongs to OpenSSH, so everything works as one knows it.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use super::context::OpenLab;
use crate::{
    cli::{Global, Ssh},
    connect,
    error::{Error, Result},
};

/// Becomes ssh.
///
/// # Errors
/// There is no such lab or host, or no ssh program.
pub fn run(global: &Global, args: &Ssh) -> Result {
    let (open, _) = OpenLab::find(global, args.lab.lab.as_deref())?;
    let words = args.command.iter().map(OsString::from);
    Err(become_ssh(&open, &args.host, false, words)?)
}

/// Replaces this process by ssh to the host; returns only when that fails.
///
/// # Errors
/// There is no such host, or its configuration cannot be written.
pub fn become_ssh(
    open: &OpenLab,
    host: &str,
    terminal: bool,
    command: impl IntoIterator<Item = OsString>,
) -> Result<Error> {
    let host = open.host(host)?;
    let config = open.state.ssh_config();
    open.state.write(&config, connect::ssh_config(&open.state, &open.lab).as_bytes())?;
    let mut ssh = Command::new("ssh");
    ssh.arg("-F").arg(&config);
    if terminal {
        ssh.arg("-t");
    }
    let error = ssh.arg(&host.domain).arg("--").args(command).exec();
    Ok(Error::failed(format!("cannot run ssh: {error}")).hint("install openssh-client"))
}
