//! What goes into an image, and the hash that names it.

use sha2::{Digest, Sha256};

use super::Error;

/// The releases an image can be built from, with their name in a Debian archive.
pub const RELEASES: [(&str, &str); 2] = [("debian-13", "trixie"), ("debian-12", "bookworm")];

/// Size of the disk and its file system, in bytes; also the smallest disk a host can have. It costs nothing: the disk
/// is sparse. Hosts with a larger one grow it at their first boot, which takes a second that all others are spared.
pub(super) const VIRTUAL_SIZE: u64 = pgplan::topology::BUILT_DISK.0;

/// The kernel's command line. Serial console, interfaces named eth0 and eth1; the rest is boot time, which counts when
/// processors are emulated: no mitigations and no hardening (nothing here is a boundary but the machine itself), no BPF
/// security module (systemd would load a program at every boot), none of the self tests that take a tenth of a second
/// each, no waiting for quiet moments of the one processor.
pub const CMDLINE: &str = "console=ttyS0 root=/dev/vda rw net.ifnames=0 quiet mitigations=off lsm=yama \
     init_on_alloc=0 hardened_usercopy=off rcupdate.rcu_expedited=1 rcu_nocbs=all audit=0 nowatchdog \
     initcall_blacklist=jent_mod_init,bpf_tcp_ca_kfunc_init,bpf_dummy_struct_ops_init";

/// Options of dpkg: no documentation and translations, which nobody reads in a lab host; licences stay.
pub(super) const DPKG_OPTIONS: [&str; 6] = [
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
];

/// Options of mke2fs. Inode tables and journal are written now, so that no host does it in the background; the features
/// are the same whatever mke2fs the machine has.
pub(super) const MKE2FS: [&str; 14] = [
    "-q",
    "-t",
    "ext4",
    "-L",
    "pgprov-root",
    "-O",
    "^orphan_file,^metadata_csum_seed",
    "-E",
    "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
    "-J",
    "size=32",
    "-m",
    "1",
    "-i65536",
];

/// Raised when an image built by older code must not be used any more, and nothing else that is hashed has changed.
const REVISION: &str = "pgprov image 1";

/// Files of `images/`, part of every recipe: path below `images/`, and content.
pub(super) const PARTS: &[(&str, &str)] = &[
    ("packages.txt", include_str!("../../images/packages.txt")),
    ("customize.sh", include_str!("../../images/customize.sh")),
    ("initrd-init", include_str!("../../images/initrd-init")),
    ("files/etc/modprobe.d/lab.conf", include_str!("../../images/files/etc/modprobe.d/lab.conf")),
    (
        "files/etc/ssh/sshd_config.d/lab.conf",
        include_str!("../../images/files/etc/ssh/sshd_config.d/lab.conf"),
    ),
    ("files/etc/sysctl.d/lab.conf", include_str!("../../images/files/etc/sysctl.d/lab.conf")),
    (
        "files/etc/systemd/journald.conf.d/lab.conf",
        include_str!("../../images/files/etc/systemd/journald.conf.d/lab.conf"),
    ),
    (
        "files/etc/systemd/network/10-lab.network",
        include_str!("../../images/files/etc/systemd/network/10-lab.network"),
    ),
    (
        "files/etc/systemd/system-preset/00-lab.preset",
        include_str!("../../images/files/etc/systemd/system-preset/00-lab.preset"),
    ),
    (
        "files/etc/systemd/system/lab-identity.service",
        include_str!("../../images/files/etc/systemd/system/lab-identity.service"),
    ),
    (
        "files/etc/systemd/system/service.d/lab.conf",
        include_str!("../../images/files/etc/systemd/system/service.d/lab.conf"),
    ),
    (
        "files/etc/systemd/system/ssh.service",
        include_str!("../../images/files/etc/systemd/system/ssh.service"),
    ),
    ("files/etc/systemd/system/ssh.socket", include_str!("../../images/files/etc/systemd/system/ssh.socket")),
    (
        "files/etc/systemd/system/systemd-networkd.service.d/lab.conf",
        include_str!("../../images/files/etc/systemd/system/systemd-networkd.service.d/lab.conf"),
    ),
    (
        "files/etc/systemd/system/systemd-udev-trigger.service.d/lab.conf",
        include_str!("../../images/files/etc/systemd/system/systemd-udev-trigger.service.d/lab.conf"),
    ),
    ("files/etc/udev/rules.d/99-lab.rules", include_str!("../../images/files/etc/udev/rules.d/99-lab.rules")),
    ("files/usr/lib/pgprov/identity", include_str!("../../images/files/usr/lib/pgprov/identity")),
    ("files/usr/lib/pgprov/warm", include_str!("../../images/files/usr/lib/pgprov/warm")),
];

/// Where the program [`GUEST`] lies in the tree of the image.
pub(super) const GUEST_PATH: &str = "usr/lib/pgprov/pghost";

/// Name of the program that images have of ours.
pub const GUEST: &str = "pghost";

