//! What was done and seen while a lesson ran: everything that a report is made of. Times are seconds since 1970 on the
//! clock of the machine that ran the lesson.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Seconds between acknowledged writes from which on it is an outage.
const OUTAGE: f64 = 1.5;

/// How a lesson was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The lesson did everything by itself.
    Demonstration,
    /// The student did it.
    Interactive,
    /// Only the present state was looked at.
    Check,
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Everything held.
    Held,
    /// Something failed, or did not hold.
    Failed,
    /// The student went past it.
    Skipped,
    /// The lesson had ended before.
    NotReached,
}

/// All of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Evidence {
    /// Name of the lesson.
    pub lesson: String,
    /// Its title.
    pub title: String,
    /// Its goal.
    pub goal: String,
    /// The lab.
    pub lab: String,
    /// Version of pgprov.
    pub version: String,
    /// How it was run.
    pub mode: Mode,
    /// When it began.
    pub began: f64,
    /// When it ended.
    pub ended: f64,
    /// The steps, in order.
    pub steps: Vec<Done>,
    /// What the writer was told.
    pub writes: Vec<Write>,
    /// Numbers of acknowledged rows that were not there at the end; nothing when nobody looked.
    pub lost: Option<Vec<u64>>,
    /// What hosts were, one after the other.
    pub roles: Vec<RoleFrom>,
    /// Lines of the logs of all hosts, in the order of time.
    pub logs: Vec<LogLine>,
}

/// A step that was done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Done {
    /// Its name.
    pub name: String,
    /// Its title.
    pub title: String,
    /// Its task.
    pub text: String,
    /// When it began.
    pub began: f64,
    /// When it ended.
    pub ended: f64,
    /// What became of it.
    pub outcome: Outcome,
    /// What was done.
    pub acts: Vec<Acted>,
    /// What was checked.
    pub checks: Vec<Checked>,
    /// Hints that were shown.
    pub hints: Vec<String>,
}

/// Something that was done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Acted {
    /// When it began.
    pub at: f64,
    /// Where: a host, or nothing for the machine that ran the lesson.
    pub host: Option<String>,
    /// As a student would type it.
    pub command: String,
    /// What it printed, errors last.
    pub output: String,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// Seconds it took.
    pub took: f64,
}

/// Something that was checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Checked {
    /// In words.
    pub what: String,
    /// Whether it held.
    pub held: bool,
    /// What was seen at last.
    pub observed: String,
    /// Seconds until it held, or until nobody waited any longer.
    pub waited: f64,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// Acknowledged: it has to be there for ever.
    Ok,
    /// It may be there or not.
    Unknown,
    /// It is not there.
    Failed,
}

/// A try of the writer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Write {
    /// Its number.
    pub number: u64,
    /// When it began.
    pub begin: f64,
    /// When its answer was there.
    pub end: f64,
    /// What became of it.
    pub fate: Fate,
    /// The first line of the answer, when it was not acknowledged.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub answer: String,
}

/// From when on a host was what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoleFrom {
    /// The host.
    pub host: String,
    /// Since when.
    pub from: f64,
    /// `primary`, `standby`, `down`.
    pub role: String,
}

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// When.
    pub at: f64,
    /// The host.
    pub host: String,
    /// The role whose log it is.
    pub source: String,
    /// The line, without its time.
    pub text: String,
}

/// A time without acknowledged writes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outage {
    /// The last acknowledgement before.
    pub from: f64,
    /// The first one after.
    pub to: f64,
}

impl Outage {
    /// Its length in seconds.
    pub fn seconds(self) -> f64 {
        self.to - self.from
    }
}

impl Evidence {
    /// Whether everything held.
    pub fn held(&self) -> bool {
        self.steps.iter().all(|step| step.outcome == Outcome::Held)
    }

    /// The acknowledged writes.
    pub fn acknowledged(&self) -> usize {
        self.writes.iter().filter(|write| write.fate == Fate::Ok).count()
    }

    /// Times without acknowledged writes, in order.
    pub fn outages(&self) -> Vec<Outage> {
        gaps(&self.writes).into_iter().filter(|gap| gap.seconds() >= OUTAGE).collect()
    }

    /// How long clients could not write at the longest: the recovery time as they saw it.
    pub fn rto(&self) -> Option<Outage> {
        self.outages().into_iter().max_by(|a, b| a.seconds().total_cmp(&b.seconds()))
    }
}

/// The times between acknowledged writes.
pub fn gaps(writes: &[Write]) -> Vec<Outage> {
    let ok: Vec<f64> = writes.iter().filter(|write| write.fate == Fate::Ok).map(|write| write.end).collect();
    ok.windows(2).map(|pair| Outage { from: pair[0], to: pair[1] }).collect()
}

/// The longest time without an acknowledged write that ended after `since`, in seconds; one that goes on at `now` counts.
pub fn outage(writes: &[Write], since: f64, now: f64) -> f64 {
    let last = writes.iter().rev().find(|write| write.fate == Fate::Ok);
    let open = last.map(|write| Outage { from: write.end, to: now });
    let all = gaps(writes).into_iter().chain(open).filter(|gap| gap.to > since);
    all.map(Outage::seconds).fold(0.0, f64::max)
}

/// One line of a loop on a host: number, begin, end, answer; times become ours by `ahead`, the seconds that the host's clock is
/// ahead. The last line may be half written.
pub fn tries(text: &str, ahead: f64) -> Vec<(u64, f64, f64, String)> {
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let line = |line: &str| {
        let mut parts = line.splitn(4, ' ');
        let number = parts.next()?.parse().ok()?;
        let begin: f64 = parts.next()?.parse().ok()?;
        let end: f64 = parts.next()?.parse().ok()?;
        Some((number, begin - ahead, end - ahead, parts.next()?.to_owned()))
    };
    whole.lines().filter_map(line).collect()
}

/// What the writer's tries mean. Whatever is not plainly acknowledged or refused is not known.
pub fn writes(text: &str, ahead: f64) -> Vec<Write> {
    let write = |(number, begin, end, answer): (u64, f64, f64, String)| {
        let refused = answer.starts_with("ERROR:") || answer.starts_with("psql: error: connection to server");
        let (fate, answer) = match answer.as_str() {
            "ok" => (Fate::Ok, String::new()),
            _ if refused => (Fate::Failed, answer),
            _ => (Fate::Unknown, answer),
        };
        Write { number, begin, end, fate, answer }
    };
    tries(text, ahead).into_iter().map(write).collect()
}

/// What a host was, from the answers of the loop that asked it.
pub fn roles(host: &str, text: &str, ahead: f64) -> Vec<RoleFrom> {
    let mut all: Vec<RoleFrom> = Vec::new();
    for (_, begin, _, answer) in tries(text, ahead) {
        let role = if matches!(answer.as_str(), "primary" | "standby") { answer } else { "down".to_owned() };
        if all.last().is_none_or(|last| last.role != role) {
            all.push(RoleFrom { host: host.to_owned(), from: begin, role });
        }
    }
    all
}

/// Numbers of acknowledged rows that are not among those that are there.
pub fn lost(writes: &[Write], there: &BTreeSet<u64>) -> Vec<u64> {
    let acknowledged = writes.iter().filter(|write| write.fate == Fate::Ok);
    acknowledged.map(|write| write.number).filter(|number| !there.contains(number)).collect()
}
