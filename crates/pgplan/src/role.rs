//! Role manifests: what a host needs to play a role, as data.
//!
//! A manifest (roles/NAME.yaml) lists packages, directories, files, tasks and handlers. Strings marked "template"
//! below are Tera templates over the same values as the files in templates/: `lab`, `host`, `pg`, `secrets`, `tls`
//! (see [`crate::render`]). A new role needs a manifest and templates, and no Rust.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::topology::{Release, User};

/// What a host needs to play a role.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name of the role: the name of the file without `.yaml`.
    #[schemars(regex(pattern = r"^[a-z][a-z0-9-]{0,30}$"))]
    pub role: String,
    /// One sentence: what a host has it for.
    pub summary: String,
    /// Tera condition; a host has nothing of this role when it does not hold.
    pub when: Option<String>,
    /// Roles that a host with this one has as well, applied before it.
    #[serde(default)]
    pub uses: Vec<String>,
    /// Roles that must be ready on every other host that has them, unless this host has them too, before this one is
    /// configured; on this host they are applied before this one.
    #[serde(default)]
    pub after: Vec<String>,
    /// Tera condition over `other`, a host that has such a role: those for which it does not hold need not be ready. Without it, all do.
    pub after_if: Option<String>,
    /// Whether hosts with this role need each other before one of them is ready: none is held back until another one is done.
    #[serde(default)]
    pub together: bool,
    /// Debian packages by release; they are inside the image.
    #[serde(default)]
    #[schemars(extend("propertyNames" = {"enum": ["debian-12", "debian-13"]}))]
    pub packages: IndexMap<Release, Vec<String>>,
    /// Login roles that it needs in every database server of the lab, where some host has it: written as in a topology, which
    /// cannot have users of these names. Templates find their passwords in `users`.
    #[serde(default)]
    pub database_users: Vec<User>,
    /// Random passwords of its own, one for the lab: templates find that of `some-thing` as `passwords.some_thing`.
    #[serde(default)]
    pub passwords: Vec<Password>,
    /// Directories, made in this order.
    #[serde(default)]
    pub directories: Vec<Directory>,
    /// Files to render and install.
    #[serde(default)]
    pub files: Vec<File>,
    /// What to do after the files are installed, in this order.
    #[serde(default)]
    pub tasks: Vec<Task>,
    /// What to do at the end when something they watch changed, in this order.
    #[serde(default)]
    pub handlers: Vec<Handler>,
    /// Shell script (template) that runs before anything is changed: what it prints is why this host may not be touched.
    pub refuse: Option<String>,
    /// Shell script (template) that runs on a host that went on with its memory after a pause, or was started, when the clocks of
    /// all hosts were set, and on those that wait for it: what goes by the clock believes that it waited for as long, and a connection
    /// to a host that lost its power looks well for a while. It ends by `return` if not at its end, and changes nothing in its shell.
    pub resumed: Option<String>,
    /// Shell script (template) with one argument: `off` before the memory of hosts is saved, so that nothing on them is broken off
    /// because the clock jumped when they go on, and `on` when they went on and `resumed` has run. When `off` fails, all have the
    /// same time again before `resumed` runs. `on` ends by `return` if not at its end, and changes nothing in its shell.
    pub timeouts: Option<String>,
    /// Shell script (template) that runs right before the memory of this host is saved, for what it does by itself and can wait: that
    /// would fall into the second in which it goes on, and has the least time. It may fail.
    pub rest: Option<String>,
    /// Shell script (template) whose output is one JSON object for `pgprov status`.
    pub status: Option<String>,
    /// Shell script (template) whose output are the last lines of this role's log, for `pgprov logs`.
    pub logs: Option<String>,
}

/// A password that is not that of a database user.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Password {
    /// What it opens, with a hyphen, which no database user has.
    #[schemars(regex(pattern = r"^[a-z][a-z0-9]*(-[a-z0-9]+)+$"))]
    pub name: String,
    /// Tera condition; made only when it holds.
    pub when: Option<String>,
}

/// A directory on the host.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Directory {
    /// Absolute path (template).
    pub path: String,
    /// User that owns it.
    #[serde(default = "root")]
    pub owner: String,
    /// Group that owns it.
    #[serde(default = "root")]
    pub group: String,
    /// Permissions in octal.
    #[serde(default = "mode_directory")]
    #[schemars(regex(pattern = r"^0[0-7]{3}$"))]
    pub mode: String,
    /// Tera condition; made only when it holds.
    pub when: Option<String>,
}

