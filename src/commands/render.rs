//! `pgprov render`: all files of all hosts in a folder, without a lab.

use std::fs;

use anyhow::Context as _;
use pgplan::lab::{self, Pins};

use super::context::{self, Assets};
use crate::{
    cli::{Global, Render},
    error::Result,
    ui::Ui,
};

/// Renders into `OUT/HOST/path/of/file`; secrets are masked.
///
/// # Errors
/// The topology has errors, a template fails, or a file cannot be written.
pub fn run(ui: &Ui, global: &Global, args: &Render) -> Result {
    let assets = Assets::load(global)?;
    let (_, topology) = assets.topology(ui, &args.file)?;
    let lab = lab::derive(&topology, &Pins::new());
    let hosts = assets.roles.render(&lab, &context::masked(&lab))?;
    let mut count = 0;
    for host in &hosts {
        for file in &host.files {
            let path = args.out.join(&host.host).join(file.path.trim_start_matches('/'));
            let cannot = || format!("cannot write {}", path.display());
            fs::create_dir_all(path.parent().unwrap_or(&args.out)).with_context(cannot)?;
            fs::write(&path, file.bytes()).with_context(cannot)?;
            count += 1;
        }
    }
    ui.out(&format!("{count} files of {} hosts in {}", hosts.len(), args.out.display()));
    Ok(())
}
