//! Names, roles, and who follows whom.

use std::collections::{HashMap, HashSet};

use super::{Context, list};
use crate::{
    lab::POSTGRES_ROLE,
    suggest::did_you_mean,
    topology::{FailoverEngine, Host, ReplicationMode},
};

/// The role of the third vote: there can be one.
const ARBITER_ROLE: &str = "arbiter";

/// Names that mean something else on every host or on the lab's networks.
const RESERVED: [&str; 9] = [
    "localhost",
    "ip6-localhost",
    "ip6-loopback",
    "ip6-allnodes",
    "ip6-allrouters",
    "broadcasthost",
    "gateway",
    "data",
    "mgmt",
];

pub(super) fn check(context: &mut Context<'_>) {
    names(context);
    roles(context);
    arbiters(context);
    for (name, host) in &context.topology.hosts {
        follows(context, name, host);
    }
    let circles = circles(context);
    primaries(context, circles);
    synchronous(context);
    failover(context);
}

fn names(context: &mut Context<'_>) {
    let mut seen: HashMap<String, &str> = HashMap::new();
    for name in context.topology.hosts.keys() {
        if RESERVED.contains(&name.as_str()) {
            let hint = format!("reserved: {}", RESERVED.join(", "));
            context.key_error(&["hosts", name], format!("`{name}` cannot be the name of a host"), &[hint]);
        }
        if let Some(first) = seen.insert(name.to_lowercase(), name) {
            let message =
                format!("the hosts `{}` and `{}` differ only in case", list([first]), list([name.as_str()]));
            context.key_error(
                &["hosts", name],
                message,
                &["host names become DNS names, which have no case".to_owned()],
            );
        }
    }
}

fn roles(context: &mut Context<'_>) {
    for (name, host) in &context.topology.hosts {
        for (index, role) in host.roles.iter().enumerate() {
            // A guess compares with all names: not for thousands of them.
            if context.findings.overflowed() {
                return;
            }
            let known = || context.known.roles.iter().map(|role| role.name.as_str());
            // An empty name stands for one that the schema has refused.
            if role.is_empty() && context.is_hole(&["hosts", name, "roles", &index.to_string()])
                || known().any(|known| known == role)
            {
                continue;
            }
            let mut hints: Vec<_> = did_you_mean(role, known()).into_iter().collect();
            hints.push(format!("roles: {}", list(known())));
            let path = ["hosts", name, "roles", &index.to_string()];
            context.error(&path, format!("unknown role `{}`", list([role.as_str()])), &hints);
        }
    }
}

fn arbiters(context: &mut Context<'_>) {
    let hosts = &context.topology.hosts;
    let place = |host: &Host| host.roles.iter().position(|role| role == ARBITER_ROLE);
    let arbiters: Vec<_> =
        hosts.iter().filter_map(|(name, host)| Some((name.as_str(), place(host)?))).collect();
    for (name, index) in arbiters.iter().skip(1) {
        let message = format!("a second arbiter: `{}` has this role already", arbiters[0].0);
        let hint = "with one arbiter, two of the three votes decide".to_owned();
        context.error(&["hosts", name, "roles", &index.to_string()], message, &[hint]);
    }
    for (name, index) in arbiters.iter().filter(|(name, _)| has_postgres(&hosts[*name])) {
        let message = format!("the arbiter on `{name}` is lost together with its PostgreSQL server");
        let hint = "give the arbiter a host of its own".to_owned();
        context.warning(&["hosts", name, "roles", &index.to_string()], message, &[hint]);
    }
}

fn follows(context: &mut Context<'_>, name: &str, host: &Host) {
    let Some(target) = &host.follows else { return };
    let hosts = &context.topology.hosts;
    let path = ["hosts", name, "follows"];
    if context.is_hole(&path) {
        return;
    }
    let servers = || {
        hosts
            .iter()
            .filter(|(other, host)| *other != name && has_postgres(host))
            .map(|(name, _)| name.as_str())
    };
    let hint = || format!("hosts with PostgreSQL: {}", list(servers()));
    if target == name {
        context.error(&path, format!("`{name}` cannot follow itself"), &[hint()]);
    } else if let Some(followed) = hosts.get(target) {
        if lacks_postgres(context, target, followed) {
            context.error(
                &path,
                format!("`{target}` does not run PostgreSQL: nobody can follow it"),
                &[hint()],
            );
        }
    } else {
        let mut hints: Vec<_> = did_you_mean(target, servers()).into_iter().collect();
        hints.push(hint());
        context.error(&path, format!("there is no host `{}`", list([target.as_str()])), &hints);
    }
    if lacks_postgres(context, name, host) {
        let message = format!("`{name}` does not run PostgreSQL: it cannot follow anybody");
        let hint = format!("add the role `{POSTGRES_ROLE}`, or remove `follows`");
        context.key_error(&path, message, &[hint]);
    }
}

