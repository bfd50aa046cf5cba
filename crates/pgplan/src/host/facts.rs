//! What a host is asked, and how its answer is read.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde::Serialize;

use super::apply::{self, NEW, PLACING, service_of};
use crate::{
    diff, digest,
    render::{File, RenderedHost},
};

/// Where the host keeps the list of files that pgprov installed, one path a line.
pub const INSTALLED: &str = "/var/lib/pgprov/installed";
/// Lock that facts and apply take, so that neither sees the other half done.
pub const LOCK: &str = "/run/pgprov.lock";

/// Where the host notes which handlers are due, by [`slug`], until they have run: a run that is killed before leaves them
/// to the next one. In memory, because a reboot starts everything anew anyway.
pub const DUE: &str = "/run/pgprov/due";

/// What such a note says of a handler that hosts run in the other order.
pub const REVERSED: &str = "reversed";

/// Where the host keeps what it last said of files, with what the file system said of each: for as long as that is the same they
/// need not be read again, which costs an emulated host a twentieth of a second for each program, and two processes for the
/// rest. In memory, like [`DUE`]; the shell reads it by itself.
const SEEN: &str = "/run/pgprov/seen";

/// From this size on, in bytes, a file counts as a program: those that did not change are not read when others did.
const PROGRAM: usize = 256 << 10;

/// Where images have programs that roles install, each called by its sum.
pub const PROGRAMS: &str = "/usr/lib/pgprov/programs";

/// What is asked of files, one a line.
const STAT: &str = "stat -c '%U %G %a %d/%i/%s/%.9Y/%.9Z %n'";

/// A shell function for the checks of tasks: `running UNIT` succeeds while a service has processes. It asks the kernel,
/// which costs nothing; under emulation `systemctl is-active` costs a fifth of a second.
pub const RUNNING: &str = r#"running() {
  for group in /sys/fs/cgroup/system.slice/"$1" /sys/fs/cgroup/system.slice/*.slice/"$1"; do
    [ ! -e "$group/cgroup.procs" ] || { read -r _ <"$group/cgroup.procs" && return 0; }
  done
  return 1
}
"#;

/// The name of a handler as the name of a file.
pub fn slug(handler: &str) -> String {
    handler.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

/// What a host said about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Changes at every boot.
    pub boot_id: String,
    /// systemd's machine id.
    pub machine_id: String,
    /// Owner, group and mode by path, of the paths we care for.
    pub stats: BTreeMap<String, Stat>,
    /// SHA-256 by path.
    pub sums: BTreeMap<String, String>,
    /// Paths that pgprov installed earlier, and what is left of an installation that was interrupted: first its list.
    pub installed: Vec<String>,
    /// Paths of units that pgprov installed, that are not wanted any more, and whose services end only when the user agrees.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub asks: Vec<String>,
    /// Packages that are installed, of those we need.
    pub packages: BTreeSet<String>,
    /// Indexes of the tasks whose check succeeded.
    pub done: BTreeSet<usize>,
    /// Handlers that an earlier run called and did not come to, by [`slug`].
    pub due: BTreeSet<String>,
    /// Those of them whose order among the hosts is the other way round.
    pub reversed: BTreeSet<String>,
    /// Indexes of the handlers for which this host leads, of those that hosts take turns with.
    pub leads: BTreeSet<usize>,
    /// Why roles do not want this host touched.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<String>,
    /// Sums of the programs that it has in [`PROGRAMS`]. Only a host that nobody worked on yet says so: what is there is still what
    /// its name says.
    #[serde(skip)]
    pub programs: BTreeSet<String>,
    /// Texts by path, of the files that differ; asked for apart, see [`HostPlan::unread`](super::HostPlan::unread).
    #[serde(skip)]
    pub texts: BTreeMap<String, String>,
    /// What tasks would do, by their index, a line each; asked for with the texts.
    #[serde(skip)]
    pub changes: BTreeMap<usize, Vec<String>>,
}

/// Owner and permissions of a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stat {
    /// User.
    pub owner: String,
    /// Group.
    pub group: String,
    /// Octal, without leading zeros.
    pub mode: String,
}

impl Stat {
    /// Whether owner, group and mode (octal, with or without leading zeros) are these.
    pub fn is(&self, owner: &str, group: &str, mode: &str) -> bool {
        self.owner == owner && self.group == group && self.mode == mode.trim_start_matches('0')
    }
}

/// The script whose output [`parse`] reads. Each part starts with a line `@part`, so that it needs no quoting and only
/// a handful of processes: under emulation every one of them costs milliseconds.
pub fn script(rendered: &RenderedHost) -> String {
    let mut out = format!(
        "exec 9>{LOCK} && flock -w 120 9 || {{ echo 'another pgprov is at work on this host' >&2; exit 75; }}\n\
         echo @boot; read -r id </proc/sys/kernel/random/boot_id; echo \"$id\"; read -r id </etc/machine-id; echo \"$id\"\n"
    );
    if !rendered.files.is_empty() {
        out.push_str(&files(rendered));
    }
    if !rendered.packages.is_empty() {
        let format = "-f '${Package} ${db:Status-Abbrev}\\n'";
        let _ = writeln!(
            out,
            "echo @packages; dpkg-query -W {format} {} 2>/dev/null",
            rendered.packages.join(" ")
        );
    }
    // The one thing that asking changes: a note that has nothing to say any more.
    for handler in &rendered.handlers {
        if let Some(settled) = &handler.settled {
            let note = format!("{DUE}/{}", slug(&handler.name));
            let _ = writeln!(
                out,
                "[ ! -e {note} ] || {{ (set -- {note}; {settled}) >/dev/null 2>&1 </dev/null && rm -f {note}; }}"
            );
        }
    }
    let _ = writeln!(
        out,
        "echo @due; for file in {DUE}/*; do [ ! -e $file ] || {{ how=; read -r how <$file; echo ${{file##*/}} $how; }}; done"
    );
    let rolling = rendered.handlers.iter().enumerate();
    for (index, rolling) in rolling.filter_map(|(index, handler)| Some((index, handler.rolling.as_ref()?))) {
        let _ = writeln!(
            out,
            "echo @leads; {} && echo {index}",
            check(&rolling.leads, only_asks(&rolling.leads))
        );
    }
    out.push_str(&done(rendered));
    for script in rendered.refuse.iter().filter(|script| !script.trim().is_empty()) {
        let _ = writeln!(out, "echo @refusals; (\n{}\n) 2>/dev/null </dev/null 9>&-", script.trim_end());
    }
    out.push_str("echo @end\n");
    out
}

