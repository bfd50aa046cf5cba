//! PostgreSQL as the machine sees it.

use serde::{Deserialize, Serialize};

use crate::Lsn;

/// The server of a data host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Server {
    /// There is no data directory.
    Absent,
    /// It does not run.
    Down {
        /// Its data is a standby's (`standby.signal`).
        standby: bool,
        /// It was shut down cleanly.
        clean: bool,
        /// PostgreSQL's system identifier.
        system: u64,
        /// The timeline of its last checkpoint.
        timeline: u32,
        /// The end of the log, as far as the control file says.
        wal: Lsn,
    },
    /// It starts, and does not take connections yet.
    Busy,
    /// It takes connections.
    Up(Up),
}

/// A server that takes connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Up {
    /// PostgreSQL's system identifier.
    pub system: u64,
    /// Names this start of the server.
    pub started: u64,
    /// It is a standby.
    pub recovery: bool,
    /// The timeline that it writes or follows.
    pub timeline: u32,
    /// `synchronous_standby_names` names the other host, in the file and in force.
    pub sync: bool,
    /// The end of the log: written, or received.
    pub wal: Lsn,
    /// Of a standby: whether it follows.
    pub receiver: Receiver,
    /// Of a primary: the other host's walreceiver.
    pub standby: Option<Standby>,
}

/// What a standby does to get the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Receiver {
    /// It has no `primary_conninfo` and no walreceiver.
    Off,
    /// It tries to follow the other host.
    Waiting,
    /// It streams.
    Streaming,
}

/// The other host as the primary sees it in `pg_stat_replication`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Standby {
    /// It streams, and `sync_state` is `sync`.
    pub sync: bool,
    /// It has flushed this much.
    pub flush: Lsn,
    /// It has replayed this much.
    pub replay: Lsn,
}

/// What can be done with a server. Each can be repeated, and begun again after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Start it as what its data is.
    Start,
    /// Stop it, quickly if it can be done cleanly, and in any case.
    Stop,
    /// Name the other host in `synchronous_standby_names`, or nobody, and reload.
    SetSync(bool),
    /// Stop receiving from the other host, and wait until the walreceiver is gone.
    StopReceiver,
    /// Be a standby of the other host: `standby.signal`, `primary_conninfo`, slot; reload if it runs.
    Follow,
    /// Become primary, with a slot for the other host.
    Promote,
    /// Make the data that of a standby of the other host, by pg_rewind or a base backup, and start it.
    Rejoin,
    /// The same by a base backup in any case.
    Copy,
}
