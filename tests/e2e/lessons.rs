//! Lessons: those that are shipped hold from beginning to end, and a lesson that is spoilt says where and why.

mod student;

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

/// Where the report of a lesson, by name or file, goes.
fn report_of(lab: &Lab<'_>, lesson: &str) -> PathBuf {
    let name = lesson.rsplit('/').next().unwrap_or(lesson).trim_end_matches(".yaml");
    let folder = lab.suite.state().with_file_name(format!("report-{name}"));
    // Of an earlier run, if there is one.
    let _ = fs::remove_dir_all(&folder);
    folder
}

/// Plays a lesson by name or file, and reads its report.
fn play(lab: &Lab<'_>, lesson: &str, options: &[&str], seconds: u64) -> Result<Played> {
    let folder = report_of(lab, lesson);
    let report = folder.display().to_string();
    let words = [&["run", lesson, "--report", &report], options].concat();
    let output = lab.suite.pgprov(["lesson"]).args(words).args(["--lab", lab.name]).limit(seconds).run()?;
    Played::read(output, folder)
}

impl Played {
    fn read(output: Output, folder: PathBuf) -> Result<Self> {
        let text = fs::read_to_string(folder.join("evidence.json"))
            .with_context(|| format!("expected a report of\n{output}"))?;
        let evidence = serde_json::from_str(&text)?;
        Ok(Self { output, folder, evidence })
    }

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
    // As `up` left it; the other lessons begin at checkpoint `ready`.
    let played = play(&lab, "hot-standby", &[], 400)?.held()?;
    let tries = played.evidence["writes"].as_array().map_or(0, Vec::len);
    ensure!(tries > 50, "expected the writer to get on, it tried {tries} times");
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

/// Lessons that are shipped say what a student has forgotten.
pub fn shipped_spoilt(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&HOT)?;
    for spoilt in &SPOILT_SHIPPED {
        let (name, text) = spoilt.lesson;
        ensure!(text.contains(spoilt.what), "expected `{}` in lesson {name}", spoilt.what);
        // A step that will not hold need not be waited for.
        let text = text.replacen(spoilt.what, spoilt.with, 1).replace("within: 30", "within: 2");
        red(&lab, name, &text, spoilt).with_context(|| format!("with lesson {name} spoilt"))?;
    }
    suite.pgprov(["destroy", "--yes", HOT.name]).limit(120).ok()?;
    suite.forget(&HOT);
    Ok(())
}

/// Students who do what the hints say get to the end of the lessons that are shipped.
pub fn played_by_a_student(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&HOT)?;
    for lesson in ["hot-standby", "split-brain"] {
        student::plays(&lab, lesson, &["--reset"], 600)?.held()?;
    }
    suite.pgprov(["destroy", "--yes", HOT.name]).limit(120).ok()?;
    suite.forget(&HOT);
    Ok(())
}

/// See [`played_by_a_student`].
pub fn arbiter_failover_by_a_student(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    student::plays(&lab, "arbiter-failover", &["--reset"], 900)?.held().map(drop)
}

/// Lessons on a lab that `up` has just made.
pub fn from_up(suite: &Suite) -> Result<()> {
    for (spec, lesson) in [(&HOT, "split-brain"), (&MAIN, "arbiter-failover")] {
        suite.destroy_all()?;
        play(&suite.lab(spec)?, lesson, &[], 500)?.held()?;
    }
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
    lesson: (&'static str, &'static str),
    what: &'static str,
    with: &'static str,
    step: &'static str,
    says: &'static [&'static str],
}

const SPOILT: [Spoilt; 6] = [
    Spoilt {
        lesson: ("small", SMALL),
        what: "create table small (i int)",
        with: "create table tiny (i int)",
        step: "rows",
        says: &["insert into small values (1)", "relation \"small\" does not exist"],
    },
    Spoilt {
        lesson: ("small", SMALL),
        what: "      - { on: client, sql: insert into small values (2) }\n",
        with: "",
        step: "rows",
        says: &["`select count(*) from small` on client to s is `2`", "\n1\n"],
    },
    Spoilt {
        lesson: ("small", SMALL),
        what: "{ role: standby, on: s, within: 3 }",
        with: "{ role: primary, on: s, within: 1 }",
        step: "rows",
        says: &["s is primary", "standby", "psql service=lab-rw"],
    },
    Spoilt {
        lesson: ("small", SMALL),
        what: "      - { shell: echo done by hand, on: client }\n",
        with: "      - { writer: stop }\n      - { sql: delete from lesson_writes where n = 1, on: client }\n",
        step: "kept",
        says: &["acknowledged writes that are not there", "1 lost [1]"],
    },
    Spoilt {
        lesson: ("small", SMALL),
        what: "      - { writer: start, on: client }\n",
        with: "      - { writer: start, on: client }\n      - { writer: stop }\n",
        step: "rows",
        says: &["writes go on", "0 new writes"],
    },
    Spoilt {
        lesson: ("small", SMALL),
        what: "      - { sql: select 1 / 0 as a_line_for_the_log, on: m, fails: division by zero }\n",
        with: "      - { sql: select 1 / 1 as a_line_for_the_log, on: m, fails: division by zero }\n",
        step: "kept",
        says: &["a_line_for_the_log", "it succeeded, and should have failed"],
    },
];

