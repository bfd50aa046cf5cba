//! Two data hosts, the arbiter, a network that forgets nothing, and an adversary.

use std::{collections::BTreeSet, fmt, sync::Arc};

use pgagent_core::{
    Answer, Ask, Durability, Lsn, Member, Message, Probe, Record, Rto, Site, Stamp, Time, Timing,
    arbiter::{self, Arbiter},
    node::{self, Command, Config, Event, Node, Op, Role},
};
use stateright::{Model, Property};

use super::rules;
use crate::world::{self, Mark, Pg};

/// Every host's clock always shows this; a moment is either now or long ago.
pub const NOW: Time = Time(1_000_000);
pub const TIMING: Timing = Timing::of(Rto::Norm);

/// A guard that is taken away, to see whether the search notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// The arbiter changes the record whatever version a request was for.
    NoCas,
    /// Any reply that allows something allows what is asked for now.
    NoNonce,
    /// `synchronous_standby_names` is cleared when SOLO is asked for, not when it is granted.
    ClearBeforeOk,
    /// A promoted host opens before it is confirmed.
    OpenBeforeConfirm,
    /// SYNC is asked for without waiting until the standby has everything.
    SyncAtOnce,
    /// What the sessions of a former agent do is done at any time.
    OldSessions,
}

/// How far the search goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Steps; 0 for as many as there are.
    pub depth: usize,
    /// Requests per data host.
    pub requests: u32,
    /// Transactions.
    pub writes: u8,
    /// Crashes of an agent, a data host or the arbiter, altogether.
    pub crashes: u8,
    /// How often the arbiter's disk is lost.
    pub losses: u8,
    /// Switchovers that operators ask for.
    pub switchovers: u8,
    /// Epochs.
    pub epochs: u32,
    /// Whether to look for a way back to SYNC from every state, which takes as long as everything else together.
    pub heal: bool,
}

impl Bounds {
    /// With any crash: as deep as the longest counterexample of a missing guard.
    pub const CRASHES: Bounds = Bounds {
        depth: 14,
        requests: 3,
        writes: 1,
        crashes: 1,
        losses: 0,
        switchovers: 0,
        epochs: 4,
        heal: false,
    };
    /// The way back to SYNC from each state.
    pub const HEAL: Bounds = Bounds { depth: 12, heal: true, ..Bounds::CRASHES };
    /// An operator's switchover, which begins where SYNC is reached.
    pub const SWITCHOVER: Bounds = Bounds { depth: 15, crashes: 0, switchovers: 1, ..Bounds::CRASHES };
    /// An arbiter that loses its disk.
    pub const LOSSES: Bounds = Bounds { depth: 13, crashes: 0, losses: 1, ..Bounds::CRASHES };
    /// What the search has to find when a guard is gone.
    pub const FLAWS: Bounds = Bounds { crashes: 0, depth: 0, ..Bounds::CRASHES };

    /// As far as `make verify` goes.
    pub fn deeper(self, steps: usize) -> Bounds {
        Bounds { depth: self.depth + steps, ..self }
    }
}

/// The model.
#[derive(Clone)]
pub struct Cluster {
    pub flaw: Flaw,
    pub bounds: Bounds,
}

/// A state of everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub nodes: [Node; 2],
    pub arbiter: Arbiter,
    pub pg: [Pg; 2],
    /// Everything that was ever sent and is no beat.
    pub net: BTreeSet<Arc<Letter>>,
    /// Transactions that clients believe to be durable.
    pub acked: BTreeSet<Mark>,
    /// Who was recorded as primary of which epoch.
    pub chosen: Vec<(u32, Site)>,
    /// What an agent had begun when it ended, and in which life of its server: that may go on without it.
    pub late: [Option<(Op, u64)>; 2],
    pub writes: u8,
    pub crashes: u8,
    pub losses: u8,
    pub switchovers: u8,
    /// A rule that no state shows but a step breaks.
    pub broken: Option<&'static str>,
}

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Letter {
    pub to: Member,
    pub message: Message,
}

