//! One host: what it is asked (facts), what is to change (plan), and the script that changes it (apply).
//!
//! A host is asked and changed by one shell script each, so that a host costs two or three round trips:
//! [`facts::script`] prints what is there, [`HostPlan::new`] compares, [`apply::bundle`] packs the changed files and the
//! script that installs them.

pub mod apply;
pub mod facts;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

pub use self::facts::Facts;
use crate::{
    diff::{self, Edit},
    digest,
    render::{File, RenderedHost},
    role::Format,
};

/// What is to change on one host. Empty when the host is as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HostPlan {
    /// Name of the host.
    pub host: String,
    /// Packages to install.
    pub packages: Vec<String>,
    /// Directories to make or mend, by index in [`RenderedHost::directories`].
    pub directories: Vec<Change>,
    /// Files to install or mend, by index in [`RenderedHost::files`].
    pub files: Vec<Change>,
    /// Files of ours that no role wants any more.
    pub remove: Vec<String>,
    /// Tasks to do, by index in [`RenderedHost::tasks`].
    pub tasks: Vec<Change>,
    /// Handlers that will run, in order.
    pub handlers: Vec<Call>,
}

/// A handler that will run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Call {
    /// Its name.
    pub what: String,
    /// What calls it: settings with their values, files, tasks.
    pub because: Vec<String>,
}

/// One thing to change, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Which one.
    pub index: usize,
    /// Path or name, for people.
    pub what: String,
    /// Why.
    pub reason: Reason,
    /// Of a file whose text on the host is known: what changes in it, as [`diff::unified`] writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    /// Of such a file with settings: those that change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edits: Option<Vec<Edit>>,
}

impl Change {
    fn new(index: usize, what: &str, reason: Reason) -> Self {
        Self { index, what: what.to_owned(), reason, diff: None, edits: None }
    }

    /// A change of a file; `text` is what the host has, when that is known.
    fn of_file(index: usize, wanted: &File, reason: Reason, text: Option<&String>) -> Self {
        let mut change = Self::new(index, &wanted.path, reason);
        if let Some(text) = text.filter(|_| reason == Reason::Content && wanted.is_shown()) {
            change.diff = Some(diff::unified(text, &wanted.content));
            change.edits =
                (wanted.format == Some(Format::Settings)).then(|| diff::edits(text, &wanted.content));
        }
        change
    }

    /// Whether only comments differ, which nobody needs to hear of.
    fn is_silent(&self) -> bool {
        self.edits.as_ref().is_some_and(Vec::is_empty)
    }

    /// Why a handler that it calls runs.
    fn because(&self) -> Vec<String> {
        match &self.edits {
            Some(edits) => edits.iter().map(Edit::to_string).collect(),
            None => vec![self.what.clone()],
        }
    }
}

/// Why something changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// It is not there.
    New,
    /// Its content differs.
    Content,
    /// Its owner or permissions differ.
    Attributes,
    /// Its check says it is not done.
    Pending,
}

impl HostPlan {
    /// Compares what a host should be with what it is; `facts` is `None` for a host that does not exist yet.
    pub fn new(rendered: &RenderedHost, facts: Option<&Facts>) -> Self {
        let empty = Facts::default();
        let facts = facts.unwrap_or(&empty);
        let mut plan = Self { host: rendered.host.clone(), ..Self::default() };
        plan.packages =
            rendered.packages.iter().filter(|name| !facts.packages.contains(*name)).cloned().collect();
        for (index, wanted) in rendered.directories.iter().enumerate() {
            let reason = match facts.stats.get(&wanted.path) {
                None => Some(Reason::New),
                Some(seen) => {
                    (!seen.is(&wanted.owner, &wanted.group, &wanted.mode)).then_some(Reason::Attributes)
                }
            };
            plan.directories.extend(reason.map(|reason| Change::new(index, &wanted.path, reason)));
        }
        for (index, wanted) in rendered.files.iter().enumerate() {
            let reason = file_reason(wanted, facts);
            let text = facts.texts.get(&wanted.path);
            plan.files.extend(reason.map(|reason| Change::of_file(index, wanted, reason, text)));
        }
        let wanted = |path: &String| rendered.files.iter().any(|file| file.path == *path);
        plan.remove = facts.installed.iter().filter(|path| !wanted(path)).cloned().collect();
        for (index, task) in rendered.tasks.iter().enumerate() {
            if !facts.done.contains(&index) {
                plan.tasks.push(Change::new(index, &task.name, Reason::Pending));
            }
        }
        plan.handlers = plan.notified(rendered, &facts.due);
        plan
    }

