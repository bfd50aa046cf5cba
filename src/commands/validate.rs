//! `pgprov validate`: everything that is wrong with a topology, in one pass.

use serde_json::json;

use super::context::Assets;
use crate::{
    cli::{Global, TopologyFile},
    error::{Error, Kind, Result},
    ui::Ui,
};

/// Checks the file and prints its findings.
///
/// # Errors
/// The file cannot be read or has errors.
pub fn run(ui: &Ui, global: &Global, args: &TopologyFile) -> Result {
    let assets = Assets::load(global)?;
    let (text, checked) = assets.check_file(&args.file)?;
    let file = args.file.display().to_string();
    let errors = checked.findings.iter().filter(|f| f.severity == pgplan::finding::Severity::Error).count();
    if ui.json() {
        ui.out_json(&json!({ "file": file, "valid": errors == 0, "findings": checked.findings }));
    } else if !checked.findings.is_empty() {
        ui.out(&pgplan::excerpt::render(&checked.findings, &file, &text));
    }
    if errors > 0 {
        let s = if errors == 1 { "" } else { "s" };
        return Err(Error::new(Kind::Invalid, format!("{file} has {errors} error{s}")));
    }
    if !ui.json() {
        ui.out(&format!("{file} is valid"));
    }
    Ok(())
}