impl Letter {
    /// Orders letters; only equality matters.
    fn key(&self) -> (Member, pgagent_core::Nonce, u8, Option<Stamp>) {
        match &self.message {
            Message::Request(request) => (self.to, request.nonce, 0, Some(request.stamp)),
            Message::Reply(reply) => {
                let stamp = reply.record.as_ref().map(|record| record.stamp);
                (self.to, reply.nonce, 1 + u8::from(reply.refused.is_some()), stamp)
            }
            Message::Beat(_) | Message::Answer(_) => unreachable!("beats are not kept"),
        }
    }
}

impl PartialOrd for Letter {
    fn partial_cmp(&self, other: &Letter) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Letter {
    fn cmp(&self, other: &Letter) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// What can happen next.
#[derive(Clone, PartialEq, Eq)]
pub enum Step {
    Deliver(Arc<Letter>),
    /// An agent looks at its PostgreSQL, or its operation ends.
    Look(Site),
    /// All timeouts of a host run out; it cannot reach the other's PostgreSQL.
    Elapse(Site),
    /// The arbiter's record reaches a host.
    Hear(Site),
    /// A beat of the other data host reaches this one.
    HearPeer(Site),
    /// A beat of a data host reaches the arbiter, and the answer comes back.
    Claim(Site),
    Write(Site),
    /// The oldest commit that may be acknowledged is.
    Ack(Site),
    /// The standby on this host gets one entry of the log.
    Replicate(Site),
    CrashAgent(Site),
    /// What an agent had begun before it restarted ends.
    Late(Site),
    CrashHost(Site),
    CrashArbiter,
    LoseArbiter,
    Switchover(Site),
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Deliver(letter) => match &letter.message {
                Message::Request(request) => write!(f, "the arbiter gets {request:?}"),
                Message::Reply(reply) => write!(f, "{:?} gets {reply:?}", letter.to),
                Message::Beat(_) | Message::Answer(_) => write!(f, "{letter:?}"),
            },
            Step::Look(site) => write!(f, "{site:?} looks"),
            Step::Elapse(site) => write!(f, "time passes on {site:?}"),
            Step::Hear(site) => write!(f, "{site:?} hears the arbiter"),
            Step::HearPeer(site) => write!(f, "{site:?} hears the other host"),
            Step::Claim(site) => write!(f, "{site:?} beats to the arbiter"),
            Step::Write(site) => write!(f, "a client writes on {site:?}"),
            Step::Ack(site) => write!(f, "{site:?} acknowledges"),
            Step::Replicate(site) => write!(f, "{site:?} receives"),
            Step::CrashAgent(site) => write!(f, "the agent of {site:?} restarts"),
            Step::Late(site) => write!(f, "what the former agent of {site:?} began is done"),
            Step::CrashHost(site) => write!(f, "{site:?} restarts"),
            Step::CrashArbiter => write!(f, "the arbiter restarts"),
            Step::LoseArbiter => write!(f, "the arbiter restarts with an empty disk"),
            Step::Switchover(site) => write!(f, "a switchover is asked of {site:?}"),
        }
    }
}

impl Cluster {
    pub fn config(site: Site) -> Config {
        Config { me: site, timing: TIMING, durability: Durability::MaxAvailability }
    }

