//! The documents say what is. Parts of them are made from the program: `make docs` makes them anew.

use std::{collections::BTreeSet, fmt::Write as _, fs};

use clap::{Command, CommandFactory as _, Parser as _};
use pgplan::{
    check,
    lab::{self, Lab, Pins},
    machines,
    role::Manifest,
    topology::Topology,
};
use pgprov::{
    cli::Cli,
    commands::{
        graph::picture,
        status::{HostStatus, Server},
    },
    error, graph, lesson,
};
use serde_json::Value;

use crate::{
    markdown::{Block, all_blocks, documents, prose},
    runner::{Home, files, read, repo},
};

/// Compares a file, or what is between two marks in it, with what it should be; rewrites it for `make docs`.
fn is_current(path: &str, mark: Option<&str>, wanted: &str) {
    let text = fs::read_to_string(repo(path)).unwrap_or_default();
    let whole = match mark {
        None => wanted.to_owned(),
        Some(mark) => {
            let (begin, end) =
                (format!("<!-- {mark}: made by `make docs` -->\n"), format!("<!-- end of {mark} -->\n"));
            let parts =
                text.split_once(&begin).and_then(|(head, rest)| Some((head, rest.split_once(&end)?.1)));
            let (head, tail) = parts.unwrap_or_else(|| panic!("{path} has no marks {begin}{end}"));
            format!("{head}{begin}\n{}\n\n{end}{tail}", wanted.trim())
        }
    };
    if std::env::var("INSTA_UPDATE").is_ok_and(|update| matches!(update.as_str(), "always" | "force")) {
        fs::write(repo(path), whole).unwrap();
        return;
    }
    let differs = text.lines().zip(whole.lines()).position(|(is, wanted)| is != wanted);
    let line = differs.unwrap_or_else(|| text.lines().count().min(whole.lines().count())) + 1;
    assert!(text == whole, "{path}:{line} is out of date: run `make docs` and look at the difference");
}

#[test]
fn the_reference_of_the_command_line_is_current() {
    let mut root = Cli::command().term_width(90).mut_args(|arg| arg.hide_env_values(true));
    root.build();
    let mut text = String::from(
        "# Command line\n\nMade from the program itself by `make docs`. The global options of the first section hold for every command.\n",
    );
    section(&mut text, root, "pgprov");
    is_current("docs/cli.md", None, &text);
}

/// The help of a command and of those below it; what is global is shown at the top only.
fn section(text: &mut String, mut command: Command, name: &str) {
    let help = command.render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    let level = "#".repeat(name.split(' ').count() + 1);
    let _ = write!(text, "\n{level} {name}\n\n```text\n{}\n```\n", lines.join("\n").trim_end());
    for inner in command.get_subcommands_mut() {
        let name = format!("{name} {}", inner.get_name());
        let inner = std::mem::take(inner);
        section(text, inner.mut_args(|arg| if arg.is_global_set() { arg.hide(true) } else { arg }), &name);
    }
}

#[test]
fn the_keys_of_topologies_are_current() {
    is_current("docs/topology.md", Some("keys"), &keys(&check::schema()));
}

#[test]
fn the_keys_of_roles_are_current() {
    is_current("docs/roles.md", Some("keys"), &keys(&schemars::schema_for!(Manifest).to_value()));
}

/// The role with a package is shown as it is tested.
#[test]
fn the_example_with_a_package_is_current() {
    let files = [("yml", "roles/pgbouncer.yaml"), ("ini", "templates/pgbouncer/pgbouncer.ini")];
    let shown =
        files.into_iter().chain([("text", "templates/pgbouncer/userlist.txt")]).map(|(language, file)| {
            let text = read(&format!("examples/pgbouncer/{file}"));
            format!("`{file}`:\n\n```{language}\n{}\n```\n", text.trim_end())
        });
    is_current("docs/roles.md", Some("pgbouncer"), &shown.collect::<Vec<_>>().join("\n"));
}

#[test]
fn the_keys_of_lessons_are_current() {
    is_current("docs/lessons.md", Some("keys"), &keys(&lesson::read::schema()));
}

#[test]
fn the_keys_of_inventories_are_current() {
    is_current("docs/machines.md", Some("keys"), &keys(&machines::schema()));
}

