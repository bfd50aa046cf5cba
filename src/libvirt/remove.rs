//! Takes labs away: by their marks, so a topology file is not needed.

use std::thread;

use super::{Libvirt, Result};

/// What was removed with a lab, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Hosts.
    pub hosts: Vec<String>,
    /// libvirt networks.
    pub networks: Vec<String>,
    /// Volumes.
    pub volumes: Vec<String>,
}

impl Removed {
    /// Whether there was nothing to remove.
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}

impl Libvirt {
    /// Removes a host: its domain, with saved memory, and its volumes. Does nothing when there is none.
    ///
    /// # Errors
    /// [`super::Error::NotOurs`] when a domain without our mark has its name; what libvirt refuses.
    pub fn remove_host(&self, lab: &str, host: &str) -> Result<Removed> {
        let mut removed = Removed::default();
        if self.remove_domain(lab, host)? {
            removed.hosts.push(host.to_owned());
        }
        if self.has_pool()? {
            removed.volumes = self.remove_volumes(lab, host)?;
        }
        Ok(removed)
    }

    /// Removes the domains and networks of a lab, not its volumes.
    ///
    /// # Errors
    /// What libvirt refuses.
    pub fn remove_machines(&self, lab: &str) -> Result {
        let Some(seen) = self.inventory()?.labs().remove(lab) else { return Ok(()) };
        for host in seen.hosts.keys() {
            self.remove_domain(lab, host)?;
        }
        for network in &seen.networks {
            self.remove_network(lab, network.rsplit('-').next().unwrap_or_default())?;
        }
        Ok(())
    }

    /// Removes everything of a lab, and nothing else: what carries its mark. Hosts go at the same time.
    ///
    /// # Errors
    /// The first one; what does not depend on the part that failed is removed all the same.
    pub fn remove_lab(&self, lab: &str) -> Result<Removed> {
        let Some(seen) = self.inventory()?.labs().remove(lab) else {
            return Ok(Removed::default());
        };
        let hosts: Vec<Result<Removed>> = thread::scope(|scope| {
            let handles: Vec<_> =
                seen.hosts.keys().map(|host| scope.spawn(move || self.remove_host(lab, host))).collect();
            handles
                .into_iter()
                .map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        let mut removed = Removed::default();
        let mut failure = None;
        for host in hosts {
            match host {
                Ok(part) => {
                    removed.hosts.extend(part.hosts);
                    removed.volumes.extend(part.volumes);
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        for network in &seen.networks {
            // Named `pgprov-LAB-KIND`, else it would not count as ours.
            let kind = network.rsplit('-').next().unwrap_or_default();
            if self.remove_network(lab, kind)? {
                removed.networks.push(network.clone());
            }
        }
        // Disks without a domain: a killed `up` leaves them.
        if self.has_pool()? {
            removed.volumes.extend(self.remove_lab_volumes(lab)?);
        }
        Ok(removed)
    }
}
