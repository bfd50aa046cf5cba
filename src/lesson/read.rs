//! Text to lesson, by the same machinery as topologies: every finding in one pass, with place and hint.

use std::collections::BTreeSet;

use pgplan::{
    finding::{Finding, Findings},
    lab::POSTGRES_ROLE,
    schema::{Loaded, load},
    suggest::did_you_mean,
    yaml::Limits,
};
use regex_lite::Regex;
use serde_json::Value as Json;

use super::{Act, Check, Lesson, Switch, Writes};

/// Names that stand in commands in braces, and what they become; `docs/lessons.md` explains them.
pub const NAMES: [&str; 6] = ["lab", "bin", "data", "conf", "unit", "replication"];

/// A lesson, when no finding is an error, and the findings in the order of the text.
pub fn read(text: &str) -> (Option<Lesson>, Vec<Finding>) {
    let mut loaded: Loaded<Lesson> = load(text, Limits::default());
    let mut findings = std::mem::take(&mut loaded.findings);
    if let Some(lesson) = &loaded.value {
        Reading { lesson, loaded: &loaded, findings: &mut findings }.all();
    }
    loaded.findings = findings;
    loaded.finish()
}

/// The JSON Schema of lessons, for editors.
pub fn schema() -> Json {
    let mut schema = schemars::schema_for!(Lesson);
    schema.insert("title".to_owned(), "pgprov lesson".into());
    schema.to_value()
}

struct Reading<'a> {
    lesson: &'a Lesson,
    loaded: &'a Loaded<Lesson>,
    findings: &'a mut Findings,
}

