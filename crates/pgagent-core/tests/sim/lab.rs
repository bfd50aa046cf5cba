//! The hosts, the network and the passing of time.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use pgagent_core::{
    Durability, Member, Message, Probe, Rto, Site, Time, Timing,
    arbiter::{self, Arbiter},
    node::{self, Config, Event, Gate, Node, Op},
};

use super::{fault, rng::Rng, rules};
use crate::world::{self, Mark, Pg};

pub const TIMING: Timing = Timing::of(Rto::Norm);
/// When the last fault is repaired, and when all has to be well, in ms.
pub const REPAIRED: u64 = 40_000;
pub const END: u64 = 130_000;
/// How often an agent's loop turns, in ms.
const TURN: u64 = 100;

/// By [`index`].
pub const MEMBERS: [Member; 3] = [Member::Data(Site::One), Member::Data(Site::Two), Member::Arbiter];

pub fn index(member: Member) -> usize {
    match member {
        Member::Data(site) => site.index(),
        Member::Arbiter => 2,
    }
}

/// What a machine and its kernel are doing.
#[derive(Clone, Debug)]
pub struct Host {
    /// ms of its clock per 1000 ms.
    pub rate: u64,
    /// Its clock at true time 0.
    pub boot: u64,
    pub powered: bool,
    /// The agent's process exists.
    pub agent: bool,
    /// The agent's process is stopped until then.
    pub frozen: u64,
    /// Counts lives of the agent: what was begun in an earlier one is nobody's.
    pub life: u32,
    pub gate: Gate,
}

impl Host {
    pub fn clock(&self, now: u64) -> Time {
        Time(self.boot + now * self.rate / 1000)
    }
}

enum What {
    Turn(Member),
    Arrive { from: Member, to: Member, message: Box<Message> },
    Probed { by: Member, life: u32, of: Site, alive: bool },
    Operated { site: Site, life: u32, op: Op, started: u64 },
    Client,
    Fault(fault::Fault),
}

pub struct Lab {
    pub rng: Rng,
    verbose: bool,
    pub now: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, What>,
    sequence: u64,
    pub hosts: [Host; 3],
    pub nodes: [Node; 2],
    /// On disk.
    pub disks: [node::Durable; 2],
    pub arbiter: Arbiter,
    pub arbiter_disk: Option<arbiter::Durable>,
    pub pg: [Pg; 2],
    /// `up[from][to]`.
    pub up: [[bool; 3]; 3],
    /// Messages lost, per mille; and the longest delay, in ms.
    pub loss: u64,
    pub delay: u64,
    pub acked: BTreeSet<Mark>,
    written: Mark,
    /// A whole machine stood still: its kernel could not close the port in time.
    pub stood_still: bool,
    pub failovers: u32,
    pub steps: u64,
    /// Since when a host has had no way to either of the others.
    pub isolated: [Option<u64>; 2],
}

impl Lab {
    pub fn new(seed: u64, verbose: bool) -> Lab {
        let mut rng = Rng::new(seed);
        let hosts = [0, 1, 2].map(|_| Host {
            rate: rng.between(950, 1_050),
            boot: rng.between(10_000, 1_000_000),
            powered: true,
            agent: true,
            frozen: 0,
            life: 0,
            gate: Gate::default(),
        });
        let (one, _) = Node::start(None, hosts[0].clock(0));
        let (two, _) = Node::start(None, hosts[1].clock(0));
        let (arbiter, _) = Arbiter::start(None, rng.next(), hosts[2].clock(0));
        let mut lab = Lab {
            now: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            disks: [one.durable.clone(), two.durable.clone()],
            nodes: [one, two],
            arbiter_disk: Some(arbiter.durable.clone()),
            arbiter,
            pg: [Pg::primary(), Pg::standby()],
            up: [[true; 3]; 3],
            loss: if rng.chance(300) { rng.between(1, 100) } else { 0 },
            delay: rng.between(2, 100),
            acked: BTreeSet::new(),
            written: 0,
            stood_still: false,
            failovers: 0,
            steps: 0,
            isolated: [None; 2],
            hosts,
            rng,
            verbose,
        };
        for member in MEMBERS {
            let first = lab.rng.between(0, TURN);
            lab.at(first, What::Turn(member));
        }
        lab.at(50, What::Client);
        fault::plan(&mut lab);
        lab
    }

    fn at(&mut self, when: u64, what: What) {
        self.sequence += 1;
        self.queue.push(Reverse((when, self.sequence)));
        self.events.insert(self.sequence, what);
    }

    pub fn fault_at(&mut self, when: u64, fault: fault::Fault) {
        self.at(when, What::Fault(fault));
    }

    pub fn say(&self, text: impl Fn() -> String) {
        if self.verbose {
            #[expect(clippy::print_stderr, reason = "a seed is being looked at")]
            {
                eprintln!("{:>9.3} {}", self.now as f64 / 1000.0, text());
            }
        }
    }