/// Reports each circle once. Whether there are any.
fn circles(context: &mut Context<'_>) -> bool {
    let hosts = &context.topology.hosts;
    let mut done: HashSet<&str> = HashSet::new();
    let mut found = false;
    for start in hosts.keys() {
        let mut way: Vec<&str> = Vec::new();
        let mut on_way: HashMap<&str, usize> = HashMap::new();
        let mut current = start.as_str();
        while done.insert(current) {
            on_way.insert(current, way.len());
            way.push(current);
            match hosts.get(current).and_then(|host| host.follows.as_deref()) {
                // Nobody, or itself, which has its finding.
                Some(next) if next != current && hosts.contains_key(next) => current = next,
                _ => break,
            }
        }
        let Some(begin) = on_way.get(current).copied().filter(|begin| *begin + 1 < way.len()) else {
            continue;
        };
        found = true;
        let circle = &way[begin..];
        let shown = list(circle.iter().copied().chain([current])).replace(", ", " -> ");
        let hint = "the host at the beginning, the primary, follows nobody".to_owned();
        context.error(
            &["hosts", circle[0], "follows"],
            format!("hosts follow each other in a circle: {shown}"),
            &[hint],
        );
    }
    found
}

fn primaries(context: &mut Context<'_>, circles: bool) {
    let hosts = &context.topology.hosts;
    let may_be_standby = |context: &Context<'_>, name: &str| context.is_hole(&["hosts", name, "follows"]);
    let primaries: Vec<&str> = hosts
        .iter()
        .filter(|(name, host)| has_postgres(host) && host.follows.is_none() && !may_be_standby(context, name))
        .map(|(name, _)| name.as_str())
        .collect();
    for other in primaries.iter().skip(1) {
        let first = primaries[0];
        let message = format!("two primaries: `{other}` follows nobody, and neither does `{first}`");
        context.key_error(&["hosts", other], message, &[format!("write `follows: {first}` under `{other}`")]);
    }
    let unknown_role = |role: &String| is_unknown(context, role);
    // Whoever follows somebody, has a role that is misspelt or was refused, may be meant to run PostgreSQL.
    let unclear = hosts.values().any(|host| host.follows.is_some() || host.roles.iter().any(unknown_role))
        || context.loaded.has_holes("hosts");
    if primaries.is_empty() && !circles && !unclear {
        let hint = format!("give one host the role `{POSTGRES_ROLE}`");
        context.key_error(&["hosts"], "no host runs PostgreSQL", &[hint]);
    }
}

fn synchronous(context: &mut Context<'_>) {
    let topology = context.topology;
    let servers = || topology.hosts.iter().filter(|(_, host)| has_postgres(host));
    let standbys = servers().any(|(_, host)| host.follows.is_some());
    let unclear = context.loaded.has_holes("hosts");
    if topology.replication.mode == ReplicationMode::Synchronous
        && !standbys
        && !unclear
        && servers().count() == 1
    {
        let message = "with synchronous replication every commit would wait: no host follows the primary";
        let hints = ["add a host with `follows`, or write `mode: asynchronous`".to_owned()];
        context.error(&["replication", "mode"], message, &hints);
    }
}

/// The agent knows two hosts with data and an arbiter of its own.
fn failover(context: &mut Context<'_>) {
    let topology = context.topology;
    if topology.failover.engine != FailoverEngine::Pgagent || context.loaded.has_holes("hosts") {
        return;
    }
    let servers = topology.hosts.values().filter(|host| has_postgres(host)).count();
    let arbiters =
        topology.hosts.values().filter(|host| host.roles.iter().any(|role| role == ARBITER_ROLE)).count();
    if servers != 2 || arbiters != 1 {
        let message = format!(
            "pgagent needs two hosts with PostgreSQL and one arbiter; here are {servers} and {arbiters}"
        );
        let hint = "give a third host the role `arbiter`, or write `engine: none`".to_owned();
        context.error(&["failover", "engine"], message, &[hint]);
    }
    if topology.replication.mode != ReplicationMode::Synchronous {
        let message = "pgagent promotes only a standby that has every acknowledged commit, which needs synchronous replication";
        context.error(
            &["failover", "engine"],
            message,
            &["write `replication: { mode: synchronous }`".to_owned()],
        );
    }
}

/// Whether the host surely has no PostgreSQL: a role that was refused or is unknown may have been meant to be that.
fn lacks_postgres(context: &Context<'_>, name: &str, host: &Host) -> bool {
    let refused = context.loaded.has_holes(&context.locate(&["hosts", name, "roles"]).path);
    !has_postgres(host) && !refused && !host.roles.iter().any(|role| is_unknown(context, role))
}

fn is_unknown(context: &Context<'_>, role: &str) -> bool {
    !context.known.roles.iter().any(|known| known.name == role)
}

pub(super) fn has_postgres(host: &Host) -> bool {
    host.roles.iter().any(|role| role == POSTGRES_ROLE)
}
