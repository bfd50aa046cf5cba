//! The transitions of a data host. docs/failover.md is drawn from this table.

use super::{Node, Resync, Role, view::View};
use crate::Time;

/// What a data host is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Finds out what it is.
    Starting,
    /// Follows the primary.
    Standby,
    /// Has stopped following, refuses the primary leases, and asks to be promoted.
    Voting,
    /// Was chosen: makes its PostgreSQL primary.
    Promoting,
    /// Is writable, and asks for leave to open.
    Confirming,
    /// Primary with a synchronous standby.
    Sync,
    /// Primary that waits for leave to go on alone.
    Degrading,
    /// Primary that acknowledges commits alone.
    Solo,
    /// Primary whose standby catches up.
    Resyncing,
    /// Primary that is closed and lets the standby get everything, for a switchover.
    Draining,
    /// Stopped primary that gives its place to the standby.
    HandingOver,
    /// Closed: another host was chosen.
    Superseded,
    /// Replaces its data by a copy of the new primary's.
    Rejoining,
    /// Does nothing: its data belongs to another cluster.
    Halted,
}

impl Phase {
    /// All, in the order of the diagram.
    pub const ALL: [Phase; 14] = [
        Phase::Starting,
        Phase::Standby,
        Phase::Voting,
        Phase::Promoting,
        Phase::Confirming,
        Phase::Sync,
        Phase::Degrading,
        Phase::Solo,
        Phase::Resyncing,
        Phase::Draining,
        Phase::HandingOver,
        Phase::Superseded,
        Phase::Rejoining,
        Phase::Halted,
    ];

    /// Whether clients may be served here, if all else is right.
    pub fn serves(self) -> bool {
        matches!(self, Phase::Sync | Phase::Degrading | Phase::Solo | Phase::Resyncing)
    }

    /// Its name in logs, metrics and diagrams.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Standby => "standby",
            Phase::Voting => "voting",
            Phase::Promoting => "promoting",
            Phase::Confirming => "confirming",
            Phase::Sync => "sync",
            Phase::Degrading => "degrading",
            Phase::Solo => "solo",
            Phase::Resyncing => "resyncing",
            Phase::Draining => "draining",
            Phase::HandingOver => "handing-over",
            Phase::Superseded => "superseded",
            Phase::Rejoining => "rejoining",
            Phase::Halted => "halted",
        }
    }
}

/// A transition: from one of `from`, when `when` holds, to `to`.
pub struct Row {
    /// Where it may begin.
    pub from: &'static [Phase],
    /// Where it leads.
    pub to: Phase,
    /// A few words for the diagram.
    pub name: &'static str,
    /// A sentence for people.
    pub why: &'static str,
    /// The condition.
    pub when: fn(&View<'_>) -> bool,
}

impl PartialEq for Row {
    fn eq(&self, other: &Row) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Row {}

impl std::hash::Hash for Row {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.name, self.to).hash(state);
    }
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Row({} -> {})", self.name, self.to.name())
    }
}

