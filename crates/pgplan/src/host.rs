//! One host: what it is asked (facts), what is to change (plan), and the script that changes it (apply).
//!
//! A host is asked and changed by one shell script each, so that a host costs two or three round trips:
//! [`facts::script`] prints what is there, [`HostPlan::new`] compares, [`apply::bundle`] packs the changed files and the
//! script that installs them.

pub mod apply;
pub mod facts;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

pub use self::facts::{Details, Facts};
use crate::{
    diff::{self, Edit},
    digest,
    render::{File, RenderedHost},
    role::{Format, Rolling},
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
    /// Services whose units are among those, and that are stopped only when the user agrees.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stops: Vec<String>,
    /// Tasks to do, by index in [`RenderedHost::tasks`].
    pub tasks: Vec<Change>,
    /// Handlers that will run, in order.
    pub handlers: Vec<Call>,
    /// Handlers that run when it is this host's turn; no part of what the host does by itself.
    #[serde(skip)]
    pub rolling: Vec<Roll>,
    /// Whether the host's list of the files that pgprov installed is another than it will be.
    #[serde(skip)]
    pub relists: bool,
    /// Sums of the files, by index, whose content the host has at hand: they need not be sent.
    #[serde(skip)]
    pub at_hand: BTreeMap<usize, String>,
}

/// A handler that a host runs when it is its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roll {
    /// Why.
    pub call: Call,
    /// Whether other hosts follow this one.
    pub leads: bool,
    /// Whether a setting gets smaller that has to be so on the leading host first.
    pub reversed: bool,
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
    /// Of a task: what it will do, when it could tell. A line begins with `+`, `~`, `-`, or with `!` when data is lost.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
}

