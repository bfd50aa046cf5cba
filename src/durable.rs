//! Small private files that survive SIGKILL and power loss, and locks that do not wait for ever.
//!
//! Shared by the adapters that keep files for a lab. A file is replaced by writing `.NAME.tmp` beside it, syncing it,
//! renaming it and syncing the directory, so a reader sees the old or the new content and never a part of one. Writers
//! in one directory take turns by a lock file, so a process killed in the middle leaves at most that one temporary
//! file per name, which the next write of the same name takes over.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How long a writer waits for the other writers of its directory; each of them holds the lock for milliseconds.
const TURN_LIMIT: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_millis(20);

/// The right to write in one directory: held across a read and the write that depends on it.
pub struct Turn {
    dir: PathBuf,
    /// Open for as long as the lock is to be held.
    _lock: File,
}

impl Turn {
    /// Waits for the turn to write in `dir`, at most ten seconds.
    ///
    /// # Errors
    /// The lock file cannot be opened, or another process holds it for the whole time (`TimedOut`).
    pub fn take(dir: &Path) -> io::Result<Self> {
        let path = dir.join(".write.lock");
        let lock = open_lock(&path)?;
        if lock_until(&lock, Instant::now() + TURN_LIMIT)? {
            return Ok(Self { dir: dir.to_owned(), _lock: lock });
        }
        let text =
            format!("waited {} s for another process to release {}", TURN_LIMIT.as_secs(), path.display());
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    }

    /// Replaces the file `name` of this directory, mode 0600, in one step.
    ///
    /// # Errors
    /// Writing, syncing or renaming fails; the old content is then still there.
    pub fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let tmp = self.dir.join(format!(".{name}.tmp"));
        // Removed, not truncated: a file left by a killed process might have another mode or be a link.
        match fs::remove_file(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&tmp)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&tmp, self.dir.join(name))?;
        sync_dir(&self.dir)
    }
}

/// Replaces the file at `path` in one step; see [`Turn::write`].
///
/// # Errors
/// As [`Turn::take`] and [`Turn::write`]; also when `path` has no file name in UTF-8.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let (dir, name) = split(path)?;
    Turn::take(dir)?.write(name, content)
}

/// The directory and the name of a file that lies in a directory of ours.
///
/// # Errors
/// `path` has no parent, or no file name in UTF-8.
pub fn split(path: &Path) -> io::Result<(&Path, &str)> {
    let parts = path.parent().zip(path.file_name().and_then(|name| name.to_str()));
    parts.ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not the path of a file", path.display()))
    })
}

/// Makes `dir` and its missing parents, mode 0700.
///
/// # Errors
/// A directory cannot be made.
pub fn private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Makes the entries of `dir` durable: what was created, renamed or removed in it.
///
/// # Errors
/// The directory cannot be opened or synced.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Opens a file to take a lock on; its content is kept.
///
/// # Errors
/// The file cannot be opened or made.
pub fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Tries to take the exclusive lock on `file` until `deadline`, at least once; says whether it got it.
///
/// # Errors
/// The file system refuses to lock.
pub fn lock_until(file: &File, deadline: Instant) -> io::Result<bool> {
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return Ok(false),
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_POLL),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_write_replaces_the_whole_file_and_takes_over_what_a_killed_writer_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        fs::write(&path, "a longer old content").unwrap();
        fs::write(dir.path().join(".a.json.tmp"), "half of someth").unwrap();

        write(&path, b"new").unwrap();

        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!dir.path().join(".a.json.tmp").exists());
    }

    #[test]
    fn writers_take_turns_so_no_update_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("count");
        fs::write(&path, "0").unwrap();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        let turn = Turn::take(dir.path()).unwrap();
                        let count: u32 = fs::read_to_string(&path).unwrap().parse().unwrap();
                        turn.write("count", (count + 1).to_string().as_bytes()).unwrap();
                    }
                });
            }
        });
        assert_eq!(fs::read_to_string(&path).unwrap(), "40");
    }

    #[test]
    fn a_lock_is_given_up_on_at_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let (held, wanted) = (open_lock(&path).unwrap(), open_lock(&path).unwrap());
        held.lock().unwrap();
        assert!(!lock_until(&wanted, Instant::now() + Duration::from_millis(60)).unwrap());
        drop(held);
        assert!(lock_until(&wanted, Instant::now()).unwrap());
    }
}