    /// A healthy cluster before its first SYNC: host one is primary, both know the record.
    fn first(&self) -> State {
        let record = Record {
            stamp: Stamp { incarnation: 1, version: 1 },
            system: 1,
            epoch: 1,
            primary: Site::One,
            in_sync: false,
            confirmed: true,
            floor: Lsn(0),
            timeline: 1,
            lossy: 0,
            by: None,
        };
        let durable = |role| node::Durable {
            incarnation: 1,
            record: Some(record.clone()),
            epoch: 1,
            role,
            ..node::Durable::default()
        };
        let start = |role| Node::start(Some(durable(role)), NOW).0;
        let disk = arbiter::Durable { incarnation: 1, token: 1, record: Some(record.clone()) };
        let mut state = State {
            nodes: [start(Role::Primary), start(Role::Standby)],
            arbiter: Arbiter::start(Some(disk), 0, NOW).0,
            pg: [Pg::primary(), Pg::standby()],
            net: BTreeSet::new(),
            acked: BTreeSet::new(),
            chosen: vec![(1, Site::One)],
            late: [None; 2],
            writes: 0,
            crashes: 0,
            losses: 0,
            switchovers: 0,
            broken: None,
        };
        for site in Site::ALL {
            self.look(&mut state, site);
        }
        state
    }

    fn look(&self, state: &mut State, site: Site) {
        // Before it asks the server anything, an agent ends the sessions of the one before.
        if self.flaw != Flaw::OldSessions
            && state.late[site.index()].is_some_and(|(op, _)| !outlives_its_session(op))
        {
            state.late[site.index()] = None;
        }
        let done = match state.nodes[site.index()].op {
            Some(op) => self.operate(state, site, op),
            None => Ok(()),
        };
        let event = match done {
            Ok(()) => {
                let mut server = world::look(&state.pg, site, true);
                if let (Flaw::SyncAtOnce, node::Server::Up(up)) = (self.flaw, &mut server)
                    && let Some(standby) = &mut up.standby
                {
                    standby.flush = up.wal;
                }
                Event::Observed(server)
            }
            Err(op) => Event::Failed(op),
        };
        self.node(state, site, event);
    }

    fn operate(&self, state: &mut State, site: Site, op: Op) -> Result<(), Op> {
        if op == Op::Promote && state.pg[site.index()].recovery {
            let node = &state.nodes[site.index()];
            if !state.chosen.contains(&(node.durable.epoch, site)) {
                state.broken = Some("I4");
            }
        }
        if world::operate(&mut state.pg, site, op, true) { Ok(()) } else { Err(op) }
    }

    /// A data host takes an event and its actions happen. A crash between two of them is a crash before the event or
    /// after it: what was not persisted is forgotten with what was not done, and what was sent may never arrive.
    fn node(&self, state: &mut State, site: Site, event: Event) {
        let config = Self::config(site);
        let before = &mut state.nodes[site.index()];
        if let (Flaw::NoNonce, Event::Received(_, Message::Reply(reply))) = (self.flaw, &event)
            && reply.refused.is_none()
            && before.phase == node::Phase::Degrading
            && let Some(record) = &reply.record
        {
            before.may_clear = Some(record.stamp);
            before.durable.record = Some(record.clone());
        }
        let (mut next, actions) = node::step(&config, before, NOW, event);
        for action in actions {
            if let node::Action::Send(to, message @ Message::Request(_)) = action {
                let Message::Request(request) = &message else { continue };
                if self.flaw == Flaw::ClearBeforeOk && request.ask == Ask::Solo {
                    world::operate(&mut state.pg, site, Op::SetSync(false), true);
                }
                if request.nonce.count <= self.bounds.requests {
                    state.net.insert(Arc::new(Letter { to, message }));
                }
            }
        }
        rules::forget(&mut next, self.bounds.requests);
        state.nodes[site.index()] = next;
    }

    fn tell_arbiter(&self, state: &mut State, event: arbiter::Event) -> Vec<arbiter::Action> {
        // The arbiter's own clock never forbids anything.
        for contact in &mut state.arbiter.contacts {
            contact.heard = Time(0);
            contact.granted = None;
            contact.probe = Some(Probe { at: NOW, alive: false });
        }
        let (mut next, actions) = arbiter::step(&TIMING, &state.arbiter, NOW, event);
        if let Some(record) = next.record()
            && !state.chosen.contains(&(record.epoch, record.primary))
        {
            if state.chosen.iter().any(|(epoch, _)| *epoch >= record.epoch) {
                state.broken = Some("I3");
            }
            state.chosen.push((record.epoch, record.primary));
        }
        for contact in &mut next.contacts {
            contact.heard = Time(0);
            contact.granted = None;
            contact.probe = None;
            contact.order = (0, Time(0));
            contact.timing = None;
            contact.wal = Lsn(0);
        }
        state.arbiter = next;
        actions
    }

