//! What the screen knows: the last answer of each host, what happened, how fast rows are written.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use pgplan::{fault::Record, lab::Lab, observed::Infra};
use serde_json::{Map, Value};

use crate::{
    clock,
    commands::status::{self, Answers, HostStatus},
};

/// Events that are kept.
const EVENTS: usize = 200;
/// Figures that are kept.
const RATES: usize = 240;

/// Something new.
pub enum News {
    /// A host said something, or could not be asked.
    Said(String, anyhow::Result<Map<String, Value>>),
    /// The hypervisor was looked at, and the list of faults.
    Seen(Box<Infra>, Vec<Record>),
    /// Something happened.
    Happened(String),
}

/// What is known.
pub struct Model {
    /// The lab.
    pub lab: Lab,
    /// Its hosts as they are now, in the order of the topology.
    pub hosts: Vec<HostStatus>,
    /// The faults in force.
    pub faults: Vec<Record>,
    /// What happened, the last one first, each with its time of day in seconds (UTC).
    pub events: VecDeque<(u64, String)>,
    /// Rows written per second in the whole lab, the last one last.
    pub rates: VecDeque<u64>,
    answers: Answers,
    infra: Option<Infra>,
    /// Rows written, by host, and when that was known.
    counts: BTreeMap<String, (Instant, u64)>,
    chosen: usize,
}

impl Model {
    /// Nothing but the lab is known.
    pub fn new(lab: Lab) -> Self {
        let hosts = look(&lab, None, &Answers::new());
        Self {
            lab,
            hosts,
            faults: Vec::new(),
            events: VecDeque::new(),
            rates: VecDeque::new(),
            answers: Answers::new(),
            infra: None,
            counts: BTreeMap::new(),
            chosen: 0,
        }
    }

    /// The host that keys are about.
    pub fn selected(&self) -> &HostStatus {
        &self.hosts[self.chosen]
    }

    /// Its place in the list.
    pub fn chosen(&self) -> usize {
        self.chosen
    }

    /// Goes to another host.
    pub fn select(&mut self, by: isize) {
        let count = self.hosts.len();
        self.chosen = (self.chosen + count).saturating_add_signed(by) % count;
    }

    /// Takes something new in.
    pub fn learn(&mut self, news: News) {
        match news {
            News::Happened(text) => self.note(text),
            News::Seen(infra, faults) => {
                self.infra = Some(*infra);
                self.faults = faults;
                self.update();
            }
            News::Said(host, answer) => {
                self.answers.insert(host.clone(), answer);
                self.update();
                self.count(&host, Instant::now());
            }
        }
    }

    fn update(&mut self) {
        let known = self.infra.is_some();
        let new = look(&self.lab, self.infra.as_ref(), &self.answers);
        let asked = |host: &HostStatus| self.answers.contains_key(&host.name);
        let changes: Vec<String> = self
            .hosts
            .iter()
            .zip(&new)
            .filter(|(_, new)| known && asked(new))
            .flat_map(|(old, new)| changes(old, new))
            .collect();
        let two = |hosts: &[HostStatus]| hosts.iter().filter(|host| host.role == "primary").count() > 1;
        let split = two(&new) && !two(&self.hosts);
        self.hosts = new;
        for change in changes {
            self.note(change);
        }
        if split {
            self.note("TWO HOSTS ACCEPT WRITES".to_owned());
        }
    }

    /// Rows written since the host was asked the last time. Only a primary writes rows of its own.
    fn count(&mut self, host: &str, now: Instant) {
        let Some(seen) = self.hosts.iter().find(|seen| seen.name == host && seen.role == "primary") else {
            self.counts.remove(host);
            return;
        };
        let Some(writes) = seen.postgres.as_ref().and_then(|server| server.writes) else { return };
        if let Some((then, before)) = self.counts.insert(host.to_owned(), (now, writes)) {
            let seconds = now.duration_since(then).as_secs_f64().max(0.1);
            self.rates.push_back((writes.saturating_sub(before) as f64 / seconds).round() as u64);
            while self.rates.len() > RATES {
                self.rates.pop_front();
            }
        }
    }

