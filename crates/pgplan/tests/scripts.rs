//! Scripts that hosts run, run here: on files in a folder of the test, and on processes that it starts.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is the failure")]
#![expect(clippy::disallowed_methods, reason = "a test may read and write files; the planner may not")]

mod shell;
mod sources;

use std::{
    fs,
    path::{Path, PathBuf},
};

use pgplan::{
    digest,
    host::{Facts, HostPlan, apply},
    lab::Pins,
    render::{File, RenderedHost},
    schema,
    secrets::Secrets,
    topology::Topology,
    yaml::Limits,
};
use sources::{repository, roles};

/// An empty folder.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Runs a script of the shell, for 20 s at most.
fn run(script: &str) -> (bool, String) {
    shell::run(&["timeout", "20", "sh"], script)
}

/// The hosts of `topologies/lab.yaml`.
fn hosts() -> Vec<RenderedHost> {
    let text = fs::read_to_string(repository().join("topologies/lab.yaml")).unwrap();
    let topology = schema::load::<Topology>(&text, Limits::default()).finish().0.unwrap();
    let lab = roles().derive(&topology, &Pins::new()).unwrap();
    let secrets = Secrets::masked(lab.passwords(), lab.hosts.iter().map(|host| host.name.clone()));
    roles().render(&lab, &secrets).unwrap()
}

/// The kernel's list of children does not end with a newline, which `read` takes for a failure.
#[test]
fn a_standby_that_streams_is_known_by_the_title_of_its_receiver() {
    let folder = folder("titles");
    let hosts = hosts();
    let standby = hosts.iter().find(|host| host.host == "s").unwrap();
    let task = standby.tasks.iter().find(|task| task.name == "stream from m").unwrap();
    let unless = task.unless.replace("/var/lib/postgresql/17/main", folder.to_str().unwrap());
    fs::write(folder.join("standby.signal"), "").unwrap();
    let streams = |title: &str| {
        let script = format!(
            "perl -e 'my $title = shift; fork // die; $0 = $title; sleep 20' '{title}' & server=$!
             echo $server >{folder}/postmaster.pid; sleep 0.5
             (\n{unless}\n) >/dev/null 2>&1 </dev/null; status=$?
             pkill -P $server; kill $server; exit $status",
            folder = folder.display()
        );
        run(&script).0
    };
    assert!(streams("postgres: s: walreceiver streaming 0/404C270"));
    assert!(!streams("postgres: s: walreceiver"));
    assert!(!streams("postgres: s: startup recovering 000000010000000000000004"));
}

