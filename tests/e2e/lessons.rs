//! Lessons: those that are shipped hold from beginning to end, and a lesson that is spoilt says where and why.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    command::Output,
    suite::{Lab, MAIN, Spec, Suite, Topology},
};

/// Two stock servers and a client.
const HOT: Spec = Spec { name: "hot-standby", topology: Topology::File("topologies/hot-standby.yaml") };
const SMALL: &str = include_str!("lessons/small.yaml");

/// A run of a lesson with its report.
struct Played {
    output: Output,
    folder: PathBuf,
    evidence: Value,
}

/// Plays a lesson by name or file, and reads its report.
fn play(lab: &Lab<'_>, lesson: &str, options: &[&str], seconds: u64) -> Result<Played> {
    let name = lesson.rsplit('/').next().unwrap_or(lesson).trim_end_matches(".yaml");
    let file = lab.suite.file(&format!("report-{name}"), "")?;
    fs::remove_file(&file)?;
    let report = file.display().to_string();
    let words = [&["run", lesson, "--report", &report], options].concat();
    let output = lab.suite.pgprov(["lesson"]).args(words).args(["--lab", lab.name]).limit(seconds).run()?;
    let text = fs::read_to_string(file.join("evidence.json"))
        .with_context(|| format!("expected a report of\n{output}"))?;
    let evidence = serde_json::from_str(&text)?;
    Ok(Played { output, folder: file, evidence })
}

impl Played {
    fn text(&self, name: &str) -> Result<String> {
        fs::read_to_string(self.folder.join(name)).with_context(|| format!("expected {name}"))
    }

    /// Everything held, and the report shows it.
    fn held(self) -> Result<Self> {
        ensure!(self.output.code == Some(0), "expected all steps to hold:\n{}", self.output);
        let page = self.text("report.html")?;
        ensure!(page.contains("Everything held.") && page.contains("<svg"), "expected a page with a picture");
        let outside = ["src=\"http", "href=\"http", "url("].iter().find(|word| page.contains(**word));
        ensure!(outside.is_none(), "expected a page that needs nothing from elsewhere, it has {outside:?}");
        ensure!(self.text("junit.xml")?.contains("failures=\"0\" skipped=\"0\""), "expected no failures");
        Ok(self)
    }
}

/// Assignment 004.
pub fn hot_standby(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&HOT)?;
    let played = play(&lab, "hot-standby", &["--reset"], 400)?.held()?;
    let longest = played.evidence["writes"].as_array().map_or(0, Vec::len);
    ensure!(longest > 50, "expected the writer to get on, it tried {longest} times");
    // What was shown is there for who asks later; and the lab is what its topology says.
    suite.pgprov(["lesson", "check", "hot-standby", "--lab", HOT.name]).limit(120).ok()?.says("✓ held")?;
    lab.is_as_its_topology_says()
}

/// Two primaries, made on purpose.
pub fn split_brain(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&HOT)?;
    play(&lab, "split-brain", &["--reset"], 300)?.held()?;
    lab.is_as_its_topology_says()?;
    suite.pgprov(["destroy", "--yes", HOT.name]).limit(120).ok()?;
    suite.forget(&HOT);
    Ok(())
}

/// Assignment 002.
pub fn arbiter_failover(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let played = play(&lab, "arbiter-failover", &["--reset"], 500)?.held()?;
    ensure!(played.evidence["lost"] == serde_json::json!([]), "expected that nothing was lost");
    lab.is_as_its_topology_says()
}

/// A way to spoil the small lesson, and what has to be said about it.
struct Spoilt {
    what: &'static str,
    with: &'static str,
    step: &'static str,
    says: &'static [&'static str],
}

const SPOILT: [Spoilt; 6] = [
    Spoilt {
        what: "create table small (i int)",
        with: "create table tiny (i int)",
        step: "rows",
        says: &["insert into small values (1)", "relation \"small\" does not exist"],
    },
    Spoilt {
        what: "      - { on: client, sql: insert into small values (2) }\n",
        with: "",
        step: "rows",
        says: &["`select count(*) from small` on client to s is `2`", "\n1\n"],
    },
    Spoilt {
        what: "{ role: standby, on: s, within: 3 }",
        with: "{ role: primary, on: s, within: 1 }",
        step: "rows",
        says: &["s is primary", "standby", "psql service=lab-rw"],
    },
    Spoilt {
        what: "      - { shell: echo done by hand, on: client }\n",
        with: "      - { writer: stop }\n      - { sql: delete from lesson_writes where n = 1, on: client }\n",
        step: "kept",
        says: &["acknowledged writes that are not there", "1 lost [1]"],
    },
    Spoilt {
        what: "      - { writer: start, on: client }\n",
        with: "      - { writer: start, on: client }\n      - { writer: stop }\n",
        step: "rows",
        says: &["writes go on", "0 new writes"],
    },
    Spoilt {
        what: "      - { sql: select 1 / 0 as a_line_for_the_log, on: m, fails: division by zero }\n",
        with: "      - { sql: select 1 / 1 as a_line_for_the_log, on: m, fails: division by zero }\n",
        step: "kept",
        says: &["a_line_for_the_log", "it succeeded, and should have failed"],
    },
];

/// The small lesson holds; spoilt it is red, with the step, what was expected and what was seen.
pub fn spoilt(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    lab.suite
        .pgprov(["lesson", "check", "arbiter-failover", "--step", "look", "--lab", lab.name])
        .limit(60)
        .ok()?;
    let file = suite.file("small.yaml", SMALL)?.display().to_string();
    play(&lab, &file, &[], 120)?.held()?;
    // Left to a student who does nothing: the lesson says what is missing, hints come, and the step fails.
    let options = ["--interactive", "--patience", "4"];
    let text = SMALL.replace("select count(*) from small", "select count(*) from nothing");
    let file = suite.file("small.yaml", &text)?.display().to_string();
    let played = play(&lab, &file, &options, 120)?;
    played.output.clone().exits(1)?.says("hint: psql service=lab-rw")?;
    ensure!(played.evidence["steps"][0]["outcome"] == "failed", "expected the first step to fail");
    for spoilt in &SPOILT {
        red(&lab, spoilt)
            .with_context(|| format!("with `{}` for `{}`", spoilt.with.trim(), spoilt.what.trim()))?;
    }
    Ok(())
}

fn red(lab: &Lab<'_>, spoilt: &Spoilt) -> Result<()> {
    ensure!(SMALL.contains(spoilt.what), "expected that in the lesson");
    let file = lab.suite.file("small.yaml", &SMALL.replacen(spoilt.what, spoilt.with, 1))?;
    let played = play(lab, &file.display().to_string(), &[], 120)?;
    let output = played.output.clone().exits(1)?.says(&format!("step {} failed", spoilt.step))?;
    let report = played.text("report.md")?;
    for text in spoilt.says {
        ensure!(report.contains(text), "expected {text:?} in the report\n{report}\nof\n{output}");
    }
    let cases = played.text("junit.xml")?;
    let begin = format!("<testcase classname=\"small\" name=\"{}\"", spoilt.step);
    let case = cases.split(&begin).nth(1).and_then(|rest| rest.split("</testcase>").next());
    ensure!(case.is_some_and(|case| case.contains("<failure message=")), "expected a failure in\n{cases}");
    Ok(())
}
