//! Every topology that we ship: every file and task of every host, as golden files; and that facts, plan and apply fit.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is the failure")]

mod shell;
mod sources;

use std::collections::BTreeMap;

use pgplan::{
    host::{Facts, HostPlan, apply, facts},
    lab::{self, Lab, Pins},
    render::{RenderError, RenderedHost, Roles, Sources},
    schema,
    secrets::Secrets,
    topology::Topology,
    yaml::Limits,
};
use sources::{read, repository, roles};

fn topologies() -> BTreeMap<String, Lab> {
    let mut texts = BTreeMap::new();
    read(&repository().join("topologies"), "", &mut texts);
    assert!(texts.len() >= 3, "topologies/ has {} files", texts.len());
    let load = |(name, text): (String, String)| {
        let (topology, findings) = schema::load::<Topology>(&text, Limits::default()).finish();
        let topology = topology.unwrap_or_else(|| panic!("{name}: {findings:#?}"));
        (name, roles().derive(&topology, &Pins::new()).unwrap())
    };
    texts.into_iter().map(load).collect()
}

fn masked(lab: &Lab) -> Secrets {
    Secrets::masked(lab.passwords(), lab.hosts.iter().map(|host| host.name.clone()))
}

fn tree(host: &RenderedHost) -> String {
    let mut text = String::new();
    for file in &host.files {
        text.push_str(&format!(
            "==== {} {}:{} {}\n{}\n",
            file.path, file.owner, file.group, file.mode, file.content
        ));
    }
    for task in &host.tasks {
        text.push_str(&format!("==== task: {}\nunless: {}\n{}\n", task.name, task.unless, task.run));
    }
    for handler in &host.handlers {
        text.push_str(&format!("==== handler: {}\n{}\n", handler.name, handler.run));
    }
    text
}

#[test]
fn rendered_trees_of_shipped_topologies() {
    let roles = roles();
    for (name, lab) in topologies() {
        for host in roles.render(&lab, &masked(&lab)).unwrap_or_else(|error| panic!("{name}: {error}")) {
            insta::assert_snapshot!(format!("{}-{}", name.trim_end_matches(".yaml"), host.host), tree(&host));
        }
    }
}

#[test]
fn scripts_for_hosts_are_valid_shell() {
    let roles = roles();
    for (name, lab) in topologies() {
        for host in roles.render(&lab, &masked(&lab)).unwrap() {
            let plan = HostPlan::new(&host, None);
            let bundle = apply::bundle(&host, &plan);
            let own = scripts(bundle);
            let facts = ("facts".to_owned(), facts::script(&host));
            let logs = host.status.iter().chain(&host.logs).cloned();
            let details = ("details".to_owned(), plan.unknown(&host).script(&host));
            let rolling = host.handlers.iter().enumerate().filter(|(_, handler)| handler.rolling.is_some());
            let turns = rolling.flat_map(|(index, _)| {
                let bundles = [
                    apply::roll(&host, index, true),
                    apply::roll(&host, index, false),
                    apply::put_back(&host, index),
                ];
                bundles.into_iter().flat_map(scripts)
            });
            for (what, script) in own.into_iter().chain([facts, details]).chain(logs).chain(turns) {
                let interpreter: &[&str] =
                    if what.ends_with(".pl") { &["perl", "-c"] } else { &["sh", "-n"] };
                check(interpreter, &format!("{name} {} {what}", host.host), &script);
            }
        }
    }
}

/// The parts of a bundle that run.
fn scripts(bundle: apply::Bundle) -> Vec<(String, String)> {
    let runs = |(name, _): &(String, Vec<u8>)| {
        !["files", "notes", "consent"].contains(&name.as_str()) && !name.starts_with("file.")
    };
    let text = |(name, content)| (name, String::from_utf8(content).unwrap());
    bundle.parts.into_iter().filter(runs).map(text).collect()
}

/// The interpreter takes the script from its standard input; with `-n` or `-c` it runs nothing.
fn check(interpreter: &[&str], what: &str, script: &str) {
    let (succeeds, said) = shell::run(interpreter, script);
    assert!(succeeds, "{what}: {said}\n{script}");
}

