//! Builds an image from Debian packages: nothing is booted, and nothing but the mirror is reached.

use std::cell::Cell;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pgplan::{digest, host::facts::PROGRAMS};

use super::cache::{Meta, remove_tree, sha256_file};
use super::error::io_error;
use super::recipe::{CMDLINE, DPKG_OPTIONS, GUEST, GUEST_PATH, MKE2FS, PARTS, VIRTUAL_SIZE};
use super::tool::{Run, Tools};
use super::{Artifact, Cache, Error, Progress, Recipe, apt, kernel};

/// Where the machine's apt keeps its sources.
const ETC_APT: &str = "/etc/apt";
/// Unpacked tree, disk and their copies, at their largest.
const NEEDED: u64 = 4 << 30;
/// Packages come over the network.
const PACKAGES_LIMIT: Duration = Duration::from_secs(40 * 60);

/// Builds the image of `recipe`, unless it is there already, from `mirror` or else from this machine's own. `guest` is the program
/// [`GUEST`], and `programs` are those that roles install: hosts need not be sent what their image has. They do not decide what the
/// image is called: a host is asked what it has.
///
/// Takes one to two minutes; another process that builds in the same cache is waited for.
///
/// # Errors
/// No way to be root, no mirror, no room, a missing program, or a step failed: then with the end of its output. Nothing that
/// looks like an image is left behind.
pub fn build(
    cache: &Cache,
    recipe: &Recipe,
    mirror: Option<&str>,
    guest: Option<&Path>,
    programs: &[PathBuf],
    progress: &dyn Fn(Progress),
) -> Result<Artifact, Error> {
    recipe.check()?;
    if let Some(image) = cache.find(recipe) {
        return Ok(image);
    }
    check_user()?;
    let guest = guest.ok_or(Error::Guest { name: GUEST })?;
    let sources = apt::sources_list(Path::new(ETC_APT), recipe.suite()?, mirror)?;
    let turn = cache.turn(progress)?;
    // By who had the turn before us.
    if let Some(image) = cache.find(recipe) {
        return Ok(image);
    }
    check_space(cache.dir())?;
    let workshop = cache.workshop(&turn)?;

    let start = Instant::now();
    let phase = Cell::new("");
    let tick = || progress(Progress::Phase { name: phase.get(), elapsed: start.elapsed() });
    let begin = |name| {
        phase.set(name);
        tick();
    };
    let tools = Tools::new(cache.dir().join("build.log"), &tick)?;
    let place = Place::new(&workshop.dir);

    begin("packages");
    place.prepare(&sources, &apt::settings()?, guest, programs)?;
    place.install(&tools, recipe)?;
    begin("kernel");
    place.take_kernel(&tools)?;
    begin("file system");
    place.make_file_system(&tools)?;
    begin("disk");
    place.make_disk(&tools)?;
    begin("checksum");
    let meta = place.describe(recipe)?;
    cache.publish(workshop, meta)
}

/// Whether this user can make files of root and others: a tree of a machine is full of them.
fn check_user() -> Result<(), Error> {
    let output = Run::isolated("try to become root in a user namespace").command("true", &[]).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(Error::User { cause: String::from_utf8_lossy(&output.stderr).trim().to_owned() }),
        Err(cause) => Err(Error::User { cause: cause.to_string() }),
    }
}

fn check_space(dir: &Path) -> Result<(), Error> {
    let status =
        rustix::fs::statvfs(dir).map_err(|error| io_error("ask for free space in", dir)(error.into()))?;
    let free = status.f_bavail.saturating_mul(status.f_frsize);
    if free < NEEDED {
        return Err(Error::Space { dir: dir.to_owned(), needed: NEEDED, free });
    }
    Ok(())
}

/// The paths inside the directory in which an image is being made.
struct Place {
    dir: PathBuf,
    /// The files of the recipe.
    parts: PathBuf,
    /// The tree of the future machine.
    root: PathBuf,
    /// The file system, sparse.
    raw: PathBuf,
}