/// The script that asks which tasks are done, and nothing else, of a host that nobody else can be at work on.
pub fn tasks_script(rendered: &RenderedHost) -> String {
    format!("{}echo @end\n", done(rendered))
}

/// The script that names the programs which the image has, a line each.
pub fn programs_script() -> String {
    format!("for program in {PROGRAMS}/*; do echo ${{program##*/}}; done\n")
}

/// Tells the host, for when it is asked, what the sums of programs are that it was just given: to read one costs an emulated host a
/// third of a second.
pub(super) fn note_sums(sums: &[(&str, &str)]) -> String {
    let paths: String = sums.iter().map(|(_, path)| format!(" {path}")).collect();
    let lines: Vec<String> = sums.iter().map(|(sum, path)| format!("{sum}  {path}")).collect();
    format!(
        "now=$({STAT}{paths}) && printf \"seen='\\n%s\\n'\\nsums='%s'\\ninstalled=''\\n\" \"$now\" '{}' >{SEEN}\n",
        lines.join("\n")
    )
}

fn done(rendered: &RenderedHost) -> String {
    let mut out = format!("{RUNNING}echo @done\n");
    for (index, task) in rendered.tasks.iter().enumerate() {
        let _ = writeln!(out, "{} && echo {index}", check(&task.unless, task.asks_only));
    }
    out
}

/// A check, whose status is what counts. One that only asks and changes nothing in the shell needs none of its own, which costs
/// an emulated host most of a hundredth of a second.
pub(super) fn check(script: &str, only_asks: bool) -> String {
    let (open, close) = if only_asks { ("asks() {", "}; asks") } else { ("(", ")") };
    format!("{open}\n{}\n{close} >/dev/null 2>&1 </dev/null 9>&-", script.trim_end())
}

/// Whether a check only asks the shell and the kernel, and changes nothing in the shell that runs it.
pub(crate) fn only_asks(script: &str) -> bool {
    let parts = || script.split(['\n', '|', '&']).map(str::trim).filter(|part| !part.is_empty());
    let asks = |part: &str| {
        part == "true"
            || ["test ", "! test ", "running ", "! running "].iter().any(|word| part.starts_with(word))
    };
    parts().next().is_some() && parts().all(asks) && !script.contains([';', '`', '(', '{', '#'])
}

