//! Lessons: exercises that check themselves, as data. A lesson is a YAML file (lessons/NAME.yaml) of steps that act and then
//! check; docs/lessons.md says how to write one. Here is everything about lessons that needs no lab: the format, what a check
//! makes of what was seen, and the report. `commands::lesson` does the rest.

pub mod evidence;
pub mod html;
pub mod judge;
pub mod junit;
pub mod logs;
pub mod plot;
pub mod read;
pub mod report;
#[cfg(test)]
mod tests;

use clap::ValueEnum;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;

/// A language that lessons speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// English
    #[default]
    En,
    /// Russian
    Ru,
}

/// Text for the student: in English alone, or in several languages.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Text {
    /// English.
    Plain(String),
    /// Several languages.
    Languages(Languages),
}

/// A text in several languages.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Languages {
    /// English.
    pub en: String,
    /// Russian.
    pub ru: Option<String>,
}

impl Text {
    /// The text in that language, or in English.
    pub fn get(&self, language: Language) -> &str {
        match (self, language) {
            (Self::Plain(text), _) => text.trim_end(),
            (Self::Languages(Languages { ru: Some(text), .. }), Language::Ru) => text.trim_end(),
            (Self::Languages(Languages { en, .. }), _) => en.trim_end(),
        }
    }
}

/// A guided exercise that checks itself.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lesson {
    /// Name of the lesson: the name of the file without `.yaml`.
    #[schemars(regex(pattern = r"^[a-z][a-z0-9-]{0,40}$"))]
    pub lesson: String,
    /// A few words.
    pub title: Text,
    /// What the student can do afterwards, in a sentence.
    pub goal: Text,
    /// What the student should know before: Markdown.
    pub text: Text,
    /// Name of the topology in topologies/ that it was written for. Any lab that has what `hosts` and `failover` say will do.
    pub topology: String,
    /// The hosts that the lesson speaks of, each with a role that it must have.
    #[schemars(extend("minProperties" = 1))]
    pub hosts: IndexMap<String, String>,
    /// Who fails over in the lab.
    pub failover: Option<Engine>,
    /// What is done and checked, in this order.
    #[schemars(length(min = 1))]
    pub steps: Vec<Step>,
    /// How the lab has to be at the end: what `lesson check` looks at.
    #[serde(default)]
    pub grade: Vec<Check>,
}

/// Who fails over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Nobody: failover is by hand.
    None,
    /// The agents of pgprov.
    Pgagent,
}

/// A step: something is done, then it is looked at.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Names the step in reports and on the command line.
    #[schemars(regex(pattern = r"^[a-z][a-z0-9-]{0,40}$"))]
    pub name: String,
    /// A few words.
    pub title: Text,
    /// The task: Markdown.
    pub text: Option<Text>,
    /// What is done, in this order. With `--interactive` the student does it.
    #[serde(default, rename = "do")]
    pub acts: Vec<Act>,
    /// What has to hold then, in this order.
    #[serde(default)]
    pub check: Vec<Check>,
    /// Shown one after the other to a student who does not get on, and with a step that failed.
    #[serde(default)]
    pub hints: Vec<Text>,
}

/// Something to do: exactly one of `pgprov`, `sql`, `shell`, `load`, `writer`, `wait`, `prompt`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Act {
    /// A command of pgprov without the program's name, as a student would type it: `fault cut m`.
    pub pgprov: Option<String>,
    /// SQL, run by psql on the host `on`.
    pub sql: Option<String>,
    /// A shell script, run as root on the host `on`.
    pub shell: Option<String>,
    /// Puts pgbench to work on the host `on`, in the background, through the service that finds the primary.
    pub load: Option<Load>,
    /// Starts or stops the writer on the host `on`: it inserts a row at a time, and remembers what it was told.
    pub writer: Option<Switch>,
    /// Waits so many seconds.
    #[schemars(range(min = 1, max = 600))]
    pub wait: Option<u32>,
    /// Says something to the student, who goes on with Enter; a demonstration goes on by itself.
    pub prompt: Option<Text>,
    /// The host.
    pub on: Option<String>,
    /// With `sql` on a host without PostgreSQL: a host to connect to, or `rw` (the primary, whichever host that is), or `ro` (a standby, if there is one).
    pub to: Option<String>,
    /// With `sql`: the database. Default: the first one of the topology.
    pub database: Option<String>,
    /// It has to fail, and to say something that matches this regular expression.
    pub fails: Option<String>,
    /// Done by the lesson itself, also with `--interactive`.
    #[serde(default)]
    pub auto: bool,
    /// Seconds it may take.
    #[serde(default = "act_seconds")]
    #[schemars(range(min = 1, max = 1800))]
    pub limit: u32,
}

/// How pgbench works.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// Sessions at once.
    #[schemars(range(min = 1, max = 50))]
    pub clients: u32,
    /// Transactions a second, all sessions together.
    #[schemars(range(min = 1, max = 10000))]
    pub rate: u32,
    /// Seconds after which it ends.
    #[schemars(range(min = 1, max = 3600))]
    pub seconds: u32,
}

/// Begin or end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// Begin.
    Start,
    /// End.
    Stop,
}

