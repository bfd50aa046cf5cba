//! Version, databases, users and access rules.

use std::collections::HashSet;

use super::{Context, list};
use crate::{suggest::did_you_mean, topology::HbaKind};

/// Databases that initdb makes.
const DATABASES: [&str; 3] = ["postgres", "template0", "template1"];
/// Roles that exist already, or that SQL takes for something else.
const ROLES: [(&str, &str); 4] = [
    ("postgres", "it is the superuser that initdb makes"),
    ("replicator", "pgprov makes it for the standbys"),
    ("public", "SQL takes it for everybody"),
    ("none", "SQL takes it for nobody"),
];

/// PostgreSQL's own roles that can be granted, with the version that brought them.
const PREDEFINED: [(&str, u32); 15] = [
    ("pg_monitor", 12),
    ("pg_read_all_settings", 12),
    ("pg_read_all_stats", 12),
    ("pg_stat_scan_tables", 12),
    ("pg_read_server_files", 12),
    ("pg_write_server_files", 12),
    ("pg_execute_server_program", 12),
    ("pg_signal_backend", 12),
    ("pg_read_all_data", 14),
    ("pg_write_all_data", 14),
    ("pg_checkpoint", 15),
    ("pg_use_reserved_connections", 16),
    ("pg_create_subscription", 16),
    ("pg_maintain", 17),
    ("pg_signal_autovacuum_worker", 18),
];

pub(super) fn check(context: &mut Context<'_>) {
    version(context);
    databases(context);
    users(context);
    memberships(context);
    rules(context);
}

/// The version whose settings and roles count: the one in the file where the image has it, else the image's.
pub(super) fn major(context: &Context<'_>) -> u32 {
    context.topology.image.release().postgres_version()
}

fn version(context: &mut Context<'_>) {
    let release = context.topology.image.release();
    let Some(version) = context.topology.postgres.version else { return };
    let packaged = release.postgres_version();
    if version == packaged || context.is_hole(&["image"]) {
        return;
    }
    let message = format!("{} does not package PostgreSQL {version}", release.name());
    let other = [crate::topology::Release::Debian12, crate::topology::Release::Debian13]
        .into_iter()
        .find(|release| release.postgres_version() == version)
        .map(|release| format!(", or take `image: {}`", release.name()))
        .unwrap_or_default();
    context.error(&["postgres", "version"], message, &[format!("write `version: {packaged}`{other}")]);
}

fn databases(context: &mut Context<'_>) {
    let mut seen = HashSet::new();
    for (index, database) in context.topology.postgres.databases.iter().enumerate() {
        let index = index.to_string();
        let path = ["postgres", "databases", &index, "name"];
        let name = database.name.as_str();
        if DATABASES.contains(&name) {
            context.error(&path, format!("the database `{name}` exists on every server"), &[]);
        } else if !name.is_empty() && !seen.insert(name) {
            context.error(&path, format!("the database `{name}` stands here a second time"), &[]);
        }
        // A database may well belong to the superuser.
        if database.owner != "postgres" {
            reserved(context, &database.owner, &["postgres", "databases", &index, "owner"]);
        }
    }
}

fn users(context: &mut Context<'_>) {
    let mut seen = HashSet::new();
    for (index, user) in context.topology.postgres.users.iter().enumerate() {
        let index = index.to_string();
        let path = ["postgres", "users", &index, "name"];
        reserved(context, &user.name, &path);
        if !user.name.is_empty() && !seen.insert(user.name.as_str()) {
            context.error(&path, format!("the user `{}` stands here a second time", user.name), &[]);
        }
    }
}

/// Whether a role of the topology may have this name.
fn is_free(name: &str) -> bool {
    !name.is_empty() && !name.starts_with("pg_") && ROLES.iter().all(|(role, _)| *role != name)
}

/// Reports a name that a role of the topology cannot have.
fn reserved(context: &mut Context<'_>, name: &str, path: &[&str]) {
    let why = ROLES.iter().find(|(role, _)| *role == name).map(|(_, why)| (*why).to_owned());
    let prefix = || name.starts_with("pg_").then(|| "names with pg_ are PostgreSQL's own".to_owned());
    let made_by = || {
        let role =
            context.known.roles.iter().find(|role| role.database_users.iter().any(|user| user == name))?;
        Some(format!("hosts with the role `{}` make it for themselves", role.name))
    };
    if let Some(why) = why.or_else(prefix).or_else(made_by) {
        context.error(path, format!("`{name}` cannot be the name of a role: {why}"), &[]);
    }
}

fn memberships(context: &mut Context<'_>) {
    let topology = context.topology;
    let version = major(context);
    let of_topology: HashSet<&str> = {
        let users = topology.postgres.users.iter().map(|user| user.name.as_str());
        users.chain(topology.postgres.databases.iter().map(|database| database.owner.as_str())).collect()
    };
    for (index, user) in topology.postgres.users.iter().enumerate() {
        for (place, group) in user.member_of.iter().enumerate() {
            if context.findings.overflowed() {
                return;
            }
            let predefined = PREDEFINED.iter().find(|(name, _)| name == group);
            let path = ["postgres", "users", &index.to_string(), "member_of", &place.to_string()];
            match predefined {
                Some((_, from)) if *from <= version => {}
                Some((name, from)) => {
                    context.error(
                        &path,
                        format!("`{name}` exists from PostgreSQL {from} on; this lab has {version}"),
                        &[],
                    );
                }
                None if group == &user.name && !group.is_empty() => {
                    context.error(&path, format!("`{group}` cannot be a member of itself"), &[]);
                }
                None if group.is_empty() || of_topology.contains(group.as_str()) => {}
                None => {
                    let own = PREDEFINED.iter().filter(|(_, from)| *from <= version).map(|(name, _)| *name);
                    let mut known: Vec<&str> =
                        of_topology.iter().copied().filter(|name| is_free(name)).collect();
                    known.sort_unstable();
                    let mut hints: Vec<_> =
                        did_you_mean(group, own.chain(known.iter().copied())).into_iter().collect();
                    hints.push(format!("roles of this topology: {}", list(known)));
                    context.error(&path, format!("there is no role `{}`", list([group.as_str()])), &hints);
                }
            }
        }
    }
}

fn rules(context: &mut Context<'_>) {
    let postgres = &context.topology.postgres;
    for (index, rule) in postgres.hba.iter().enumerate() {
        if rule.kind == Some(HbaKind::Hostssl) && !postgres.tls {
            let hint = "write `type: host`, or remove `tls: false`".to_owned();
            let path = ["postgres", "hba", &index.to_string(), "type"];
            context.error(&path, "without TLS no connection matches `hostssl`", &[hint]);
        }
    }
}
