//! PostgreSQL settings of the lab and of single hosts, against the catalogue of the lab's version.

use std::collections::HashMap;

use indexmap::IndexMap;

use super::{Context, hosts::has_postgres, list, postgres::major};
use crate::{
    catalogue::{self, amount, check_value},
    finding::Finding,
    lab::{self, POSTGRES_ROLE},
    profile,
    topology::SettingValue,
};

/// Settings that a standby checks against its primary at its start.
const NOT_BELOW_PRIMARY: [&str; 5] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
];

/// Settings that each standby takes one of.
const STANDBY_SLOTS: [&str; 2] = ["max_wal_senders", "max_replication_slots"];

pub(super) fn check(context: &mut Context<'_>) {
    let topology = context.topology;
    each(context, &["postgres"], &topology.postgres.settings);
    for (name, host) in &topology.hosts {
        if host.settings.is_empty() {
            continue;
        }
        if has_postgres(host) || context.loaded.has_holes(&context.locate(&["hosts", name, "roles"]).path) {
            each(context, &["hosts", name], &host.settings);
        } else {
            let message = format!("`{name}` does not run PostgreSQL: its settings would be ignored");
            context.key_error(&["hosts", name, "settings"], message, &[]);
        }
    }
    if !context.findings.overflowed() {
        together(context);
    }
}

/// Checks name and value of each setting.
fn each(context: &mut Context<'_>, parent: &[&str], settings: &IndexMap<String, SettingValue>) {
    let version = major(context);
    let mut seen: HashMap<String, &str> = HashMap::new();
    for (name, value) in settings {
        // A guess compares with all names: not for thousands of them.
        if context.findings.overflowed() {
            return;
        }
        let path: Vec<&str> = parent.iter().copied().chain(["settings", name]).collect();
        match catalogue::resolve(version, name) {
            Err(refusal) => context.key_error(&path, refusal.message, &refusal.hints),
            Ok(setting) => {
                let checked =
                    setting.map_or_else(|| catalogue::check_text(&value.0), |s| check_value(s, &value.0));
                if let Err(message) = checked {
                    context.error(&path, message, &[]);
                }
            }
        }
        if let Some(first) = seen.insert(name.to_ascii_lowercase(), name) {
            let message = format!("`{}` is the same setting as `{}`", list([name.as_str()]), list([first]));
            context.key_error(&path, message, &[]);
        }
    }
}

/// A setting whose value matters to others: as it counts on a host, and where it stands.
#[derive(Clone)]
struct Effective<'a> {
    text: &'a str,
    path: Vec<&'a str>,
    /// The value as number: bytes, microseconds or plain.
    amount: Option<f64>,
}

/// By the name as the catalogue spells it.
type Effectives<'a> = HashMap<&'static str, Effective<'a>>;

/// The settings that [`together`] looks at.
fn of_interest<'a>(
    version: u32,
    parent: &[&'a str],
    settings: &'a IndexMap<String, SettingValue>,
) -> Effectives<'a> {
    let wanted = |name: &str| {
        NOT_BELOW_PRIMARY
            .iter()
            .chain(&STANDBY_SLOTS)
            .chain(&["shared_buffers", "wal_level"])
            .any(|n| *n == name)
    };
    let setting = |(key, value): (&'a String, &'a SettingValue)| {
        let setting = catalogue::lookup(version, key).filter(|setting| wanted(setting.name))?;
        let path = parent.iter().copied().chain(["settings", key.as_str()]).collect();
        Some((setting.name, Effective { text: &value.0, path, amount: amount(setting, &value.0) }))
    };
    settings.iter().filter_map(setting).collect()
}

/// Settings that do not fit the machine or each other.
fn together(context: &mut Context<'_>) {
    let topology = context.topology;
    let version = major(context);
    let lab = of_interest(version, &["postgres"], &topology.postgres.settings);
    let servers = || topology.hosts.iter().filter(|(_, host)| has_postgres(host));
    if lab.is_empty() && servers().all(|(_, host)| host.settings.is_empty()) {
        return;
    }
    let mut standbys: HashMap<&str, u32> = HashMap::new();
    let mut hosts: HashMap<&str, Effectives<'_>> = HashMap::new();
    for (name, host) in servers() {
        let mut settings = lab.clone();
        settings.extend(of_interest(version, &["hosts", name], &host.settings));
        hosts.insert(name, settings);
        if let Some(upstream) = &host.follows {
            *standbys.entry(upstream).or_default() += 1;
        }
    }
    let computed = computed(context);
    for (name, host) in servers() {
        let settings = &hosts[name.as_str()];
        fits(context, settings);
        if let Some(count) = standbys.get(name.as_str()) {
            can_be_followed(context, name, settings, *count);
        }
        let upstream = host.follows.as_deref().filter(|upstream| *upstream != name);
        if let Some((upstream, of_upstream)) = upstream.and_then(|upstream| hosts.get_key_value(upstream)) {
            can_follow(context, &computed, (name, settings), (upstream, of_upstream));
        }
    }
}

