//! PostgreSQL settings computed from the VM and the topology, each with the reason for its value.

use indexmap::IndexMap;
use serde::Serialize;

use crate::{
    catalogue, digest,
    lab::{Host, Lab},
    size::{Bytes, MIB},
    topology::{FailoverEngine, Profile, Rto},
};

/// Prefix of a simple command that is to run as user postgres. Not runuser: under emulation its PAM session costs half a second.
pub const AS_POSTGRES: &str =
    "HOME=/var/lib/postgresql setpriv --reuid=postgres --regid=postgres --init-groups --";

/// Folder of the programs of that major version.
pub fn bin(version: u32) -> String {
    format!("/usr/lib/postgresql/{version}/bin")
}

/// One line of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Name of the setting.
    pub name: String,
    /// Value as written in the file, quoted where needed.
    pub value: String,
    /// Why it has this value.
    pub why: String,
    /// Whether a change needs a restart (context `postmaster`).
    pub restart: bool,
    /// Whether the topology sets it for this host only.
    pub own: bool,
}

/// What PostgreSQL templates see as `pg`.
#[derive(Clone, Debug, Serialize)]
pub struct Server {
    /// Major version.
    pub version: u32,
    /// Directory of the programs.
    pub bin: String,
    /// Data directory.
    pub data: String,
    /// Directory of the configuration files.
    pub conf: String,
    /// systemd unit.
    pub unit: String,
    /// The log file.
    pub log: String,
    /// [`AS_POSTGRES`].
    pub as_postgres: String,
    /// psql as user postgres, for scripts. Not the one on the PATH of Debian: that is a wrapper in Perl, which costs an
    /// emulated machine a second.
    pub psql: String,
    /// What runs SQL from its input as superuser, cheaper than that where it can: the client that our images have. Lines `\\g`
    /// end what is sent at once.
    pub ask: String,
    /// How hosts trust each other, for a connection string: `sslmode` and what belongs to it.
    pub tls: &'static str,
    /// Profile of the computed settings.
    pub profile: Profile,
    /// Settings that a reload applies.
    pub reload: Vec<Setting>,
    /// Settings that a restart applies.
    pub restart: Vec<Setting>,
}

/// A client of PostgreSQL that need not be linked first: see `crates/pghost`. Machines that were there before, other images and
/// those made before have none.
const ASK: &str = "/usr/lib/pgprov/ask";

/// Settings and paths of the PostgreSQL server on `host`.
pub fn server(lab: &Lab, host: &Host) -> Server {
    let version = lab.postgres.version;
    let (restart, reload) = settings(lab, host).into_iter().partition(|setting| setting.restart);
    let psql = format!("{AS_POSTGRES} {}/psql -XAtq", bin(version));
    Server {
        version,
        bin: bin(version),
        data: format!("/var/lib/postgresql/{version}/main"),
        conf: format!("/etc/postgresql/{version}/main"),
        unit: format!("postgresql@{version}-main.service"),
        log: format!("{LOG_DIRECTORY}/{}", log_name(version)),
        ask: format!("if [ -x {ASK} ]; then {ASK}; else {psql} -f -; fi"),
        psql,
        as_postgres: AS_POSTGRES.to_owned(),
        tls: tls_options(lab),
        profile: lab.postgres.profile,
        reload,
        restart,
    }
}

/// How the names of all our replication slots begin: slots of other names are somebody else's and never touched.
pub const SLOT_PREFIX: &str = "pgprov_";
/// PostgreSQL refuses longer names of slots.
const SLOT_NAME_MAX: usize = 63;

/// Name of the physical replication slot that `host` streams from: [`SLOT_PREFIX`] and the host's name, which is cut and
/// told from its like by a hash when it is too long.
pub fn slot_name(host: &str) -> String {
    let name = format!("{SLOT_PREFIX}{}", host.replace('-', "_"));
    if name.len() <= SLOT_NAME_MAX {
        return name;
    }
    let hash = &digest::hex(host.as_bytes())[..8];
    format!("{}_{hash}", &name[..SLOT_NAME_MAX - 9])
}