/// What a host says once everything is as it should be: then nothing is left to do.
#[test]
fn a_host_that_has_everything_has_nothing_to_do() {
    let roles = roles();
    for lab in topologies().values() {
        for host in roles.render(lab, &masked(lab)).unwrap() {
            let before = HostPlan::new(&host, None);
            assert!(!before.is_empty());
            let files = host.files.iter().map(|f| (&f.owner, &f.group, &f.mode, &f.path));
            let stats: String = files
                .chain(host.directories.iter().map(|d| (&d.owner, &d.group, &d.mode, &d.path)))
                .map(|(owner, group, mode, path)| {
                    format!("{owner} {group} {} 1/2/3/4.5/6.7 {path}\n", mode.trim_start_matches('0'))
                })
                .collect();
            let sum = |f: &pgplan::render::File| format!("{}  {}\n", pgplan::digest::hex(f.bytes()), f.path);
            let sums: String = host.files.iter().map(sum).collect();
            let packages: String = host.packages.iter().map(|name| format!("{name} ii \n")).collect();
            let done: String = (0..host.tasks.len()).map(|index| format!("{index}\n")).collect();
            let answer = format!(
                "@boot\nb\nm\n@stats\n{stats}@sums\n{sums}@installed\n@packages\n{packages}@done\n{done}@end\n"
            );
            let facts = facts::parse(&answer).unwrap();
            let after = HostPlan::new(&host, Some(&facts));
            assert!(after.is_empty(), "{after}");
            // What files give nothing to do is not looked at again after they are installed.
            let mut other = facts.clone();
            other.sums.insert(host.files[0].path.clone(), "another".to_owned());
            let bundle = apply::bundle(&host, &HostPlan::new(&host, Some(&other)));
            if let Some((_, checks)) = scripts(bundle).iter().find(|(name, _)| name == "checks") {
                for (index, task) in host.tasks.iter().enumerate() {
                    let is_looked_at = checks.contains(task.unless.trim_end());
                    assert_eq!(is_looked_at, !task.independent, "{}: {}", host.host, task.name);
                    assert!(checks.contains(&format!(": >done.{index}\n")));
                }
            }
            // A run was killed between a change and the handler that it calls: the next one sees to it.
            for handler in &host.handlers {
                let left = answer.replace("@done", &format!("@due\n{}\n@done", facts::slug(&handler.name)));
                let plan = HostPlan::new(&host, Some(&facts::parse(&left).unwrap()));
                match handler.rolling {
                    None => assert_eq!((plan.len(), &plan.handlers[0].what), (1, &handler.name)),
                    Some(_) => assert_eq!((plan.len(), &plan.rolling[0].call.what), (0, &handler.name)),
                }
            }
            // A run was killed while it installed files: what is not replaced by this one goes, first its list.
            let waits = format!("{}{}", host.files[0].path, apply::NEW);
            let left = answer.replace("@packages", &format!("{}\n{waits}\n@packages", apply::PLACING));
            let mut facts = facts::parse(&left).unwrap();
            assert_eq!(HostPlan::new(&host, Some(&facts)).remove, [apply::PLACING, &waits]);
            facts.sums.insert(host.files[0].path.clone(), "another".to_owned());
            assert_eq!(HostPlan::new(&host, Some(&facts)).remove, [apply::PLACING]);
            // A service that no role wants any more ends when the user agrees, if its unit says so.
            let unit = "/etc/systemd/system/theirs.service.d/pgprov.conf";
            let left = answer.replace("@packages", &format!("{unit}\n@asks\n{unit}\n@packages"));
            let plan = HostPlan::new(&host, Some(&facts::parse(&left).unwrap()));
            assert_eq!(
                (&*plan.remove, &*plan.stops),
                (&[unit.to_owned()][..], &["theirs.service".to_owned()][..])
            );
            assert_eq!(plan.losses().collect::<Vec<_>>(), ["stop theirs.service for good"]);
            assert!(plan.to_string().contains(": theirs.service ends for good\n"));
            assert!(!plan.is_local(&host));
            // Hosts need not wait for each other while a service goes on, and have to where it is restarted.
            for (name, is_local) in [("/10-reload.conf", true), ("/pgagent.service", false)] {
                let Some(file) = host.files.iter().find(|file| file.path.ends_with(name)) else { continue };
                let mut facts = facts::parse(&answer).unwrap();
                facts.sums.insert(file.path.clone(), "another".to_owned());
                assert_eq!(HostPlan::new(&host, Some(&facts)).is_local(&host), is_local, "{}", file.path);
            }
        }
    }
    assert!(facts::parse("@boot\nb\nm\n@stats\n").is_err(), "an answer that was cut short is no answer");
}

