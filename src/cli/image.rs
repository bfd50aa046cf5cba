//! Arguments of `pgprov image`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Verbs for images
#[derive(Debug, Subcommand)]
pub enum Image {
    /// Build or download the image of a topology, or of a release, unless it is there
    Build(ImageBuild),
    /// Make a box for Vagrant of an image that pgprov builds
    Box(ImageBox),
    /// List images, and the labs that use them
    List,
    /// Remove an image that no lab uses, from cache and pool, with its boot snapshots
    Remove(ImageRemove),
    /// Remove all images that no lab uses, except those that `up` would take next
    Prune(ImagePrune),
}

/// Arguments of image prune
#[derive(Args, Debug)]
pub struct ImagePrune {
    /// Also those that `up` would take next
    #[arg(long)]
    pub all: bool,
}

/// Arguments of image build
#[derive(Args, Debug)]
pub struct ImageBuild {
    /// Topology file, or debian-13, or debian-12
    #[arg(value_name = "TOPOLOGY|RELEASE", default_value = "debian-13")]
    pub what: String,
    /// Debian mirror to build from [default: the one this machine uses]
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
}

/// Arguments of image remove
#[derive(Args, Debug)]
pub struct ImageRemove {
    /// Name as `image list` shows it
    pub name: String,
}

/// Arguments of image box
#[derive(Args, Debug)]
pub struct ImageBox {
    /// Topology file, or debian-13, or debian-12
    #[arg(value_name = "TOPOLOGY|RELEASE", default_value = "debian-13")]
    pub what: String,
    /// Folder for the box and its catalog
    #[arg(long, value_name = "DIR", default_value = "boxes")]
    pub out: PathBuf,
}