fn tls_options(lab: &Lab) -> &'static str {
    // Nobody here has tickets of Kerberos, for which libpq would look first.
    if lab.postgres.tls {
        "sslmode=verify-full sslrootcert=/etc/pgprov/ca.crt gssencmode=disable"
    } else {
        "sslmode=prefer gssencmode=disable"
    }
}

/// Why a setting that stands under a host has its value.
const OF_HOST: &str = "topology: settings of this host";

/// Settings that an engine which owns replication sets itself.
pub const ENGINE_SETTINGS: [&str; 9] = [
    "listen_addresses",
    "port",
    "hot_standby",
    "wal_log_hints",
    "cluster_name",
    "synchronous_standby_names",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_target_timeline",
];

/// Computed settings, then the topology's, then the host's: a later one replaces an earlier one.
fn settings(lab: &Lab, host: &Host) -> Vec<Setting> {
    let mut all: IndexMap<String, (String, String)> = IndexMap::new();
    for (name, value, why) in memory(lab)
        .into_iter()
        .chain(replication(lab, host))
        .chain(logging(lab.postgres.version))
        .chain(tls(lab))
    {
        all.insert(name.to_owned(), (value, why));
    }
    if lab.failover.engine.owns_replication() {
        all.retain(|name, _| !ENGINE_SETTINGS.contains(&name.as_str()));
    }
    let places = [("topology: postgres.settings", &lab.postgres.settings), (OF_HOST, &host.settings)];
    for (why, settings) in places {
        for (name, value) in settings {
            // PostgreSQL does not mind the case of a name; two lines for one setting would hide one of them.
            let name =
                catalogue::lookup(lab.postgres.version, name).map_or(name.as_str(), |setting| setting.name);
            all.insert(name.to_owned(), (value.clone(), why.to_owned()));
        }
    }
    all.into_iter()
        .map(|(name, (value, why))| Setting {
            restart: needs_restart(lab.postgres.version, &name),
            own: why == OF_HOST,
            value: quote(&value),
            name,
            why,
        })
        .collect()
}

fn needs_restart(version: u32, name: &str) -> bool {
    catalogue::lookup(version, name).is_none_or(|setting| setting.context == catalogue::Context::Postmaster)
}

