//! Machines saved with their memory, in files of our storage pool.
//!
//! libvirt's format, unchanged since 2012: a header of 92 bytes, the domain's XML and a cookie padded to the length the
//! header names, then what QEMU calls a migration stream. The XML says which machine the memory is restored into. libvirt
//! offers to replace it, but not its name and UUID; so that many hosts can be made of one memory, we write that part of
//! the file ourselves. A file of another version is refused, never guessed at.

use std::time::Duration;

use pgplan::{
    machine::{MARK_URI, Snapshot, SnapshotPart, Template, Volume},
    size::{Bytes, KIB},
};
use roxmltree::{Document, Node};
use virt::{connect::Connect, domain::Domain, storage_vol::StorageVol, stream::Stream, sys};

use super::{
    Error, Libvirt, QUICK, Raw, Result, SLOW,
    error::optional,
    images::send_all,
    pool::{create_volume, delete_volumes},
    read,
};

const MAGIC: &[u8; 16] = b"LibvirtQemudSave";
const VERSION: u32 = 2;
/// After the magic: version, length of what follows, whether it ran, compression, offset of the cookie, 14 unused.
const WORDS: usize = 19;
/// What a saved machine begins with takes 70 KiB, for machines of ours; in bytes, like the next.
const HEAD: u64 = 256 << 10;
/// More than libvirt ever pads its XML to.
const HEAD_MAX: u64 = 4 << 20;

/// What a saved machine begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    words: [u32; WORDS],
    /// The domain that the memory belongs to.
    pub xml: String,
    cookie: Vec<u8>,
}

impl Header {
    /// Reads the beginning of a file.
    fn parse(bytes: &[u8]) -> std::result::Result<Self, String> {
        let rest = bytes.strip_prefix(MAGIC).ok_or("it does not begin like one (or is not complete)")?;
        let (head, rest) = rest.split_at_checked(4 * WORDS).ok_or("it ends within its header")?;
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(head.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        let [version, length, _, compressed, cookie, ..] = words;
        if version != VERSION || compressed != 0 {
            return Err(format!(
                "its format is {version}.{compressed}, this version of pgprov knows {VERSION}.0"
            ));
        }
        let body = rest.get(..length as usize).ok_or("it ends within its XML")?;
        let text = |bytes: &[u8]| bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        let xml = String::from_utf8(text(body)).map_err(|_| "its XML is not UTF-8")?;
        let cookie = match cookie {
            0 => Vec::new(),
            offset => text(body.get(offset as usize..).ok_or("its cookie lies beyond its end")?),
        };
        Ok(Self { words, xml, cookie })
    }

    /// The beginning of the file with another domain in it, exactly as long as before.
    fn with_xml(&self, xml: &str) -> std::result::Result<Vec<u8>, String> {
        let mut words = self.words;
        let mut body = xml.as_bytes().to_vec();
        body.push(0);
        if !self.cookie.is_empty() {
            words[4] = u32::try_from(body.len()).map_err(|_| "the XML is too long")?;
            body.extend_from_slice(&self.cookie);
            body.push(0);
        }
        let length = words[1] as usize;
        if body.len() > length {
            return Err(format!("the XML takes {} bytes, there is room for {length}", body.len()));
        }
        body.resize(length, 0);
        let mut bytes = MAGIC.to_vec();
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes.append(&mut body);
        Ok(bytes)
    }
}

impl Libvirt {
    /// Starts the machine that a boot snapshot is made of; one that an earlier run left is replaced. `disk` is the XML of
    /// its overlay.
    ///
    /// # Errors
    /// [`Error::NotOurs`] when a domain without our mark has its name; [`Error::Call`], [`Error::Timeout`].
    pub fn start_template(&self, template: &Template, disk: &str) -> Result {
        self.remove_template(template)?;
        let (snapshot, disk, xml) = (template.snapshot.clone(), disk.to_owned(), template.xml.clone());
        self.with_pool("start the template", move |connect, pool| {
            delete_volumes(pool, |name| is_part(name, |part| part == &snapshot))?;
            let name = snapshot.volume(SnapshotPart::Disk);
            create_volume(pool, &name, &disk)?;
            // Transient: it is gone when it is saved, or switched off.
            connect.create_domain_xml(&xml, 0).map(drop)
        })
    }