    fn deliver(&self, state: &mut State, letter: &Letter) {
        match (letter.to, letter.message.clone()) {
            (Member::Data(site), message) => {
                self.node(state, site, Event::Received(Member::Arbiter, message));
            }
            (Member::Arbiter, Message::Request(mut request)) => {
                if let (Flaw::NoCas, Some(record)) = (self.flaw, state.arbiter.record()) {
                    request.stamp = record.stamp;
                }
                let from = request.from();
                for action in
                    self.tell_arbiter(state, arbiter::Event::Received(from, Message::Request(request)))
                {
                    if let arbiter::Action::Send(to, mut message) = action {
                        // What the record is can be heard at any time.
                        if let Message::Reply(reply) = &mut message
                            && reply.refused.is_some()
                        {
                            reply.record = None;
                        }
                        state.net.insert(Arc::new(Letter { to: Member::Data(to), message }));
                    }
                }
            }
            (Member::Arbiter, _) => {}
        }
    }

    fn hear(&self, state: &mut State, site: Site) {
        let durable = &state.arbiter.durable;
        let answer = Answer {
            session: state.nodes[site.index()].durable.session,
            sent: NOW,
            lease: false,
            incarnation: durable.incarnation,
            token: durable.record.is_none().then_some(durable.token),
            record: durable.record.clone(),
            wal: Lsn(0),
            timing: TIMING,
        };
        self.node(state, site, Event::Received(Member::Arbiter, Message::Answer(answer)));
    }

    /// The beat that an agent would send now.
    fn beat_of(state: &State, from: Site, to: Member) -> Option<Message> {
        let mut sender = state.nodes[from.index()].clone();
        sender.beat = None;
        let (_, actions) = node::step(&Self::config(from), &sender, NOW, Event::Tick);
        actions.into_iter().find_map(|action| match action {
            node::Action::Send(member, message @ Message::Beat(_)) if member == to => Some(message),
            _ => None,
        })
    }

    fn hear_peer(&self, state: &mut State, site: Site) {
        if let Some(message) = Self::beat_of(state, site.other(), Member::Data(site)) {
            self.node(state, site, Event::Received(Member::Data(site.other()), message));
        }
    }

    fn claim(&self, state: &mut State, site: Site) {
        let Some(message) = Self::beat_of(state, site, Member::Arbiter) else { return };
        for action in self.tell_arbiter(state, arbiter::Event::Received(site, message)) {
            if let arbiter::Action::Send(to, message) = action {
                self.node(state, to, Event::Received(Member::Arbiter, message));
            }
        }
    }

    fn restart_agent(&self, state: &mut State, site: Site) {
        let durable = state.nodes[site.index()].durable.clone();
        let mut node = Node::start(Some(durable), NOW).0;
        rules::forget(&mut node, self.bounds.requests);
        state.nodes[site.index()] = node;
    }

    /// Whether clients can write on a host, if it has a lease.
    pub fn open(&self, state: &State, site: Site) -> bool {
        let node = &state.nodes[site.index()];
        let early = self.flaw == Flaw::OpenBeforeConfirm && node.phase == node::Phase::Confirming;
        state.pg[site.index()].writable() && (early || node.may_open(&Self::config(site), NOW))
    }
}

/// Whether an operation goes on when the session that asked for it ends: a signal was sent, or systemd was told.
fn outlives_its_session(op: Op) -> bool {
    matches!(op, Op::Promote | Op::Start | Op::Stop)
}

