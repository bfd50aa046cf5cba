//! The topology file: the types here are its format, its JSON Schema and its documentation.
//!
//! Everything has a default except `lab` and `hosts`. What a type cannot say (two primaries, an address outside its
//! subnet, an unknown setting) is in [`crate::check`].

mod backup;
mod monitoring;

use std::{borrow::Cow, collections::BTreeMap, fmt, net::Ipv4Addr};

use indexmap::IndexMap;
pub use pgagent_core::{Durability, Rto};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

pub use self::{
    backup::{Backup, BackupSource},
    monitoring::{Monitoring, MonitoringEngine},
};
use crate::{
    size::{Bytes, GIB},
    subnet::Subnet,
};

// What the patterns allow, in words, for findings.
const SQL_NAME: &str = "a letter a-z or underscore, then letters a-z, digits and underscores, 63 at most";
const EXTENSION_NAME: &str =
    "a letter a-z or underscore, then letters a-z, digits, underscores and hyphens, 63 at most";
const HOST_NAME: &str =
    "a letter a-z, then letters a-z, digits and hyphens, 63 at most, no hyphen at the end";
const URL: &str = "an address that begins with http://, https:// or file://";

/// A PostgreSQL lab: its hosts, and what runs on them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// Name of the lab: 1 to 15 letters a-z, digits and single hyphens between them. Names of domains, networks and disks start with it.
    #[schemars(
        regex(pattern = r"^[a-z](-?[a-z0-9]){0,14}$"),
        length(max = 15),
        extend("x-allowed" = "a letter a-z, then letters a-z, digits and single hyphens between them, 15 at most")
    )]
    pub lab: String,
    /// The disk that all hosts start from.
    #[serde(default)]
    pub image: Image,
    /// Hardware, the same for every host.
    #[serde(default)]
    pub vm: Vm,
    /// Subnet of the data network (PostgreSQL, agents, clients). Default: derived from the name of the lab.
    pub network: Option<Subnet>,
    /// Subnet of the management network (SSH, metrics). Default: derived from the name of the lab.
    pub management_network: Option<Subnet>,
    /// What holds for every PostgreSQL server of the lab.
    #[serde(default)]
    pub postgres: Postgres,
    /// How standbys follow the primary.
    #[serde(default)]
    pub replication: Replication,
    /// Who promotes a standby when the primary is lost.
    #[serde(default)]
    pub failover: Failover,
    /// Logical backups at fixed times; needs a host with role `backup`. Without this key there are none.
    pub backup: Option<Backup>,
    /// Prometheus and what it reads; needs a host with role `monitor`. Without this key there is none.
    pub monitoring: Option<Monitoring>,
    /// The hosts, by name. Host names are unique in the lab and become its DNS names.
    #[schemars(extend(
        "minProperties" = 1,
        "maxProperties" = 2000,
        "propertyNames" = {"type": "string", "pattern": r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$", "x-allowed": HOST_NAME}
    ))]
    pub hosts: IndexMap<String, Host>,
}

/// The disk that all hosts start from: an image that pgprov builds, or a stock cloud image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// Built once with mmdebstrap; all packages of all roles are inside.
    Built {
        /// Debian release.
        release: Release,
        /// Debian mirror to build from instead of the one this machine uses.
        mirror: Option<String>,
    },
    /// A stock cloud image; the packages of the roles are installed at `up`.
    Stock(StockImage),
}

/// A Debian release that pgprov has packages lists for.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema,
)]
pub enum Release {
    /// Debian 12 (bookworm) with PostgreSQL 15.
    #[serde(rename = "debian-12")]
    Debian12,
    /// Debian 13 (trixie) with PostgreSQL 17.
    #[default]
    #[serde(rename = "debian-13")]
    Debian13,
}

/// What an armored public key looks like; no line of it can end a here-document or a stanza.
const PUBLIC_KEY: &str = r"^-----BEGIN PGP PUBLIC KEY BLOCK-----\n([A-Za-z0-9+/=:.,()@<> -]*\n)+-----END PGP PUBLIC KEY BLOCK-----\n*$";

