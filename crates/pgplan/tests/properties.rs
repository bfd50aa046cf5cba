//! No text, of any size or shape, makes the check panic, hang or take more than its share of memory.
#![expect(clippy::disallowed_methods, reason = "the texts under test are files, and their time is measured")]
#![expect(clippy::unwrap_used, reason = "a test that cannot read its texts has failed")]

mod hold;

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use hold::hold;
use pgplan::{check::Checked, yaml};
use proptest::{
    prelude::*,
    sample::{Index, select},
};

/// Good and bad topologies to start from.
fn seeds() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = vec![pgplan::check::INIT.to_owned()];
    for folder in ["tests/bad", "../../topologies"] {
        for file in fs::read_dir(root.join(folder)).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                texts.push(fs::read_to_string(path).unwrap());
            }
        }
    }
    assert!(texts.len() > 40);
    texts
}

/// A change of a text: replaces what begins at a place.
#[derive(Clone, Debug)]
struct Edit {
    at: Index,
    remove: usize,
    insert: String,
}

fn edit() -> impl Strategy<Value = Edit> {
    let pieces = [
        "",
        " ",
        "\n",
        "\r",
        "\t",
        ":",
        ": ",
        "- ",
        "? ",
        "{",
        "}",
        "[",
        "]",
        ",",
        "&a ",
        "*a",
        "!!int ",
        "!x ",
        "|\n",
        ">-\n",
        "'",
        "\"",
        "#",
        "---\n",
        "...\n",
        "%TAG ! x\n",
        "<<: *a\n",
        "\u{feff}",
        "\u{0}",
        "\u{85}",
        "\u{2028}",
        "\\",
        "ä",
        "𝄞",
        "null",
        "true",
        "on",
        "0x",
        "-1",
        "1e999",
        ".nan",
        "99999999999999999999999999999999999999999",
        "roles",
        "follows: m",
        "hosts:\n  x: {roles: [postgres], follows: y}\n",
        "settings: {work_mem: 1}",
        "10.0.0.0/8",
        "0.0.0.0",
        "1GiB",
    ];
    (any::<Index>(), 0..20usize, select(pieces.to_vec())).prop_map(|(at, remove, insert)| Edit {
        at,
        remove,
        insert: insert.to_owned(),
    })
}

fn apply(text: &str, edits: &[Edit]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for edit in edits {
        let at = if chars.is_empty() { 0 } else { edit.at.index(chars.len()) };
        let end = chars.len().min(at + edit.remove);
        chars.splice(at..end, edit.insert.chars());
    }
    chars.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text(text in any::<String>()) {
        hold(&text);
    }

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        match yaml::decode(&bytes) {
            Ok(text) => drop(hold(text)),
            Err(finding) => prop_assert!(finding.span.line >= 1 && finding.span.column >= 1),
        }
    }

    #[test]
    fn text_of_what_yaml_is_made_of(text in "[\\[\\]{}:,\\-?&*!|>'\"%@`# a\\n\\r\\t~<0-9.x/]{0,200}") {
        hold(&text);
    }

    #[test]
    fn changed_topologies(
        seed in select(seeds()),
        edits in proptest::collection::vec(edit(), 1..6),
    ) {
        hold(&apply(&seed, &edits));
    }

    #[test]
    fn values_of_settings(name in select(vec!["work_mem", "fsync", "wal_level", "random_page_cost", "search_path"]), value in "\\PC{0,12}|[-+0-9.eExX kKMGTBmsh]{0,12}") {
        let setting = pgplan::catalogue::lookup(17, name).unwrap();
        // Whatever it says, it says it.
        let _ = pgplan::catalogue::check_value(setting, &value);
        let _ = pgplan::catalogue::amount(setting, &value);
    }
}