/// A file on the host, from a template.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Absolute path (template).
    pub path: String,
    /// Name of a file in templates/. Exactly one of `template`, `content` and `binary`.
    pub template: Option<String>,
    /// The template itself.
    pub content: Option<String>,
    /// Instead of either: what is installed as it is. pgprov brings programs along and `dashboards/NAME.json`; `files/NAME` is
    /// that file of the folder that `--assets` names.
    pub binary: Option<String>,
    /// User that owns it.
    #[serde(default = "root")]
    pub owner: String,
    /// Group that owns it.
    #[serde(default = "root")]
    pub group: String,
    /// Permissions in octal.
    #[serde(default = "mode_file")]
    #[schemars(regex(pattern = r"^0[0-7]{3}$"))]
    pub mode: String,
    /// Tera condition; installed only when it holds, removed from the host when it no longer does.
    pub when: Option<String>,
    /// Installed only when missing, and never touched again: the user's own file.
    #[serde(default)]
    pub once: bool,
    /// Holds a secret: its content is never shown.
    #[serde(default)]
    pub secret: bool,
    /// What its lines are: with `settings`, a plan names the ones that change, and a change of comments calls no handler.
    pub format: Option<Format>,
    /// How a comment starts in this kind of file, for the header; empty for files that cannot carry one.
    #[serde(default = "hash")]
    pub comment: String,
    /// Installed already before packages are, as well: something that they read when they are installed. Its owner has to
    /// exist by then.
    #[serde(default)]
    pub before_packages: bool,
    /// Shell command (template) that accepts or refuses the candidate, whose path is `$1`; non-zero = nothing is replaced.
    pub validate: Option<String>,
    /// Handlers to run when the file changes.
    #[serde(default)]
    pub notify: Vec<String>,
}

/// What the lines of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `name = value`, with `#` comments.
    Settings,
}

/// Something to do once, known to be done by a check.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// What it does, as an imperative sentence (template), shown in the plan.
    pub name: String,
    /// Tera condition; looked at only when it holds.
    pub when: Option<String>,
    /// Shell script (template) that succeeds when there is nothing to do. `running UNIT` in it succeeds while a service has processes.
    pub unless: String,
    /// `unless` only asks: it changes nothing but variables, and ends by `return` if not at its end. It runs in the shell that asks for
    /// all others, and costs no process.
    #[serde(default)]
    pub asks_only: bool,
    /// This task and those of its role after it need the hosts that this one waits for. A new host begins with the others, and with
    /// roles that come `after` nothing, once each host that it waits for, if it is new, too, has given all of these values:
    /// `gives NAME VALUE` in a `run` there, `told HOST NAME` in one here.
    pub waits: Option<Vec<String>>,
    /// What it does is on the disk, or nothing takes it from the kernel: not looked at when a host was restored with both as they were.
    #[serde(default)]
    pub on_disk: bool,
    /// Files of roles give it nothing to do: when it was done before they are installed, it is not looked at again before handlers run.
    #[serde(default)]
    pub independent: bool,
    /// Shell script (template) that prints what it would do, for the plan: a line each, beginning with `+`, `~` or `-`, or
    /// with `!` when data is lost. Lines with `!` need the user's consent: `consented LINE` in `run` succeeds for those,
    /// without their `! `, that have it.
    pub changes: Option<String>,
    /// Shell script (template) that does it. May be killed at any point and run again. `starts UNIT` in it says that it is about to start a service beside the one in `starts`.
    /// `gives NAME VALUE` tells hosts that wait for this one, if they were made in the same run, and there `told HOST NAME` prints it.
    pub run: String,
    /// Seconds it may take.
    #[serde(default = "task_seconds")]
    #[schemars(range(min = 1, max = 3600))]
    pub seconds: u32,
    /// systemd unit (template) that this task starts: its handlers then have nothing to do.
    pub starts: Option<String>,
    /// Handlers to run when the task did something.
    #[serde(default)]
    pub notify: Vec<String>,
}

/// Something to do at the end when a file or task asked for it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Handler {
    /// Name that `notify` uses.
    pub name: String,
    /// Shell script (template).
    pub run: String,
    /// systemd unit (template) it acts on; skipped when the unit was started in the same run.
    pub unit: Option<String>,
    /// Handlers that need not run when this one did (restart covers reload).
    #[serde(default)]
    pub covers: Vec<String>,
    /// The service goes on while it runs: hosts whose files change and nothing else do not wait for each other.
    #[serde(default)]
    pub reload: bool,
    /// Runs on one host after the other, when all hosts have their files, and only until the first that fails. It is done
    /// when the host is back and the next may go. `up --restart=never` leaves it for later.
    pub rolling: Option<Rolling>,
    /// Shell command (template) that succeeds when it has become needless since the time of the file `$1`: somebody restarted
    /// by hand what was to be restarted.
    pub settled: Option<String>,
    /// Seconds it may take.
    #[serde(default = "task_seconds")]
    #[schemars(range(min = 1, max = 3600))]
    pub seconds: u32,
}

/// In which order a handler runs on the hosts of a lab: those that follow others first, those furthest away before all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rolling {
    /// Shell command (template) that succeeds on the host that others follow now: that one comes last.
    pub leads: String,
    /// Settings of files with `format: settings` that must get smaller on the leading host first: when one does, the order
    /// is the other way round.
    #[serde(default)]
    pub smaller_on_leader_first: Vec<String>,
}

fn root() -> String {
    "root".to_owned()
}

fn hash() -> String {
    "#".to_owned()
}

fn mode_file() -> String {
    "0644".to_owned()
}

fn mode_directory() -> String {
    "0755".to_owned()
}

fn task_seconds() -> u32 {
    120
}
