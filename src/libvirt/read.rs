//! Reads libvirt's XML: as much of it as we look at.

use std::{collections::BTreeMap, net::Ipv4Addr};

use pgplan::{
    machine::{MARK_URI, Mark},
    subnet::Subnet,
};
use roxmltree::{Document, Node};

/// A network's definition.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Network {
    pub mark: Option<Mark>,
    pub bridge: Option<String>,
    pub subnets: Vec<Subnet>,
    pub reservations: Vec<Reservation>,
}

/// An address that DHCP keeps for a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reservation {
    pub mac: String,
    pub name: String,
    pub address: Option<Ipv4Addr>,
}

/// The mark of a domain, from the metadata in our namespace: libvirt gives the element alone, without the namespace.
pub(super) fn domain_mark(xml: &str) -> Option<Mark> {
    let document = Document::parse(xml).ok()?;
    Some(document.root_element()).filter(|element| element.tag_name().name() == "lab").and_then(mark)
}

fn mark(element: Node) -> Option<Mark> {
    let text = |name: &str| element.attribute(name).map(str::to_owned);
    Some(Mark {
        lab: text("name")?,
        part: text("host").or_else(|| text("network"))?,
        spec: text("spec").unwrap_or_default(),
        image: text("image").unwrap_or_default(),
    })
}

/// Whether the cable to that network is pulled.
pub(super) fn is_unplugged(domain: &str, kind: &str) -> bool {
    let Ok(document) = Document::parse(domain) else { return false };
    let link = interface(&document, kind).and_then(|interface| child(interface, "link"));
    link.is_some_and(|link| link.attribute("state") == Some("down"))
}

/// The interface of a domain to that network, `data` or `mgmt`.
pub(super) fn interface<'a, 'input>(domain: &'a Document<'input>, kind: &str) -> Option<Node<'a, 'input>> {
    let alias = format!("ua-{kind}");
    let is_it = |node: &Node| child(*node, "alias").and_then(|node| node.attribute("name")) == Some(&*alias);
    domain.descendants().filter(|node| node.has_tag_name("interface")).find(is_it)
}

/// The definition of a network.
pub(super) fn network(xml: &str) -> Result<Network, String> {
    let document = parse(xml)?;
    let root = document.root_element();
    let marked =
        child(root, "metadata").and_then(|node| node.children().find(|n| n.has_tag_name((MARK_URI, "lab"))));
    let mut network = Network { mark: marked.and_then(mark), ..Network::default() };
    network.bridge = child(root, "bridge").and_then(|node| node.attribute("name")).map(str::to_owned);
    for ip in root.children().filter(|node| node.has_tag_name("ip")) {
        network.subnets.extend(subnet(ip));
        let hosts = ip.descendants().filter(|node| node.has_tag_name("host"));
        network.reservations.extend(hosts.map(reservation));
    }
    Ok(network)
}

fn reservation(host: Node) -> Reservation {
    Reservation {
        mac: host.attribute("mac").unwrap_or_default().to_owned(),
        name: host.attribute("name").unwrap_or_default().to_owned(),
        address: host.attribute("ip").and_then(|ip| ip.parse().ok()),
    }
}

impl Network {
    /// Addresses by host name.
    pub(super) fn by_name(&self) -> BTreeMap<String, Ipv4Addr> {
        let named = self.reservations.iter().filter(|host| !host.name.is_empty());
        named.filter_map(|host| Some((host.name.clone(), host.address?))).collect()
    }
}

/// `<ip>` gives the address of the hypervisor, and the size as a netmask or a prefix; without either, by class.
fn subnet(ip: Node) -> Option<Subnet> {
    if ip.attribute("family").is_some_and(|family| family != "ipv4") {
        return None;
    }
    let address: Ipv4Addr = ip.attribute("address")?.parse().ok()?;
    let prefix = match (ip.attribute("prefix"), ip.attribute("netmask")) {
        (Some(prefix), _) => prefix.parse().ok()?,
        (None, Some(mask)) => u8::try_from(u32::from(mask.parse::<Ipv4Addr>().ok()?).leading_ones()).ok()?,
        (None, None) => match address.octets()[0] {
            0..=127 => 8,
            128..=191 => 16,
            _ => 24,
        },
    };
    Subnet::new(address, prefix)
}

/// Folder of a storage pool.
pub(super) fn pool_path(xml: &str) -> Result<String, String> {
    text_at(&parse(xml)?, &["target", "path"])
}

/// Path of the volume under an overlay.
pub(super) fn backing_path(xml: &str) -> Option<String> {
    text_at(&parse(xml).ok()?, &["backingStore", "path"]).ok()
}

/// Architecture and `<cpu>` element of the hypervisor, from its capabilities.
pub(super) fn host_cpu(xml: &str) -> Result<(String, String), String> {
    let document = parse(xml)?;
    let cpu = child(document.root_element(), "host").and_then(|host| child(host, "cpu"));
    let cpu = cpu.ok_or("no element <host><cpu>")?;
    let arch = child(cpu, "arch").and_then(|arch| arch.text()).ok_or("no element <host><cpu><arch>")?;
    Ok((arch.to_owned(), xml[cpu.range()].to_owned()))
}

/// Names of the features that a CPU has. libvirt spells a CPU out as the model nearest to it, and lists what it lacks of that
/// one, too.
pub(super) fn features(xml: &str) -> Result<Vec<String>, String> {
    let document = parse(xml)?;
    let lacks = |node: &Node| matches!(node.attribute("policy"), Some("disable" | "forbid"));
    let features = document.descendants().filter(|node| node.has_tag_name("feature") && !lacks(node));
    Ok(features.filter_map(|feature| feature.attribute("name")).map(str::to_owned).collect())
}

fn parse(xml: &str) -> Result<Document<'_>, String> {
    Document::parse(xml).map_err(|error| error.to_string())
}

fn text_at(document: &Document, path: &[&str]) -> Result<String, String> {
    let mut node = document.root_element();
    for name in path {
        node = child(node, name).ok_or_else(|| format!("no element <{}>", path.join("><")))?;
    }
    Ok(node.text().unwrap_or_default().to_owned())
}

pub(super) fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| child.has_tag_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulled_cable_is_noticed_by_its_network() {
        let domain = "<domain><devices><interface><alias name='ua-data'/><link state='down'/></interface>\
                      <interface><link state='up'/><alias name='ua-mgmt'/></interface></devices></domain>";
        assert!(is_unplugged(domain, "data"));
        assert!(!is_unplugged(domain, "mgmt"));
        assert!(!is_unplugged(&domain.replace("<link state='up'/>", ""), "mgmt"));
    }

    #[test]
    fn what_a_cpu_lacks_of_the_model_nearest_to_it_is_not_a_feature() {
        // Of libvirt 11 on a virtual machine whose own CPU lacks it.
        let cpu = "<cpu mode='custom' match='exact'><model fallback='allow'>EPYC</model>\
                   <feature policy='require' name='sse2'/><feature name='avx'/>\
                   <feature policy='disable' name='svm'/><feature policy='forbid' name='vmx'/></cpu>";
        assert_eq!(features(cpu).unwrap(), ["sse2", "avx"]);
    }
}
