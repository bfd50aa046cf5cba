//! Rules of style that a compiler does not know. Each says what to do instead.

use crate::runner::{REPO, files, read};

/// Rust files with their text. Fuzz targets and tests are marked by the second value.
fn sources() -> Vec<(String, bool, String)> {
    let rust = files().into_iter().filter(|path| path.ends_with(".rs"));
    rust.map(|path| {
        let in_tests =
            ["tests", "fuzz", "benches"].iter().any(|folder| path.split('/').any(|part| part == *folder));
        let test = in_tests || path.ends_with("/tests.rs");
        let text = read(&path);
        (path, test, text)
    })
    .collect()
}

/// The code of a source without the tests at its end.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

/// The doors to the terminal: one each program, pgload's live view, and a build script's way to talk to Cargo.
const DOORS: [&str; 7] = [
    "src/ui.rs",
    "crates/pgload/src/ui.rs",
    "crates/pgload/src/run/live.rs",
    "crates/pgload/build.rs",
    "crates/pgagent/src/command.rs",
    "crates/pgagent/src/log.rs",
    "crates/pghost/src/main.rs",
];

#[test]
fn only_ui_prints() {
    for (path, test, text) in sources() {
        if test || DOORS.contains(&path.as_str()) {
            continue;
        }
        for banned in
            ["println!", "eprintln!", "print!(", "eprint!(", "dbg!(", "io::stdout()", "io::stderr()"]
        {
            for (at, line) in
                without_tests(&text).lines().enumerate().filter(|(_, line)| line.contains(banned))
            {
                // Whether the terminal is one may be asked anywhere.
                let asks = line.contains("is_terminal()");
                assert!(
                    asks || line.trim_start().starts_with("//"),
                    "{path}:{}: {banned} belongs into src/ui.rs",
                    at + 1
                );
            }
        }
    }
}

#[test]
fn exceptions_to_lints_say_why_and_tests_are_not_switched_off() {
    for (path, _, text) in sources() {
        // Here the rules themselves stand.
        if path == "tests/it/tidy.rs" {
            continue;
        }
        for (banned, instead) in [
            ("#[allow(", "#[expect(..., reason = \"...\")]"),
            ("#![allow(", "#![expect(..., reason = \"...\")]"),
            ("#[ignore", "a test that runs, or none"),
            ("todo!(", "finished code"),
            ("unimplemented!(", "finished code"),
            ("FIXME", "finished code, or an issue"),
        ] {
            if let Some(at) = text.lines().position(|line| line.contains(banned)) {
                panic!("{path}:{}: write {instead} instead of {banned}", at + 1);
            }
        }
    }
}

/// A newcomer reads a file from top to bottom.
#[test]
fn files_are_short() {
    const LINES: usize = 600;
    for (path, _, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= LINES, "{path} has {lines} lines: split it by what its parts are about");
    }
}

#[test]
fn text_files_end_with_a_line_end_and_lines_with_text() {
    for path in files() {
        let kind = path.rsplit('.').next().unwrap_or_default();
        if !matches!(kind, "rs" | "md" | "toml" | "yaml" | "yml" | "sh" | "sql" | "conf" | "json") {
            continue;
        }
        // Bad topologies are bad on purpose, and data comes from outside.
        if path.contains("/tests/bad/") || path.contains("/data/") {
            continue;
        }
        let text = read(&path);
        assert!(text.is_empty() || text.ends_with('\n'), "{path} does not end with a line end");
        let trailing = text.lines().position(|line| line.ends_with([' ', '\t']));
        assert!(
            trailing.is_none(),
            "{path}:{}: white space at the end of the line",
            trailing.unwrap_or(0) + 1
        );
    }
}

/// Hosts that may stand in addresses: where specifications, licences and this project are, and names for examples.
const HOSTS: [&str; 15] = [
    "example.com",
    "example.org",
    "github.com",
    "insta.rs",
    "json-schema.org",
    "keepachangelog.com",
    "libvirt.org",
    "localhost",
    "opensource.org",
    "pgprov.dev",
    "semver.org",
    "www.apache.org",
    "www.debian.org",
    "www.postgresql.org",
    "www.w3.org",
];

/// The repository works everywhere: it names neither a registry or mirror of one place, nor a folder of one machine.
#[test]
fn nothing_points_to_one_machine() {
    assert!(REPO.split('/').count() > 2, "the repository has a path that can be looked for");
    for path in files() {
        let Ok(text) = std::fs::read_to_string(crate::runner::repo(&path)) else { continue };
        for (at, line) in text.lines().enumerate() {
            assert!(!line.contains(REPO), "{path}:{}: the path of this checkout", at + 1);
            for scheme in ["http://", "https://"] {
                for rest in line.split(scheme).skip(1) {
                    let host = host(rest);
                    assert!(allowed(host), "{path}:{}: {scheme}{host}: a host that is not in HOSTS", at + 1);
                }
            }
        }
    }
}

/// The host at the beginning of what follows a scheme, without user, port and path.
fn host(rest: &str) -> &str {
    let end =
        rest.find(|c: char| !(c.is_ascii_alphanumeric() || "-._~@:%".contains(c))).unwrap_or(rest.len());
    let authority = &rest[..end];
    let host = authority.rsplit('@').next().unwrap_or(authority);
    host.split(':').next().unwrap_or(host).trim_end_matches('.')
}

fn allowed(host: &str) -> bool {
    let reserved = [".example", ".invalid", ".test", ".localhost"].iter().any(|end| host.ends_with(end));
    // No host: a pattern, or a sentence about schemes. No dot: a name of a test or of a lab.
    reserved
        || !host.contains('.')
        || HOSTS.contains(&host)
        || host.starts_with("127.")
        || host.starts_with("10.")
}

#[test]
fn hosts_are_understood() {
    assert_eq!(host("user:pw@mirror.example:80/debian x"), "mirror.example");
    assert_eq!(host("github.com/pgprov\""), "github.com");
    assert_eq!(host("[^\\s]+$"), "");
    assert!(allowed("mirror.example") && !allowed("mirror.example.net"));
}

#[test]
fn the_changelog_has_unreleased_on_top() {
    let text = read("CHANGELOG.md");
    let first = text.lines().find(|line| line.starts_with("## "));
    assert_eq!(first, Some("## [Unreleased]"));
    let kinds = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];
    for heading in text.lines().filter_map(|line| line.strip_prefix("### ")) {
        assert!(kinds.contains(&heading), "CHANGELOG.md: `{heading}` is none of {kinds:?}");
    }
}
