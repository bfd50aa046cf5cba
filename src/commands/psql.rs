//! `pgprov psql HOST -- ARGS`: psql on that host, with a terminal when there is one.

use std::{ffi::OsString, io::IsTerminal as _};

use pgplan::{
    lab::POSTGRES_ROLE,
    profile::{self, AS_POSTGRES},
};

use super::{context::OpenLab, ssh::become_ssh};
use crate::{
    cli::{Global, Psql},
    error::Result,
    ssh::{quote, with_sudo},
};

/// Becomes ssh, which runs psql: as the superuser on a database host, through the `-rw` service elsewhere.
///
/// # Errors
/// There is no such lab or host.
pub fn run(global: &Global, args: &Psql) -> Result {
    let (open, _) = OpenLab::find(global, args.lab.lab.as_deref())?;
    let host = open.host(&args.host)?;
    let bin = profile::bin(open.lab.postgres.version);
    let words: Vec<String> = args.args.iter().map(|arg| quote(arg)).collect();
    let command = if host.has_role(POSTGRES_ROLE) {
        // Not Debian's wrapper of the same name: it is in Perl, and costs an emulated host a second.
        format!("cd / && exec env {AS_POSTGRES} {bin}/psql {}", words.join(" "))
    } else {
        let services = "PGSYSCONFDIR=/etc/postgresql-common";
        format!("{services} PGSERVICE={}-rw exec {bin}/psql {}", open.lab.name, words.join(" "))
    };
    let command = match &host.machine {
        Some(machine) if machine.user != "root" => with_sudo(&command),
        _ => command,
    };
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    Err(become_ssh(&open, &args.host, terminal, [OsString::from(command)])?)
}
