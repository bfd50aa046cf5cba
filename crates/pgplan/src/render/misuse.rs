//! What is wrong with templates and manifests.

use std::collections::{BTreeMap, BTreeSet};

use tera::{ErrorKind, Span};

use super::{ManifestFindings, Sources, chain};
use crate::{
    finding::{self, Finding},
    lab::REPLICATION_USER,
    role::Manifest,
};

/// What Tera says about a template that does not parse, with the file it is about.
pub(super) fn template_finding(error: &tera::Error) -> (String, Vec<Finding>) {
    match error.kind() {
        ErrorKind::SyntaxError(report) => {
            let Span { start_line: line, start_col, end_line, end_col, .. } = report.span();
            let length = if end_line == line { end_col.saturating_sub(*start_col).max(1) } else { 1 };
            let span = finding::Span { line: *line, column: start_col + 1, length };
            let finding = Finding::error(span, "", report.message());
            (format!("templates/{}", report.filename()), vec![finding])
        }
        _ => ("templates".to_owned(), vec![whole(chain(error))]),
    }
}

/// A finding about the whole text.
fn whole(message: String) -> Finding {
    Finding::error(finding::Span { line: 1, column: 1, length: 1 }, "", message)
}

/// What a schema cannot say about a manifest.
pub(super) fn misuse(file: &str, manifest: &Manifest, sources: &Sources) -> Vec<Finding> {
    let mut findings = Vec::new();
    if file != format!("{}.yaml", manifest.role) {
        findings
            .push(whole(format!("role `{}` must be in a file of that name, not in {file}", manifest.role)));
    }
    for file in &manifest.files {
        match (&file.template, &file.content, &file.binary) {
            (Some(name), None, None) if sources.templates.contains_key(name) => {}
            (Some(name), None, None) => {
                findings.push(whole(format!("{}: there is no templates/{name}", file.path)));
            }
            (None, Some(_), None) | (None, None, Some(_)) => {}
            _ => findings
                .push(whole(format!("{}: give exactly one of template, content and binary", file.path))),
        }
        if file.before_packages && file.validate.is_some() {
            findings
                .push(whole(format!("{}: before packages are installed nothing can validate it", file.path)));
        }
    }
    for user in &manifest.database_users {
        if ["postgres", REPLICATION_USER].contains(&user.name.as_str()) || user.name.starts_with("pg_") {
            findings.push(whole(format!("database_users: `{}` is there on every server", user.name)));
        }
    }
    for name in &manifest.uses {
        if !sources.roles.contains_key(&format!("{name}.yaml")) {
            findings.push(whole(format!("uses: there is no role `{name}`")));
        }
    }
    let handlers: BTreeSet<&str> = manifest.handlers.iter().map(|handler| handler.name.as_str()).collect();
    let files = manifest.files.iter().flat_map(|file| &file.notify);
    let wanted = files.chain(manifest.tasks.iter().flat_map(|task| &task.notify));
    for name in wanted.chain(manifest.handlers.iter().flat_map(|handler| &handler.covers)) {
        if !handlers.contains(name.as_str()) {
            findings.push(whole(format!("there is no handler `{name}`")));
        }
    }
    findings
}

/// Database users that two roles make: which of the two would say what they may?
pub(super) fn same_users(manifests: &BTreeMap<String, Manifest>) -> ManifestFindings {
    let mut makers: BTreeMap<&str, &str> = BTreeMap::new();
    let mut bad = ManifestFindings::new();
    for manifest in manifests.values() {
        for user in &manifest.database_users {
            if let Some(other) = makers.insert(&user.name, &manifest.role) {
                let message = format!("database_users: `{}` is made by role `{other}` already", user.name);
                bad.push((format!("roles/{}.yaml", manifest.role), vec![whole(message)]));
            }
        }
    }
    bad
}
