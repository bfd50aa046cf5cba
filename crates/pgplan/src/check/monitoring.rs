//! Who watches the lab.

use super::Context;
use crate::topology::MonitoringEngine;

/// The role of the host with Prometheus.
const ROLE: &str = "monitor";

pub(super) fn check(context: &mut Context<'_>) {
    let topology = context.topology;
    let place = |host: &crate::topology::Host| host.roles.iter().position(|role| role == ROLE);
    let with_role: Vec<_> =
        topology.hosts.iter().filter_map(|(name, host)| Some((name.as_str(), place(host)?))).collect();
    let Some(monitoring) = &topology.monitoring else {
        if let Some((name, index)) = with_role.first() {
            let path = ["hosts", name, "roles", &index.to_string()];
            let hint = "say so: `monitoring: { engine: packages }`".to_owned();
            context.error(&path, "the topology says nothing of monitoring", &[hint]);
        }
        return;
    };
    if context.is_hole(&["monitoring"]) || context.is_hole(&["hosts"]) {
        return;
    }
    if with_role.is_empty() {
        let hint = "give a host the role, as in `client: { roles: [client, monitor] }`".to_owned();
        context.key_error(&["monitoring"], format!("no host has the role `{ROLE}`"), &[hint]);
    }
    if monitoring.images.is_some() && monitoring.engine == MonitoringEngine::Packages {
        let hint = "write `engine: containers`, or remove it".to_owned();
        context.key_error(&["monitoring", "images"], "packages need no images", &[hint]);
    }
}
