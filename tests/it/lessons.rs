//! `pgprov lesson` without a lab.

use insta::assert_snapshot;

use crate::runner::{Home, read};

#[test]
fn lessons_are_listed_in_two_languages() {
    let home = Home::new();
    let all = home.run(&["lesson", "list", "-o", "json"]).json();
    let names: Vec<&str> =
        all.as_array().unwrap().iter().map(|row| row["lesson"].as_str().unwrap()).collect();
    assert_eq!(names, ["arbiter-failover", "hot-standby", "split-brain"]);
    let russian = home.run(&["lesson", "list", "--language", "ru"]);
    assert!(russian.stdout.contains("два основных сервера"), "{russian}");
    let shown = home.run(&["lesson", "show", "hot-standby"]);
    for text in ["Stage 2.2", "the log of m has a line with", "hosts: m (postgres)"] {
        assert!(shown.stdout.contains(text), "{shown}");
    }
    let json = home.run(&["lesson", "show", "hot-standby", "-o", "json"]).json();
    assert_eq!(json["hosts"]["client"], "client");
}

#[test]
fn a_lesson_that_is_not_there_is_guessed() {
    assert_snapshot!(Home::new().run(&["lesson", "show", "hot-standbi"]), @"
    exit 2
    -- stderr --
    error: there is no lesson `hot-standbi`
    hint: did you mean `hot-standby`?
    hint: lessons: arbiter-failover, hot-standby, split-brain
    ");
}

#[test]
fn lessons_of_ones_own_are_added_and_checked() {
    let home = Home::new();
    let text = read("tests/e2e/lessons/small.yaml");
    home.write("mine/lessons/small.yaml", &text);
    let run = home.run(&["--assets", "mine", "lesson", "list"]);
    assert!(run.exit == 0 && run.stdout.contains("A small lesson"), "{run}");
    home.write("other.yaml", &text);
    assert_snapshot!(home.run(&["lesson", "show", "other.yaml"]), @"
    exit 3
    -- stderr --
    error: other.yaml says that its lesson is `small`
    hint: a lesson is called as its file is, without .yaml
    ");
    home.write("small.yaml", text.replace("role: standby, on: s", "role: standbi, on: x"));
    assert_snapshot!(home.run(&["lesson", "run", "small.yaml"]), @"
    exit 3
    -- stderr --
    error: small.yaml has errors
    small.yaml:23:17: error: `standbi` is not a value of `role`
       |
    23 |       - { role: standbi, on: x, within: 3 }
       |                 ^^^^^^^
       = did you mean `standby`?
       = allowed: primary, standby, down

    small.yaml:23:30: error: the lesson has no host `x`
       |
    23 |       - { role: standbi, on: x, within: 3 }
       |                              ^
       = `hosts` of the lesson: m, s, client
    ");
}

#[test]
fn a_lab_that_does_not_fit_is_refused() {
    let home = Home::new();
    assert_eq!(home.run(&["lesson", "run", "hot-standby"]).exit, 2);
    home.make_lab("lab: one\nhosts:\n  m: { roles: [postgres] }\n");
    assert_snapshot!(home.run(&["lesson", "run", "hot-standby"]), @"
    exit 2
    -- stderr --
    error: lab one has no host `s` with role postgres
    hint: lesson hot-standby was written for topologies/hot-standby.yaml
    ");
    home.make_lab(&read("topologies/lab.yaml"));
    assert_snapshot!(home.run(&["lesson", "check", "split-brain", "--lab", "lab"]), @"
    exit 2
    -- stderr --
    error: lab lab has another engine of failover
    hint: lesson split-brain was written for topologies/hot-standby.yaml
    ");
}
