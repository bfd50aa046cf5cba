//! `pgprov graph`: the lab as a picture.

use std::collections::BTreeMap;

use anyhow::Context as _;
use pgplan::{
    fault::Record,
    lab::{Lab, POSTGRES_ROLE},
    profile::slot_name,
};

use super::{
    context::OpenLab,
    status::{self, HostStatus},
};
use crate::{
    cli::{Global, Graph, GraphFormat},
    error::Result,
    graph::{Health, Host, Mode, Network, Picture, Replication, Server},
    ui::Ui,
};

/// Draws the lab as it is now.
///
/// # Errors
/// There is no such lab, or the file cannot be written.
pub fn run(ui: &Ui, global: &Global, args: &Graph) -> Result {
    let (open, assets) = OpenLab::find(global, args.lab.name())?;
    let rendered = open.rendered(&assets)?;
    let vms = open.observe(global)?;
    let vms = vms.as_ref().map(|(libvirt, infra)| (libvirt, infra));
    let hosts = status::collect(&open.state, &open.lab, &rendered, vms, BTreeMap::new(), BTreeMap::new());
    let faults = crate::fault::Store::new(&open.state).list()?;
    let picture = picture(&open.lab, &hosts, &faults);
    let text = match args.format {
        GraphFormat::Svg => crate::graph::svg(&picture),
        GraphFormat::Mermaid => crate::graph::mermaid(&picture),
    };
    match &args.out {
        Some(file) => {
            std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
            ui.say(&format!("Wrote {}.", file.display()));
        }
        None => ui.out(&text),
    }
    Ok(())
}

/// What to draw: the lab as the topology says, each host as it is now, and what is broken on purpose.
pub fn picture(lab: &Lab, hosts: &[HostStatus], faults: &[Record]) -> Picture {
    let network = |network: &pgplan::lab::Network| Network {
        name: network.name.clone(),
        subnet: network.subnet.to_string(),
    };
    let server = |host: &HostStatus| {
        let server = match host.role.as_str() {
            "primary" => Server::Primary,
            "standby" => Server::Standby,
            _ => Server::Unknown,
        };
        host.roles.iter().any(|role| role == POSTGRES_ROLE).then_some(server)
    };
    let is_cut = |name: &str| {
        faults.iter().any(|record| record.fault.cuts_off() && record.fault.hosts().contains(&name))
    };
    let drawn = |host: &HostStatus| Host {
        name: host.name.clone(),
        roles: host.roles.iter().filter(|role| *role != "base").cloned().collect(),
        server: server(host),
        health: health(host),
        state: host.state.clone(),
        detail: detail(host),
        data: host.address.clone(),
        mgmt: host.mgmt_address.clone(),
        cut: is_cut(&host.name),
    };
    Picture {
        lab: lab.name.clone(),
        hosts: hosts.iter().map(drawn).collect(),
        replication: hosts.iter().filter_map(|host| edge(host, hosts)).collect(),
        data: network(&lab.data),
        mgmt: network(&lab.mgmt),
        faults: faults.iter().map(|record| record.fault.to_string()).collect(),
    }
}

/// The server's version, and what the failover agent is doing when that is not what one would expect.
fn detail(host: &HostStatus) -> String {
    let version = host.postgres.as_ref().and_then(|s| s.version.as_deref()).map(version);
    let phase = host.reports.get("agent").and_then(|report| report.get("phase")?.as_str());
    let phase = phase.filter(|phase| !["sync", "standby", "arbiter"].contains(phase));
    [version.as_deref(), phase].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn version(version: &str) -> String {
    format!("PostgreSQL {}", version.split(' ').next().unwrap_or(version))
}

fn health(host: &HostStatus) -> Health {
    let serves = host.postgres.as_ref().is_none_or(|server| server.accepting);
    match host.state.as_str() {
        "running" if serves => Health::Good,
        "running" | "paused" | "saved" => Health::Warning,
        _ => Health::Bad,
    }
}

/// The stream into a standby, with what its upstream says about it.
///
/// Where roles move, the host that sees it stream is its upstream, whatever the topology began with.
fn edge(host: &HostStatus, hosts: &[HostStatus]) -> Option<Replication> {
    let sends =
        |other: &&HostStatus| other.postgres.as_ref().is_some_and(|it| it.standbys.contains(&host.name));
    let upstream = hosts.iter().find(sends).map(|other| other.name.clone());
    let from = upstream.or_else(|| host.follows.clone().filter(|_| host.role != "primary"))?;
    let server = host.postgres.as_ref();
    let sync = server.and_then(|s| s.sync_state.as_deref());
    Some(Replication {
        from,
        to: host.name.clone(),
        mode: if matches!(sync, Some("sync" | "quorum")) { Mode::Synchronous } else { Mode::Asynchronous },
        slot: slot_name(&host.name),
        lag: server.and_then(|s| s.lag_bytes).map(|bytes| format!("{bytes} B")).unwrap_or_default(),
        streaming: server.and_then(|s| s.receiver.as_deref()) == Some("streaming"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::status::Server as Seen;

    fn host(name: &str, role: &str, follows: Option<&str>, standbys: &[&str], phase: &str) -> HostStatus {
        let agent = serde_json::json!({ "agent": { "phase": phase } });
        HostStatus {
            name: name.to_owned(),
            role: role.to_owned(),
            roles: vec!["postgres".to_owned()],
            state: "running".to_owned(),
            address: String::new(),
            mgmt_address: String::new(),
            follows: follows.map(str::to_owned),
            uptime_seconds: None,
            postgres: Some(Seen {
                accepting: true,
                standbys: standbys.iter().map(|name| (*name).to_owned()).collect(),
                ..Seen::default()
            }),
            reports: agent.as_object().cloned().unwrap_or_default(),
            error: None,
        }
    }

    #[test]
    fn after_a_failover_the_arrow_points_the_other_way() {
        let (m, s) =
            (host("m", "standby", None, &[], "standby"), host("s", "primary", Some("m"), &["m"], "solo"));
        assert_eq!(detail(&s), "solo");
        let hosts = [m, s];
        let edges: Vec<_> = hosts.iter().filter_map(|host| edge(host, &hosts)).collect();
        let ends: Vec<_> = edges.iter().map(|edge| (edge.from.as_str(), edge.to.as_str())).collect();
        assert_eq!(ends, [("s", "m")]);
    }
}