/// What is asked of files. `stat` tells of all of them, and the list of those that are installed, and after `/` of folders, which
/// change with what is in them. What was said with the very same answer is said again.
fn files(rendered: &RenderedHost) -> String {
    let (programs, texts): (Vec<_>, Vec<_>) =
        rendered.files.iter().partition(|file| file.bytes().len() >= PROGRAM);
    let paths = |files: &[&File]| files.iter().map(|file| format!(" {}", file.path)).collect::<String>();
    let (programs, texts) = (paths(&programs), paths(&texts));
    let folders: String = rendered.directories.iter().map(|folder| format!(" {}", folder.path)).collect();
    let units =
        rendered.files.iter().map(|file| file.path.as_str()).filter(|path| service_of(path).is_some());
    let units: String = units.map(|path| format!("{path} | ")).collect();
    FILES
        .replace("@STAT@", STAT)
        .replace("@TEXTS@", &texts)
        .replace("@PROGRAMS@", &programs)
        .replace("@FOLDERS@", &folders)
        .replace("@UNITS@", &units)
        .replace("@INSTALLED@", INSTALLED)
        .replace("@PLACING@", PLACING)
        .replace("@NEW@", NEW)
        .replace("@SEEN@", SEEN)
        .replace("@PROGRAM@", apply::PROGRAM)
}

