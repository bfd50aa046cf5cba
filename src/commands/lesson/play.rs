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
    loops::{self, Loops},
    program,
};
use crate::{
    cli::Global,
    error::{Error, Result},
    lesson::{
        Act, Check, Language, Lesson, Role, Step, Switch, Writes,
        evidence::{Acted, Checked, Done, Evidence, Mode, Outcome, outage},
        judge::{self, Seen, Verdict},
        logs,
    },
    ssh::quote,
    ui::Ui,
};

/// How often it is looked.
const TURN: Duration = Duration::from_millis(400);
/// How long one look may take.
const LOOK: Duration = Duration::from_secs(30);
/// Writes that show that the writer gets on.
const GOES_ON: usize = 3;
/// Seconds without an acknowledgement after which the writer stands still.
const STANDS_STILL: f64 = 2.0;

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
    hosts: Hosts<'a>,
    loops: Loops,
    began: f64,
    /// What the student types, when there is one.
    student: Option<Receiver<Word>>,
    quit: bool,
}

/// A step under way.
struct Stage<'s> {
    step: &'s Step,
    began: f64,
    /// When nobody waits any longer for a student.
    deadline: Option<Instant>,
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
            let failed = steps.last().is_some_and(|last| last.outcome == Outcome::Failed);
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
            step,
            began: done.began,
            deadline: patience.map(|patience| Instant::now() + patience),
            hints: Vec::new(),
            patience: patience.unwrap_or_default(),
        };
        for act in &step.acts {
            if self.student.is_some() && !act.auto && act.prompt.is_none() && act.writer.is_none() {
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
            stage.hints = step.hints.iter().map(|hint| self.text(hint)).collect();
        }
        Done { ended: now(), hints: stage.hints, ..done }
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
        } else if act.load.is_some() {
            format!("pgbench service={}-rw (in the background)", self.hosts.lab())
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
            return Ok((loops::load(&mut self.hosts, on, load)?.1, None));
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
    fn check(&mut self, check: &Check, stage: &mut Stage<'_>) -> (Checked, Outcome) {
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
    fn interrupted(&mut self, stage: &mut Stage<'_>) -> bool {
        let Some(student) = &self.student else {
            thread::sleep(TURN);
            return false;
        };
        let word = student.recv_timeout(TURN);
        let all = u32::try_from(stage.step.hints.len()).unwrap_or(u32::MAX);
        let shown = u32::try_from(stage.hints.len()).unwrap_or(u32::MAX);
        let due = stage.deadline.is_some_and(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            stage.patience.saturating_sub(left) >= stage.patience / (all + 1) * (shown + 1)
        });
        if (due || matches!(word, Ok(Word::Hint)))
            && let Some(hint) = stage.step.hints.get(stage.hints.len())
        {
            let hint = self.text(hint);
            self.ui.say(&format!("  hint: {hint}"));
            stage.hints.push(hint);
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

    /// Looks once. `first` keeps what was seen first, for what has to grow.
    fn look(
        &mut self,
        check: &Check,
        began: f64,
        since: f64,
        first: &mut Option<String>,
    ) -> anyhow::Result<Verdict> {
        let on = check.on.as_deref().unwrap_or_default();
        let (to, database) = (check.to.as_deref(), check.database.as_deref());
        let seen = if let Some(sql) = &check.sql {
            let sql = self.hosts.fill(sql, check.on.as_deref());
            self.hosts.value(on, to, database, &sql, LOOK)?
        } else if let Some(script) = &check.shell {
            let script = self.hosts.fill(script, check.on.as_deref());
            self.hosts.run(on, "bash -s", &script, LOOK)?
        } else if let Some(pattern) = &check.log {
            return self.log(on, pattern);
        } else if let Some(role) = check.role {
            return self.role(on, role);
        } else if let Some(bytes) = check.lag {
            return self.lag(on, check.of.as_deref().unwrap_or_default(), bytes);
        } else if let Some(metric) = &check.metric {
            let url = self.hosts.metrics(on)?;
            let script = format!("curl -sf -m 5 {url} | sed -n 's/^{metric}\\({{[^}}]*}}\\)\\? //p'");
            self.hosts.run(on, "bash -s", &script, LOOK)?
        } else if let Some(file) = &check.file {
            let script = format!("head -c 65536 -- {}", quote(&self.hosts.fill(file, Some(on))));
            self.hosts.run(on, &script, "", LOOK)?
        } else if let Some(writes) = check.writes {
            return self.writes(check, writes, began, since);
        } else {
            let took = now() - began;
            let held = check.took.is_none_or(|limit| took <= f64::from(limit));
            return Ok(Verdict { held, observed: format!("{took:.1} s") });
        };
        let verdict = judge::compare(check, &seen, first.as_deref());
        if first.is_none() && seen.ok {
            *first = Some(seen.text);
        }
        Ok(verdict)
    }

    fn log(&mut self, on: &str, pattern: &str) -> anyhow::Result<Verdict> {
        const SHOWN: usize = 5;
        let pattern = regex_lite::Regex::new(pattern)?;
        let lines = self.hosts.logs(on, self.began)?;
        let fitting: Vec<&str> =
            lines.iter().filter(|line| pattern.is_match(&line.text)).map(|line| line.text.as_str()).collect();
        Ok(match fitting.len() {
            0 => Verdict { held: false, observed: format!("none of {} lines", lines.len()) },
            _ => Verdict { held: true, observed: fitting[..fitting.len().min(SHOWN)].join("\n") },
        })
    }

    fn role(&mut self, on: &str, wanted: Role) -> anyhow::Result<Verdict> {
        let seen = self.hosts.value(on, None, Some("postgres"), "select pg_is_in_recovery()", LOOK)?;
        let is = match (seen.ok, seen.text.trim()) {
            (true, "f") => Role::Primary,
            (true, "t") => Role::Standby,
            _ => Role::Down,
        };
        let observed = match is {
            Role::Down => format!("down: {}", seen.complaint.trim()),
            other => other.word().to_owned(),
        };
        Ok(Verdict { held: is == wanted, observed })
    }

    fn lag(&mut self, on: &str, of: &str, most: u64) -> anyhow::Result<Verdict> {
        let sql = format!(
            "select pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint from pg_stat_replication \
             where application_name = '{of}' and state = 'streaming' order by 1 desc limit 1"
        );
        let Seen { ok, text, complaint } = self.hosts.value(on, None, Some("postgres"), &sql, LOOK)?;
        let lag = text.trim().parse::<i64>().ok();
        let observed = match lag {
            Some(lag) => format!("{lag} bytes"),
            None if ok => format!("{of} does not stream from {on}"),
            None => complaint.trim().to_owned(),
        };
        Ok(Verdict { held: lag.is_some_and(|lag| lag <= i64::try_from(most).unwrap_or(i64::MAX)), observed })
    }

    fn writes(&mut self, check: &Check, wanted: Writes, began: f64, since: f64) -> anyhow::Result<Verdict> {
        let number =
            |seconds: f64| Seen { ok: true, text: format!("{seconds:.1}"), complaint: String::new() };
        if wanted == Writes::Kept {
            let lost = self.loops.lost(&mut self.hosts)?.unwrap_or_default();
            let most = check.at_most.unwrap_or(0.0);
            return Ok(Verdict {
                held: lost.len() as f64 <= most,
                observed: format!("{} lost {lost:?}", lost.len()),
            });
        }
        let writes = self.loops.writes(&mut self.hosts)?;
        let last = writes.iter().rev().find(|write| !write.answer.is_empty() && write.end >= began);
        let told = last.map(|write| format!("; at last it was told: {}", write.answer)).unwrap_or_default();
        Ok(match wanted {
            Writes::GoOn => {
                let count = loops::acknowledged_since(&writes, since);
                let told = if count < GOES_ON { told } else { String::new() };
                Verdict { held: count >= GOES_ON, observed: format!("{count} new writes{told}") }
            }
            Writes::StandStill => {
                let silent = loops::silent_for(&writes);
                Verdict {
                    held: silent >= STANDS_STILL,
                    observed: format!("the last one {silent:.1} s ago{told}"),
                }
            }
            Writes::Outage | Writes::Kept => {
                judge::compare(check, &number(outage(&writes, began, now())), None)
            }
        })
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