impl Model for Cluster {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![self.first()]
    }

    fn actions(&self, state: &State, out: &mut Vec<Step>) {
        out.extend(state.net.iter().cloned().map(Step::Deliver));
        for site in Site::ALL {
            let own = &state.pg[site.index()];
            out.extend([Step::Look(site), Step::Elapse(site), Step::Hear(site), Step::HearPeer(site)]);
            if state.losses > 0 {
                out.push(Step::Claim(site));
            }
            if state.writes < self.bounds.writes && self.open(state, site) {
                out.push(Step::Write(site));
            }
            if own
                .waiting
                .iter()
                .any(|(mark, waits)| !waits || state.pg[site.other().index()].wal.contains(mark))
            {
                out.push(Step::Ack(site));
            }
            let primary = &state.pg[site.other().index()];
            if world::streams(primary, own) && own.wal.len() < primary.wal.len() {
                out.push(Step::Replicate(site));
            }
            if state.late[site.index()].is_some() {
                out.push(Step::Late(site));
            }
            if state.crashes < self.bounds.crashes {
                out.extend([Step::CrashAgent(site), Step::CrashHost(site)]);
            }
            if state.switchovers < self.bounds.switchovers
                && state.nodes[site.index()].phase == node::Phase::Sync
            {
                out.push(Step::Switchover(site));
            }
        }
        if state.crashes < self.bounds.crashes {
            out.push(Step::CrashArbiter);
        }
        if state.losses < self.bounds.losses {
            out.push(Step::LoseArbiter);
        }
    }

    fn next_state(&self, old: &State, step: Step) -> Option<State> {
        let mut state = old.clone();
        match step {
            Step::Deliver(letter) => self.deliver(&mut state, &letter),
            Step::Look(site) => self.look(&mut state, site),
            Step::Elapse(site) => {
                rules::age(&mut state.nodes[site.index()]);
                self.node(&mut state, site, Event::Probed(Probe { at: NOW, alive: false }));
            }
            Step::Hear(site) => self.hear(&mut state, site),
            Step::HearPeer(site) => self.hear_peer(&mut state, site),
            Step::Claim(site) => self.claim(&mut state, site),
            Step::Write(site) => {
                state.writes += 1;
                let mark = Mark::from(state.writes);
                state.pg[site.index()].write(mark);
            }
            Step::Ack(site) => {
                let standby = state.pg[site.other().index()].wal.clone();
                let waiting = &mut state.pg[site.index()].waiting;
                let at = waiting.iter().position(|(mark, waits)| !waits || standby.contains(mark))?;
                state.acked.insert(waiting.remove(at).0);
            }
            Step::Replicate(site) => {
                world::replicate(&mut state.pg, site);
            }
            Step::CrashAgent(site) => {
                state.crashes += 1;
                // Programs end with it.
                let op = state.nodes[site.index()].op.filter(|op| !matches!(op, Op::Rejoin | Op::Copy));
                state.late[site.index()] = op.map(|op| (op, state.pg[site.index()].started));
                self.restart_agent(&mut state, site);
            }
            Step::Late(site) => {
                let (op, started) = state.late[site.index()].take()?;
                if started == state.pg[site.index()].started {
                    world::operate(&mut state.pg, site, op, true);
                }
            }
            Step::CrashHost(site) => {
                state.crashes += 1;
                state.late[site.index()] = None;
                state.pg[site.index()].crash();
                self.restart_agent(&mut state, site);
            }
            Step::CrashArbiter => {
                state.crashes += 1;
                let disk = state.arbiter.durable.clone();
                state.arbiter = Arbiter::start(Some(disk), 0, Time(0)).0;
            }
            Step::LoseArbiter => {
                state.losses += 1;
                state.arbiter = Arbiter::start(None, u64::from(state.losses) + 1, Time(0)).0;
            }
            Step::Switchover(site) => {
                state.switchovers += 1;
                self.node(&mut state, site, Event::Command(Command::Switchover));
            }
        }
        (state != *old).then_some(state)
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.arbiter.record().is_none_or(|record| record.epoch <= self.bounds.epochs)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        rules::properties(self)
    }
}
