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
    facts::{self, DUE, INSTALLED, LOCK, PROGRAMS, REVERSED, RUNNING, check, slug},
};
use crate::render::{Directory, File, Handler, RenderedHost, Task};

/// Where the bundle is unpacked: memory, so that secrets of a failed run do not stay on the disk.
pub const STAGE: &str = "/run/pgprov/stage";

/// What to send to the host as one tar stream, which is unpacked below [`STAGE`]; `apply.sh` in it runs the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    /// Name and content of scripts, of lists that they read, and of the files of the host, which are called `file.` and a number.
    pub parts: Vec<(String, Vec<u8>)>,
}

/// Does in our images what takes others several programs.
pub(super) const PROGRAM: &str = "/usr/lib/pgprov/bundle";

/// Where files that were replaced are kept until the handlers that they call have succeeded: in memory, like [`STAGE`].
pub const OLD: &str = "/run/pgprov/old";

/// What other hosts gave, in a bundle: their name, that of the value, and the value itself, a line each.
const TOLD: &str = "told";

/// Suffix of a file that waits beside its target for the others.
pub const NEW: &str = ".pgprov-new";

/// The list of files that are being renamed; it is there only meanwhile.
pub const PLACING: &str = "/var/lib/pgprov/placing";

impl Bundle {
    /// The command that receives the tar stream on stdin and runs it.
    pub fn command() -> String {
        format!(
            "if [ -x {PROGRAM} ]; then {PROGRAM} unpack {STAGE} {DUE}; else {{ [ ! -e {STAGE} ] || rm -rf {STAGE}; }} && \
             mkdir -p -m 0700 {STAGE} {DUE} && tar -x --no-same-owner -C {STAGE}; fi && sh {STAGE}/apply.sh </dev/null"
        )
    }

    /// The same with what other hosts gave: the host, the name and the value of each.
    #[must_use]
    pub fn with_told<'a>(mut self, told: impl Iterator<Item = (&'a str, &'a str, &'a str)>) -> Self {
        let lines: String = told.map(|(host, name, value)| format!("{host} {name} {value}\n")).collect();
        self.parts.retain(|(name, _)| name != TOLD);
        self.add(TOLD, lines);
        self
    }

    fn add(&mut self, name: impl Into<String>, content: impl Into<Vec<u8>>) {
        self.parts.push((name.into(), content.into()));
    }
}

/// One line that the script prints.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Event {
    /// What happened: `start`, `done`, `skip`, `failed`, `gives`.
    pub event: String,
    /// `packages`, `file`, `task`, `handler`, `all`; of what is given, the name.
    pub kind: String,
    /// Index or name; of what is given, the value.
    pub item: String,
    /// The last output of what failed, in base64.
    #[serde(default)]
    pub output: String,
}

/// Packs what the plan changes.
pub fn bundle(rendered: &RenderedHost, plan: &HostPlan) -> Bundle {
    let mut bundle = Bundle::default();
    bundle.add("apply.sh", script(rendered, plan));
    bundle.add(TOLD, "");
    bundle.add("consent", plan.losses().map(|line| format!("{line}\n")).collect::<String>());
    if contents(plan).next().is_some() || !plan.directories.is_empty() {
        bundle.add("files.pl", with_places(FILES));
    }
    if !plan.directories.is_empty() {
        let folder = |change: &Change| {
            let Directory { owner, group, mode, path } = &rendered.directories[change.index];
            format!("{owner} {group} {mode} {path}\n")
        };
        bundle.add("folders", plan.directories.iter().map(folder).collect::<String>());
    }
    if contents(plan).next().is_some() {
        bundle.add("files", contents(plan).map(|change| entry(rendered, change)).collect::<String>());
        let called = plan.called(rendered);
        bundle
            .add("notes", notes(&called.keys().collect(), &plan.reversed(rendered), "{how} {path} {text}\n"));
    }
    if !plan.at_hand.is_empty() {
        let line = |(index, sum): (&usize, &String)| format!("{index} {PROGRAMS}/{sum}\n");
        bundle.add("at-hand", plan.at_hand.iter().map(line).collect::<String>());
    }
    for change in contents(plan).filter(|change| !plan.at_hand.contains_key(&change.index)) {
        bundle.add(format!("file.{}", change.index), rendered.files[change.index].bytes());
    }
    if let Some(checks) = checks(rendered, plan) {
        bundle.add("checks", checks);
    }
    for (index, task) in tasks(rendered, plan) {
        if !task.asks_only {
            bundle.add(format!("task.{index}.unless"), format!("{RUNNING}{}", task.unless));
        }
        bundle.add(format!("task.{index}.run"), format!("{RUNNING}{}{}", functions(), task.run));
    }
    for (index, handler) in rendered.handlers.iter().enumerate() {
        bundle.add(format!("handler.{index}"), handler.run.as_str());
    }
    bundle
}

