//! What a schema cannot say about a topology: hosts that follow nobody, addresses outside their subnet, settings that
//! this PostgreSQL does not have. Everything is reported in one pass; what the schema has refused is not judged again.

mod backup;
mod hosts;
mod monitoring;
mod network;
mod patroni;
mod postgres;
mod settings;

use serde_json::Value as Json;

use crate::{
    finding::{Finding, Findings},
    role::Manifest,
    schema::{Loaded, load},
    size::{Bytes, GIB, MIB},
    topology::{BUILT_DISK, Image, StockImage, Topology},
    yaml::{Limits, Location},
};

/// What the check needs to know besides the text.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The roles that have a manifest.
    pub roles: Vec<RoleInfo>,
}

/// A role as the check sees it.
#[derive(Clone, Debug)]
pub struct RoleInfo {
    /// Name of the role.
    pub name: String,
    /// The database users that it makes itself.
    pub database_users: Vec<String>,
}

impl From<&str> for RoleInfo {
    /// A role that makes no users.
    fn from(name: &str) -> Self {
        Self { name: name.to_owned(), database_users: Vec::new() }
    }
}

impl From<&Manifest> for RoleInfo {
    fn from(manifest: &Manifest) -> Self {
        let database_users = manifest.database_users.iter().map(|user| user.name.clone()).collect();
        Self { name: manifest.role.clone(), database_users }
    }
}

/// A checked topology.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The topology, when no finding is an error.
    pub topology: Option<Topology>,
    /// What is wrong, in the order of the text.
    pub findings: Vec<Finding>,
}

/// A commented topology to start from, for `pgprov init`; `NAME` stands for the name of the lab.
pub const INIT: &str = include_str!("../data/init.yaml");

/// Checks the text of a topology.
pub fn check_text(text: &str, known: &Known) -> Checked {
    let mut loaded: Loaded<Topology> = load(text, Limits::default());
    let mut findings = std::mem::take(&mut loaded.findings);
    if let Some(topology) = &loaded.value {
        let mut context = Context { topology, known, loaded: &loaded, findings: &mut findings };
        machines(&mut context);
        hosts::check(&mut context);
        network::check(&mut context);
        postgres::check(&mut context);
        settings::check(&mut context);
        backup::check(&mut context);
        patroni::check(&mut context);
        monitoring::check(&mut context);
    }
    loaded.findings = findings;
    let (topology, findings) = loaded.finish();
    Checked { topology, findings }
}

/// The JSON Schema of topologies, for editors and `pgprov schema`.
pub fn schema() -> Json {
    let mut schema = schemars::schema_for!(Topology);
    schema.insert("$id".to_owned(), "https://github.com/pgprov/pgprov/schema/topology.json".into());
    schema.insert("title".to_owned(), "pgprov topology".into());
    schema.to_value()
}

/// A topology on its way through the checks.
struct Context<'a> {
    topology: &'a Topology,
    known: &'a Known,
    loaded: &'a Loaded<Topology>,
    findings: &'a mut Findings,
}

impl<'a> Context<'a> {
    fn locate(&self, path: &[&str]) -> Location {
        self.loaded.locate(path)
    }

    /// Whether the value at `path` is a stand-in for one that was refused.
    fn is_hole(&self, path: &[&str]) -> bool {
        self.loaded.is_hole(&self.locate(path).path)
    }

    /// An error about the value at `path`.
    fn error(&mut self, path: &[&str], message: impl Into<String>, hints: &[String]) {
        let Location { path, value, .. } = self.locate(path);
        self.add(Finding::error(value, path, message), hints);
    }

    /// An error about the key at `path`, or about the element of a list.
    fn key_error(&mut self, path: &[&str], message: impl Into<String>, hints: &[String]) {
        let Location { path, key, .. } = self.locate(path);
        self.add(Finding::error(key, path, message), hints);
    }

    fn warning(&mut self, path: &[&str], message: impl Into<String>, hints: &[String]) {
        let Location { path, value, .. } = self.locate(path);
        self.add(Finding::warning(value, path, message), hints);
    }

    fn add(&mut self, finding: Finding, hints: &[String]) {
        self.findings.add(|| Finding { hints: hints.to_vec(), ..finding });
    }
}

/// Memory below which a Debian host does not boot to the end.
const MEMORY_MIN: Bytes = Bytes(384 * MIB);
const MEMORY_MAX: Bytes = Bytes(1024 * GIB);
/// Disk below which a stock image with the packages does not fit. Ours has a size of its own.
const STOCK_DISK_MIN: Bytes = Bytes(3 * GIB);
const DISK_MAX: Bytes = Bytes(16 * 1024 * GIB);

fn machines(context: &mut Context<'_>) {
    if let Image::Stock(StockImage { mirror: None, mirror_key: Some(_), .. }) = &context.topology.image {
        let hint =
            "give the `mirror` that is signed with it; what the image itself is set to has its own keys";
        context.key_error(
            &["image", "mirror_key"],
            "a key without a mirror says nothing",
            &[hint.to_owned()],
        );
    }
    let vm = &context.topology.vm;
    let disk_min = match context.topology.image {
        Image::Built { .. } => BUILT_DISK,
        Image::Stock(_) => STOCK_DISK_MIN,
    };
    for (key, size, min, max, why) in [
        (
            "memory",
            vm.memory,
            MEMORY_MIN,
            MEMORY_MAX,
            "kernel, systemd and PostgreSQL need that much to start",
        ),
        (
            "disk",
            vm.disk,
            disk_min,
            DISK_MAX,
            "the disk of a host is a layer over the image, and not smaller; it is thin: unused space costs nothing",
        ),
    ] {
        if size < min {
            let message = format!("{size} of {key} is too little: a host needs {min} at least");
            context.error(&["vm", key], message, &[why.to_owned()]);
        } else if size > max {
            let message = format!("{size} of {key} is too much: a host can have {max} at most");
            context.error(&["vm", key], message, &[]);
        }
    }
}

/// "a, b, c": names for a message, not too many.
fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN_MAX: usize = 12;
    let mut names = names.into_iter();
    let mut shown: Vec<String> = names.by_ref().take(SHOWN_MAX).map(crate::yaml::short).collect();
    if names.next().is_some() {
        shown.push("…".to_owned());
    }
    shown.join(", ")
}
