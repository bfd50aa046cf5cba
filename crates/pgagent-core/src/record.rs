//! What the three hosts agree on: names, numbers, and the arbiter's record.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One of the two data hosts. Which of them is primary changes; this name does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Site {
    /// The data host that the configuration names first.
    One,
    /// The other one.
    Two,
}

impl Site {
    /// Both, in order.
    pub const ALL: [Site; 2] = [Site::One, Site::Two];

    /// The other data host.
    pub fn other(self) -> Site {
        match self {
            Site::One => Site::Two,
            Site::Two => Site::One,
        }
    }

    /// 0 or 1.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// One of the three hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Member {
    /// A host with data.
    Data(Site),
    /// The host with the record.
    Arbiter,
}

/// A position in the write-ahead log, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// Names one request for ever: the `count`-th of the `session`-th run of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Nonce {
    /// Who asked.
    pub site: Site,
    /// The run of its agent, counted in its state file.
    pub session: u64,
    /// The request in that run.
    pub count: u32,
}

/// Orders records: every change is a larger version, and an arbiter that lost its memory begins a larger incarnation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// How many times the arbiter began without memory.
    pub incarnation: u64,
    /// How many times the record changed.
    pub version: u64,
}

/// The one thing that decides who is primary. It lies on the arbiter's disk and is changed only by compare-and-swap on
/// [`Stamp`]; data hosts keep a copy of the newest they have seen.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Which of two records is newer.
    pub stamp: Stamp,
    /// PostgreSQL's system identifier: data of another cluster is never touched.
    pub system: u64,
    /// Counts primaries. A primary of an older epoch is none.
    pub epoch: u32,
    /// The primary of `epoch`.
    pub primary: Site,
    /// SYNC: the other host has every acknowledged commit and may be promoted. Not set, SOLO: the primary may
    /// acknowledge alone, and nobody may be promoted.
    pub in_sync: bool,
    /// The primary of `epoch` is writable and may have acknowledged commits. Until then its predecessor may take back
    /// its place.
    pub confirmed: bool,
    /// A host whose log ends before this position has lost data (a restored snapshot) and is not promoted.
    pub floor: Lsn,
    /// PostgreSQL's timeline of `epoch`.
    pub timeline: u32,
    /// How many promotions accepted the loss of data. Shown for ever.
    pub lossy: u32,
    /// The request that made this version, by which its sender recognises its own change.
    pub by: Option<Nonce>,
}