    /// Switches the template off, if it is there.
    ///
    /// # Errors
    /// As [`Libvirt::start_template`].
    pub fn remove_template(&self, template: &Template) -> Result {
        let (operation, name) = ("remove the template", template.domain.clone());
        let ours = self.call(operation, SLOW, move |connect| {
            let Some(domain) = optional(connect.lookup_domain_by_name(&name))? else { return Ok(true) };
            let kind = i32::try_from(sys::VIR_DOMAIN_METADATA_ELEMENT).unwrap_or_default();
            let mark = optional(domain.metadata(kind, Some(MARK_URI), 0))?;
            if !mark.is_some_and(|mark| mark.contains("template")) {
                return Ok(false);
            }
            optional(domain.destroy()).map(|_| true)
        })?;
        if ours {
            return Ok(());
        }
        Err(Error::NotOurs { operation: operation.to_owned(), what: format!("domain `{}`", template.domain) })
    }

    /// Whether disks are based on that of a boot snapshot: it must stay as it is, with every byte.
    ///
    /// # Errors
    /// [`Error::Call`], [`Error::Timeout`].
    pub fn is_based_on(&self, snapshot: &Snapshot) -> Result<bool> {
        Ok(self.based_on()?.contains(snapshot))
    }

    fn based_on(&self) -> Result<Vec<Snapshot>> {
        let paths = self.inventory()?.volumes.into_iter().filter_map(|volume| volume.backing);
        let snapshot = |path: String| match Volume::parse(path.rsplit('/').next()?) {
            Volume::Snapshot { snapshot, .. } => Some(snapshot),
            _ => None,
        };
        Ok(paths.filter_map(snapshot).collect())
    }

    /// Removes a boot snapshot. Its disk stays while disks of hosts are based on it.
    ///
    /// # Errors
    /// As [`Libvirt::is_based_on`].
    pub fn remove_snapshot(&self, snapshot: &Snapshot) -> Result {
        let is_needed = self.is_based_on(snapshot)?;
        let (operation, snapshot) =
            (format!("remove the boot snapshot of {}", snapshot.image), snapshot.clone());
        self.with_pool(&operation, move |_, pool| {
            let disk = snapshot.volume(SnapshotPart::Disk);
            delete_volumes(pool, |name| {
                is_part(name, |part| *part == snapshot) && !(is_needed && name == disk)
            })
            .map(drop)
        })
    }

    /// Removes the boot snapshots of an image that no host was made of, except one.
    ///
    /// # Errors
    /// As [`Libvirt::is_based_on`].
    pub fn remove_other_snapshots(&self, kept: &Snapshot) -> Result {
        let (needed, kept) = (self.based_on()?, kept.clone());
        self.with_pool(&format!("remove boot snapshots of {}", kept.image), move |_, pool| {
            let unwanted =
                |part: &Snapshot| part.image == kept.image && *part != kept && !needed.contains(part);
            delete_volumes(pool, |name| is_part(name, unwanted)).map(drop)
        })
    }

    /// Processor time that a domain has used.
    ///
    /// # Errors
    /// [`Error::Call`] among others when it is gone; [`Error::Timeout`].
    pub fn cpu_time(&self, domain: &str) -> Result<Duration> {
        let name = domain.to_owned();
        let ask = move |connect: &Connect| connect.lookup_domain_by_name(&name)?.info();
        Ok(Duration::from_nanos(self.call(&format!("ask for the load of {domain}"), QUICK, ask)?.cpu_time))
    }

    /// Whether a domain has a process, or is about to get one.
    ///
    /// # Errors
    /// [`Error::Call`], [`Error::Timeout`].
    pub fn is_active(&self, domain: &str) -> Result<bool> {
        let name = domain.to_owned();
        let ask = move |connect: &Connect| connect.lookup_domain_by_name(&name)?.is_active();
        self.call(&format!("ask whether {domain} is active"), QUICK, ask)
    }

