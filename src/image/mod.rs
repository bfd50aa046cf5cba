//! The golden image: the disk every host of a lab starts from, with the kernel and the initrd that boot it.
//!
//! [`build`] makes one from Debian packages without booting anything; [`download`] takes a stock cloud image instead.
//! Both put a finished [`Artifact`] into a [`Cache`] in one step, so an image is either whole or not there:
//!
//! ```text
//! $XDG_CACHE_HOME/pgprov/images | ~/.cache/pgprov/images
//!   lock                       held by the one build or download that runs
//!   build.log                  of the last build
//!   debian-13-0123456789ab/    image.json, disk.qcow2, vmlinux, initrd.img
//!   url-0123456789ab/          image.json, disk.qcow2
//!   .tmp-*                     being made; swept by the next build
//!   .part-*                    a download to be resumed
//! ```

mod apt;
mod build;
mod cache;
mod download;
mod error;
mod kernel;
mod recipe;
mod tool;
mod vagrant_box;

use std::time::Duration;

pub use build::build;
pub use cache::{Artifact, Cache};
pub use download::{Format, Source, download};
pub use error::Error;
pub use recipe::{CMDLINE, GUEST, RELEASES, Recipe};
pub use vagrant_box::VagrantBox;

/// What a build or a download is at; made for a progress line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another process makes an image in this cache.
    Waiting {
        /// Since when.
        elapsed: Duration,
    },
    /// A phase begins, or goes on (about once a second).
    Phase {
        /// What is done: `packages`, `kernel`, `file system`, `disk`, `checksum`.
        name: &'static str,
        /// Since the build began.
        elapsed: Duration,
    },
    /// Bytes of a download have arrived.
    Bytes {
        /// So far, including what an earlier run left.
        done: u64,
        /// All of them, when the server says.
        total: Option<u64>,
    },
}
