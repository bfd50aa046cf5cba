//! `pgprov plan`: what `up` would do.

use std::path::Path;

use super::up;
use crate::{
    cli::Global,
    error::{Error, Kind, Result},
    ui::Ui,
};

/// Prints the plan.
///
/// # Errors
/// The plan cannot be made; or it is not empty, which is exit code 4.
pub fn run(ui: &Ui, global: &Global, file: &Path) -> Result {
    let draft = up::Draft::new(ui, global, file, up::Mode::DryRun)?;
    if ui.json() {
        ui.out_json(&serde_json::to_value(&draft.plan)?);
    } else {
        ui.out(&draft.plan.to_string());
    }
    if draft.plan.is_empty() {
        Ok(())
    } else {
        Err(Error::new(Kind::Pending, format!("Make these changes with: pgprov up {}", file.display())))
    }
}