impl Reading<'_> {
    fn all(&mut self) {
        let mut names = BTreeSet::new();
        let (mut writes, mut started) = (Vec::new(), false);
        for (index, step) in self.lesson.steps.iter().enumerate() {
            let index = index.to_string();
            let at = ["steps", &index];
            if !names.insert(step.name.as_str()) {
                self.error(&[at[0], at[1], "name"], format!("there are two steps `{}`", step.name), None);
            }
            if step.acts.is_empty() && step.check.is_empty() {
                self.error(&at, "a step has something to do, or something to check".into(), None);
            }
            for (number, act) in step.acts.iter().enumerate() {
                started |= act.writer.is_some();
                self.act(&[at[0], at[1], "do", &number.to_string()], act);
            }
            for (number, check) in step.check.iter().enumerate() {
                let number = number.to_string();
                let place = [at[0], at[1], "check", &number];
                self.check(&place, check);
                if check.writes.is_some() && !started {
                    writes.push(place.map(str::to_owned));
                }
            }
        }
        for place in writes {
            let place: Vec<&str> = place.iter().map(String::as_str).collect();
            let hint = "start it in this step or one before: do: [{ writer: start, on: client }]";
            self.error(&place, "no step before this check starts the writer".into(), Some(hint.into()));
        }
        for (number, check) in self.lesson.grade.iter().enumerate() {
            let number = number.to_string();
            self.check(&["grade", &number], check);
            if check.writes.is_some() || check.took.is_some() || check.log.is_some() {
                let message = "what the lab is like at the end has no writer, no time and no log";
                self.error(&["grade", &number], message.into(), None);
            }
        }
    }

    fn act(&mut self, at: &[&str], act: &Act) {
        const KINDS: &str = "pgprov, sql, shell, load, writer, wait, prompt";
        self.one_of(at, &act.kinds(), "does", KINDS);
        let writer = act.writer == Some(Switch::Start);
        let host = act.sql.is_some() || act.shell.is_some() || act.load.is_some() || writer;
        self.host(at, "on", act.on.as_deref(), host);
        self.target(at, act.on.as_deref(), act.to.as_deref(), act.sql.is_some());
        self.pattern(at, "fails", act.fails.as_deref());
        if let Some(line) = &act.pgprov
            && shlex::split(line).is_none_or(|words| words.is_empty())
        {
            self.error(
                &[at, &["pgprov"]].concat(),
                "this is no command line: are all quotes closed?".into(),
                None,
            );
        }
    }

    fn check(&mut self, at: &[&str], check: &Check) {
        const KINDS: &str = "sql, shell, log, role, lag, metric, file, writes, took";
        self.one_of(at, &check.kinds(), "checks", KINDS);
        let host = check.writes.is_none() && check.took.is_none();
        self.host(at, "on", check.on.as_deref(), host && !check.kinds().is_empty());
        self.host(at, "of", check.of.as_deref(), check.lag.is_some());
        self.target(at, check.on.as_deref(), check.to.as_deref(), check.sql.is_some());
        for (key, pattern) in [("log", &check.log), ("matches", &check.matches), ("fails", &check.fails)] {
            self.pattern(at, key, pattern.as_deref());
        }
        let compares = check.equals.is_some()
            || check.matches.is_some()
            || check.rows.is_some()
            || check.at_least.is_some()
            || check.at_most.is_some()
            || check.grows;
        let printed = check.sql.is_some() || check.shell.is_some() || check.metric.is_some();
        if check.sql.is_some() && !compares && check.fails.is_none() && !self.is_torn(at) {
            let hint = "allowed: equals, matches, rows, at_least, at_most, grows, fails";
            self.error(at, "nothing is expected of this SQL".into(), Some(hint.into()));
        }
        let numbers = matches!(check.writes, Some(Writes::Outage | Writes::Kept));
        if compares && !printed && check.file.is_none() && !numbers {
            self.error(at, "this check prints nothing that could be compared".into(), None);
        }
        if matches!(check.writes, Some(Writes::StandStill)) && check.stays == 0 {
            self.error(at, "`writes: stand-still` needs `stays`: for how long".into(), None);
        }
        if check.of.is_some() && check.lag.is_none() {
            self.error(at, "`of` belongs to `lag`".into(), None);
        }
    }

    /// Whether something in there was refused: what is missing then says nothing.
    fn is_torn(&self, at: &[&str]) -> bool {
        self.loaded.has_holes(&self.loaded.locate(at).path)
    }

    fn one_of(&mut self, at: &[&str], kinds: &[&str], does: &str, allowed: &str) {
        let message = match kinds {
            [_] => return,
            [] if self.is_torn(at) => return,
            [] => format!("it does not say what it {does}"),
            several => format!("it {does} several things: {}", several.join(", ")),
        };
        self.error(at, message, Some(format!("exactly one of: {allowed}")));
    }

    fn host(&mut self, at: &[&str], key: &str, host: Option<&str>, needed: bool) {
        match host {
            None if needed => self.error(at, format!("`{key}` is missing: on which host?"), None),
            Some(name) if !self.lesson.hosts.contains_key(name) => self.unknown(at, key, name),
            _ => {}
        }
    }

    fn target(&mut self, at: &[&str], on: Option<&str>, to: Option<&str>, sql: bool) {
        let Some(to) = to else { return };
        let server = on.and_then(|on| self.lesson.hosts.get(on)).is_some_and(|role| role == POSTGRES_ROLE);
        if !sql {
            self.error(at, "`to` belongs to `sql`".into(), None);
        } else if server {
            let hint = "services and passwords are on the client machine: connect from there";
            self.error(at, "a database host connects to itself only".into(), Some(hint.into()));
        } else if to != "rw" && to != "ro" && !self.lesson.hosts.contains_key(to) {
            self.unknown(at, "to", to);
        }
    }

    fn unknown(&mut self, at: &[&str], key: &str, name: &str) {
        let hosts: Vec<&str> = self.lesson.hosts.keys().map(String::as_str).collect();
        let hint = did_you_mean(name, hosts.iter().copied())
            .unwrap_or_else(|| format!("`hosts` of the lesson: {}", hosts.join(", ")));
        self.error(&[at, &[key]].concat(), format!("the lesson has no host `{name}`"), Some(hint));
    }

    fn pattern(&mut self, at: &[&str], key: &str, pattern: Option<&str>) {
        if let Some(Err(error)) = pattern.map(Regex::new) {
            self.error(&[at, &[key]].concat(), format!("this is no regular expression: {error}"), None);
        }
    }

    fn error(&mut self, at: &[&str], message: String, hint: Option<String>) {
        let place = self.loaded.locate(at);
        self.findings.add(|| Finding {
            hints: hint.into_iter().collect(),
            ..Finding::error(place.value, place.path, message)
        });
    }
}

/// Replaces names in braces by their values. Other braces stay: they belong to the shell or to SQL.
pub fn fill(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut filled = text.to_owned();
    for name in NAMES {
        let mark = format!("{{{name}}}");
        if filled.contains(&mark)
            && let Some(value) = value(name)
        {
            filled = filled.replace(&mark, &value);
        }
    }
    filled
}
