//! Images in the storage pool: uploaded once, part by part, and marked as complete at the end.

use std::{
    fs::File,
    io::{self, Read},
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use pgplan::machine::{ImagePart, Volume, upload_volume};
use virt::{connect::Connect, storage_pool::StoragePool, storage_vol::StorageVol, stream::Stream};

use super::{
    Error, Libvirt, Raw, Result,
    error::optional,
    pool::{create_volume, delete_volumes},
    watched,
};

/// An upload that sends nothing for so long is stuck.
const STALL: Duration = Duration::from_secs(60);
/// How long to watch what is left of an upload, to see whether somebody is still at it.
const WATCH: Duration = Duration::from_secs(2);
/// What is sent at once: below the 256 KiB that libvirt puts into one message.
const CHUNK: usize = 240 * 1024;
/// Runs of zeros from this length on are not sent: a fresh volume is full of them.
const HOLE: u64 = 8 * 1024 * 1024;

impl Libvirt {
    /// Uploads the parts of an image, unless the pool has it already. What an upload that was killed has left is
    /// replaced; one that is under way elsewhere is waited for. `progress` gets the bytes done and their total.
    ///
    /// # Errors
    /// [`Error::File`] when a part cannot be read, [`Error::NotOurs`] for the pool, [`Error::Timeout`] when nothing
    /// moves for a minute, [`Error::Call`].
    pub fn upload_image(
        &self,
        image: &str,
        parts: &[(ImagePart, PathBuf)],
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result {
        if self.await_other_upload(image)? {
            return Ok(());
        }
        self.delete_image(image)?;
        let mut files = Vec::new();
        for (part, path) in parts {
            let open = || File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
            let (length, file) = open().map_err(|source| Error::File {
                operation: format!("upload image {image}"),
                path: path.clone(),
                source,
            })?;
            files.push((part.volume(image), path, length, file));
        }
        let total = files.iter().map(|(_, _, length, _)| length).sum();
        let mut done = 0;
        for (volume, path, length, file) in files {
            self.upload(&volume, file, length, &mut |sent| progress(done + sent, total)).map_err(
                |error| match error {
                    Error::File { operation, source, .. } => {
                        Error::File { operation, path: path.clone(), source }
                    }
                    other => other,
                },
            )?;
            done += length;
        }
        self.create_marker(&ImagePart::Complete.volume(image))
    }

    /// Makes an empty volume: a mark that what it belongs to is complete.
    ///
    /// # Errors
    /// [`Error::NotOurs`] for the pool, [`Error::Call`], [`Error::Timeout`].
    pub fn create_marker(&self, name: &str) -> Result {
        let (marker, volume) = (upload_volume(name, 0), name.to_owned());
        self.with_pool(&format!("make {name}"), move |_, pool| create_volume(pool, &volume, &marker))
    }

    /// Removes an image that no disk is based on. Returns whether there was anything to remove.
    ///
    /// # Errors
    /// [`Error::ImageInUse`], [`Error::Call`], [`Error::Timeout`].
    pub fn remove_image(&self, image: &str) -> Result<bool> {
        if !self.has_pool()? {
            return Ok(false);
        }
        if let Some(labs) = self.inventory()?.image_users().get(image) {
            return Err(Error::ImageInUse { image: image.to_owned(), labs: labs.iter().cloned().collect() });
        }
        self.delete_image(image)
    }

    /// Deletes what there is of an image, its mark of completeness first.
    fn delete_image(&self, image: &str) -> Result<bool> {
        let (operation, image) = (format!("remove image {image}"), image.to_owned());
        self.with_pool(&operation, move |_, pool| {
            let marker = ImagePart::Complete.volume(&image);
            let marked = delete_volumes(pool, |name| name == marker)?;
            let parts = delete_volumes(pool, |name| is_part_of(name, &image))?;
            Ok(!marked.is_empty() || !parts.is_empty())
        })
    }

    /// Waits for as long as volumes of the image grow. Returns whether it is complete in the end.
    fn await_other_upload(&self, image: &str) -> Result<bool> {
        let mut before = None;
        loop {
            let now = self.upload_state(image)?;
            match now {
                UploadState::Complete => return Ok(true),
                UploadState::Nothing => return Ok(false),
                UploadState::Partial { .. } if before == Some(now) => return Ok(false),
                UploadState::Partial { .. } => {}
            }
            before = Some(now);
            thread::sleep(WATCH);
        }
    }

    fn upload_state(&self, image: &str) -> Result<UploadState> {
        let (operation, image) = (format!("look for image {image}"), image.to_owned());
        self.with_pool(&operation, move |_, pool| {
            let _ = pool.refresh(0);
            let mut state = UploadState::Nothing;
            let (mut marked, mut has_disk) = (false, false);
            for volume in pool.list_all_volumes(0)? {
                let name = volume.name()?;
                marked |= name == ImagePart::Complete.volume(&image);
                has_disk |= [ImagePart::Qcow2, ImagePart::Raw].iter().any(|part| name == part.volume(&image));
                if is_part_of(&name, &image)
                    && let Some(info) = optional(volume.info())?
                {
                    let before = if let UploadState::Partial { allocated } = state { allocated } else { 0 };
                    state = UploadState::Partial { allocated: before + info.allocation };
                }
            }
            Ok(if marked && has_disk { UploadState::Complete } else { state })
        })
    }

    /// Uploads a file into a volume of that name, which must not exist. `progress` gets the bytes done.
    fn upload(&self, volume: &str, mut file: File, length: u64, progress: &mut dyn FnMut(u64)) -> Result {
        let operation = format!("upload {volume}");
        let (xml, name) = (upload_volume(volume, length), volume.to_owned());
        self.with_pool(&operation, move |_, pool| StorageVol::create_xml(pool, &xml, 0).map(drop))?;
        let connections = Arc::clone(&self.connections);
        let work = move |report: &dyn Fn(u64)| {
            let taken = connections.take()?;
            let pool = lookup(&taken.connect)?;
            let volume = pool.lookup_storage_vol_by_name(&name)?;
            send_file(&taken.connect, &volume, &mut file, report)
        };
        watched(&operation, STALL, work, progress)?.map_err(|failure| match failure {
            Failure::Libvirt(error) => Error::call(&operation, &error),
            Failure::File(source) => Error::File { operation, path: PathBuf::new(), source },
        })
    }
}

/// How far an upload is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum UploadState {
    Nothing,
    Partial { allocated: u64 },
    Complete,
}

enum Failure {
    Libvirt(virt::error::Error),
    File(io::Error),
}

impl From<virt::error::Error> for Failure {
    fn from(error: virt::error::Error) -> Self {
        Self::Libvirt(error)
    }
}

fn lookup(connect: &Connect) -> Raw<StoragePool> {
    connect.lookup_storage_pool_by_uuid_string(pgplan::machine::POOL_UUID)
}

fn is_part_of(volume: &str, image: &str) -> bool {
    match Volume::parse(volume) {
        Volume::Image { name, .. } => name == image,
        Volume::Snapshot { snapshot, .. } => snapshot.image == image,
        _ => false,
    }
}

/// Sends the file, except for long runs of zeros: after each, a new stream starts behind it.
fn send_file(
    connect: &Connect,
    volume: &StorageVol,
    file: &mut File,
    report: &dyn Fn(u64),
) -> std::result::Result<(), Failure> {
    let mut stream: Option<Stream> = None;
    let mut buffer = vec![0; CHUNK];
    let (mut position, mut zeros) = (0_u64, 0_u64);
    loop {
        let count = file.read(&mut buffer).map_err(Failure::File)?;
        let chunk = &buffer[..count];
        if count == 0 {
            break;
        }
        if chunk.iter().all(|byte| *byte == 0) {
            zeros += count as u64;
        } else {
            if zeros >= HOLE
                && let Some(stream) = stream.take()
            {
                stream.finish()?;
            }
            if let Some(stream) = &stream {
                send_zeros(stream, zeros)?;
            }
            zeros = 0;
            if stream.is_none() {
                let fresh = Stream::new(connect, 0)?;
                volume.upload(&fresh, position, 0, 0)?;
                stream = Some(fresh);
            }
            if let Some(stream) = &stream {
                send_all(stream, chunk)?;
            }
        }
        position += count as u64;
        report(position);
    }
    stream.map_or(Ok(()), |stream| Ok(stream.finish()?))
}

fn send_zeros(stream: &Stream, mut count: u64) -> Raw<()> {
    let zeros = vec![0; CHUNK];
    while count > 0 {
        let now = count.min(CHUNK as u64);
        send_all(stream, &zeros[..usize::try_from(now).unwrap_or(CHUNK)])?;
        count -= now;
    }
    Ok(())
}

/// Sends all of it, however little libvirt takes at a time.
pub(super) fn send_all(stream: &Stream, mut data: &[u8]) -> Raw<()> {
    while !data.is_empty() {
        let sent = usize::try_from(stream.send(data)?).unwrap_or(0);
        data = &data[sent.min(data.len())..];
    }
    Ok(())
}