/// Files that get another content.
fn contents(plan: &HostPlan) -> impl Iterator<Item = &Change> {
    plan.files.iter().filter(|change| change.reason != Reason::Attributes)
}

/// A line of the list that `files.pl` reads.
fn entry(rendered: &RenderedHost, change: &Change) -> String {
    let file = &rendered.files[change.index];
    let (index, File { owner, group, mode, path, .. }) = (change.index, file);
    let is_kept = change.reason == Reason::Content && !file.notify.is_empty();
    format!("{index} {owner} {group} {mode} {} {path}\n", u8::from(is_kept))
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
/// `consented LINE` tells whether the user wants that loss; `gives NAME VALUE` is for hosts that wait for this one, and
/// `told HOST NAME` what one gave that this one waits for.
fn functions() -> String {
    with_places(
        r#"starts() { : >@STAGE@/started."$1"; }
consented() { grep -qxF -e "$1" @STAGE@/consent; }
gives() { echo "$1 $2" >>@STAGE@/given; }
told() { while read -r host name value; do [ "$host $name" != "$1 $2" ] || echo "$value"; done <@STAGE@/told; }
"#,
    )
}

const PRELUDE: &str = r#"set -u
cd @STAGE@ || exit 1
exec 9>@LOCK@ && flock -w 300 9 || { echo '{"event":"failed","kind":"lock","item":"@LOCK@"}'; exit 75; }
# Also when whoever sent this is gone, and what is said has nowhere to go.
trap '[ ! -e @STAGE@ ] || { cd / && rm -rf @STAGE@; }' EXIT
trap 'exit 1' HUP INT PIPE TERM
say() { printf '{"event":"%s","kind":"%s","item":"%s"}\n' "$1" "$2" "$3"; }
fail() {
  printf '{"event":"failed","kind":"%s","item":"%s","output":"%s"}\n' "$1" "$2" "$(tail -c 3000 log 2>/dev/null | base64 -w0)"
  exit 1
}
# The lock is not inherited (9>&-): a daemon that a step starts would hold it for ever.
step() { limit=$1; shift; timeout -k 5 "$limit" "$@" >log 2>&1 </dev/null 9>&-; }
# files PHASE...: see files.pl. Our images have a program for it, which is there sooner than perl.
files() { if [ -x @PROGRAM@ ]; then @PROGRAM@ files @PLACING@ @NEW@ @OLD@ "$@"; else perl files.pl "$@"; fi; }
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
# What a task gives is passed on at once.
pass_on() { [ ! -e given ] || { while read -r name value; do say gives "$name" "$value"; done <given && rm given; }; }
# Old files are of use until all handlers have succeeded.
forget() { set -- @DUE@/*; [ -e "$1" ] || [ ! -e @OLD@ ] || rm -rf @OLD@; }
# The work is done: what was needed for it goes, in one process.
end() { set -- @DUE@/*; if [ -e "$1" ]; then set --; else set -- @OLD@; fi; cd / && rm -rf @STAGE@ "$@"; }
"#;

/// Puts files where they belong.
const FILES: &str = include_str!("files.pl");

/// A script with the places of things in it.
fn with_places(script: &str) -> String {
    let places = [
        ("@STAGE@", STAGE),
        ("@LOCK@", LOCK),
        ("@OLD@", OLD),
        ("@NEW@", NEW),
        ("@DUE@", DUE),
        ("@PLACING@", PLACING),
        ("@PROGRAM@", PROGRAM),
    ];
    places.into_iter().fold(script.to_owned(), |text, (mark, value)| text.replace(mark, value))
}

/// What a host does when it is its turn to run the handler with that index: nothing when it is not due any more, unless it
/// was `asked` for.
pub fn roll(rendered: &RenderedHost, index: usize, asked: bool) -> Bundle {
    let mut out = with_places(PRELUDE);
    let handler = &rendered.handlers[index];
    let note = format!("{DUE}/{}", slug(&handler.name));
    if asked {
        let _ = writeln!(out, ": >>{note}");
    }
    let _ = write!(
        out,
        "if [ -e {note} ]; then\n{}rm -f{}\nfi\nend\nsay done all ''\n",
        run(rendered, index, handler),
        done(rendered, handler)
    );
    let mut bundle = Bundle::default();
    bundle.add("apply.sh", out);
    bundle.add(format!("handler.{index}"), handler.run.as_str());
    bundle
}

/// What a host does whose turn does not come, because the handler failed on another host: the files that call it are as they
/// were, and the handlers that do not take turns hear of it.
pub fn put_back(rendered: &RenderedHost, index: usize) -> Bundle {
    let mut out = with_places(PRELUDE);
    let name = &rendered.handlers[index].name;
    let mut bundle = Bundle::default();
    let _ = writeln!(out, "if put_back {}; then\n rm -f {DUE}/{}", calling(rendered, name), slug(name));
    let others: BTreeSet<&String> = rendered
        .files
        .iter()
        .filter(|file| file.notify.contains(name))
        .flat_map(|file| &file.notify)
        .collect();
    for (index, handler) in rendered.handlers.iter().enumerate() {
        if handler.rolling.is_none() && others.contains(&handler.name) {
            bundle.add(format!("handler.{index}"), handler.run.as_str());
            let _ = writeln!(out, "step {} sh -e handler.{index} || fail handler {index}", handler.seconds);
        }
    }
    out.push_str(":; fi\nend\nsay done all ''\n");
    bundle.add("apply.sh", out);
    bundle
}

/// Paths of the files that call that handler, for the shell.
fn calling(rendered: &RenderedHost, handler: &String) -> String {
    let files = rendered.files.iter().filter(|file| file.notify.contains(handler));
    files.map(|file| file.path.as_str()).collect::<Vec<_>>().join(" ")
}

fn script(rendered: &RenderedHost, plan: &HostPlan) -> String {
    let mut out = with_places(PRELUDE);
    out.push_str(RUNNING);
    out.push_str("forget\n");
    packages(&mut out, rendered, plan);
    if !plan.directories.is_empty() {
        out.push_str("files folders 2>log || fail folders ''\n");
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
    if plan.relists || !plan.remove.is_empty() {
        let list: String = rendered.kept().map(|path| format!("{path}\n")).collect();
        let _ = write!(
            out,
            "mkdir -p /var/lib/pgprov && cat >{INSTALLED}.new <<'END' && mv {INSTALLED}.new {INSTALLED} || fail list {INSTALLED}\n{list}END\n"
        );
    }
    out.push_str("end\nsync -f / || fail list sync\nsay done all ''\n");
    out
}

/// dpkg keeps our file where a package brings one of the same name. Reading the lists has several tries: on a host that has
/// just booted another apt may be at it, whose lock is not waited for, or the way to the mirror may not be there yet.
fn packages(out: &mut String, rendered: &RenderedHost, plan: &HostPlan) {
    if plan.packages.is_empty() {
        return;
    }
    for change in contents(plan).filter(|change| rendered.files[change.index].before_packages) {
        let _ = writeln!(out, "files early {} 2>log || fail file {}", change.index, change.what);
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

/// Candidates lie beside their targets and are validated before the first is renamed; when one is refused, all go.
fn install_files(out: &mut String, rendered: &RenderedHost, plan: &HostPlan) {
    let mut is_placed = false;
    for change in contents(plan) {
        let Some(validate) = &rendered.files[change.index].validate else { continue };
        if !is_placed {
            out.push_str("files place 2>log || fail files ''\nrefuse() { files drop; fail \"$@\"; }\n");
            is_placed = true;
        }
        let path = &change.what;
        let _ = writeln!(
            out,
            "cat >validate <<'END_OF_VALIDATE'\n{validate}\nEND_OF_VALIDATE\n\
             step 60 sh validate {path}{NEW} || refuse validate {path}"
        );
    }
    match contents(plan).next() {
        // Changed files call handlers also when only their owner changes.
        None => out.push_str(&written(&plan.called(rendered).keys().collect(), &plan.reversed(rendered))),
        Some(_) if is_placed => out.push_str("files commit 2>log || fail files ''\n"),
        Some(_) => out.push_str("files place commit 2>log || fail files ''\n"),
    }
    let sums: Vec<(&str, &str)> = plan
        .at_hand
        .iter()
        .map(|(index, sum)| (sum.as_str(), rendered.files[*index].path.as_str()))
        .collect();
    if !sums.is_empty() {
        out.push_str(&facts::note_sums(&sums));
    }
    for change in plan.files.iter().filter(|change| change.reason == Reason::Attributes) {
        let File { owner, group, mode, path, .. } = &rendered.files[change.index];
        let _ = writeln!(
            out,
            "chown {owner}:{group} {path} 2>log && chmod {mode} {path} 2>>log || fail file {path}; say done file {path}"
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
fn checks(rendered: &RenderedHost, plan: &HostPlan) -> Option<String> {
    let due: BTreeSet<usize> = plan.tasks.iter().map(|change| change.index).collect();
    let done = tasks(rendered, plan).filter(|(index, _)| !due.contains(index));
    let checks: String = done
        .map(|(index, task)| match task.independent {
            true => format!(": >done.{index}\n"),
            false => format!("{} && : >done.{index}\n", check(&task.unless, task.asks_only)),
        })
        .collect();
    (!checks.is_empty()).then(|| format!("{RUNNING}{checks}"))
}

/// What a task has done may give those after it something to do: they look again.
fn run_task(index: usize, task: &Task) -> String {
    let notes = written(&task.notify.iter().collect(), &BTreeSet::new());
    let starts = task.starts.as_ref().map(|unit| format!(": >'started.{unit}'; ")).unwrap_or_default();
    let is_done = match task.asks_only {
        true => check(&task.unless, true),
        false => format!("step 60 sh task.{index}.unless"),
    };
    format!(
        "if [ -e done.{index} ] || {is_done}; then say skip task {index}; else say start task {index}\n\
         {notes}step {} sh -e task.{index}.run || fail task {index}\n{starts}rm -f done.*; pass_on; say done task {index}; fi\n",
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
        "if [ -e {note} ]; then\nif [ ! -e 'started.{unit}' ]; then\n{}fi\nrm -f{}\nfi\n",
        run(rendered, index, handler),
        done(rendered, handler)
    )
}

fn run(rendered: &RenderedHost, index: usize, handler: &Handler) -> String {
    let (seconds, note) = (handler.seconds, slug(&handler.name));
    format!(
        "say start handler {index}\nstep {seconds} sh -e handler.{index} || undo {index} {seconds} {DUE}/{note} {}\n\
         say done handler {index}\n",
        calling(rendered, &handler.name)
    )
}

/// The notes of a handler and of those that it covers.
fn done(rendered: &RenderedHost, handler: &Handler) -> String {
    let covered = rendered.handlers.iter().filter(|other| handler.covers.contains(&other.name));
    std::iter::once(handler).chain(covered).map(|done| format!(" {DUE}/{}", slug(&done.name))).collect()
}

/// Notes that the handlers of those names are due, each in that form. They are written before what calls the handlers: between
/// the change and the handler the script may be killed.
fn notes(names: &BTreeSet<&String>, reversed: &BTreeSet<String>, form: &str) -> String {
    let note = |name: &&String| {
        let path = format!("{DUE}/{}", slug(name));
        // Not empty: its time is that of the last note.
        let (how, text) = if reversed.contains(*name) { (">", REVERSED) } else { (">>", "") };
        form.replace("{how}", how).replace("{path}", &path).replace("{text}", text)
    };
    names.iter().map(note).collect()
}

/// As shell commands.
fn written(names: &BTreeSet<&String>, reversed: &BTreeSet<String>) -> String {
    notes(names, reversed, "echo {text} {how}{path}\n")
}
