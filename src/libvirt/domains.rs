//! What is done to the domains of a lab. Each call finds the domain by lab and host and refuses one that does not carry
//! their mark; each can be repeated: what is already so stays so.

use pgplan::observed::DomainState;
use virt::{connect::Connect, domain::Domain, error::ErrorNumber, sys};

use super::{
    Error, Libvirt, QUICK, Raw, Result, SLOW,
    error::{code_is, optional},
    observe::{domain_mark, domain_state},
};

/// Removing a domain takes along what libvirt keeps with it: saved memory and snapshots.
const UNDEFINE: sys::virDomainUndefineFlagsValues =
    sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA;

impl Libvirt {
    /// Defines the domain of a host, or defines it anew: a running one takes the new definition when it starts next.
    ///
    /// # Errors
    /// [`Error::NotOurs`] when another domain has the name; [`Error::Call`], among others when the XML is refused.
    pub fn define_host(&self, lab: &str, host: &str, xml: &str) -> Result {
        let operation = format!("define host {host}");
        self.domain_state_of(&operation, lab, host)?;
        let xml = xml.to_owned();
        // libvirt is not asked to hold it against its schema, as a test does: that takes it a hundredth of a second and more for each
        // host, and it cannot read its schema by several threads at once when it was just started.
        self.call(&operation, QUICK, move |connect| connect.define_domain_xml(&xml).map(drop))
    }

    /// The state of a host; nothing when it has no domain.
    ///
    /// # Errors
    /// [`Error::NotOurs`], [`Error::Call`], [`Error::Timeout`].
    pub fn host_state(&self, lab: &str, host: &str) -> Result<Option<DomainState>> {
        self.domain_state_of(&format!("ask for the state of host {host}"), lab, host)
    }

    /// Makes a host run: boots it, or continues one that is paused or saved.
    ///
    /// # Errors
    /// As [`Libvirt::host_state`], and when there is no such domain.
    pub fn start_host(&self, lab: &str, host: &str) -> Result {
        self.change(&format!("start host {host}"), lab, host, |domain| match domain_state(domain)? {
            DomainState::Running => Ok(()),
            DomainState::Paused => domain.resume(),
            // The memory of a crashed guest is of no use any more.
            DomainState::Crashed => power_off(domain).and_then(|()| domain.create()),
            DomainState::Off | DomainState::Saved => domain.create(),
        })
    }

    /// Stops the CPUs of a host that runs. Its memory stays where it is.
    ///
    /// # Errors
    /// As [`Libvirt::start_host`].
    pub fn pause_host(&self, lab: &str, host: &str) -> Result {
        self.change(&format!("pause host {host}"), lab, host, |domain| match domain_state(domain)? {
            DomainState::Running => domain.suspend(),
            _ => Ok(()),
        })
    }

    /// Saves the memory of a host to disk and stops it; the next start continues where it was.
    ///
    /// # Errors
    /// As [`Libvirt::start_host`].
    pub fn save_host(&self, lab: &str, host: &str) -> Result {
        self.change(&format!("save host {host}"), lab, host, |domain| match domain_state(domain)? {
            // It wakes up running, also when it was paused: a resumed lab is one that runs.
            DomainState::Running | DomainState::Paused => domain.managed_save(sys::VIR_DOMAIN_SAVE_RUNNING),
            _ => Ok(()),
        })
    }

    /// Switches a host off as a power cut would; saved memory is thrown away.
    ///
    /// # Errors
    /// As [`Libvirt::start_host`].
    pub fn stop_host(&self, lab: &str, host: &str) -> Result {
        self.change(&format!("stop host {host}"), lab, host, |domain| match domain_state(domain)? {
            DomainState::Saved => domain.managed_save_remove(0),
            DomainState::Off => Ok(()),
            _ => power_off(domain),
        })
    }

    /// Switches a host off and removes its domain, not its disk. Does nothing when there is no such domain.
    ///
    /// # Errors
    /// As [`Libvirt::host_state`].
    pub fn remove_domain(&self, lab: &str, host: &str) -> Result<bool> {
        let operation = format!("remove host {host}");
        if self.domain_state_of(&operation, lab, host)?.is_none() {
            return Ok(false);
        }
        self.change(&operation, lab, host, |domain| {
            if domain.is_active()? {
                power_off(domain)?;
            }
            optional(domain.undefine_flags(UNDEFINE)).map(drop)
        })?;
        Ok(true)
    }

    /// Does something to a domain that has to exist and to be ours.
    pub(super) fn change<T, F>(&self, operation: &str, lab: &str, host: &str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Domain) -> Raw<T> + Send + 'static,
    {
        let (lab, host) = (lab.to_owned(), host.to_owned());
        let done = self.call(operation, SLOW, move |connect| {
            let name = format!("{lab}-{host}");
            let domain = connect.lookup_domain_by_name(&name)?;
            if is_marked(&domain, &lab, &host)? { work(&domain).map(Ok) } else { Ok(Err(name)) }
        })?;
        done.map_err(|name| not_ours(operation, &name))
    }

    fn domain_state_of(&self, operation: &str, lab: &str, host: &str) -> Result<Option<DomainState>> {
        let (lab, host) = (lab.to_owned(), host.to_owned());
        let state = self.call(operation, QUICK, move |connect| state(connect, &lab, &host))?;
        state.map_err(|name| not_ours(operation, &name))
    }
}

/// The state of the domain; its name instead when it is not ours.
fn state(connect: &Connect, lab: &str, host: &str) -> Raw<std::result::Result<Option<DomainState>, String>> {
    let name = format!("{lab}-{host}");
    let Some(domain) = optional(connect.lookup_domain_by_name(&name))? else {
        return Ok(Ok(None));
    };
    if is_marked(&domain, lab, host)? { Ok(Ok(Some(domain_state(&domain)?))) } else { Ok(Err(name)) }
}

fn is_marked(domain: &Domain, lab: &str, host: &str) -> Raw<bool> {
    Ok(domain_mark(domain)?.is_some_and(|mark| mark.lab == lab && mark.part == host))
}

fn not_ours(operation: &str, name: &str) -> Error {
    Error::NotOurs { operation: operation.to_owned(), what: format!("domain `{name}`") }
}

/// Switches a domain off; one that went off by itself meanwhile is off, too.
fn power_off(domain: &Domain) -> Raw<()> {
    match domain.destroy() {
        Err(error) if code_is(&error, ErrorNumber::OperationInvalid) && !domain.is_active()? => Ok(()),
        result => result,
    }
}
