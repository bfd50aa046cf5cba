//! What is done to the networks of a lab, found by lab and kind (`data`, `mgmt`).

use virt::{connect::Connect, error::ErrorNumber, network::Network, sys};

use super::{
    Error, Libvirt, Raw, Result, SLOW,
    error::{code_is, optional},
    read,
};

impl Libvirt {
    /// Defines a network and starts it; one that exists is only started.
    ///
    /// # Errors
    /// [`Error::NotOurs`] when another network has the name; [`Error::Call`], [`Error::Timeout`].
    pub fn create_network(&self, lab: &str, kind: &str, xml: &str) -> Result {
        let (operation, xml) = (format!("create the {kind} network"), xml.to_owned());
        self.with_network(&operation, lab, kind, move |connect, network| {
            let network = match network {
                Some(network) => network,
                None => connect.define_network_xml(&xml)?,
            };
            start(&network)
        })
    }

    /// Starts a network that is defined.
    ///
    /// # Errors
    /// As [`Libvirt::create_network`].
    pub fn start_network(&self, lab: &str, kind: &str) -> Result {
        let missing = name(lab, kind);
        self.with_network(&format!("start the {kind} network"), lab, kind, move |connect, network| {
            match network {
                Some(network) => start(&network),
                None => connect.lookup_network_by_name(&missing).map(drop),
            }
        })
    }

    /// Gives a host its address on a network, in place of any reservation it had. `xml` is the one of
    /// [`pgplan::machine::reservation`]. Holds at once when the network is active.
    ///
    /// # Errors
    /// As [`Libvirt::create_network`], and when there is no such network.
    pub fn reserve(&self, lab: &str, kind: &str, host: &str, xml: &str) -> Result {
        let operation = format!("reserve the {kind} address of host {host}");
        self.update_reservation(&operation, lab, kind, host, Some(xml.to_owned()))
    }

    /// Forgets the address of a host on a network.
    ///
    /// # Errors
    /// As [`Libvirt::reserve`].
    pub fn unreserve(&self, lab: &str, kind: &str, host: &str) -> Result {
        self.update_reservation(&format!("forget the {kind} address of host {host}"), lab, kind, host, None)
    }

    /// Stops and removes a network. Does nothing when there is none.
    ///
    /// # Errors
    /// As [`Libvirt::create_network`].
    pub fn remove_network(&self, lab: &str, kind: &str) -> Result<bool> {
        self.with_network(&format!("remove the {kind} network"), lab, kind, |_, network| {
            let Some(network) = network else { return Ok(false) };
            if network.is_active()? {
                match network.destroy() {
                    Err(error)
                        if code_is(&error, ErrorNumber::OperationInvalid) && !network.is_active()? => {}
                    result => result?,
                }
            }
            optional(network.undefine())?;
            Ok(true)
        })
    }

    fn update_reservation(
        &self,
        operation: &str,
        lab: &str,
        kind: &str,
        host: &str,
        wanted: Option<String>,
    ) -> Result {
        let (host, missing) = (host.to_owned(), name(lab, kind));
        self.with_network(operation, lab, kind, move |connect, network| {
            let network = match network {
                Some(network) => network,
                None => connect.lookup_network_by_name(&missing)?,
            };
            let seen = read::network(&network.xml_desc(0)?).unwrap_or_default();
            for old in seen.reservations.iter().filter(|old| old.name == host) {
                // libvirt finds the entry by any of its attributes; the MAC is the one that is unique.
                update(
                    &network,
                    sys::VIR_NETWORK_UPDATE_COMMAND_DELETE,
                    &format!("<host mac='{}'/>", old.mac),
                )?;
            }
            match &wanted {
                Some(xml) => update(&network, sys::VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, xml),
                None => Ok(()),
            }
        })
    }

    /// Does something with the network, given what there is under its name; refuses one that is not ours.
    fn with_network<T, F>(&self, operation: &str, lab: &str, kind: &str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connect, Option<Network>) -> Raw<T> + Send + 'static,
    {
        let (lab, kind) = (lab.to_owned(), kind.to_owned());
        let done = self.call(operation, SLOW, move |connect| {
            let name = name(&lab, &kind);
            let network = optional(connect.lookup_network_by_name(&name))?;
            if let Some(network) = &network {
                let mark = read::network(&network.xml_desc(0)?).ok().and_then(|seen| seen.mark);
                if mark.is_none_or(|mark| mark.lab != lab || mark.part != kind) {
                    return Ok(Err(name));
                }
            }
            work(connect, network).map(Ok)
        })?;
        done.map_err(|name| Error::NotOurs {
            operation: operation.to_owned(),
            what: format!("network `{name}`"),
        })
    }
}

fn name(lab: &str, kind: &str) -> String {
    format!("pgprov-{lab}-{kind}")
}

fn start(network: &Network) -> Raw<()> {
    match network.create() {
        Err(error) if code_is(&error, ErrorNumber::OperationInvalid) && network.is_active()? => Ok(()),
        result => result,
    }
}

fn update(network: &Network, command: sys::virNetworkUpdateCommand, xml: &str) -> Raw<()> {
    let mut flags = sys::VIR_NETWORK_UPDATE_AFFECT_CONFIG;
    if network.is_active()? {
        flags |= sys::VIR_NETWORK_UPDATE_AFFECT_LIVE;
    }
    network.update(command, sys::VIR_NETWORK_SECTION_IP_DHCP_HOST, -1, xml, flags)
}
