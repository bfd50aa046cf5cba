//! The script that changes a host, and what it reports.
//!
//! Order: packages (and before them the files that they read), directories, validation of every candidate file, installation (first beside the target, then one
//! rename each), removal, tasks, handlers, and at last the list of installed files. Each step prints one JSON line. The
//! script may be killed at any point, and the host lose its power: the next facts see what is missing, and what was done
//! stays done. Files that wait for the rename of the others get theirs at the next boot (`base/files.service`).

use std::{collections::BTreeSet, fmt::Write as _};

use serde::Deserialize;

use super::{
    Change, HostPlan, Reason,
    facts::{DUE, INSTALLED, LOCK, REVERSED, RUNNING, slug},
};
use crate::render::{Handler, RenderedHost, Task};

/// Where the bundle is unpacked: memory, so that secrets of a failed run do not stay on the disk.
pub const STAGE: &str = "/run/pgprov/stage";

/// What to send to the host as one tar stream; `apply.sh` in it runs the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    /// Scripts: name below [`STAGE`] and content.
    pub scripts: Vec<(String, String)>,
    /// Files of the host, for a tar of their own (`files.tar` below [`STAGE`]) that is unpacked over `/`.
    pub files: Vec<Placed>,
}

/// A file in `files.tar`: it is unpacked beside its target, and renamed when all are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Path without the leading slash, with the suffix [`NEW`].
    pub path: String,
    /// The content.
    pub content: Vec<u8>,
    /// User that owns it.
    pub owner: String,
    /// Group that owns it.
    pub group: String,
    /// Permissions.
    pub mode: u32,
}

/// Where files that were replaced are kept until the handlers that they call have succeeded: in memory, like [`STAGE`].
pub const OLD: &str = "/run/pgprov/old";

/// Suffix of a file that waits beside its target for the others.
pub const NEW: &str = ".pgprov-new";

/// The list of files that are being renamed; it is there only meanwhile.
pub const PLACING: &str = "/var/lib/pgprov/placing";

impl Bundle {
    /// The command that receives the tar stream on stdin and runs it.
    pub fn command() -> String {
        format!(
            "rm -rf {STAGE} && mkdir -p -m 0700 {STAGE} {DUE} && tar -x --no-same-owner -C {STAGE} && sh {STAGE}/apply.sh </dev/null"
        )
    }
}

/// One line that the script prints.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Event {
    /// What happened: `start`, `done`, `skip`, `failed`.
    pub event: String,
    /// `packages`, `file`, `task`, `handler`, `all`.
    pub kind: String,
    /// Index or name.
    pub item: String,
    /// The last output of what failed, in base64.
    #[serde(default)]
    pub output: String,
}

/// Packs what the plan changes.
pub fn bundle(rendered: &RenderedHost, plan: &HostPlan) -> Bundle {
    let placed = plan.files.iter().filter(|change| change.reason != Reason::Attributes).map(|change| {
        let file = &rendered.files[change.index];
        Placed {
            path: format!("{}{NEW}", file.path.trim_start_matches('/')),
            content: file.bytes().to_vec(),
            owner: file.owner.clone(),
            group: file.group.clone(),
            mode: u32::from_str_radix(&file.mode, 8).unwrap_or(0o600),
        }
    });
    let consent: String = plan.losses().map(|line| format!("{line}\n")).collect();
    let mut scripts = vec![
        ("apply.sh".to_owned(), script(rendered, plan)),
        ("rename.pl".to_owned(), RENAME.replace("@NEW@", NEW)),
        ("consent".to_owned(), consent),
    ];
    scripts.extend(checks(rendered, plan));
    for (index, task) in tasks(rendered, plan) {
        scripts.push((format!("task.{index}.unless"), format!("{RUNNING}{}", task.unless)));
        scripts.push((format!("task.{index}.run"), format!("{RUNNING}{}{}", functions(), task.run)));
    }
    for (index, handler) in rendered.handlers.iter().enumerate() {
        scripts.push((format!("handler.{index}"), handler.run.clone()));
    }
    Bundle { scripts, files: placed.collect() }
}

/// The service that a file under systemd's folder belongs to: its unit, or an addition to it.
pub fn service_of(path: &str) -> Option<&str> {
    let unit = path.strip_prefix("/etc/systemd/system/")?;
    let unit = unit.split_once(".d/").map_or(unit, |(unit, _)| unit);
    (unit.ends_with(".service") && !unit.contains('/')).then_some(unit)
}

