//! Plays a lesson: acts, checks, and keeps what was done and seen.

use std::{
    io::BufRead as _,
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use pgplan::render::RenderedHost;

use super::{
    super::context::OpenLab,
    hosts::{Hosts, now},
    loops::Loops,
    program,
};
use crate::{
    cli::Global,
    error::{Error, Result},
    lesson::{
        Act, Check, Language, Lesson, Role, Step, Switch,
        evidence::{Acted, Checked, Done, Evidence, Mode, Outcome},
        judge::Verdict,
        logs,
    },
    ui::Ui,
};

/// How often it is looked.
const TURN: Duration = Duration::from_millis(400);

/// What a student wants, while a step waits.
enum Word {
    Hint,
    Skip,
    Quit,
    Enter,
}

/// Plays.
pub struct Player<'a> {
    ui: &'a Ui,
    global: &'a Global,
    lesson: &'a Lesson,
    language: Language,
    pub(super) hosts: Hosts<'a>,
    pub(super) loops: Loops,
    pub(super) began: f64,
    /// What the student types, when there is one.
    student: Option<Receiver<Word>>,
    quit: bool,
}

/// A step under way.
struct Stage {
    began: f64,
    /// When nobody waits any longer for a student.
    deadline: Option<Instant>,
    /// Hints that were shown, and all that there are.
    shown: Vec<String>,
    hints: Vec<String>,
    patience: Duration,
}

impl<'a> Player<'a> {
    /// A player for a lesson in a lab. Hosts are connected to when they are needed.
    pub fn new(
        ui: &'a Ui,
        global: &'a Global,
        lesson: &'a Lesson,
        open: &'a OpenLab,
        rendered: &'a [RenderedHost],
        language: Language,
    ) -> Self {
        Self {
            ui,
            global,
            lesson,
            language,
            hosts: Hosts::new(open, rendered),
            loops: Loops::default(),
            began: now(),
            student: None,
            quit: false,
        }
    }

    /// Plays all steps; with `patience`, in seconds a step, a student does what is to be done.
    ///
    /// # Errors
    /// The lab cannot be watched. That something does not hold is none.
    pub fn run(&mut self, patience: Option<u64>) -> Result<Evidence> {
        self.student = patience.map(|_| listen());
        for name in self.hosts.names() {
            self.hosts.ahead(&name).with_context(|| format!("cannot begin: {name} does not answer"))?;
        }
        self.loops.watch(&mut self.hosts)?;
        self.began = now();
        self.ui.say(&format!("{}\n\n{}\n", self.text(&self.lesson.title), self.text(&self.lesson.text)));
        if self.student.is_some() {
            self.ui.say("While a step waits: Enter looks again, h is a hint, s goes past the step, q ends the lesson.");
        }
        let mut steps: Vec<Done> = Vec::new();
        let end = self.end();
        for (number, step) in self.lesson.steps.iter().chain(end.as_ref()).enumerate() {
            let failed = steps.iter().any(|step| step.outcome == Outcome::Failed);
            if self.quit || failed && self.student.is_none() {
                steps.push(self.not_reached(step));
                continue;
            }
            self.ui.say(&format!("\n{}. {}", number + 1, self.text(&step.title)));
            steps.push(self.step(step, patience.map(Duration::from_secs)));
        }
        let mode = if patience.is_some() { Mode::Interactive } else { Mode::Demonstration };
        Ok(self.evidence(mode, steps))
    }

    /// Looks at the present state only: what `grade` says, or the checks of a step.
    ///
    /// # Errors
    /// There is no such step, or it cannot be checked by itself.
    pub fn grade(&mut self, wanted: Option<&str>) -> Result<Evidence> {
        let step = match wanted {
            Some(wanted) => {
                self.lesson.steps.iter().find(|step| step.name == wanted).cloned().ok_or_else(|| {
                    let names: Vec<&str> = self.lesson.steps.iter().map(|step| step.name.as_str()).collect();
                    Error::usage(format!("lesson {} has no step `{wanted}`", self.lesson.lesson))
                        .hint(format!("steps: {}", names.join(", ")))
                })?
            }
            None => self.end().ok_or_else(|| {
                Error::usage(format!("lesson {} does not say how it ends", self.lesson.lesson))
                    .hint("check one of its steps with --step")
            })?,
        };
        let mut only = Step { acts: Vec::new(), ..step };
        only.check.retain(|check| check.writes.is_none() && check.took.is_none());
        if only.check.is_empty() {
            return Err(Error::usage(format!(
                "step {} has nothing that can be checked afterwards",
                only.name
            )));
        }
        // Logs as far back as they go.
        self.began = 0.0;
        let done = self.step(&only, None);
        self.began = done.began;
        Ok(self.evidence(Mode::Check, vec![done]))
    }

