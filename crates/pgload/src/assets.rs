//! SQL and workloads: those built into the program, then those of the user on top.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use include_dir::{Dir, include_dir};

static SQL: Dir = include_dir!("$CARGO_MANIFEST_DIR/../../sql");

/// All files by their path below `sql/`.
#[derive(Clone, Debug, Default)]
pub struct Assets {
    texts: BTreeMap<String, String>,
}

impl Assets {
    /// The built-in ones; files below `extra` add to them, or replace them by path.
    ///
    /// # Errors
    /// A file or folder that cannot be read.
    pub fn new(extra: Option<&Path>) -> anyhow::Result<Self> {
        let mut texts = BTreeMap::new();
        built_in(&SQL, &mut texts);
        if let Some(extra) = extra {
            read(extra, "", &mut texts)?;
        }
        Ok(Self { texts })
    }

    /// The text of a file.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn text(&self, path: &str) -> anyhow::Result<&str> {
        self.texts
            .get(path)
            .map(String::as_str)
            .with_context(|| format!("there is no {path} among the SQL files"))
    }

    /// All files with their texts, by path.
    pub fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// Files directly in a folder, with their texts, by name.
    pub fn folder<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.texts.iter().filter_map(move |(path, text)| {
            let name = path.strip_prefix(folder)?.strip_prefix('/')?;
            (!name.contains('/')).then_some((name, text.as_str()))
        })
    }
}

fn built_in(dir: &Dir, texts: &mut BTreeMap<String, String>) {
    for file in dir.files() {
        texts
            .insert(file.path().display().to_string(), String::from_utf8_lossy(file.contents()).into_owned());
    }
    for inner in dir.dirs() {
        built_in(inner, texts);
    }
}

fn read(dir: &Path, prefix: &str, texts: &mut BTreeMap<String, String>) -> anyhow::Result<()> {
    let list = || format!("cannot read {}", dir.display());
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(list)? {
        paths.push(entry.with_context(list)?.path());
    }
    for path in paths {
        let name = format!("{prefix}{}", path.file_name().unwrap_or_default().display());
        if path.is_dir() {
            read(&path, &format!("{name}/"), texts)?;
        } else if path.extension().is_some_and(|extension| extension == "sql" || extension == "yaml") {
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            texts.insert(name, text);
        }
    }
    Ok(())
}
