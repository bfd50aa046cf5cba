//! What is done to a host's machine to break it. Each holds for the machine that runs and for its definition, so that it
//! is still so after a power cut; each can be repeated, and none is done to what does not carry the lab's mark.

use std::ptr;

use pgplan::machine;
use roxmltree::Document;
use virt::{domain::Domain, sys};

use super::{Error, Libvirt, Raw, Result, memory::with_link, read};

/// The disk of every host.
const DISK: &std::ffi::CStr = c"vda";

impl Libvirt {
    /// Pulls the data cable of a host, or plugs it in.
    ///
    /// # Errors
    /// As [`Libvirt::start_host`]; [`Error::Answer`] when the host has no such interface.
    pub fn set_data_link(&self, lab: &str, host: &str, up: bool) -> Result {
        let operation = format!("{} the data cable of host {host}", if up { "plug in" } else { "pull" });
        self.edit_interface(&operation, lab, host, move |xml| with_link(xml, "data", up))
    }

    /// Leads the data cable of a host to the network that nobody else is on, which is made for it, or back.
    ///
    /// # Errors
    /// As [`Libvirt::set_data_link`].
    pub fn isolate(&self, lab: &str, host: &str, alone: bool) -> Result {
        let (isolated, definition) = machine::isolated(lab);
        if alone {
            self.create_network(lab, "isolated", &definition.xml)?;
        }
        let network = if alone { isolated } else { format!("pgprov-{lab}-data") };
        let operation = format!("lead the data cable of host {host} to network {network}");
        self.edit_interface(&operation, lab, host, move |xml| with_network(xml, &network))
    }

    /// Limits what the disk of a host reads and writes, in bytes per second; 0 lifts the limit.
    ///
    /// # Errors
    /// As [`Libvirt::start_host`].
    pub fn limit_disk(&self, lab: &str, host: &str, bytes: u64) -> Result {
        self.change(&format!("limit the disk of host {host}"), lab, host, move |domain| {
            let live = if domain.is_active()? { sys::VIR_DOMAIN_AFFECT_LIVE } else { 0 };
            set_block_io_tune(domain, bytes, live | sys::VIR_DOMAIN_AFFECT_CONFIG)
        })
    }

    /// Edits an interface of the machine that runs and of its definition. `edit` gets the XML of the domain and returns
    /// that of the interface.
    fn edit_interface(
        &self,
        operation: &str,
        lab: &str,
        host: &str,
        edit: impl Fn(&str) -> Option<String> + Send + 'static,
    ) -> Result {
        let found = self.change(operation, lab, host, move |domain| {
            let defined = domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE)?;
            let Some(device) = edit(&defined) else { return Ok(false) };
            domain.update_device_flags(&device, sys::VIR_DOMAIN_AFFECT_CONFIG)?;
            if domain.is_active()? {
                let Some(device) = edit(&domain.xml_desc(0)?) else { return Ok(false) };
                domain.update_device_flags(&device, sys::VIR_DOMAIN_AFFECT_LIVE)?;
            }
            Ok(true)
        })?;
        if found {
            return Ok(());
        }
        let message = "the host has no interface on the data network".to_owned();
        Err(Error::Answer { operation: operation.to_owned(), message })
    }
}

/// The data interface of a domain with another network at the other end of its cable.
fn with_network(xml: &str, network: &str) -> Option<String> {
    let document = Document::parse(xml).ok()?;
    let interface = read::interface(&document, "data")?;
    let source = read::child(interface, "source")?;
    Some(xml[interface.range()].replace(&xml[source.range()], &format!("<source network='{network}'/>")))
}

#[expect(unsafe_code, reason = "the crate virt has no binding for this one call")]
fn set_block_io_tune(domain: &Domain, bytes: u64, flags: sys::virDomainModificationImpact) -> Raw<()> {
    let (mut parameters, mut count, mut room) = (ptr::null_mut(), 0, 0);
    // SAFETY: libvirt grows the list behind the pointers, which are ours, and `DISK` lives for ever; the list is freed
    // whatever happened, with the count of what is in it; `domain` owns a reference for the call.
    let result = unsafe {
        let name = c"total_bytes_sec".as_ptr();
        let added = sys::virTypedParamsAddULLong(&mut parameters, &mut count, &mut room, name, bytes);
        let result = match added {
            0 => sys::virDomainSetBlockIoTune(domain.as_ptr(), DISK.as_ptr(), parameters, count, flags),
            failed => failed,
        };
        sys::virTypedParamsFree(parameters, count);
        result
    };
    if result < 0 { Err(virt::error::Error::last_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cable_leads_elsewhere_and_everything_else_stays() {
        let domain = "<domain><devices><interface type='network'><source network='pgprov-x-mgmt'/><alias name='ua-mgmt'/></interface>\
                      <interface type='network'><mac address='52:54:00:00:00:01'/><source network='pgprov-x-data' portid='1' bridge='b'/>\
                      <alias name='ua-data'/></interface></devices></domain>";
        let alone = with_network(domain, "pgprov-x-isolated").unwrap();
        assert_eq!(
            alone,
            "<interface type='network'><mac address='52:54:00:00:00:01'/><source network='pgprov-x-isolated'/><alias name='ua-data'/></interface>"
        );
        assert_eq!(with_network("<domain/>", "x"), None);
    }
}
