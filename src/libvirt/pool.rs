//! The storage pool of all labs and the disks and console logs in it.

use std::path::Path;

use pgplan::{
    lab::disk_name,
    machine::{self, POOL_NAME, POOL_UUID, Volume, console_name},
};
use virt::{
    connect::Connect, error::ErrorNumber, storage_pool::StoragePool, storage_vol::StorageVol, stream::Stream,
};

use super::{
    Error, Libvirt, QUICK, Raw, Result, SLOW,
    error::{code_is, optional},
    read,
};

impl Libvirt {
    /// Makes our storage pool, a folder at `path` on the hypervisor, and starts it. One that exists stays where it is.
    /// Returns its folder.
    ///
    /// # Errors
    /// [`Error::NotOurs`] when another pool has the name; [`Error::Call`], [`Error::Timeout`].
    pub fn ensure_pool(&self, path: &Path) -> Result<String> {
        let operation = "make the storage pool";
        let xml = machine::pool(&path.to_string_lossy());
        let seen = self.call(operation, SLOW, move |connect| {
            let pool = match optional(connect.lookup_storage_pool_by_name(POOL_NAME))? {
                Some(pool) => pool,
                None => connect.define_storage_pool_xml(&xml, 0)?,
            };
            if pool.uuid_string()? != POOL_UUID {
                return Ok(None);
            }
            if !pool.is_active()? {
                // Building makes the folder, and is content with one that is there.
                pool.build(0)?;
                start(&pool)?;
            }
            if !pool.autostart()? {
                pool.set_autostart(true)?;
            }
            pool.xml_desc(0).map(Some)
        })?;
        let xml = seen.ok_or_else(|| not_ours(operation))?;
        read::pool_path(&xml).map_err(|message| Error::Answer { operation: operation.to_owned(), message })
    }

    /// Removes our storage pool and its folder when nothing is in it. Returns whether it did.
    ///
    /// # Errors
    /// As [`Libvirt::ensure_pool`].
    pub fn remove_empty_pool(&self) -> Result<bool> {
        self.call("remove the storage pool", SLOW, |connect| {
            let Some(pool) = our_pool(connect)? else { return Ok(false) };
            if !pool.is_active()? {
                return Ok(false);
            }
            pool.refresh(0)?;
            if pool.num_of_volumes()? > 0 {
                return Ok(false);
            }
            pool.destroy()?;
            // A folder that holds what libvirt does not count as volumes stays.
            let _ = pool.delete(0);
            pool.undefine()?;
            Ok(true)
        })
    }

    /// Makes the disk of a host; one that exists stays as it is. `xml` is the one of
    /// [`pgplan::machine::overlay_volume`].
    ///
    /// # Errors
    /// [`Error::NotOurs`] for the pool; [`Error::Call`], [`Error::Timeout`].
    pub fn create_disk(&self, lab: &str, host: &str, layer: u32, xml: &str) -> Result {
        let (name, xml) = (disk_name(lab, host, layer), xml.to_owned());
        self.with_pool(&format!("make the disk of host {host}"), move |_, pool| {
            create_volume(pool, &name, &xml)
        })
    }

    /// Removes the disk and the console log of a host. Returns the names of the volumes that were there.
    ///
    /// # Errors
    /// As [`Libvirt::create_disk`].
    pub fn remove_volumes(&self, lab: &str, host: &str) -> Result<Vec<String>> {
        let (operation, lab, host) =
            (format!("remove the disk of host {host}"), lab.to_owned(), host.to_owned());
        self.with_pool(&operation, move |_, pool| {
            let belongs = |volume: &Volume| volume.host() == Some((&lab, &host));
            delete_volumes(pool, |name| belongs(&Volume::parse(name)))
        })
    }

    /// Removes all volumes of a lab. Returns the names of those that were there.
    ///
    /// # Errors
    /// As [`Libvirt::create_disk`].
    pub fn remove_lab_volumes(&self, lab: &str) -> Result<Vec<String>> {
        let (operation, lab) = (format!("remove the disks of lab {lab}"), lab.to_owned());
        self.with_pool(&operation, move |_, pool| {
            let belongs = |volume: &Volume| volume.host().is_some_and(|(owner, _)| owner == lab);
            delete_volumes(pool, |name| belongs(&Volume::parse(name)))
        })
    }

    /// Removes volumes of a lab by name; those that are gone, or belong to something else, are left.
    ///
    /// # Errors
    /// As [`Libvirt::create_disk`].
    pub fn remove_named(&self, lab: &str, names: Vec<String>) -> Result {
        let (operation, lab) = (format!("remove volumes of lab {lab}"), lab.to_owned());
        if names.is_empty() {
            return Ok(());
        }
        self.with_pool(&operation, move |_, pool| {
            let is_wanted = |name: &str| {
                names.iter().any(|wanted| wanted == name)
                    && Volume::parse(name).host().is_some_and(|(owner, _)| owner == lab)
            };
            delete_volumes(pool, is_wanted).map(drop)
        })
    }

