//! The failover machine of pgprov: two hosts with data and an arbiter.
//!
//! Everything here is a function of its arguments. A data host is a [`node::Node`], the arbiter an
//! [`arbiter::Arbiter`]; `step(config, state, now, event)` of either gives the next state and what is to be done, in
//! that order: a state is persisted before anything is done because of it. The agent, the model checker and the
//! simulator run this same code.
//!
//! What may never happen: an acknowledged commit is lost. For that no clock is needed. A primary acknowledges commits
//! alone only after the arbiter has recorded that the standby lacks them ([`message::Ask::Solo`]); a standby is promoted
//! only by a change of the arbiter's record, which is refused while it lacks something; and a promoted host opens only
//! after another change ([`message::Ask::Confirm`]), until which its predecessor may take back its place. Changes are
//! compare-and-swap, and their senders recognise them by nonces.
//!
//! Leases bound how long an isolated primary stays open; they are what needs clocks. See [`timing`].

pub mod arbiter;
pub mod diagram;
pub mod explain;
pub mod message;
pub mod node;
pub mod record;
pub mod time;
pub mod timing;

pub use message::{Answer, Ask, Beat, Claim, Message, Refusal, Reply, Request, Want};
pub use record::{Lsn, Member, Nonce, Record, Site, Stamp};
pub use time::Time;
pub use timing::{Rto, Timing};

/// Whether to prefer the safety of data or the service, in the words of Oracle Data Guard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Without a standby commits wait: nothing is ever acknowledged that lies on one host only.
    MaxProtection,
    /// Without a standby the primary goes on alone, once the arbiter has recorded it.
    #[default]
    MaxAvailability,
}

/// What a try to reach a host's PostgreSQL showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Probe {
    /// When the try ended.
    pub at: Time,
    /// `select 1` was answered, or refused for a reason that only a living server has.
    pub alive: bool,
}

impl Probe {
    /// Whether this says, and not too long ago, that the server cannot be reached.
    pub fn says_dead(&self, now: Time, timing: &Timing) -> bool {
        !self.alive && !now.past(self.at, timing.fence())
    }
}
