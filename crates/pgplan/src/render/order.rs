//! Which host is configured before which.

use std::collections::BTreeSet;

use super::{RenderError, RenderedHost};
use crate::{
    lab::{Host, Lab},
    role::Manifest,
};

/// The upstream of a standby, unless the engine makes standbys when it is time, and every other host with a role that one
/// of ours comes after.
pub(super) fn waits_for(lab: &Lab, host: &Host, manifests: &[&Manifest]) -> Vec<String> {
    let after: BTreeSet<&str> =
        manifests.iter().flat_map(|manifest| manifest.after.iter().map(String::as_str)).collect();
    let follows = host.follows.as_ref().filter(|_| !lab.failover.engine.owns_replication());
    let earlier = |other: &&Host| {
        let role = other.roles.iter().any(|role| after.contains(role.as_str()) && !host.has_role(role));
        other.name != host.name && (role || follows == Some(&other.name))
    };
    lab.hosts.iter().filter(earlier).map(|other| other.name.clone()).collect()
}

/// A host that waits for one which needs it meanwhile.
pub(super) fn deadlock(hosts: &[RenderedHost]) -> Option<RenderError> {
    let needs = |name: &String| hosts.iter().any(|host| host.host == *name && host.together);
    hosts.iter().filter(|host| host.together).find_map(|host| {
        let other = host.waits_for.iter().find(|name| needs(name))?;
        let cause = format!(
            "it has a role that comes after those of {other}, and {other} needs it to become ready: give that role a host of its own"
        );
        Some(RenderError { what: format!("host {}", host.host), cause })
    })
}
