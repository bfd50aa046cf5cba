//! `pgprov graph`: the lab as a picture.

use std::collections::BTreeMap;

use anyhow::Context as _;
use pgplan::{
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
    libvirt::Libvirt,
    ui::Ui,
};

/// Draws the lab as it is now.
///
/// # Errors
/// There is no such lab, or the file cannot be written.
pub fn run(ui: &Ui, global: &Global, args: &Graph) -> Result {
    let (open, assets) = OpenLab::find(global, args.lab.lab.as_deref())?;
    let rendered = open.rendered(&assets)?;
    let infra = Libvirt::connect(global.connect.as_deref())?.observe(&open.lab.name)?;
    let hosts = status::collect(&open.state, &open.lab, &rendered, Some(&infra), BTreeMap::new());
    let picture = picture(&open.lab, &hosts);
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

/// What to draw: the lab as the topology says, each host as it is now.
pub fn picture(lab: &Lab, hosts: &[HostStatus]) -> Picture {
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
    let drawn = |host: &HostStatus| Host {
        name: host.name.clone(),
        roles: host.roles.iter().filter(|role| *role != "base").cloned().collect(),
        server: server(host),
        health: health(host),
        state: host.state.clone(),
        detail: host.postgres.as_ref().and_then(|s| s.version.as_deref()).map(version).unwrap_or_default(),
        data: host.address.clone(),
        mgmt: host.mgmt_address.clone(),
        cut: false,
    };
    Picture {
        lab: lab.name.clone(),
        hosts: hosts.iter().map(drawn).collect(),
        replication: hosts.iter().filter_map(edge).collect(),
        data: network(&lab.data),
        mgmt: network(&lab.mgmt),
        faults: Vec::new(),
    }
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
fn edge(host: &HostStatus) -> Option<Replication> {
    let from = host.follows.clone()?;
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
