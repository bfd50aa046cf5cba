//! The questions that the conditions of the table ask.

use super::{Config, Node, Receiver, Role, Server};
use crate::{Durability, Record, Time, Timing};

/// What conditions look at.
pub struct View<'a> {
    /// The host's configuration.
    pub config: &'a Config,
    /// The host.
    pub node: &'a Node,
    /// The time.
    pub now: Time,
}

impl View<'_> {
    pub(super) fn record(&self) -> Option<&Record> {
        self.node.record()
    }

    pub(super) fn mine(&self) -> bool {
        self.record().is_some_and(|record| record.primary == self.config.me)
    }

    pub(super) fn mine_confirmed(&self) -> bool {
        self.mine() && self.record().is_some_and(|record| record.confirmed)
    }

    pub(super) fn mine_unconfirmed(&self) -> bool {
        self.mine() && self.record().is_some_and(|record| !record.confirmed)
    }

    pub(super) fn theirs(&self) -> bool {
        self.record().is_some_and(|record| record.primary != self.config.me)
    }

    pub(super) fn theirs_confirmed(&self) -> bool {
        self.theirs() && self.record().is_some_and(|record| record.confirmed)
    }

    pub(super) fn in_sync(&self) -> bool {
        self.record().is_some_and(|record| record.in_sync)
    }

    pub(super) fn system(&self) -> Option<u64> {
        match self.node.server()? {
            Server::Up(up) => Some(up.system),
            Server::Down { system, .. } => Some(*system),
            Server::Absent | Server::Busy => None,
        }
    }

    pub(super) fn server_known(&self) -> bool {
        self.system().is_some()
    }

    pub(super) fn up(&self) -> bool {
        self.node.up().is_some()
    }

    pub(super) fn down(&self) -> bool {
        matches!(self.node.server(), Some(Server::Down { .. }))
    }

    pub(super) fn clean(&self) -> bool {
        matches!(self.node.server(), Some(Server::Down { clean: true, .. }))
    }

    pub(super) fn absent(&self) -> bool {
        matches!(self.node.server(), Some(Server::Absent))
    }

    pub(super) fn is_standby(&self) -> bool {
        match self.node.server() {
            Some(Server::Up(up)) => up.recovery,
            Some(Server::Down { standby, .. }) => *standby,
            _ => false,
        }
    }

    /// A server in recovery that this agent, or one before it, has told to be primary: it may become so at any moment. Only a
    /// stop takes the order back.
    pub(super) fn may_be_promoted_yet(&self) -> bool {
        self.node.durable.role == Role::Primary && self.up() && self.is_standby()
    }

    pub(super) fn is_primary(&self) -> bool {
        self.server_known() && !self.is_standby()
    }

    pub(super) fn data_is_primarys(&self) -> bool {
        let Node { durable, .. } = self.node;
        let epoch = self.record().map_or(0, |record| record.epoch);
        let taken_back = durable.revoke.is_some_and(|revoked| revoked + 1 == epoch);
        durable.role == Role::Primary && (epoch == durable.epoch || taken_back) && self.is_primary()
    }

    /// A cluster that just got its first record, or a state file that was lost while the data was not.
    pub(super) fn first_primary(&self) -> bool {
        let timeline = self.node.up().map(|up| up.timeline);
        self.node.durable.role == Role::Unset
            && self.is_primary()
            && timeline.is_some()
            && timeline == self.record().map(|record| record.timeline)
    }

    pub(super) fn standby_up(&self) -> bool {
        let floor = self.record().map(|record| record.floor).unwrap_or_default();
        self.node.up().is_some_and(|up| up.recovery && up.wal >= floor)
    }

    /// It streams, or has streamed: who hands over has seen that.
    pub(super) fn rejoined(&self) -> bool {
        let follows = |up: &super::Up| up.receiver == Receiver::Streaming && !self.node.durable.fresh;
        self.node.up().is_some_and(|up| up.recovery && (follows(up) || self.mine()))
    }

    pub(super) fn sync_set(&self) -> bool {
        self.node.up().is_some_and(|up| up.sync)
    }

    /// It is there, and not only in the eyes of a walsender that has not noticed yet: it keeps up, and its agent is heard.
    pub(super) fn standby_streams(&self) -> bool {
        self.node.up().is_some_and(|up| up.standby.is_some()) && !self.standby_lost() && self.hears_peer()
    }

    pub(super) fn standby_acknowledges(&self) -> bool {
        self.node.up().is_some_and(|up| up.standby.is_some_and(|standby| standby.sync))
    }

    /// Only a running server can say so: one that restarts would lose its standby the right to replace it.
    pub(super) fn standby_lost(&self) -> bool {
        self.up() && self.now.past(self.node.acked, self.config.timing.sync_loss())
    }

    pub(super) fn degrades(&self) -> bool {
        self.up() && self.config.durability == Durability::MaxAvailability
    }

    pub(super) fn hears_peer(&self) -> bool {
        !self.now.past(self.node.peer.heard, self.config.timing.fence())
    }

    pub(super) fn hears_arbiter(&self) -> bool {
        !self.now.past(self.node.arbiter.heard, self.config.timing.fence())
    }

    /// Nothing was heard for the promote time, and no lease granted here runs any more. Both count from the start of the
    /// agent at the earliest.
    pub(super) fn peer_lost(&self) -> bool {
        let promote = self.config.timing.promote();
        self.now.past(self.node.peer.heard, promote)
            && self.node.peer.granted.is_none_or(|at| self.now.past(at, promote))
    }

    pub(super) fn probe_says_dead(&self) -> bool {
        self.node.probe.is_some_and(|probe| probe.says_dead(self.now, &self.config.timing))
    }

    pub(super) fn peer_timing_fits(&self) -> bool {
        let theirs = self.node.peer.timing;
        theirs.is_none_or(|theirs| Timing::fits(theirs.fence, self.config.timing.promote))
    }

    pub(super) fn shut_down_and_received(&self) -> bool {
        match self.node.server() {
            Some(Server::Down { clean: true, wal, .. }) => self.node.peer.wal >= *wal,
            _ => false,
        }
    }
}