/// What that program is made of, part of every recipe: the same sources are the same image, whoever compiles them.
const GUEST_SOURCES: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../../crates/pghost/Cargo.toml")),
    ("src/ask.rs", include_str!("../../crates/pghost/src/ask.rs")),
    ("src/bundle.rs", include_str!("../../crates/pghost/src/bundle.rs")),
    ("src/bundle/tests.rs", include_str!("../../crates/pghost/src/bundle/tests.rs")),
    ("src/cluster.rs", include_str!("../../crates/pghost/src/cluster.rs")),
    ("src/identity.rs", include_str!("../../crates/pghost/src/identity.rs")),
    ("src/lib.rs", include_str!("../../crates/pghost/src/lib.rs")),
    ("src/main.rs", include_str!("../../crates/pghost/src/main.rs")),
    ("src/port.rs", include_str!("../../crates/pghost/src/port.rs")),
    ("src/run.rs", include_str!("../../crates/pghost/src/run.rs")),
    ("src/shell.rs", include_str!("../../crates/pghost/src/shell.rs")),
    ("src/wire.rs", include_str!("../../crates/pghost/src/wire.rs")),
];

/// What to build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// One of [`RELEASES`].
    pub release: String,
    /// Debian packages of all roles, in addition to those every image has; order and repetition do not matter.
    pub packages: Vec<String>,
}

impl Recipe {
    /// SHA-256 over everything that decides what the image is, in hexadecimal.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        // Lengths first: no two different recipes are the same bytes.
        let mut add = |text: &str| {
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text);
        };
        add(REVISION);
        add(&self.release);
        add(CMDLINE);
        add(&VIRTUAL_SIZE.to_string());
        add(&MKE2FS.join(" "));
        add(&DPKG_OPTIONS.join(" "));
        for package in self.all_packages() {
            add(package);
        }
        for (path, content) in PARTS.iter().chain(GUEST_SOURCES) {
            add(path);
            add(content);
        }
        hex(&hasher.finalize())
    }

    /// The image's name: the release and the beginning of the hash, as in `debian-13-0123456789ab`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}-{}", self.release, &self.hash()[..12])
    }

    /// The release's name in a Debian archive.
    pub(super) fn suite(&self) -> Result<&'static str, Error> {
        let known = RELEASES.iter().find(|(release, _)| *release == self.release);
        known.map(|(_, suite)| *suite).ok_or_else(|| Error::Release {
            release: self.release.clone(),
            known: RELEASES.map(|(release, _)| release).join(" and "),
        })
    }

    /// All packages to install, sorted, each once.
    pub(super) fn all_packages(&self) -> Vec<&str> {
        let mut packages: Vec<&str> = self.packages.iter().map(String::as_str).collect();
        for package in base_packages() {
            packages.push(package);
        }
        packages.sort_unstable();
        packages.dedup();
        packages
    }

    /// The release exists and every package has the name of one (they become part of a command's argument).
    pub(super) fn check(&self) -> Result<(), Error> {
        self.suite()?;
        match self.packages.iter().find(|name| !is_package(name)) {
            Some(name) => Err(Error::Package { name: name.clone() }),
            None => Ok(()),
        }
    }
}

fn base_packages<'a>() -> impl Iterator<Item = &'a str> {
    let (_, text) = PARTS[0];
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Debian Policy 5.6.7.
fn is_package(name: &str) -> bool {
    name.len() >= 2
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b))
}

/// Bytes as lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn recipe(release: &str, packages: &[&str]) -> Recipe {
        Recipe { release: release.into(), packages: packages.iter().map(|&p| p.into()).collect() }
    }

    #[test]
    fn the_same_contents_have_the_same_hash_in_any_order() {
        let one = recipe("debian-13", &["postgresql-17", "jq"]);
        assert_eq!(one.hash(), recipe("debian-13", &["jq", "postgresql-17", "jq"]).hash());
        assert_eq!(one.hash().len(), 64);
        assert_eq!(one.name(), format!("debian-13-{}", &one.hash()[..12]));
    }

    #[test]
    fn another_release_or_package_is_another_image() {
        let hashes = [
            recipe("debian-13", &["postgresql-17"]),
            recipe("debian-12", &["postgresql-17"]),
            recipe("debian-13", &["postgresql-17", "etcd-server"]),
            // Were the parts just concatenated, this one and the last would be the same.
            recipe("debian-13", &["postgresql-17etcd-server"]),
        ]
        .map(|recipe| recipe.hash());
        assert_eq!(hashes.iter().collect::<BTreeSet<_>>().len(), hashes.len());
    }

    #[test]
    fn unknown_releases_and_things_that_are_no_packages_are_refused() {
        recipe("debian-12", &["libc6", "g++"]).check().unwrap();
        assert_eq!(
            recipe("ubuntu-24", &[]).check().unwrap_err().to_string(),
            "no recipe for release `ubuntu-24`; there are debian-13 and debian-12"
        );
        for name in ["", "a", "-o", "a,b", "a b", "Postgres", "a=1"] {
            assert!(matches!(recipe("debian-13", &[name]).check(), Err(Error::Package { .. })), "{name}");
        }
    }

    #[test]
    fn every_file_of_images_and_of_pghost_is_part_of_the_recipe() {
        fn walk(dir: &Path, base: &Path, found: &mut BTreeSet<PathBuf>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, base, found);
                } else {
                    found.insert(path.strip_prefix(base).unwrap().to_owned());
                }
            }
        }
        for (folder, listed) in [("images", PARTS), ("crates/pghost", GUEST_SOURCES)] {
            let base = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
            let mut found = BTreeSet::new();
            walk(&base, &base, &mut found);
            let listed: BTreeSet<PathBuf> = listed.iter().map(|(path, _)| PathBuf::from(path)).collect();
            assert_eq!(listed, found);
        }
        assert_eq!(PARTS[0].0, "packages.txt");
    }
}