/// All transitions. The first that holds is followed.
pub static TABLE: &[Row] = &[
    Row {
        from: &[
            Phase::Starting,
            Phase::Standby,
            Phase::Voting,
            Phase::Promoting,
            Phase::Confirming,
            Phase::Sync,
            Phase::Degrading,
            Phase::Solo,
            Phase::Resyncing,
            Phase::Superseded,
        ],
        to: Phase::Halted,
        name: "foreign data",
        why: "the system identifier of PostgreSQL is not the record's: this data belongs to another cluster and is not touched",
        when: |v| v.record().zip(v.system()).is_some_and(|(record, system)| record.system != system),
    },
    // What am I?
    Row {
        from: &[Phase::Starting],
        to: Phase::HandingOver,
        name: "handover open",
        why: "a handover was asked for before the agent restarted, and its outcome is not known yet",
        when: |v| v.mine_confirmed() && v.node.durable.handover.is_some() && v.server_known(),
    },
    Row {
        from: &[Phase::Starting],
        to: Phase::Promoting,
        name: "was chosen",
        why: "the record names this host primary of an epoch that is not confirmed yet",
        when: |v| v.mine_unconfirmed() && v.server_known() && v.node.durable.role != Role::Rejoining,
    },
    Row {
        from: &[Phase::Starting],
        to: Phase::Resyncing,
        name: "still primary",
        why: "the record names this host primary of the epoch that its data is of",
        when: |v| v.mine_confirmed() && v.server_known() && (v.data_is_primarys() || v.first_primary()),
    },
    Row {
        from: &[Phase::Starting],
        to: Phase::Rejoining,
        name: "copy unfinished",
        why: "a rejoin was begun and did not end before the agent restarted",
        when: |v| v.record().is_some() && v.node.durable.role == Role::Rejoining,
    },
    Row {
        from: &[Phase::Starting],
        to: Phase::Standby,
        name: "still standby",
        why: "the record names the other host primary, and the data here is a standby's, which nothing can promote any more",
        when: |v| {
            v.theirs()
                && v.node.durable.role != Role::Rejoining
                && (v.is_standby() || v.absent())
                && !v.may_be_promoted_yet()
        },
    },
    Row {
        from: &[Phase::Starting],
        to: Phase::Superseded,
        name: "no longer primary",
        why: "the record names the other host primary, and the data here is a primary's",
        when: |v| v.theirs() && v.node.durable.role != Role::Rejoining && v.is_primary(),
    },
    // Standby.
    Row {
        from: &[Phase::Standby, Phase::Voting],
        to: Phase::Promoting,
        name: "was chosen",
        why: "the arbiter recorded this host as primary of a new epoch",
        when: |v| v.mine_unconfirmed() && (v.is_standby() || v.is_primary()),
    },
    Row {
        from: &[Phase::Standby, Phase::Voting],
        to: Phase::Superseded,
        name: "promoted by hand",
        why: "PostgreSQL was promoted without a change of the record: the host is closed and will follow again",
        when: |v| v.theirs() && v.is_primary() && v.up(),
    },
    Row {
        from: &[Phase::Standby],
        to: Phase::Rejoining,
        name: "cannot follow",
        why: "the primary lives, yet nothing was streamed from it for four promote times, or there is no data here",
        when: |v| {
            let patience = v.config.timing.promote() * 4;
            let stuck =
                v.now.past(v.node.streamed, patience) && v.now.past(v.node.since, patience) && v.is_standby();
            v.theirs_confirmed() && !v.in_sync() && v.hears_peer() && (stuck || v.absent())
        },
    },
    Row {
        from: &[Phase::Standby],
        to: Phase::Voting,
        name: "primary lost",
        why: "no beat of the primary came for the promote time, its PostgreSQL does not answer, the arbiter does, and this \
              standby has every acknowledged commit",
        when: |v| {
            v.theirs_confirmed()
                && v.in_sync()
                && !v.node.durable.maintenance
                && v.peer_lost()
                && v.probe_says_dead()
                && v.hears_arbiter()
                && v.peer_timing_fits()
                && v.standby_up()
        },
    },
    Row {
        from: &[Phase::Voting],
        to: Phase::Standby,
        name: "vote over",
        why: "the primary is heard again, or the arbiter is not, or this standby may not be promoted any more",
        when: |v| {
            !v.theirs_confirmed() && !v.mine()
                || v.theirs()
                    && (!v.in_sync() || v.node.durable.maintenance || v.hears_peer() || !v.hears_arbiter())
        },
    },
    // A new primary.
    Row {
        from: &[Phase::Promoting],
        to: Phase::Confirming,
        name: "writable",
        why: "PostgreSQL is primary now; nobody reaches it before the arbiter has confirmed the epoch",
        when: |v| v.mine() && v.is_primary() && v.up(),
    },
    Row {
        from: &[Phase::Promoting],
        to: Phase::Standby,
        name: "revoked in time",
        why: "the other host took its place back before PostgreSQL was promoted here, and it was stopped, so that it will not be",
        when: |v| v.theirs() && v.is_standby() && !v.may_be_promoted_yet(),
    },
    Row {
        from: &[Phase::Promoting, Phase::Confirming],
        to: Phase::Superseded,
        name: "revoked",
        why: "the other host took its place back before this one was confirmed",
        when: |v| v.theirs() && v.is_primary(),
    },
    Row {
        from: &[Phase::Confirming],
        to: Phase::Solo,
        name: "confirmed",
        why: "the arbiter confirmed the epoch: this host opens, alone until the other one has rejoined",
        when: |v| v.mine_confirmed() && v.up() && !v.in_sync() && !v.sync_set(),
    },
    Row {
        from: &[Phase::Confirming],
        to: Phase::Resyncing,
        name: "confirmed, protected",
        why: "the arbiter confirmed the epoch: this host opens, and commits wait for the standby",
        when: |v| v.mine_confirmed() && v.up() && v.sync_set(),
    },
    // A primary that is none any more.
    Row {
        from: &[Phase::Sync, Phase::Degrading, Phase::Solo, Phase::Resyncing, Phase::Draining],
        to: Phase::Superseded,
        name: "another primary",
        why: "the record names the other host primary: this one is closed",
        when: |v| v.theirs(),
    },
    // Primary.
    Row {
        from: &[Phase::Sync],
        to: Phase::Resyncing,
        name: "no longer in sync",
        why: "the record says SOLO: an earlier request arrived late, or the arbiter had lost its memory",
        when: |v| !v.in_sync(),
    },
    Row {
        from: &[Phase::Sync, Phase::Resyncing],
        to: Phase::HandingOver,
        name: "server is broken",
        why: "PostgreSQL does not start any more and the standby has every acknowledged commit: it takes over at once",
        when: |v| v.in_sync() && v.down() && v.node.failed.0 >= 2 && !v.node.durable.maintenance,
    },
    Row {
        from: &[Phase::Sync],
        to: Phase::Draining,
        name: "switchover",
        why: "the operator wants a switchover: the port is closed and the standby gets what is left",
        when: |v| {
            v.node.switchover && v.up() && v.standby_acknowledges() && v.hears_arbiter() && v.hears_peer()
        },
    },
    Row {
        from: &[Phase::Sync, Phase::Resyncing],
        to: Phase::Degrading,
        name: "standby lost",
        why: "the standby has owed an acknowledgement for too long, or the operator works on it: ask to go on alone",
        when: |v| v.degrades() && (v.standby_lost() || v.node.durable.maintenance),
    },
    Row {
        from: &[Phase::Degrading],
        to: Phase::Solo,
        name: "alone",
        why: "the arbiter recorded that the standby lacks commits from here on: they are acknowledged without it",
        when: |v| v.mine_confirmed() && v.node.may_clear.is_some() && !v.in_sync(),
    },
    Row {
        from: &[Phase::Degrading],
        to: Phase::Resyncing,
        name: "standby is back",
        why: "the standby acknowledges again before the arbiter has answered",
        when: |v| v.up() && !v.standby_lost() && !v.node.durable.maintenance,
    },
    Row {
        from: &[Phase::Solo],
        to: Phase::Resyncing,
        name: "standby streams",
        why: "the standby streams again: commits wait for it from here on",
        when: |v| v.up() && v.standby_streams() && !v.node.durable.maintenance,
    },
    Row {
        from: &[Phase::Resyncing],
        to: Phase::Sync,
        name: "in sync",
        why: "the standby has everything, and the arbiter recorded that it may be promoted",
        when: |v| v.in_sync() && v.sync_set(),
    },
    Row {
        from: &[Phase::Resyncing],
        to: Phase::Solo,
        name: "alone already",
        why: "the standby is not named in synchronous_standby_names, and is not there",
        when: |v| v.up() && v.degrades() && !v.in_sync() && !v.sync_set() && !v.standby_streams(),
    },
    // Switchover.
    Row {
        from: &[Phase::Draining],
        to: Phase::HandingOver,
        name: "stopped",
        why: "PostgreSQL is shut down cleanly and the standby has the end of its log",
        when: |v| v.in_sync() && v.shut_down_and_received(),
    },
    Row {
        from: &[Phase::Draining],
        to: Phase::Resyncing,
        name: "given up",
        why: "the standby did not get everything in time: this host opens again",
        when: |v| {
            let over = v.now.past(v.node.since, Node::drain_limit(v.config));
            (over || !v.in_sync()) && v.node.op.is_none()
        },
    },
    Row {
        from: &[Phase::HandingOver],
        to: Phase::Standby,
        name: "handed over",
        why: "the arbiter recorded the other host as primary; it has everything, so this one follows as it is",
        when: |v| v.theirs_confirmed() && v.clean(),
    },
    Row {
        from: &[Phase::HandingOver],
        to: Phase::Superseded,
        name: "successor lost",
        why: "the host that was to take over is not heard any more and never opened: ask for the place back",
        when: |v| v.theirs() && !v.theirs_confirmed() && v.clean() && v.peer_lost(),
    },
    Row {
        from: &[Phase::HandingOver],
        to: Phase::Superseded,
        name: "released",
        why: "the arbiter recorded the other host as primary",
        when: |v| v.theirs() && v.server_known() && !v.clean(),
    },
    Row {
        from: &[Phase::HandingOver],
        to: Phase::Resyncing,
        name: "not handed over",
        why: "the record was changed by something else, or does not allow it: this host is still primary and opens again",
        when: |v| v.mine_confirmed() && (v.node.durable.handover.is_none() || !v.in_sync()),
    },
    // Superseded.
    Row {
        from: &[Phase::Superseded],
        to: Phase::Resyncing,
        name: "place taken back",
        why: "the chosen host vanished before it was confirmed; this one has every acknowledged commit and is primary again",
        when: |v| v.mine_confirmed() && v.data_is_primarys(),
    },
    Row {
        from: &[Phase::Superseded],
        to: Phase::Promoting,
        name: "chosen again",
        why: "an operator made this host primary although commits may be lost",
        when: |v| v.mine_unconfirmed() && v.server_known(),
    },
    Row {
        from: &[Phase::Superseded],
        to: Phase::Rejoining,
        name: "rejoin",
        why: "the other host is primary and confirmed, and PostgreSQL is stopped here: its data becomes a copy",
        when: |v| v.theirs_confirmed() && !v.in_sync() && (v.down() || v.absent()),
    },
    Row {
        from: &[Phase::Rejoining],
        to: Phase::Standby,
        name: "rejoined",
        why: "the copy is complete and PostgreSQL follows the primary",
        when: |v| v.rejoined(),
    },
];

