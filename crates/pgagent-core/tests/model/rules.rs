//! What must hold in every state, what must happen in some, and what of a state is worth telling apart.

use pgagent_core::{
    Lsn, Time,
    node::{Node, Phase, Receiver, Role, Server, Standby},
};
use stateright::Property;

use super::{
    cluster::{Cluster, Flaw, NOW, State},
    heal,
};

/// Drops what has no influence here, so that fewer states have to be looked at. A moment becomes now or long ago.
pub fn forget(node: &mut Node, requests: u32) {
    each_moment(node, |time| {
        if *time != NOW {
            *time = Time(0);
        }
    });
    let serves = node.phase.serves();
    node.gate = None;
    node.beat = Some(NOW);
    node.void = None;
    node.refused = None;
    node.probe = None;
    node.started = Time(0);
    node.count = node.count.min(requests + 1);
    node.flush = Lsn(0);
    node.failed = (node.failed.0.min(2), Time(0));
    // Sending the same again changes nothing in a network that forgets nothing; a setting is in force at once.
    if let Some(pending) = &mut node.pending {
        pending.sent = Time(0);
    }
    node.resync.since = node.resync.since.map(|_| Time(0));
    if node.phase != Phase::Draining {
        node.since = Time(0);
        node.peer.wal = Lsn(0);
    }
    let follows = match &node.seen {
        Some(Server::Up(up)) => up.receiver == Receiver::Streaming,
        _ => false,
    };
    if node.phase != Phase::Standby || follows {
        node.streamed = NOW;
    }
    if !matches!(node.phase, Phase::Sync | Phase::Resyncing | Phase::Degrading | Phase::Solo) {
        node.acked = Time(0);
    }
    if serves {
        node.peer.heard = NOW;
        if let Some(Server::Up(up)) = &mut node.seen {
            up.wal = Lsn(0);
            up.standby = up.standby.map(|it| Standby { sync: it.sync, flush: Lsn(0), replay: Lsn(0) });
        }
    }
    node.arbiter.heard = NOW;
    if let Some(caught) = node.caught.as_mut().filter(|caught| caught.done) {
        caught.target = Lsn(0);
    }
    for contact in [&mut node.peer, &mut node.arbiter] {
        contact.lease = None;
        contact.granted = None;
        contact.order = (0, Time(0));
        contact.timing = None;
    }
    node.arbiter.wal = Lsn(0);
}

/// A long time passes.
pub fn age(node: &mut Node) {
    each_moment(node, |time| *time = Time(0));
    // The arbiter answers, or nothing is decided anyway.
    node.arbiter.heard = NOW;
}

fn each_moment(node: &mut Node, change: impl Fn(&mut Time)) {
    let moments =
        [&mut node.since, &mut node.acked, &mut node.streamed, &mut node.peer.heard, &mut node.arbiter.heard];
    moments.into_iter().for_each(change);
}

fn has_all(state: &State, site: pgagent_core::Site) -> bool {
    state.acked.iter().all(|mark| state.pg[site.index()].wal.contains(mark))
}

/// The rules, by the numbers of docs/failover.md.
pub fn properties(cluster: &Cluster) -> Vec<Property<Cluster>> {
    let mut all = vec![
        Property::always(
            "I2a: the recorded primary has every acknowledged commit",
            |_: &Cluster, state: &State| {
                state.arbiter.record().is_none_or(|record| has_all(state, record.primary))
            },
        ),
        Property::always(
            "I2b: a standby that may be promoted has every acknowledged commit",
            |_: &Cluster, state: &State| {
                state
                    .arbiter
                    .record()
                    .is_none_or(|record| !record.in_sync || has_all(state, record.primary.other()))
            },
        ),
        Property::always("I3: one primary per epoch, and epochs never fall", |_: &Cluster, state: &State| {
            state.broken != Some("I3")
        }),
        Property::always("I4: PostgreSQL is promoted only after a grant", |_: &Cluster, state: &State| {
            state.broken != Some("I4")
        }),
        Property::always(
            "I5: a primary acknowledges alone only when the record says SOLO",
            |_: &Cluster, state: &State| {
                state.arbiter.record().is_none_or(|record| {
                    let pg = &state.pg[record.primary.index()];
                    !record.in_sync || pg.sync || !pg.writable()
                })
            },
        ),
        Property::always("I12: never are both hosts replacing their data", |_: &Cluster, state: &State| {
            state.nodes.iter().any(|node| node.durable.role != Role::Rejoining)
        }),
        Property::always(
            "I13: a restarted primary opens when the standby has its log, or alone",
            |cluster: &Cluster, state: &State| {
                pgagent_core::Site::ALL.into_iter().all(|site| {
                    let (own, other) = (&state.pg[site.index()], &state.pg[site.other().index()]);
                    let in_sync =
                        state.arbiter.record().is_some_and(|record| record.in_sync && record.primary == site);
                    !cluster.open(state, site) || !in_sync || other.wal.len() >= own.start
                })
            },
        ),
    ];
    if cluster.flaw == Flaw::None {
        if cluster.bounds.heal {
            all.push(Property::always("I10: SYNC can be reached from here", |_: &Cluster, state: &State| {
                heal::heals(state)
            }));
        }
        if cluster.bounds.losses > 0 {
            all.push(Property::sometimes(
                "both hosts give the arbiter a record",
                |_: &Cluster, state: &State| {
                    state.arbiter.record().is_some_and(|record| record.stamp.incarnation > 1)
                },
            ));
        } else {
            all.push(Property::sometimes(
                "a commit is acknowledged after a failover",
                |_: &Cluster, state: &State| {
                    state.arbiter.record().is_some_and(|record| record.epoch > 1 && !state.acked.is_empty())
                },
            ));
        }
        all.extend([Property::sometimes("the standby is in sync", |_: &Cluster, state: &State| {
            state.arbiter.record().is_some_and(|record| record.in_sync)
        })]);
        if cluster.bounds.losses == 0 {
            all.push(Property::sometimes("the primary goes on alone", |_: &Cluster, state: &State| {
                state.nodes[0].phase == Phase::Solo && !state.pg[0].sync && state.pg[0].started == 1
            }));
        }
        if cluster.bounds.depth > 16 {
            all.extend([
                Property::sometimes("the old primary rejoins", |_: &Cluster, state: &State| {
                    state.arbiter.record().is_some_and(|record| record.epoch > 1)
                        && state.nodes[0].phase == Phase::Standby
                        && state.pg[0].wal.contains(&(crate::world::TIMELINE + 2))
                }),
                Property::sometimes("the old primary takes its place back", |_: &Cluster, state: &State| {
                    state.arbiter.record().is_some_and(|record| record.epoch == 3 && record.confirmed)
                        && state.nodes[0].phase.serves()
                        && state.nodes[0].durable.epoch == 3
                }),
            ]);
        }
        if cluster.bounds.switchovers > 0 && cluster.bounds.depth > 16 {
            all.push(Property::sometimes("a switchover", |_: &Cluster, state: &State| {
                state.nodes[0].phase == Phase::Standby && state.nodes[1].phase.serves()
            }));
        }
    }
    all
}
