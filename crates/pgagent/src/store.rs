//! The state file: whole or not there, whatever happens while it is written.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

/// The first line of a state file; another number is another format.
const FORMAT: &str = "pgagent-state 1";

/// Where a host's state lies.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// The state in a folder, which exists.
    pub fn new(folder: &Path) -> Store {
        Store { path: folder.join("state") }
    }

    fn previous(&self) -> PathBuf {
        self.path.with_extension("previous")
    }

    /// What was saved last; if that is damaged, what was saved before. `None`: nothing was ever saved, or all is lost.
    ///
    /// # Errors
    /// When a file is there and cannot be read, or has the format of another version.
    pub fn load<T: DeserializeOwned>(&self) -> io::Result<Option<T>> {
        for path in [self.path.clone(), self.previous()] {
            match fs::read_to_string(&path) {
                Ok(text) => {
                    if let Some(state) = decode(&text)? {
                        return Ok(Some(state));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Writes a state and waits until it is on the disk.
    ///
    /// # Errors
    /// When it is not.
    pub fn save<T: Serialize>(&self, state: &T) -> io::Result<()> {
        let body = serde_json::to_string(state)?;
        let text = format!("{FORMAT} {:08x}\n{body}\n", crc32fast::hash(body.as_bytes()));
        let new = self.path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        if self.path.exists() {
            let _ = fs::remove_file(self.previous());
            fs::hard_link(&self.path, self.previous())?;
        }
        fs::rename(&new, &self.path)?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }
}

/// `None`: damaged.
fn decode<T: DeserializeOwned>(text: &str) -> io::Result<Option<T>> {
    let Some((head, body)) = text.split_once('\n') else { return Ok(None) };
    let body = body.trim_end_matches('\n');
    let Some((format, sum)) = head.rsplit_once(' ') else { return Ok(None) };
    if format != FORMAT && format.starts_with("pgagent-state ") {
        let text = format!("the state file is of another version of pgagent: `{format}`, not `{FORMAT}`");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let whole = format == FORMAT && sum == format!("{:08x}", crc32fast::hash(body.as_bytes()));
    Ok(if whole { serde_json::from_str(body).ok() } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_state_gives_way_to_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        assert_eq!(store.load::<u32>().unwrap(), None);
        store.save(&1u32).unwrap();
        store.save(&2u32).unwrap();
        assert_eq!(store.load::<u32>().unwrap(), Some(2));
        let text = fs::read_to_string(&store.path).unwrap();
        for cut in 0..text.len() - 1 {
            fs::write(&store.path, &text[..cut]).unwrap();
            assert_eq!(store.load::<u32>().unwrap(), Some(1), "cut to {cut} bytes");
        }
        fs::write(store.previous(), "").unwrap();
        assert_eq!(store.load::<u32>().unwrap(), None);
    }

    #[test]
    fn a_state_of_another_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        fs::write(&store.path, "pgagent-state 2 00000000\n{}\n").unwrap();
        let error = store.load::<u32>().unwrap_err().to_string();
        assert!(error.contains("another version"), "{error}");
    }
}
