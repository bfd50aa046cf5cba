//! Who waits for whom.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;
use pgplan::{plan::Plan, render::RenderedHost};

/// Whether a host goes on without one that it waits for and that cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// It was there before, and needs no other one to be kept in line.
    Able,
    /// What would happen on the other one meanwhile is not safe.
    Strict,
}

/// Whom each host waits for.
///
/// A service that ends for good may be what keeps another host from taking over: those that follow are told first, and only
/// then the one that they follow.
pub(super) fn order<'a>(
    hosts: &'a [RenderedHost],
    plan: &'a Plan,
    work: &BTreeSet<&'a str>,
    fresh: &[&str],
    is_local: impl Fn(&str) -> bool,
) -> anyhow::Result<BTreeMap<&'a str, Vec<(&'a str, Need)>>> {
    let stops = |host: &str| plan.hosts.iter().any(|plan| plan.host == host && !plan.stops.is_empty());
    let unasked = |host: &str| plan.unasked.iter().any(|unasked| unasked == host);
    let goes_first = |follower: &RenderedHost, host: &str| {
        let name = follower.host.as_str();
        let follows = follower.waits_for.iter().any(|other| other == host);
        follows && stops(host) && (stops(name) || unasked(name)) && !fresh.contains(&name)
    };
    let mut order = BTreeMap::new();
    for host in hosts.iter().filter(|host| work.contains(host.host.as_str())) {
        let name = host.host.as_str();
        let before = host.waits_for.iter().map(String::as_str);
        let before = before.filter(|other| !(goes_first(host, other) || is_local(name) && is_local(other)));
        let after = hosts.iter().filter(|other| goes_first(other, name)).map(|other| other.host.as_str());
        let waits = before.map(|other| (other, Need::Able)).chain(after.map(|other| (other, Need::Strict)));
        order.insert(name, waits.filter(|(other, _)| work.contains(other)).collect::<Vec<_>>());
    }
    let mut left = order.clone();
    while let Some(next) =
        left.iter().find(|(_, waits)| !waits.iter().any(|(host, _)| left.contains_key(host)))
    {
        let next = *next.0;
        left.remove(next);
    }
    let names: Vec<&str> = left.into_keys().collect();
    ensure!(names.is_empty(), "{} would wait for each other: a defect", names.join(", "));
    Ok(order)
}

/// Hosts that others wait for come first, those with the longest chain behind them before all.
pub(super) fn boot_order(hosts: &[RenderedHost]) -> Vec<String> {
    let mut chain: BTreeMap<&str, usize> = hosts.iter().map(|host| (host.host.as_str(), 0)).collect();
    // A chain is at most as long as there are hosts; each round extends every chain by one.
    for _ in 0..hosts.len() {
        let before = chain.clone();
        for host in hosts {
            for other in &host.waits_for {
                let length = before[host.host.as_str()] + 1;
                if let Some(longest) = chain.get_mut(other.as_str()) {
                    *longest = length.max(*longest);
                }
            }
        }
        if chain == before {
            break;
        }
    }
    let mut order: Vec<&RenderedHost> = hosts.iter().collect();
    order.sort_by_key(|host| std::cmp::Reverse(chain[host.host.as_str()]));
    order.into_iter().map(|host| host.host.clone()).collect()
}

#[cfg(test)]
mod tests {
    use pgplan::host::HostPlan;

    use super::*;

    fn host(name: &str, waits_for: &[&str]) -> RenderedHost {
        let waits_for = waits_for.iter().map(|name| (*name).to_owned()).collect();
        RenderedHost { host: name.to_owned(), waits_for, ..RenderedHost::default() }
    }

    /// Whom each of m, s (follows m), far (follows s) and client waits for, when a service ends for good on those hosts.
    fn waits(ending: &[&str], unasked: &[&str], fresh: &[&str]) -> String {
        let hosts = [host("m", &[]), host("s", &["m"]), host("far", &["s"]), host("client", &["m", "s"])];
        let stops = |name: &&str| HostPlan {
            host: (*name).to_owned(),
            stops: vec!["engine.service".to_owned()],
            ..HostPlan::default()
        };
        let plan = Plan {
            hosts: ending.iter().map(stops).collect(),
            unasked: unasked.iter().map(|name| (*name).to_owned()).collect(),
            ..Plan::default()
        };
        let work = hosts.iter().map(|host| host.host.as_str()).collect();
        let order = order(&hosts, &plan, &work, fresh, |_| false).unwrap();
        let mut text = String::new();
        for (host, (other, need)) in
            order.iter().flat_map(|(host, waits)| waits.iter().map(move |wait| (host, wait)))
        {
            text.push_str(&format!(
                "{host} {} {other}\n",
                if *need == Need::Strict { "needs" } else { "after" }
            ));
        }
        text
    }

    #[test]
    fn who_could_take_over_goes_before_whom_it_follows_when_their_engine_ends() {
        let usual = "client after m\nclient after s\nfar after s\ns after m\n";
        assert_eq!(waits(&[], &[], &[]), usual);
        assert_eq!(waits(&["far"], &[], &[]), usual);
        let all = ["m", "s", "far"];
        assert_eq!(waits(&all, &[], &[]), "client after m\nclient after s\nm needs s\ns needs far\n");
        // One that cannot be asked may still have it; one that is made at the same time never had it.
        assert_eq!(waits(&["m"], &["s"], &[]), "client after m\nclient after s\nfar after s\nm needs s\n");
        assert_eq!(waits(&["m"], &["s"], &["s"]), usual);
    }
}
