//! The state directory of a lab: what must outlive a run of pgprov and is not in libvirt.
//!
//! ```text
//! $PGPROV_STATE_DIR | $XDG_STATE_HOME/pgprov | ~/.local/state/pgprov
//!   LAB/              0700, everything in it 0600
//!     format          our mark, and the version of this layout
//!     lock            held by the run that changes the lab; names it
//!     secrets.json    passwords, certificates
//!     id_ed25519      the key pgprov logs in with, and id_ed25519.pub
//!     known_hosts     the host keys, pinned at first contact
//!     topology.yaml   as last applied
//!     ssh_config      for ssh, scp and editors
//! ```
//!
//! A lab's directory appears whole and goes away whole, both by one rename, and its files are replaced atomically, so a
//! run killed at any point leaves nothing that the next one cannot continue from. A directory without our mark is
//! never listed, used or removed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};
use ssh_key::private::{Ed25519Keypair, Ed25519PrivateKey, KeypairData};
use ssh_key::public::Ed25519PublicKey;
use ssh_key::{LineEnding, PrivateKey};

use crate::durable::{self, Turn};

/// The mark; the number changes when an older pgprov could not use the directory any more.
const FORMAT: &str = "pgprov lab state 1\n";
const FORMAT_FILE: &str = "format";
const LOCK_FILE: &str = "lock";
const KEY_FILE: &str = "id_ed25519";
/// Before the name of a lab that is being made or removed; no lab's name begins with a dot.
const NEW: &str = ".new-";
const REMOVED: &str = ".removed-";
/// What the lock file may say about its holder, in bytes.
const HOLDER_MAX: u64 = 512;