impl Node {
    /// Follows a row: what changes with the phase.
    pub(super) fn enter(&mut self, row: &Row, now: Time) {
        let from = self.phase;
        self.phase = row.to;
        self.since = now;
        self.pending = None;
        self.resync = Resync::default();
        // What changed is said at once: a lease that is wanted now should not wait for the next heartbeat.
        self.beat = None;
        let epoch = self.record().map_or(0, |record| record.epoch);
        let stamp = self.record().map(|record| record.stamp);
        match row.to {
            Phase::Promoting => {
                self.durable.role = Role::Primary;
                self.durable.epoch = epoch;
                self.force = false;
            }
            // From the state of a cluster that never had a record, or with the place taken back.
            Phase::Resyncing if matches!(from, Phase::Starting | Phase::Superseded) => {
                self.durable.role = Role::Primary;
                self.durable.epoch = epoch;
                self.acked = now;
            }
            Phase::Resyncing => {
                self.acked = now;
                self.durable.handover = None;
            }
            Phase::Standby => {
                self.durable.role = Role::Standby;
                self.durable.fresh = false;
                self.streamed = now;
            }
            Phase::Rejoining => {
                self.durable.role = Role::Rejoining;
                self.durable.revoke = None;
            }
            Phase::HandingOver => self.durable.handover = self.durable.handover.or(stamp),
            _ => {}
        }
        if row.to == Phase::Degrading || !row.to.serves() {
            self.may_clear = None;
        }
        if row.to != Phase::Sync && row.to != Phase::Draining && row.to != Phase::Resyncing {
            self.switchover = false;
        }
        if row.to == Phase::Resyncing && from == Phase::Draining {
            self.switchover = false;
        }
    }
}
