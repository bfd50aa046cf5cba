//! What agents write to each other, as data. How it becomes bytes is the shell's business.

use serde::{Deserialize, Serialize};

use crate::{Lsn, Nonce, Record, Site, Stamp, Time, Timing};

/// A message between two hosts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Message {
    /// A data host says what it is and asks for a lease; to the other data host and to the arbiter.
    Beat(Beat),
    /// The answer to each beat.
    Answer(Answer),
    /// A data host asks the arbiter to change the record.
    Request(Request),
    /// The arbiter's answer to a request.
    Reply(Reply),
}

/// Whether the sender of a beat wants a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Want {
    /// It is primary of the beat's epoch.
    Lease,
    /// It is not, or does not know yet; its port may still be open on account of an earlier lease.
    Nothing,
    /// Its port is closed, and no lease that it asked for before will open it.
    Closed,
}

/// A sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beat {
    /// The run of the sender's agent.
    pub session: u64,
    /// When it was sent, on the sender's clock: the lease runs from here.
    pub sent: Time,
    /// Whether a lease is wanted.
    pub want: Want,
    /// The epoch of the sender's data.
    pub epoch: u32,
    /// The incarnation of the arbiter that the sender obeys.
    pub incarnation: u64,
    /// The newest record that the sender knows.
    pub record: Option<Record>,
    /// What an arbiter without memory needs to know.
    pub claim: Option<Claim>,
    /// The end of the sender's write-ahead log.
    pub wal: Lsn,
    /// The sender's times.
    pub timing: Timing,
}

/// What a data host knows, for an arbiter that knows nothing. With the claims of both it has everything that anyone will
/// ever act upon, because a host that claims obeys no earlier incarnation any more.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// To which incarnation this is said.
    pub incarnation: u64,
    /// [`Answer::token`] of that incarnation.
    pub token: u64,
    /// The newest record.
    pub record: Option<Record>,
    /// PostgreSQL's system identifier.
    pub system: u64,
    /// Whether its data is a standby's.
    pub standby: bool,
    /// PostgreSQL's timeline.
    pub timeline: u32,
}

/// The answer to a beat.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// [`Beat::session`], sent back.
    pub session: u64,
    /// [`Beat::sent`], sent back.
    pub sent: Time,
    /// Whether a lease is granted.
    pub lease: bool,
    /// The incarnation of the arbiter that the sender is, or obeys.
    pub incarnation: u64,
    /// From an arbiter without memory: a random number that claims have to repeat.
    pub token: Option<u64>,
    /// The newest record that the sender knows.
    pub record: Option<Record>,
    /// The end of the sender's write-ahead log; of no meaning from the arbiter.
    pub wal: Lsn,
    /// The sender's times.
    pub timing: Timing,
}

/// A change of the record that a data host asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Names this request; the same when it is sent again.
    pub nonce: Nonce,
    /// The record that is to be changed: nothing is done if it is another by now.
    pub stamp: Stamp,
    /// The change.
    pub ask: Ask,
}

/// The changes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// The primary wants to acknowledge commits alone.
    Solo,
    /// The primary says that the standby has everything up to `wal`, and that no commit is acknowledged without it.
    Sync {
        /// The standby has flushed at least this.
        wal: Lsn,
    },
    /// The standby wants to become primary, because the primary is lost.
    Promote {
        /// The timeline it has followed.
        timeline: u32,
        /// The end of what it received.
        received: Lsn,
    },
    /// The promoted primary is writable and wants to open.
    Confirm {
        /// The timeline it has begun.
        timeline: u32,
    },
    /// The primary before an unconfirmed one wants its place back.
    Revoke {
        /// The epoch of its data.
        epoch: u32,
    },
    /// The primary is stopped and gives its place to the standby.
    Handover,
    /// An operator wants this host to be primary and accepts that acknowledged commits are lost.
    Force,
}

/// The arbiter's answer to a request. When the record is the request's change, [`Record::by`] is the request's nonce.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    /// The request.
    pub nonce: Nonce,
    /// Why nothing was changed.
    pub refused: Option<Refusal>,
    /// The record as it is now.
    pub record: Option<Record>,
}

/// Why the arbiter did not change the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The arbiter has lost its memory and waits for both data hosts, or for an operator.
    NoMemory,
    /// The record was changed by someone else.
    Stale,
    /// The request is not for the primary of the record, or only for it.
    WrongRole,
    /// The standby lacks acknowledged commits.
    NotInSync,
    /// The last promotion is not confirmed yet.
    Unconfirmed,
    /// The last promotion is confirmed already.
    Confirmed,
    /// The log of the host ends too early, or on another timeline.
    Behind,
    /// The arbiter has granted the primary a lease that may still run.
    LeaseRuns,
    /// The arbiter reaches the primary's PostgreSQL, or has not tried lately.
    StillAlive,
    /// The primary's fence time does not fit the arbiter's promote time.
    Timing,
    /// The promoted host is alive and may still confirm.
    PeerAlive,
}

impl Refusal {
    /// One sentence for people.
    pub fn why(self) -> &'static str {
        match self {
            Refusal::NoMemory => "the arbiter has lost its memory and waits for both data hosts",
            Refusal::Stale => "the record was changed by someone else in the meantime",
            Refusal::WrongRole => "the record does not give this host the role it asks from",
            Refusal::NotInSync => "the standby does not have all acknowledged commits",
            Refusal::Unconfirmed => "the last promotion is not confirmed yet",
            Refusal::Confirmed => "the last promotion is confirmed already",
            Refusal::Behind => "the log of this host ends too early or is of another timeline",
            Refusal::LeaseRuns => "a lease that the arbiter granted to the primary may still run",
            Refusal::StillAlive => "the arbiter reaches the primary, or cannot say that it does not",
            Refusal::Timing => "the primary's fence time does not fit the arbiter's promote time",
            Refusal::PeerAlive => "the promoted host is alive and may still confirm",
        }
    }
}

/// The host that a request is from.
impl Request {
    /// Who asks.
    pub fn from(&self) -> Site {
        self.nonce.site
    }
}
