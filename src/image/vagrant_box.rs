//! A box for Vagrant: an image with its kernel, and how vagrant-libvirt has to boot it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::json;

use super::Artifact;

/// A box and its catalog, which gives it a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VagrantBox {
    /// What `config.vm.box` is.
    pub name: String,
    /// What `config.vm.box_version` is. Vagrant wants numbers.
    pub version: String,
}

/// What a box says about itself to Vagrant, for `config.ssh` and the provider. Files of the box lie beside it.
const VAGRANTFILE: &str = include_str!("vagrant_box.rb");

impl VagrantBox {
    /// The box that is made of an image: its version changes with the image.
    pub fn of(image: &str) -> Self {
        let (release, hash) = image.rsplit_once('-').unwrap_or((image, "0"));
        let number = u32::from_str_radix(hash.get(..7).unwrap_or("0"), 16).unwrap_or(0);
        Self { name: format!("pgprov/{release}"), version: format!("{}.{number}", env!("CARGO_PKG_VERSION")) }
    }

    /// Writes box and catalog into a folder, and returns the path of the catalog: `vagrant box add` takes that.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn write(&self, artifact: &Artifact, folder: &Path) -> anyhow::Result<PathBuf> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let folder = fs::canonicalize(folder).with_context(|| format!("cannot find {}", folder.display()))?;
        let file = folder.join(format!("{}-{}.box", self.name.replace('/', "-"), self.version));
        let part = file.with_extension("part");
        self.pack(artifact, &part).with_context(|| format!("cannot write {}", part.display()))?;
        fs::rename(&part, &file).with_context(|| format!("cannot write {}", file.display()))?;
        let provider = json!({"name": "libvirt", "url": format!("file://{}", file.display())});
        let catalog = json!({
            "name": self.name,
            "description": "The image of pgprov: Debian with the packages of all roles.",
            "versions": [{"version": self.version, "providers": [provider]}],
        });
        let path = folder.join(format!("{}.json", self.name.replace('/', "-")));
        fs::write(&path, serde_json::to_vec_pretty(&catalog)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    fn pack(&self, artifact: &Artifact, file: &Path) -> anyhow::Result<()> {
        // In whole GiB.
        let size = artifact.virtual_size.div_ceil(1 << 30);
        let metadata = json!({"provider": "libvirt", "format": "qcow2", "virtual_size": size});
        let mut tar = tar::Builder::new(File::create(file)?);
        let vagrantfile = VAGRANTFILE.replace("COMMAND LINE", &artifact.cmdline);
        for (name, text) in [("metadata.json", metadata.to_string()), ("Vagrantfile", vagrantfile)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, text.as_bytes())?;
        }
        let parts = [
            ("box.img", Some(&artifact.disk)),
            ("vmlinux", artifact.kernel.as_ref()),
            ("initrd", artifact.initrd.as_ref()),
        ];
        for (name, path) in parts {
            if let Some(path) = path {
                tar.append_path_with_name(path, name)?;
            }
        }
        Ok(tar.into_inner()?.sync_all()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_has_the_disk_the_kernel_and_a_version() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["disk", "kernel", "initrd"] {
            fs::write(path(name), name).unwrap();
        }
        let artifact = Artifact {
            name: "debian-13-00000ff12345".into(),
            disk: path("disk"),
            kernel: Some(path("kernel")),
            initrd: Some(path("initrd")),
            cmdline: "root=/dev/vda quiet".into(),
            virtual_size: 8 << 30,
            sha256: String::new(),
        };
        let made = VagrantBox::of(&artifact.name);
        assert_eq!(
            (made.name.as_str(), made.version.as_str()),
            ("pgprov/debian-13", concat!(env!("CARGO_PKG_VERSION"), ".255"))
        );
        let catalog = made.write(&artifact, &path("boxes")).unwrap();
        let catalog: serde_json::Value = serde_json::from_slice(&fs::read(catalog).unwrap()).unwrap();
        let url = catalog["versions"][0]["providers"][0]["url"].as_str().unwrap();
        let mut archive = tar::Archive::new(File::open(url.strip_prefix("file://").unwrap()).unwrap());
        let mut names = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
            if entry.path().unwrap() == Path::new("Vagrantfile") {
                assert!(text.contains("root=/dev/vda quiet"), "{text}");
            }
            names.push(entry.path().unwrap().display().to_string());
        }
        assert_eq!(names, ["metadata.json", "Vagrantfile", "box.img", "vmlinux", "initrd"]);
    }
}