/// Why a lab's state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The environment does not say where state belongs.
    #[error("cannot find a place for the state of labs: set PGPROV_STATE_DIR or HOME to an absolute path")]
    NoRoot,
    /// A name that is not one of a lab.
    #[error("`{name}` is not the name of a lab: letters, digits, `-`, `_` and `.`, not first, at most 63")]
    Name {
        /// The name.
        name: String,
    },
    /// The directory is not ours, or of another version of pgprov.
    #[error("{} is not the state of a lab made by this version of pgprov: {found}", dir.display())]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// What is there instead of our mark.
        found: String,
    },
    /// Another process changes the lab.
    #[error("waited {:.1} s for lab {lab}, which is being changed by {holder}", waited.as_secs_f32())]
    Busy {
        /// The lab.
        lab: String,
        /// The other process: its number and command.
        holder: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// Another process removed the lab while we waited for it.
    #[error("lab {lab} was removed by another process; run the command again")]
    Removed {
        /// The lab.
        lab: String,
    },
    /// The lab's key pair cannot be made or read.
    #[error("cannot use the login key {}: {cause}; the hosts of the lab trust this key, put it back", file.display())]
    Key {
        /// The private key.
        file: PathBuf,
        /// What is wrong with it.
        cause: String,
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

/// Where the state of all labs lies, by the environment.
///
/// # Errors
/// [`Error::NoRoot`]
pub fn root() -> Result<PathBuf, Error> {
    root_from(|name| std::env::var_os(name))
}

fn root_from(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, Error> {
    // Relative values are ignored, as the XDG base directory specification says.
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("PGPROV_STATE_DIR")
        .or_else(|| absolute("XDG_STATE_HOME").map(|path| path.join("pgprov")))
        .or_else(|| absolute("HOME").map(|path| path.join(".local/state/pgprov")))
        .ok_or(Error::NoRoot)
}

/// The names of the labs that have state under `root`, in order.
///
/// # Errors
/// `root` exists and cannot be read.
pub fn list(root: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.map_err(io_error("list", root))?,
    };
    let mut labs = Vec::new();
    for entry in entries {
        let name = entry.map_err(io_error("list", root))?.file_name();
        let Ok(name) = name.into_string() else { continue };
        if is_name(&name)
            && fs::read_to_string(root.join(&name).join(FORMAT_FILE)).is_ok_and(|mark| mark == FORMAT)
        {
            labs.push(name);
        }
    }
    labs.sort();
    Ok(labs)
}

/// The state of one lab.
#[derive(Clone, Debug)]
pub struct LabState {
    lab: String,
    dir: PathBuf,
}

impl LabState {
    /// Opens the state of `lab` under `root`; `None` when there is none.
    ///
    /// # Errors
    /// The name is none of a lab, or something else lies in its place.
    pub fn open(root: &Path, lab: &str) -> Result<Option<Self>, Error> {
        if !is_name(lab) {
            return Err(Error::Name { name: lab.to_owned() });
        }
        let dir = root.join(lab);
        match fs::symlink_metadata(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.map_err(io_error("open", &dir))?,
        };
        match fs::read_to_string(dir.join(FORMAT_FILE)) {
            Ok(mark) if mark == FORMAT => Ok(Some(Self { lab: lab.to_owned(), dir })),
            Ok(mark) => {
                Err(Error::Foreign { dir, found: format!("its format is `{}`", mark.trim().escape_debug()) })
            }
            Err(error) => Err(Error::Foreign { dir, found: format!("no file `{FORMAT_FILE}`: {error}") }),
        }
    }

    /// Opens the state of `lab`, and makes it when there is none.
    ///
    /// # Errors
    /// As [`LabState::open`]; also when the directory cannot be made.
    pub fn create(root: &Path, lab: &str) -> Result<Self, Error> {
        if let Some(state) = Self::open(root, lab)? {
            return Ok(state);
        }
        durable::private_dir(root).map_err(io_error("make", root))?;
        let _turn = Turn::take(root).map_err(io_error("lock", root))?;
        if let Some(state) = Self::open(root, lab)? {
            return Ok(state);
        }
        sweep(root)?;
        let (new, dir) = (root.join(format!("{NEW}{lab}")), root.join(lab));
        durable::private_dir(&new).map_err(io_error("make", &new))?;
        durable::write(&new.join(FORMAT_FILE), FORMAT.as_bytes()).map_err(io_error("make", &new))?;
        fs::rename(&new, &dir).map_err(io_error("make", &dir))?;
        durable::sync_dir(root).map_err(io_error("make", &dir))?;
        Ok(Self { lab: lab.to_owned(), dir })
    }

    /// The lab's name.
    #[must_use]
    pub fn lab(&self) -> &str {
        &self.lab
    }

    /// Where passwords and certificates are kept.
    #[must_use]
    pub fn secrets(&self) -> PathBuf {
        self.dir.join("secrets.json")
    }

    /// The private key pgprov logs in with; see [`LabState::ensure_key`].
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.dir.join(KEY_FILE)
    }

    /// The host keys.
    #[must_use]
    pub fn known_hosts(&self) -> PathBuf {
        self.dir.join("known_hosts")
    }

    /// The topology as last applied.
    #[must_use]
    pub fn topology(&self) -> PathBuf {
        self.dir.join("topology.yaml")
    }

    /// The configuration for ssh and programs that use it.
    #[must_use]
    pub fn ssh_config(&self) -> PathBuf {
        self.dir.join("ssh_config")
    }

    /// Replaces one of the lab's files, mode 0600, in one step.
    ///
    /// # Errors
    /// The file cannot be written; it then has its old content.
    pub fn write(&self, file: &Path, content: &[u8]) -> Result<(), Error> {
        durable::write(file, content).map_err(io_error("write", file))
    }

    /// Waits until no other process changes the lab, at most for `limit`, and keeps others from it until the lock is
    /// dropped or the process ends. `command` is shown to whoever waits.
    ///
    /// # Errors
    /// [`Error::Busy`] with the holder; [`Error::Removed`] when the lab went away meanwhile.
    pub fn lock(&self, command: &str, limit: Duration) -> Result<Lock, Error> {
        let start = Instant::now();
        let path = self.dir.join(LOCK_FILE);
        loop {
            let mut file = match durable::open_lock(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(Error::Removed { lab: self.lab.clone() });
                }
                result => result.map_err(io_error("lock", &path))?,
            };
            if !durable::lock_until(&file, start + limit).map_err(io_error("lock", &path))? {
                let (lab, holder) = (self.lab.clone(), holder(&mut file));
                return Err(Error::Busy { lab, holder, waited: start.elapsed() });
            }
            // The file may have been removed with the lab, and even made again, while we waited for it.
            let ours = file.metadata().map_err(io_error("lock", &path))?;
            if fs::metadata(&path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
                let line: String = command.chars().filter(|char| !char.is_control()).take(200).collect();
                file.set_len(0).map_err(io_error("lock", &path))?;
                writeln!(file, "process {} ({line})", process::id()).map_err(io_error("lock", &path))?;
                return Ok(Lock { file });
            }
        }
    }

    /// Makes the key pair pgprov logs in with unless it is there, and returns the public key as one line of
    /// `authorized_keys`.
    ///
    /// # Errors
    /// The existing key is damaged, or a new one cannot be written.
    pub fn ensure_key(&self) -> Result<String, Error> {
        let file = self.key();
        let failed = |cause: String| Error::Key { file: file.clone(), cause };
        let turn = Turn::take(&self.dir).map_err(io_error("lock", &self.dir))?;
        let key = match fs::read_to_string(&file) {
            Ok(text) => PrivateKey::from_openssh(text).map_err(|error| failed(error.to_string()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = new_key(&format!("pgprov-{}", self.lab)).map_err(failed)?;
                let text = key.to_openssh(LineEnding::LF).map_err(|error| failed(error.to_string()))?;
                turn.write(KEY_FILE, text.as_bytes()).map_err(io_error("write", &file))?;
                key
            }
            Err(source) => return Err(io_error("read", &file)(source)),
        };
        let public = key.public_key().to_openssh().map_err(|error| failed(error.to_string()))?;
        // The private key says it all, so a run killed between the two files is made good here.
        let public_file = self.dir.join("id_ed25519.pub");
        let line = format!("{public}\n");
        if !fs::read_to_string(&public_file).is_ok_and(|text| text == line) {
            turn.write("id_ed25519.pub", line.as_bytes()).map_err(io_error("write", &public_file))?;
        }
        Ok(public)
    }

    /// Removes the state of the lab: the last thing `destroy` does.
    ///
    /// # Errors
    /// The directory cannot be renamed or removed.
    pub fn remove(self, lock: Lock) -> Result<(), Error> {
        let root = self.dir.parent().unwrap_or(Path::new("/"));
        let _turn = Turn::take(root).map_err(io_error("lock", root))?;
        sweep(root)?;
        let trash = root.join(format!("{REMOVED}{}", self.lab));
        fs::rename(&self.dir, &trash).map_err(io_error("remove", &self.dir))?;
        durable::sync_dir(root).map_err(io_error("remove", &self.dir))?;
        // From here on the lab is gone for everyone, so a waiting process may as well find that out.
        drop(lock);
        fs::remove_dir_all(&trash).map_err(io_error("remove", &trash))
    }
}

/// The right to change a lab, released when dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Only what others are told: the lock itself goes with the file.
        let _ = self.file.set_len(0);
    }
}