/// A table for each mapping in the schema, the whole first, then those that it names.
fn keys(schema: &Value) -> String {
    let mut text = String::new();
    let (mut queue, mut seen) = (vec![(String::new(), schema.clone())], BTreeSet::new());
    while !queue.is_empty() {
        let (title, mapping) = queue.remove(0);
        if !title.is_empty() {
            let _ =
                write!(text, "\n### `{title}`\n\n{}\n", mapping["description"].as_str().unwrap_or_default());
        }
        text.push_str("\n| key | value | default | meaning |\n|---|---|---|---|\n");
        let required: Vec<&str> =
            mapping["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (key, value) in mapping["properties"].as_object().expect("a mapping") {
            let path = if title.is_empty() { key.clone() } else { format!("{title}.{key}") };
            let default = match (&value["default"], required.contains(&key.as_str())) {
                (_, true) => "required".to_owned(),
                (Value::Null, false) => String::new(),
                // A mapping's defaults stand in its own table.
                (Value::Object(_), false) => String::new(),
                (default, false) => format!("`{}`", default.to_string().replace('"', "")),
            };
            let meaning = value["description"].as_str().unwrap_or_default().replace('\n', " ");
            let shape = shape(schema, value, &path, &mut queue, &mut seen);
            let _ = writeln!(text, "| `{key}` | {shape} | {default} | {meaning} |");
        }
    }
    text
}

/// What a value may be, in a few words. Mappings that are met on the way get tables of their own.
fn shape(
    schema: &Value,
    value: &Value,
    path: &str,
    queue: &mut Vec<(String, Value)>,
    seen: &mut BTreeSet<String>,
) -> String {
    let mut inner = |value: &Value, path: &str| shape(schema, value, path, queue, seen);
    if let Some(branches) = value["anyOf"].as_array() {
        let words: Vec<String> = branches
            .iter()
            .filter(|branch| branch["type"] != "null")
            .map(|branch| inner(branch, path))
            .collect();
        return words.join(", or ");
    }
    if let Some(target) = value["$ref"].as_str() {
        let name = target.rsplit('/').next().unwrap_or_default();
        let definition = &schema["$defs"][name];
        if definition["properties"].is_object() {
            // An image has two shapes of mapping: each is named by what it is.
            // What stands in many places has one table.
            let title = match name {
                _ if path == "image" => format!("image: {}", name_of(name)),
                "Languages" | "Check" => name.to_lowercase(),
                _ => path.to_owned(),
            };
            if seen.insert(title.clone()) {
                queue.push((title.clone(), definition.clone()));
            }
            return format!("mapping, see `{title}`");
        }
        return inner(definition, path);
    }
    if let Some(choices) = value["oneOf"].as_array() {
        let words: Vec<String> = choices
            .iter()
            .filter_map(|choice| choice["const"].as_str())
            .map(|word| format!("`{word}`"))
            .collect();
        return words.join(", ");
    }
    if let Some(choices) = value["enum"].as_array() {
        let words: Vec<String> =
            choices.iter().filter_map(Value::as_str).map(|word| format!("`{word}`")).collect();
        return words.join(", ");
    }
    let types: Vec<&str> = match &value["type"] {
        Value::String(one) => vec![one.as_str()],
        many => many
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .filter(|word| *word != "null")
            .collect(),
    };
    match types.as_slice() {
        ["array"] => format!("list of {}", inner(&value["items"], &format!("{path}[]"))),
        ["object"] => format!("name → {}", inner(&value["additionalProperties"], &format!("{path}.NAME"))),
        ["integer"] => match (value["minimum"].as_i64(), value["maximum"].as_i64()) {
            (Some(min), Some(max)) => format!("{min} to {max}"),
            _ => "number".to_owned(),
        },
        ["string"] => match value["format"].as_str() {
            Some("ipv4") => "IPv4 address".to_owned(),
            Some("subnet") => "subnet".to_owned(),
            Some("size") => "size".to_owned(),
            _ => "text".to_owned(),
        },
        ["boolean"] => "`true`, `false`".to_owned(),
        [] => "anything".to_owned(),
        several => several.join(", ").replace("string", "text"),
    }
}

fn name_of(definition: &str) -> &str {
    match definition {
        "BuiltImage" => "built",
        "StockImage" => "stock",
        other => other,
    }
}

