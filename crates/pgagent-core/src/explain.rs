//! One sentence about why a host does what it does, and what an operator can do about it.

use crate::{
    Durability, Time,
    node::{Config, Node, Phase, Role, Server},
};

/// Why nothing moves, or what does; and the command that helps, if one does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// A sentence.
    pub why: String,
    /// A command line.
    pub next: Option<&'static str>,
}

/// Explains a data host.
pub fn node(config: &Config, node: &Node, now: Time) -> Explanation {
    let hears_arbiter = !now.past(node.arbiter.heard, config.timing.fence());
    let hears_peer = !now.past(node.peer.heard, config.timing.fence());
    let lease = node.lease().is_some_and(|until| until > now);
    let say = |why: &str, next: Option<&'static str>| Explanation { why: why.to_owned(), next };
    if let (Some(op), true) = (node.op, node.phase != Phase::Sync) {
        return say(&format!("PostgreSQL is being changed: {op:?}"), None);
    }
    match node.phase {
        Phase::Starting => starting(node, hears_arbiter),
        Phase::Halted => say(
            "the data belongs to another cluster: its system identifier is not the record's; if this host was made anew, \
                 move its data directory away and restart pgagent: it gets a copy",
            None,
        ),
        Phase::Standby => standby(node, hears_arbiter, hears_peer),
        Phase::Voting => match node.refused {
            Some((refusal, _)) => {
                say(&format!("asks to be promoted, and the arbiter refuses: {}", refusal.why()), None)
            }
            None => say("asks the arbiter to be promoted", None),
        },
        Phase::Promoting => say("was chosen and makes PostgreSQL primary", None),
        Phase::Confirming => match node.refused {
            Some((refusal, _)) => {
                say(&format!("waits for leave to open, which the arbiter refuses: {}", refusal.why()), None)
            }
            None if hears_arbiter => say("is writable and waits for leave to open", None),
            None => say(
                "is writable and waits for the arbiter's leave to open, but the arbiter is not heard",
                None,
            ),
        },
        phase if phase.serves() && !lease => say(
            "is closed: neither the other host nor the arbiter answers, so that this host may be the one that is cut off",
            None,
        ),
        phase if phase.serves() && !node.may_open(config, now) => say(
            "is closed: the standby does not have everything yet that may have been acknowledged before the restart",
            None,
        ),
        Phase::Sync
            if config.durability == Durability::MaxProtection
                && now.past(node.acked, config.timing.sync_loss()) =>
        {
            say("commits wait for the standby, which is away; it has every acknowledged one", None)
        }
        Phase::Sync if !hears_arbiter => {
            say("serves; failover is off, because the arbiter is not heard", None)
        }
        Phase::Sync => say("serves, and the standby can take over at any time", None),
        Phase::Degrading => degrading(config, node, hears_arbiter),
        Phase::Solo if node.durable.maintenance => {
            say("serves alone, because of maintenance", Some("pgagent maintenance off"))
        }
        Phase::Solo => say("serves alone: no standby streams, and none can take over", None),
        Phase::Resyncing => resyncing(config, hears_arbiter),
        Phase::Draining => say("is closed for a switchover until the standby has everything", None),
        Phase::HandingOver if hears_arbiter => say("is stopped and gives its place to the standby", None),
        Phase::HandingOver => {
            say("is stopped for a switchover whose outcome only the arbiter knows, and it is not heard", None)
        }
        Phase::Superseded => superseded(node),
        Phase::Rejoining if node.failed.0 > 0 => {
            say("copying the new primary's data has failed and is tried again", Some("pgagent status"))
        }
        Phase::Rejoining if node.record().is_some_and(|record| record.in_sync) => {
            say("is to be copied anew, and waits until the primary goes on alone", None)
        }
        Phase::Rejoining => say("copies the new primary's data", None),
    }
}

fn starting(node: &Node, hears_arbiter: bool) -> Explanation {
    let why = match (node.record(), node.server()) {
        (_, None | Some(Server::Busy)) => "looks at PostgreSQL, which is starting",
        (None, _) if !hears_arbiter => "has never seen a record, and the arbiter is not heard",
        (None, _) => "waits until the arbiter has heard both hosts and made the first record",
        (Some(_), Some(Server::Absent)) => "is to be primary, but has no data",
        (Some(_), _) => "the record names this host primary, but its data is not that primary's",
    };
    Explanation { why: why.to_owned(), next: None }
}

fn standby(node: &Node, hears_arbiter: bool, hears_peer: bool) -> Explanation {
    let in_sync = node.record().is_some_and(|record| record.in_sync);
    let why = match (hears_peer, hears_arbiter, in_sync) {
        _ if node.durable.maintenance => "follows; it is not promoted during maintenance",
        (true, true, true) => "follows, and can take over",
        (true, true, false) => "follows, and cannot take over yet: it lacks acknowledged commits",
        (true, false, _) => "follows; failover is off, because the arbiter is not heard",
        (false, false, _) => {
            "hears neither the primary nor the arbiter: this host may be the one that is cut off, so it waits"
        }
        (false, true, true) => {
            "does not hear the primary, and asks the arbiter about it when the promote time is over"
        }
        (false, true, false) => {
            "does not hear the primary, and lacks acknowledged commits: it must not take over"
        }
    };
    let next = (!hears_peer && (!hears_arbiter || !in_sync)).then_some("pgagent promote --accept-data-loss");
    let next = if node.durable.maintenance { Some("pgagent maintenance off") } else { next };
    Explanation { why: why.to_owned(), next }
}

fn degrading(config: &Config, node: &Node, hears_arbiter: bool) -> Explanation {
    let why = match node.refused {
        _ if config.durability == Durability::MaxProtection => "commits wait for the standby".to_owned(),
        _ if !hears_arbiter => {
            "commits wait: the standby is lost, and only the arbiter, which is not heard, can allow to go on alone".to_owned()
        }
        Some((refusal, _)) => format!("commits wait: the arbiter does not allow to go on alone: {}", refusal.why()),
        None => "commits wait: the standby is lost, and the arbiter was asked to go on alone".to_owned(),
    };
    Explanation { why, next: None }
}

fn resyncing(config: &Config, hears_arbiter: bool) -> Explanation {
    let why = if config.durability == Durability::MaxProtection {
        "commits wait for the standby, which catches up or is away"
    } else if hears_arbiter {
        "serves, and the standby catches up"
    } else {
        "serves, and the standby catches up; it cannot take over before the arbiter, which is not heard, has recorded that"
    };
    Explanation { why: why.to_owned(), next: None }
}

fn superseded(node: &Node) -> Explanation {
    let confirmed = node.record().is_some_and(|record| record.confirmed);
    let why = match (confirmed, node.refused) {
        (true, _) => {
            "is closed: the other host is primary; PostgreSQL is stopped so that its data can be replaced"
                .to_owned()
        }
        (false, Some((refusal, _))) if node.durable.role == Role::Primary => {
            format!("is closed: the other host was chosen; it is not open yet ({})", refusal.why())
        }
        (false, _) => "is closed: the other host was chosen and is not open yet".to_owned(),
    };
    Explanation { why, next: None }
}
