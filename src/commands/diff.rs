//! `pgprov diff`: installed files against those that `up` would install.

use pgplan::{
    diff,
    host::{
        Change, Facts, Reason,
        apply::{NEW, PLACING},
    },
    render::RenderedHost,
};
use serde::Serialize;

use super::draft::{Draft, Mode};
use crate::{
    cli::{self, Global},
    error::{Error, Kind, Result},
    ui::Ui,
};

/// A file of a host that differs.
#[derive(Serialize)]
struct Difference {
    host: String,
    path: String,
    /// In a few words.
    what: String,
    /// As a unified diff; nothing for secrets, programs and files that only have another owner or mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    diff: Option<String>,
}

/// Prints the differences of all hosts that can be asked.
///
/// # Errors
/// The hosts cannot be looked at; or something differs, which is exit code 4.
pub fn run(ui: &Ui, global: &Global, args: &cli::Diff) -> Result {
    let file = &args.file;
    let draft = Draft::new(ui, global, file, args.hosts.as_deref(), Mode::DryRun)?;
    let mut all = Vec::new();
    let mut new = Vec::new();
    for plan in &draft.plan.hosts {
        let (Some(host), Some(facts)) = draft.seen(&plan.host) else {
            new.push(plan.host.as_str());
            continue;
        };
        all.extend(plan.files.iter().map(|change| changed(host, facts, change)));
        let gone = |path: &String| Difference {
            host: host.host.clone(),
            path: path.clone(),
            what: match path.strip_suffix(NEW).unwrap_or(path) {
                name if name != path || name == PLACING => "goes: an interrupted run left it".to_owned(),
                _ => "goes: no role wants it any more".to_owned(),
            },
            diff: None,
        };
        all.extend(plan.remove.iter().map(gone));
    }
    if ui.json() {
        ui.out_json(&serde_json::json!({"files": all, "new_hosts": new, "unreachable": draft.plan.unasked}));
    } else {
        all.iter().for_each(|difference| ui.out(&shown(ui, difference)));
        new.iter().for_each(|host| ui.out(&format!("{host}: is not there yet")));
        draft.plan.unasked.iter().for_each(|host| ui.out(&format!("{host}: does not answer")));
    }
    if all.is_empty() && new.is_empty() && draft.plan.unasked.is_empty() {
        Ok(())
    } else {
        let remedy = format!("Install what is rendered with: pgprov up {}", file.display());
        Err(Error::new(Kind::Pending, remedy))
    }
}

fn changed(host: &RenderedHost, facts: &Facts, change: &Change) -> Difference {
    let wanted = &host.files[change.index];
    let what = match change.reason {
        Reason::New => "is missing".to_owned(),
        Reason::Attributes => {
            let seen = facts.stats.get(&wanted.path);
            let is = seen.map(|seen| format!("{}:{} 0{}", seen.owner, seen.group, seen.mode));
            let wanted = format!("{}:{} {}", wanted.owner, wanted.group, wanted.mode);
            format!("is {}, not {wanted}", is.unwrap_or_default())
        }
        _ if wanted.secret => "holds another secret".to_owned(),
        _ if wanted.binary.is_some() => "is another program".to_owned(),
        _ => "differs".to_owned(),
    };
    let diff = match change.reason {
        Reason::New if wanted.is_shown() => Some(diff::unified("", &wanted.content)),
        _ => change.diff.clone(),
    };
    Difference { host: host.host.clone(), path: wanted.path.clone(), what, diff }
}

fn shown(ui: &Ui, difference: &Difference) -> String {
    let Difference { host, path, what, diff } = difference;
    let Some(diff) = diff else { return format!("{host}: {path} {what}") };
    let lines = diff.lines().map(|line| match line.chars().next() {
        Some('-') => ui.style("31", line),
        Some('+') => ui.style("32", line),
        Some('@') => ui.style("36", line),
        _ => line.to_owned(),
    });
    let head = [format!("--- {host}:{path} (installed)"), format!("+++ {host}:{path} (rendered)")];
    head.into_iter().chain(lines).collect::<Vec<_>>().join("\n")
}
