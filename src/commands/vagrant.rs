//! `pgprov vagrant-hosts`: what the Vagrantfile needs to know of a topology, so that there is one parser of topologies.

use pgplan::{
    lab::{self, Pins},
    topology::Image,
};
use serde_json::json;

use super::{context::Assets, image};
use crate::{
    cli::{Global, TopologyFile},
    error::{Error, Result},
    image::VagrantBox,
    ui::{self, Ui},
};

/// Prints the hosts with their addresses, and the box.
///
/// # Errors
/// The topology has errors, or its image cannot be a box.
pub fn run(ui: &Ui, global: &Global, args: &TopologyFile) -> Result {
    let assets = Assets::load(global)?;
    let (_, topology) = assets.topology(ui, &args.file)?;
    let Image::Built { release, .. } = topology.image else {
        return Err(Error::usage("only images that pgprov builds can be boxes")
            .hint("for a stock image, use a box of its maker and `pgprov up --hosts`"));
    };
    let made = VagrantBox::of(&image::recipe(&assets, release).name());
    let lab = lab::derive(&topology, &Pins::new());
    if !ui.json() {
        let rows: Vec<Vec<String>> =
            lab.hosts.iter().map(|host| vec![host.name.clone(), host.data.address.to_string()]).collect();
        ui.out(&ui::table(&["HOST", "ADDRESS"], &rows));
        ui.out(&format!("box {} {}", made.name, made.version));
        return Ok(());
    }
    let hosts: Vec<_> =
        lab.hosts.iter().map(|host| json!({"name": host.name, "address": host.data.address})).collect();
    ui.out_json(&json!({
        "lab": lab.name,
        "box": made.name,
        "box_version": made.version,
        "memory_mib": lab.vm.memory.0 >> 20,
        "cpus": lab.vm.cpus,
        "netmask": lab.data.netmask,
        "prefix": lab.data.subnet.prefix(),
        "management_network": lab.mgmt.subnet.to_string(),
        "hosts": hosts,
    }));
    Ok(())
}
