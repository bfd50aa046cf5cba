//! Lessons as text, checks as judgements, evidence as reports.

use std::{collections::BTreeSet, fs};

use insta::assert_snapshot;
use pgplan::{excerpt, schema};

use super::{
    Check, Language, Lesson,
    evidence::{self, Acted, Checked, Done, Evidence, Fate, LogLine, Mode, Outcome, RoleFrom, Write},
    html,
    judge::{Seen, compare},
    junit, logs, plot, read, report,
};

const GOOD: &str = "\
lesson: tiny
title: { en: Tiny, ru: Маленький }
goal: One row.
text: Nothing.
topology: lab
hosts: { m: postgres, client: client }
steps:
  - name: row
    title: A row
    do:
      - { sql: create table t(i int), on: client }
    check:
      - { sql: select 1, on: m, equals: 1 }
";

fn findings(text: &str) -> String {
    let (lesson, findings) = read::read(text);
    assert!(lesson.is_none(), "it has to be refused");
    excerpt::render(&findings, "tiny.yaml", text)
}

#[test]
fn the_schema_can_be_checked() {
    assert_eq!(schema::unsupported::<Lesson>(), BTreeSet::new());
}

#[test]
fn shipped_lessons_are_valid_and_fit_their_topologies() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/lessons");
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let (lesson, findings) = read::read(&text);
        let lesson = lesson.unwrap_or_else(|| panic!("{}", excerpt::render(&findings, "lesson", &text)));
        assert_eq!(path.file_stem().unwrap().to_str().unwrap(), lesson.lesson);
        let topology = format!("{}/topologies/{}.yaml", env!("CARGO_MANIFEST_DIR"), lesson.topology);
        let topology = fs::read_to_string(topology).unwrap();
        for host in lesson.hosts.keys() {
            assert!(topology.contains(&format!("\n  {host}: ")), "{}: no host {host}", lesson.lesson);
        }
        assert!(!lesson.grade.is_empty(), "{} says how the lab has to be at the end", lesson.lesson);
        let texts = [&lesson.title, &lesson.goal, &lesson.text].into_iter();
        for text in texts.chain(lesson.steps.iter().flat_map(|step| step.text.iter().chain([&step.title]))) {
            let russian = text.get(Language::Ru);
            assert!(russian.chars().any(|c| ('а'..='я').contains(&c)), "no Russian: {russian}");
        }
        seen += 1;
    }
    assert!(seen >= 3);
}

