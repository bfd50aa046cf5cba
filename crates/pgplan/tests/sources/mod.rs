//! The roles and templates of the repository.

use std::{collections::BTreeMap, fs, path::Path};

use pgplan::render::{Binary, Roles, Sources};

#[expect(clippy::disallowed_methods, reason = "a test may read files; the planner may not")]
pub fn read(dir: &Path, prefix: &str, texts: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{prefix}{}", path.file_name().unwrap().display());
        if path.is_dir() {
            read(&path, &format!("{name}/"), texts);
        } else {
            texts.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
}

pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

pub fn roles() -> Roles {
    let mut sources = Sources::default();
    read(&repository().join("roles"), "", &mut sources.roles);
    read(&repository().join("templates"), "", &mut sources.templates);
    // What the build makes; here only that it is installed matters.
    for name in ["pgagent", "pgload"] {
        sources.binaries.insert(name.to_owned(), Binary(b"program".as_slice().into()));
    }
    let mut dashboards = BTreeMap::new();
    read(&repository().join("dashboards"), "dashboards/", &mut dashboards);
    sources
        .binaries
        .extend(dashboards.into_iter().map(|(name, text)| (name, Binary(text.into_bytes().into()))));
    Roles::parse(&sources).unwrap_or_else(|bad| panic!("{bad:#?}"))
}