/// A cloud image that somebody else made, verified before use.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StockImage {
    /// Where to get it: http, https or file.
    #[schemars(
        regex(pattern = r"^(https?|file)://[^\s]+$"),
        extend("x-allowed" = URL)
    )]
    pub url: String,
    /// SHA-256 of the file, 64 hex digits.
    #[schemars(regex(pattern = r"^[0-9a-fA-F]{64}$"), extend("x-allowed" = "64 hexadecimal digits"))]
    pub sha256: String,
    /// Format of the file.
    #[serde(default)]
    pub format: DiskFormat,
    /// The release inside, which decides the names of the packages.
    #[serde(default)]
    pub release: Release,
    /// Debian mirror that the hosts install packages from; default: what the image itself is set to.
    #[schemars(
        regex(pattern = r"^(https?|file)://[^\s]+$"),
        extend("x-allowed" = URL)
    )]
    pub mirror: Option<String>,
    /// The public key that the mirror is signed with, in ASCII armor; default: Debian's own keys.
    #[schemars(
        regex(pattern = PUBLIC_KEY),
        extend("x-allowed" = "an ASCII-armored OpenPGP public key, as `gpg --armor --export` prints it")
    )]
    pub mirror_key: Option<String>,
}

/// Format of a disk image file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// QEMU copy-on-write, version 2 or 3.
    #[default]
    Qcow2,
    /// The bytes of the disk.
    Raw,
}

/// Hardware of one VM.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Vm {
    /// Virtual CPUs.
    #[schemars(range(min = 1, max = 64))]
    pub cpus: u32,
    /// Memory. Also decides the computed PostgreSQL settings.
    pub memory: Bytes,
    /// Size of the disk; it is thin, so an empty disk costs nothing.
    pub disk: Bytes,
}

/// What holds for every PostgreSQL server of the lab.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Postgres {
    /// Major version; default: the one of the image (debian-13: 17, debian-12: 15).
    pub version: Option<u32>,
    /// Which rules compute the memory settings.
    pub profile: Profile,
    /// Settings on top of the computed ones, by their PostgreSQL names.
    #[schemars(extend("maxProperties" = 1000))]
    pub settings: IndexMap<String, SettingValue>,
    /// Databases to create.
    #[schemars(extend("maxItems" = 1000))]
    pub databases: Vec<Database>,
    /// Roles (users) to create besides the owners of the databases.
    #[schemars(extend("maxItems" = 1000))]
    pub users: Vec<User>,
    /// Further lines of pg_hba.conf, before the ones that pgprov writes.
    #[schemars(extend("maxItems" = 1000))]
    pub hba: Vec<HbaRule>,
    /// TLS with the certificate authority of the lab; `false` allows unencrypted connections.
    pub tls: bool,
}

/// Which rules compute the memory settings from the memory of the VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// By the memory: `tiny` below 2 GiB, else `oltp`.
    #[default]
    Auto,
    /// Small labs: few connections, little memory.
    Tiny,
    /// Many short transactions.
    Oltp,
    /// Few large queries.
    Olap,
}

/// Value of a PostgreSQL setting: what one would write in postgresql.conf, without quotes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct SettingValue(pub String);

/// A database.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// Name of the database.
    #[schemars(regex(pattern = r"^[a-z_][a-z0-9_]{0,62}$"), extend("x-allowed" = SQL_NAME))]
    pub name: String,
    /// Role that owns it; created with a random password when `users` does not list it.
    #[schemars(regex(pattern = r"^[a-z_][a-z0-9_]{0,62}$"), extend("x-allowed" = SQL_NAME))]
    pub owner: String,
    /// Extensions to create in it.
    #[serde(default)]
    #[schemars(extend("items" = {"type": "string", "pattern": r"^[a-z_][a-z0-9_-]{0,62}$", "x-allowed": EXTENSION_NAME}, "maxItems" = 100, "uniqueItems" = true))]
    pub extensions: Vec<String>,
}

/// A role that can log in. Its password is random, kept in the state directory of the lab.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Name of the role.
    #[schemars(regex(pattern = r"^[a-z_][a-z0-9_]{0,62}$"), extend("x-allowed" = SQL_NAME))]
    pub name: String,
    /// What it may do beyond logging in.
    #[serde(default)]
    pub attributes: Vec<RoleAttribute>,
    /// Roles it is a member of, e.g. `pg_monitor`.
    #[serde(default)]
    #[schemars(extend("items" = {"type": "string", "pattern": r"^[a-z_][a-z0-9_]{0,62}$", "x-allowed": SQL_NAME}, "maxItems" = 100, "uniqueItems" = true))]
    pub member_of: Vec<String>,
}