    /// Memory of the hypervisor that a machine has in use.
    ///
    /// # Errors
    /// [`Error::Call`], [`Error::Timeout`].
    pub fn resident(&self, domain: &str) -> Result<Bytes> {
        let name = domain.to_owned();
        let stats = self.call(&format!("ask for the memory of {domain}"), QUICK, move |connect| {
            connect.lookup_domain_by_name(&name)?.memory_stats(0)
        })?;
        let of = |tag| stats.iter().find(|stat| stat.tag == tag).map(|stat| Bytes(stat.val * KIB));
        Ok(of(sys::VIR_DOMAIN_MEMORY_STAT_RSS).unwrap_or(Bytes(0)))
    }

    /// Saves a machine with its memory to the file at `path` on the hypervisor, and ends it. It wakes up running.
    ///
    /// # Errors
    /// [`Error::Call`], [`Error::Timeout`].
    pub fn save_to(&self, domain: &str, path: &str) -> Result {
        let (name, file) = (domain.to_owned(), path.to_owned());
        self.call(&format!("save {domain}"), SLOW, move |connect| {
            save(&connect.lookup_domain_by_name(&name)?, &file)
        })
    }

    /// Restores the machine that the file at `path` says it is; it runs, or waits for [`Libvirt::start_host`].
    ///
    /// # Errors
    /// [`Error::Call`], [`Error::Timeout`].
    pub fn restore_from(&self, what: &str, path: &str, paused: bool) -> Result {
        let file = path.to_owned();
        let flags = if paused { sys::VIR_DOMAIN_SAVE_PAUSED } else { sys::VIR_DOMAIN_SAVE_RUNNING };
        self.call(&format!("restore {what}"), SLOW, move |connect| {
            connect.restore_domain_flags(&file, None, flags)
        })
    }

    /// Reads what the saved machine in a volume of our pool begins with.
    ///
    /// # Errors
    /// [`Error::Answer`] when it is none, or of another format.
    pub fn saved_header(&self, volume: &str) -> Result<Header> {
        let (operation, name) = (format!("read {volume}"), volume.to_owned());
        let read = |most: u64| {
            let name = name.clone();
            self.with_pool(&operation, move |connect, pool| {
                // libvirt wrote the file behind the pool's back.
                let found = match optional(pool.lookup_storage_vol_by_name(&name))? {
                    Some(found) => found,
                    None => {
                        let _ = pool.refresh(0);
                        pool.lookup_storage_vol_by_name(&name)?
                    }
                };
                download(connect, &found, most.min(found.info()?.capacity))
            })
        };
        let header = match Header::parse(&read(HEAD)?) {
            Ok(header) => Ok(header),
            Err(_) => Header::parse(&read(HEAD_MAX)?),
        };
        header.map_err(|message| Error::Answer { operation, message })
    }

    /// Writes another domain into the saved machine in a volume of our pool.
    ///
    /// # Errors
    /// [`Error::Answer`] when the XML is too long for it.
    pub fn write_saved_header(&self, volume: &str, header: &Header, xml: &str) -> Result {
        let (operation, name) = (format!("write the domain into {volume}"), volume.to_owned());
        let bytes = header
            .with_xml(xml)
            .map_err(|message| Error::Answer { operation: operation.clone(), message })?;
        self.with_pool(&operation, move |connect, pool| {
            let found = pool.lookup_storage_vol_by_name(&name)?;
            let stream = Stream::new(connect, 0)?;
            found.upload(&stream, 0, bytes.len() as u64, 0)?;
            send_all(&stream, &bytes)?;
            stream.finish()
        })
    }

    /// The definition of a host as libvirt would save it with its memory.
    ///
    /// # Errors
    /// [`Error::NotOurs`], [`Error::Call`], [`Error::Timeout`].
    pub fn host_xml(&self, lab: &str, host: &str) -> Result<String> {
        self.change(&format!("read the definition of host {host}"), lab, host, |domain| {
            domain.xml_desc(
                sys::VIR_DOMAIN_XML_SECURE | sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_MIGRATABLE,
            )
        })
    }

