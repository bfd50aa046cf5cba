//! The rules of promotion, one by one, at the arbiter and at the standby.

use pgagent_core::{
    Ask, Beat, Durability, Lsn, Member, Message, Nonce, Probe, Record, Refusal, Request, Rto, Site, Stamp,
    Time, Timing, Want,
    arbiter::{self, Action, Arbiter, Event},
    node::{self, Config, Node, Op, Phase, Receiver, Role, Server, Up},
};

const TIMING: Timing = Timing::of(Rto::Norm);

fn record() -> Record {
    Record {
        stamp: Stamp { incarnation: 1, version: 5 },
        system: 77,
        epoch: 1,
        primary: Site::One,
        in_sync: true,
        confirmed: true,
        floor: Lsn(100),
        timeline: 1,
        lossy: 0,
        by: None,
    }
}

fn beat(sent: u64, want: Want) -> Message {
    Message::Beat(Beat {
        session: 1,
        sent: Time(sent),
        want,
        epoch: 1,
        incarnation: 1,
        record: None,
        claim: None,
        wal: Lsn(0),
        timing: TIMING,
    })
}

fn promote(version: u64, received: u64) -> Message {
    let nonce = Nonce { site: Site::Two, session: 1, count: 1 };
    let stamp = Stamp { incarnation: 1, version };
    Message::Request(Request { nonce, stamp, ask: Ask::Promote { timeline: 1, received: Lsn(received) } })
}

struct Bench(Arbiter);

impl Bench {
    /// An arbiter that started at 0 and at 10 s granted the primary a lease.
    fn new(record: Record) -> Bench {
        let disk = arbiter::Durable { incarnation: 1, token: 1, record: Some(record) };
        let mut bench = Bench(Arbiter::start(Some(disk), 0, Time(0)).0);
        bench.tell(10_000, Event::Received(Site::One, beat(1, Want::Lease)));
        bench
    }

    fn tell(&mut self, now: u64, event: Event) -> Vec<Action> {
        let (next, actions) = arbiter::step(&TIMING, &self.0, Time(now), event);
        self.0 = next;
        actions
    }

    fn probe(&mut self, now: u64, alive: bool) {
        self.tell(now, Event::Probed(Site::One, Probe { at: Time(now), alive }));
    }

    /// The answer to PROMOTE.
    fn promote(&mut self, now: u64, version: u64, received: u64) -> Option<Refusal> {
        let actions = self.tell(now, Event::Received(Site::Two, promote(version, received)));
        let refused = actions.iter().find_map(|action| match action {
            Action::Send(Site::Two, Message::Reply(reply)) => Some(reply.refused),
            _ => None,
        });
        if refused == Some(None) {
            assert!(
                matches!(actions[0], Action::Persist(_)),
                "the record is on disk before anyone hears of it"
            );
        }
        refused.expect("every request is answered")
    }
}

#[test]
fn the_standby_is_promoted_when_the_arbiter_has_lost_the_primary_too() {
    let mut bench = Bench::new(record());
    bench.probe(13_100, false);
    assert_eq!(bench.promote(13_100, 5, 200), None);
    let record = bench.0.record().unwrap();
    assert_eq!(
        (record.epoch, record.primary, record.confirmed, record.in_sync),
        (2, Site::Two, false, false)
    );
}

#[test]
fn no_promotion_while_a_lease_may_run() {
    let mut bench = Bench::new(record());
    bench.probe(12_900, false);
    assert_eq!(bench.promote(12_999, 5, 200), Some(Refusal::LeaseRuns));
    // A lease that an earlier run of the arbiter granted is not remembered, so one is assumed.
    let disk = bench.0.durable.clone();
    let mut restarted = Bench(Arbiter::start(Some(disk), 0, Time(20_000)).0);
    restarted.probe(22_000, false);
    assert_eq!(restarted.promote(22_900, 5, 200), Some(Refusal::LeaseRuns));
}

#[test]
fn no_promotion_while_the_arbiter_reaches_the_primary() {
    let mut bench = Bench::new(record());
    assert_eq!(bench.promote(14_000, 5, 200), Some(Refusal::StillAlive), "it has not tried");
    bench.probe(14_000, true);
    assert_eq!(bench.promote(14_000, 5, 200), Some(Refusal::StillAlive));
    bench.probe(14_000, false);
    assert_eq!(bench.promote(16_001, 5, 200), Some(Refusal::StillAlive), "that was too long ago");
}