/// The lab of topologies/lab.yaml, with every address derived.
fn shipped_lab() -> Lab {
    let known = check::Known {
        roles: ["arbiter", "backup", "client", "load", "monitor", "postgres"]
            .map(check::RoleInfo::from)
            .to_vec(),
    };
    let topology: Topology =
        check::check_text(&read("topologies/lab.yaml"), &known).topology.expect("it is valid");
    lab::derive(&topology, &Pins::new())
}

/// What a host of the lab says when all is well.
fn healthy(lab: &Lab, host: &lab::Host) -> HostStatus {
    let postgres = host.has_role(lab::POSTGRES_ROLE).then(|| Server {
        accepting: true,
        version: Some(lab.postgres.version.to_string()),
        in_recovery: Some(host.follows.is_some()),
        sync_state: host.follows.as_ref().map(|_| "sync".to_owned()),
        lag_bytes: host.follows.as_ref().map(|_| 0),
        receiver: host.follows.as_ref().map(|_| "streaming".to_owned()),
        standbys: host.followers.clone(),
        ..Server::default()
    });
    let role = match (&postgres, &host.follows) {
        (Some(_), None) => "primary",
        (Some(_), Some(_)) => "standby",
        (None, _) => &host.roles[1],
    };
    HostStatus {
        reports: serde_json::Map::new(),
        name: host.name.clone(),
        role: role.to_owned(),
        roles: host.roles.clone(),
        state: "running".to_owned(),
        address: host.data.address.to_string(),
        mgmt_address: host.mgmt.address.to_string(),
        follows: host.follows.clone(),
        uptime_seconds: Some(60),
        postgres,
        error: None,
    }
}

/// docs/lab.svg: what `pgprov graph` draws of that lab.
#[test]
fn the_picture_of_the_lab_is_current() {
    let lab = shipped_lab();
    let hosts: Vec<HostStatus> = lab.hosts.iter().map(|host| healthy(&lab, host)).collect();
    is_current("docs/lab.svg", None, &graph::svg(&picture(&lab, &hosts, &[])));
}

/// docs/lesson.svg: the picture in the report of a run whose evidence was kept.
#[test]
fn the_picture_of_a_lesson_is_current() {
    let evidence = serde_json::from_str(&read("tests/it/data/lesson.json")).unwrap();
    is_current("docs/lesson.svg", None, &lesson::plot::svg(&evidence));
}