    /// The last step: how the lab has to be at the end.
    fn end(&self) -> Option<Step> {
        let title = crate::lesson::Text::Languages(crate::lesson::Languages {
            en: "The lab at the end".to_owned(),
            ru: Some("Стенд в конце".to_owned()),
        });
        (!self.lesson.grade.is_empty()).then(|| Step {
            name: "end".to_owned(),
            title,
            text: None,
            acts: Vec::new(),
            check: self.lesson.grade.clone(),
            hints: Vec::new(),
        })
    }

    fn text(&self, text: &crate::lesson::Text) -> String {
        self.hosts.fill(text.get(self.language), None)
    }

    fn not_reached(&self, step: &Step) -> Done {
        Done {
            name: step.name.clone(),
            title: self.text(&step.title),
            text: String::new(),
            began: now(),
            ended: now(),
            outcome: Outcome::NotReached,
            acts: Vec::new(),
            checks: Vec::new(),
            hints: Vec::new(),
        }
    }

    fn step(&mut self, step: &Step, patience: Option<Duration>) -> Done {
        let text = step.text.as_ref().map(|text| self.text(text)).unwrap_or_default();
        if !text.is_empty() {
            self.ui.say(&format!("{text}\n"));
        }
        let mut done = Done { text, outcome: Outcome::Held, ..self.not_reached(step) };
        let patience = patience.filter(|_| self.student.is_some());
        let mut stage = Stage {
            began: done.began,
            deadline: patience.map(|patience| Instant::now() + patience),
            shown: Vec::new(),
            hints: self.hints(step),
            patience: patience.unwrap_or_default(),
        };
        if self.student.is_some() {
            for check in &step.check {
                let what = self.hosts.fill(&check.words(self.language), check.on.as_deref());
                self.ui.say(&format!("  … {what}"));
            }
        }
        for act in &step.acts {
            if self.student.is_some() && is_of_student(act) {
                continue;
            }
            let acted = self.act(act);
            let failed = acted.error.is_some();
            done.acts.push(acted);
            if failed {
                done.outcome = Outcome::Failed;
                break;
            }
        }
        for check in &step.check {
            if done.outcome != Outcome::Held {
                break;
            }
            let (checked, outcome) = self.check(check, &mut stage);
            let sign = if checked.held { "✓" } else { "✗" };
            self.ui.say(&format!("  {sign} {} ({:.1} s)", checked.what, checked.waited));
            if !checked.held {
                self.ui.say(&format!("    seen: {}", checked.observed));
            }
            done.checks.push(checked);
            done.outcome = outcome;
        }
        if done.outcome == Outcome::Failed && self.student.is_none() {
            stage.shown = step.hints.iter().map(|hint| self.text(hint)).collect();
        }
        Done { ended: now(), hints: stage.shown, ..done }
    }

    /// The hints of a step. The last one is what a demonstration does.
    fn hints(&self, step: &Step) -> Vec<String> {
        let acts = step.acts.iter().filter(|act| is_of_student(act));
        let line = |act: &Act| {
            let on = act.on.as_ref().map_or("$".to_owned(), |host| format!("{host}#"));
            format!("{on} {}", self.shown(act))
        };
        let all: Vec<String> = acts.map(line).collect();
        let solution = (!all.is_empty()).then(|| format!("a demonstration does this:\n{}", all.join("\n")));
        step.hints.iter().map(|hint| self.text(hint)).chain(solution).collect()
    }