/// Whether the server starts with its memory settings.
fn fits(context: &mut Context<'_>, settings: &Effectives<'_>) {
    let memory = context.topology.vm.memory;
    #[expect(clippy::cast_precision_loss, reason = "a comparison of sizes")]
    let too_large = |amount: f64| amount >= memory.0 as f64;
    if let Some(shared) = settings.get("shared_buffers").filter(|shared| shared.amount.is_some_and(too_large))
    {
        let message =
            format!("shared_buffers of {} does not fit into the {memory} of memory of a host", shared.text);
        once(context, &shared.path, message, "a quarter of the memory is a good start");
    }
}

/// Whether standbys can stream from the server.
fn can_be_followed(context: &mut Context<'_>, name: &str, settings: &Effectives<'_>, standbys: u32) {
    if let Some(level) = settings.get("wal_level").filter(|level| level.text.eq_ignore_ascii_case("minimal"))
    {
        let message = format!("nobody can follow `{name}` with wal_level minimal");
        once(context, &level.path, message, "allowed with standbys: replica, logical");
    }
    for limit in STANDBY_SLOTS {
        let too_few =
            |setting: &&Effective<'_>| setting.amount.is_some_and(|amount| amount < f64::from(standbys));
        if let Some(setting) = settings.get(limit).filter(too_few) {
            let count = if standbys == 1 { "1 standby".to_owned() } else { format!("{standbys} standbys") };
            let message = format!("{limit} of {} is too few: `{name}` has {count}", setting.text);
            once(context, &setting.path, message, "each standby takes one, and base backups take more");
        }
    }
}

/// Whether a standby starts with the settings of the server it follows. Where the topology says nothing, all servers
/// have the same computed value, so only settings of single hosts can make a difference.
fn can_follow(
    context: &mut Context<'_>,
    computed: &Computed,
    standby: (&str, &Effectives<'_>),
    upstream: (&str, &Effectives<'_>),
) {
    let of_host = |setting: Option<&Effective<'_>>| setting.is_some_and(|setting| setting.path[0] == "hosts");
    for setting in NOT_BELOW_PRIMARY {
        let (own, other) = (standby.1.get(setting), upstream.1.get(setting));
        let place = if of_host(own) { own } else { other.filter(|other| of_host(Some(other))) };
        let Some(place) = place else { continue };
        let value = |given: Option<&Effective<'_>>| match given {
            Some(given) => Some((given.amount?, given.text.to_owned())),
            None => computed.get(setting).cloned(),
        };
        let (Some(own), Some(other)) = (value(own), value(other)) else { continue };
        if own.0 < other.0 {
            let (name, upstream) = (standby.0, upstream.0);
            let message =
                format!("{setting} is {} on `{name}`, {} on `{upstream}`, which it follows", own.1, other.1);
            once(context, &place.path, message, "a standby does not start with less than its primary");
        }
    }
}

/// The values that pgprov computes for settings that [`can_follow`] compares: as number and as text.
type Computed = HashMap<&'static str, (f64, String)>;

/// They are the same on all servers, so those of the first will do.
fn computed(context: &Context<'_>) -> Computed {
    let without_settings = {
        let mut topology = context.topology.clone();
        topology.postgres.settings.clear();
        topology.hosts.values_mut().for_each(|host| host.settings.clear());
        lab::derive(&topology, &lab::Pins::new())
    };
    let Some(host) = without_settings.with_role(POSTGRES_ROLE).next() else { return Computed::new() };
    let server = profile::server(&without_settings, host);
    let number = |setting: profile::Setting| {
        let name = *NOT_BELOW_PRIMARY.iter().find(|name| **name == setting.name)?;
        let text = setting.value.trim_matches('\'').to_owned();
        Some((name, (amount(catalogue::lookup(server.version, name)?, &text)?, text)))
    };
    server.restart.into_iter().chain(server.reload).filter_map(number).collect()
}

/// Reports a setting of the lab once, not for each host.
fn once(context: &mut Context<'_>, path: &[&str], message: String, hint: &str) {
    let location = context.locate(path);
    let finding = Finding::error(location.value, location.path, message);
    if !context.findings.contains_at(&finding) {
        context.add(finding, &[hint.to_owned()]);
    }
}