type Computed = (&'static str, String, String);

fn memory(lab: &Lab) -> Vec<Computed> {
    let ram = lab.vm.memory;
    let of_ram = |percent: u64| Bytes(ram.0 / 100 * percent);
    // PostgreSQL's own smallest useful cache is 128 MB, its default; half of a tiny machine must stay free.
    let (shared, connections, work_divisor) = match lab.postgres.profile {
        Profile::Olap => (of_ram(25), 40, 4),
        Profile::Oltp => (of_ram(25), 200, 16),
        Profile::Tiny | Profile::Auto => (Bytes(of_ram(20).0.clamp(64 * MIB, 256 * MIB)), 60, 16),
    };
    let cache = of_ram(60);
    let work = Bytes((ram.0 / connections / work_divisor * 4).clamp(2 * MIB, 1024 * MIB));
    let maintenance = Bytes((ram.0 / 16).clamp(32 * MIB, 2048 * MIB));
    let disk = lab.vm.disk;
    let max_wal = Bytes((disk.0 / 8).clamp(256 * MIB, 16 * 1024 * MIB));
    let slot_wal = Bytes((disk.0 / 4).clamp(512 * MIB, 64 * 1024 * MIB));
    let vm = format!("{ram} of memory");
    vec![
        ("shared_buffers", mb(shared), format!("share of the {vm} that PostgreSQL caches itself")),
        (
            "effective_cache_size",
            mb(cache),
            format!("60 % of the {vm}: what the planner may assume to be cached"),
        ),
        ("work_mem", mb(work), format!("per sort or hash; {connections} connections share the {vm}")),
        ("maintenance_work_mem", mb(maintenance), format!("1/16 of the {vm}, for VACUUM and CREATE INDEX")),
        (
            "max_connections",
            connections.to_string(),
            "by profile; standbys must not have fewer than the primary".into(),
        ),
        ("max_wal_size", mb(max_wal), format!("1/8 of the {disk} disk between checkpoints")),
        (
            "max_slot_wal_keep_size",
            mb(slot_wal),
            format!("1/4 of the {disk} disk: a lost standby must not fill it"),
        ),
        (
            "wal_buffers",
            mb(Bytes((shared.0 / 32).clamp(MIB, 16 * MIB))),
            "1/32 of shared_buffers, at most a WAL segment".into(),
        ),
        ("checkpoint_timeout", "15min".into(), "fewer full-page images than with the default of 5min".into()),
        (
            "random_page_cost",
            "1.1".into(),
            "the disk is a file on the hypervisor: no seeks to speak of".into(),
        ),
        ("huge_pages", "off".into(), "a lab VM has none reserved".into()),
        (
            "max_worker_processes",
            (lab.vm.cpus.max(2) * 2 + 4).to_string(),
            "background workers, from the CPUs of the VM".into(),
        ),
        (
            "max_parallel_workers_per_gather",
            (lab.vm.cpus / 2).to_string(),
            "half of the CPUs of the VM".into(),
        ),
    ]
}

fn replication(lab: &Lab, host: &Host) -> Vec<Computed> {
    let streams = u32::try_from(lab.hosts.len()).unwrap_or(u32::MAX).clamp(4, 64) + 6;
    let mut settings: Vec<Computed> = vec![
        (
            "listen_addresses",
            "*".into(),
            "data and management network; pg_hba.conf decides who may come in".into(),
        ),
        ("port", "5432".into(), "the standard port".into()),
        ("wal_level", "replica".into(), "enough for physical standbys and point-in-time recovery".into()),
        ("hot_standby", "on".into(), "standbys answer read-only queries".into()),
        ("max_wal_senders", streams.to_string(), "one for each host, and some for base backups".into()),
        ("max_replication_slots", streams.to_string(), "one for each host, and some to play with".into()),
        ("wal_log_hints", "on".into(), "pg_rewind needs it to bring an old primary back".into()),
        (
            "wal_retrieve_retry_interval",
            "1s".into(),
            "how soon a standby asks again for a primary that restarts; commits wait for it meanwhile".into(),
        ),
        ("wal_keep_size", "128MB".into(), "a standby without its slot may lag this much".into()),
        ("password_encryption", "scram-sha-256".into(), "passwords are never sent or kept in clear".into()),
        ("synchronous_standby_names", String::new(), "nobody waits for this host's standbys".into()),
        ("cluster_name", host.name.clone(), "shown in the titles of the processes".into()),
        (
            "authentication_timeout",
            "15s".into(),
            "a connection that was cut while it was being made holds up a shutdown for as long".into(),
        ),
        // By the kernel's clock: wal_sender_timeout goes by the wall clock, and misses it for as long as that was set back.
        (
            "tcp_keepalives_idle",
            "5s".into(),
            "a standby or client that lost its power is noticed within seconds".into(),
        ),
        ("tcp_keepalives_interval", "2s".into(), "see tcp_keepalives_idle".into()),
        ("tcp_keepalives_count", "3".into(), "see tcp_keepalives_idle".into()),
    ];
    if let Some((limit, why)) = stream_timeout(lab) {
        settings.push(("wal_sender_timeout", limit.into(), why.into()));
        settings.push(("wal_receiver_timeout", limit.into(), why.into()));
    }
    let is_primary = host.follows.is_none();
    if is_primary && lab.synchronous() && !host.followers.is_empty() {
        let names: Vec<String> = host.followers.iter().map(|name| format!("\"{name}\"")).collect();
        let why = "topology: replication.mode synchronous; a commit waits for one direct standby";
        settings.push(("synchronous_standby_names", format!("FIRST 1 ({})", names.join(", ")), why.into()));
    }
    if let Some(upstream) = &host.follows {
        let tls = tls_options(lab);
        let conf = format!("/etc/postgresql/{}/main", lab.postgres.version);
        let conninfo = format!(
            "host={upstream} port=5432 user=replicator application_name={} passfile={conf}/replication.pgpass {tls} \
             connect_timeout=5 keepalives_idle=5 keepalives_interval=2 keepalives_count=3",
            host.name
        );
        settings.push(("primary_conninfo", conninfo, format!("topology: this host follows {upstream}")));
        settings.push((
            "primary_slot_name",
            slot_name(&host.name),
            format!("made on {upstream}; keeps the WAL we still need"),
        ));
        settings.push((
            "recovery_target_timeline",
            "latest".into(),
            "follow the upstream after a failover".into(),
        ));
    }
    settings
}

/// How soon the two ends of a stream notice that the other one is lost, and why; PostgreSQL's own value when nobody takes over.
fn stream_timeout(lab: &Lab) -> Option<(&'static str, &'static str)> {
    Some(match (lab.failover.engine, lab.failover.rto) {
        (FailoverEngine::None, _) => return None,
        (FailoverEngine::Pgagent, rto) => (
            match rto {
                Rto::Fast => "3s",
                Rto::Norm => "4s",
                Rto::Safe => "10s",
                Rto::Wide => "30s",
            },
            "topology: failover; a lost host is noticed as soon as the agent does",
        ),
        // Patroni learns from the sender that a standby is gone, and then lets commits go on without it.
        (FailoverEngine::Patroni, rto) => (
            match rto {
                Rto::Fast => "5s",
                Rto::Norm => "10s",
                Rto::Safe => "20s",
                Rto::Wide => "30s",
            },
            "topology: failover.rto; how soon a lost host is noticed",
        ),
    })
}

const LOG_DIRECTORY: &str = "/var/log/postgresql";

fn log_name(version: u32) -> String {
    format!("postgresql-{version}-main.log")
}

fn logging(version: u32) -> Vec<Computed> {
    let why = "for the one who reads the log after a fault";
    vec![
        ("logging_collector", "on".into(), "the server writes its log itself, where Debian has it".into()),
        ("log_directory", LOG_DIRECTORY.into(), "where Debian has it".into()),
        ("log_filename", log_name(version), "one file, as Debian has it; logrotate takes care of it".into()),
        ("log_rotation_age", "0".into(), "one file".into()),
        ("log_rotation_size", "0".into(), "one file".into()),
        ("log_file_mode", "0640".into(), "not for everybody: statements can hold data".into()),
        (
            "log_line_prefix",
            "%m [%p] %q%u@%d %a ".into(),
            "time, process, user, database, application".into(),
        ),
        ("log_checkpoints", "on".into(), why.into()),
        ("log_connections", "on".into(), why.into()),
        ("log_disconnections", "on".into(), why.into()),
        ("log_lock_waits", "on".into(), why.into()),
        ("log_replication_commands", "on".into(), why.into()),
        ("log_timezone", "Etc/UTC".into(), "the same clock in the logs of all hosts".into()),
        ("timezone", "Etc/UTC".into(), "the same clock on all hosts".into()),
    ]
}

fn tls(lab: &Lab) -> Vec<Computed> {
    if !lab.postgres.tls {
        return vec![("ssl", "off".into(), "topology: postgres.tls false".into())];
    }
    let conf = format!("/etc/postgresql/{}/main", lab.postgres.version);
    vec![
        ("ssl", "on".into(), "certificates of the lab's own authority".into()),
        ("ssl_cert_file", format!("{conf}/server.crt"), "this host's certificate".into()),
        ("ssl_key_file", format!("{conf}/server.key"), "readable by postgres only".into()),
        ("ssl_ca_file", "/etc/pgprov/ca.crt".into(), "the authority of this lab".into()),
        ("ssl_min_protocol_version", "TLSv1.2".into(), "older ones are broken".into()),
    ]
}

fn mb(bytes: Bytes) -> String {
    format!("{}MB", bytes.mib())
}

/// A value as postgresql.conf wants it: always quoted, so that no value can end the line or start a comment.
fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_ours_by_their_names_which_postgresql_accepts() {
        assert_eq!(slot_name("far-away"), "pgprov_far_away");
        let long = "a".repeat(63);
        let other = format!("{}b", &long[..62]);
        for host in [&long, &other] {
            let name = slot_name(host);
            assert!(name.starts_with(SLOT_PREFIX) && name.len() == 63, "{name}");
        }
        assert_ne!(slot_name(&long), slot_name(&other));
    }
}
