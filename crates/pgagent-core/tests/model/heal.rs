//! From any state: with every fault repaired, the cluster gets back to SYNC by itself.

use stateright::Model;

use pgagent_core::{Site, node::Phase};

use super::cluster::{Bounds, Cluster, Flaw, State, Step};

/// Without bounds on what hosts ask for.
const HEALTHY: Cluster = Cluster {
    flaw: Flaw::None,
    bounds: Bounds {
        depth: 0,
        requests: 1_000,
        writes: 0,
        crashes: 0,
        losses: 0,
        switchovers: 0,
        epochs: 1_000,
        heal: false,
    },
};

/// Whether one primary with a synchronous standby is reached when messages are delivered, time passes and nothing else
/// happens.
pub fn heals(state: &State) -> bool {
    let mut state = state.clone();
    state.losses = 1;
    for node in &mut state.nodes {
        // Requests that the bounds swallowed were never sent; the next one is.
        node.pending = None;
    }
    for round in 0..60 {
        if healthy(&state) {
            return true;
        }
        for site in Site::ALL {
            let mut steps = vec![
                Step::HearPeer(site),
                Step::Claim(site),
                Step::Hear(site),
                Step::Look(site),
                Step::Replicate(site),
                Step::Replicate(site),
                Step::Look(site),
            ];
            // The other host and the arbiter are heard more often than timeouts run out.
            if round % 4 == 3 {
                steps.insert(0, Step::Elapse(site));
            }
            for step in steps {
                let mut enabled = Vec::new();
                HEALTHY.actions(&state, &mut enabled);
                if enabled.contains(&step) {
                    state = HEALTHY.next_state(&state, step).unwrap_or(state);
                }
            }
        }
        let letters: Vec<_> = std::mem::take(&mut state.net).into_iter().collect();
        for letter in letters {
            state = HEALTHY.next_state(&state, Step::Deliver(letter)).unwrap_or(state);
        }
    }
    healthy(&state)
}

fn healthy(state: &State) -> bool {
    let phases = [state.nodes[0].phase, state.nodes[1].phase];
    state.arbiter.record().is_some_and(|record| record.in_sync && record.confirmed)
        && (phases == [Phase::Sync, Phase::Standby] || phases == [Phase::Standby, Phase::Sync])
}