// Only plain files are read: whoever reads a pipe waits for its writer, with the lock. What a run left that was interrupted while
// it installed files is ours too.
const FILES: &str = r#"nl='
'
stats=$(@STAT@ @INSTALLED@@TEXTS@@PROGRAMS@ /@FOLDERS@ 2>/dev/null)
now=$nl${stats%% /"$nl"*}$nl
seen= sums= installed=
[ ! -e @SEEN@ ] || command . @SEEN@ 2>/dev/null || seen=
if [ "$now" != "$seen" ]; then
plain() { [ -f $1 ] && [ ! -L $1 ]; }
# line TEXT END: the line of the text that ends so.
line() { line=${1%%"$2$nl"*}; [ "$line" != "$1" ] && line=${line##*"$nl"}; }
read=
for path in@TEXTS@; do ! plain $path || read="$read $path"; done
kept=
for path in@PROGRAMS@; do
plain $path || continue
line "$now" " $path" && is=$line && line "$seen" " $path" && [ "$line" = "$is" ] && line "$sums$nl" "  $path" &&
kept="$kept$line  $path$nl" || read="$read $path"
done
sums() { if [ -x @PROGRAM@ ]; then @PROGRAM@ sums "$@"; else sha256sum "$@"; fi; }
sums=$kept$([ -z "$read" ] || sums $read 2>/dev/null)
installed=$(cat @INSTALLED@ 2>/dev/null)
[ -d /run/pgprov ] || mkdir -p /run/pgprov
printf "seen='%s'\nsums='%s'\ninstalled='%s'\n" "$now" "$sums" "$installed" >@SEEN@.new && mv @SEEN@.new @SEEN@
fi
printf '@stats\n%s\n@sums\n%s\n@installed\n%s\n' "$stats" "$sums" "$installed"
for list in @PLACING@ @PLACING@@NEW@; do [ ! -e $list ] || { echo $list; while read -r path; do
[ ! -e "$path@NEW@" ] || echo "$path@NEW@"; done <$list; }; done
echo @asks
for path in $installed; do case $path in @UNITS@-) ;;
/etc/systemd/system/*) ! grep -qs '^X-StopOnRemoval=ask' "$path" || echo "$path" ;; esac; done
"#;

/// What is asked apart, when a host is not as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Files whose text would tell what changes in them.
    pub files: Vec<String>,
    /// Indexes of tasks that can tell what they would do.
    pub tasks: Vec<usize>,
}

impl Details {
    /// The script whose output [`Facts::add`] reads.
    pub fn script(&self, rendered: &RenderedHost) -> String {
        let mut out = RUNNING.to_owned();
        for path in &self.files {
            let _ = writeln!(out, "echo @text {path}; [ ! -f {path} ] || base64 -w0 {path}; echo");
        }
        for index in &self.tasks {
            let changes = rendered.tasks[*index].changes.as_deref().unwrap_or_default();
            let _ = writeln!(out, "echo @task {index}; (\n{}\n) 2>/dev/null </dev/null", changes.trim_end());
        }
        // Newlines at the end may get lost on the way, and an empty line is an empty file.
        out.push_str("echo @end\n");
        out
    }
}

impl Facts {
    /// Adds what the script of [`Details`] printed; `decode` reads base64.
    pub fn add(&mut self, output: &str, decode: impl Fn(&str) -> Option<Vec<u8>>) {
        let mut part = "";
        for line in output.lines() {
            if let Some(next) = line.strip_prefix('@') {
                part = next;
                continue;
            }
            match part.split_once(' ') {
                // A file that went meanwhile is an empty line.
                Some(("text", path)) => {
                    let text = decode(line).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                    self.texts.extend(text.map(|text| (path.to_owned(), text)));
                }
                Some(("task", index)) => {
                    let Ok(index) = index.parse() else { continue };
                    if line.starts_with(['+', '~', '-', '!']) {
                        self.changes.entry(index).or_default().push(diff::harmless(line.trim_end()));
                    }
                }
                _ => {}
            }
        }
    }
}

impl Facts {
    /// Adds the texts of those files that are still what they were made to be `before`, as their sums say, and returns the others.
    pub fn recall(&mut self, before: &RenderedHost, paths: Vec<String>) -> Vec<String> {
        let text = |path: &str| {
            let file = before.files.iter().find(|file| file.path == path)?;
            (self.sums.get(path)? == &digest::hex(file.bytes())).then(|| file.content.clone())
        };
        let (known, others): (Vec<_>, Vec<_>) =
            paths.into_iter().map(|path| (text(&path), path)).partition(|(text, _)| text.is_some());
        self.texts.extend(known.into_iter().filter_map(|(text, path)| Some((path, text?))));
        others.into_iter().map(|(_, path)| path).collect()
    }
}

/// Reads the output of [`script`].
///
/// # Errors
/// When the output does not end with `@end`: the script was cut short.
pub fn parse(output: &str) -> Result<Facts, String> {
    let mut facts = Facts::default();
    let mut part = "";
    let mut boot = Vec::new();
    for line in output.lines() {
        if let Some(name) = line.strip_prefix('@') {
            part = name;
            continue;
        }
        match part {
            "boot" => boot.push(line.trim().to_owned()),
            "stats" => {
                let mut words = line.splitn(5, ' ');
                // The fourth is for the host itself: whether it has to read the file again.
                if let (Some(owner), Some(group), Some(mode), Some(_), Some(path)) =
                    (words.next(), words.next(), words.next(), words.next(), words.next())
                {
                    let stat =
                        Stat { owner: owner.to_owned(), group: group.to_owned(), mode: mode.to_owned() };
                    facts.stats.insert(path.to_owned(), stat);
                }
            }
            "sums" => {
                if let Some((sum, path)) = line.split_once("  ") {
                    facts.sums.insert(path.to_owned(), sum.to_owned());
                }
            }
            "installed" if !line.is_empty() => facts.installed.push(line.to_owned()),
            "asks" => facts.asks.push(line.to_owned()),
            "packages" => {
                if let Some((name, "ii")) = line.trim_end().split_once(' ') {
                    facts.packages.insert(name.to_owned());
                }
            }
            "due" => {
                let (name, how) = line.split_once(' ').unwrap_or((line, ""));
                facts.due.insert(name.to_owned());
                if how == REVERSED {
                    facts.reversed.insert(name.to_owned());
                }
            }
            "leads" => facts.leads.extend(line.trim().parse::<usize>().ok()),
            "refusals" => facts.refusals.push(diff::harmless(line.trim_end())),
            "done" => facts.done.extend(line.trim().parse::<usize>().ok()),
            _ => {}
        }
    }
    if part != "end" {
        return Err(format!("the answer of the host ends in part `{part}`"));
    }
    let mut boot = boot.into_iter();
    facts.boot_id = boot.next().unwrap_or_default();
    facts.machine_id = boot.next().unwrap_or_default();
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_what_tasks_would_do() {
        let mut facts = Facts::default();
        let output = "@text /a\naGk=\n@text /gone\n\n@task 3\n- drop user x\x1b[2J\nnoise\n! drop database y\n@task 4\n";
        facts
            .add(output, |line| Some(if line == "aGk=" { b"hi".to_vec() } else { line.as_bytes().to_vec() }));
        let texts = [("/a", "hi"), ("/gone", "")].map(|(path, text)| (path.to_owned(), text.to_owned()));
        assert_eq!(facts.texts, BTreeMap::from(texts));
        let changes = vec!["- drop user x\u{fffd}[2J".to_owned(), "! drop database y".to_owned()];
        assert_eq!(facts.changes, BTreeMap::from([(3, changes)]));
    }

    #[test]
    fn handlers_that_are_due_and_their_order() {
        let text = "@boot\nb\nm\n@asks\n/etc/systemd/system/a.service\n@due\nrestart reversed\nreload \n@leads\n1\n@done\n@refusals\nnot ours\n@end\n";
        let facts = parse(text).unwrap();
        assert_eq!(facts.refusals, ["not ours"]);
        assert_eq!(facts.asks, ["/etc/systemd/system/a.service"]);
        assert_eq!(facts.due, ["reload", "restart"].map(str::to_owned).into());
        assert_eq!(facts.reversed, ["restart".to_owned()].into());
        assert_eq!(facts.leads, [1].into());
    }
}