/// Texts that a careless reader takes for ever to read, or that overflow its stack.
fn hostile() -> Vec<(&'static str, String)> {
    let mut bomb = "lab: x\na0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..40 {
        let _ = writeln!(bomb, "a{i}: &a{i} [{}]", vec![format!("*a{}", i - 1); 9].join(", "));
    }
    let hosts = |count: usize| {
        (0..count).fold("lab: x\nhosts:\n".to_owned(), |mut text, i| {
            let _ = writeln!(text, "  h{i}: {{ roles: [postgres], follows: h{} }}", (i + 1) % count);
            text
        })
    };
    let head = "lab: x\nhosts: { m: { roles: [postgres] } }\n";
    let lines = |count: usize, line: &dyn Fn(usize) -> String| (0..count).map(line).collect::<String>();
    vec![
        ("alias bomb", bomb),
        ("one MiB of [", "[".repeat(1 << 20)),
        ("one MiB of {", "{".repeat(1 << 20)),
        ("one MiB of [ in a value", format!("lab: {}", "[".repeat(1 << 20))),
        ("one MiB of - ", "- ".repeat(1 << 19)),
        ("one MiB of ? ", "? ".repeat(1 << 19)),
        ("one MiB of &a ", "&a ".repeat(1 << 18)),
        ("one MiB of quotes", "\"".repeat(1 << 20)),
        ("one MiB of line ends", "\n".repeat(1 << 20)),
        ("one MiB of tabs", "\t".repeat(1 << 20)),
        ("one MiB of one key", format!("{}: 1", "k".repeat(1 << 20))),
        ("one line of many keys", format!("{{{}}}", lines(50_000, &|i| format!("k{i}: {{ }}, ")))),
        ("many unknown keys", lines(30_000, &|i| format!("k{i}: 1\n"))),
        ("many hosts in a circle", hosts(2000)),
        ("too many hosts", hosts(10_000)),
        (
            "many unknown settings",
            format!("{head}postgres:\n  settings:\n{}", lines(50_000, &|i| format!("    s{i}: 1\n"))),
        ),
        (
            "many extension settings",
            format!("{head}postgres:\n  settings:\n{}", lines(50_000, &|i| format!("    a.s{i}: 1\n"))),
        ),
        (
            "many databases",
            format!(
                "{head}postgres:\n  databases:\n{}",
                lines(30_000, &|i| format!("    - {{ name: d{i}, owner: o{i} }}\n"))
            ),
        ),
        (
            "many roles",
            format!("lab: x\nhosts: {{ m: {{ roles: [{}] }} }}\n", lines(100_000, &|i| format!("r{i}, "))),
        ),
        (
            "many groups",
            format!(
                "{head}postgres: {{ users: [ {{ name: u, member_of: [{}] }} ] }}\n",
                lines(50_000, &|i| format!("g{i}, "))
            ),
        ),
        (
            "four MiB of text",
            format!(
                "lab: x\nhosts: {{ m: {{ roles: [postgres], description: \"{}\" }} }}\n",
                "é".repeat(1 << 21)
            ),
        ),
        ("more than four MiB", "# comment\n".repeat(1 << 19)),
    ]
}

#[test]
fn hostile_texts_end_in_findings_and_in_time() {
    // Far above what they take even in a debug build on a busy machine, far below what a quadratic reader would.
    const LIMIT: Duration = Duration::from_secs(30);
    for (name, text) in hostile() {
        let begin = Instant::now();
        let checked = hold(&text);
        assert!(begin.elapsed() < LIMIT, "{name} took {:?}", begin.elapsed());
        assert!(checked.topology.is_none() && !checked.findings.is_empty(), "{name}");
    }
}

#[test]
fn a_thousand_hosts_are_a_lab() {
    let mut text =
        "lab: x\nnetwork: 10.1.0.0/16\nmanagement_network: 10.2.0.0/16\nhosts:\n  m: { roles: [postgres] }\n"
            .to_owned();
    for i in 1..1000 {
        let _ =
            writeln!(text, "  s{i}: {{ roles: [postgres], follows: m, settings: {{ work_mem: {i}MB }} }}");
    }
    let Checked { topology, findings } = hold(&text);
    assert_eq!((topology.map(|topology| topology.hosts.len()), findings), (Some(1000), vec![]));
}