/// Who holds the lock, by its own account.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(HOLDER_MAX).read_to_string(&mut text));
    match text.trim() {
        holder if read.is_ok() && !holder.is_empty() => holder.to_owned(),
        _ => "another process".to_owned(),
    }
}

/// Clears away what a killed process left half made or half removed; the caller has the turn in `root`.
fn sweep(root: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(root).map_err(io_error("list", root))? {
        let entry = entry.map_err(io_error("list", root))?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(NEW) || name.starts_with(REMOVED)) {
            fs::remove_dir_all(entry.path()).map_err(io_error("remove", &entry.path()))?;
        }
    }
    Ok(())
}

/// Whether `name` can be a lab's, and thereby a directory's that is not hidden and not outside of the root.
fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && name.len() <= 63 && !name.starts_with('.') && name.bytes().all(allowed)
}

/// A new ed25519 key pair.
///
/// # Errors
/// The system gives no random numbers.
pub fn new_key(comment: &str) -> Result<PrivateKey, String> {
    let mut seed = [0; 32];
    SystemRandom::new().fill(&mut seed).map_err(|_| "the system gives no random numbers".to_owned())?;
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|error| error.to_string())?;
    let public = Ed25519PublicKey::try_from(pair.public_key().as_ref()).map_err(|error| error.to_string())?;
    let pair = Ed25519Keypair { public, private: Ed25519PrivateKey::from_bytes(&seed) };
    PrivateKey::new(KeypairData::Ed25519(pair), comment).map_err(|error| error.to_string())
}