#[test]
fn no_promotion_of_a_standby_that_lacks_commits() {
    for (record, received, version, refusal) in [
        (Record { in_sync: false, ..record() }, 200, 5, Refusal::NotInSync),
        (Record { confirmed: false, ..record() }, 200, 5, Refusal::Unconfirmed),
        (Record { timeline: 2, ..record() }, 200, 5, Refusal::Behind),
        (record(), 99, 5, Refusal::Behind),
        (record(), 200, 4, Refusal::Stale),
        (Record { primary: Site::Two, ..record() }, 200, 5, Refusal::WrongRole),
    ] {
        let mut bench = Bench::new(record);
        bench.probe(14_000, false);
        assert_eq!(bench.promote(14_000, version, received), Some(refusal));
        assert_eq!(bench.0.record().unwrap().epoch, 1);
    }
}

#[test]
fn an_arbiter_with_an_old_disk_forgets_it() {
    let mut bench = Bench::new(record());
    let newer = Record { stamp: Stamp { incarnation: 1, version: 9 }, ..record() };
    let Message::Beat(old) = beat(2, Want::Lease) else { unreachable!() };
    bench.tell(10_500, Event::Received(Site::One, Message::Beat(Beat { record: Some(newer), ..old })));
    assert_eq!(bench.0.record(), None);
    assert_eq!(bench.0.durable.incarnation, 2);
    bench.probe(14_000, false);
    assert_eq!(bench.promote(14_000, 5, 200), Some(Refusal::NoMemory));
}

fn standby(record: Record, system: u64) -> Node {
    let disk = node::Durable {
        session: 3,
        incarnation: 1,
        record: Some(record),
        epoch: 1,
        role: Role::Standby,
        ..node::Durable::default()
    };
    tell(&Node::start(Some(disk), Time(0)).0, 10, node::Event::Observed(up(system))).0
}

fn up(system: u64) -> Server {
    Server::Up(Up {
        system,
        started: 1,
        recovery: true,
        timeline: 1,
        sync: false,
        wal: Lsn(200),
        receiver: Receiver::Waiting,
        standby: None,
    })
}

fn tell(node: &Node, now: u64, event: node::Event) -> (Node, Vec<node::Action>) {
    let config = Config { me: Site::Two, timing: TIMING, durability: Durability::MaxAvailability };
    node::step(&config, node, Time(now), event)
}

/// A standby whose primary was silent for `silent` ms; whether it hears the arbiter, and reaches the primary's PostgreSQL.
fn votes(record: Record, silent: u64, arbiter: bool, alive: bool) -> bool {
    let mut node = standby(record, 77);
    let now = 10_000;
    (node.peer.heard, node.peer.granted) = (Time(now - silent), Some(Time(now - silent)));
    node.arbiter.heard = if arbiter { Time(now - 100) } else { Time(0) };
    let (node, _) = tell(&node, now, node::Event::Probed(Probe { at: Time(now), alive }));
    node.phase == Phase::Voting
}

#[test]
fn the_standby_asks_when_only_the_primary_is_lost() {
    assert!(votes(record(), 3_000, true, false));
    assert!(!votes(record(), 2_999, true, false), "not before the promote time is over");
    assert!(
        !votes(record(), 9_000, false, false),
        "not when it hears nobody: it may be the one that is cut off"
    );
    assert!(!votes(record(), 9_000, true, true), "not when PostgreSQL answers");
    assert!(!votes(Record { in_sync: false, ..record() }, 9_000, true, false), "not when it lacks commits");
    assert!(!votes(Record { confirmed: false, ..record() }, 9_000, true, false));
    assert!(
        !votes(Record { floor: Lsn(201), ..record() }, 9_000, true, false),
        "not when its log was cut back"
    );
}