/// Those who stream read settings without timeouts, nobody else does, and nothing of that is left.
#[test]
fn streams_have_no_timeouts_while_memory_is_saved() {
    let folder = folder("timeouts");
    let hosts = hosts();
    let standby = hosts.iter().find(|host| host.host == "s").unwrap();
    let here = folder.to_str().unwrap();
    fs::create_dir_all(folder.join("conf.d")).unwrap();
    fs::write(folder.join("conf.d/10-reload.conf"), "wal_sender_timeout = 10s\n").unwrap();
    let script = |on| {
        let script = standby.timeouts(on);
        let script = script.replace("/var/lib/postgresql/17/main", here).replace("/run/pgprov", here);
        script.replace("/etc/postgresql/17/main", here)
    };
    // A process that notes what it reads when it is told to.
    let process = format!(
        "fork // die; $0 = shift; open my $note, '>>', '{here}/read'; select $note; $| = 1;
         $SIG{{HUP}} = sub {{ open my $conf, '<', '{here}/conf.d/10-reload.conf'; print \"$0: $_\" while <$conf> }};
         my $end = time + 20; sleep 1 while time < $end"
    );
    let (succeeds, said) = run(&format!(
        "cat >{here}/process.pl <<'END'\n{process}\nEND
         perl {here}/process.pl 'postgres: s: walreceiver streaming 0/404C270' & server=$!
         echo $server >{here}/postmaster.pid; sleep 0.5
         sh -c '{off}' && cat {here}/no-timeouts && sh -c '{on}'; status=$?; sleep 0.3
         pkill -P $server; kill $server; exit $status",
        off = script(false).replace('\'', "'\\''"),
        on = script(true).replace('\'', "'\\''"),
    ));
    assert!(succeeds, "{said}");
    let noted: Vec<&str> = said.split_whitespace().collect();
    assert!(matches!(noted[..], [receiver, "0/404C270", stream] if receiver == stream), "{said}");
    let name = "postgres: s: walreceiver streaming 0/404C270";
    let lines = [
        "wal_sender_timeout = 10s",
        "wal_sender_timeout = 0",
        "wal_receiver_timeout = 0",
        "wal_sender_timeout = 10s",
    ];
    let read: String = lines.iter().map(|line| format!("{name}: {line}\n")).collect();
    assert_eq!(fs::read_to_string(folder.join("read")).unwrap(), read);
    assert_eq!(
        fs::read_to_string(folder.join("conf.d/10-reload.conf")).unwrap(),
        "wal_sender_timeout = 10s\n"
    );
    assert!(!folder.join("conf.d/10-reload.conf.kept").exists());
    assert_eq!(fs::read_to_string(folder.join("no-timeouts")).unwrap(), "");
}

/// A stream that was noted to have no timeouts goes on when its receiver gets further, and only then; one that stands still is ended.
#[test]
fn a_stream_goes_on_when_its_receiver_gets_further() {
    let folder = folder("resumed");
    let hosts = hosts();
    let standby = hosts.iter().find(|host| host.host == "s").unwrap();
    let here = folder.to_str().unwrap();
    fs::write(folder.join("standby.signal"), "").unwrap();
    let resumed = standby.after_a_jump();
    let resumed = resumed.replace("/var/lib/postgresql/17/main", here).replace("/run/pgprov", here);
    let process = r#"my $next = shift; fork // die; $0 = "postgres: s: walreceiver streaming 0/10"; sleep 1;
        $0 = "postgres: s: walreceiver streaming $next"; my $end = time + 12; sleep 1 while time < $end"#;
    let ends = |next: &str, seconds: u32| {
        let script = format!(
            "perl -e '{process}' {next} & server=$!; sleep 0.3
             echo $server >{here}/postmaster.pid; receiver=$(pgrep -P $server)
             printf '%s\\n' \"$receiver 0/10\" \"$receiver\" >{here}/no-timeouts
             timeout {seconds} sh -c '{resumed}'; done=$?
             grep -q 'State:.*Z' /proc/$receiver/status; ended=$?
             pkill -P $server; kill $server; echo $done $ended",
            resumed = resumed.replace('\'', "'\\''"),
        );
        run(&script).1.lines().last().unwrap().to_owned()
    };
    assert_eq!(ends("0/20", 3), "0 1");
    assert_eq!(ends("0/10", 6), "124 0");
}

/// Two files of a host that exist, one of which a handler reads, and one that does not; and the bundle that installs them.
struct Place {
    folder: PathBuf,
    host: RenderedHost,
}

impl Place {
    fn new(name: &str) -> Self {
        let folder = folder(name);
        let user = |flag: &str| run(&format!("id {flag}")).1.trim().to_owned();
        let (owner, group) = (user("-un"), user("-gn"));
        let mut host = hosts().remove(0);
        host.packages.clear();
        host.directories.clear();
        host.tasks.clear();
        host.handlers.truncate(1);
        host.files.truncate(3);
        for (file, name) in host.files.iter_mut().zip(["read", "plain", "new/file"]) {
            file.path = folder.join(name).display().to_string();
            file.content = format!("{name} as it is wanted\n");
            (file.owner, file.group, file.mode) = (owner.clone(), group.clone(), "0640".to_owned());
            file.validate = None;
            file.notify.clear();
        }
        host.files[0].notify = vec![host.handlers[0].name.clone()];
        host.handlers[0].run = format!("echo handled >>{}\n", folder.join("handled").display());
        for name in ["read", "plain"] {
            fs::write(folder.join(name), "as it was\n").unwrap();
        }
        Self { folder, host }
    }

    /// Applies all of it; `before` is run in the stage.
    fn apply(&self, before: &str) -> (bool, String) {
        let mut facts = Facts::default();
        for file in &self.host.files[..2] {
            let stat = "root root 644".split(' ').map(str::to_owned).collect::<Vec<_>>();
            let [owner, group, mode] = stat.try_into().unwrap();
            facts.stats.insert(file.path.clone(), pgplan::host::facts::Stat { owner, group, mode });
            facts.sums.insert(file.path.clone(), "another".to_owned());
        }
        let bundle = apply::bundle(&self.host, &HostPlan::new(&self.host, Some(&facts)));
        let stage = self.folder.join("stage");
        fs::create_dir_all(&stage).unwrap();
        fs::create_dir_all(self.folder.join("due")).unwrap();
        let here = self.folder.display().to_string();
        for (name, content) in &bundle.parts {
            let text = String::from_utf8(content.clone()).unwrap();
            let text = match name.starts_with("file.") {
                true => text,
                false => text
                    .replace("/run/pgprov/", &format!("{here}/"))
                    .replace("/run/pgprov.lock", &format!("{here}/lock"))
                    .replace("/var/lib/pgprov", &format!("{here}/state")),
            };
            fs::write(stage.join(name), text).unwrap();
        }
        run(&format!("cd {stage}\n{before}\nsh {stage}/apply.sh", stage = stage.display()))
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap_or_else(|error| error.kind().to_string())
    }

    /// Names of all files that are neither those of the host nor what is there anyway.
    fn others(&self) -> String {
        let find = "find . -type f ! -name read ! -name plain ! -name file ! -name lock ! -name log | sort";
        run(&format!("cd {}; {find}", self.folder.display())).1
    }
}

#[test]
fn files_get_their_content_all_at_once() {
    let place = Place::new("placed");
    let (done, said) = place.apply("");
    assert!(done, "{said}");
    for name in ["read", "plain", "new/file"] {
        assert_eq!(place.read(name), format!("{name} as it is wanted\n"));
        assert!(said.contains(&format!(
            r#"{{"event":"done","kind":"file","item":"{}/{name}"}}"#,
            place.folder.display()
        )));
    }
    let mode = run(&format!("stat -c %a {}/new/file", place.folder.display())).1;
    assert_eq!((mode.as_str(), place.read("handled").as_str()), ("640\n", "handled\n"));
    assert_eq!(place.others(), "./handled\n./state/installed\n");
    let list: String = place.host.kept().map(|path| format!("{path}\n")).collect();
    assert_eq!(place.read("state/installed"), list);
}

/// What a task gives is said at once, and what others gave is there for a task that asks for it, by host and name.
#[test]
fn what_a_task_gives_is_passed_on() {
    let mut place = Place::new("given");
    let mut task = hosts()[1].tasks[0].clone();
    "false".clone_into(&mut task.unless);
    task.run = format!(
        "gives seed 17.4\ngives other x\necho \"<$(told m seed)><$(told m other)><$(told s seed)>\" >{}/told\n",
        place.folder.display()
    );
    place.host.tasks = vec![task];
    let (done, said) = place.apply("printf 'm seed 5.11\\ns other y\\n' >told");
    assert!(done, "{said}");
    let given = said.find(r#"{"event":"gives","kind":"seed","item":"17.4"}"#).unwrap();
    assert!(said.contains(r#"{"event":"gives","kind":"other","item":"x"}"#), "{said}");
    assert!(given < said.find(r#""event":"done","kind":"task""#).unwrap(), "{said}");
    assert_eq!(place.read("told"), "<5.11><><>\n");
    let (done, said) = place.apply("");
    assert!(done && place.read("told") == "<><><>\n", "{said}");
}

/// A name that cannot be given, because a folder came there meanwhile: those that have theirs are as they were.
#[test]
fn a_file_that_cannot_be_placed_leaves_all_as_they_were() {
    for (name, obstacle) in [
        ("folder-before", "mkdir -p ../new/file"),
        // It comes after the others were renamed.
        (
            "folder-between",
            "sed -i 's,^  for my $path (@paths) {$,&mkdir \"$paths[2]\" if @renamed == 2;,' files.pl",
        ),
    ] {
        let place = Place::new(name);
        let (done, said) = place.apply(obstacle);
        assert!(!done, "{said}");
        assert!(said.contains(r#""event":"failed","kind":"files""#), "{said}");
        assert_eq!(
            (place.read("read").as_str(), place.read("plain").as_str()),
            ("as it was\n", "as it was\n")
        );
        assert_eq!(place.read("handled"), "entity not found");
        assert!(
            !place.others().contains("pgprov-new") && !place.others().contains("placing"),
            "{}",
            place.others()
        );
    }
}

/// A handler that fails runs again with the files that it reads as they were; what it does not read is as it is wanted.
#[test]
fn files_that_a_handler_does_not_take_are_put_back() {
    let mut place = Place::new("undone");
    let read = place.folder.join("read");
    place.host.handlers[0].run =
        format!("grep -q 'as it was' {} && echo handled >>{0}.handled\n", read.display());
    let (done, said) = place.apply("");
    assert!(!done && said.contains(r#""event":"failed","kind":"handler""#), "{said}");
    assert_eq!(place.read("read"), "as it was\n");
    assert_eq!(place.read("plain"), "plain as it is wanted\n");
    assert_eq!(place.read("read.handled"), "handled\n");
}

#[test]
fn a_file_that_is_refused_takes_all_others_with_it() {
    let mut place = Place::new("refused");
    place.host.files[1].validate = Some("grep -q 'as it was' \"$1\"".to_owned());
    let (done, said) = place.apply("");
    assert!(!done && said.contains(r#""event":"failed","kind":"validate""#), "{said}");
    assert_eq!(
        (place.read("read").as_str(), place.read("new/file").as_str()),
        ("as it was\n", "entity not found")
    );
    assert!(!place.others().contains("pgprov-new"), "{}", place.others());
}

#[test]
fn texts_of_files_that_are_as_they_were_made_are_known() {
    let hosts = hosts();
    let m = &hosts[0];
    let path = |file: &File| file.path.clone();
    let (made, changed) = (&m.files[0], &m.files[1]);
    let sums =
        [(made.path.clone(), digest::hex(made.bytes())), (changed.path.clone(), digest::hex(b"by hand"))];
    let mut facts = Facts { sums: sums.into(), ..Facts::default() };
    let others = facts.recall(m, vec![path(made), path(changed), "/nobody".to_owned()]);
    assert_eq!(others, [path(changed), "/nobody".to_owned()]);
    assert_eq!(facts.texts, [(path(made), made.content.clone())].into());
}
