//! Where finished images lie.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::io_error;
use super::recipe::hex;
use super::tool::Run;
use super::{Error, Progress, Recipe};
use crate::durable;

/// Version of `image.json`; an image of another version is as good as none.
const FORMAT: u32 = 1;
const META: &str = "image.json";
const LOCK: &str = "lock";
const TMP: &str = ".tmp-";
/// How long a build waits for another one: longer than a build may take.
const LOCK_LIMIT: Duration = Duration::from_secs(45 * 60);
const REMOVE_LIMIT: Duration = Duration::from_secs(10);
const READ_SIZE: usize = 1 << 20;

/// A finished image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Unique: the recipe's release and hash, or `url-` and the hash of what was downloaded.
    pub name: String,
    /// The disk, qcow2, without a backing file.
    pub disk: PathBuf,
    /// The kernel to boot it with; without one it boots by a boot loader of its own.
    pub kernel: Option<PathBuf>,
    /// The initial RAM disk that goes with the kernel.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line; empty without a kernel.
    pub cmdline: String,
    /// Size of the disk as a host sees it, in bytes; a host's disk cannot be smaller.
    pub virtual_size: u64,
    /// SHA-256 of the disk's file, in hexadecimal.
    pub sha256: String,
}

/// The content of `image.json`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Meta {
    /// [`FORMAT`].
    pub format: u32,
    /// The image's name, also that of its directory.
    pub name: String,
    /// What it was built from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// What makes it the image it is: the hash of the recipe, or of the file that was downloaded.
    pub origin: String,
    /// Where it was downloaded from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// File name of the disk.
    pub disk: String,
    /// SHA-256 of the disk.
    pub sha256: String,
    /// Length of the disk's file, in bytes.
    pub disk_bytes: u64,
    /// Size of the disk as a host sees it, in bytes.
    pub virtual_size: u64,
    /// File name of the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// File name of the initial RAM disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd: Option<String>,
    /// The kernel's command line.
    #[serde(default)]
    pub cmdline: String,
}

/// A directory of images.
#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
}

/// The only one that makes an image in a cache; the others wait until this is dropped.
pub(super) struct Turn {
    /// Open for as long as the lock is to be held.
    _lock: File,
}

/// A directory in which an image is being made; removed when dropped, unless published.
pub(super) struct Workshop {
    pub dir: PathBuf,
}

impl Cache {
    /// The cache in `dir`, which need not exist.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The user's cache, by the environment.
    ///
    /// # Errors
    /// [`Error::NoCache`]
    pub fn of_user() -> Result<Self, Error> {
        Self::from_environment(|name| std::env::var_os(name))
    }

    fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        // Relative values are ignored, as the XDG base directory specification says.
        let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
        Ok(Self::new(base.ok_or(Error::NoCache)?.join("pgprov/images")))
    }

    /// Where the cache lies.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The image of a recipe, when it is there and whole.
    #[must_use]
    pub fn find(&self, recipe: &Recipe) -> Option<Artifact> {
        self.find_origin(&recipe.name(), &recipe.hash())
    }

    /// The downloaded image whose file had that SHA-256, when it is there and whole.
    #[must_use]
    pub fn find_download(&self, sha256: &str) -> Option<Artifact> {
        self.find_origin(&download_name(sha256)?, &sha256.to_ascii_lowercase())
    }

    fn find_origin(&self, name: &str, origin: &str) -> Option<Artifact> {
        self.load(name).filter(|meta| meta.origin == origin).map(|meta| self.artifact(&meta))
    }

    /// All images, by name. What is no whole image is passed over.
    ///
    /// # Errors
    /// The directory exists and cannot be read.
    pub fn list(&self) -> Result<Vec<Artifact>, Error> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.map_err(io_error("list", &self.dir))?,
        };
        let mut images = Vec::new();
        for entry in entries {
            let name = entry.map_err(io_error("list", &self.dir))?.file_name();
            let meta = name.to_str().and_then(|name| self.load(name));
            images.extend(meta.map(|meta| self.artifact(&meta)));
        }
        images.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(images)
    }

    /// Removes an image. Labs that use it have their copy in the storage pool; whether there are any is not asked here.
    ///
    /// # Errors
    /// [`Error::Missing`], or it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        if self.load(name).is_none() {
            return Err(Error::Missing { name: name.to_owned(), cache: self.dir.clone() });
        }
        self.discard(name)
    }

    /// Waits for the turn to make an image, then removes what killed builds left behind.
    pub(super) fn turn(&self, progress: &dyn Fn(Progress)) -> Result<Turn, Error> {
        fs::create_dir_all(&self.dir).map_err(io_error("create", &self.dir))?;
        let path = self.dir.join(LOCK);
        let lock = durable::open_lock(&path).map_err(io_error("open", &path))?;
        let start = Instant::now();
        while !durable::lock_until(&lock, Instant::now() + Duration::from_secs(1))
            .map_err(io_error("lock", &path))?
        {
            let waited = start.elapsed();
            if waited > LOCK_LIMIT {
                return Err(Error::Busy { lock: path, waited });
            }
            progress(Progress::Waiting { elapsed: waited });
        }
        self.sweep()?;
        Ok(Turn { _lock: lock })
    }

    /// Removes what was being made by processes that were killed. Only for who has the turn.
    fn sweep(&self) -> Result<(), Error> {
        for entry in fs::read_dir(&self.dir).map_err(io_error("list", &self.dir))? {
            let path = entry.map_err(io_error("list", &self.dir))?.path();
            if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(TMP)) {
                remove_tree(&path)?;
            }
        }
        Ok(())
    }

    /// An empty directory to make an image in. The turn is asked for so that the next sweep cannot take it away.
    pub(super) fn workshop(&self, _turn: &Turn) -> Result<Workshop, Error> {
        let dir = self.dir.join(format!("{TMP}{}", process::id()));
        fs::create_dir(&dir).map_err(io_error("create", &dir))?;
        Ok(Workshop { dir })
    }

    /// Gives what was made its final name: after everything it needs is on the disk, and in one step.
    pub(super) fn publish(&self, workshop: Workshop, meta: Meta) -> Result<Artifact, Error> {
        let meta = Meta { format: FORMAT, ..meta };
        let path = workshop.dir.join(META);
        let text = serde_json::to_vec_pretty(&meta).expect("strings and numbers become JSON");
        fs::write(&path, text).map_err(io_error("write", &path))?;
        for file in [Some(&meta.disk), meta.kernel.as_ref(), meta.initrd.as_ref()].into_iter().flatten() {
            sync(&workshop.dir.join(file))?;
        }
        sync(&path)?;
        sync(&workshop.dir)?;
        // Something of that name that is no whole image; else it would not have been made again.
        self.discard(&meta.name)?;
        let target = self.dir.join(&meta.name);
        fs::rename(&workshop.dir, &target).map_err(io_error("create", &target))?;
        sync(&self.dir)?;
        Ok(self.artifact(&meta))
    }

    /// Takes a directory out of the cache: first its name, then its content.
    fn discard(&self, name: &str) -> Result<(), Error> {
        let path = self.dir.join(name);
        let doomed = self.dir.join(format!("{TMP}removed-{}-{name}", process::id()));
        match fs::rename(&path, &doomed) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io_error("remove", &path)(error)),
            Ok(()) => remove_tree(&doomed),
        }
    }

    /// What is known of an image, when it is whole.
    fn load(&self, name: &str) -> Option<Meta> {
        if name.starts_with('.') || name.contains('/') {
            return None;
        }
        let dir = self.dir.join(name);
        let meta: Meta = serde_json::from_slice(&fs::read(dir.join(META)).ok()?).ok()?;
        let length = fs::metadata(dir.join(&meta.disk)).ok()?.len();
        let others = [&meta.kernel, &meta.initrd];
        let whole = meta.format == FORMAT
            && meta.name == name
            && length == meta.disk_bytes
            && others.into_iter().flatten().all(|file| dir.join(file).is_file());
        whole.then_some(meta)
    }

    fn artifact(&self, meta: &Meta) -> Artifact {
        let dir = self.dir.join(&meta.name);
        let file = |name: &String| dir.join(name);
        Artifact {
            name: meta.name.clone(),
            disk: file(&meta.disk),
            kernel: meta.kernel.as_ref().map(file),
            initrd: meta.initrd.as_ref().map(file),
            cmdline: meta.cmdline.clone(),
            virtual_size: meta.virtual_size,
            sha256: meta.sha256.clone(),
        }
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // After publishing it is gone already; after a failure the next sweep tries again.
        let _ = remove_tree(&self.dir);
    }
}

/// The name of a downloaded image; `None` when that is no SHA-256.
pub(super) fn download_name(sha256: &str) -> Option<String> {
    let valid = sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit());
    valid.then(|| format!("url-{}", sha256[..12].to_ascii_lowercase()))
}

