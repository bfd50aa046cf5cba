//! Subnets and addresses.

use std::{collections::HashMap, net::Ipv4Addr};

use super::{Context, list};
use crate::{
    lab::{data_subnet, mgmt_subnet},
    subnet::Subnet,
};

/// Longest and shortest prefix of a network: 5 hosts at least, and nobody's whole company at most.
const PREFIXES: std::ops::RangeInclusive<u8> = 16..=29;

/// The networks by their keys.
const DATA: &str = "network";
const MGMT: &str = "management_network";

pub(super) fn check(context: &mut Context<'_>) {
    let topology = context.topology;
    let (data, mgmt) = (data_subnet(topology), mgmt_subnet(topology));
    let hosts = u32::try_from(topology.hosts.len()).unwrap_or(u32::MAX);
    for (key, given) in [(DATA, topology.network), (MGMT, topology.management_network)] {
        if let Some(subnet) = given {
            range(context, key, subnet);
        }
    }
    let derived = |key: &str, subnet| format!("`{key}` is {subnet}, derived from the name of the lab");
    if data.overlaps(mgmt) && !context.is_hole(&[DATA]) && !context.is_hole(&[MGMT]) {
        let (key, other) = if topology.management_network.is_some() { (MGMT, data) } else { (DATA, mgmt) };
        let other_key = if key == MGMT { DATA } else { MGMT };
        let mut hints = vec!["the two networks of a lab must not share addresses".to_owned()];
        if topology.network.is_none() || topology.management_network.is_none() {
            hints.push(derived(other_key, other));
        }
        context.error(&[key], format!("this subnet overlaps `{other_key}` ({other})"), &hints);
    }
    for (key, subnet) in [(DATA, data), (MGMT, mgmt)] {
        // A prefix that is not possible has its finding.
        let possible = PREFIXES.contains(&subnet.prefix());
        if possible && !context.is_hole(&[key]) && subnet.capacity() < hosts {
            full(context, key, subnet, hosts);
        }
    }
    if !context.is_hole(&[DATA]) {
        addresses(context, data, mgmt);
    }
}

/// Whether VMs may have the addresses of the subnet.
fn range(context: &mut Context<'_>, key: &str, subnet: Subnet) {
    if !PREFIXES.contains(&subnet.prefix()) {
        let (shortest, longest) = (PREFIXES.start(), PREFIXES.end());
        let message = format!("a prefix of /{} is not possible: /{shortest} to /{longest}", subnet.prefix());
        context.error(&[key], message, &[]);
        return;
    }
    let within = |text: &str| text.parse().is_ok_and(|range: Subnet| range.overlaps(subnet));
    let special = [
        ("0.0.0.0/8", "this host"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local addresses"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "nothing yet"),
    ];
    let private = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"];
    let hint = "private ranges: 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16".to_owned();
    if let Some((range, what)) = special.into_iter().find(|(range, _)| within(range)) {
        context.error(&[key], format!("{subnet} cannot be a network: {range} is for {what}"), &[hint]);
    } else if !private.into_iter().any(within) {
        let message = format!(
            "{subnet} is not private: the hosts, and this machine, lose what is there on the internet"
        );
        context.warning(&[key], message, &[hint]);
    }
}

/// More hosts than addresses.
fn full(context: &mut Context<'_>, key: &str, subnet: Subnet, hosts: u32) {
    let message = format!("{subnet} has room for {} hosts, the lab has {hosts}", subnet.capacity());
    let room =
        |prefix: &u8| Subnet::new(subnet.network(), *prefix).filter(|subnet| subnet.capacity() >= hosts);
    let hint = PREFIXES
        .rev()
        .find_map(|prefix| room(&prefix))
        .map(|larger| format!("{larger} has room for {}", larger.capacity()));
    context.error(&[key], message, &hint.into_iter().collect::<Vec<_>>());
}

fn addresses(context: &mut Context<'_>, data: Subnet, mgmt: Subnet) {
    let mut taken: HashMap<Ipv4Addr, &str> = HashMap::new();
    for (name, host) in &context.topology.hosts {
        let Some(address) = host.address else { continue };
        let path = ["hosts", name.as_str(), "address"];
        let (first, last) = (data.host(0), data.host(data.capacity().saturating_sub(1)));
        let range = first.zip(last).map(|(first, last)| format!("hosts of {data}: {first} to {last}"));
        let hints: Vec<_> = range.into_iter().collect();
        let index = data.index_of(address);
        if !data.contains(address) {
            context.error(&path, format!("{address} is outside the network {data}"), &hints);
        } else if address == data.gateway() {
            context.error(&path, format!("{address} is the gateway, the hypervisor's own address"), &hints);
        } else if index.is_none() {
            let which = if address == data.network() { "network" } else { "broadcast" };
            context.error(&path, format!("{address} is the {which} address of {data}"), &hints);
        } else if index >= Some(mgmt.capacity()) && mgmt.capacity() > 0 {
            let message =
                format!("{address} has no counterpart in the management network {mgmt}, which is smaller");
            context.error(
                &path,
                message,
                &["make both networks of the same size, or take a lower address".to_owned()],
            );
        }
        if let Some(other) = taken.insert(address, name) {
            context.error(&path, format!("{address} is the address of `{}` already", list([other])), &[]);
        }
    }
}
