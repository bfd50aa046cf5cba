//! Role manifests, templates and lessons: those built into the program, then those of the user on top.

use std::{
    collections::BTreeMap,
    env, fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use include_dir::{Dir, include_dir};
use pgplan::render::{Binary, Sources};

/// Size of a file that a user wrote, beyond which it is not read to its end.
const TEXT_BYTES: u64 = 8 << 20;
/// What `make guest` builds.
const GUEST_PROGRAMS: [&str; 2] = ["pgagent", "pgload"];

static ROLES: Dir = include_dir!("$CARGO_MANIFEST_DIR/roles");
static TEMPLATES: Dir = include_dir!("$CARGO_MANIFEST_DIR/templates");
static DASHBOARDS: Dir = include_dir!("$CARGO_MANIFEST_DIR/dashboards");
static LESSONS: Dir = include_dir!("$CARGO_MANIFEST_DIR/lessons");

/// Reads roles and templates; files below `extra`/roles and `extra`/templates replace built-in ones of the same name, and those
/// below `extra`/files can be installed as they are.
///
/// # Errors
/// A folder or file below `extra` that cannot be read.
pub fn sources(extra: Option<&Path>) -> anyhow::Result<Sources> {
    let mut sources =
        Sources { roles: built_in(&ROLES), templates: built_in(&TEMPLATES), binaries: binaries() };
    if let Some(extra) = extra {
        read(&extra.join("roles"), "", &mut sources.roles)?;
        read(&extra.join("templates"), "", &mut sources.templates)?;
        each(&extra.join("files"), "files/", &mut |name, path| {
            let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            sources.binaries.insert(name, Binary(bytes.into()));
            Ok(())
        })?;
    }
    Ok(sources)
}

/// The texts of all lessons by the names of their files; those below `extra`/lessons replace built-in ones of the same name.
///
/// # Errors
/// The folder `extra`/lessons or a file in it that cannot be read.
pub fn lessons(extra: Option<&Path>) -> anyhow::Result<BTreeMap<String, String>> {
    let mut lessons = built_in(&LESSONS);
    if let Some(extra) = extra {
        read(&extra.join("lessons"), "", &mut lessons)?;
    }
    lessons.retain(|name, _| name.ends_with(".yaml"));
    Ok(lessons)
}

/// The texts of all dashboards by name.
pub fn dashboards() -> BTreeMap<String, String> {
    let name = |path: String| Some(path.strip_suffix(".json")?.to_owned());
    built_in(&DASHBOARDS).into_iter().filter_map(|(path, text)| Some((name(path)?, text))).collect()
}

/// What hosts get as it is: programs, of which who does not need one does not miss it, and dashboards.
fn binaries() -> BTreeMap<String, Binary> {
    let read = |name: &str| Some(Binary(fs::read(guest_program(name)?).ok()?.into()));
    let programs = GUEST_PROGRAMS.into_iter().filter_map(|name| Some((name.to_owned(), read(name)?)));
    let dashboards = dashboards()
        .into_iter()
        .map(|(name, text)| (format!("dashboards/{name}.json"), Binary(text.into_bytes().into())));
    programs.chain(dashboards).collect()
}

/// Where the programs lie that roles install.
pub fn role_programs() -> Vec<PathBuf> {
    GUEST_PROGRAMS.into_iter().filter_map(guest_program).collect()
}

/// Where a program for hosts lies: in PGPROV_GUEST_DIR, or in `guest` beside this program or one folder above, where the build
/// puts them.
pub fn guest_program(name: &str) -> Option<PathBuf> {
    let named = env::var_os("PGPROV_GUEST_DIR").map(PathBuf::from);
    let beside = env::current_exe().ok().into_iter().flat_map(|path| {
        let above: Vec<PathBuf> =
            path.ancestors().skip(1).take(2).map(|folder| folder.join("guest")).collect();
        above
    });
    named.into_iter().chain(beside).map(|folder| folder.join(name)).find(|path| path.is_file())
}

fn built_in(dir: &Dir) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    for file in dir.files() {
        texts
            .insert(file.path().display().to_string(), String::from_utf8_lossy(file.contents()).into_owned());
    }
    for inner in dir.dirs() {
        texts.extend(built_in(inner));
    }
    texts
}

fn read(dir: &Path, prefix: &str, texts: &mut BTreeMap<String, String>) -> anyhow::Result<()> {
    each(dir, prefix, &mut |name, path| {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        texts.insert(name, text);
        Ok(())
    })
}

/// Calls `with` for every file below `dir`, if there is such a folder, with its name after `prefix` and its path.
fn each(
    dir: &Path,
    prefix: &str,
    with: &mut impl FnMut(String, &Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    let list = || format!("cannot read {}", dir.display());
    for entry in fs::read_dir(dir).with_context(list)? {
        let path = entry.with_context(list)?.path();
        let name = format!("{prefix}{}", path.file_name().unwrap_or_default().display());
        if path.is_dir() {
            each(&path, &format!("{name}/"), with)?;
        } else {
            with(name, &path)?;
        }
    }
    Ok(())
}

/// Reads a file that a user wrote: a topology or an inventory.
///
/// # Errors
/// It cannot be read, or is larger than such a file can be.
pub fn read_limited(file: &Path) -> anyhow::Result<Vec<u8>> {
    let name = file.display();
    let mut bytes = Vec::new();
    // Not by its size: a pipe or a device has none.
    let mut limited =
        fs::File::open(file).with_context(|| format!("cannot read {name}"))?.take(TEXT_BYTES + 1);
    limited.read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
    anyhow::ensure!(
        bytes.len() as u64 <= TEXT_BYTES,
        "{name} is larger than such a file can be, {} MiB",
        TEXT_BYTES >> 20
    );
    Ok(bytes)
}