#[test]
fn a_voter_grants_the_primary_nothing_and_remembers_what_it_grants() {
    let mut node = standby(record(), 77);
    let ask = |node: &Node| {
        tell(node, 10_000, node::Event::Received(Member::Data(Site::One), beat(1, Want::Lease)))
    };
    let grants = |actions: &[node::Action]| {
        actions
            .iter()
            .any(|action| matches!(action, node::Action::Send(_, Message::Answer(answer)) if answer.lease))
    };
    let (granted, actions) = ask(&node);
    assert!(grants(&actions));
    assert_eq!(granted.peer.granted, Some(Time(10_000)));
    node.phase = Phase::Voting;
    // The beat ends the vote, but it was not granted anything.
    let (refused, actions) = ask(&node);
    assert!(!grants(&actions));
    assert_eq!((refused.phase, refused.peer.granted), (Phase::Standby, Some(Time(0))));
}

#[test]
fn data_of_another_cluster_is_not_touched() {
    let node = standby(record(), 78);
    assert_eq!(node.phase, Phase::Halted);
    for event in
        [node::Event::Tick, node::Event::Observed(up(78)), node::Event::Command(node::Command::Rejoin)]
    {
        let (next, actions) = tell(&node, 60_000, event);
        assert_eq!(next.phase, Phase::Halted);
        let touches: Vec<&Op> = actions
            .iter()
            .filter_map(|action| match action {
                node::Action::Server(op) => Some(op),
                _ => None,
            })
            .collect();
        assert!(touches.is_empty(), "{touches:?}");
    }
}

/// An agent told PostgreSQL to be primary and died; the place went back to the other host meanwhile. What was begun may end at any
/// moment, so nobody is served before the server was stopped.
#[test]
fn a_promotion_that_is_revoked_is_stopped_before_anybody_is_served() {
    let theirs = Record { epoch: 3, ..record() };
    let disk = node::Durable {
        session: 3,
        incarnation: 1,
        record: Some(theirs),
        epoch: 2,
        role: Role::Primary,
        ..node::Durable::default()
    };
    let op = |actions: &[node::Action]| {
        actions.iter().find_map(|action| match action {
            node::Action::Server(op) => Some(*op),
            _ => None,
        })
    };
    let opens = |actions: &[node::Action]| {
        actions.iter().any(|action| matches!(action, node::Action::Gate(gate) if gate.clients.is_some()))
    };
    let restarted = Node::start(Some(disk), Time(0)).0;
    let (stopping, actions) = tell(&restarted, 10, node::Event::Observed(up(77)));
    assert_eq!((stopping.phase, op(&actions)), (Phase::Starting, Some(Op::Stop)));
    assert!(!opens(&actions));

    let down = |standby| Server::Down { standby, clean: true, system: 77, timeline: 1, wal: Lsn(200) };
    let (follows, actions) = tell(&stopping, 20, node::Event::Observed(down(true)));
    assert_eq!((follows.phase, op(&actions)), (Phase::Standby, Some(Op::Start)));
    let (_, actions) = tell(&follows, 30, node::Event::Observed(up(77)));
    assert!(opens(&actions), "now it is a standby like any other, which serves reads");
    // It was faster than the stop.
    let (primary, actions) = tell(&stopping, 20, node::Event::Observed(down(false)));
    assert_eq!((primary.phase, op(&actions)), (Phase::Superseded, None));

    // The same while the agent lives: an operation that took too long may end all the same.
    let mut promoting = restarted;
    promoting.phase = Phase::Promoting;
    let (promoting, actions) = tell(&promoting, 10, node::Event::Observed(up(77)));
    assert_eq!((promoting.phase, op(&actions)), (Phase::Promoting, Some(Op::Stop)));
    assert!(!opens(&actions));
    let (follows, _) = tell(&promoting, 20, node::Event::Observed(down(true)));
    assert_eq!(follows.phase, Phase::Standby);
}