/// A host with those files, below a folder of this test, and the part of the script of facts that is about files.
fn asked(name: &str, files: &[(&str, usize)]) -> (String, String) {
    let roles = roles();
    let lab = stock("");
    let mut host = roles.render(&lab, &masked(&lab)).unwrap().remove(0);
    let folder = format!("{}/{name}", env!("CARGO_TARGET_TMPDIR"));
    host.files.truncate(files.len());
    for (file, (name, size)) in host.files.iter_mut().zip(files) {
        file.path = format!("{folder}/{name}");
        file.content = "x".repeat(*size);
    }
    let script = facts::script(&host);
    let from = script.find("nl='").unwrap();
    let end = script.find("echo @asks").unwrap();
    let part =
        script[from..end].replace("/run/pgprov/", &format!("{folder}/")).replace("/run/pgprov", &folder);
    let part = part.replace(facts::INSTALLED, &format!("{folder}/installed"));
    // Only what it says of sums: the rest is about this machine.
    let sums = "sed -n '/^@sums$/,/^@installed$/{/^@/!p}'";
    let functions =
        format!("rm -rf {folder}; mkdir -p {folder}; cd {folder}\nask() {{ (\n{part}\n) | {sums}; }}\n");
    (folder, functions)
}

/// Whoever reads a pipe waits for its writer: what stands where a file of ours belongs is not read unless it is one.
#[test]
fn a_host_is_asked_about_plain_files_only() {
    let names = ["pipe", "file", "link", "folder", "none"].map(|name| (name, 5));
    let (folder, functions) = asked("plain", &names);
    let expected = format!("{}  {folder}/file", pgplan::digest::hex(b"text\n"));
    let script = format!(
        "{functions}mkfifo pipe; echo text >file; ln -s file link; mkdir folder
         for try in 1 2; do said=$(ask); [ \"$said\" = '{expected}' ] || {{ echo \"$said\" >&2; exit 1; }}; done"
    );
    check(&["timeout", "20", "sh"], "sums", &script);
}

/// Files are read again when the file system says that they may be others, and only then; programs only when it says so of them.
#[test]
fn sums_are_remembered_for_as_long_as_nothing_touches_the_files() {
    let (folder, functions) =
        asked("sums", &[("program", 1 << 20), ("text", 5), ("gone", 5), ("other", 1 << 20)]);
    // The sums that are remembered are such that no file has, so that it shows whether a file was read.
    let script = format!(
        "{functions}echo one >program; echo one >text; echo one >other; none=$(printf %064d 0)
         forge() {{ sed -i \"s/[0-9a-f]*  /$none  /\" seen; }}
         expect() {{ said=$(ask | sed \"s,{folder}/,,\"); [ \"$said\" = \"$1\" ] || {{ echo \"$2: $said\" >&2; exit 1; }}; }}
         sum() {{ sha256sum \"$@\"; }}
         first=$(sum program other text | sort -k2); [ \"$(ask | sed 's,{folder}/,,' | sort -k2)\" = \"$first\" ] || {{ echo first >&2; exit 1; }}
         forge; ask | grep -qv \"^$none\" && {{ echo 'not remembered' >&2; exit 1; }}
         echo two >text; expect \"$none  program\n$none  other\n$(sum text)\" 'a text'
         forge; touch -d @1 text; echo six >text; touch -d @1 text; expect \"$none  program\n$none  other\n$(sum text)\" time
         forge; chmod 700 program; expect \"$none  other\n$(sum text)\n$(sum program)\" mode
         forge; cp program new; mv new program; expect \"$none  other\n$(sum text)\n$(sum program)\" replaced
         forge; rm other; expect \"$none  program\n$(sum text)\" gone
         printf \"seen='\" >seen; expect \"$(sum text)\n$(sum program)\" damaged"
    );
    check(&["timeout", "20", "sh"], "sums", &script);
}

/// A lab of hosts from a stock image.
fn stock(more: &str) -> Lab {
    let text = format!(
        "lab: stock\nimage: {{ url: 'https://mirror.example/disk.qcow2', sha256: {}{more} }}\nhosts: {{ m: {{ roles: [postgres] }} }}\n",
        "a".repeat(64)
    );
    let (topology, findings) = schema::load::<Topology>(&text, Limits::default()).finish();
    lab::derive(&topology.unwrap_or_else(|| panic!("{findings:#?}")), &Pins::new())
}

/// A new host need not be sent the programs that its image has, and knows their sums without reading them.
#[test]
fn programs_that_the_image_has_are_not_sent() {
    let (_, lab) = topologies().into_iter().find(|(name, _)| name == "lab.yaml").unwrap();
    let host = roles().render(&lab, &masked(&lab)).unwrap().remove(0);
    let (index, program) =
        host.files.iter().enumerate().find(|(_, file)| file.path == "/usr/local/sbin/pgagent").unwrap();
    let sum = pgplan::digest::hex(program.bytes());
    let named = |programs: &[&String]| {
        let programs = programs.iter().map(|sum| (*sum).clone()).collect();
        let (plan, _) = HostPlan::new(&host, Some(&Facts { programs, ..Facts::default() })).split();
        let parts = apply::bundle(&host, &plan).parts;
        let part =
            |name: &str| parts.iter().find(|(part, _)| part == name).map(|(_, content)| content.clone());
        (part(&format!("file.{index}")).is_some(), part("at-hand"), scripts(apply::bundle(&host, &plan)))
    };
    let (is_sent, at_hand, parts) = named(&[&sum]);
    assert!(!is_sent);
    assert_eq!(at_hand.unwrap(), format!("{index} {}/{sum}\n", facts::PROGRAMS).into_bytes());
    let (_, apply) = parts.into_iter().find(|(name, _)| name == "apply.sh").unwrap();
    assert!(apply.contains(&format!("'{sum}  /usr/local/sbin/pgagent' >/run/pgprov/seen\n")), "{apply}");
    let (is_sent, at_hand, _) = named(&[&"0".repeat(64)]);
    assert!(is_sent && at_hand.is_none());
}

/// The unit that finishes at boot what a power cut interrupted looks where the script that was interrupted wrote.
#[test]
fn the_boot_finishes_what_apply_began() {
    let unit = include_str!("../../../templates/base/files.service");
    assert!(unit.contains(&format!("ConditionPathExists={}\n", apply::PLACING)), "{unit}");
    assert!(unit.contains(&format!("done <{}; ", apply::PLACING)), "{unit}");
    assert!(unit.contains(&format!("mv -T \"$$path{}\" \"$$path\"", apply::NEW)), "{unit}");
}

/// The script that makes a fresh host what it should be.
fn apply_script(roles: &Roles, lab: &Lab) -> String {
    let host = roles.render(lab, &masked(lab)).unwrap().remove(0);
    let bundle = apply::bundle(&host, &HostPlan::new(&host, None));
    scripts(bundle).into_iter().find(|(name, _)| name == "apply.sh").unwrap().1
}

#[test]
fn what_packages_read_is_there_before_they_are_installed() {
    let script = apply_script(&roles(), &stock(""));
    let place = |text: &str| script.find(text).unwrap_or_else(|| panic!("no {text} in\n{script}"));
    assert!(place("/etc/postgresql-common/createcluster.conf") < place("apt-get"), "{script}");
}

#[test]
fn the_engine_knows_no_package() {
    let mut sources = Sources::default();
    sources.roles.insert("base.yaml".into(), "role: base\nsummary: Nothing.\n".into());
    let manifest = "role: postgres\nsummary: Packages only.\npackages: { debian-13: [hello] }\n";
    sources.roles.insert("postgres.yaml".into(), manifest.into());
    let script = apply_script(&Roles::parse(&sources).unwrap(), &stock(""));
    assert!(script.contains(" hello ") && !script.contains("postgres"), "{script}");
}

#[test]
fn a_mirror_of_a_stock_image_has_its_key_beside_it() {
    let key =
        "-----BEGIN PGP PUBLIC KEY BLOCK-----\\n\\nmDMEawGj\\n=4fEp\\n-----END PGP PUBLIC KEY BLOCK-----\\n";
    let sources = |more: &str| roles().render(&stock(more), &masked(&stock(more))).unwrap().remove(0).sources;
    assert_eq!(sources(""), None);
    insta::assert_snapshot!(sources(", mirror: 'http://mirror.example/debian'").unwrap(), @r"
    Types: deb
    URIs: http://mirror.example/debian
    Suites: trixie
    Components: main
    Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
    ");
    let own = sources(&format!(", mirror: 'http://mirror.example/debian', mirror_key: \"{key}\"")).unwrap();
    insta::assert_snapshot!(own, @r"
    Types: deb
    URIs: http://mirror.example/debian
    Suites: trixie
    Components: main
    Signed-By:
     -----BEGIN PGP PUBLIC KEY BLOCK-----
     .
     mDMEawGj
     =4fEp
     -----END PGP PUBLIC KEY BLOCK-----
    ");
}

/// A role and those it uses, in circles too: each once, after those that it uses, and nothing of one whose condition does
/// not hold.
#[test]
fn roles_use_roles() {
    let role = |name: &str, more: &str| {
        let file = format!("files: [{{ path: /etc/{name}, content: '{name}' }}]");
        (format!("{name}.yaml"), format!("role: {name}\nsummary: s\n{more}{file}\n"))
    };
    let sources =
        |roles: &[(String, String)]| Sources { roles: roles.iter().cloned().collect(), ..Sources::default() };
    let all = [
        role("base", ""),
        role("one", "uses: [shared, never]\n"),
        role("two", "uses: [shared, one]\n"),
        role("shared", "uses: [two]\n"),
        role("never", "when: lab.name == 'other'\n"),
    ];
    let (topology, _) =
        schema::load::<Topology>("lab: x\nhosts: { h: { roles: [one, two] } }", Limits::default()).finish();
    let lab = lab::derive(&topology.unwrap(), &Pins::new());
    let roles = Roles::parse(&sources(&all)).unwrap();
    let rendered = roles.render(&lab, &masked(&lab)).unwrap();
    let paths: Vec<&str> = rendered[0].files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["/etc/base", "/etc/two", "/etc/shared", "/etc/one"]);
    let bad = Roles::parse(&sources(&[role("one", "uses: [gone]\n")])).err().unwrap();
    assert_eq!(bad[0].1[0].message, "uses: there is no role `gone`");
}

/// Roles by the text of their manifests after `role:` and `summary:`.
fn roles_of(manifests: &[(&str, &str)]) -> Roles {
    let role =
        |(name, rest): &(&str, &str)| (format!("{name}.yaml"), format!("role: {name}\nsummary: s\n{rest}"));
    let roles = manifests.iter().map(role).collect();
    Roles::parse(&Sources { roles, ..Sources::default() }).unwrap()
}

/// What a lab of these hosts, as in a topology, is rendered to.
fn hosts_with(roles: &Roles, hosts: &str) -> Result<Vec<RenderedHost>, RenderError> {
    let text = format!("lab: x\nhosts: {{ {hosts} }}");
    let (topology, _) = schema::load::<Topology>(&text, Limits::default()).finish();
    let lab = lab::derive(&topology.unwrap(), &Pins::new());
    roles.render(&lab, &masked(&lab))
}

#[test]
fn a_role_says_which_of_the_hosts_it_comes_after() {
    let roles = roles_of(&[
        ("base", ""),
        ("server", ""),
        ("some", "after: [server]\nafter_if: other.name != \"b\"\n"),
        ("all", "after: [server]\n"),
        ("bad", "after: [server]\nafter_if: nothing.here\n"),
    ]);
    let waits_for = |roles_of_c: &str| {
        let hosts =
            format!("a: {{ roles: [server] }}, b: {{ roles: [server] }}, c: {{ roles: [{roles_of_c}] }}");
        hosts_with(&roles, &hosts).map(|hosts| hosts[2].waits_for.clone())
    };
    assert_eq!(waits_for("some").unwrap(), ["a"]);
    assert_eq!(waits_for("all").unwrap(), ["a", "b"]);
    assert_eq!(waits_for("some, all").unwrap(), ["a", "b"]);
    let error = waits_for("bad").unwrap_err().to_string();
    assert!(error.starts_with("rendering nothing.here of role bad on c: "), "{error}");
}

/// On one host a role comes after those that it is `after`, whatever the order of the topology.
#[test]
fn hosts_that_need_each_other_do_not_wait_for_each_other() {
    let roles = roles_of(&[
        ("base", ""),
        ("vote", "together: true\nfiles: [{ path: /etc/vote, content: v }]\n"),
        ("server", "after: [vote]\nfiles: [{ path: /etc/server, content: s }]\n"),
        ("user", "after: [server]\n"),
    ]);
    let rendered = |hosts: &str| hosts_with(&roles, hosts);
    let hosts = rendered("a: { roles: [server, vote] }, b: { roles: [vote] }, c: { roles: [user] }").unwrap();
    let paths: Vec<&str> = hosts[0].files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["/etc/vote", "/etc/server"]);
    assert!(hosts[0].together && hosts[0].waits_for.is_empty() && !hosts[2].together);
    assert_eq!(hosts[2].waits_for, ["a"]);
    let error = rendered("a: { roles: [server, vote] }, b: { roles: [vote, user] }").unwrap_err();
    assert_eq!(
        error.to_string(),
        "rendering host b: it has a role that comes after those of a, and a needs it to become ready: give that role a host \
         of its own"
    );
}