fn io_error<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Io { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;
    use std::thread;

    use super::*;

    const SOON: Duration = Duration::from_millis(80);

    #[test]
    fn the_root_follows_the_environment_and_ignores_relative_paths() {
        let find = |variables: &'static [(&str, &str)]| {
            root_from(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
        };
        let all = &[("PGPROV_STATE_DIR", "/a"), ("XDG_STATE_HOME", "/b"), ("HOME", "/c")];
        assert_eq!(find(all).unwrap(), Path::new("/a"));
        assert_eq!(
            find(&[("PGPROV_STATE_DIR", ""), ("XDG_STATE_HOME", "/b")]).unwrap(),
            Path::new("/b/pgprov")
        );
        let home = find(&[("XDG_STATE_HOME", "b"), ("HOME", "/c")]).unwrap();
        assert_eq!(home, Path::new("/c/.local/state/pgprov"));
        assert!(matches!(find(&[("HOME", "c")]), Err(Error::NoRoot)));
    }

    #[test]
    fn a_lab_is_made_once_listed_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let root = &root.path().join("deep/root");
        assert!(list(root).unwrap().is_empty());
        assert!(LabState::open(root, "lab").unwrap().is_none());
        // What a killed run may have left.
        fs::create_dir_all(root.join(".new-lab/format")).unwrap();
        fs::create_dir_all(root.join(".removed-lab/x")).unwrap();

        let state = LabState::create(root, "lab").unwrap();
        state.write(&state.topology(), b"lab: lab\n").unwrap();
        LabState::create(root, "other").unwrap();
        let again = LabState::create(root, "lab").unwrap();

        assert_eq!(fs::read_to_string(again.topology()).unwrap(), "lab: lab\n");
        assert_eq!(list(root).unwrap(), ["lab", "other"]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&root.join("lab")), mode(&state.topology())), (0o700, 0o600));
        let lock = state.lock("destroy", SOON).unwrap();
        state.remove(lock).unwrap();
        assert_eq!(list(root).unwrap(), ["other"]);
        let left: Vec<_> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.len() == 2 && left.contains(&".write.lock".into()), "{left:?}");
    }

    #[test]
    fn what_is_not_ours_is_neither_listed_nor_used() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::create_dir(root.join("photos")).unwrap();
        fs::create_dir(root.join("newer")).unwrap();
        fs::write(root.join("newer/format"), "pgprov lab state 2\n").unwrap();
        fs::write(root.join("file"), "").unwrap();
        assert!(list(root).unwrap().is_empty());
        for name in ["photos", "newer", "file"] {
            assert!(matches!(LabState::create(root, name), Err(Error::Foreign { .. })), "{name}");
        }
        for name in ["", ".", "..", "../photos", "a/b", ".hidden", "a\nb", &"x".repeat(64)] {
            assert!(matches!(LabState::open(root, name), Err(Error::Name { .. })), "{name:?}");
        }
    }

    #[test]
    fn one_run_at_a_time_and_the_other_learns_who() {
        let root = tempfile::tempdir().unwrap();
        let state = LabState::create(root.path(), "lab").unwrap();
        let lock = state.lock("pgprov up lab.yaml", SOON).unwrap();
        let error = state.lock("pgprov destroy", SOON).unwrap_err();
        let who = format!("process {} (pgprov up lab.yaml)", process::id());
        assert!(matches!(&error, Error::Busy { holder, .. } if *holder == who), "{error}");
        thread::scope(|scope| {
            let waiter = scope.spawn(|| state.lock("pgprov status", Duration::from_secs(10)));
            thread::sleep(SOON);
            drop(lock);
            waiter.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_run_that_waited_for_a_lab_that_goes_away_does_not_get_it() {
        let root = tempfile::tempdir().unwrap();
        let state = LabState::create(root.path(), "lab").unwrap();
        let lock = state.lock("destroy", SOON).unwrap();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| state.lock("up", Duration::from_secs(10)));
            thread::sleep(SOON);
            state.clone().remove(lock).unwrap();
            assert!(matches!(waiter.join().unwrap(), Err(Error::Removed { .. })));
        });
    }

    #[test]
    fn a_killed_run_leaves_the_lock_free() {
        let root = tempfile::tempdir().unwrap();
        let state = LabState::create(root.path(), "lab").unwrap();
        let path = state.dir.join(LOCK_FILE);
        let mut child =
            Command::new("flock").arg("--no-fork").arg(&path).args(["sleep", "5"]).spawn().unwrap();
        while state.lock("probe", Duration::ZERO).is_ok() {
            assert!(child.try_wait().unwrap().is_none(), "flock (util-linux) did not take the lock");
            thread::sleep(Duration::from_millis(10));
        }
        fs::write(&path, "process 1 (killed in the middle").unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        state.lock("up", SOON).unwrap();
    }

    #[test]
    fn the_key_pair_is_made_once_and_openssh_reads_it() {
        let root = tempfile::tempdir().unwrap();
        let state = LabState::create(root.path(), "lab").unwrap();
        let public = state.ensure_key().unwrap();
        assert!(public.starts_with("ssh-ed25519 ") && public.ends_with(" pgprov-lab"), "{public}");
        let output = Command::new("ssh-keygen").arg("-yf").arg(state.key()).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), public);

        // Killed between the two files.
        fs::remove_file(state.dir.join("id_ed25519.pub")).unwrap();
        assert_eq!(state.ensure_key().unwrap(), public);
        assert_eq!(fs::read_to_string(state.dir.join("id_ed25519.pub")).unwrap(), format!("{public}\n"));

        fs::write(state.key(), "damaged").unwrap();
        assert!(
            matches!(state.ensure_key(), Err(Error::Key { .. })),
            "a new key would lock us out of the hosts"
        );
    }

    #[test]
    fn labs_made_at_the_same_time_are_the_same_lab() {
        let root = tempfile::tempdir().unwrap();
        let make = || LabState::create(root.path(), "lab").unwrap().ensure_key().unwrap();
        thread::scope(|scope| {
            let others: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            let key = make();
            assert!(others.into_iter().all(|other| other.join().unwrap() == key));
        });
        assert_eq!(list(root.path()).unwrap(), ["lab"]);
    }
}
