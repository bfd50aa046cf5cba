//! The words of `pgprov backup`.

use clap::{Args, Subcommand};

use super::LabOption;

/// Verbs for backups
#[derive(Debug, Subcommand)]
pub enum Backup {
    /// Make a backup, as cron does by itself
    Now(BackupHost),
    /// List the good backups, and say how the last run ended
    List(BackupHost),
    /// Read a backup to its end: check sums, and the rows of every table
    Verify(BackupVerify),
    /// Restore a backup into a database of its own and count its rows; bring a table back
    Restore(BackupRestore),
}

/// Where backups are made
#[derive(Args, Clone, Debug, Default)]
pub struct BackupHost {
    /// The lab
    #[command(flatten)]
    pub lab: LabOption,
    /// Host that makes the backups [default: the first with role `backup`]
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
}

/// Arguments of backup verify
#[derive(Args, Debug)]
pub struct BackupVerify {
    /// Where
    #[command(flatten)]
    pub on: BackupHost,
    /// Backup: its id or a part of it [default: the newest]
    #[arg(value_name = "ID")]
    pub id: Option<String>,
}

/// Arguments of backup restore
#[derive(Args, Debug)]
pub struct BackupRestore {
    /// Where
    #[command(flatten)]
    pub on: BackupHost,
    /// Backup: its id or a part of it [default: the newest]
    #[arg(value_name = "ID")]
    pub id: Option<String>,
    /// Database to restore [default: the first of the backup]
    #[arg(long, value_name = "NAME")]
    pub database: Option<String>,
    /// Bring this table back into the database it was in, with its indexes, constraints and triggers; it must not exist there
    #[arg(long, value_name = "SCHEMA.TABLE")]
    pub table: Option<String>,
    /// Leave the database that it was restored into
    #[arg(long)]
    pub keep: bool,
}
