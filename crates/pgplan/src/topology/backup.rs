//! `backup:`, what is saved when and how long.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SQL_NAME;
use crate::cron::Cron;

/// Logical backups at fixed times, made by the hosts with role `backup`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Backup {
    /// When: a time as crontab(5) writes it, in the hosts' time zone, which is UTC.
    pub interval_cron: Cron,
    /// How many good backups are kept. What failed is never counted, and the last good one never removed.
    #[schemars(range(min = 1, max = 10000))]
    pub retention_count: u32,
    /// Databases to save; default: those of the topology, or all when it names none.
    #[schemars(extend("items" = {"type": "string", "pattern": r"^[a-z_][a-z0-9_]{0,62}$", "x-allowed": SQL_NAME}, "maxItems" = 1000, "uniqueItems" = true))]
    pub databases: Vec<String>,
    /// Which server is read.
    #[serde(rename = "where")]
    pub source: BackupSource,
}

/// The server that a backup reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BackupSource {
    /// A standby, or the primary when no standby answers.
    #[default]
    PreferStandby,
    /// A standby; without one the backup fails.
    Standby,
    /// The primary, whichever host that is.
    Primary,
}

impl Default for Backup {
    fn default() -> Self {
        Self {
            interval_cron: Cron("0 */6 * * *".to_owned()),
            retention_count: 7,
            databases: Vec::new(),
            source: BackupSource::default(),
        }
    }
}