/// An attribute of CREATE ROLE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RoleAttribute {
    /// May do everything.
    Superuser,
    /// May create databases.
    Createdb,
    /// May create roles.
    Createrole,
    /// May stream WAL.
    Replication,
    /// Is not subject to row security.
    Bypassrls,
}

/// A line of pg_hba.conf. The method is always scram-sha-256 (or reject).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HbaRule {
    /// Kind of connection; default `hostssl`, or `host` without TLS.
    #[serde(rename = "type")]
    pub kind: Option<HbaKind>,
    /// Database, `all` or `replication`.
    #[serde(default = "all")]
    #[schemars(regex(pattern = r"^[a-z_][a-z0-9_]{0,62}$"), extend("x-allowed" = SQL_NAME))]
    pub database: String,
    /// Role or `all`.
    #[serde(default = "all")]
    #[schemars(regex(pattern = r"^[a-z_][a-z0-9_]{0,62}$"), extend("x-allowed" = SQL_NAME))]
    pub user: String,
    /// Addresses it holds for, as `10.0.0.0/8`.
    pub address: Subnet,
    /// How the client proves who it is.
    #[serde(default)]
    pub method: HbaMethod,
}

fn all() -> String {
    "all".to_owned()
}

/// Kind of connection in pg_hba.conf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HbaKind {
    /// TCP with or without TLS.
    Host,
    /// TCP with TLS.
    Hostssl,
    /// TCP without TLS.
    Hostnossl,
}

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum HbaMethod {
    /// Password, never sent in clear.
    #[default]
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// Refuse.
    #[serde(rename = "reject")]
    Reject,
}

/// How standbys follow the primary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Replication {
    /// Whether a commit waits for a standby.
    pub mode: ReplicationMode,
}

/// Whether a commit on the primary waits for a standby.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReplicationMode {
    /// A commit does not wait; the last transactions can be lost with the primary.
    #[default]
    Asynchronous,
    /// A commit waits until a direct standby has flushed it.
    Synchronous,
}

/// Who promotes a standby when the primary is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Failover {
    /// The engine.
    pub engine: FailoverEngine,
    /// How soon a failover should happen: the sooner, the shorter the disturbances that count as one.
    pub rto: Rto,
    /// What to prefer when the primary of a synchronous lab has no standby; the words are Oracle Data Guard's.
    pub durability: Durability,
}

/// Failover engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FailoverEngine {
    /// Nobody: the operator promotes by hand.
    #[default]
    None,
    /// The agent of pgprov: a primary, a standby that follows it, and an arbiter. See docs/failover.md.
    Pgagent,
    /// Patroni, with the hosts of role `etcd` as voters. See docs/patroni.md.
    Patroni,
}

impl FailoverEngine {
    /// Whether it makes standbys and their replication slots itself, and tells each server whom to follow: who `follows`
    /// whom in the topology is then only how a lab begins.
    pub fn owns_replication(self) -> bool {
        self == Self::Patroni
    }
}

/// One host: a VM with its roles.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// What the host is for; the names of files in roles/.
    #[schemars(extend("minItems" = 1, "maxItems" = 50, "uniqueItems" = true))]
    pub roles: Vec<String>,
    /// The PostgreSQL host that this one is a standby of.
    pub follows: Option<String>,
    /// Address on the data network; default: derived from the names of lab and host.
    pub address: Option<Ipv4Addr>,
    /// PostgreSQL settings of this host only.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 1000))]
    pub settings: IndexMap<String, SettingValue>,
    /// Free text, shown to who logs in to the host.
    pub description: Option<String>,
}

/// Size of the disk of the images that pgprov builds, and so the smallest disk of their hosts.
pub const BUILT_DISK: Bytes = Bytes(8 * GIB);

/// Settings by name, as they are rendered.
pub type Settings = BTreeMap<String, String>;

impl Default for Image {
    fn default() -> Self {
        Self::Built { release: Release::default(), mirror: None }
    }
}

