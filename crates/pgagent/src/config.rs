//! The settings file, TOML. Unknown keys are errors, and nothing is used before all of it is checked.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use pgagent_core::{Durability, Member, Rto, Site, Timing};
use serde::Deserialize;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// It is not what is expected.
    #[error("cannot use {}: {text}", path.display())]
    Bad { path: PathBuf, text: String },
}

/// All settings of an agent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the cluster: agents of others are not talked to.
    pub cluster: String,
    /// Name of this host, one of `hosts`.
    pub me: String,
    /// The two data hosts.
    pub hosts: [Host; 2],
    /// The arbiter.
    pub arbiter: Host,
    /// How soon a failover should happen.
    #[serde(default)]
    pub rto: Rto,
    /// Times of its own instead of those of `rto`.
    pub timing: Option<Timing>,
    /// What to prefer when there is no standby.
    #[serde(default)]
    pub durability: Durability,
    /// Folder of the state file.
    pub state: PathBuf,
    /// Socket for commands.
    pub socket: PathBuf,
    /// Where Prometheus reads.
    pub metrics: Option<SocketAddr>,
    /// Certificate authority, certificate and key, PEM.
    pub tls: Tls,
    /// How to look at PostgreSQL from outside.
    pub probe: Probe,
    /// Not on the arbiter.
    pub postgres: Option<Postgres>,
}

/// A host and where its agent listens.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// As in its certificate.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Port of its agent.
    pub port: u16,
    /// Port of its PostgreSQL.
    #[serde(default = "postgres_port")]
    pub postgres: u16,
}

fn postgres_port() -> u16 {
    5432
}

/// PEM files.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The authority that signed all hosts' certificates.
    pub ca: PathBuf,
    /// This host's.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Who runs `select 1`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// A role that may connect to database `postgres`.
    pub user: String,
    /// File with its password alone, or in the form of a password file, of which the last field of the first line counts.
    pub passfile: Option<PathBuf>,
    /// Whether connections use TLS.
    #[serde(default)]
    pub tls: bool,
}

/// The server of this host.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postgres {
    /// Folder of pg_ctl and the others.
    pub bin: PathBuf,
    /// Data directory.
    pub data: PathBuf,
    /// The file with settings, when it is not in the data directory.
    pub config_file: Option<PathBuf>,
    /// Folder of the socket.
    pub socket: PathBuf,
    /// Who connects and runs the server's programs; the user of the agent if not given.
    pub user: Option<String>,
    /// The superuser.
    #[serde(default = "superuser")]
    pub superuser: String,
    /// The unit that runs the server; pg_ctl starts it if not given.
    pub unit: Option<String>,
    /// Connection string of a standby, without host and port: user, password file, TLS.
    pub replication: String,
    /// Replication slots by host name; `pgagent_NAME` if not given.
    #[serde(default)]
    pub slots: std::collections::BTreeMap<String, String>,
    /// Who opens and closes the port: `nft` or `none`.
    #[serde(default)]
    pub gate: GateKind,
}

fn superuser() -> String {
    "postgres".to_owned()
}

/// What enforces the gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GateKind {
    /// The kernel.
    #[default]
    Nft,
    /// Nothing: for tests.
    None,
}

impl Config {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let bad = |text| ConfigError::Bad { path: path.to_owned(), text };
        let config: Config = toml::from_str(&text).map_err(|error| bad(error.to_string()))?;
        config.check().map_err(bad)?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        self.times().check().map_err(|error| error.to_string())?;
        let names = [&self.hosts[0].name, &self.hosts[1].name, &self.arbiter.name];
        if names[0] == names[1] || names[1] == names[2] || names[0] == names[2] {
            return Err("the three hosts need three names".to_owned());
        }
        match (self.member(), &self.postgres) {
            (None, _) => Err(format!("`me` is {}, which is none of {names:?}", self.me)),
            (Some(Member::Data(_)), None) => Err("a data host needs a section `postgres`".to_owned()),
            (Some(_), _) => Ok(()),
        }
    }

    /// The times in force.
    pub fn times(&self) -> Timing {
        self.timing.unwrap_or(Timing::of(self.rto))
    }

    /// A checksum of what all three hosts have to agree on.
    pub fn shared(&self) -> u32 {
        let timing = self.times();
        let text =
            format!("{} {:?} {:?} {timing:?} {:?}", self.cluster, self.hosts, self.arbiter, self.durability);
        crc32fast::hash(text.as_bytes())
    }

    /// Which of the three this host is.
    pub fn member(&self) -> Option<Member> {
        [Member::Data(Site::One), Member::Data(Site::Two), Member::Arbiter]
            .into_iter()
            .find(|member| self.host(*member).name == self.me)
    }

    /// Name and addresses of a member.
    pub fn host(&self, member: Member) -> &Host {
        match member {
            Member::Data(site) => &self.hosts[site.index()],
            Member::Arbiter => &self.arbiter,
        }
    }
}
