use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The environment does not say where images belong.
    #[error("cannot find a place for images: set XDG_CACHE_HOME or HOME to an absolute path")]
    NoCache,
    /// A release no recipe exists for.
    #[error("no recipe for release `{release}`; there are {known}")]
    Release {
        /// As asked for.
        release: String,
        /// Those that exist.
        known: String,
    },
    /// Not the name of a Debian package.
    #[error("`{name}` is not the name of a Debian package")]
    Package {
        /// As asked for.
        name: String,
    },
    /// Building needs root, or subordinate ids.
    #[error(
        "cannot build the image as this user ({cause}): it needs the package uidmap and subordinate ids in /etc/subuid \
         and /etc/subgid, see newuidmap(1); or build it as root"
    )]
    User {
        /// What was tried, and what it said.
        cause: String,
    },
    /// The machine's apt sources name no Debian mirror.
    #[error(
        "no Debian mirror in the apt sources of this machine; name one with image.mirror in the topology"
    )]
    NoMirror,
    /// Not a mirror apt could use.
    #[error("cannot use mirror `{mirror}`: it must begin with http://, https:// or file:///")]
    Mirror {
        /// As asked for.
        mirror: String,
    },
    /// The program that every host has is not compiled.
    #[error(
        "the program `{name}` for hosts is not there: `make guest` builds it, and PGPROV_GUEST_DIR says where it is"
    )]
    Guest {
        /// Its name.
        name: &'static str,
    },
    /// Too little room for a build.
    #[error("building an image needs {} MiB in {}, which has {}", needed >> 20, dir.display(), free >> 20)]
    Space {
        /// The cache.
        dir: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// Another build runs all the time.
    #[error("waited {} s for another process that makes an image (it holds {})", waited.as_secs(), lock.display())]
    Busy {
        /// The lock file.
        lock: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// A program that the build runs is not installed.
    #[error("cannot run {tool}, which is needed to {purpose}: {cause}; scripts/setup installs it")]
    Tool {
        /// The program.
        tool: String,
        /// What for.
        purpose: &'static str,
        /// Why it does not run.
        cause: io::Error,
    },
    /// A program that the build runs failed.
    #[error("cannot {purpose}: {tool} {outcome}; its last words:\n{tail}\n(all of them: {})", log.display())]
    Step {
        /// The program.
        tool: String,
        /// What for.
        purpose: &'static str,
        /// How it ended.
        outcome: String,
        /// The last lines it wrote.
        tail: String,
        /// Where all of its output is.
        log: PathBuf,
    },
    /// The packaged kernel cannot be taken apart.
    #[error("cannot unpack kernel {}: {cause}", path.display())]
    Kernel {
        /// The packaged kernel.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// Not an address to download from.
    #[error("cannot download `{url}`: {cause}")]
    Url {
        /// As asked for.
        url: String,
        /// What is wrong.
        cause: String,
    },
    /// The server or the network failed, more than once.
    #[error(
        "cannot download {url}: {cause} (after {attempts} attempts without a byte; {done} bytes are kept for the next run)"
    )]
    Download {
        /// From where.
        url: String,
        /// The last failure.
        cause: String,
        /// How often it was tried in vain.
        attempts: u32,
        /// Bytes that are there.
        done: u64,
    },
    /// Not the file that was asked for.
    #[error("refused {url}: its sha256 is {found}, the topology says {wanted}")]
    Checksum {
        /// From where.
        url: String,
        /// As asked for.
        wanted: String,
        /// Of what came.
        found: String,
    },
    /// Not a SHA-256.
    #[error("`{sha256}` is not a sha256: 64 hexadecimal digits")]
    NotSha256 {
        /// As asked for.
        sha256: String,
    },
    /// A disk image that is not what it is said to be, or refers to other files.
    #[error("refused {url}: {cause}")]
    Disk {
        /// From where.
        url: String,
        /// What is wrong.
        cause: String,
    },
    /// No image of that name.
    #[error("no image `{name}` in {}", cache.display())]
    Missing {
        /// As asked for.
        name: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// For `map_err`: what was being done to which path.
pub(super) fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { operation, path, source }
}
