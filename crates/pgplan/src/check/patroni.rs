//! What Patroni needs: a release that has it, votes of etcd, and settings that it keeps the same on all servers.

use super::{Context, list, postgres::major};
use crate::{
    catalogue::{self, amount},
    profile::ENGINE_SETTINGS,
    topology::{FailoverEngine, Release},
};

/// The role of the hosts that vote.
const ETCD_ROLE: &str = "etcd";
/// The role of the third vote for the other engine.
const ARBITER_ROLE: &str = "arbiter";

/// Settings that Patroni passes to all servers, with the least that it accepts: of less it takes its own default instead.
const SHARED: [(&str, f64); 9] = [
    ("max_connections", 25.0),
    ("max_wal_senders", 3.0),
    ("max_replication_slots", 4.0),
    ("max_worker_processes", 2.0),
    ("max_locks_per_transaction", 32.0),
    ("max_prepared_transactions", 0.0),
    ("wal_keep_size", 16.0 * 1024.0 * 1024.0),
    ("wal_level", 0.0),
    ("track_commit_timestamp", 0.0),
];

pub(super) fn check(context: &mut Context<'_>) {
    if context.topology.failover.engine != FailoverEngine::Patroni {
        return;
    }
    if context.topology.image.release() != Release::Debian13 {
        let hint = "take `image: debian-13`, or another engine".to_owned();
        context.error(&["failover", "engine"], "Patroni labs need debian-13", &[hint]);
    }
    votes(context);
    let topology = context.topology;
    let names = topology.postgres.settings.keys();
    owned(context, &["postgres"], names);
    for (host, spec) in &topology.hosts {
        owned(context, &["hosts", host], spec.settings.keys());
        for name in spec.settings.keys() {
            if SHARED.iter().any(|(shared, _)| name.eq_ignore_ascii_case(shared)) {
                let message = format!("Patroni keeps {} the same on all servers", list([name.as_str()]));
                let hint = "write it under `postgres.settings`".to_owned();
                context.key_error(&["hosts", host, "settings", name], message, &[hint]);
            }
        }
    }
    least(context);
}

/// Three or five: an even number decides no better than the odd one below it, and one is no cluster.
fn votes(context: &mut Context<'_>) {
    if context.loaded.has_holes("hosts") {
        return;
    }
    let hosts = &context.topology.hosts;
    let with = |wanted: &str| {
        let place = |roles: &[String]| roles.iter().position(|role| role == wanted);
        hosts.iter().filter_map(|(name, host)| Some((name.as_str(), place(&host.roles)?))).collect::<Vec<_>>()
    };
    let (votes, arbiters) = (with(ETCD_ROLE), with(ARBITER_ROLE));
    if !matches!(votes.len(), 3 | 5 | 7) {
        let message = format!(
            "Patroni needs three, five or seven hosts with the role `etcd`; here are {}",
            votes.len()
        );
        let hint = "with two servers, the third vote is a host of its own: `roles: [etcd]`".to_owned();
        context.error(&["failover", "engine"], message, &[hint]);
    }
    for (name, index) in arbiters {
        let hint = "the third vote has the role `etcd`".to_owned();
        let path = ["hosts", name, "roles", &index.to_string()];
        context.error(&path, "an arbiter belongs to engine pgagent", &[hint]);
    }
}

/// Settings that Patroni sets itself. Those that pgprov sets for every engine have their finding.
fn owned<'a>(context: &mut Context<'_>, parent: &[&str], names: impl Iterator<Item = &'a String>) {
    let version = major(context);
    for name in names {
        let is_owned = ENGINE_SETTINGS.iter().any(|owned| name.eq_ignore_ascii_case(owned));
        if is_owned && catalogue::resolve(version, name).is_ok() {
            let path: Vec<&str> = parent.iter().copied().chain(["settings", name.as_str()]).collect();
            let message = format!("`{}` cannot be set here", list([name.as_str()]));
            context.key_error(&path, message, &["Patroni sets it".to_owned()]);
        }
    }
}

fn least(context: &mut Context<'_>) {
    let version = major(context);
    for (name, value) in &context.topology.postgres.settings {
        let Some((shared, least)) = SHARED.iter().find(|(shared, _)| name.eq_ignore_ascii_case(shared))
        else {
            continue;
        };
        let given = catalogue::lookup(version, shared).and_then(|setting| amount(setting, &value.0));
        if given.is_some_and(|given| given < *least) {
            let least = if *shared == "wal_keep_size" { "16MB".to_owned() } else { least.to_string() };
            let message = format!("Patroni takes no {shared} below {least}");
            context.error(&["postgres", "settings", name], message, &[]);
        }
    }
}
