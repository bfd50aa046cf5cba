//! What a phase keeps doing: beats, requests, operations on PostgreSQL, the gate.

use std::time::Duration;

use super::{Action, Config, Gate, Node, Op, Pending, Phase, Receiver, Role, Server};
use crate::{Answer, Ask, Beat, Claim, Durability, Lsn, Member, Message, Nonce, Request, Time, Want};

impl Node {
    /// Adds what is to be done now. The gate comes first: what closes it must not wait for anything.
    pub(super) fn upkeep(&mut self, config: &Config, now: Time, actions: &mut Vec<Action>) {
        self.keep_leases(now);
        self.keep_gate(config, now, actions);
        self.keep_server(config, now, actions);
        self.keep_asking(config, now, actions);
        self.keep_beating(config, now, actions);
    }

    /// What this host says about its port.
    fn want(&self) -> Want {
        match self.phase {
            Phase::Starting | Phase::Halted => Want::Nothing,
            phase if phase.serves() || phase == Phase::Confirming => Want::Lease,
            _ => Want::Closed,
        }
    }

    /// Who says that its port is closed must not be opened by an answer that is still on its way.
    fn keep_leases(&mut self, now: Time) {
        if self.want() == Want::Closed {
            self.void = Some(now);
            self.peer.lease = None;
            self.arbiter.lease = None;
        }
    }

    fn keep_gate(&mut self, config: &Config, now: Time, actions: &mut Vec<Action>) {
        let Some(wanted) = self.gate_wanted(config, now) else { return };
        let commanded = self.gate;
        // A lease that grew by next to nothing is not worth a transaction in the kernel; neither is a gate that stands open
        // and has most of its time left.
        let grain = match self.phase {
            Phase::Starting | Phase::Standby | Phase::Voting => config.timing.fence() / 2,
            _ => config.timing.heartbeat() / 4,
        };
        let differs = |was: Option<Time>, is: Option<Time>| match (was, is) {
            (Some(was), Some(is)) => is < was || is.since(was) >= grain,
            (was, is) => was.is_some() != is.is_some(),
        };
        let changed = commanded
            .is_none_or(|was| differs(was.peers, wanted.peers) || differs(was.clients, wanted.clients));
        if changed {
            self.gate = Some(wanted);
            actions.push(Action::Gate(wanted));
        }
    }

    /// `None`: leave it to the kernel.
    fn gate_wanted(&self, config: &Config, now: Time) -> Option<Gate> {
        let standing = Some(now + config.timing.fence());
        let live = |until: Option<Time>| until.filter(|until| *until > now);
        Some(match self.phase {
            // A cluster that never had a record: the standby must be able to copy. Nobody is served.
            Phase::Starting if self.record().is_none() => Gate { peers: standing, clients: None },
            Phase::Starting => return None,
            // A standby serves reads.
            Phase::Standby | Phase::Voting if self.up().is_some_and(|up| up.recovery) => {
                Gate { peers: standing, clients: standing }
            }
            // The standby has to get the rest.
            Phase::Draining => {
                Gate { peers: live(Some(self.since + Self::drain_limit(config))), clients: None }
            }
            // The first record of a cluster: its standby may be connecting right now, and must not be cut off until the first lease
            // comes. Nobody is served, and the kernel closes the port when the time is over that was given before.
            phase if phase.serves() && self.is_first() && self.copies_may_run(now) => return None,
            phase if phase.serves() || phase == Phase::Confirming => {
                let peers = live(self.lease());
                Gate { peers, clients: peers.filter(|_| self.may_open(config, now)) }
            }
            _ => Gate::default(),
        })
    }

    /// Whether there was never a lease, and never another epoch.
    fn is_first(&self) -> bool {
        self.lease().is_none() && self.record().is_some_and(|record| record.epoch == 1)
    }

    /// Whether the port still stands open as it does before a cluster has a record.
    fn copies_may_run(&self, now: Time) -> bool {
        self.gate.is_some_and(|gate| gate.clients.is_none() && gate.peers.is_some_and(|until| until > now))
    }

    /// How long a switchover may take until it is given up, with the port closed.
    pub(super) fn drain_limit(config: &Config) -> Duration {
        config.timing.promote() * 2
    }

    fn keep_server(&mut self, config: &Config, now: Time, actions: &mut Vec<Action>) {
        let patience = if self.failed.0 <= 1 { config.timing.heartbeat() } else { config.timing.promote() };
        if self.failed.0 > 0 && !now.past(self.failed.1, patience) {
            return;
        }
        let Some(op) = self.server().and_then(|server| self.op_wanted(config, server)) else { return };
        self.op = Some(op);
        actions.push(Action::Server(op));
    }