    /// Whether the host is as it should be.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many things change. Handlers count only when an earlier run left nothing else to do.
    pub fn len(&self) -> usize {
        let Self { host: _, packages, directories, files, remove, tasks, handlers } = self;
        match packages.len() + directories.len() + files.len() + remove.len() + tasks.len() {
            0 => handlers.len(),
            changes => changes,
        }
    }

    /// First what can be done without any other host (packages, directories, files), then what may need one: tasks and
    /// handlers.
    pub fn split(self) -> (Self, Self) {
        let Self { host, packages, directories, files, remove, tasks, handlers } = self;
        let later = Self { host: host.clone(), tasks, handlers, ..Self::default() };
        (Self { host, packages, directories, files, remove, ..Self::default() }, later)
    }

    /// Files whose text on the host would tell what changes in them.
    pub fn unread(&self, rendered: &RenderedHost) -> Vec<String> {
        let unread = |change: &&Change| {
            change.reason == Reason::Content
                && change.diff.is_none()
                && rendered.files[change.index].is_shown()
        };
        self.files.iter().filter(unread).map(|change| change.what.clone()).collect()
    }

    /// Handlers that changed files call, with the reasons.
    pub(crate) fn called(&self, rendered: &RenderedHost) -> BTreeMap<String, Vec<String>> {
        let mut called: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for change in self.files.iter().filter(|change| !change.is_silent()) {
            for name in &rendered.files[change.index].notify {
                called.entry(name.clone()).or_default().extend(change.because());
            }
        }
        called
    }

    /// Handlers that the changes call or that an earlier run left, less those that another one covers or whose unit is
    /// started anyway.
    fn notified(&self, rendered: &RenderedHost, left: &BTreeSet<String>) -> Vec<Call> {
        let mut called = self.called(rendered);
        for change in &self.tasks {
            for name in &rendered.tasks[change.index].notify {
                called.entry(name.clone()).or_default().push(change.what.clone());
            }
        }
        let starts: Vec<&String> =
            self.tasks.iter().filter_map(|change| rendered.tasks[change.index].starts.as_ref()).collect();
        let due = |name: &str| {
            rendered.handlers.iter().any(|handler| {
                handler.name == name
                    && (called.contains_key(&handler.name) || left.contains(&facts::slug(name)))
                    && !handler.unit.as_ref().is_some_and(|unit| starts.contains(&unit))
            })
        };
        let covered = |name: &str| {
            rendered
                .handlers
                .iter()
                .any(|handler| due(&handler.name) && handler.covers.iter().any(|other| other == name))
        };
        let wanted = rendered.handlers.iter().filter(|handler| due(&handler.name) && !covered(&handler.name));
        let because = |name: &str| {
            called.get(name).cloned().unwrap_or_else(|| vec!["an earlier run did not come to it".to_owned()])
        };
        wanted.map(|handler| Call { what: handler.name.clone(), because: because(&handler.name) }).collect()
    }
}

/// Why a file has to be touched, if it has.
fn file_reason(wanted: &File, facts: &Facts) -> Option<Reason> {
    match (facts.stats.get(&wanted.path), facts.sums.get(&wanted.path)) {
        (None, _) | (_, None) => Some(Reason::New),
        _ if wanted.once => None,
        (_, Some(sum)) if *sum != digest::hex(wanted.bytes()) => Some(Reason::Content),
        (Some(seen), _) => {
            (!seen.is(&wanted.owner, &wanted.group, &wanted.mode)).then_some(Reason::Attributes)
        }
    }
}