/// The same for lessons that are shipped: the student forgot something.
const SPOILT_SHIPPED: [Spoilt; 2] = [
    Spoilt {
        lesson: ("split-brain", include_str!("../../lessons/split-brain.yaml")),
        what: "      - { sql: select pg_promote(), on: s, database: postgres }\n",
        with: "",
        step: "two-primaries",
        says: &[
            "**Expected**: s is primary. After",
            "```text\nstandby\n```",
            "pgprov psql s -- -c 'select pg_promote()'",
        ],
    },
    Spoilt {
        lesson: ("hot-standby", include_str!("../../lessons/hot-standby.yaml")),
        what: "      - pgprov: fault cut m\n",
        with: "      - { wait: 1 }\n",
        step: "failure",
        says: &["**Expected**: no write is acknowledged for 2 s.", "the last one ", "pgprov fault cut m"],
    },
];

/// The small lesson holds; spoilt it is red, with the step, what was expected and what was seen.
pub fn spoilt(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let file = suite.file("small.yaml", SMALL)?.display().to_string();
    let grade = || suite.pgprov(["lesson", "check", &file, "--lab", lab.name]).limit(60);
    grade().run()?.exits(1)?.says("relation \"small\" does not exist")?;
    play(&lab, &file, &[], 120)?.held()?;
    grade().ok()?.says("✓ held")?;
    grade().args(["--step", "rows"]).ok()?.says("6 of 6")?;
    // Left to a student who does nothing: the lesson says what is missing, hints come, and the step fails.
    let options = ["--interactive", "--patience", "4"];
    let text = SMALL.replace("select count(*) from small", "select count(*) from nothing");
    let nothing = suite.file("small.yaml", &text)?.display().to_string();
    let played = play(&lab, &nothing, &options, 120)?;
    played.output.clone().exits(1)?.says("hint: psql service=lab-rw")?;
    ensure!(played.evidence["steps"][0]["outcome"] == "failed", "expected the first step to fail");
    // One who does what the hints say gets to the end.
    let file = suite.file("small.yaml", SMALL)?.display().to_string();
    student::plays(&lab, &file, &[], 120)?.held()?;
    // A student who asks, goes past the step, and gives up.
    let run = suite.pgprov(["lesson", "run", &file, "--interactive", "--lab", lab.name]);
    let said = run.input("h\ns\nq\n").limit(60).run()?.exits(1)?.says("hint: Connect to the primary.")?;
    said.says("– skipped")?.says("step rows was not done")?;
    for spoilt in &SPOILT {
        let text = SMALL.replacen(spoilt.what, spoilt.with, 1);
        red(&lab, "small", &text, spoilt)
            .with_context(|| format!("with `{}` for `{}`", spoilt.with.trim(), spoilt.what.trim()))?;
    }
    Ok(())
}

fn red(lab: &Lab<'_>, name: &str, text: &str, spoilt: &Spoilt) -> Result<()> {
    ensure!(spoilt.lesson.1.contains(spoilt.what), "expected that in the lesson");
    let file = lab.suite.file(&format!("{name}.yaml"), text)?;
    let options: &[&str] = if name == "small" { &[] } else { &["--reset"] };
    let played = play(lab, &file.display().to_string(), options, 200)?;
    let output = played.output.clone().exits(1)?.says(&format!("step {} failed", spoilt.step))?;
    let report = played.text("report.md")?;
    for text in spoilt.says {
        ensure!(report.contains(text), "expected {text:?} in the report\n{report}\nof\n{output}");
    }
    let cases = played.text("junit.xml")?;
    let begin = format!("<testcase classname=\"{name}\" name=\"{}\"", spoilt.step);
    let case = cases.split(&begin).nth(1).and_then(|rest| rest.split("</testcase>").next());
    ensure!(case.is_some_and(|case| case.contains("<failure message=")), "expected a failure in\n{cases}");
    Ok(())
}