impl Place {
    fn new(dir: &Path) -> Self {
        let dir = dir.to_owned();
        Self { parts: dir.join("parts"), root: dir.join("root"), raw: dir.join("disk.raw"), dir }
    }

    /// Lays out what mmdebstrap reads. In files, not arguments: a mirror's or a proxy's address can hold a password.
    fn prepare(
        &self,
        sources: &str,
        settings: &str,
        guest: &Path,
        programs: &[PathBuf],
    ) -> Result<(), Error> {
        for (path, content) in PARTS {
            write(&self.parts.join(path), content, 0o644)?;
        }
        let place = |from: &Path, to: &Path| {
            fs::copy(from, to).map(drop).map_err(io_error("copy a program for hosts to", to))
        };
        place(guest, &self.parts.join("files").join(GUEST_PATH))?;
        let folder = self.parts.join("files").join(PROGRAMS.trim_start_matches('/'));
        fs::create_dir_all(&folder).map_err(io_error("make", &folder))?;
        for program in programs {
            let content = fs::read(program).map_err(io_error("read", program))?;
            place(program, &folder.join(digest::hex(&content)))?;
        }
        write(&self.dir.join("mirror.list"), sources, 0o600)?;
        write(&self.dir.join("apt.conf"), settings, 0o600)
    }

    /// The tree: packages, then `images/customize.sh`.
    fn install(&self, tools: &Tools, recipe: &Recipe) -> Result<(), Error> {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let mut arguments = vec!["--mode=root".to_owned(), "--variant=minbase".to_owned()];
        arguments.push("--format=directory".to_owned());
        arguments.push(format!("--include={}", recipe.all_packages().join(",")));
        arguments.push("--aptopt=Acquire::Languages \"none\"".to_owned());
        arguments.push(format!("--aptopt={}", path(&self.dir.join("apt.conf"))));
        arguments.extend(DPKG_OPTIONS.iter().map(|option| format!("--dpkgopt={option}")));
        let script = quote(&path(&self.parts.join("customize.sh")));
        let parts = quote(&path(&self.parts));
        arguments.push(format!("--essential-hook=sh {script} before \"$1\" {parts}"));
        let sectors = VIRTUAL_SIZE / 512;
        arguments.push(format!("--customize-hook=sh {script} after \"$1\" {parts} {sectors}"));
        arguments.push(recipe.suite()?.to_owned());
        arguments.push(path(&self.root));
        arguments.push(path(&self.dir.join("mirror.list")));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        // The packaged initrd would be made and thrown away.
        let environment = [("TMPDIR", path(&self.dir)), ("INITRD", "No".to_owned())];
        let run = Run {
            limit: PACKAGES_LIMIT,
            environment: &environment,
            ..Run::isolated("install the packages of the image")
        };
        tools.run(&run, "mmdebstrap", &arguments)
    }

    /// Moves kernel and initrd out of the tree, the kernel decompressed.
    fn take_kernel(&self, tools: &Tools) -> Result<(), Error> {
        let boot = self.root.join("boot");
        let initrd = boot.join("lab-initrd.img");
        fs::rename(&initrd, self.dir.join("initrd.img")).map_err(io_error("find", &initrd))?;
        let packaged = self.packaged_kernel(&boot)?;
        let image = fs::read(&packaged).map_err(io_error("read", &packaged))?;
        let payload = kernel::payload(&image, &packaged)?;
        let compressed = self.dir.join("kernel.compressed");
        fs::write(&compressed, payload.bytes).map_err(io_error("write", &compressed))?;
        let kernel = self.dir.join("vmlinux");
        let (from, purpose) = (compressed.to_string_lossy(), "unpack the kernel");
        // From standard input: not every one of these programs accepts any file name.
        let script = "exec \"$0\" -dc <\"$1\"";
        let run = Run { output: Some(&kernel), ..Run::new(purpose) };
        tools.run(&run, "sh", &["-c", script, payload.tool, &from])?;
        remove(&compressed)?;
        remove(&packaged)
    }

