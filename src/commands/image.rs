//! `pgprov image`: what hosts start from. Images are in a cache of this machine, and in the pool of each hypervisor.

use std::{cell::RefCell, collections::BTreeSet, path::Path};

use pgplan::{
    lab::Lab,
    machine::{ImagePart, Volume},
    observed::{DiskSeen, Infra, VolumeSeen},
    plan::is_other,
    size::Bytes,
    topology::{self, DiskFormat, Release, StockImage},
};
use serde_json::json;

use super::context::Assets;
use crate::{
    cli::{self, Global, ImageBox, ImageBuild, ImagePrune, ImageRemove},
    error::{Error, Result},
    files,
    image::{self, Artifact, Cache, Progress, Recipe, Source, VagrantBox},
    libvirt::Libvirt,
    ui::{self, Line, Ui},
};

/// The image of a lab: in the cache, or already in the pool.
pub struct Provided {
    /// Its name.
    pub name: String,
    /// Kernel command line, empty when it boots by itself.
    pub cmdline: String,
    /// Size of its files.
    pub size: Bytes,
    /// Its parts on this machine; empty when only the pool has it.
    pub files: Vec<(ImagePart, std::path::PathBuf)>,
}

/// Runs the verb.
///
/// # Errors
/// The image cannot be built, or is in use.
pub fn run(ui: &Ui, global: &Global, args: &cli::Image) -> Result {
    match args {
        cli::Image::Build(args) => build(ui, global, args),
        cli::Image::Box(args) => make_box(ui, global, args),
        cli::Image::List => list(ui, global),
        cli::Image::Remove(args) => remove(ui, global, args),
        cli::Image::Prune(args) => prune(ui, global, args),
    }
}

fn build(ui: &Ui, global: &Global, args: &ImageBuild) -> Result {
    let assets = Assets::load(global)?;
    let image = match (meant(ui, &assets, &args.what)?, &args.mirror) {
        (topology::Image::Built { release, mirror }, by_option) => {
            topology::Image::Built { release, mirror: by_option.clone().or(mirror) }
        }
        (stock, _) => stock,
    };
    let artifact = in_cache(ui, &assets, &image)?;
    if ui.json() {
        ui.out_json(&json!({"name": artifact.name, "disk": artifact.disk, "sha256": artifact.sha256}));
    } else {
        ui.out(&format!("image {} is there", artifact.name));
    }
    Ok(())
}

/// The image of a release or of a topology file.
fn meant(ui: &Ui, assets: &Assets, what: &str) -> Result<topology::Image> {
    let release = [Release::Debian12, Release::Debian13].into_iter().find(|release| release.name() == what);
    match release {
        Some(release) => Ok(topology::Image::Built { release, mirror: None }),
        None if !Path::new(what).exists() => {
            let message = format!("`{what}` is neither a release nor a topology file");
            Err(Error::usage(message).hint("releases: debian-12, debian-13"))
        }
        None => Ok(assets.topology(ui, Path::new(what))?.1.image),
    }
}

fn make_box(ui: &Ui, global: &Global, args: &ImageBox) -> Result {
    let assets = Assets::load(global)?;
    let image = meant(ui, &assets, &args.what)?;
    if !matches!(image, topology::Image::Built { .. }) {
        return Err(Error::usage("only images that pgprov builds can be boxes"));
    }
    let artifact = in_cache(ui, &assets, &image)?;
    let made = VagrantBox::of(&artifact.name);
    let catalog = made.write(&artifact, &args.out)?;
    if ui.json() {
        ui.out_json(&json!({"box": made.name, "version": made.version, "catalog": catalog}));
    } else {
        ui.out(&format!(
            "box {} {} is made; take it with: vagrant box add {}",
            made.name,
            made.version,
            catalog.display()
        ));
    }
    Ok(())
}

/// The image for a lab, built or downloaded when neither the cache nor the pool has it.
///
/// # Errors
/// It cannot be built or downloaded.
pub fn provide(ui: &Ui, assets: &Assets, lab: &Lab, infra: &Infra, look_only: bool) -> Result<Provided> {
    let name = match &lab.image {
        topology::Image::Built { release, .. } => recipe(assets, *release).name(),
        topology::Image::Stock(stock) => stock_name(stock),
    };
    let built = matches!(lab.image, topology::Image::Built { .. });
    let cmdline = if built { image::CMDLINE.to_owned() } else { String::new() };
    let made_of = |disk: &DiskSeen| disk.image.as_ref().is_none_or(|was| !is_other(&lab.image, was, &name));
    let all_made = lab.hosts.iter().all(|host| infra.disks.get(&host.name).is_some_and(made_of));
    if look_only || all_made || infra.images.contains(&name) {
        return Ok(Provided { name, cmdline, size: Bytes(0), files: Vec::new() });
    }
    let artifact = in_cache(ui, assets, &lab.image)?;
    refuse_small_disk(lab.vm.disk, &artifact)?;
    let files = parts(&artifact);
    let size = files.iter().filter_map(|(_, path)| Some(path.metadata().ok()?.len())).sum();
    Ok(Provided { name: artifact.name, cmdline, size: Bytes(size), files })
}