/// The command lines of a block: all lines of `sh`, those after a prompt of `console`; none of a file that is shown.
fn command_lines(block: &Block) -> Vec<String> {
    if !block.name.is_empty() {
        return Vec::new();
    }
    let lines = block.text.replace("\\\n", " ");
    let lines = lines.lines().map(str::trim);
    match block.language.as_str() {
        "sh" | "bash" => {
            lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
        }
        "console" => lines.filter_map(|line| line.strip_prefix("$ ")).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// The words of the simple commands in a line: `a | b && c` has three.
fn simple_commands(line: &str) -> Vec<Vec<String>> {
    let words = shlex::split(line).unwrap_or_else(|| panic!("quotes are not closed in: {line}"));
    let comment = words.iter().position(|word| word.starts_with('#')).unwrap_or(words.len());
    let separators = ["|", "&&", "||", ";", "2>&1", ">"];
    words[..comment].split(|word| separators.contains(&word.as_str())).map(<[String]>::to_vec).collect()
}

#[test]
fn commands_in_the_documents_exist() {
    let targets: Vec<String> =
        read("Makefile").lines().filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect();
    let (mut calls, mut makes) = (0, 0);
    for block in all_blocks() {
        for line in command_lines(&block) {
            for words in simple_commands(&line) {
                let place = format!("{}: {line}", block.place());
                match words.first().map_or("", |program| program.rsplit('/').next().unwrap_or(program)) {
                    "pgprov" => {
                        calls += 1;
                        if let Err(error) = Cli::try_parse_from(&words) {
                            let help = matches!(
                                error.kind(),
                                clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion
                            );
                            assert!(help, "{place}\n{error}");
                        }
                    }
                    "make" => {
                        makes += 1;
                        for target in words[1..].iter().filter(|word| !word.contains('=')) {
                            assert!(
                                targets.contains(target),
                                "{place}: the Makefile has no target `{target}`"
                            );
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(
        calls >= 30 && makes >= 4,
        "found {calls} calls of pgprov and {makes} of make: are the blocks still read?"
    );
}

/// A block of YAML is a topology, or a part of one that works with `lab` and `hosts` added. Files of roles have names.
#[test]
fn topologies_in_the_documents_are_valid() {
    let mut seen = 0;
    for block in all_blocks() {
        if block.language != "yaml" || !block.name.is_empty() {
            continue;
        }
        seen += 1;
        let mut text = block.text.clone();
        let has = |key: &str| block.text.lines().any(|line| line.starts_with(key));
        if !has("lab:") {
            text.push_str("lab: lab\n");
        }
        if !has("hosts:") {
            text.push_str("hosts:\n  m: { roles: [postgres] }\n  s: { roles: [postgres], follows: m }\n");
        }
        let home = Home::new();
        home.write("lab.yaml", &text);
        let run = home.run(&["validate", "lab.yaml"]);
        assert_eq!(
            (run.exit, run.stdout.as_str()),
            (0, "lab.yaml is valid\n"),
            "{}: {run}\n{text}",
            block.place()
        );
    }
    assert!(seen >= 5, "found {seen} topologies in the documents");
}

/// Blocks of YAML that are called lessons/NAME.yaml are lessons.
#[test]
fn lessons_in_the_documents_are_valid() {
    let mut seen = 0;
    for block in all_blocks().iter().filter(|block| block.name.starts_with("lessons/")) {
        seen += 1;
        let home = Home::new();
        let file = block.name.trim_start_matches("lessons/");
        home.write(file, &block.text);
        let run = home.run(&["lesson", "show", file]);
        assert_eq!(run.exit, 0, "{}: {run}", block.place());
    }
    assert!(seen >= 1, "found no lesson in the documents");
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    let mut seen = 0;
    for file in documents() {
        let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
        for part in prose(&file).split("](").skip(1) {
            let target = part.split(')').next().unwrap_or_default();
            if target.contains("://") || target.starts_with('#') {
                continue;
            }
            seen += 1;
            let path = target.split('#').next().unwrap_or_default();
            assert!(repo(folder).join(path).exists(), "{file}: the link {target} leads nowhere");
        }
    }
    assert!(seen >= 10, "found {seen} links");
}

#[test]
fn exit_codes_are_those_of_the_program() {
    let codes = [
        error::EXIT_OK,
        error::EXIT_FAILED,
        error::EXIT_USAGE,
        error::EXIT_INVALID,
        error::EXIT_PENDING,
        error::EXIT_TIMEOUT,
        error::EXIT_BUG,
    ];
    let rows = read("docs/exit-codes.md");
    let documented: Vec<u8> =
        rows.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok()).collect();
    assert_eq!(documented, codes);
}

/// Every verb, topology, role and module is where a reader looks for it.
#[test]
fn nothing_is_left_out() {
    let (readme, architecture, roles) = (read("README.md"), read("ARCHITECTURE.md"), read("docs/roles.md"));
    for verb in Cli::command().get_subcommands() {
        let name = verb.get_name();
        assert!(readme.contains(&format!("| `{name}")), "README.md: the table of verbs lacks {name}");
    }
    for path in files() {
        if let Some(name) = path.strip_prefix("topologies/") {
            assert!(readme.contains(name), "README.md does not mention topologies/{name}");
        }
        if path.starts_with("lessons/") {
            assert!(readme.contains(&format!("({path})")), "README.md has no link to {path}");
        }
        if let Some(name) = path.strip_prefix("roles/").and_then(|name| name.strip_suffix(".yaml")) {
            assert!(
                roles.contains(&format!("| `{name}` |")),
                "docs/roles.md: the table of roles lacks {name}"
            );
        }
        if let Some(name) = path.strip_prefix("docs/").filter(|name| name.ends_with(".md")) {
            assert!(readme.contains(&format!("(docs/{name})")), "README.md has no link to docs/{name}");
        }
    }
    for lib in ["src/lib.rs", "crates/pgplan/src/lib.rs"] {
        for module in read(lib).lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')) {
            assert!(
                architecture.contains(&format!("`{module}`")),
                "ARCHITECTURE.md does not name module {module} of {lib}"
            );
        }
    }
    for module in
        read("src/commands.rs").lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
    {
        assert!(repo(&format!("src/commands/{module}.rs")).exists());
    }
}