    /// Runs to the end, or to what must not happen.
    pub fn run(&mut self) -> Result<(), String> {
        while let Some(Reverse((when, sequence))) = self.queue.pop() {
            if when > END {
                break;
            }
            self.now = when;
            let Some(what) = self.events.remove(&sequence) else { continue };
            self.steps += 1;
            self.happen(what);
            rules::always(self)?;
        }
        rules::at_the_end(self)
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Turn(member) => {
                self.at(self.now + TURN, What::Turn(member));
                if self.thinks(member) {
                    self.turn(member);
                }
            }
            What::Arrive { from, to, message } => {
                if self.thinks(to) && self.up[index(from)][index(to)] {
                    self.arrive(from, to, *message);
                }
            }
            What::Probed { by, life, of, alive } => {
                let host = &self.hosts[index(by)];
                if self.thinks(by) && host.life == life {
                    let probe = Probe { at: host.clock(self.now), alive };
                    match by {
                        Member::Data(site) => self.node(site, Event::Probed(probe)),
                        Member::Arbiter => self.arbiter_event(arbiter::Event::Probed(of, probe)),
                    }
                }
            }
            What::Operated { site, life, op, started } => {
                // A server that an earlier agent told to be primary forgets that when it stops.
                let stopped = started != self.pg[site.index()].started;
                if op != Op::Promote || !stopped || life == self.hosts[site.index()].life {
                    self.operated(site, life, op);
                }
            }
            What::Client => {
                self.at(self.now + 97, What::Client);
                self.client();
            }
            What::Fault(fault) => {
                self.say(|| format!("fault: {fault:?}"));
                fault::happen(self, fault);
            }
        }
    }

    /// Whether the agent of a host is running.
    pub fn thinks(&self, member: Member) -> bool {
        let host = &self.hosts[index(member)];
        host.powered && host.agent && self.now >= host.frozen
    }

    fn turn(&mut self, member: Member) {
        let beat = self.rng.chance(250);
        match member {
            Member::Data(site) => {
                if self.nodes[site.index()].op.is_none() {
                    let server = world::look(&self.pg, site, self.log_streams());
                    self.node(site, Event::Observed(server));
                }
                self.node(site, Event::Tick);
                if beat {
                    self.probe(member, site.other());
                }
            }
            Member::Arbiter if beat => Site::ALL.into_iter().for_each(|site| self.probe(member, site)),
            Member::Arbiter => {}
        }
    }

    fn probe(&mut self, by: Member, of: Site) {
        let there = self.hosts[index(Member::Data(of))].powered && self.pg[of.index()].up;
        let alive = there && self.both_ways(by, Member::Data(of)) && self.gate_open(of, |gate| gate.peers);
        let takes = if alive { self.rng.between(1, self.delay * 2 + 2) } else { self.rng.between(5, 500) };
        let life = self.hosts[index(by)].life;
        self.at(self.now + takes, What::Probed { by, life, of, alive });
    }

    pub fn both_ways(&self, a: Member, b: Member) -> bool {
        self.up[index(a)][index(b)] && self.up[index(b)][index(a)]
    }

    pub fn gate_open(&self, site: Site, which: impl Fn(&Gate) -> Option<Time>) -> bool {
        let host = &self.hosts[site.index()];
        host.powered && which(&host.gate).is_some_and(|until| host.clock(self.now) < until)
    }

    /// Whether the log can stream, whichever way: the primary's port is open for the other host.
    pub fn log_streams(&self) -> bool {
        let primary = if self.pg[0].writable() { Site::One } else { Site::Two };
        self.both_ways(MEMBERS[0], MEMBERS[1]) && self.gate_open(primary, |gate| gate.peers)
    }

    pub fn node(&mut self, site: Site, event: Event) {
        let now = self.hosts[site.index()].clock(self.now);
        let config = Config { me: site, timing: TIMING, durability: Durability::MaxAvailability };
        let (next, actions) = node::step(&config, &self.nodes[site.index()], now, event);
        self.nodes[site.index()] = next;
        // Now and then the agent dies between two of its actions.
        let dies = self.now < REPAIRED && !actions.is_empty() && self.rng.chance(1);
        let done = if dies { self.rng.between(0, actions.len() as u64) as usize } else { actions.len() };
        for action in actions.into_iter().take(done) {
            self.act(site, action);
        }
        if dies {
            self.say(|| format!("the agent of {site:?} dies between two actions"));
            self.restart_agent(Member::Data(site));
        }
    }

    fn act(&mut self, site: Site, action: node::Action) {
        match action {
            node::Action::Persist(durable) => self.disks[site.index()] = durable,
            node::Action::Gate(gate) => self.hosts[site.index()].gate = gate,
            node::Action::Send(to, message) => self.send(Member::Data(site), to, message),
            node::Action::Server(op) => {
                let takes = match op {
                    Op::SetSync(_) | Op::StopReceiver | Op::Follow => self.rng.between(5, 100),
                    Op::Promote | Op::Stop => self.rng.between(100, 1_500),
                    Op::Start => self.rng.between(200, 2_000),
                    Op::Rejoin | Op::Copy => self.rng.between(500, 4_000),
                };
                if matches!(op, Op::Rejoin | Op::Copy) {
                    self.pg[site.index()].crash();
                }
                let life = self.hosts[site.index()].life;
                self.say(|| format!("{site:?} begins {op:?}, {takes} ms"));
                let started = self.pg[site.index()].started;
                self.at(self.now + takes, What::Operated { site, life, op, started });
            }
            node::Action::Log(row) => self.say(|| format!("{site:?} {}: {}", row.to.name(), row.name)),
        }
    }

    fn send(&mut self, from: Member, to: Member, message: Message) {
        if !self.up[index(from)][index(to)] || self.rng.chance(self.loss) {
            return;
        }
        let delay =
            if self.rng.chance(5) { self.rng.between(0, 5_000) } else { self.rng.between(1, self.delay + 1) };
        if self.rng.chance(10) {
            let again = self.rng.between(1, 3_000);
            self.at(self.now + again, What::Arrive { from, to, message: Box::new(message.clone()) });
        }
        self.at(self.now + delay, What::Arrive { from, to, message: Box::new(message) });
    }

    fn arrive(&mut self, from: Member, to: Member, message: Message) {
        match (from, to) {
            (_, Member::Data(site)) => self.node(site, Event::Received(from, message)),
            (Member::Data(site), Member::Arbiter) => {
                self.arbiter_event(arbiter::Event::Received(site, message));
            }
            (Member::Arbiter, Member::Arbiter) => {}
        }
    }

    pub fn arbiter_event(&mut self, event: arbiter::Event) {
        let now = self.hosts[2].clock(self.now);
        let epoch = self.arbiter.record().map(|record| record.epoch);
        let (next, actions) = arbiter::step(&TIMING, &self.arbiter, now, event);
        if epoch.is_some() && next.record().is_some_and(|record| Some(record.epoch) > epoch) {
            self.failovers += 1;
        }
        self.arbiter = next;
        for action in actions {
            match action {
                arbiter::Action::Persist(durable) => self.arbiter_disk = Some(durable),
                arbiter::Action::Send(to, message) => self.send(Member::Arbiter, Member::Data(to), message),
                arbiter::Action::Log(note) => self.say(|| match &note {
                    arbiter::Note::Refused(request, refusal) => {
                        format!("arbiter refuses {:?}: {refusal:?}", request.ask)
                    }
                    arbiter::Note::Granted(request, record) => {
                        format!("arbiter grants {:?}: epoch {}", request.ask, record.epoch)
                    }
                    other => format!("arbiter: {other:?}"),
                }),
            }
        }
    }

    fn operated(&mut self, site: Site, life: u32, op: Op) {
        let host = &self.hosts[site.index()];
        let same = host.life == life;
        if !host.powered || (!same && self.rng.chance(500)) {
            return;
        }
        let streams = self.log_streams();
        let done = world::operate(&mut self.pg, site, op, streams);
        if same && self.thinks(Member::Data(site)) {
            let event = match done {
                true => Event::Observed(world::look(&self.pg, site, self.log_streams())),
                false => Event::Failed(op),
            };
            self.node(site, event);
        } else if same {
            // It is frozen: it will look when it wakes.
            self.nodes[site.index()].op = None;
            self.nodes[site.index()].seen = None;
        }
    }

    fn client(&mut self) {
        let streams = self.log_streams();
        for site in Site::ALL {
            if streams && world::streams(&self.pg[site.other().index()], &self.pg[site.index()]) {
                for _ in 0..20 {
                    world::replicate(&mut self.pg, site);
                }
            }
        }
        for site in Site::ALL {
            if self.pg[site.index()].writable() && self.gate_open(site, |gate| gate.clients) {
                self.written += 1;
                self.pg[site.index()].write(self.written);
            }
            // A client believes what reaches it, and everything that waited is cut off when the port closes.
            if !self.gate_open(site, |gate| gate.clients) {
                self.pg[site.index()].waiting.clear();
            }
            let there = streams && world::streams(&self.pg[site.index()], &self.pg[site.other().index()]);
            let standby: BTreeSet<Mark> =
                self.pg[site.other().index()].wal.iter().rev().take(200).copied().collect();
            let own = &mut self.pg[site.index()];
            let acked = &mut self.acked;
            own.waiting.retain(|(mark, waits)| {
                let done = !waits || there && standby.contains(mark);
                if done {
                    acked.insert(*mark);
                }
                !done
            });
        }
    }

    pub fn restart_agent(&mut self, member: Member) {
        let host = &mut self.hosts[index(member)];
        host.life += 1;
        host.frozen = 0;
        let now = host.clock(self.now);
        match member {
            Member::Data(site) => {
                let (node, actions) = Node::start(Some(self.disks[site.index()].clone()), now);
                self.nodes[site.index()] = node;
                actions.into_iter().for_each(|action| self.act(site, action));
            }
            Member::Arbiter => {
                let token = self.rng.next();
                let (arbiter, actions) = Arbiter::start(self.arbiter_disk.clone(), token, now);
                self.arbiter = arbiter;
                for action in actions {
                    if let arbiter::Action::Persist(durable) = action {
                        self.arbiter_disk = Some(durable);
                    }
                }
            }
        }
    }
}
