use std::process::{Command, Stdio};

use super::*;

/// What machines without this program do it with.
const PERL: &str = include_str!("../../../pgplan/src/host/files.pl");

/// A host in a folder, which has four files and a link, and a bundle for it with two new ones and a folder.
struct Host(tempfile::TempDir);

/// Name, mode and content.
type File = (String, u32, String);

impl Host {
    fn new() -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        for (path, content) in
            [("etc/a", "old a"), ("etc/kept", "old"), ("etc/late", ""), ("elsewhere", "linked")]
        {
            host.write(path, content);
        }
        std::os::unix::fs::symlink("../elsewhere", host.path("etc/link")).unwrap();
        fs::set_permissions(host.path("etc/a"), fs::Permissions::from_mode(0o4711)).unwrap();
        let user = |file: &str, id: u32| {
            let text = fs::read_to_string(file).unwrap();
            let line =
                text.lines().find(|line| line.split(':').nth(2) == Some(&id.to_string())).unwrap().to_owned();
            line.split(':').next().unwrap().to_owned()
        };
        let about = host.path("etc").metadata().unwrap();
        let (owner, group) = (user("/etc/passwd", about.uid()), user("/etc/group", about.gid()));
        let files =
            ["0644 0 etc/a", "0600 1 etc/kept", "0755 1 etc/link", "0640 1 etc/new/new", "0644 0 etc/late"];
        let files = files.iter().enumerate().map(|(number, file)| {
            host.write(&format!("stage/file.{number}"), &format!("content {number}\n"));
            let (about, path) = file.rsplit_once(' ').unwrap();
            format!("{number} {owner} {group} {about} {}\n", host.path(path).display())
        });
        host.write("stage/files", &files.collect::<String>());
        let folders = ["0700 etc/new/folder", "0755 elsewhere-else", "2775 etc"].map(|folder| {
            let (mode, path) = folder.split_once(' ').unwrap();
            format!("{owner} {group} {mode} {}\n", host.path(path).display())
        });
        host.write("stage/folders", &folders.concat());
        let note = |how: &str, text: &str| format!("{how} {} {text}\n", host.path("note").display());
        host.write("stage/notes", &[note(">", "reversed"), note(">>", "")].concat());
        host
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, content: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), content).unwrap();
    }

    /// What it says, or that it failed, and all files there are then, with their modes.
    fn go(&self, perl: bool, phases: &str) -> (Result<String, ()>, Vec<File>) {
        let (list, old) = (self.path("var/placing"), self.path("run/old"));
        let phases = phases.split(' ').map(str::to_owned);
        fs::create_dir_all(self.path("run")).unwrap();
        let said = if perl {
            let script = PERL
                .replace("@PLACING@", list.to_str().unwrap())
                .replace("@NEW@", ".new")
                .replace("@OLD@", old.to_str().unwrap());
            let mut perl = Command::new("perl");
            perl.args(["-e", &script, "--"])
                .args(phases)
                .current_dir(self.path("stage"))
                .stderr(Stdio::null());
            let output = perl.output().unwrap();
            output.status.success().then(|| String::from_utf8(output.stdout).unwrap()).ok_or(())
        } else {
            let bundle = Bundle::read(self.path("stage"), list, ".new".to_owned(), old);
            bundle
                .and_then(|bundle| bundle.go_through(phases))
                .map(|said| String::from_utf8(said).unwrap())
                .map_err(drop)
        };
        let mut found = Vec::new();
        self.list(self.0.path(), &mut found);
        found.sort();
        (said.map(|said| said.replace(self.0.path().to_str().unwrap(), "")), found)
    }

    fn list(&self, folder: &Path, found: &mut Vec<File>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let about = path.symlink_metadata().unwrap();
            let content = match () {
                () if about.is_dir() => {
                    self.list(&path, found);
                    String::new()
                }
                () if about.is_symlink() => fs::read_link(&path).unwrap().display().to_string(),
                () => fs::read_to_string(&path).unwrap().replace(self.0.path().to_str().unwrap(), ""),
            };
            let name = path.strip_prefix(self.0.path()).unwrap().display().to_string();
            // Where something is kept, its name has the folder of this host in it.
            let name = name.replace(self.0.path().strip_prefix("/").unwrap().to_str().unwrap(), "HOST");
            found.push((name, about.mode(), content));
        }
    }
}

#[test]
fn it_leaves_what_perl_leaves_and_says_what_perl_says() {
    for phases in [
        "place",
        "place commit",
        "place drop",
        "early 3",
        "early 9",
        "commit",
        "folders",
        "folders place commit",
    ] {
        let [ours, perls] = [false, true].map(|perl| Host::new().go(perl, phases));
        assert_eq!(ours, perls, "{phases}");
    }
}