impl Default for Vm {
    fn default() -> Self {
        Self { cpus: 1, memory: Bytes(GIB), disk: Bytes(8 * GIB) }
    }
}

impl Default for Postgres {
    fn default() -> Self {
        Self {
            version: None,
            profile: Profile::default(),
            settings: IndexMap::new(),
            databases: Vec::new(),
            users: Vec::new(),
            hba: Vec::new(),
            tls: true,
        }
    }
}

impl RoleAttribute {
    /// All of them, in the order of objects-check.sql.
    pub const ALL: [Self; 5] =
        [Self::Superuser, Self::Createdb, Self::Createrole, Self::Replication, Self::Bypassrls];
}

impl Release {
    /// The name in topologies and images: `debian-13`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debian12 => "debian-12",
            Self::Debian13 => "debian-13",
        }
    }

    /// The PostgreSQL major version that the release packages.
    pub fn postgres_version(self) -> u32 {
        match self {
            Self::Debian12 => 15,
            Self::Debian13 => 17,
        }
    }
}

impl Image {
    /// The Debian release inside.
    pub fn release(&self) -> Release {
        match self {
            Self::Built { release, .. } => *release,
            Self::Stock(stock) => stock.release,
        }
    }
}

/// An image that pgprov builds.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BuiltImage {
    /// Debian release.
    #[serde(default)]
    release: Release,
    /// Debian mirror to build from instead of the one this machine uses.
    #[schemars(
        regex(pattern = r"^(https?|file)://[^\s]+$"),
        extend("x-allowed" = URL)
    )]
    mirror: Option<String>,
}

/// Written as the name of a release, `{ release, mirror }` or `{ url, sha256, ... }`: the keys tell which.
impl<'de> Deserialize<'de> for Image {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ImageVisitor;

        impl<'de> Visitor<'de> for ImageVisitor {
            type Value = Image;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a release, or a mapping with `release` or `url`")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Image, E> {
                let release = Release::deserialize(serde::de::value::StrDeserializer::new(name))?;
                Ok(Image::Built { release, mirror: None })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Image, A::Error> {
                let map = serde_json::Map::deserialize(MapAccessDeserializer::new(map))?;
                let stock = map.contains_key("url") || map.contains_key("sha256");
                let value = serde_json::Value::Object(map);
                if stock {
                    return serde_json::from_value(value).map(Image::Stock).map_err(A::Error::custom);
                }
                let BuiltImage { release, mirror } =
                    serde_json::from_value(value).map_err(A::Error::custom)?;
                Ok(Image::Built { release, mirror })
            }
        }

        deserializer.deserialize_any(ImageVisitor)
    }
}

/// Written as it is read, the short form where it says all.
impl Serialize for Image {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Built { release, mirror: None } => release.serialize(serializer),
            Self::Built { release, mirror } => {
                BuiltImage { release: *release, mirror: mirror.clone() }.serialize(serializer)
            }
            Self::Stock(stock) => stock.serialize(serializer),
        }
    }
}

impl JsonSchema for Image {
    fn schema_name() -> Cow<'static, str> {
        "Image".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The disk that all hosts start from: the name of a release, the same with a mirror, or a stock cloud image.",
            "anyOf": [
                generator.subschema_for::<Release>(),
                generator.subschema_for::<BuiltImage>(),
                generator.subschema_for::<StockImage>(),
            ],
        })
    }
}

impl<'de> Deserialize<'de> for SettingValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl Visitor<'_> for TextVisitor {
            type Value = SettingValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, a number or a boolean")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<SettingValue, E> {
                Ok(SettingValue(text.to_owned()))
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<SettingValue, E> {
                Ok(SettingValue(value.to_string()))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<SettingValue, E> {
                Ok(SettingValue(value.to_string()))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<SettingValue, E> {
                Ok(SettingValue(value.to_string()))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<SettingValue, E> {
                Ok(SettingValue(value.to_string()))
            }
        }

        deserializer.deserialize_any(TextVisitor)
    }
}

impl JsonSchema for SettingValue {
    fn schema_name() -> Cow<'static, str> {
        "SettingValue".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "number", "boolean"],
            "description": "Value of a PostgreSQL setting, as one would write it in postgresql.conf, without quotes.",
        })
    }
}