/// Something that has to hold: exactly one of `sql`, `shell`, `log`, `role`, `lag`, `metric`, `file`, `writes`, `took`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// What is checked, in words. Default: made from the rest.
    pub name: Option<Text>,
    /// SQL, run by psql on the host `on`; what it prints is compared.
    pub sql: Option<String>,
    /// A shell script, run as root on the host `on`; what it prints is compared.
    pub shell: Option<String>,
    /// A regular expression: a line of the logs of `on` since the lesson began matches it.
    pub log: Option<String>,
    /// What PostgreSQL on the host `on` is.
    pub role: Option<Role>,
    /// Bytes of WAL that the standby `of` may lack of what its primary `on` has written.
    pub lag: Option<u64>,
    /// Name of a metric of the agent on the host `on`; its value is compared.
    pub metric: Option<String>,
    /// Absolute path of a file on the host `on`: it is there, and its content is compared.
    pub file: Option<String>,
    /// What the writer was told.
    pub writes: Option<Writes>,
    /// Seconds that the step may have taken up to here.
    pub took: Option<u32>,
    /// The host.
    pub on: Option<String>,
    /// With `sql` on a host without PostgreSQL: a host to connect to, or `rw`, or `ro`.
    pub to: Option<String>,
    /// With `lag`: the standby.
    pub of: Option<String>,
    /// With `sql`: the database. Default: the first one of the topology.
    pub database: Option<String>,
    /// What is printed is this.
    #[schemars(extend("type" = ["string", "number", "null"]))]
    pub equals: Option<String>,
    /// What is printed matches this regular expression.
    pub matches: Option<String>,
    /// So many lines are printed.
    pub rows: Option<u64>,
    /// The number that is printed is at least this. With `writes: outage`: seconds.
    pub at_least: Option<f64>,
    /// The number that is printed is at most this. With `writes: outage`: seconds.
    pub at_most: Option<f64>,
    /// The number that is printed gets larger while it is looked at.
    #[serde(default)]
    pub grows: bool,
    /// It fails, and says something that matches this regular expression.
    pub fails: Option<String>,
    /// Seconds within which it has to hold.
    #[serde(default = "check_seconds")]
    #[schemars(range(min = 0, max = 1800))]
    pub within: u32,
    /// Seconds for which it has to go on holding, once it holds.
    #[serde(default)]
    #[schemars(range(min = 0, max = 600))]
    pub stays: u32,
}

/// What a PostgreSQL server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It takes writes.
    Primary,
    /// It replays another server's WAL.
    Standby,
    /// It does not answer.
    Down,
}

impl Role {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::Down => "down",
        }
    }
}

/// What is asked of the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Writes {
    /// New rows are acknowledged.
    GoOn,
    /// No row is acknowledged; use it with `stays`.
    StandStill,
    /// The longest time without an acknowledged row in this step is within `at_least` and `at_most`.
    Outage,
    /// Every acknowledged row is there; `at_most` so many are not.
    Kept,
}

fn act_seconds() -> u32 {
    120
}

fn check_seconds() -> u32 {
    10
}

impl Act {
    /// Its kind: the key that says what it does.
    pub fn kinds(&self) -> Vec<&'static str> {
        present([
            ("pgprov", self.pgprov.is_some()),
            ("sql", self.sql.is_some()),
            ("shell", self.shell.is_some()),
            ("load", self.load.is_some()),
            ("writer", self.writer.is_some()),
            ("wait", self.wait.is_some()),
            ("prompt", self.prompt.is_some()),
        ])
    }
}

impl Check {
    /// Its kind: the key that says what it looks at.
    pub fn kinds(&self) -> Vec<&'static str> {
        present([
            ("sql", self.sql.is_some()),
            ("shell", self.shell.is_some()),
            ("log", self.log.is_some()),
            ("role", self.role.is_some()),
            ("lag", self.lag.is_some()),
            ("metric", self.metric.is_some()),
            ("file", self.file.is_some()),
            ("writes", self.writes.is_some()),
            ("took", self.took.is_some()),
        ])
    }

    /// What has to hold, in words.
    pub fn words(&self, language: Language) -> String {
        if let Some(name) = &self.name {
            return name.get(language).to_owned();
        }
        let on = self.on.as_deref().unwrap_or_default();
        let what = if let Some(sql) = &self.sql {
            let to = self.to.as_ref().map(|to| format!(" to {to}")).unwrap_or_default();
            format!("`{}` on {on}{to}", judge::one_line(sql))
        } else if let Some(script) = &self.shell {
            format!("`{}` on {on}", judge::one_line(script))
        } else if let Some(pattern) = &self.log {
            return format!("the log of {on} has a line with /{pattern}/");
        } else if let Some(role) = self.role {
            let for_long = if self.stays > 0 { format!(" for {} s", self.stays) } else { String::new() };
            return format!("{on} is {}{for_long}", role.word());
        } else if let Some(bytes) = self.lag {
            return format!(
                "{} lags at most {bytes} bytes behind {on}",
                self.of.as_deref().unwrap_or_default()
            );
        } else if let Some(metric) = &self.metric {
            format!("{metric} of {on}")
        } else if let Some(file) = &self.file {
            format!("file {file} on {on}")
        } else if let Some(writes) = self.writes {
            match writes {
                Writes::GoOn => return "writes go on".to_owned(),
                Writes::StandStill => return format!("no write is acknowledged for {} s", self.stays),
                Writes::Outage => "seconds without an acknowledged write".to_owned(),
                Writes::Kept => "acknowledged writes that are not there".to_owned(),
            }
        } else {
            return format!("done within {} s", self.took.unwrap_or_default());
        };
        format!("{what} {}", judge::wanted(self)).trim_end().to_owned()
    }
}

fn present<const N: usize>(keys: [(&'static str, bool); N]) -> Vec<&'static str> {
    keys.into_iter().filter(|(_, there)| *there).map(|(key, _)| key).collect()
}