/// A standby that connects while a new cluster gets its record would else hang until its keepalive notices.
#[test]
fn the_first_record_does_not_cut_off_a_standby_that_connects() {
    let gates = |actions: &[node::Action]| {
        let gate = |action: &node::Action| match action {
            node::Action::Gate(gate) => Some((gate.peers, gate.clients)),
            _ => None,
        };
        actions.iter().filter_map(gate).collect::<Vec<_>>()
    };
    let fresh = Node::start(None, Time(0)).0;
    let Server::Up(server) = up(77) else { unreachable!() };
    let primary = Server::Up(Up { recovery: false, receiver: Receiver::Off, ..server });
    let (copied, actions) = tell(&fresh, 1000, node::Event::Observed(primary));
    let closes = Time(1000) + TIMING.fence();
    assert_eq!(gates(&actions), [(Some(closes), None)]);

    let Message::Beat(beat) = beat(2000, Want::Nothing) else { unreachable!() };
    let record = Record { primary: Site::Two, in_sync: false, ..record() };
    let beat = Message::Beat(Beat { record: Some(record.clone()), ..beat });
    let (serves, actions) = tell(&copied, 2000, node::Event::Received(Member::Data(Site::One), beat));
    assert_eq!((serves.phase, gates(&actions)), (Phase::Solo, vec![]));
    // No lease came: the kernel has closed the port, and it stays closed.
    let (_, actions) = tell(&serves, 1000 + TIMING.fence().as_millis() as u64, node::Event::Tick);
    assert_eq!(gates(&actions), [(None, None)]);
    // A host whose port was closed does not open it for that.
    let mut closed = copied;
    closed.gate = None;
    let Message::Beat(late) = self::beat(9000, Want::Nothing) else { unreachable!() };
    let late = Message::Beat(Beat { record: Some(record), ..late });
    let (_, actions) = tell(&closed, 9000, node::Event::Received(Member::Data(Site::One), late));
    assert_eq!(gates(&actions), [(None, None)]);
}

/// An arbiter without memory waits for both hosts to say what their data is, and a new cluster for the arbiter.
#[test]
fn what_the_data_is_can_be_told_while_the_server_starts() {
    let fresh = Node::start(None, Time(0)).0;
    let down = Server::Down { standby: true, clean: true, system: 77, timeline: 1, wal: Lsn(200) };
    let (starting, _) = tell(&fresh, 1000, node::Event::Observed(down));
    assert_eq!(starting.op, Some(Op::Start));
    let answer = pgagent_core::Answer {
        session: starting.durable.session,
        sent: Time(900),
        lease: false,
        incarnation: 1,
        token: Some(9),
        record: None,
        wal: Lsn(0),
        timing: TIMING,
    };
    let asked = node::Event::Received(Member::Arbiter, Message::Answer(answer));
    let claims = |node: &Node| {
        let claim = |action: node::Action| match action {
            node::Action::Send(Member::Arbiter, Message::Beat(beat)) => Some(beat.claim),
            _ => None,
        };
        let claim = tell(node, 1100, asked.clone()).1.into_iter().find_map(claim).flatten();
        claim.map(|claim| (claim.system, claim.standby, claim.token))
    };
    assert_eq!(claims(&starting), Some((77, true, 9)));
    // What other operations leave behind has to be looked at first.
    let copying = Node { op: Some(Op::Copy), ..starting };
    assert_eq!(claims(&copying), None);
}

/// What a host does before it is paused: it beats at once, and is then half a heartbeat late, which no lease minds.
#[test]
fn a_host_beats_ahead_and_is_late_once() {
    let config = Config { me: Site::One, timing: TIMING, durability: Durability::MaxAvailability };
    let (mut node, _) = Node::start(None, Time(0));
    let beats = |actions: &[node::Action]| {
        actions.iter().filter(|action| matches!(action, node::Action::Send(_, Message::Beat(_)))).count()
    };
    let sent = |node: &mut Node, now: u64| {
        let (next, actions) = node::step(&config, node, Time(now), node::Event::Tick);
        *node = next;
        beats(&actions)
    };
    let heartbeat = u64::from(TIMING.heartbeat);
    assert_eq!(sent(&mut node, 10_000), 2);
    assert_eq!(beats(&node.beat_ahead(&config, Time(10_001))), 2, "to the other host and to the arbiter");
    let late = 10_001 + heartbeat * 3 / 2;
    assert_eq!([late - 1, late + 1].map(|now| sent(&mut node, now)), [0, 2]);
    assert_eq!([late + heartbeat / 2, late + heartbeat + 2].map(|now| sent(&mut node, now)), [0, 2]);
    for rto in [Rto::Fast, Rto::Norm, Rto::Safe, Rto::Wide] {
        let timing = Timing::of(rto);
        assert!(timing.heartbeat * 3 / 2 < timing.fence / 2, "{rto:?}");
    }
}