#[test]
fn commands_of_shipped_lessons_are_known_to_the_program() {
    use clap::Parser as _;

    for name in ["hot-standby", "split-brain", "arbiter-failover"] {
        let path = format!("{}/lessons/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        let lesson = read::read(&fs::read_to_string(path).unwrap()).0.unwrap();
        for line in
            lesson.steps.iter().flat_map(|step| step.acts.iter().filter_map(|act| act.pgprov.as_ref()))
        {
            let words = shlex::split(&format!("pgprov {line}")).unwrap();
            let parsed = crate::cli::Cli::try_parse_from(words);
            assert!(parsed.is_ok(), "{name}: pgprov {line}: {}", parsed.unwrap_err());
        }
    }
}

#[test]
fn texts_are_in_the_language_that_is_there() {
    let lesson = read::read(GOOD).0.unwrap();
    assert_eq!(lesson.title.get(Language::Ru), "Маленький");
    assert_eq!(lesson.goal.get(Language::Ru), "One row.");
    assert_eq!(lesson.steps[0].check[0].words(Language::En), "`select 1` on m is `1`");
}

#[test]
fn mistakes_are_found_in_one_pass_with_their_places() {
    let text = GOOD
        .replace("on: client }\n    check", "on: cleint }\n    check")
        .replace("equals: 1", "equal: 1, log: x, matches: '('");
    assert_snapshot!(findings(&text), @"
    tiny.yaml:11:43: error: the lesson has no host `cleint`
       |
    11 |       - { sql: create table t(i int), on: cleint }
       |                                           ^^^^^^
       = did you mean `client`?

    tiny.yaml:13:9: error: it checks several things: sql, log
       |
    13 |       - { sql: select 1, on: m, equal: 1, log: x, matches: '(' }
       |         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       = exactly one of: sql, shell, log, role, lag, metric, file, writes, took

    tiny.yaml:13:33: error: unknown key `equal` in `steps[0].check[0]`
       |
    13 |       - { sql: select 1, on: m, equal: 1, log: x, matches: '(' }
       |                                 ^^^^^
       = did you mean `equals`?
       = allowed: name, sql, shell, log, role, lag, metric, file, writes, took, on, to, of, database, equals, matches, rows, at_least, at_most, grows, fails, within, stays

    tiny.yaml:13:60: error: this is no regular expression: found open group without closing ')'
       |
    13 |       - { sql: select 1, on: m, equal: 1, log: x, matches: '(' }
       |                                                            ^^^^
    ");
}

#[test]
fn checks_of_nothing_and_of_too_much_are_refused() {
    let check = |check: &str| findings(&GOOD.replace("{ sql: select 1, on: m, equals: 1 }", check));
    for (text, message) in [
        ("{ on: m }", "it does not say what it checks"),
        ("{ sql: select 1, role: primary, on: m, equals: 1 }", "it checks several things: sql, role"),
        ("{ sql: select 1, on: m }", "nothing is expected of this SQL"),
        ("{ sql: select 1, equals: 1 }", "`on` is missing"),
        ("{ role: primary, on: m, equals: x }", "prints nothing that could be compared"),
        ("{ role: leader, on: m }", "`leader` is not a value of"),
        ("{ writes: go-on }", "no step before this check starts the writer"),
        ("{ writes: stand-still }", "needs `stays`"),
        ("{ lag: 0, on: m }", "`of` is missing"),
        ("{ sql: select 1, on: client, to: x, equals: 1 }", "the lesson has no host `x`"),
        ("{ sql: select 1, on: m, to: rw, equals: 1 }", "a database host connects to itself only"),
    ] {
        let shown = check(text);
        assert!(shown.contains(message), "{text}: expected {message:?} in\n{shown}");
    }
    let twice = format!("{GOOD}  - {{ name: row, title: Again, do: [{{ wait: 1 }}] }}\n");
    assert!(findings(&twice).contains("there are two steps `row`"));
    assert!(findings(&format!("{GOOD}grade: [{{ took: 3 }}]\n")).contains("at the end has no writer"));
    let act = GOOD.replace("sql: create table t(i int), on: client", "pgprov: \"fault 'cut\"");
    assert!(findings(&act).contains("are all quotes closed?"));
}

#[test]
fn names_in_braces_are_filled_and_others_are_not() {
    let value = |name: &str| (name == "lab").then(|| "x".to_owned());
    assert_eq!(
        read::fill("{lab}-rw ${lab} {data} awk '{print $1}'", value),
        "x-rw $x {data} awk '{print $1}'"
    );
}

fn check(fields: &str) -> Check {
    let text = GOOD.replace("equals: 1", fields);
    read::read(&text).0.unwrap().steps[0].check[0].clone()
}

#[test]
fn checks_compare_what_was_printed() {
    let ok = |text: &str| Seen { ok: true, text: text.to_owned(), complaint: String::new() };
    for (fields, text, held) in [
        ("equals: 1", "1\n", true),
        ("equals: 1", "1\n2\n", false),
        ("equals: '01'", "1\n", false),
        ("matches: '^a.c$'", "abc\n", true),
        ("rows: 2", "a\nb\n", true),
        ("rows: 0", "\n", true),
        ("rows: 2", "a\n", false),
        ("at_least: 2, at_most: 3", "2.5\n", true),
        ("at_least: 2, at_most: 3", "3.5\n", false),
        ("at_least: 2", "many\n", false),
        ("grows: true", "11\n", true),
        ("grows: true", "10\n", false),
    ] {
        assert_eq!(compare(&check(fields), &ok(text), Some("10\n")).held, held, "{fields} of {text:?}");
    }
    assert!(!compare(&check("grows: true"), &ok("5"), None).held, "once is not growth");
    let failed = Seen { ok: false, text: String::new(), complaint: "ERROR:  no\n".to_owned() };
    assert!(compare(&check("fails: 'ERROR:  no'"), &failed, None).held);
    assert!(!compare(&check("fails: 'ERROR:  yes'"), &failed, None).held);
    assert!(!compare(&check("fails: 'x'"), &ok("x"), None).held, "success is no failure");
    let seen = compare(&check("equals: 1"), &failed, None);
    assert_eq!((seen.held, seen.observed.as_str()), (false, "it failed: ERROR:  no"));
}

#[test]
fn tries_are_acknowledged_refused_or_not_known() {
    let text = "1 10.0 10.1 ok\n2 10.2 10.3 ERROR:  cannot execute INSERT in a read-only transaction\n\
                3 10.4 14.0 nothing\n4 14.1 14.2 psql: error: connection to server at \"m\" failed\n5 15.0 15.5 ok\n6 15.";
    let writes = evidence::writes(text, 5.0);
    let fates: Vec<Fate> = writes.iter().map(|write| write.fate).collect();
    assert_eq!(fates, [Fate::Ok, Fate::Failed, Fate::Unknown, Fate::Failed, Fate::Ok]);
    assert!((writes[0].begin - 5.0).abs() < 1e-9 && (writes[4].end - 10.5).abs() < 1e-9);
    assert!((evidence::outage(&writes, 6.0, 11.0) - 5.4).abs() < 1e-9);
    assert!((evidence::outage(&writes, 10.6, 20.0) - 9.5).abs() < 1e-9, "an outage that goes on counts");
    assert_eq!(evidence::lost(&writes, &BTreeSet::from([5])), [1]);
    let roles = evidence::roles(
        "m",
        "1 1.0 1.1 primary\n2 2.0 2.1 primary\n3 3.0 3.1 psql: error\n4 4.0 4.1 standby\n",
        0.0,
    );
    let words: Vec<(&str, f64)> = roles.iter().map(|role| (role.role.as_str(), role.from)).collect();
    assert_eq!(words, [("primary", 1.0), ("down", 3.0), ("standby", 4.0)]);
}

#[test]
fn lines_of_logs_have_one_order() {
    let postgres = "2026-11-21 20:55:01.250 UTC [17] LOG:  one\n\tgoes on\nno time\n2026-11-21 20:55:03.000 UTC [17] LOG:  three\n";
    let journal = "2026-11-21T20:55:03.500000+0000 s pgagent[9]: {\"event\":\"two\"}\n";
    let lines = logs::merge(
        [
            logs::parse("s", "base", journal, 1.0),
            logs::parse("m", "postgres", postgres, 0.0),
            logs::parse("s", "agent", journal, 1.0),
        ]
        .concat(),
    );
    let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(
        texts,
        ["[17] LOG:  one goes on no time", "s pgagent[9]: {\"event\":\"two\"}", "[17] LOG:  three"]
    );
    assert!((lines[0].at - 1_795_294_501.25).abs() < 1e-3, "{}", lines[0].at);
}

/// Two steps, of which the second one failed.
fn sample() -> Evidence {
    let write = |number: u64, at: f64, fate, answer: &str| Write {
        number,
        begin: 1000.0 + at,
        end: 1000.1 + at,
        fate,
        answer: answer.to_owned(),
    };
    let step = |name: &str, began: f64, outcome| Done {
        name: name.to_owned(),
        title: format!("Step {name}"),
        text: String::new(),
        began,
        ended: began + 4.0,
        outcome,
        acts: Vec::new(),
        checks: Vec::new(),
        hints: Vec::new(),
    };
    let mut first = step("one", 1000.0, Outcome::Held);
    first.text = "Do *this*.".to_owned();
    first.acts.push(Acted {
        at: 1000.5,
        host: Some("client".to_owned()),
        command: "psql service=lab-rw\nselect '```', '<b>'".to_owned(),
        output: " x\n---\n".to_owned(),
        error: None,
        took: 0.25,
    });
    let seen = |held, observed: &str| Checked {
        what: "`select a | b` on m is `1`".to_owned(),
        held,
        observed: observed.to_owned(),
        waited: 2.0,
    };
    first.checks.push(seen(true, "1"));
    let mut second = step("two", 1004.0, Outcome::Failed);
    second.checks.push(seen(false, "2\n<script>"));
    second.hints.push("Look at m.".to_owned());
    Evidence {
        lesson: "sample".to_owned(),
        title: "A <sample>".to_owned(),
        goal: "See a report.".to_owned(),
        lab: "lab".to_owned(),
        version: "0.1.0".to_owned(),
        mode: Mode::Demonstration,
        began: 1000.0,
        ended: 1008.0,
        steps: vec![first, second, step("three", 1008.0, Outcome::NotReached)],
        writes: vec![
            write(1, 1.0, Fate::Ok, ""),
            write(2, 1.5, Fate::Ok, ""),
            write(3, 2.0, Fate::Unknown, "nothing"),
            write(4, 6.0, Fate::Ok, ""),
        ],
        lost: Some(vec![2]),
        roles: vec![
            RoleFrom { host: "m".to_owned(), from: 1000.0, role: "primary".to_owned() },
            RoleFrom { host: "m".to_owned(), from: 1003.0, role: "down".to_owned() },
            RoleFrom { host: "s".to_owned(), from: 1000.0, role: "standby".to_owned() },
        ],
        logs: vec![LogLine {
            at: 1003.5,
            host: "m".to_owned(),
            source: "postgres".to_owned(),
            text: "[1] LOG:  ``` <i>".to_owned(),
        }],
    }
}

#[test]
fn the_report_has_everything() {
    assert_snapshot!(report::markdown(&sample()), @r#"
    # A <sample>

    See a report.

    **2 steps did not hold.** Lesson `sample` in lab `lab`, as a demonstration, 1970-01-01 00:16:40 UTC, 8 s; pgprov 0.1.0.

    ## Results

    | step | result | checks held | seconds |
    |---|---|---|---|
    | 1. Step one | ✓ held | 1 of 1 | 4.0 |
    | 2. Step two | ✗ failed | 0 of 1 | 4.0 |
    | 3. Step three | – not reached | 0 of 0 | 4.0 |

    ## Times

    ![Roles of the hosts and acknowledged writes over time](timeline.svg)

    | writer | |
    |---|---|
    | acknowledged writes | 3 |
    | refused writes | 0 |
    | outcome not known | 1 |
    | longest outage (RTO as a client saw it) | 4.5 s, from 1.6 s to 6.1 s |
    | acknowledged and lost | 1: 2 |

    No write was acknowledged for 4.5 s, from 1.6 s on. The first one was told: `nothing`

    ## 1. Step one — ✓ held

    Do *this*.

    0.5 s after the beginning, 0.2 s:

    ````text
    client# psql service=lab-rw
    select '```', '<b>'
     x
    ---
    ````

    | check | result | seen | seconds |
    |---|---|---|---|
    | `select a \| b` on m is `1` | ✓ | 1 | 2.0 |

    ## 2. Step two — ✗ failed

    | check | result | seen | seconds |
    |---|---|---|---|
    | `select a \| b` on m is `1` | ✗ | 2 ⏎ &lt;script> | 2.0 |

    **Expected**: `select a | b` on m is `1`. After 2.0 s this was seen:

    ```text
    2
    <script>
    ```

    > **Hint**: Look at m.

    ## 3. Step three — – not reached

    ## Logs of all hosts

    Seconds since the beginning, host, what it is the log of, line.

    ````text
        3.50  m        postgres  [1] LOG:  ``` <i>
    ````
    "#);
}

#[test]
fn graders_get_junit() {
    assert_snapshot!(junit::xml(&sample()), @r#"
    <?xml version="1.0" encoding="UTF-8"?>
    <testsuite name="sample" tests="3" failures="1" skipped="1" time="8.000">
      <testcase classname="sample" name="one" time="4.000"/>
      <testcase classname="sample" name="two" time="4.000">
        <failure message="expected: `select a | b` on m is `1`">seen after 2.0 s: 2
    &lt;script&gt;</failure>
      </testcase>
      <testcase classname="sample" name="three" time="4.000"><skipped/></testcase>
    </testsuite>
    "#);
}

/// Nothing of what hosts wrote becomes HTML, and nothing has to be loaded.
#[test]
fn the_page_is_one_file_and_harmless() {
    let mut evidence = sample();
    evidence.steps[0].text =
        "[a](http://a.example) ![b](http://b.example/c.png) <script>alert(1)</script>\n\n<div onclick=x>"
            .to_owned();
    let page = html::page(&evidence.title, &report::markdown(&evidence), &plot::svg(&evidence));
    for banned in ["<script", "<div", "src=", "href=", "<b>", "<i>"] {
        assert!(!page.contains(banned), "{banned} in {page}");
    }
    assert!(page.contains("&lt;script&gt;") && page.contains("<svg") && page.contains("A &lt;sample&gt;"));
}

#[test]
fn pictures_are_complete_and_nothing_is_not_a_number() {
    let mut empty = sample();
    (empty.writes, empty.roles, empty.steps, empty.ended) = (Vec::new(), Vec::new(), Vec::new(), empty.began);
    for evidence in [sample(), empty] {
        let picture = plot::svg(&evidence);
        assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
        assert!(!picture.contains("NaN") && !picture.contains("inf\""), "{picture}");
    }
    assert!(plot::svg(&sample()).contains("4.5 s"), "the outage is in the picture");
}
