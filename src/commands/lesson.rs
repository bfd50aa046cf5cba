//! `pgprov lesson`: exercises that check themselves. What a lesson is, and what its checks say, is in [`crate::lesson`].

mod hosts;
mod look;
mod loops;
mod play;
mod program;

use std::{fs, path::Path};

use anyhow::Context as _;
use pgplan::{excerpt, suggest};
use serde_json::{Value, json};

use super::context::OpenLab;
use crate::{
    cli::{self, Global, LessonCheck, LessonRun, LessonShow},
    error::{Error, Kind, Result},
    files,
    lesson::{
        Language, Lesson,
        evidence::{Evidence, Mode, Outcome},
        html, junit, plot, read, report,
    },
    ui::{self, Ui},
};

/// Runs the verb.
///
/// # Errors
/// There is no such lesson or lab, the lab is not what the lesson needs, or something did not hold.
pub fn run(ui: &Ui, global: &Global, verb: &cli::Lesson) -> Result {
    match verb {
        cli::Lesson::List(args) => list(ui, global, args.language),
        cli::Lesson::Show(args) => show(ui, global, args),
        cli::Lesson::Run(args) => play(ui, global, args),
        cli::Lesson::Check(args) => check(ui, global, args),
    }
}

fn list(ui: &Ui, global: &Global, language: Language) -> Result {
    let mut lessons = Vec::new();
    for (file, text) in files::lessons(global.assets.as_deref())? {
        lessons.push(parse(&format!("lessons/{file}"), &text)?);
    }
    if ui.json() {
        let values = lessons.iter().map(|lesson| {
            json!({"lesson": lesson.lesson, "title": lesson.title.get(language), "goal": lesson.goal.get(language),
                "topology": lesson.topology, "steps": lesson.steps.len()})
        });
        ui.out_json(&Value::Array(values.collect()));
        return Ok(());
    }
    let row = |lesson: &Lesson| {
        vec![
            lesson.lesson.clone(),
            lesson.topology.clone(),
            lesson.steps.len().to_string(),
            lesson.title.get(language).to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = lessons.iter().map(row).collect();
    ui.out(&ui::titled(ui, &["LESSON", "TOPOLOGY", "STEPS", "TITLE"], &rows));
    Ok(())
}

fn show(ui: &Ui, global: &Global, args: &LessonShow) -> Result {
    let lesson = find(global, &args.lesson)?;
    let language = args.language.language;
    let step = |step: &crate::lesson::Step| {
        json!({"name": step.name, "title": step.title.get(language),
            "text": step.text.as_ref().map(|text| text.get(language)),
            "checks": step.check.iter().map(|check| check.words(language)).collect::<Vec<_>>()})
    };
    if ui.json() {
        ui.out_json(&json!({"lesson": lesson.lesson, "title": lesson.title.get(language),
            "goal": lesson.goal.get(language), "text": lesson.text.get(language), "topology": lesson.topology,
            "hosts": lesson.hosts, "steps": lesson.steps.iter().map(step).collect::<Vec<_>>()}));
        return Ok(());
    }
    let hosts: Vec<String> = lesson.hosts.iter().map(|(name, role)| format!("{name} ({role})")).collect();
    let mut text = format!(
        "# {}\n\n{}\n\n{}\n\nTopology: {}; hosts: {}\n",
        lesson.title.get(language),
        lesson.goal.get(language),
        lesson.text.get(language),
        lesson.topology,
        hosts.join(", ")
    );
    for (number, step) in lesson.steps.iter().enumerate() {
        text.push_str(&format!("\n## {}. {} ({})\n", number + 1, step.title.get(language), step.name));
        if let Some(task) = &step.text {
            text.push_str(&format!("\n{}\n", task.get(language)));
        }
        for check in &step.check {
            text.push_str(&format!("\n* {}", check.words(language)));
        }
        text.push('\n');
    }
    ui.out(&text);
    Ok(())
}

/// The lesson of that name, or in that file.
fn find(global: &Global, wanted: &str) -> Result<Lesson> {
    if wanted.contains('/') || wanted.ends_with(".yaml") {
        let text = fs::read_to_string(wanted).with_context(|| format!("cannot read {wanted}"))?;
        return parse(wanted, &text);
    }
    let lessons = files::lessons(global.assets.as_deref())?;
    let Some(text) = lessons.get(&format!("{wanted}.yaml")) else {
        let names: Vec<&str> = lessons.keys().filter_map(|file| file.strip_suffix(".yaml")).collect();
        let error = Error::usage(format!("there is no lesson `{wanted}`"));
        let error = match suggest::did_you_mean(wanted, names.iter().copied()) {
            Some(hint) => error.hint(hint),
            None => error,
        };
        return Err(error.hint(format!("lessons: {}", names.join(", "))));
    };
    parse(&format!("lessons/{wanted}.yaml"), text)
}

fn parse(file: &str, text: &str) -> Result<Lesson> {
    let (lesson, findings) = read::read(text);
    let named = |lesson: &Lesson| Path::new(file).file_stem().is_some_and(|stem| *stem == *lesson.lesson);
    match lesson {
        Some(lesson) if named(&lesson) => Ok(lesson),
        Some(lesson) => {
            Err(Error::new(Kind::Invalid, format!("{file} says that its lesson is `{}`", lesson.lesson))
                .hint("a lesson is called as its file is, without .yaml"))
        }
        None => {
            let shown = excerpt::render(&findings, file, text);
            Err(Error::new(Kind::Invalid, format!("{file} has errors\n{}", shown.trim_end())))
        }
    }
}

fn play(ui: &Ui, global: &Global, args: &LessonRun) -> Result {
    let lesson = find(global, &args.lesson)?;
    let (open, assets) = OpenLab::find(global, args.lab.lab.as_deref())?;
    fits(&lesson, &open)?;
    if args.reset {
        ui.say("Going back to checkpoint ready.");
        let said = program::pgprov(global, &open.lab.name, "reset", program::RESET)?;
        if let Some(error) = said.error {
            return Err(Error::failed(format!("cannot reset the lab: {error}\n{}", said.output.trim_end())));
        }
    }
    let rendered = open.rendered(&assets)?;
    let patience = args.interactive.then_some(args.patience);
    let mut player = play::Player::new(ui, global, &lesson, &open, &rendered, args.language.language);
    let evidence = player.run(patience)?;
    let folder = match &args.report {
        Some(folder) => folder.clone(),
        None => {
            let name =
                format!("{}-{}", lesson.lesson, report::moment(evidence.began).replace([' ', ':'], "-"));
            open.state.topology().with_file_name("lessons").join(name)
        }
    };
    write(&folder, &evidence)?;
    ui.say(&format!("Report: {}", folder.join("report.html").display()));
    conclude(ui, &evidence)
}

fn check(ui: &Ui, global: &Global, args: &LessonCheck) -> Result {
    let lesson = find(global, &args.lesson)?;
    let (open, assets) = OpenLab::find(global, args.lab.lab.as_deref())?;
    fits(&lesson, &open)?;
    let rendered = open.rendered(&assets)?;
    let mut player = play::Player::new(ui, global, &lesson, &open, &rendered, args.language.language);
    let evidence = player.grade(args.step.as_deref())?;
    if let Some(folder) = &args.report {
        write(folder, &evidence)?;
    }
    conclude(ui, &evidence)
}

/// Whether the lab has what the lesson needs.
fn fits(lesson: &Lesson, open: &OpenLab) -> Result {
    use crate::lesson::Engine;
    use pgplan::topology::FailoverEngine;

    let hint = format!("lesson {} was written for topologies/{}.yaml", lesson.lesson, lesson.topology);
    for (name, role) in &lesson.hosts {
        if open.lab.host(name).is_none_or(|host| !host.has_role(role)) {
            let message = format!("lab {} has no host `{name}` with role {role}", open.lab.name);
            return Err(Error::usage(message).hint(hint));
        }
    }
    let fits = match lesson.failover {
        None => true,
        Some(Engine::None) => open.lab.failover.engine == FailoverEngine::None,
        Some(Engine::Pgagent) => open.lab.failover.engine == FailoverEngine::Pgagent,
    };
    match fits {
        true => Ok(()),
        false => {
            Err(Error::usage(format!("lab {} has another engine of failover", open.lab.name)).hint(hint))
        }
    }
}

/// Writes the report in all its forms, and the evidence that it is made of.
fn write(folder: &Path, evidence: &Evidence) -> Result {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (text, picture) = (report::markdown(evidence), plot::svg(evidence));
    let page = html::page(&evidence.title, &text, &picture);
    let all = [
        ("report.md", text),
        (report::PICTURE, picture),
        ("report.html", page),
        ("junit.xml", junit::xml(evidence)),
        ("evidence.json", serde_json::to_string_pretty(evidence)?),
    ];
    for (name, content) in all {
        let file = folder.join(name);
        fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Says how it went.
fn conclude(ui: &Ui, evidence: &Evidence) -> Result {
    if ui.json() {
        ui.out_json(&serde_json::to_value(evidence)?);
    } else {
        let row = |step: &crate::lesson::evidence::Done| {
            let held = step.checks.iter().filter(|check| check.held).count();
            let seconds = format!("{:.1}", step.ended - step.began);
            vec![
                step.name.clone(),
                report::mark(step.outcome).to_owned(),
                format!("{held} of {}", step.checks.len()),
                seconds,
            ]
        };
        let rows: Vec<Vec<String>> = evidence.steps.iter().map(row).collect();
        ui.out(&ui::titled(ui, &["STEP", "RESULT", "CHECKS", "SECONDS"], &rows));
        if evidence.mode != Mode::Check && !evidence.writes.is_empty() {
            let longest = evidence.rto().map_or(0.0, |gap| gap.seconds());
            let lost = evidence.lost.as_ref().map_or("not known".to_owned(), |lost| lost.len().to_string());
            ui.out(&format!(
                "acknowledged writes: {}, longest outage: {longest:.1} s, lost: {lost}",
                evidence.acknowledged()
            ));
        }
    }
    match evidence.steps.iter().find(|step| step.outcome != Outcome::Held) {
        None => Ok(()),
        Some(step) if step.outcome == Outcome::Failed => {
            let (message, details) = junit::failure(step);
            let error =
                Error::failed(format!("step {} failed: {message}\n{}", step.name, details.trim_end()));
            let error = step.hints.iter().fold(error, |error, hint| error.hint(hint.clone()));
            Err(match evidence.mode {
                Mode::Demonstration => {
                    error.hint("the lab is left as it is; heal it with `pgprov fault heal --all`, or go back with `pgprov reset`")
                }
                Mode::Interactive | Mode::Check => error,
            })
        }
        Some(step) => Err(Error::failed(format!("step {} was not done", step.name))),
    }
}
