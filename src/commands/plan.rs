//! `pgprov plan`: what `up` would do; and plans that were saved, for an `up` that does that and nothing else.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use pgplan::{diff, digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    checkpoint::ready_for,
    context::Assets,
    draft::{Draft, Mode},
};
use crate::{
    cli::{self, Global, Restart},
    error::{Error, Kind, Result},
    ui::Ui,
};

/// Format of saved plans.
const FORMAT: u32 = 1;

/// A plan in a file, with what it stands on.
#[derive(Serialize, Deserialize)]
pub struct Saved {
    /// [`FORMAT`]; also tells such a file from a topology.
    pgprov_plan: u32,
    /// The topology file.
    pub topology: PathBuf,
    /// The inventory that was named, when hosts are machines that are there already.
    #[serde(default)]
    pub hosts: Option<PathBuf>,
    /// SHA-256 of its text.
    text: String,
    /// What becomes of restarts.
    pub restart: Restart,
    /// SHA-256 of what roles and templates made of it, secrets masked.
    rendered: String,
    /// The plan.
    plan: Value,
    /// The plan, for people.
    shown: String,
}

/// Prints the plan, and saves it when that is asked for.
///
/// # Errors
/// The plan cannot be made; or it is not empty, which is exit code 4.
pub fn run(ui: &Ui, global: &Global, args: &cli::Plan) -> Result {
    let (file, restart) = (&args.file, args.restart);
    let mut draft =
        Draft::new(ui, global, file, args.hosts.as_deref(), Mode::DryRun)?.with_restart(restart.into());
    // A plan that is saved is carried out as it is.
    if args.out.is_none() && draft.is_bare() {
        draft.plan.notes.extend(restored_first(ui, global, file)?);
    }
    if ui.json() {
        ui.out_json(&serde_json::to_value(&draft.plan)?);
    } else {
        ui.out(&draft.plan.to_string());
    }
    let mut remedy = format!("Make these changes with: pgprov up {}", file.display());
    if let Some(out) = &args.out {
        let saved = Saved::of(&draft, args)?;
        let text = serde_json::to_vec_pretty(&saved)?;
        fs::write(out, text).with_context(|| format!("cannot write {}", out.display()))?;
        remedy = format!("Make exactly these changes with: pgprov up {}", out.display());
    }
    if draft.plan.is_empty() { Ok(()) } else { Err(Error::new(Kind::Pending, remedy)) }
}

/// What `up` does before, when nothing is left of the lab but a checkpoint that fits.
fn restored_first(ui: &Ui, global: &Global, file: &Path) -> Result<Option<String>> {
    let assets = Assets::load(global)?;
    let (_, topology) = assets.topology(ui, file)?;
    let note = "these are the changes of `up --no-checkpoint`; `up` goes back to checkpoint ready, and changes what is different then";
    Ok(ready_for(&assets, &topology)?.map(|_| note.to_owned()))
}

impl Saved {
    fn of(draft: &Draft, args: &cli::Plan) -> Result<Self> {
        let whole =
            |file: &Path| fs::canonicalize(file).with_context(|| format!("cannot read {}", file.display()));
        Ok(Self {
            pgprov_plan: FORMAT,
            topology: whole(&args.file)?,
            hosts: args.hosts.as_deref().map(whole).transpose()?,
            text: digest::hex(draft.text().as_bytes()),
            restart: args.restart,
            rendered: draft.rendered()?,
            plan: serde_json::to_value(&draft.plan)?,
            shown: draft.plan.to_string(),
        })
    }

    /// Reads the plan in a file; nothing when the file is no saved plan.
    ///
    /// # Errors
    /// It is a plan in a format that this version does not know.
    pub fn read(file: &Path) -> Result<Option<Self>> {
        if file.extension().is_none_or(|extension| extension != "json") {
            return Ok(None);
        }
        let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let Ok(value) = serde_json::from_slice::<Value>(&text) else { return Ok(None) };
        match value.get("pgprov_plan") {
            None => Ok(None),
            Some(format) if *format == FORMAT => {
                let damaged = || format!("{} is damaged", file.display());
                Ok(Some(serde_json::from_value(value).with_context(damaged)?))
            }
            Some(format) => {
                let message = format!("{} is a plan of format {format}, not {FORMAT}", file.display());
                Err(Error::usage(message).hint("make it anew with `pgprov plan --out`"))
            }
        }
    }

    /// Refuses a draft that is not this plan any more.
    ///
    /// # Errors
    /// The topology, the roles, or the world have changed.
    pub fn refuse_other(&self, draft: &Draft) -> Result {
        let file = self.topology.display();
        let moved = if self.text != digest::hex(draft.text().as_bytes()) {
            format!("{file} is not what it was when the plan was made")
        } else if self.rendered != draft.rendered()? {
            "roles and templates are not what they were when the plan was made".to_owned()
        } else if self.plan != serde_json::to_value(&draft.plan)? {
            let changes = diff::unified(&self.shown, &draft.plan.to_string());
            format!("the lab is not what it was when the plan was made:\n{changes}")
        } else {
            return Ok(());
        };
        Err(Error::failed(moved).hint(format!("make another plan: pgprov plan {file} --out FILE")))
    }
}