/// A disk that is smaller than the image it is a layer over would lack the end of its file system.
fn refuse_small_disk(disk: Bytes, artifact: &Artifact) -> Result {
    let needed = Bytes(artifact.virtual_size);
    if disk >= needed {
        return Ok(());
    }
    Err(Error::failed(format!("the disk of image {} has {needed}, vm.disk is {disk}", artifact.name))
        .hint(format!("make vm.disk {needed} or more; it is thin: unused space costs nothing")))
}

/// What the image of a release is built from.
pub fn recipe(assets: &Assets, release: Release) -> Recipe {
    Recipe { release: release.name().to_owned(), packages: assets.roles.packages(release) }
}

fn stock_name(stock: &StockImage) -> String {
    format!("url-{}", stock.sha256[..12].to_lowercase())
}

fn parts(artifact: &Artifact) -> Vec<(ImagePart, std::path::PathBuf)> {
    let boot = [(ImagePart::Kernel, &artifact.kernel), (ImagePart::Initrd, &artifact.initrd)];
    let boot = boot.into_iter().filter_map(|(part, path)| Some((part, path.clone()?)));
    std::iter::once((ImagePart::Qcow2, artifact.disk.clone())).chain(boot).collect()
}

fn in_cache(ui: &Ui, assets: &Assets, wanted: &topology::Image) -> Result<Artifact> {
    let cache = Cache::of_user()?;
    let line = ui.line("image", 8);
    let last = RefCell::new(String::new());
    let progress = |progress: Progress| show(&line, &mut last.borrow_mut(), &progress);
    let found = match wanted {
        topology::Image::Built { release, mirror } => {
            let recipe = recipe(assets, *release);
            let guest = files::guest_program(image::GUEST);
            match cache.find(&recipe) {
                Some(artifact) => Ok((artifact, false)),
                None => image::build(
                    &cache,
                    &recipe,
                    mirror.as_deref(),
                    guest.as_deref(),
                    &files::role_programs(),
                    &progress,
                )
                .map(|artifact| (artifact, true)),
            }
        }
        topology::Image::Stock(stock) => match cache.find_download(&stock.sha256) {
            Some(artifact) => Ok((artifact, false)),
            None => {
                let format = match stock.format {
                    DiskFormat::Qcow2 => image::Format::Qcow2,
                    DiskFormat::Raw => image::Format::Raw,
                };
                let source = Source { url: &stock.url, sha256: &stock.sha256, format };
                image::download(&cache, &source, &progress).map(|artifact| (artifact, true))
            }
        },
    };
    match found {
        Ok((artifact, true)) => {
            line.done(&format!("{} is made", artifact.name));
            Ok(artifact)
        }
        Ok((artifact, false)) => {
            line.drop_quietly();
            Ok(artifact)
        }
        Err(error) => {
            line.failed("cannot be had");
            Err(error.into())
        }
    }
}

fn show(line: &Line, last: &mut String, progress: &Progress) {
    let text = match progress {
        Progress::Waiting { .. } => "waiting for another pgprov that makes an image".to_owned(),
        Progress::Phase { name, .. } => format!("building: {name}"),
        Progress::Bytes { done, total: Some(total) } => {
            line.tick(&format!("downloading: {} of {} MB", done / 1_000_000, total / 1_000_000));
            "downloading".to_owned()
        }
        Progress::Bytes { done, total: None } => {
            line.tick(&format!("downloading: {} MB", done / 1_000_000));
            "downloading".to_owned()
        }
    };
    if text != *last {
        line.now(&text);
        *last = text;
    }
}