/// A service whose unit goes is stopped before, if the unit says so by the key that NixOS has for it, or if that was agreed to.
fn stop_removed(path: &str, plan: &HostPlan) -> String {
    let Some(unit) = service_of(path) else { return String::new() };
    let stop = format!("step 90 systemctl disable -q --now {unit}");
    let after = format!("sed -n 's/^X-OnRemoval=//p' {path} >removal; step 30 sh -e removal");
    match plan.stops.iter().any(|stops| stops == unit) {
        true => format!("say start stop {unit}; {{ {stop} && {after}; }} || fail stop {unit}; "),
        false => format!("! grep -qs '^X-StopOnRemoval=yes' {path} || {{ {stop}; {after}; }}; "),
    }
}

/// Shell functions for tasks: `starts UNIT` says, before it does, that the task starts a service other than its own;
/// `consented LINE` tells whether the user wants that loss.
fn functions() -> String {
    format!(
        "starts() {{ : >{STAGE}/started.\"$1\"; }}\nconsented() {{ grep -qxF -e \"$1\" {STAGE}/consent; }}\n"
    )
}

const PRELUDE: &str = r#"set -u
cd @STAGE@ || exit 1
exec 9>@LOCK@ && flock -w 300 9 || { echo '{"event":"failed","kind":"lock","item":"@LOCK@"}'; exit 75; }
# Also when whoever sent this is gone, and what is said has nowhere to go.
trap 'cd / && rm -rf @STAGE@' EXIT
trap 'exit 1' HUP INT PIPE TERM
say() { printf '{"event":"%s","kind":"%s","item":"%s"}\n' "$1" "$2" "$3"; }
fail() {
  printf '{"event":"failed","kind":"%s","item":"%s","output":"%s"}\n' "$1" "$2" "$(tail -c 3000 log 2>/dev/null | base64 -w0)"
  exit 1
}
# The lock is not inherited (9>&-): a daemon that a step starts would hold it for ever.
step() { limit=$1; shift; timeout -k 5 "$limit" "$@" >log 2>&1 </dev/null 9>&-; }
# put_back PATH...: those of the files that were replaced are as they were.
put_back() {
  back=
  for path in "$@"; do
    [ -e "@OLD@$path" ] && cp -p "@OLD@$path" "$path@NEW@" && mv "$path@NEW@" "$path" && rm "@OLD@$path" && back="$back $path"
  done
  [ -n "$back" ]
}
# undo HANDLER SECONDS NOTE PATH...: a handler failed. It runs again with the files that were there before.
undo() {
  handler=$1 limit=$2 due=$3; shift 3
  mv log failed
  if put_back "$@"; then
    echo "put back as they were:$back" >>failed
    if step "$limit" sh -e "handler.$handler"; then rm -f $due; else { echo 'and with them:'; cat log; } >>failed; fi
  fi
  mv failed log
  fail handler "$handler"
}
# Old files are of use until all handlers have succeeded.
forget() { set -- @DUE@/*; [ -e "$1" ] || rm -rf @OLD@; }
"#;

/// Gives files their names: all of them, or those that had theirs are as they were. What stands there is read before the first
/// is renamed; after that only a power cut comes between, and the boot finishes what it left.
const RENAME: &str = r#"use strict;
umask 077;
chomp(my @paths = <STDIN>);
my %old;
for my $path (@paths) {
  if (-d $path && !-l $path) { unlink map {"$_@NEW@"} @paths; die "$path: Is a directory\n" }
  # What is no file, like a pipe, is replaced and cannot be put back; to open it might wait for ever.
  next unless -f $path;
  open my $file, '<:raw', $path or next;
  my ($mode, $uid, $gid) = (stat $file)[2, 4, 5];
  $old{$path} = [do { local $/; <$file> } // '', $mode & 07777, $uid, $gid];
}
my @renamed;
for my $path (@paths) {
  if (rename "$path@NEW@", $path) { push @renamed, $path; next }
  my $why = "$path: $!\n";
  for my $path (@renamed) {
    my ($text, $mode, $uid, $gid) = @{$old{$path} or unlink($path), next};
    open my $file, '>:raw', "$path@NEW@" or die "$why$path: $!\n";
    chown $uid, $gid, $file;
    chmod $mode, $file;
    print $file $text;
    close $file && rename "$path@NEW@", $path or die "$why$path: $!\n";
  }
  unlink map {"$_@NEW@"} @paths;
  die $why;
}
print map {"$_\n"} @paths;
"#;

fn prelude() -> String {
    let places = [("@STAGE@", STAGE), ("@LOCK@", LOCK), ("@OLD@", OLD), ("@NEW@", NEW), ("@DUE@", DUE)];
    places.into_iter().fold(PRELUDE.to_owned(), |text, (mark, value)| text.replace(mark, value))
}

/// What a host does when it is its turn to run the handler with that index: nothing when it is not due any more, unless it
/// was `asked` for.
pub fn roll(rendered: &RenderedHost, index: usize, asked: bool) -> Bundle {
    let mut out = prelude();
    let handler = &rendered.handlers[index];
    let note = format!("{DUE}/{}", slug(&handler.name));
    if asked {
        let _ = writeln!(out, ": >>{note}");
    }
    let _ = write!(
        out,
        "if [ -e {note} ]; then\n{}fi\nforget\ncd / && rm -rf {STAGE}\nsay done all ''\n",
        run(rendered, index, handler)
    );
    let scripts = vec![("apply.sh".to_owned(), out), (format!("handler.{index}"), handler.run.clone())];
    Bundle { scripts, files: Vec::new() }
}

/// What a host does whose turn does not come, because the handler failed on another host: the files that call it are as they
/// were, and the handlers that do not take turns hear of it.
pub fn put_back(rendered: &RenderedHost, index: usize) -> Bundle {
    let mut out = prelude();
    let name = &rendered.handlers[index].name;
    let mut scripts = Vec::new();
    let _ = writeln!(out, "if put_back {}; then\n rm -f {DUE}/{}", calling(rendered, name), slug(name));
    let others: BTreeSet<&String> = rendered
        .files
        .iter()
        .filter(|file| file.notify.contains(name))
        .flat_map(|file| &file.notify)
        .collect();
    for (index, handler) in rendered.handlers.iter().enumerate() {
        if handler.rolling.is_none() && others.contains(&handler.name) {
            scripts.push((format!("handler.{index}"), handler.run.clone()));
            let _ = writeln!(out, "step {} sh -e handler.{index} || fail handler {index}", handler.seconds);
        }
    }
    let _ = write!(out, ":; fi\nforget\ncd / && rm -rf {STAGE}\nsay done all ''\n");
    scripts.push(("apply.sh".to_owned(), out));
    Bundle { scripts, files: Vec::new() }
}

/// Paths of the files that call that handler, for the shell.
fn calling(rendered: &RenderedHost, handler: &String) -> String {
    let files = rendered.files.iter().filter(|file| file.notify.contains(handler));
    files.map(|file| file.path.as_str()).collect::<Vec<_>>().join(" ")
}

fn script(rendered: &RenderedHost, plan: &HostPlan) -> String {
    let mut out = prelude();
    out.push_str("forget\n");
    packages(&mut out, rendered, plan);
    for change in &plan.directories {
        let wanted = &rendered.directories[change.index];
        let (path, owner, group, mode) = (&wanted.path, &wanted.owner, &wanted.group, &wanted.mode);
        let _ = writeln!(
            out,
            "install -d -o {owner} -g {group} -m {mode} {path} >log 2>&1 || fail directory {path}"
        );
    }
    install_files(&mut out, rendered, plan);
    for path in &plan.remove {
        let _ = writeln!(out, "{}rm -f {path}; say done remove {path}", stop_removed(path, plan));
    }
    if checks(rendered, plan).is_some() {
        out.push_str("step 60 sh checks\n");
    }
    for (index, task) in tasks(rendered, plan) {
        out.push_str(&run_task(index, task));
    }
    // Every handler is looked at, not only those in the plan: a task may have found something to do meanwhile.
    for (index, handler) in rendered.handlers.iter().enumerate() {
        out.push_str(&run_handler(rendered, index, handler));
    }
    let kept = rendered.files.iter().filter(|file| !file.once).map(|file| file.path.as_str());
    let list: String = kept.map(|path| format!("{path}\n")).collect();
    let _ = write!(
        out,
        "mkdir -p /var/lib/pgprov && cat >{INSTALLED}.new <<'END' && mv {INSTALLED}.new {INSTALLED} || fail list {INSTALLED}\n\
         {list}END\nforget\ncd / && rm -rf {STAGE}\nsync -f / || fail list sync\nsay done all ''\n"
    );
    out
}

/// dpkg keeps our file where a package brings one of the same name. Reading the lists has several tries: on a host that has
/// just booted another apt may be at it, whose lock is not waited for, or the way to the mirror may not be there yet.
fn packages(out: &mut String, rendered: &RenderedHost, plan: &HostPlan) {
    if plan.packages.is_empty() {
        return;
    }
    let early = |change: &&Change| {
        change.reason != Reason::Attributes && rendered.files[change.index].before_packages
    };
    for Change { what: path, .. } in plan.files.iter().filter(early) {
        let member = format!("{}{NEW}", path.trim_start_matches('/'));
        let _ = writeln!(
            out,
            "tar -x -p --same-owner -C / -f files.tar {member} 2>log && mv {path}{NEW} {path} 2>>log || fail file {path}"
        );
    }
    let list = plan.packages.join(" ");
    let mut options = "-o DPkg::Lock::Timeout=120 -o DPkg::Options::=--force-confold".to_owned();
    if let Some(sources) = &rendered.sources {
        let _ = writeln!(out, "cat >mirror.sources <<'END'\n{sources}END");
        let _ = write!(
            options,
            " -o Dir::Etc::SourceList={STAGE}/mirror.sources -o Dir::Etc::SourceParts=/dev/null"
        );
    }
    let _ = writeln!(
        out,
        "say start packages '{list}'\n\
         export DEBIAN_FRONTEND=noninteractive\n\
         for try in 1 2 3 4 5 6; do\n\
         step 300 apt-get {options} -o APT::Update::Error-Mode=any update && break\n\
         [ $try -lt 6 ] || fail packages update; sleep 10; done\n\
         step 1200 apt-get {options} install -y --no-install-recommends {list} || fail packages install\n\
         say done packages ''"
    );
}

/// Candidates lie beside their targets and are validated before the first is renamed; when one is refused, all go. Two processes for all files: under
/// emulation each one costs a hundredth of a second.
fn install_files(out: &mut String, rendered: &RenderedHost, plan: &HostPlan) {
    let (attributes, contents): (Vec<_>, Vec<_>) =
        plan.files.iter().partition(|change| change.reason == Reason::Attributes);
    if !contents.is_empty() {
        // A list of an earlier run must not bring candidates in that are not validated yet. The new one is there before
        // its files are: should this end here, the next facts know them.
        let list: String = contents.iter().map(|change| format!("{}\n", change.what)).collect();
        let _ = writeln!(
            out,
            "mkdir -p /var/lib/pgprov && rm -f {PLACING}\n\
             cat >{PLACING}{NEW} <<'END' 2>log || fail file {PLACING}\n{list}END\n\
             refuse() {{ while read -r path; do rm -f \"$path{NEW}\"; done <{PLACING}{NEW}; rm -f {PLACING}{NEW}; fail \"$@\"; }}\n\
             tar -x -p --same-owner -C / -f files.tar 2>log || refuse file files.tar"
        );
    }
    for change in &contents {
        if let Some(validate) = &rendered.files[change.index].validate {
            let path = &change.what;
            let _ = writeln!(
                out,
                "cat >validate <<'END_OF_VALIDATE'\n{validate}\nEND_OF_VALIDATE\n\
                 step 60 sh validate {path}{NEW} || refuse validate {path}"
            );
        }
    }
    let called = plan.called(rendered);
    let _ = writeln!(out, "{}", notes(&called.keys().collect(), &plan.reversed(rendered)));
    if !contents.is_empty() {
        keep_old(out, rendered, &contents);
        let report = "while read -r path; do say done file \"$path\"; done <renamed";
        // A file that got its name before its content was on the disk would be empty after a power cut. The list gets its
        // name before they do, and loses it after they did: names reach the disk in order.
        let _ = write!(
            out,
            "sync -f / /var/lib/pgprov || fail file sync\nmv {PLACING}{NEW} {PLACING}\n\
             perl rename.pl >renamed 2>log <{PLACING} || {{ sync -f /; rm -f {PLACING}; fail file rename; }}\nrm {PLACING}\n{report}\n"
        );
    }
    for change in &attributes {
        let file = &rendered.files[change.index];
        let (owner, group, mode, path) = (&file.owner, &file.group, &file.mode, &file.path);
        let _ = writeln!(
            out,
            "chown {owner}:{group} {path} 2>log && chmod {mode} {path} 2>>log || fail file {path}; say done file {path}"
        );
    }
}

/// Files that handlers read are kept as they were. Those that an earlier run kept are older, and stay.
fn keep_old(out: &mut String, rendered: &RenderedHost, contents: &[&Change]) {
    let called = |change: &&&Change| {
        change.reason == Reason::Content && !rendered.files[change.index].notify.is_empty()
    };
    let paths: Vec<&str> =
        contents.iter().filter(called).map(|change| change.what.trim_start_matches('/')).collect();
    if !paths.is_empty() {
        let _ = writeln!(
            out,
            "mkdir -p -m 0700 {OLD} && tar -c -C / {} 2>log | tar -x -p --same-owner --skip-old-files -C {OLD} 2>>log || fail file old",
            paths.join(" ")
        );
    }
}

/// The tasks that are looked at. None where only files change: as a rule they have as little to do with the new files, and
/// whoever applies them asks the host after.
fn tasks<'a>(rendered: &'a RenderedHost, plan: &HostPlan) -> impl Iterator<Item = (usize, &'a Task)> {
    let looked_at = !plan.is_local(rendered);
    rendered.tasks.iter().enumerate().filter(move |_| looked_at)
}

/// Looks in one process at the tasks that had nothing to do when the host was asked: as a rule they have nothing to do now
/// either, with the new files, and under emulation two processes for each of them add up to a second.
fn checks(rendered: &RenderedHost, plan: &HostPlan) -> Option<(String, String)> {
    let due: BTreeSet<usize> = plan.tasks.iter().map(|change| change.index).collect();
    let done = tasks(rendered, plan).filter(|(index, _)| !due.contains(index));
    let checks: String = done
        .map(|(index, task)| match task.independent {
            true => format!(": >done.{index}\n"),
            false => {
                format!("(\n{}\n) >/dev/null 2>&1 </dev/null && : >done.{index}\n", task.unless.trim_end())
            }
        })
        .collect();
    (!checks.is_empty()).then(|| ("checks".to_owned(), format!("{RUNNING}{checks}")))
}

/// What a task has done may give those after it something to do: they look again.
fn run_task(index: usize, task: &Task) -> String {
    let notes = notes(&task.notify.iter().collect(), &BTreeSet::new());
    let starts = task.starts.as_ref().map(|unit| format!(": >'started.{unit}'; ")).unwrap_or_default();
    format!(
        "if [ -e done.{index} ] || step 60 sh task.{index}.unless; then say skip task {index}; else say start task {index}\n\
         {notes}step {} sh -e task.{index}.run || fail task {index}\n{starts}rm -f done.*; say done task {index}; fi\n",
        task.seconds
    )
}

/// A unit that was just started has read everything. Handlers that hosts take turns with wait for their turn.
fn run_handler(rendered: &RenderedHost, index: usize, handler: &Handler) -> String {
    let note = format!("{DUE}/{}", slug(&handler.name));
    let unit = handler.unit.as_deref().unwrap_or("-");
    if handler.rolling.is_some() {
        return format!(
            "if [ -e {note} ] && [ -e 'started.{unit}' ]; then rm -f{}; fi\n",
            done(rendered, handler)
        );
    }
    format!(
        "if [ -e {note} ]; then\nif [ ! -e 'started.{unit}' ]; then\n{}fi\nrm -f{}; fi\n",
        run(rendered, index, handler),
        done(rendered, handler)
    )
}

fn run(rendered: &RenderedHost, index: usize, handler: &Handler) -> String {
    let (seconds, note) = (handler.seconds, slug(&handler.name));
    format!(
        "say start handler {index}\nstep {seconds} sh -e handler.{index} || undo {index} {seconds} {DUE}/{note} {}\n\
         say done handler {index}\nrm -f{}\n",
        calling(rendered, &handler.name),
        done(rendered, handler)
    )
}

/// The notes of a handler and of those that it covers.
fn done(rendered: &RenderedHost, handler: &Handler) -> String {
    let covered = rendered.handlers.iter().filter(|other| handler.covers.contains(&other.name));
    std::iter::once(handler).chain(covered).map(|done| format!(" {DUE}/{}", slug(&done.name))).collect()
}

/// Shell commands that note that the handlers of those names are due. They come before what calls the handlers: between
/// the change and the handler the script may be killed.
fn notes(names: &BTreeSet<&String>, reversed: &BTreeSet<String>) -> String {
    let note = |name: &&String| match reversed.contains(*name) {
        true => format!("echo {REVERSED} >{DUE}/{}; ", slug(name)),
        // Not empty: its time is that of the last note.
        false => format!("echo >>{DUE}/{}; ", slug(name)),
    };
    names.iter().map(note).collect()
}