    /// The end of what the serial console of a host said, at most `bytes`, without control characters. Nothing when
    /// the host never ran.
    ///
    /// # Errors
    /// As [`Libvirt::create_disk`].
    pub fn console_tail(&self, lab: &str, host: &str, bytes: u64) -> Result<Option<String>> {
        let name = console_name(lab, host);
        let text = self.with_pool(&format!("read the console of host {host}"), move |connect, pool| {
            // The log is written behind the pool's back: it has to look first.
            let _ = pool.refresh(0);
            let Some(volume) = optional(pool.lookup_storage_vol_by_name(&name))? else {
                return Ok(None);
            };
            download_tail(connect, &volume, bytes).map(Some)
        })?;
        Ok(text.map(|bytes| printable(&String::from_utf8_lossy(&bytes))))
    }

    /// Does something with our storage pool, which has to exist and to run.
    pub(super) fn with_pool<T, F>(&self, operation: &str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connect, &StoragePool) -> Raw<T> + Send + 'static,
    {
        let done = self.call(operation, SLOW, move |connect| match our_pool(connect)? {
            Some(pool) => work(connect, &pool).map(Some),
            None => Ok(None),
        })?;
        done.ok_or_else(|| not_ours(operation))
    }

    /// Whether our storage pool exists.
    pub(super) fn has_pool(&self) -> Result<bool> {
        let operation = "look for the storage pool";
        self.call(operation, QUICK, |connect| {
            Ok(our_pool(connect)?.is_some_and(|pool| pool.is_active() == Ok(true)))
        })
    }
}

/// Our pool, or nothing when the one of that name is another one.
fn our_pool(connect: &Connect) -> Raw<Option<StoragePool>> {
    let Some(pool) = optional(connect.lookup_storage_pool_by_name(POOL_NAME))? else {
        return Ok(None);
    };
    Ok((pool.uuid_string()? == POOL_UUID).then_some(pool))
}

fn not_ours(operation: &str) -> Error {
    Error::NotOurs { operation: operation.to_owned(), what: format!("storage pool `{POOL_NAME}`") }
}

pub(super) fn start(pool: &StoragePool) -> Raw<()> {
    match pool.create(0) {
        Err(error) if code_is(&error, ErrorNumber::OperationInvalid) && pool.is_active()? => Ok(()),
        result => result,
    }
}

/// Makes a volume; one of that name stays as it is.
pub(super) fn create_volume(pool: &StoragePool, name: &str, xml: &str) -> Raw<()> {
    if optional(pool.lookup_storage_vol_by_name(name))?.is_some() {
        return Ok(());
    }
    match StorageVol::create_xml(pool, xml, 0) {
        Err(error) if code_is(&error, ErrorNumber::StorageVolExist) => Ok(()),
        result => result.map(drop),
    }
}

/// Deletes the volumes with the names that are wanted gone. Returns those names.
pub(super) fn delete_volumes(pool: &StoragePool, unwanted: impl Fn(&str) -> bool) -> Raw<Vec<String>> {
    let _ = pool.refresh(0);
    let mut deleted = Vec::new();
    for volume in pool.list_all_volumes(0)? {
        let name = volume.name()?;
        if unwanted(&name) && optional(volume.delete(0))?.is_some() {
            deleted.push(name);
        }
    }
    Ok(deleted)
}

fn download_tail(connect: &Connect, volume: &StorageVol, bytes: u64) -> Raw<Vec<u8>> {
    let size = volume.info()?.capacity;
    let stream = Stream::new(connect, 0)?;
    volume.download(&stream, size.saturating_sub(bytes), 0, 0)?;
    let (mut tail, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    let limit = usize::try_from(bytes).unwrap_or(usize::MAX);
    while tail.len() < limit {
        match usize::try_from(stream.recv(&mut buffer)?) {
            Ok(count) if count > 0 => tail.extend_from_slice(&buffer[..count]),
            _ => {
                stream.finish()?;
                return Ok(tail);
            }
        }
    }
    // The guest goes on writing: enough.
    let _ = stream.abort();
    Ok(tail)
}

/// What a guest writes shall not control the user's terminal: without escape sequences and control characters.
fn printable(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            // A control sequence: up to a letter or one of @[\]^_`{|}~.
            '\x1b' if chars.next_if_eq(&'[').is_some() => {
                while chars.next_if(|c| !('@'..='~').contains(c)).is_some() {}
                chars.next();
            }
            // A command to the terminal: up to a bell, or the escape of its terminator; never over the end of a line.
            '\x1b' if chars.next_if_eq(&']').is_some() => {
                while chars.next_if(|c| !matches!(c, '\x07' | '\x1b' | '\n')).is_some() {}
                if chars.next_if_eq(&'\x1b').is_some() {
                    chars.next_if_eq(&'\\');
                }
            }
            '\n' | '\t' => plain.push(char),
            char if char.is_control() => {}
            char => plain.push(char),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn a_console_cannot_control_the_terminal() {
        for (raw, plain) in [
            ("a\r\n\x1b[0;1;31mred\x1b[0m\tb\x07", "a\nred\tb"),
            ("\x1b]0;title\x07x\x1b]104\x1b\\y", "xy"),
            ("\x1b]0;no end\nnext", "\nnext"),
            ("cut off \x1b[0;1", "cut off "),
            ("\u{9b}31m", "31m"),
        ] {
            assert_eq!(printable(raw), plain, "{raw:?}");
        }
    }
}