    /// Does it.
    fn act(&mut self, act: &Act) -> Acted {
        let (at, begun) = (now(), Instant::now());
        let limit = Duration::from_secs(act.limit.into());
        let on = act.on.clone();
        let shown = self.shown(act);
        if !shown.is_empty() {
            let prompt = on.as_ref().map_or("$".to_owned(), |host| format!("{host}#"));
            self.ui.say(&format!("{prompt} {shown}"));
        }
        let done = self.perform(act, limit);
        let (output, error) = match done {
            Ok((output, error)) => (output, error),
            Err(error) => (String::new(), Some(format!("{error:#}"))),
        };
        let error = match (&act.fails, error) {
            (None, error) => error,
            (Some(pattern), None) => Some(format!("it succeeded, and should have failed with /{pattern}/")),
            (Some(pattern), Some(error)) => {
                let fits = regex_lite::Regex::new(pattern)
                    .is_ok_and(|it| it.is_match(&format!("{output}\n{error}")));
                (!fits).then(|| format!("it failed otherwise than with /{pattern}/: {error}"))
            }
        };
        if !output.trim().is_empty() {
            self.ui.say(crate::ui::printable(&output).trim_end());
        }
        if let Some(error) = &error {
            self.ui.say(&format!("  ✗ {error}"));
        }
        Acted { at, host: on, command: shown, output, error, took: begun.elapsed().as_secs_f64() }
    }

    /// As a student would type it.
    fn shown(&self, act: &Act) -> String {
        let on = act.on.as_deref();
        let fill = |text: &str| self.hosts.fill(text, on).trim_end().to_owned();
        if let Some(words) = &act.pgprov {
            format!("pgprov {}", fill(words))
        } else if let Some(sql) = &act.sql {
            let psql = self.hosts.psql(on.unwrap_or_default(), act.to.as_deref(), act.database.as_deref());
            format!("{}\n{}", psql.map(|(_, shown)| shown).unwrap_or_default(), fill(sql))
        } else if let Some(script) = &act.shell {
            fill(script)
        } else if let Some(load) = act.load {
            Loops::load_shown(self.hosts.lab(), load)
        } else if let Some(switch) = act.writer {
            let word = if switch == Switch::Start { "starts" } else { "stops" };
            format!("(the writer {word}: insert into lesson_writes ..., a row at a time)")
        } else {
            act.wait.map(|seconds| format!("sleep {seconds}")).unwrap_or_default()
        }
    }

    /// Output and error of an act.
    fn perform(&mut self, act: &Act, limit: Duration) -> anyhow::Result<(String, Option<String>)> {
        let on = act.on.as_deref().unwrap_or_default();
        if let Some(words) = &act.pgprov {
            let line = self.hosts.fill(words, None);
            let said = program::pgprov(self.global, self.hosts.lab(), &line, limit)?;
            return Ok((said.output, said.error));
        }
        let seen = if let Some(sql) = &act.sql {
            let (command, _) = self.hosts.psql(on, act.to.as_deref(), act.database.as_deref())?;
            let sql = self.hosts.fill(sql, act.on.as_deref());
            self.hosts.run(on, &format!("{command} -w -v ON_ERROR_STOP=1 -f -"), &sql, limit)?
        } else if let Some(script) = &act.shell {
            let script = self.hosts.fill(script, act.on.as_deref());
            // It ends with the first command that fails.
            self.hosts.run(on, "bash -e -s", &script, limit)?
        } else if let Some(load) = act.load {
            return Ok((self.loops.load(&mut self.hosts, on, load)?, None));
        } else {
            match (act.writer, act.wait, &act.prompt) {
                (Some(Switch::Start), ..) => self.loops.start_writer(&mut self.hosts, on)?,
                (Some(Switch::Stop), ..) => self.loops.stop_writer(&mut self.hosts)?,
                (_, Some(seconds), _) => thread::sleep(Duration::from_secs(seconds.into())),
                (.., Some(text)) => self.prompt(text),
                _ => {}
            }
            return Ok((String::new(), None));
        };
        let error = (!seen.ok).then(|| {
            let line = seen.complaint.lines().rev().find(|line| !line.trim().is_empty());
            line.map_or("it failed".to_owned(), |line| format!("it failed: {}", line.trim()))
        });
        Ok(([seen.text, seen.complaint].concat(), error))
    }

    /// Says something, and waits for Enter when somebody is there.
    fn prompt(&mut self, text: &crate::lesson::Text) {
        self.ui.say(&self.text(text));
        let Some(student) = &self.student else { return };
        self.ui.say("(Enter goes on)");
        if matches!(student.recv(), Ok(Word::Quit) | Err(_)) {
            self.quit = true;
        }
    }

