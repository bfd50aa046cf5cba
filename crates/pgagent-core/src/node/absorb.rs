//! What events change in the state, before any decision.

use super::{Caught, Command, Config, Contact, Event, Node, Op, Phase, Resync, Role, Server, Up};
use crate::{Answer, Beat, Member, Message, Record, Reply, Stamp, Time, Want};

impl Node {
    /// Takes an event in. Gives back a beat that has to be answered, and whether with a lease.
    pub(super) fn absorb(&mut self, config: &Config, now: Time, event: Event) -> Option<(Beat, bool)> {
        match event {
            Event::Tick => {}
            Event::Observed(server) => self.observed(config, now, server),
            Event::Failed(op) => self.operation_failed(now, op),
            Event::Probed(probe) => self.probe = Some(probe),
            Event::Command(command) => self.command(now, command),
            Event::Received(Member::Data(site), Message::Beat(beat)) if site != config.me => {
                return self.beat(config, now, beat);
            }
            Event::Received(from, Message::Answer(answer)) if from != Member::Data(config.me) => {
                self.answered(config, now, from, answer);
            }
            Event::Received(Member::Arbiter, Message::Reply(reply)) => self.reply(now, reply),
            // Nobody sends these.
            Event::Received(..) => {}
        }
        None
    }

    fn observed(&mut self, config: &Config, now: Time, server: Server) {
        if self.op.take() == Some(Op::Copy) {
            self.durable.fresh = false;
        }
        match &server {
            Server::Up(up) if up.recovery => {
                self.failed = (0, now);
                self.caught = None;
                if up.receiver == super::Receiver::Streaming {
                    self.streamed = now;
                }
            }
            Server::Up(up) => {
                self.failed = (0, now);
                self.observed_primary(config, now, up);
            }
            Server::Absent | Server::Down { .. } | Server::Busy => {}
        }
        self.seen = Some(server);
    }

    fn observed_primary(&mut self, config: &Config, now: Time, up: &Up) {
        let before = self.caught.filter(|caught| caught.started == up.started);
        if before.is_none() {
            self.acked = now;
            self.resync = Resync::default();
        }
        let mut caught = before.unwrap_or(Caught { started: up.started, target: up.wal, done: false });
        caught.done |= !up.sync || up.standby.is_some_and(|it| it.sync && it.flush >= caught.target);
        self.caught = Some(caught);
        if let Some(standby) = up.standby {
            if standby.flush > self.flush || standby.flush >= up.wal {
                self.acked = now;
            }
            self.flush = standby.flush;
        }
        if self.phase != Phase::Resyncing || !up.sync {
            self.resync = Resync::default();
            return;
        }
        // A commit that looked at the setting before it changed passes alone. Once the change is settled everything
        // written so far has to be on the standby, because some of it may have been acknowledged.
        let since = *self.resync.since.get_or_insert(now);
        if now.past(since, config.timing.settle()) {
            let target = *self.resync.target.get_or_insert(up.wal);
            self.resync.ready = up.standby.is_some_and(|it| it.sync && it.flush >= target);
        }
    }

    fn operation_failed(&mut self, now: Time, op: Op) {
        if self.op == Some(op) {
            self.op = None;
            // What is left of it has to be looked at.
            self.seen = None;
            self.failed = (self.failed.0.saturating_add(1), now);
        }
    }

    fn command(&mut self, now: Time, command: Command) {
        match command {
            Command::Switchover => self.switchover = true,
            Command::Maintenance(on) => self.durable.maintenance = on,
            Command::Force => self.force = true,
            Command::Rejoin => {
                // Data that is not plainly a copy is not given up.
                if self.phase == Phase::Standby {
                    self.durable.role = Role::Rejoining;
                    self.durable.fresh = true;
                    self.phase = Phase::Starting;
                    self.since = now;
                }
            }
        }
    }