/// What the image has is there under one more name; what should belong to somebody else, or may be read by others, is a copy.
#[test]
fn what_is_at_hand_is_linked_if_it_is_as_it_should_be() {
    for (mode, linked) in [(0o640, true), (0o600, false)] {
        let host = Host::new();
        host.write("programs/sum", "a program");
        let program = host.path("programs/sum");
        fs::set_permissions(&program, fs::Permissions::from_mode(mode)).unwrap();
        host.write("stage/at-hand", &format!("3 {}\n", program.display()));
        fs::remove_file(host.path("stage/file.3")).unwrap();
        host.go(false, "place commit").0.unwrap();
        let installed = host.path("etc/new/new");
        assert_eq!(fs::read_to_string(&installed).unwrap(), "a program");
        assert_eq!(installed.metadata().unwrap().mode() & 0o7777, 0o640);
        assert_eq!(installed.metadata().unwrap().ino() == program.metadata().unwrap().ino(), linked);
    }
    // What is not there is no empty file.
    let host = Host::new();
    host.write("stage/at-hand", "3 /nowhere/at-all\n");
    host.go(false, "place commit").0.unwrap_err();
    assert_eq!(fs::read_to_string(host.path("etc/a")).unwrap(), "old a");
}

#[test]
fn when_one_cannot_be_installed_all_are_as_they_were() {
    let breaks: [fn(&Host); 3] = [
        // Known before the first gets its name.
        |host| {
            fs::create_dir(host.path("etc/new"))
                .and_then(|()| fs::create_dir(host.path("etc/new/new")))
                .unwrap();
        },
        |host| fs::remove_file(host.path("stage/file.3")).unwrap(),
        |host| host.write("stage/files", "0 nobody-of-that-name root 0644 0 /nowhere/at-all\n"),
    ];
    for (case, break_it) in breaks.iter().enumerate() {
        let [ours, perls] = [false, true].map(|perl| {
            let host = Host::new();
            break_it(&host);
            host.go(perl, "place commit")
        });
        assert_eq!(ours, perls, "{case}");
        assert!(ours.0.is_err());
        assert!(
            ours.1.contains(&("etc/a".to_owned(), 0o104_711, "old a".to_owned())),
            "{case}: {:?}",
            ours.1
        );
    }
    // And in the middle: a name that was free when it was looked at is taken.
    let host = Host::new();
    let bundle =
        Bundle::read(host.path("stage"), host.path("var/placing"), ".new".to_owned(), host.path("run/old"))
            .unwrap();
    bundle.place().unwrap();
    fs::remove_file(host.path("etc/late.new")).unwrap();
    bundle.or_drop(bundle.commit()).unwrap_err();
    let mut found = Vec::new();
    host.list(host.0.path(), &mut found);
    for (path, content) in [("etc/a", "old a"), ("etc/kept", "old"), ("etc/late", "")] {
        assert!(found.iter().any(|(name, _, text)| name == path && text == content), "{path}: {found:?}");
    }
    assert!(!found.iter().any(|(name, ..)| name.ends_with(".new") || name == "etc/new/new"), "{found:?}");
}

#[test]
fn a_tar_stream_is_unpacked_as_tar_does_and_half_of_one_is_refused() {
    let source = tempfile::tempdir().unwrap();
    let contents = [("apply.sh", vec![b'x'; 512]), ("file.1", vec![b'y'; 700_001]), ("told", Vec::new())];
    for (name, content) in &contents {
        fs::write(source.path().join(name), content).unwrap();
    }
    let mut tar = Command::new("tar");
    tar.args(["-c", "--format=gnu", "-C"]).arg(source.path()).args(contents.iter().map(|(name, _)| name));
    let stream = tar.output().unwrap().stdout;
    let target = tempfile::tempdir().unwrap();
    let stage = target.path().join("run/stage");
    fs::create_dir_all(stage.join("left/over")).unwrap();
    let due = target.path().join("run/due");
    let go = |stream: &[u8]| {
        unpack(&stage, [due.display().to_string()].into_iter(), &mut io::BufReader::new(stream))
    };
    go(&stream).unwrap();
    let mut found: Vec<_> =
        fs::read_dir(&stage).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, ["apply.sh", "file.1", "told"]);
    for (name, content) in &contents {
        assert_eq!(&fs::read(stage.join(name)).unwrap(), content);
        assert_eq!(stage.join(name).metadata().unwrap().mode() & 0o777, 0o600);
    }
    assert_eq!([&stage, &due].map(|folder| folder.metadata().unwrap().mode() & 0o777), [0o700, 0o700]);
    for length in [0, 100, 512, 1000, 1024, 300_000] {
        assert!(go(&stream[..length]).is_err(), "{length}");
    }
    let outside = String::from_utf8_lossy(&stream).replacen("apply.sh", "../pply.sh", 1);
    assert!(go(outside.as_bytes()).is_err());
}

#[test]
fn sums_are_those_of_sha256sum() {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<String> =
        ["a", "b", "missing"].map(|name| folder.path().join(name).display().to_string()).into();
    fs::write(&paths[0], "").unwrap();
    fs::write(&paths[1], vec![7; 100_000]).unwrap();
    let wanted = Command::new("sha256sum").args(&paths).output().unwrap().stdout;
    assert_eq!(sums(paths.into_iter()), String::from_utf8(wanted).unwrap());
}