    /// Looks until it holds, and whether it goes on holding.
    fn check(&mut self, check: &Check, stage: &mut Stage) -> (Checked, Outcome) {
        let what = self.hosts.fill(&check.words(self.language), check.on.as_deref());
        let begun = Instant::now();
        let (since, within) = (now(), Duration::from_secs(check.within.into()));
        let deadline = stage.deadline.unwrap_or(begun + within);
        let mut first = None;
        let mut holds: Option<Instant> = None;
        loop {
            let verdict = self.look(check, stage.began, since, &mut first);
            let Verdict { held, observed } = verdict.unwrap_or_else(|error| Verdict {
                held: check.role == Some(Role::Down),
                observed: format!("{error:#}"),
            });
            let checked = |held| Checked {
                what: what.clone(),
                held,
                observed: observed.clone(),
                waited: begun.elapsed().as_secs_f64(),
            };
            match holds {
                _ if held => {
                    let from = *holds.get_or_insert_with(Instant::now);
                    if from.elapsed() >= Duration::from_secs(check.stays.into()) {
                        return (checked(true), Outcome::Held);
                    }
                }
                Some(from) => {
                    let mut broken = checked(false);
                    broken.observed =
                        format!("it held for {:.1} s only: {observed}", from.elapsed().as_secs_f64());
                    return (broken, Outcome::Failed);
                }
                None if Instant::now() >= deadline => return (checked(false), Outcome::Failed),
                None => {}
            }
            if self.interrupted(stage) {
                return (checked(false), Outcome::Skipped);
            }
        }
    }

    /// Waits for the next look; whether the student goes past the step. Hints come by themselves, or when asked for.
    fn interrupted(&mut self, stage: &mut Stage) -> bool {
        let Some(student) = &self.student else {
            thread::sleep(TURN);
            return false;
        };
        let word = student.recv_timeout(TURN);
        let count = |list: &[String]| u32::try_from(list.len()).unwrap_or(u32::MAX);
        let (all, shown) = (count(&stage.hints), count(&stage.shown));
        let due = stage.deadline.is_some_and(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            stage.patience.saturating_sub(left) >= stage.patience / (all + 1) * (shown + 1)
        });
        if (due || matches!(word, Ok(Word::Hint)))
            && let Some(hint) = stage.hints.get(stage.shown.len()).cloned()
        {
            self.ui.say(&format!("  hint: {hint}"));
            stage.shown.push(hint);
        }
        match word {
            Ok(Word::Skip) => true,
            Ok(Word::Quit) => {
                self.quit = true;
                true
            }
            // Nobody types any more: the checks decide.
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                thread::sleep(TURN);
                false
            }
            _ => false,
        }
    }

    /// Collects what is left on the hosts.
    fn evidence(&mut self, mode: Mode, steps: Vec<Done>) -> Evidence {
        let writes = self.loops.writes(&mut self.hosts).unwrap_or_default();
        let lost = if writes.is_empty() { None } else { self.loops.lost(&mut self.hosts).ok().flatten() };
        let mut roles = self.loops.roles(&mut self.hosts);
        roles.retain(|role| role.from < now());
        self.loops.end(&mut self.hosts);
        let mut lines = Vec::new();
        for name in if mode == Mode::Check { Vec::new() } else { self.hosts.names() } {
            // A host that is off has nothing to tell.
            lines.extend(self.hosts.logs(&name, self.began).unwrap_or_default());
        }
        Evidence {
            lesson: self.lesson.lesson.clone(),
            title: self.text(&self.lesson.title),
            goal: self.text(&self.lesson.goal),
            lab: self.hosts.lab().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode,
            began: self.began,
            ended: steps.last().map_or_else(now, |step| step.ended),
            steps,
            writes,
            lost,
            roles,
            logs: logs::merge(lines),
        }
    }
}

/// Whether a student does it with `--interactive`, and not the lesson.
fn is_of_student(act: &Act) -> bool {
    !act.auto && act.prompt.is_none() && act.writer.is_none()
}

/// What the student types, line by line.
fn listen() -> Receiver<Word> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            let word = match line.trim() {
                "h" | "hint" => Word::Hint,
                "s" | "skip" => Word::Skip,
                "q" | "quit" => Word::Quit,
                _ => Word::Enter,
            };
            if sender.send(word).is_err() {
                break;
            }
        }
    });
    receiver
}