impl Change {
    fn new(index: usize, what: &str, reason: Reason) -> Self {
        Self { index, what: what.to_owned(), reason, diff: None, edits: None, lines: Vec::new() }
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
        let is_new = facts.is_none();
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
            if wanted.binary.is_some() && reason == Some(Reason::New) && !facts.programs.is_empty() {
                let sum = digest::hex(wanted.bytes());
                plan.at_hand.extend(facts.programs.contains(&sum).then_some((index, sum)));
            }
        }
        // What waits for its name from an interrupted run is replaced by what gets that name now.
        let replaced = |path: &str| {
            let name = path.strip_suffix(apply::NEW);
            plan.files.iter().any(|file| Some(&*file.what) == name && file.reason != Reason::Attributes)
        };
        let wanted = |path: &String| rendered.files.iter().any(|file| file.path == *path) || replaced(path);
        plan.relists = !rendered.kept().eq(facts.installed.iter().map(String::as_str));
        plan.remove = facts.installed.iter().filter(|path| !wanted(path)).cloned().collect();
        let asks = facts.asks.iter().filter(|path| plan.remove.contains(path));
        plan.stops = asks.filter_map(|path| apply::service_of(path)).map(str::to_owned).collect();
        for (index, task) in rendered.tasks.iter().enumerate() {
            if !facts.done.contains(&index) {
                let lines = facts.changes.get(&index).cloned().unwrap_or_default();
                plan.tasks.push(Change { lines, ..Change::new(index, &task.name, Reason::Pending) });
            }
        }
        let (rolling, handlers) = plan.notified(rendered, &facts.due).into_iter().partition(|call| {
            rendered.handler(&call.what).is_some_and(|(_, handler)| handler.rolling.is_some())
        });
        plan.handlers = handlers;
        // What a new host runs is started with all of its files.
        plan.rolling = if is_new { Vec::new() } else { plan.rolls(rendered, rolling, facts) };
        plan
    }

    /// The handlers that this host would run when it is its turn, if all were asked to.
    pub fn all_rolls(rendered: &RenderedHost, facts: &Facts, because: &str) -> Vec<Roll> {
        let all = rendered.handlers.iter().filter(|handler| handler.rolling.is_some());
        let calls = all.map(|handler| Call { what: handler.name.clone(), because: vec![because.to_owned()] });
        Self::default().rolls(rendered, calls.collect(), facts)
    }

    fn rolls(&self, rendered: &RenderedHost, calls: Vec<Call>, facts: &Facts) -> Vec<Roll> {
        let reversed = self.reversed(rendered);
        let roll = |call: Call| {
            let (index, handler) = rendered.handler(&call.what)?;
            let reversed =
                reversed.contains(&handler.name) || facts.reversed.contains(&facts::slug(&handler.name));
            Some(Roll { leads: facts.leads.contains(&index), reversed, call })
        };
        calls.into_iter().filter_map(roll).collect()
    }

    /// Handlers that the leading host runs first, because of the settings that get smaller.
    pub(crate) fn reversed(&self, rendered: &RenderedHost) -> BTreeSet<String> {
        let edits: BTreeSet<&str> = self
            .files
            .iter()
            .flat_map(|change| change.edits.iter().flatten())
            .filter(|edit| edit.may_shrink())
            .map(|edit| edit.name.as_str())
            .collect();
        let shrinks = |rolling: &Rolling| {
            rolling.smaller_on_leader_first.iter().any(|name| edits.contains(name.as_str()))
        };
        let handlers = rendered.handlers.iter();
        let reversed = handlers.filter(|handler| handler.rolling.as_ref().is_some_and(shrinks));
        reversed.map(|handler| handler.name.clone()).collect()
    }

    /// Whether the host is as it should be.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many things change. Handlers count only when an earlier run left nothing else to do.
    pub fn len(&self) -> usize {
        let Self {
            host: _,
            packages,
            directories,
            files,
            remove,
            stops: _,
            tasks,
            handlers,
            rolling: _,
            relists: _,
            at_hand: _,
        } = self;
        match packages.len() + directories.len() + files.len() + remove.len() + tasks.len() {
            0 => handlers.len(),
            changes => changes,
        }
    }

    /// Whether all that changes is files, and who reads them goes on meanwhile: no other host has to do with that.
    pub fn is_local(&self, rendered: &RenderedHost) -> bool {
        let Self { packages, directories, remove, tasks, handlers, .. } = self;
        let reload = |call: &Call| rendered.handler(&call.what).is_some_and(|(_, handler)| handler.reload);
        packages.is_empty()
            && directories.is_empty()
            && remove.is_empty()
            && tasks.is_empty()
            && handlers.iter().all(reload)
    }

    /// First what can be done without any other host (packages, directories, files), then what may need one: tasks and
    /// handlers.
    pub fn split(self) -> (Self, Self) {
        let Self { tasks, handlers, rolling, .. } = self;
        let later = Self { host: self.host.clone(), tasks, handlers, rolling, ..Self::default() };
        (Self { tasks: Vec::new(), handlers: Vec::new(), rolling: Vec::new(), ..self }, later)
    }

    /// What has to be asked to know more than that something changes.
    pub fn unknown(&self, rendered: &RenderedHost) -> Details {
        let unread = |change: &&Change| {
            change.reason == Reason::Content
                && change.diff.is_none()
                && rendered.files[change.index].is_shown()
        };
        let tasks = self.tasks.iter().map(|change| change.index);
        Details {
            files: self.files.iter().filter(unread).map(|change| change.what.clone()).collect(),
            tasks: tasks.filter(|index| rendered.tasks[*index].changes.is_some()).collect(),
        }
    }

    /// What tasks would do that loses data, and which services end, for the user's consent.
    pub fn losses(&self) -> impl Iterator<Item = String> {
        let lines = self.tasks.iter().flat_map(|change| &change.lines);
        let lost = lines.filter_map(|line| line.strip_prefix('!')).map(|line| line.trim().to_owned());
        lost.chain(self.stops.iter().map(|unit| format!("stop {unit} for good")))
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
            called.get(name).cloned().unwrap_or_else(|| vec!["an earlier run left it".to_owned()])
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