    fn packaged_kernel(&self, boot: &Path) -> Result<PathBuf, Error> {
        for entry in fs::read_dir(boot).map_err(io_error("list", boot))? {
            let path = entry.map_err(io_error("list", boot))?.path();
            if path
                .file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with("vmlinuz-"))
            {
                return Ok(path);
            }
        }
        Err(Error::Kernel { path: boot.join("vmlinuz-*"), cause: "there is none".to_owned() })
    }

    fn make_file_system(&self, tools: &Tools) -> Result<(), Error> {
        let (root, raw) = (self.root.to_string_lossy(), self.raw.to_string_lossy());
        let size = format!("{}k", VIRTUAL_SIZE / 1024);
        let arguments: Vec<&str> = MKE2FS.into_iter().chain(["-d", &root, &raw, &size]).collect();
        tools.run(&Run::isolated("make the file system"), "mke2fs", &arguments)?;
        remove_tree(&self.root)
    }

    fn make_disk(&self, tools: &Tools) -> Result<(), Error> {
        let (raw, disk) = (self.raw.to_string_lossy(), self.disk());
        let arguments = ["convert", "-f", "raw", "-O", "qcow2", &raw, &disk.to_string_lossy()];
        tools.run(&Run::new("make the disk"), "qemu-img", &arguments)?;
        remove(&self.raw)
    }

    fn disk(&self) -> PathBuf {
        self.dir.join("disk.qcow2")
    }

    /// Clears what is not part of the image, and describes what is.
    fn describe(&self, recipe: &Recipe) -> Result<Meta, Error> {
        remove_tree(&self.parts)?;
        remove(&self.dir.join("mirror.list"))?;
        remove(&self.dir.join("apt.conf"))?;
        let disk = self.disk();
        let length = fs::metadata(&disk).map_err(io_error("read", &disk))?.len();
        Ok(Meta {
            name: recipe.name(),
            release: Some(recipe.release.clone()),
            origin: recipe.hash(),
            disk: "disk.qcow2".to_owned(),
            sha256: sha256_file(&disk)?,
            disk_bytes: length,
            virtual_size: VIRTUAL_SIZE,
            kernel: Some("vmlinux".to_owned()),
            initrd: Some("initrd.img".to_owned()),
            cmdline: CMDLINE.to_owned(),
            ..Meta::default()
        })
    }
}

fn write(path: &Path, content: &str, mode: u32) -> Result<(), Error> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(io_error("create", dir))?;
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(io_error("create", path))?;
    file.write_all(content.as_bytes()).map_err(io_error("write", path))
}

fn remove(path: &Path) -> Result<(), Error> {
    fs::remove_file(path).map_err(io_error("remove", path))
}

/// A word of a shell command: hooks of mmdebstrap are commands of a shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_path_is_one_word_for_the_shell_whatever_is_in_it() {
        let word = "/tmp/it's $HOME; `x`";
        let output =
            std::process::Command::new("sh").arg("-c").arg(format!("printf %s {}", quote(word))).output();
        assert_eq!(output.unwrap().stdout, word.as_bytes());
    }

    #[test]
    fn the_recipe_is_laid_out_and_addresses_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path());
        let guest = dir.path().join("pghost");
        fs::write(&guest, "program").unwrap();
        let programs = [guest.clone()];
        let sources = "deb https://user:password@mirror.example/debian trixie main\n";
        place.prepare(sources, "", &guest, &programs).unwrap();
        let placed = format!("parts/files/usr/lib/pgprov/programs/{}", digest::hex(b"program"));
        assert_eq!(fs::read(dir.path().join(placed)).unwrap(), b"program");
        let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("mirror.list"), 0o600);
        assert_eq!(mode("apt.conf"), 0o600);
        for (path, content) in PARTS {
            assert_eq!(fs::read_to_string(dir.path().join("parts").join(path)).unwrap(), *content);
        }
    }

    #[test]
    fn an_unknown_release_is_refused_before_anything_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("images"));
        let recipe = Recipe { release: "debian-11".into(), packages: vec![] };
        assert!(matches!(build(&cache, &recipe, None, None, &[], &|_| ()), Err(Error::Release { .. })));
        assert!(!cache.dir().exists());
    }
}