    /// The newest record wins, wherever it comes from: the arbiter persists each before anyone hears of it.
    fn learn(&mut self, incarnation: u64, record: Option<Record>) {
        let stamp = record.as_ref().map(|record| record.stamp).unwrap_or_default();
        let incarnation = incarnation.max(stamp.incarnation);
        if incarnation > self.durable.incarnation {
            // From here on nothing counts that an earlier incarnation was asked for.
            self.durable.incarnation = incarnation;
            self.pending = None;
            self.may_clear = None;
        }
        let known = self.record().map(|record| record.stamp).unwrap_or_default();
        if let Some(record) =
            record.filter(|_| stamp > known && stamp.incarnation == self.durable.incarnation)
        {
            self.settle_pending(&record);
            if self.durable.handover.is_some_and(|handover| stamp > handover) {
                self.durable.handover = None;
            }
            self.durable.record = Some(record);
            // The others hear of it at once, with what follows from it, and not only at the next beat.
            self.beat = None;
        }
    }

    /// A newer record is either what was asked for, or makes the request void.
    fn settle_pending(&mut self, record: &Record) {
        let Some(pending) = self.pending.filter(|pending| pending.stamp < record.stamp) else { return };
        if record.by == Some(pending.nonce) && pending.ask == crate::Ask::Solo {
            self.may_clear = Some(record.stamp);
        }
        self.pending = None;
    }

    fn beat(&mut self, config: &Config, now: Time, beat: Beat) -> Option<(Beat, bool)> {
        let order = (beat.session, beat.sent);
        if order <= self.peer.order {
            return None;
        }
        self.peer = Contact { heard: now, order, wal: beat.wal, timing: Some(beat.timing), ..self.peer };
        if beat.want == Want::Closed {
            self.peer.granted = None;
        }
        self.learn(beat.incarnation, beat.record.clone());
        let lease = self.grants(config, &beat);
        if lease {
            self.peer.granted = Some(now);
        }
        Some((beat, lease))
    }

    /// Whether this host helps the other one to stay open.
    fn grants(&self, config: &Config, beat: &Beat) -> bool {
        let theirs =
            self.record().is_some_and(|record| record.primary != config.me && record.epoch == beat.epoch);
        beat.want == Want::Lease && theirs && self.phase != Phase::Voting
    }

    fn answered(&mut self, config: &Config, now: Time, from: Member, answer: Answer) {
        if answer.session != self.durable.session {
            return;
        }
        let known = self.record().map(|record| record.stamp).unwrap_or_default();
        if from == Member::Arbiter {
            // An arbiter that asks for a claim is obeyed from now on, and none before it. Nobody is served until it has both.
            let asks_for = answer.token.map(|token| (answer.incarnation, token));
            if asks_for.is_some() && asks_for != self.claim_for {
                self.beat = None;
            }
            self.claim_for = asks_for;
        }
        self.learn(answer.incarnation, answer.record);
        if self.claim_for.is_some_and(|(incarnation, _)| {
            incarnation != self.durable.incarnation || known.incarnation >= incarnation
        }) {
            // It has to learn first that it lost its memory; the next beat says so.
            self.claim_for = None;
        }
        let void = self.void.is_some_and(|void| answer.sent <= void);
        let contact = if from == Member::Arbiter { &mut self.arbiter } else { &mut self.peer };
        contact.heard = now;
        contact.timing = Some(answer.timing);
        if from != Member::Arbiter {
            contact.wal = answer.wal;
        }
        if answer.lease && !void {
            contact.lease = contact.lease.max(Some(answer.sent + config.timing.fence()));
        }
    }

    fn reply(&mut self, now: Time, reply: Reply) {
        let ours = self.pending.is_some_and(|pending| pending.nonce == reply.nonce);
        let stamp = reply.record.as_ref().map_or(Stamp::default(), |record| record.stamp);
        self.arbiter.heard = now;
        self.learn(stamp.incarnation, reply.record);
        if let Some(refusal) = reply.refused.filter(|_| ours) {
            self.pending = None;
            self.refused = Some((refusal, now));
        }
    }
}