    /// Plugs the cable of a host's interface in (`data`, `mgmt`), or pulls it.
    ///
    /// # Errors
    /// As [`Libvirt::start_host`]; [`Error::Answer`] when there is no such interface.
    pub fn plug(&self, lab: &str, host: &str, kind: &str, plugged: bool) -> Result {
        let operation =
            format!("{} the {kind} cable of host {host}", if plugged { "plug in" } else { "pull" });
        let wanted = kind.to_owned();
        let found = self.change(&operation, lab, host, move |domain| {
            let Some(device) = with_link(&domain.xml_desc(0)?, &wanted, plugged) else { return Ok(false) };
            domain.update_device_flags(&device, sys::VIR_DOMAIN_AFFECT_LIVE).map(|()| true)
        })?;
        if found {
            return Ok(());
        }
        Err(Error::Answer { operation, message: format!("the host has no interface {kind}") })
    }

    /// Plugs in both cables. The one by which others find out that it was done comes last.
    ///
    /// # Errors
    /// As [`Libvirt::plug`].
    pub fn plug_in(&self, lab: &str, host: &str) -> Result {
        self.plug(lab, host, "data", true)?;
        self.plug(lab, host, "mgmt", true)
    }
}

fn is_part(volume: &str, wanted: impl Fn(&Snapshot) -> bool) -> bool {
    matches!(Volume::parse(volume), Volume::Snapshot { snapshot, .. } if wanted(&snapshot))
}

#[expect(unsafe_code, reason = "the crate virt has no binding for this one call")]
fn save(domain: &Domain, path: &str) -> Raw<()> {
    let path = std::ffi::CString::new(path)?;
    // SAFETY: both pointers are valid for the call: `domain` owns a reference, and `path` outlives it.
    let result = unsafe {
        sys::virDomainSaveFlags(
            domain.as_ptr(),
            path.as_ptr(),
            std::ptr::null(),
            sys::VIR_DOMAIN_SAVE_RUNNING,
        )
    };
    if result < 0 { Err(virt::error::Error::last_error()) } else { Ok(()) }
}

fn download(connect: &Connect, volume: &StorageVol, length: u64) -> Raw<Vec<u8>> {
    let stream = Stream::new(connect, 0)?;
    volume.download(&stream, 0, length, 0)?;
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 256 * 1024]);
    loop {
        match usize::try_from(stream.recv(&mut buffer)?) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
            _ => break,
        }
    }
    stream.finish()?;
    Ok(bytes)
}

/// The interface with that alias, its link as wanted.
pub(super) fn with_link(xml: &str, kind: &str, up: bool) -> Option<String> {
    let document = Document::parse(xml).ok()?;
    let interface = read::interface(&document, kind)?;
    let link = format!("<link state='{}'/>", if up { "up" } else { "down" });
    let text = &xml[interface.range()];
    Some(match read::child(interface, "link") {
        Some(old) => text.replace(&xml[old.range()], &link),
        None => text.replace("</interface>", &format!("{link}</interface>")),
    })
}

/// A domain with all its cables pulled.
pub fn unplugged(xml: &str) -> String {
    let plain = xml.replace("<link state='up'/>", "").replace("<link state='down'/>", "");
    plain.replace("</interface>", "<link state='down'/></interface>")
}

/// What a guest sees of its machine, one line a thing, without what tells one machine of a lab from another.
pub fn hardware(xml: &str) -> std::result::Result<String, String> {
    let document = Document::parse(xml).map_err(|error| error.to_string())?;
    let root = document.root_element();
    let mut lines = Vec::new();
    for node in root.children().filter(Node::is_element) {
        match node.tag_name().name() {
            "memory" | "vcpu" => {
                lines.push(format!("{} {}", node.tag_name().name(), node.text().unwrap_or("")));
            }
            "os" => {
                let machine = node.children().find(|n| n.has_tag_name("type"));
                lines.push(format!("machine {}", machine.and_then(|n| n.attribute("machine")).unwrap_or("")));
            }
            "devices" => lines.extend(node.children().filter(Node::is_element).map(device)),
            "commandline" => {
                let arguments = node.children().filter_map(|argument| argument.attribute("value"));
                lines.extend(arguments.map(|value| format!("argument {value}")));
            }
            _ => {}
        }
    }
    Ok(lines.join("\n"))
}

