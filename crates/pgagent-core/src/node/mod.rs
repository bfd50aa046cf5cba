//! A host with data: what it knows, what happens to it, what it does.
//!
//! [`step`] takes in an event (`absorb`), follows the transitions of [`table::TABLE`] that hold now, and does what the
//! phase it is in wants done (`upkeep`).

mod absorb;
pub mod server;
pub mod table;
mod upkeep;
mod view;

use serde::{Deserialize, Serialize};

use crate::{Ask, Durability, Lsn, Message, Nonce, Probe, Record, Refusal, Site, Stamp, Time, Timing};
pub use server::{Op, Receiver, Server, Standby, Up};
pub use table::Phase;

/// What a data host is told about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// Which of the two it is.
    pub me: Site,
    /// The cluster's times.
    pub timing: Timing,
    /// What to prefer when there is no standby.
    pub durability: Durability,
}

/// What the data of a host is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Nothing was written down yet.
    #[default]
    Unset,
    /// The data of the primary of [`Durable::epoch`].
    Primary,
    /// A copy that follows.
    Standby,
    /// Being replaced by a copy; not data until that is done.
    Rejoining,
}

/// What lies on the disk of a data host beside PostgreSQL's own files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Durable {
    /// Counts the runs of the agent.
    pub session: u64,
    /// The incarnation of the arbiter that is obeyed: replies of earlier ones mean nothing.
    pub incarnation: u64,
    /// The newest record seen.
    pub record: Option<Record>,
    /// The epoch in which the data was, or is, the primary's.
    pub epoch: u32,
    /// What the data is.
    pub role: Role,
    /// A handover was asked for that would change this version of the record; until it is changed, by that or by
    /// something else, the host stays closed.
    pub handover: Option<Stamp>,
    /// The arbiter was asked to take back this unconfirmed epoch: the next one, if it is this host's, is of its data.
    pub revoke: Option<u32>,
    /// The operator wants the data of this standby copied anew, however it follows.
    #[serde(default)]
    pub fresh: bool,
    /// The operator works on the cluster: nobody is promoted, the primary goes on alone.
    pub maintenance: bool,
}

/// What a host knows of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Contact {
    /// When something last came from it, or when this agent started.
    pub heard: Time,
    /// Session and time of its newest beat.
    pub order: (u64, Time),
    /// Until when its lease runs, on this host's clock.
    pub lease: Option<Time>,
    /// From when a lease may run that was granted to it; `None` when its port is known to be closed.
    pub granted: Option<Time>,
    /// The end of its log.
    pub wal: Lsn,
    /// Its times.
    pub timing: Option<Timing>,
}

/// A request that has no answer yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pending {
    /// Its name.
    pub nonce: Nonce,
    /// The record it would change.
    pub stamp: Stamp,
    /// What is asked.
    pub ask: Ask,
    /// When it was last sent.
    pub sent: Time,
}

/// When a restarted primary has caught up with what it may have acknowledged before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caught {
    /// The start of the server this is about.
    pub started: u64,
    /// The standby has to have this.
    pub target: Lsn,
    /// It has, or need not.
    pub done: bool,
}

/// How far the way back to SYNC is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resync {
    /// Since when the standby is named in `synchronous_standby_names`.
    pub since: Option<Time>,
    /// The end of the log once no commit could pass without the standby any more.
    pub target: Option<Lsn>,
    /// The standby has that, and acknowledges synchronously.
    pub ready: bool,
}

/// Until when the ports are open, by the agent's last command. The kernel closes them by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Gate {
    /// For the other hosts' replication and probes.
    pub peers: Option<Time>,
    /// For everyone.
    pub clients: Option<Time>,
}

/// A host with data.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// On disk.
    pub durable: Durable,
    /// What it is doing.
    pub phase: Phase,
    /// Since when.
    pub since: Time,
    /// When its agent started.
    pub started: Time,
    /// PostgreSQL as it was last seen.
    pub seen: Option<Server>,
    /// An operation on PostgreSQL is running: what was seen before it means nothing.
    pub op: Option<Op>,
    /// How often operations failed since one succeeded, and when last.
    pub failed: (u32, Time),
    /// The request to the arbiter.
    pub pending: Option<Pending>,
    /// Requests so far in this session.
    pub count: u32,
    /// Why the last request was refused, and when.
    pub refused: Option<(Refusal, Time)>,
    /// The other data host.
    pub peer: Contact,
    /// The arbiter.
    pub arbiter: Contact,
    /// The last try to reach the other host's PostgreSQL.
    pub probe: Option<Probe>,
    /// Beats sent up to here bring no lease any more: the port was closed.
    pub void: Option<Time>,
    /// The standby has acknowledged everything up to `flush`, and owed nothing at this moment.
    pub acked: Time,
    /// What the standby had flushed when last looked.
    pub flush: Lsn,
    /// When this standby last streamed.
    pub streamed: Time,
    /// See [`Caught`].
    pub caught: Option<Caught>,
    /// See [`Resync`].
    pub resync: Resync,
    /// The record under which `synchronous_standby_names` may be cleared.
    pub may_clear: Option<Stamp>,
    /// The operator wants a switchover.
    pub switchover: bool,
    /// The operator wants this host to be primary at any price.
    pub force: bool,
    /// The arbiter without memory that waits for a claim.
    pub claim_for: Option<(u64, u64)>,
    /// As last commanded; `None` before the first command of this run.
    pub gate: Option<Gate>,
    /// When the last beats were sent, or later when the next ones were put off: see [`Node::beat_ahead`].
    pub beat: Option<Time>,
}