fn list(ui: &Ui, global: &Global) -> Result {
    let cached = Cache::of_user()?.list()?;
    // The list is useful without a hypervisor too.
    let inventory = Libvirt::connect(global.connect.as_deref()).and_then(|libvirt| libvirt.inventory());
    let (pool, users) = match &inventory {
        Ok(inventory) => (inventory.images(), inventory.image_users()),
        Err(error) => {
            ui.warn(&format!("{error}: the pool is not shown"));
            Default::default()
        }
    };
    let mut names: Vec<&str> =
        cached.iter().map(|a| a.name.as_str()).chain(pool.iter().map(String::as_str)).collect();
    names.sort_unstable();
    names.dedup();
    let volumes = inventory.as_ref().map(|inventory| inventory.volumes.as_slice()).unwrap_or_default();
    let row = |name: &&str| {
        let artifact = cached.iter().find(|artifact| artifact.name == *name);
        let labs: Vec<&str> = users.get(*name).into_iter().flatten().map(String::as_str).collect();
        let size = artifact.and_then(|a| Some(a.disk.metadata().ok()?.len()));
        (
            name.to_string(),
            artifact.is_some(),
            pool.contains(*name),
            size,
            snapshot_bytes(volumes, name),
            labs.join(", "),
        )
    };
    let rows: Vec<_> = names.iter().map(row).collect();
    if ui.json() {
        let rows: Vec<_> = rows
            .iter()
            .map(|(name, cached, pool, size, snapshots, labs)| json!({"name": name, "cached": cached, "in_pool": pool, "bytes": size, "snapshot_bytes": snapshots, "labs": labs}))
            .collect();
        ui.out_json(&json!({"images": rows}));
        return Ok(());
    }
    if rows.is_empty() {
        ui.out("no images; `pgprov image build` makes one");
        return Ok(());
    }
    let yes = |is: bool| if is { "yes" } else { "-" }.to_owned();
    let cells: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(name, cached, pool, size, snapshots, labs)| {
            let megabytes = |bytes: u64| format!("{} MB", bytes / 1_000_000);
            let size = size.map_or_else(|| "-".to_owned(), megabytes);
            let snapshots = if snapshots == 0 { "-".to_owned() } else { megabytes(snapshots) };
            vec![
                name,
                yes(cached),
                yes(pool),
                size,
                snapshots,
                if labs.is_empty() { "-".to_owned() } else { labs },
            ]
        })
        .collect();
    ui.out(&ui::table(&["IMAGE", "CACHED", "IN POOL", "SIZE", "SNAPSHOT", "USED BY"], &cells));
    Ok(())
}

/// What the boot snapshots of an image take in the pool.
fn snapshot_bytes(volumes: &[VolumeSeen], image: &str) -> u64 {
    let of_image = |volume: &&VolumeSeen| matches!(Volume::parse(&volume.name), Volume::Snapshot { snapshot, .. } if snapshot.image == image);
    volumes.iter().filter(of_image).map(|volume| volume.allocation.0).sum()
}

fn prune(ui: &Ui, global: &Global, args: &ImagePrune) -> Result {
    let libvirt = Libvirt::connect(global.connect.as_deref())?;
    let inventory = libvirt.inventory()?;
    let cache = Cache::of_user()?;
    let assets = Assets::load(global)?;
    let mut kept: BTreeSet<String> = inventory.image_users().into_keys().collect();
    if !args.all {
        kept.extend([Release::Debian12, Release::Debian13].map(|release| recipe(&assets, release).name()));
    }
    let cached = cache.list()?.into_iter().map(|artifact| artifact.name);
    let all: BTreeSet<String> = cached.chain(inventory.images()).collect();
    let unwanted: Vec<&String> = all.difference(&kept).collect();
    for name in &unwanted {
        libvirt.remove_image(name)?;
        match cache.remove(name) {
            Ok(()) | Err(image::Error::Missing { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        ui.say(&format!("image {name} is removed"));
    }
    ui.out(&format!("{} images removed, {} kept", unwanted.len(), all.len() - unwanted.len()));
    Ok(())
}

fn remove(ui: &Ui, global: &Global, args: &ImageRemove) -> Result {
    let name = args.name.as_str();
    let libvirt = Libvirt::connect(global.connect.as_deref())?;
    let inventory = libvirt.inventory()?;
    if let Some(labs) = inventory.image_users().get(name) {
        let labs: Vec<&str> = labs.iter().map(String::as_str).collect();
        return Err(Error::failed(format!("image {name} is used by {}", labs.join(", ")))
            .hint("destroy those labs first: their disks are layers over it"));
    }
    let in_pool = libvirt.remove_image(name)?;
    let in_cache = match Cache::of_user()?.remove(name) {
        Ok(()) => true,
        Err(image::Error::Missing { .. }) => false,
        Err(error) => return Err(error.into()),
    };
    if !in_pool && !in_cache {
        return Err(Error::usage(format!("there is no image {name}")).hint("`pgprov image list` shows them"));
    }
    ui.out(&format!("image {name} is removed"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_holds_at_least_the_image_it_is_a_layer_over() {
        let artifact = Artifact {
            name: "url-0123456789ab".to_owned(),
            disk: "disk.qcow2".into(),
            kernel: None,
            initrd: None,
            cmdline: String::new(),
            virtual_size: 10 << 30,
            sha256: String::new(),
        };
        assert!(refuse_small_disk(Bytes(10 << 30), &artifact).is_ok());
        let refused = refuse_small_disk(Bytes(8 << 30), &artifact).unwrap_err();
        assert_eq!(
            refused.cause.to_string(),
            "the disk of image url-0123456789ab has 10GiB, vm.disk is 8GiB"
        );
    }
}
