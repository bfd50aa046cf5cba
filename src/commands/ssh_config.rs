//! `pgprov ssh-config`: an OpenSSH configuration for the hosts of a lab.

use super::context::OpenLab;
use crate::{
    cli::{Global, LabArg},
    connect,
    error::Result,
    ui::Ui,
};

/// Prints the configuration.
///
/// # Errors
/// There is no such lab.
pub fn run(ui: &Ui, global: &Global, args: &LabArg) -> Result {
    let (open, _) = OpenLab::find(global, args.name())?;
    ui.out(&connect::ssh_config(&open.state, &open.lab));
    Ok(())
}
