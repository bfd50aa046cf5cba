//! What is saved when, and by whom.

use std::collections::HashSet;

use super::{Context, list};
use crate::{finding::Finding, suggest::did_you_mean, yaml::Location};

/// The role of hosts that make backups.
const ROLE: &str = "backup";
/// Databases that every server has and that can be saved.
const OWN: [&str; 2] = ["postgres", "template1"];

pub(super) fn check(context: &mut Context<'_>) {
    hosts(context);
    interval(context);
    databases(context);
}

/// The key without the role does nothing, and so does the role without the key: neither is what was meant.
fn hosts(context: &mut Context<'_>) {
    let topology = context.topology;
    let place = |host: &crate::topology::Host| host.roles.iter().position(|role| role == ROLE);
    let with_role: Vec<_> =
        topology.hosts.iter().filter_map(|(name, host)| Some((name.as_str(), place(host)?))).collect();
    match (&topology.backup, with_role.first()) {
        (Some(_), None) if !context.is_hole(&["backup"]) && !context.is_hole(&["hosts"]) => {
            let hint = "give a host the role, as in `client: { roles: [client, backup] }`".to_owned();
            context.key_error(&["backup"], format!("no host has the role `{ROLE}`"), &[hint]);
        }
        (None, Some((name, index))) => {
            let hint =
                "say when: `backup: { interval_cron: \"0 */6 * * *\", retention_count: 7 }`".to_owned();
            let path = ["hosts", name, "roles", &index.to_string()];
            context.error(&path, "the topology says nothing of backups", &[hint]);
        }
        _ => {}
    }
}

fn interval(context: &mut Context<'_>) {
    let path = ["backup", "interval_cron"];
    let Some(backup) = &context.topology.backup else { return };
    if context.is_hole(&["backup"]) || context.is_hole(&path) {
        return;
    }
    let Err(error) = backup.interval_cron.schedule() else { return };
    let Location { path, value, .. } = context.locate(&path);
    let text = backup.interval_cron.0.as_str();
    let mut span = value;
    // The very part, when the text stands in the file as it is, in quotes or without.
    let quotes = value.length.saturating_sub(text.len());
    if text.is_ascii() && matches!(quotes, 0 | 2) && !error.place.is_empty() {
        span.column += quotes / 2 + error.place.start;
        span.length = error.place.len();
    }
    let message = format!("cron would not read `{}`: {}", list([text]), error.message);
    context.add(Finding::error(span, path, message), &error.hint.into_iter().collect::<Vec<_>>());
}

fn databases(context: &mut Context<'_>) {
    let topology = context.topology;
    let Some(backup) = &topology.backup else { return };
    let known: HashSet<&str> =
        topology.postgres.databases.iter().map(|database| database.name.as_str()).chain(OWN).collect();
    for (index, name) in backup.databases.iter().enumerate() {
        let path = ["backup", "databases", &index.to_string()];
        if context.findings.overflowed() || known.contains(name.as_str()) || context.is_hole(&path) {
            continue;
        }
        let mut sorted: Vec<&str> = known.iter().copied().collect();
        sorted.sort_unstable();
        let mut hints: Vec<_> = did_you_mean(name, sorted.iter().copied()).into_iter().collect();
        hints.push(format!("databases: {}", list(sorted)));
        context.error(&path, format!("the topology has no database `{}`", list([name.as_str()])), &hints);
    }
}
