//! `pgload compare`.

use std::{fs, path::PathBuf};

use anyhow::Context as _;

use super::{Context, Verdict};
use crate::{
    cli::Compare,
    compare::{self, Change},
    report,
    results::Results,
    svg,
};

pub fn run(context: &Context, arguments: &Compare) -> anyhow::Result<Verdict> {
    let read =
        |paths: &[PathBuf]| paths.iter().map(|path| Results::read(path)).collect::<anyhow::Result<Vec<_>>>();
    let (before, after) = (read(&arguments.before)?, read(&arguments.after)?);
    let comparison = compare::compare(&before, &after);
    let change = |change: &Change| {
        let (was, is) = (svg::label(change.before / 1e3), svg::label(change.after / 1e3));
        [format!("{was} -> {is}"), format!("x{:.2} ({:.2} to {:.2})", change.ratio, change.low, change.high)]
    };
    let rows: Vec<Vec<String>> = comparison
        .rows
        .iter()
        .map(|row| {
            let mut cells = vec![row.name.clone()];
            cells.extend(change(&row.p50));
            cells.extend(change(&row.p99));
            cells.push(report::verdict(row.verdict).to_owned());
            cells.push(row.plan.join("; "));
            cells
        })
        .collect();
    context.ui.table(&["STATEMENT", "P50", "CHANGE", "P99", "CHANGE", "VERDICT", "PLAN"], &rows);
    for remark in &comparison.remarks {
        context.ui.say(&format!("note: {remark}"));
    }
    if let Some(path) = &arguments.html {
        let page = report::html(&comparison, &before, &after);
        fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))?;
        context.ui.note(&format!("report: {}", path.display()));
    }
    context.ui.document(&comparison)?;
    Ok(Verdict::Fine)
}