/// SHA-256 of a file, in hexadecimal.
pub(super) fn sha256_file(path: &Path) -> Result<String, Error> {
    let mut file = File::open(path).map_err(io_error("open", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; READ_SIZE];
    loop {
        match file.read(&mut buffer).map_err(io_error("read", path))? {
            0 => return Ok(hex(&hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

fn sync(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|file| file.sync_all()).map_err(io_error("sync", path))
}

/// Removes a directory, unless something is mounted in it: a build mounts the machine's own /dev in its tree.
pub(super) fn remove_tree(dir: &Path) -> Result<(), Error> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .map_err(io_error("read", Path::new("/proc/self/mountinfo")))?;
    let dir = match dir.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result.map_err(io_error("find", dir))?,
    };
    let mounted =
        mounts.lines().filter_map(|line| line.split(' ').nth(4)).any(|at| Path::new(at).starts_with(&dir));
    if mounted {
        let error =
            io::Error::new(io::ErrorKind::ResourceBusy, "a file system is mounted in it; unmount it first");
        return Err(io_error("remove", &dir)(error));
    }
    let deadline = Instant::now() + REMOVE_LIMIT;
    loop {
        match fs::remove_dir_all(&dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // The children of a build that was just killed may still be writing their last.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(100));
            }
            // Of a build by an ordinary user: many files belong to subordinate ids.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && Instant::now() < deadline => {
                let remove = Run::isolated("remove a tree")
                    .command("rm", &["-rf", "--", &dir.to_string_lossy()])
                    .status();
                if !remove.is_ok_and(|status| status.success()) {
                    return Err(io_error("remove", &dir)(error));
                }
            }
            Err(error) => return Err(io_error("remove", &dir)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet(_: Progress) {}

    fn recipe(package: &str) -> Recipe {
        Recipe { release: "debian-13".into(), packages: vec![package.into()] }
    }

    fn make(cache: &Cache, recipe: &Recipe) -> Artifact {
        let turn = cache.turn(&quiet).unwrap();
        let workshop = cache.workshop(&turn).unwrap();
        for file in ["disk.qcow2", "vmlinux", "initrd.img"] {
            fs::write(workshop.dir.join(file), "0123456789").unwrap();
        }
        let sha256 = sha256_file(&workshop.dir.join("disk.qcow2")).unwrap();
        let meta = Meta {
            name: recipe.name(),
            origin: recipe.hash(),
            disk: "disk.qcow2".into(),
            sha256,
            disk_bytes: 10,
            virtual_size: 8 << 30,
            kernel: Some("vmlinux".into()),
            initrd: Some("initrd.img".into()),
            cmdline: "quiet".into(),
            ..Meta::default()
        };
        cache.publish(workshop, meta).unwrap()
    }

    #[test]
    fn a_published_image_is_found_listed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("images"));
        assert_eq!(cache.list().unwrap(), []);

        let (one, two) = (make(&cache, &recipe("jq")), make(&cache, &recipe("etcd-server")));
        assert_eq!(cache.find(&recipe("jq")), Some(one.clone()));
        assert_eq!(cache.find(&recipe("patroni")), None);
        // printf 0123456789 | sha256sum
        assert_eq!(one.sha256, "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882");
        assert_eq!(cache.list().unwrap().len(), 2);

        cache.remove(&one.name).unwrap();
        assert_eq!(cache.list().unwrap(), [two]);
        assert!(matches!(cache.remove(&one.name), Err(Error::Missing { .. })));
        assert!(matches!(cache.remove("../images"), Err(Error::Missing { .. })));
    }

    #[test]
    fn what_a_killed_build_left_is_never_an_image_and_goes_with_the_next_build() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        // Killed while building, while publishing (the file without its directory entry), and with a cut disk.
        let turn = cache.turn(&quiet).unwrap();
        std::mem::forget(cache.workshop(&turn).unwrap());
        drop(turn);
        let artifact = make(&cache, &recipe("jq"));
        fs::rename(dir.path().join(&artifact.name), dir.path().join(".tmp-4711")).unwrap();
        assert_eq!(cache.find(&recipe("jq")), None);
        let artifact = make(&cache, &recipe("patroni"));
        fs::write(&artifact.disk, "0123").unwrap();
        assert_eq!(cache.find(&recipe("patroni")), None);
        assert_eq!(cache.list().unwrap(), []);

        // A download to be resumed is kept.
        fs::write(dir.path().join(".part-0123456789ab"), "half").unwrap();
        make(&cache, &recipe("patroni"));
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, [".part-0123456789ab".to_owned(), recipe("patroni").name(), "lock".to_owned()]);
    }

    #[test]
    fn images_are_made_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        let turn = cache.turn(&quiet).unwrap();
        let (sender, waits) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                cache.turn(&|step| sender.send(step).unwrap()).map(|_| ()).unwrap();
            });
            assert!(matches!(waits.recv().unwrap(), Progress::Waiting { .. }));
            drop(turn);
            other.join().unwrap();
        });
    }

    #[test]
    fn the_place_is_the_users_cache() {
        let place = |pairs: &[(&str, &str)]| {
            Cache::from_environment(|name| {
                pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v))
            })
            .map(|cache| cache.dir)
        };
        assert_eq!(place(&[("HOME", "/root")]).unwrap(), Path::new("/root/.cache/pgprov/images"));
        let both = [("HOME", "/root"), ("XDG_CACHE_HOME", "/var/cache")];
        assert_eq!(place(&both).unwrap(), Path::new("/var/cache/pgprov/images"));
        assert!(matches!(place(&[("XDG_CACHE_HOME", "relative")]), Err(Error::NoCache)));
    }
}
