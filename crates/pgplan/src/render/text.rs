//! What templates are given, and what stands above every file.

use crate::{
    lab::{Host, Lab, POSTGRES_ROLE},
    profile::slot_name,
    topology::{FailoverEngine, Release, StockImage},
};

/// First line of every file we render: who wrote it and where to change it.
pub(super) fn header(comment: &str, lab: &str, once: bool) -> String {
    match (comment.is_empty(), once) {
        (true, _) => String::new(),
        (false, true) => {
            format!("{comment} Yours: pgprov made this file for lab {lab} once and never touches it again.\n")
        }
        (false, false) => {
            format!(
                "{comment} Written by pgprov for lab {lab}. Do not edit: change the topology and run `pgprov up`.\n"
            )
        }
    }
}

/// An error with all its causes on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The slots of ours that a server may have. Where an engine moves standbys about, any server may follow any other.
pub(super) fn kept_slots(lab: &Lab, host: &Host) -> Vec<String> {
    let moves = lab.failover.engine != FailoverEngine::None;
    let may_follow =
        |other: &&Host| other.name != host.name && (moves || host.followers.contains(&other.name));
    lab.with_role(POSTGRES_ROLE).filter(may_follow).map(|other| slot_name(&other.name)).collect()
}

/// One suite of the mirror, in the format that can hold a key; apt in the guest checks its signature as ever.
pub(super) fn sources(mirror: &str, stock: &StockImage) -> String {
    let suite = match stock.release {
        Release::Debian12 => "bookworm",
        Release::Debian13 => "trixie",
    };
    let key = match &stock.mirror_key {
        None => " /usr/share/keyrings/debian-archive-keyring.gpg\n".to_owned(),
        Some(key) => {
            // A continuation line begins with a space, and an empty one is a dot.
            let lines = key.trim_end().lines().map(|line| if line.trim().is_empty() { "." } else { line });
            lines.fold("\n".to_owned(), |text, line| format!("{text} {line}\n"))
        }
    };
    format!("Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\nSigned-By:{key}")
}

pub(super) fn hosts_lines(lab: &Lab) -> String {
    lab.hosts.iter().map(|host| format!("{} {}\n", host.data.address, host.name)).collect()
}
