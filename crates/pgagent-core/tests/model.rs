//! Exhaustive search: every order of events that a small cluster can meet.
//!
//! Time is an adversary: on each host any amount of it may pass before any event, so that every timeout may have run out
//! or not, and a gate may be open whenever everything but its lease allows it. Requests and replies stay in the network
//! for ever and may be delivered again at any time, or never. Agents, hosts and the arbiter crash between any two steps, and
//! what an agent had begun may be done after it.
//! What is left to check is what may never depend on time: no acknowledged commit is lost.

mod model {
    pub mod cluster;
    pub mod heal;
    pub mod rules;
}
mod world;

use std::time::Duration;

use model::cluster::{Bounds, Cluster, Flaw};
use stateright::{Checker, HasDiscoveries, Model};

/// `PGAGENT_VERIFY=full` searches as far as `make verify` wants.
#[expect(clippy::disallowed_methods, reason = "tests may ask how much they should do")]
fn full() -> bool {
    std::env::var("PGAGENT_VERIFY").is_ok_and(|value| value == "full")
}

/// Looks at every state that can be reached in as many steps as the bounds allow.
fn search(name: &str, bounds: Bounds, deeper: usize) {
    let bounds = if full() { bounds.deeper(deeper) } else { bounds };
    let cluster = Cluster { flaw: Flaw::None, bounds };
    let checker = cluster.checker().threads(2).target_max_depth(bounds.depth).spawn_bfs().join();
    report(|| format!("{name}: {} states, {} steps deep", checker.unique_state_count(), checker.max_depth()));
    assert_eq!(checker.max_depth(), bounds.depth, "{name}: the search ended early");
    checker.assert_properties();
}

fn report(text: impl Fn() -> String) {
    if std::env::args().any(|argument| argument == "--nocapture") {
        #[expect(clippy::print_stderr, reason = "asked for")]
        {
            eprintln!("{}", text());
        }
    }
}

/// The search must find what a guard prevents, once the guard is gone.
fn finds(flaw: Flaw, bounds: Bounds) {
    let cluster = Cluster { flaw, bounds };
    let checker = cluster
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures)
        .timeout(Duration::from_secs(300))
        .spawn_bfs()
        .join();
    let found = checker.discoveries();
    let broken: Vec<_> = found.keys().filter(|name| name.starts_with('I')).collect();
    assert!(
        !broken.is_empty(),
        "{flaw:?}: nothing found in {} states, {} deep",
        checker.unique_state_count(),
        checker.max_depth()
    );
    for name in broken {
        let steps = found[name].clone().into_actions();
        report(|| format!("{flaw:?} breaks {name} in {} steps: {steps:#?}", steps.len()));
    }
}

#[test]
fn no_order_of_events_loses_a_commit() {
    search("crashes", Bounds::CRASHES, 3);
}

#[test]
fn sync_can_be_reached_from_every_state() {
    search("heal", Bounds::HEAL, 3);
}

#[test]
fn a_switchover_loses_no_commit() {
    search("switchover", Bounds::SWITCHOVER, 4);
}

#[test]
fn an_arbiter_without_memory_loses_no_commit() {
    search("losses", Bounds::LOSSES, 3);
}

#[test]
fn without_compare_and_swap_commits_are_lost() {
    finds(Flaw::NoCas, Bounds::FLAWS);
}

#[test]
fn without_nonces_commits_are_lost() {
    finds(Flaw::NoNonce, Bounds::FLAWS);
}

#[test]
fn a_primary_that_goes_on_alone_before_the_arbiter_agrees_loses_commits() {
    finds(Flaw::ClearBeforeOk, Bounds::FLAWS);
}

#[test]
fn a_primary_that_opens_before_it_is_confirmed_loses_commits() {
    finds(Flaw::OpenBeforeConfirm, Bounds::FLAWS);
}

#[test]
fn a_standby_that_counts_before_it_caught_up_loses_commits() {
    finds(Flaw::SyncAtOnce, Bounds::FLAWS);
}

#[test]
fn a_former_agents_sessions_that_are_left_alone_lose_commits() {
    finds(Flaw::OldSessions, Bounds { crashes: 1, ..Bounds::FLAWS });
}
