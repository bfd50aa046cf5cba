//! Machines that are there already, cloud or metal: an inventory says which of them is which host of a topology.
//!
//! The topology stays the same; addresses come from the inventory, packages from the machine's own mirror, and nothing is
//! known about a hypervisor.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    finding::{Finding, Findings},
    lab::Lab,
    schema::{Loaded, load},
    suggest::did_you_mean,
    yaml::Limits,
};

/// An inventory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Machines {
    /// The machines, by the name of the host in the topology that each of them is.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 2000))]
    pub hosts: BTreeMap<String, Machine>,
}

/// A machine: its address, and how to log in.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// IPv4 address on the network of PostgreSQL, agents and clients: inside `network` of the topology.
    pub address: Ipv4Addr,
    /// Name or address under which sshd is reached from here. Default: `address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9.:-]{1,253}$"), extend("x-allowed" = "a host name or an address"))]
    pub ssh: Option<String>,
    /// Port of sshd.
    #[serde(default = "ssh_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// User to log in as: root, or one that may run everything with `sudo` without a password.
    #[serde(default = "root")]
    #[schemars(regex(pattern = r"^[a-z_][a-z0-9_-]{0,31}$"), extend("x-allowed" = "a user name"))]
    pub user: String,
    /// Private key to log in with, in OpenSSH format. A relative path is beside the inventory; `~/` is the home folder.
    pub key: String,
    /// Its host key, as in its /etc/ssh/ssh_host_ed25519_key.pub. Without it, the key of the first login is trusted and pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = r"^(ssh-ed25519|ecdsa-sha2-nistp256|ssh-rsa) [A-Za-z0-9+/=]+( .*)?$"),
        extend("x-allowed" = "a public host key, e.g. ssh-ed25519 AAAA...")
    )]
    pub host_key: Option<String>,
}

fn ssh_port() -> u16 {
    22
}

fn root() -> String {
    "root".to_owned()
}

/// Reads an inventory for a lab: every finding in one pass.
pub fn read(text: &str, lab: &Lab) -> (Option<Machines>, Vec<Finding>) {
    let mut loaded: Loaded<Machines> = load(text, Limits::default());
    let mut findings = std::mem::take(&mut loaded.findings);
    if let Some(machines) = &loaded.value {
        misfits(machines, lab, &loaded, &mut findings);
    }
    loaded.findings = findings;
    loaded.finish()
}

fn misfits(machines: &Machines, lab: &Lab, loaded: &Loaded<Machines>, findings: &mut Findings) {
    let mut error = |at: &[&str], message: String, hint: Option<String>| {
        let place = loaded.locate(at);
        // The name of a host, or an address.
        let span = if at.len() == 2 { place.key } else { place.value };
        findings.add(|| Finding {
            hints: hint.into_iter().collect(),
            ..Finding::error(span, place.path, message)
        });
    };
    for host in lab.hosts.iter().filter(|host| !machines.hosts.contains_key(&host.name)) {
        if !loaded.is_hole("hosts") {
            let hint = format!("add {}: {{ address: ..., key: ... }}", host.name);
            error(&[], format!("host `{}` of the topology has no machine", host.name), Some(hint));
        }
    }
    let mut seen = BTreeSet::new();
    for (name, machine) in &machines.hosts {
        if lab.host(name).is_none() {
            let names = lab.hosts.iter().map(|host| host.name.as_str());
            let hint = did_you_mean(name, names);
            error(&["hosts", name], format!("the topology has no host `{name}`"), hint);
        }
        let at = ["hosts", name, "address"];
        if !seen.insert(machine.address) {
            error(&at, format!("{} is the address of another machine, too", machine.address), None);
        }
        if !lab.data.subnet.contains(machine.address) {
            let hint = "set `network` in the topology to the network that the machines share: pg_hba.conf lets it in";
            let message =
                format!("{} is not in {}, the network of the lab", machine.address, lab.data.subnet);
            error(&at, message, Some(hint.to_owned()));
        }
    }
}

impl Lab {
    /// Makes the hosts of the lab these machines. A host without one keeps its derived addresses.
    pub fn settle_on(&mut self, machines: &Machines) {
        for host in &mut self.hosts {
            if let Some(machine) = machines.hosts.get(&host.name) {
                // There is no network of ours beside theirs.
                host.data.address = machine.address;
                host.mgmt.address = machine.address;
                host.machine = Some(machine.clone());
            }
        }
    }

    /// Whether its hosts are machines that were there before, not VMs that pgprov makes.
    pub fn is_on_machines(&self) -> bool {
        self.hosts.iter().any(|host| host.machine.is_some())
    }
}

/// The JSON Schema of inventories, for editors.
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(Machines);
    schema.insert("title".to_owned(), "pgprov inventory".into());
    schema.to_value()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{check, excerpt, lab};

    const TOPOLOGY: &str = "lab: x\nnetwork: 192.0.2.0/24\nhosts:\n  m: { roles: [postgres] }\n  s: { roles: [postgres], follows: m }\n";

    fn example() -> Lab {
        let known = check::Known { roles: vec!["postgres".into()] };
        let topology = check::check_text(TOPOLOGY, &known).topology.expect("a topology without errors");
        lab::derive(&topology, &lab::Pins::new())
    }

    #[test]
    fn machines_give_hosts_their_addresses() {
        let mut lab = example();
        let text = "hosts:\n  m: { address: 192.0.2.7, key: id }\n  s: { address: 192.0.2.8, ssh: s.example, port: 2222, user: admin, key: /k }\n";
        let (machines, findings) = read(text, &lab);
        assert!(findings.is_empty(), "{findings:?}");
        assert!(!lab.is_on_machines());
        lab.settle_on(&machines.expect("an inventory without errors"));
        assert!(lab.is_on_machines());
        let s = lab.host("s").expect("host s");
        assert_eq!(s.data.address, Ipv4Addr::new(192, 0, 2, 8));
        assert_eq!(s.mgmt.address, s.data.address);
        let machine = s.machine.as_ref().expect("a machine");
        assert_eq!((machine.port, machine.user.as_str()), (2222, "admin"));
        let m = lab.host("m").and_then(|host| host.machine.as_ref()).expect("a machine");
        assert_eq!((m.port, m.user.as_str()), (22, "root"));
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let text = "hosts:\n  n: { address: 192.0.2.7, key: id }\n  s: { address: 198.51.100.1, key: id }\n  m2: { address: 192.0.2.7, key: id, prot: 22 }\n";
        let (machines, findings) = read(text, &example());
        assert!(machines.is_none());
        insta::assert_snapshot!(excerpt::render(&findings, "machines.yaml", text));
    }

    #[test]
    fn its_schema_says_all() {
        assert_eq!(crate::schema::unsupported::<Machines>(), BTreeSet::new());
    }
}
