//! Who may depend on whom.

use std::{collections::BTreeSet, process::Command};

use insta::assert_snapshot;

use crate::runner::{REPO, files, read};

/// Runs cargo on this workspace, without network.
fn cargo(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO"));
    let output = command
        .args(arguments)
        .args(["--offline", "--locked"])
        .current_dir(REPO)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The names of all packages that end up in a package, its own among them.
fn dependencies(package: &str) -> BTreeSet<String> {
    let tree = cargo(&["tree", "-p", package, "-e", "normal", "--prefix", "none", "--format", "{p}"]);
    tree.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
}

fn workspace_packages() -> Vec<String> {
    let metadata: serde_json::Value =
        serde_json::from_str(&cargo(&["metadata", "--no-deps", "--format-version", "1"])).unwrap();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| package["name"].as_str().unwrap().to_owned())
        .collect()
}

/// The planner sees text and numbers only. A new name in this list is a decision: nothing that reads files, clocks or
/// the network, starts threads or draws random numbers belongs here.
#[test]
fn the_planner_has_these_dependencies_and_no_others() {
    let names: Vec<String> = dependencies("pgplan").into_iter().collect();
    assert_snapshot!(names.join("\n"), @"
    arraydeque
    block-buffer
    cfg-if
    cpufeatures
    crypto-common
    digest
    dyn-clone
    equivalent
    foldhash
    generic-array
    hashbrown
    indexmap
    itoa
    memchr
    pgagent-core
    pgplan
    proc-macro2
    quote
    ref-cast
    ref-cast-impl
    regex-lite
    saphyr-parser
    schemars
    schemars_derive
    serde
    serde_core
    serde_derive
    serde_derive_internals
    serde_json
    sha2
    similar
    strsim
    syn
    tera
    thiserror
    thiserror-impl
    typenum
    unicode-ident
    unicode-width
    zmij
    ");
}

/// The failover machine decides; it does not even know a runtime.
#[test]
fn the_failover_machine_has_these_dependencies_and_no_others() {
    let names: Vec<String> = dependencies("pgagent-core").into_iter().collect();
    assert_snapshot!(names.join("\n"), @"
    pgagent-core
    proc-macro2
    quote
    serde
    serde_core
    serde_derive
    syn
    unicode-ident
    ");
}

/// The agent runs on hosts: of ours it knows the machine only.
#[test]
fn the_agent_stands_on_the_machine_alone() {
    let all = dependencies("pgagent");
    assert!(all.contains("pgagent-core"));
    assert!(!all.contains("pgplan") && !all.contains("pgprov"), "{all:?}");
}

/// libvirt and SSH are C libraries, and the way to machines: only the program at the top may have them.
#[test]
fn only_the_root_package_reaches_machines() {
    let packages = workspace_packages();
    assert!(
        packages.contains(&"pgprov".to_owned()) && packages.contains(&"pgplan".to_owned()),
        "{packages:?}"
    );
    for package in packages {
        let all = dependencies(&package);
        for (reaching, why) in [("virt", "libvirt"), ("ssh2", "SSH"), ("ureq", "downloads")] {
            let expected = package == "pgprov";
            assert_eq!(all.contains(reaching), expected, "{package} and {reaching} ({why})");
        }
    }
}

/// The modules of `src`, one row a layer. A module uses modules of the rows above its own, and never one of its own
/// row: adapters do not know each other, `execute` does not know commands, nothing but commands knows everything.
const LAYERS: [&[&str]; 9] = [
    &["clock", "durable", "every", "markup"],
    &["dashboard", "files", "graph", "image", "lesson", "libvirt", "secrets", "ssh", "state"],
    &["error"],
    &["ui"],
    &["cli", "connect", "machines", "observe", "snapshot"],
    &["execute"],
    &["fault"],
    &["checkpoint"],
    &["commands"],
];

fn layer(module: &str) -> usize {
    let row = LAYERS.iter().position(|row| row.contains(&module));
    row.unwrap_or_else(|| panic!("module `{module}` of src is in no row of LAYERS"))
}

#[test]
fn modules_use_only_what_is_below_them() {
    let mut seen = BTreeSet::new();
    for path in files() {
        let Some(below) = path.strip_prefix("src/").filter(|path| path.ends_with(".rs")) else { continue };
        let module = below.split(['/', '.']).next().unwrap();
        if matches!(module, "main" | "lib") || below.contains("tests") {
            continue;
        }
        seen.insert(module.to_owned());
        for used in modules_used(&read(&path)) {
            let fine = used == module || layer(&used) < layer(module);
            assert!(fine, "{path} uses crate::{used}, which is not in a row above that of {module}");
        }
    }
    let known: BTreeSet<String> =
        LAYERS.iter().flat_map(|row| row.iter().map(|name| (*name).to_owned())).collect();
    assert_eq!(seen, known, "the modules of src are those of LAYERS");
}

/// The modules that a source names after `crate::`, alone or in braces; tests at its end do not count.
fn modules_used(source: &str) -> BTreeSet<String> {
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let mut used = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(group) => top_level(group),
            None => vec![rest],
        };
        for name in names {
            let word: String =
                name.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            if word.starts_with(|c: char| c.is_ascii_lowercase()) {
                used.insert(word);
            }
        }
    }
    used
}

/// The parts of a group in braces, of which `text` begins with the first: `a, b::{c, d}}; ...` has two.
fn top_level(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, char) in text.char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push(&text[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts
}

#[test]
fn imports_are_understood() {
    let source = "use crate::ui::Ui;\nuse crate::{\n    cli::{Global, Up},\n    error::Result,\n};\nfn f() { crate::graph::svg(); crate::Thing; }\n\
                  #[cfg(test)]\nmod tests {\n    use crate::commands;\n}\n";
    let used: Vec<String> = modules_used(source).into_iter().collect();
    assert_eq!(used, ["cli", "error", "graph", "ui"]);
}
