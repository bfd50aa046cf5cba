//! What must hold at every moment, and at the end.

use std::time::Duration;

use pgagent_core::{Member, Site, node::Phase};

use super::lab::{Lab, MEMBERS, REPAIRED, TIMING, index};

pub fn always(lab: &mut Lab) -> Result<(), String> {
    let open = |site: Site| lab.pg[site.index()].writable() && lab.gate_open(site, |gate| gate.clients);
    // A machine that stood still may serve stale reads until its fence time is over: docs/failover.md.
    if open(Site::One) && open(Site::Two) && !lab.stood_still {
        return Err(format!("I1: both hosts are open for writes at {} ms", lab.now));
    }
    // The arbiter's disk, which stays when its process goes; while it has none, nothing can be said about it.
    let record = lab.arbiter_disk.as_ref().and_then(|disk| disk.record.as_ref());
    if let Some(record) = record {
        let lacks = |site: Site| lab.acked.iter().rev().take(30).find(|mark| !has(lab, site, **mark));
        if let Some(mark) = lacks(record.primary) {
            return Err(format!("I2a: the primary lacks acknowledged commit {mark} at {} ms", lab.now));
        }
        if record.in_sync
            && let Some(mark) = lacks(record.primary.other())
        {
            return Err(format!("I2b: a standby that may be promoted lacks commit {mark} at {} ms", lab.now));
        }
        let pg = &lab.pg[record.primary.index()];
        if record.in_sync && pg.writable() && !pg.sync {
            return Err(format!(
                "I5: the primary acknowledges alone at {} ms, and the record says SYNC",
                lab.now
            ));
        }
    }
    if lab.disks.iter().all(|disk| disk.role == pgagent_core::node::Role::Rejoining) {
        return Err(format!("I12: both hosts replace their data at {} ms", lab.now));
    }
    isolation(lab)
}

fn has(lab: &Lab, site: Site, mark: u16) -> bool {
    lab.pg[site.index()].wal.iter().rev().take(400).any(|it| *it == mark)
}

/// I8: who can reach neither of the others is closed when the fence time is over.
fn isolation(lab: &mut Lab) -> Result<(), String> {
    for site in Site::ALL {
        let me = Member::Data(site);
        let reaches = MEMBERS
            .into_iter()
            .filter(|other| *other != me)
            .any(|other| lab.both_ways(me, other) && lab.hosts[index(other)].powered);
        let since = lab.isolated[site.index()];
        lab.isolated[site.index()] = if reaches { None } else { since.or(Some(lab.now)) };
        let Some(since) = lab.isolated[site.index()] else { continue };
        let limit = u128::from(lab.now - since) * u128::from(lab.hosts[site.index()].rate) / 1000;
        let open = lab.pg[site.index()].writable() && lab.gate_open(site, |gate| gate.clients);
        // What was on its way when the link went may still arrive; nothing that comes later counts.
        if open && limit > (TIMING.fence() + Duration::from_millis(10)).as_millis() && !lab.stood_still {
            return Err(format!("I8: {site:?} is isolated since {since} ms and open at {} ms", lab.now));
        }
    }
    Ok(())
}

/// I9: everything is repaired, so there is a primary with a synchronous standby, and it serves.
pub fn at_the_end(lab: &mut Lab) -> Result<(), String> {
    let phases = lab.nodes.each_ref().map(|node| node.phase);
    let pair = matches!(phases, [Phase::Sync, Phase::Standby] | [Phase::Standby, Phase::Sync]);
    let in_sync = lab.arbiter.record().is_some_and(|record| record.in_sync && record.confirmed);
    if !pair || !in_sync {
        return Err(format!(
            "I9: {} s after the repair: {phases:?}, in sync: {in_sync}",
            (lab.now - REPAIRED) / 1000
        ));
    }
    let primary = if phases[0] == Phase::Sync { Site::One } else { Site::Two };
    if !lab.gate_open(primary, |gate| gate.clients) {
        return Err("I9: the primary is closed".to_owned());
    }
    let lacks = lab.acked.iter().find(|mark| !lab.pg[primary.index()].wal.contains(mark));
    match lacks {
        Some(mark) => Err(format!("acknowledged commit {mark} is lost")),
        None => Ok(()),
    }
}