    fn op_wanted(&self, config: &Config, server: &Server) -> Option<Op> {
        let record = self.record();
        let mine = record.is_some_and(|record| record.primary == config.me);
        match (self.phase, server) {
            (Phase::Halted, _) | (_, Server::Busy) => None,
            // The primary has seen it stream, so the copy is complete.
            (Phase::Rejoining, Server::Down { standby: true, .. })
                if mine || !self.durable.fresh && record.is_some_and(|record| record.in_sync) =>
            {
                Some(Op::Start)
            }
            // A standby that is gone is not in sync any more, and only then is its data nobody's.
            (Phase::Rejoining, Server::Up(_)) if self.durable.fresh && !mine => Some(Op::Stop),
            (Phase::Rejoining, _) => record
                .is_some_and(|record| !mine && record.confirmed && !record.in_sync)
                .then_some(if self.durable.fresh { Op::Copy } else { Op::Rejoin }),
            (_, Server::Absent) => None,
            (Phase::Starting, Server::Down { .. }) => {
                (record.is_none() || mine || self.durable.role == Role::Standby).then_some(Op::Start)
            }
            // It may have been told to be primary, and would become so with its port open for reads.
            (Phase::Starting | Phase::Promoting, Server::Up(up))
                if up.recovery && !mine && record.is_some() && self.durable.role == Role::Primary =>
            {
                Some(Op::Stop)
            }
            (Phase::Starting, Server::Up(_)) => None,
            (Phase::Standby | Phase::Voting, Server::Down { standby: false, .. }) => Some(Op::Follow),
            (Phase::Standby | Phase::Voting, Server::Down { .. }) => Some(Op::Start),
            (Phase::Standby, Server::Up(up)) => {
                (up.recovery && up.receiver == Receiver::Off).then_some(Op::Follow)
            }
            (Phase::Voting, Server::Up(up)) => {
                (up.recovery && up.receiver != Receiver::Off).then_some(Op::StopReceiver)
            }
            (Phase::Promoting, Server::Up(up)) if up.recovery => {
                let sync = config.durability == Durability::MaxProtection;
                if up.wal < record.map_or(Lsn(0), |record| record.floor) {
                    None
                } else if up.receiver != Receiver::Off {
                    Some(Op::StopReceiver)
                } else if up.sync != sync {
                    Some(Op::SetSync(sync))
                } else {
                    Some(Op::Promote)
                }
            }
            (Phase::Draining, Server::Up(_)) => self.drained().then_some(Op::Stop),
            (Phase::Draining, Server::Down { .. }) => None,
            (Phase::HandingOver, Server::Up(_)) => Some(Op::Stop),
            (Phase::HandingOver, Server::Down { .. }) => None,
            (Phase::Superseded, Server::Up(_)) => {
                record.is_some_and(|record| record.confirmed).then_some(Op::Stop)
            }
            (Phase::Superseded, Server::Down { .. }) => None,
            (_, Server::Down { .. }) => Some(Op::Start),
            (Phase::Resyncing, Server::Up(up)) => (!up.sync).then_some(Op::SetSync(true)),
            (Phase::Solo, Server::Up(up)) => (up.sync && self.clears(config)).then_some(Op::SetSync(false)),
            (Phase::Sync, Server::Up(up)) => (!up.sync).then_some(Op::SetSync(true)),
            (Phase::Promoting | Phase::Confirming | Phase::Degrading, Server::Up(_)) => None,
        }
    }

    /// Whether commits may pass without the standby: the arbiter has recorded that it lacks them, at this host's own
    /// request, and nothing has changed the record since. A request of an earlier run that is still on its way could
    /// set SYNC again; that change has made it void.
    fn clears(&self, config: &Config) -> bool {
        config.durability == Durability::MaxAvailability
            && self.may_clear.is_some()
            && self.may_clear == self.record().map(|record| record.stamp)
    }

    /// The standby has everything, and has replayed it: what is left is the shutdown itself.
    fn drained(&self) -> bool {
        self.up().is_some_and(|up| {
            up.standby.is_some_and(|it| it.sync && it.flush >= up.wal && it.replay >= up.wal)
        })
    }

