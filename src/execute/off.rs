//! Hosts that are defined anew, shut down before they are powered off.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use pgplan::{
    observed::DomainState,
    plan::{Plan, Step},
};

use super::{World, boot_order};
use crate::observe::Answer;

/// How long a host may take: PostgreSQL has a minute to write what it holds.
const LIMIT: Duration = Duration::from_secs(90);
/// How long it may take to hear of that.
const TELL: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(300);

/// Shuts down the hosts that the plan powers off, those that others wait for last: their standbys have everything then, and no
/// failover engine sees a primary go while there is somebody to take over. One that does not go is powered off all the same.
pub fn shut_down(world: &World, plan: &Plan, answers: &BTreeMap<String, Answer>) {
    let stops =
        |name: &str| plan.steps.iter().any(|step| matches!(step, Step::StopHost { host } if host == name));
    let fleet = &world.fleet;
    for name in boot_order(&fleet.hosts).into_iter().rev().filter(|name| stops(name)) {
        let Some(answer) = answers.get(&name) else { continue };
        let line = fleet.ui.line(&name, fleet.width());
        line.now("shutting down");
        let told = answer.read("systemctl poweroff --no-block", TELL);
        if told.is_ok() && is_off(world, &name) {
            line.done("is shut down");
        } else {
            line.failed("does not shut down, and is powered off");
        }
    }
}

fn is_off(world: &World, host: &str) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < LIMIT {
        if !matches!(world.libvirt.host_state(&world.fleet.lab.name, host), Ok(Some(DomainState::Running))) {
            return true;
        }
        thread::sleep(POLL);
    }
    false
}
