//! Which host is configured before which, and which role before which.

use std::collections::{BTreeMap, BTreeSet};

use super::{RenderError, RenderedHost};
use crate::{
    lab::{Host, Lab},
    role::Manifest,
};

/// The upstream of a standby, unless the engine makes standbys when it is time, and every other host with a role that one
/// of ours comes after, if it `needs` it.
pub(super) fn waits_for(
    lab: &Lab,
    host: &Host,
    manifests: &[&Manifest],
    needs: impl Fn(&Manifest, &Host) -> Result<bool, RenderError>,
) -> Result<Vec<String>, RenderError> {
    let follows = host.follows.as_ref().filter(|_| !lab.failover.engine.owns_replication());
    let mut names = Vec::new();
    for other in lab.hosts.iter().filter(|other| other.name != host.name) {
        let mut waits = follows == Some(&other.name);
        for manifest in manifests {
            let comes_after = |role: &String| manifest.after.contains(role) && !host.has_role(role);
            waits = waits || other.roles.iter().any(comes_after) && needs(manifest, other)?;
        }
        if waits {
            names.push(other.name.clone());
        }
    }
    Ok(names)
}

/// The roles of a host in order, each once, after those that it uses and those of the host that it comes after.
pub(super) fn roles_of<'a>(
    manifests: &'a BTreeMap<String, Manifest>,
    host: &'a Host,
) -> Result<Vec<&'a Manifest>, RenderError> {
    let (mut begun, mut all) = (BTreeSet::new(), Vec::new());
    for role in &host.roles {
        collect(manifests, host, role, &mut begun, &mut all)?;
    }
    Ok(all)
}

/// Roles that use each other in a circle end it where it began.
fn collect<'a>(
    manifests: &'a BTreeMap<String, Manifest>,
    host: &Host,
    name: &'a str,
    begun: &mut BTreeSet<&'a str>,
    all: &mut Vec<&'a Manifest>,
) -> Result<(), RenderError> {
    let manifest = manifests.get(name).ok_or_else(|| RenderError {
        what: format!("host {}", host.name),
        cause: format!("no role `{name}`"),
    })?;
    if begun.insert(&manifest.role) {
        let earlier = manifest.after.iter().filter(|role| host.has_role(role));
        for role in manifest.uses.iter().chain(earlier) {
            collect(manifests, host, role, begun, all)?;
        }
        all.push(manifest);
    }
    Ok(())
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