fn device(node: Node) -> String {
    let mut line = node.tag_name().name().to_owned();
    for name in ["model", "index"] {
        line.extend(node.attribute(name).map(|value| format!(" {name}={value}")));
    }
    for child in node.children().filter(Node::is_element) {
        let names: &[&str] = match child.tag_name().name() {
            "model" => &["type", "name"],
            "target" if node.has_tag_name("disk") => &["dev", "bus"],
            "target" if !node.has_tag_name("interface") => &["type", "name", "port", "chassis"],
            "address" => &["type", "domain", "bus", "slot", "function", "controller", "port"],
            _ => &[],
        };
        for name in names {
            line.extend(
                child.attribute(*name).map(|value| format!(" {}.{name}={value}", child.tag_name().name())),
            );
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(xml: &str, cookie: &str, padding: usize) -> Vec<u8> {
        let length = xml.len() + 1 + cookie.len() + 1 + padding;
        let mut words = [0_u32; WORDS];
        words[..5].copy_from_slice(&[2, length as u32, 1, 0, xml.len() as u32 + 1]);
        let mut bytes = MAGIC.to_vec();
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend_from_slice(format!("{xml}\0{cookie}\0").as_bytes());
        bytes.resize(MAGIC.len() + 4 * WORDS + length, 0);
        bytes.extend_from_slice(b"QEVM the stream");
        bytes
    }

    #[test]
    fn another_domain_takes_the_place_of_the_first_and_the_stream_stays_where_it_is() {
        let bytes = file("<domain>a</domain>", "<cookie/>", 100);
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(
            (header.xml.as_str(), header.cookie.as_slice()),
            ("<domain>a</domain>", &b"<cookie/>"[..])
        );
        let head = header.with_xml("<domain>another</domain>").unwrap();
        assert_eq!(&bytes[head.len()..], b"QEVM the stream");
        let again = Header::parse(&[head, b"QEVM".to_vec()].concat()).unwrap();
        assert_eq!(again.xml, "<domain>another</domain>");
        assert_eq!(again.cookie, header.cookie);
        assert!(header.with_xml(&"x".repeat(200)).unwrap_err().contains("there is room for"));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let good = file("<domain/>", "", 0);
        let with = |at: usize, byte: u8| {
            let mut bad = good.clone();
            bad[at] = byte;
            Header::parse(&bad).unwrap_err()
        };
        assert!(with(0, b'X').contains("does not begin like one"));
        assert!(with(16, 3).contains("format is 3.0"));
        assert!(with(28, 1).contains("format is 2.1"));
        assert!(with(21, 0xff).contains("ends within its XML"));
        assert!(Header::parse(&good[..50]).unwrap_err().contains("within its header"));
        // While libvirt writes it, the file begins otherwise.
        assert!(Header::parse(b"LibvirtQemudPart").is_err());
    }

    const DOMAIN: &str = "<domain><name>a</name><memory unit='KiB'>1024</memory><os><type machine='pc-q35-10.0'>hvm</type></os>
        <devices><disk type='file'><source file='/a'/><target dev='vda' bus='virtio'/>
          <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></disk>
        <interface type='network'><mac address='1'/><target dev='vnet0'/><model type='virtio'/><alias name='ua-data'/></interface>
        </devices>
        <qemu:commandline xmlns:qemu='urn:q'><qemu:arg value='-global'/><qemu:arg value='x=off'/></qemu:commandline></domain>";

    #[test]
    fn hardware_is_what_the_guest_sees() {
        let same = DOMAIN.replace("/a", "/b").replace("vnet0", "vnet1").replace("<name>a", "<name>b");
        assert_eq!(hardware(DOMAIN).unwrap(), hardware(&same).unwrap());
        for (from, to) in [
            ("1024", "2048"),
            ("bus='0x01'", "bus='0x02'"),
            ("10.0", "9.2"),
            ("'virtio'/><alias", "'e1000'/><alias"),
            ("x=off", "x=on"),
        ] {
            assert_ne!(hardware(DOMAIN).unwrap(), hardware(&DOMAIN.replace(from, to)).unwrap(), "{from}");
        }
    }

    #[test]
    fn cables_are_pulled_and_plugged_in() {
        let pulled = unplugged(DOMAIN);
        assert_eq!(unplugged(&pulled), pulled);
        assert!(with_link(&pulled, "data", true).unwrap().contains("<link state='up'/>"));
        assert!(with_link(DOMAIN, "data", false).unwrap().ends_with("<link state='down'/></interface>"));
        assert_eq!(with_link(DOMAIN, "mgmt", true), None);
    }
}
