//! What breaks.

use pgagent_core::{
    Member, Site, arbiter,
    node::{Command, Event, Gate},
};

use super::lab::{Lab, MEMBERS, REPAIRED, index};

#[derive(Clone, Debug)]
pub enum Fault {
    /// One direction of a link.
    Cut(usize, usize, bool),
    /// A host and everyone else.
    Isolate(usize, bool),
    KillAgent(usize),
    FreezeAgent(usize, u64),
    /// A virtual machine stands still, with its clock and its kernel, for so many ms.
    StandStill(usize, u64),
    PowerOff(usize),
    PowerOn(usize),
    KillServer(usize),
    LoseArbiterDisk,
    Switchover,
    /// Work on the cluster begins or ends.
    Maintenance(bool),
    /// Each standby is to be copied anew.
    Rejoin,
    /// The arbiter is to make its record anew.
    Replace,
    Repair,
}

/// A few faults at random moments, some of them repaired before the end.
pub fn plan(lab: &mut Lab) {
    let count = lab.rng.between(1, 7);
    for _ in 0..count {
        let when = lab.rng.between(4_000, REPAIRED - 1_000);
        let until = when + lab.rng.between(100, 15_000);
        let who = lab.rng.between(0, 3) as usize;
        let data = lab.rng.between(0, 2) as usize;
        match lab.rng.between(0, 15) {
            0 | 1 => {
                let other = (who + 1 + lab.rng.between(0, 2) as usize) % 3;
                let one_way = lab.rng.chance(300);
                for (a, b) in [(who, other), (other, who)].into_iter().take(if one_way { 1 } else { 2 }) {
                    lab.fault_at(when, Fault::Cut(a, b, true));
                    lab.fault_at(until, Fault::Cut(a, b, false));
                }
            }
            2 | 3 => {
                lab.fault_at(when, Fault::Isolate(who, true));
                lab.fault_at(until, Fault::Isolate(who, false));
            }
            4 => lab.fault_at(when, Fault::KillAgent(who)),
            5 => {
                let span = lab.rng.between(100, 12_000);
                lab.fault_at(when, Fault::FreezeAgent(who, span));
            }
            6 if lab.rng.chance(300) => {
                let span = lab.rng.between(100, 12_000);
                lab.fault_at(when, Fault::StandStill(who, span));
            }
            6 | 7 => {
                lab.fault_at(when, Fault::PowerOff(who));
                lab.fault_at(until, Fault::PowerOn(who));
            }
            8 => lab.fault_at(when, Fault::KillServer(data)),
            9 if lab.rng.chance(400) => lab.fault_at(when, Fault::LoseArbiterDisk),
            9 | 10 => lab.fault_at(when, Fault::Switchover),
            11 => {
                lab.fault_at(when, Fault::Maintenance(true));
                lab.fault_at(until, Fault::Maintenance(false));
            }
            12 => lab.fault_at(when, Fault::Rejoin),
            13 => lab.fault_at(when, Fault::Replace),
            _ => {
                // A power cut of everything, in any order back.
                for host in 0..3 {
                    lab.fault_at(when, Fault::PowerOff(host));
                    let back = until + lab.rng.between(0, 5_000);
                    lab.fault_at(back, Fault::PowerOn(host));
                }
            }
        }
    }
    lab.fault_at(REPAIRED, Fault::Repair);
}

pub fn happen(lab: &mut Lab, fault: Fault) {
    match fault {
        Fault::Cut(from, to, cut) => lab.up[from][to] = !cut,
        Fault::Isolate(host, cut) => {
            for other in (0..3).filter(|other| *other != host) {
                lab.up[host][other] = !cut;
                lab.up[other][host] = !cut;
            }
        }
        Fault::KillAgent(host) => {
            if lab.hosts[host].powered {
                lab.restart_agent(MEMBERS[host]);
            }
        }
        Fault::FreezeAgent(host, span) => lab.hosts[host].frozen = lab.now + span,
        Fault::StandStill(host, span) => {
            lab.stood_still = true;
            let now = lab.now;
            let host = &mut lab.hosts[host];
            host.frozen = now + span;
            // Its clock goes on where it stopped.
            host.boot = host.boot.saturating_sub(span * host.rate / 1000);
        }
        Fault::PowerOff(host) => power_off(lab, host),
        Fault::PowerOn(host) => {
            if !lab.hosts[host].powered {
                lab.hosts[host].powered = true;
                lab.restart_agent(MEMBERS[host]);
            }
        }
        Fault::KillServer(host) => lab.pg[host].crash(),
        Fault::LoseArbiterDisk => {
            lab.arbiter_disk = None;
            if lab.hosts[2].powered {
                lab.restart_agent(Member::Arbiter);
            }
        }
        Fault::Switchover => {
            for site in Site::ALL {
                if lab.thinks(Member::Data(site)) && lab.nodes[site.index()].phase.serves() {
                    lab.node(site, Event::Command(Command::Switchover));
                }
            }
        }
        Fault::Maintenance(on) => command(lab, Command::Maintenance(on)),
        Fault::Rejoin => command(lab, Command::Rejoin),
        Fault::Replace => {
            if lab.hosts[2].powered {
                lab.arbiter_event(arbiter::Event::Replace);
            }
        }
        Fault::Repair => {
            lab.up = [[true; 3]; 3];
            lab.loss = 0;
            for member in MEMBERS {
                lab.hosts[index(member)].frozen = 0;
                if !lab.hosts[index(member)].powered {
                    happen(lab, Fault::PowerOn(index(member)));
                }
            }
            command(lab, Command::Maintenance(false));
        }
    }
}

/// Tells both data hosts, if they are there.
fn command(lab: &mut Lab, command: Command) {
    for site in Site::ALL {
        if lab.hosts[site.index()].powered {
            lab.node(site, Event::Command(command));
        }
    }
}

fn power_off(lab: &mut Lab, host: usize) {
    lab.hosts[host].powered = false;
    lab.hosts[host].life += 1;
    lab.hosts[host].gate = Gate::default();
    if host < 2 {
        lab.pg[host].crash();
    }
}