    fn keep_asking(&mut self, config: &Config, now: Time, actions: &mut Vec<Action>) {
        let Some(ask) = self.ask_wanted(config) else {
            self.pending = None;
            return;
        };
        let Some(stamp) = self.record().map(|record| record.stamp) else { return };
        let heartbeat = config.timing.heartbeat();
        let pending = match self.pending {
            // The very same again: its effect is that of one.
            Some(pending) if std::mem::discriminant(&pending.ask) == std::mem::discriminant(&ask) => {
                if !now.past(pending.sent, heartbeat) {
                    return;
                }
                Pending { sent: now, ..pending }
            }
            _ => {
                if self.refused.is_some_and(|(_, at)| !now.past(at, heartbeat / 2)) {
                    return;
                }
                if let Ask::Revoke { epoch } = ask {
                    self.durable.revoke = Some(epoch + 1);
                }
                self.count += 1;
                let nonce = Nonce { site: config.me, session: self.durable.session, count: self.count };
                Pending { nonce, stamp, ask, sent: now }
            }
        };
        self.pending = Some(pending);
        let request = Request { nonce: pending.nonce, stamp: pending.stamp, ask: pending.ask };
        actions.push(Action::Send(Member::Arbiter, Message::Request(request)));
    }

    fn ask_wanted(&self, config: &Config) -> Option<Ask> {
        let record = self.record()?;
        let mine = record.primary == config.me;
        if self.force && (!mine || record.confirmed) {
            return Some(Ask::Force);
        }
        match self.phase {
            Phase::Voting => {
                let up = self.up().filter(|up| up.recovery && up.receiver == Receiver::Off)?;
                Some(Ask::Promote { timeline: up.timeline, received: up.wal })
            }
            Phase::Confirming => {
                let up = self.up().filter(|up| !up.recovery)?;
                Some(Ask::Confirm { timeline: up.timeline })
            }
            Phase::Degrading => Some(Ask::Solo),
            Phase::Resyncing if self.resync.ready => Some(Ask::Sync { wal: self.resync.target? }),
            Phase::HandingOver => match self.server()? {
                Server::Down { .. } => Some(Ask::Handover),
                _ => None,
            },
            Phase::Superseded if !record.confirmed && self.durable.role == Role::Primary => {
                Some(Ask::Revoke { epoch: self.durable.epoch })
            }
            _ => None,
        }
    }

    /// Beats before it is due, and puts the next beat off by half of its time: leases last longer than that by far. For a host that is about to
    /// be paused, and has the least time when it goes on.
    pub fn beat_ahead(&mut self, config: &Config, now: Time) -> Vec<Action> {
        let mut actions = Vec::new();
        self.beat = None;
        self.keep_beating(config, now, &mut actions);
        self.beat = Some(now + config.timing.heartbeat() / 2);
        actions
    }

    fn keep_beating(&mut self, config: &Config, now: Time, actions: &mut Vec<Action>) {
        if self.beat.is_some_and(|at| !now.past(at, config.timing.heartbeat())) {
            return;
        }
        self.beat = Some(now);
        let claim = self.claim();
        let beat = Beat {
            session: self.durable.session,
            sent: now,
            want: self.want(),
            epoch: self.durable.epoch,
            incarnation: self.durable.incarnation,
            record: self.durable.record.clone(),
            claim: None,
            wal: self.wal(),
            timing: config.timing,
        };
        actions.push(Action::Send(Member::Data(config.me.other()), Message::Beat(beat.clone())));
        actions.push(Action::Send(Member::Arbiter, Message::Beat(Beat { claim, ..beat })));
    }

    fn claim(&self) -> Option<Claim> {
        let (incarnation, token) = self.claim_for?;
        // What the data is does not change while the server starts: the others need not wait for that.
        let server = if self.op == Some(Op::Start) { self.seen.as_ref() } else { self.server() };
        let (system, standby, timeline) = match server? {
            Server::Up(up) => (up.system, up.recovery, up.timeline),
            Server::Down { system, standby, timeline, .. } => (*system, *standby, *timeline),
            Server::Absent => self.record().map(|record| (record.system, true, record.timeline))?,
            Server::Busy => return None,
        };
        Some(Claim { incarnation, token, record: self.durable.record.clone(), system, standby, timeline })
    }

    /// The end of the log, as far as known.
    fn wal(&self) -> Lsn {
        match &self.seen {
            Some(Server::Up(up)) => up.wal,
            Some(Server::Down { wal, .. }) => *wal,
            _ => Lsn(0),
        }
    }

    /// The answer to the other data host's beat.
    pub(super) fn answer(&self, config: &Config, beat: &Beat, lease: bool) -> Action {
        let answer = Answer {
            session: beat.session,
            sent: beat.sent,
            lease,
            incarnation: self.durable.incarnation,
            token: None,
            record: self.durable.record.clone(),
            wal: self.wal(),
            timing: config.timing,
        };
        Action::Send(Member::Data(config.me.other()), Message::Answer(answer))
    }
}
