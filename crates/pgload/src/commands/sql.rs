//! `pgload sql`.

use std::fs;

use anyhow::Context as _;
use serde_json::json;

use super::{Context, Verdict};
use crate::{assets::Assets, cli::Sql};

pub fn run(context: &Context, arguments: &Sql) -> anyhow::Result<Verdict> {
    // Not those of --sql: they are files already.
    let assets = Assets::new(None)?;
    let mut changed = Vec::new();
    for (name, text) in assets.all() {
        let path = arguments.dir.join(name);
        if fs::read_to_string(&path).is_ok_and(|there| there == text) {
            continue;
        }
        changed.push(name);
        if arguments.check {
            continue;
        }
        let folder = path.parent().unwrap_or(&arguments.dir);
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let (count, dir) = (assets.all().count(), arguments.dir.display());
    let what = if arguments.check { "differ" } else { "written" };
    context.ui.say(&format!("{} of {count} files in {dir} {what}", changed.len()));
    context.ui.document(&json!({"files": count, "changed": changed}))?;
    Ok(if arguments.check && !changed.is_empty() { Verdict::Bad } else { Verdict::Fine })
}