    fn note(&mut self, text: String) {
        let now = clock::since_1970().as_secs();
        self.events.push_front((now % 86_400, text));
        self.events.truncate(EVENTS);
    }
}

/// The hosts as they are; one that has not been asked yet is not one that did not answer.
fn look(lab: &Lab, infra: Option<&Infra>, answers: &Answers) -> Vec<HostStatus> {
    let mut hosts = status::of_hosts(lab, infra, answers);
    for host in hosts.iter_mut().filter(|host| !answers.contains_key(&host.name)) {
        if host.state == "unreachable" {
            host.state = "asking".to_owned();
        }
    }
    hosts
}

/// What the agent of a host is doing.
pub fn phase(host: &HostStatus) -> &str {
    host.reports.get("agent").and_then(|report| report.get("phase")?.as_str()).unwrap_or("-")
}

/// What is different about a host, a sentence each.
fn changes(old: &HostStatus, new: &HostStatus) -> Vec<String> {
    let name = &new.name;
    let accepts = |host: &HostStatus| host.postgres.as_ref().map(|server| server.accepting);
    let mut changes = Vec::new();
    if old.state != new.state {
        changes.push(format!("{name} is {}", new.state));
    }
    if old.role != new.role && new.postgres.is_some() && old.postgres.is_some() {
        changes.push(format!("{name} is {} now", new.role));
    }
    if accepts(old) == Some(true) && accepts(new) == Some(false) {
        changes.push(format!("PostgreSQL on {name} does not answer"));
    }
    if accepts(old) == Some(false) && accepts(new) == Some(true) {
        changes.push(format!("PostgreSQL on {name} answers"));
    }
    if phase(old) != phase(new) && phase(new) != "-" {
        changes.push(format!("the agent of {name}: {}", phase(new)));
    }
    changes
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn model() -> Model {
        let hosts = json!({"m": {"roles": ["postgres"]}, "s": {"roles": ["postgres"], "follows": "m"}});
        let topology = serde_json::from_value(json!({"lab": "x", "hosts": hosts})).unwrap();
        let mut model = Model::new(pgplan::lab::derive(&topology, &Default::default()));
        for host in ["m", "s"] {
            model.learn(said(host, host == "s", 100, "sync"));
        }
        model
    }

    fn said(host: &str, in_recovery: bool, writes: u64, phase: &str) -> News {
        let said = json!({"base": {"uptime_seconds": 7}, "agent": {"phase": phase},
            "postgres": {"accepting": true, "in_recovery": in_recovery, "writes": writes}});
        News::Said(host.to_owned(), Ok(said.as_object().unwrap().clone()))
    }

    #[test]
    fn rows_of_primaries_are_counted() {
        let mut model = model();
        model
            .counts
            .insert("m".to_owned(), (Instant::now().checked_sub(Duration::from_secs(2)).unwrap(), 100));
        model.learn(said("m", false, 300, "sync"));
        assert!((80..=100).contains(model.rates.back().unwrap()), "{:?}", model.rates);
        model.learn(said("s", true, 900, "standby"));
        assert_eq!(model.rates.len(), 1, "what a standby counts is not its own");
    }

    #[test]
    fn hosts_are_gone_through_in_a_circle() {
        let mut model = model();
        assert_eq!(model.selected().name, "m");
        model.select(-1);
        assert_eq!(model.selected().name, "s");
        model.select(1);
        assert_eq!(model.selected().name, "m");
    }

    #[test]
    fn a_change_of_roles_is_an_event_and_two_primaries_are_an_alarm() {
        let old = model();
        let mut new = model();
        new.learn(said("s", false, 1, "solo"));
        assert_eq!(changes(&old.hosts[1], &new.hosts[1]), ["s is primary now", "the agent of s: solo"]);
        assert!(changes(&old.hosts[0], &new.hosts[0]).is_empty());
        assert_eq!(new.events[0].1, "TWO HOSTS ACCEPT WRITES");
        new.learn(News::Said("s".to_owned(), Err(anyhow::anyhow!("no answer"))));
        assert_eq!(new.hosts[1].state, "unreachable");
    }
}