/// What happens to a data host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// PostgreSQL was looked at; not while an operation is running, and after each that succeeded.
    Observed(Server),
    /// The operation failed.
    Failed(Op),
    /// A message came.
    Received(crate::Member, Message),
    /// A try to reach the other host's PostgreSQL ended.
    Probed(Probe),
    /// The operator wants something.
    Command(Command),
}

/// What an operator can ask of a data host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Of the primary: let the standby take over, without losing anything.
    Switchover,
    /// Nobody is promoted and the primary goes on alone, until this is taken back.
    Maintenance(bool),
    /// Become primary although acknowledged commits may be lost.
    Force,
    /// Of a standby: begin again with a fresh copy.
    Rejoin,
}

/// What a data host does, in the order given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Write to disk and wait until it is there.
    Persist(Durable),
    /// Open or close the ports.
    Gate(Gate),
    /// Send.
    Send(crate::Member, Message),
    /// Do something with PostgreSQL. At most one runs at a time.
    Server(Op),
    /// Tell the log: a transition of the table was followed.
    Log(&'static table::Row),
}

impl Node {
    /// A data host whose agent starts, with what it finds on its disk. A port that an earlier run left open stays open
    /// until the kernel closes it: an agent that is back in time is no event.
    pub fn start(durable: Option<Durable>, now: Time) -> (Node, Vec<Action>) {
        let mut durable = durable.unwrap_or_default();
        durable.session += 1;
        let contact = Contact {
            heard: now,
            order: (0, Time(0)),
            lease: None,
            granted: Some(now),
            wal: Lsn(0),
            timing: None,
        };
        let node = Node {
            durable: durable.clone(),
            phase: Phase::Starting,
            since: now,
            started: now,
            seen: None,
            op: None,
            failed: (0, now),
            pending: None,
            count: 0,
            refused: None,
            peer: contact,
            arbiter: contact,
            probe: None,
            void: None,
            acked: now,
            flush: Lsn(0),
            streamed: now,
            caught: None,
            resync: Resync::default(),
            may_clear: None,
            switchover: false,
            force: false,
            claim_for: None,
            gate: None,
            beat: None,
        };
        (node, vec![Action::Persist(durable)])
    }

    /// The newest record this host knows.
    pub fn record(&self) -> Option<&Record> {
        self.durable.record.as_ref()
    }

    /// Whether anything goes by what a try to reach the other host's PostgreSQL shows: only a promotion of this host does.
    pub fn wants_probes(&self, me: Site) -> bool {
        self.record().is_some_and(|record| record.in_sync && record.primary != me)
    }

    /// PostgreSQL as it is now: unknown while an operation is running.
    pub fn server(&self) -> Option<&Server> {
        if self.op.is_some() { None } else { self.seen.as_ref() }
    }

    /// PostgreSQL, if it is up.
    pub fn up(&self) -> Option<&Up> {
        match self.server() {
            Some(Server::Up(up)) => Some(up),
            _ => None,
        }
    }

    /// The moment until which any lease runs.
    pub fn lease(&self) -> Option<Time> {
        self.peer.lease.max(self.arbiter.lease)
    }

    /// Whether clients may write here, were there a lease. Of the many conditions none is about time but the last: the
    /// lease that this host itself granted to its predecessor is over.
    pub fn may_open(&self, config: &Config, now: Time) -> bool {
        let running = match (&self.seen, self.op) {
            (Some(Server::Up(up)), None | Some(Op::SetSync(_))) => !up.recovery,
            _ => false,
        };
        let entitled = self.record().is_some_and(|record| {
            record.primary == config.me && record.confirmed && record.epoch == self.durable.epoch
        });
        self.phase.serves()
            && running
            && entitled
            && self.durable.role == Role::Primary
            && self.durable.handover.is_none()
            && self.caught.is_some_and(|caught| caught.done)
            && self.peer.granted.is_none_or(|at| now.past(at, config.timing.promote()))
    }
}

/// The next state, and what to do in that order.
pub fn step(config: &Config, state: &Node, now: Time, event: Event) -> (Node, Vec<Action>) {
    let mut next = state.clone();
    let mut actions = Vec::new();
    let answer = next.absorb(config, now, event);
    // A few transitions can follow from one event; no path through the table is longer than this.
    for _ in 0..4 {
        let view = view::View { config, node: &next, now };
        let Some(row) = table::TABLE.iter().find(|row| row.from.contains(&next.phase) && (row.when)(&view))
        else {
            break;
        };
        next.enter(row, now);
        actions.push(Action::Log(row));
    }
    next.upkeep(config, now, &mut actions);
    actions.extend(answer.map(|(beat, lease)| next.answer(config, &beat, lease)));
    if next.durable != state.durable {
        actions.insert(0, Action::Persist(next.durable.clone()));
    }
    (next, actions)
}
