//! Results of runs on this machine, a folder each.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::Value;

use super::remote::Remote;
use crate::error::{Error, Result};

/// The folder of them.
pub(super) struct Store {
    dir: PathBuf,
}

/// `run.json` of a run.
///
/// # Errors
/// It cannot be read.
pub(super) fn read(folder: &Path) -> Result<Value> {
    let path = folder.join("run.json");
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))?)
}

/// The run of that id, or the only one whose id ends so.
///
/// # Errors
/// There is none, or there are more.
pub(super) fn choose(runs: &[String], name: &str) -> Result<String> {
    let found: Vec<&String> = runs.iter().filter(|id| id.ends_with(name)).collect();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(Error::usage(format!("there is no run `{name}`")).hint("`pgprov load status` lists them")),
        several => Err(Error::usage(format!("the ids of {} runs end in `{name}`", several.len()))
            .hint("`pgprov load status` lists them")),
    }
}

impl Store {
    /// In that folder, which is made when the first run comes.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Where a run is, or will be.
    pub fn folder(&self, id: &str) -> PathBuf {
        self.dir.join(id)
    }

    /// Whether the run is here.
    pub fn has(&self, id: &str) -> bool {
        self.folder(id).join("run.json").is_file()
    }

    /// Runs that are here, and others, in order.
    pub fn known(&self, others: &[String]) -> Vec<String> {
        let here = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let here = here.filter_map(|entry| entry.file_name().into_string().ok()).filter(|id| self.has(id));
        let mut all: Vec<String> = here.chain(others.iter().cloned()).collect();
        all.sort();
        all.dedup();
        all
    }

    /// The folder of a run by path, by id, or by the end of its id; none when it is not here.
    ///
    /// # Errors
    /// More than one could be meant.
    pub fn find(&self, name: &str) -> Result<Option<PathBuf>> {
        if Path::new(name).join("run.json").is_file() {
            return Ok(Some(PathBuf::from(name)));
        }
        let here = self.known(&[]);
        if !here.iter().any(|id| id.ends_with(name)) {
            return Ok(None);
        }
        Ok(Some(self.folder(&choose(&here, name)?)))
    }

    /// Brings a run here; it appears whole or not at all.
    ///
    /// # Errors
    /// The host does not give it, or it cannot be written.
    pub fn fetch(&self, remote: &mut Remote, id: &str) -> Result<PathBuf> {
        if id.is_empty() || id.starts_with('.') || id.contains('/') {
            return Err(Error::failed(format!("`{id}` is not the id of a run")));
        }
        let folder = self.folder(id);
        if self.has(id) {
            return Ok(folder);
        }
        let archive = remote.results(id)?;
        let new = self.dir.join(format!(".new-{}", std::process::id()));
        let unpack = || -> std::io::Result<()> {
            fs::create_dir_all(&new)?;
            let mut archive = tar::Archive::new(archive.as_slice());
            archive.set_preserve_ownerships(false);
            archive.unpack(&new)?;
            fs::rename(new.join(id), &folder)?;
            fs::remove_dir_all(&new)
        };
        unpack().with_context(|| format!("cannot write the results into {}", folder.display()))?;
        Ok(folder)
    }

    /// A run in a table.
    pub fn row(&self, id: &str) -> Vec<String> {
        let run = read(&self.folder(id)).unwrap_or_default();
        let text = |key: &str| run[key].as_str().unwrap_or("-").to_owned();
        let statements = || run["statements"].as_array().into_iter().flatten();
        let rate: f64 = statements().filter_map(|statement| statement["rate"].as_f64()).sum();
        let failed: u64 = statements().filter_map(|statement| statement["counts"]["aborted"].as_u64()).sum();
        let outage = &run["outage"];
        let outage = match (outage["from"].as_f64(), outage["to"].as_f64()) {
            (Some(from), Some(to)) => format!("{:.1} s", to - from),
            _ => "-".to_owned(),
        };
        vec![
            id.to_owned(),
            text("workload"),
            text("stage"),
            text("load"),
            format!("{rate:.1}"),
            failed.to_string(),
            outage,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_by_the_end_of_their_ids_and_by_folder() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned());
        for id in ["20261121T180000-00aa", "20261121T190000-00bb", ".new-7"] {
            fs::create_dir_all(store.folder(id)).unwrap();
            fs::write(
                store.folder(id).join("run.json"),
                r#"{"workload": "mixed", "statements": [{"rate": 2.5, "counts": {"aborted": 3}}]}"#,
            )
            .unwrap();
        }
        fs::remove_file(store.folder(".new-7").join("run.json")).unwrap();
        assert_eq!(store.find("00bb").unwrap(), Some(store.folder("20261121T190000-00bb")));
        assert_eq!(store.find("00cc").unwrap(), None);
        assert!(store.find("").is_err(), "both end in nothing");
        let folder = store.folder("20261121T180000-00aa");
        assert_eq!(store.find(folder.to_str().unwrap()).unwrap(), Some(folder));
        assert_eq!(store.known(&["20261121T200000-00cc".to_owned()]).len(), 3);
        assert_eq!(store.row("20261121T180000-00aa")[4..], ["2.5", "3", "-"]);
        assert!(choose(&[], "x").is_err());
    }
}
