//! The agent of the arbiter.

use std::{sync::Arc, time::Duration};

use pgagent_core::{
    Member, Probe, Site, Time,
    arbiter::{self, Action, Arbiter, Durable, Event, Note},
};
use serde_json::{Value, json};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::Common;
use crate::{
    clock,
    control::{Call, Order, REST},
    log,
    metrics::Numbers,
    notify, probe,
    probe::Class,
};

struct Agent {
    common: Common,
    state: Arbiter,
    probes: [probe::Watch; 2],
    granted: u64,
    refused: u64,
}

/// Runs until told to stop.
pub async fn run(common: Common) -> Result<(), String> {
    let durable: Option<Durable> =
        common.remembered("no memory: nothing is granted until both data hosts were heard")?;
    let (news, mut incoming) = mpsc::channel::<(Site, Probe, Class, Duration)>(16);
    let probes = Site::ALL.map(|site| {
        let event = move |probe, class, took| (site, probe, class, took);
        probe::watch(common.config.clone(), common.identity.clone(), Member::Data(site), news.clone(), event)
    });
    let (state, actions) = Arbiter::start(durable, clock::random(), clock::now());
    let mut agent = Agent { common, state, probes, granted: 0, refused: 0 };
    agent.act(actions)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let mut watchdog = notify::Watchdog::default();
    let mut turn = tokio::time::interval(agent.common.config.times().heartbeat());
    loop {
        tokio::select! {
            _ = turn.tick() => {
                agent.publish();
                watchdog.feed(clock::now());
            }
            _ = agent.common.hangups.recv() => agent.common.reload(),
            Some(heard) = agent.common.messages.recv() => {
                let (from, message) = agent.common.hear(heard);
                if let Member::Data(site) = from {
                    agent.take(Event::Received(site, message))?;
                }
            }
            Some((site, probe, class, took)) = incoming.recv() => {
                agent.probes[site.index()].hear(class, took);
                agent.take(Event::Probed(site, probe))?;
            }
            Some(call) = agent.common.calls.recv() => agent.serve(call)?,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

impl Agent {
    fn take(&mut self, event: Event) -> Result<(), String> {
        let (state, actions) = arbiter::step(&self.common.config.times(), &self.state, clock::now(), event);
        self.state = state;
        for site in Site::ALL {
            self.probes[site.index()].want(self.state.wants_probes(site));
        }
        self.act(actions)
    }

    fn act(&mut self, actions: Vec<Action>) -> Result<(), String> {
        for action in actions {
            match action {
                Action::Persist(durable) => {
                    self.common
                        .store
                        .save(&durable)
                        .map_err(|error| format!("cannot save the state: {error}"))?;
                }
                Action::Send(site, message) => self.common.send(Member::Data(site), message),
                Action::Log(note) => self.note(&note),
            }
        }
        Ok(())
    }

    fn note(&mut self, note: &Note) {
        let name = |site: Site| self.common.config.hosts[site.index()].name.clone();
        match note {
            Note::Granted(request, record) => {
                self.granted += 1;
                let (from, ask) = (name(request.from()), format!("{:?}", request.ask));
                let (epoch, primary) = (record.epoch.to_string(), name(record.primary));
                log::line(
                    "info",
                    "granted",
                    &[("from", &from), ("ask", &ask), ("epoch", &epoch), ("primary", &primary)],
                );
            }
            Note::Refused(request, refusal) => {
                self.refused += 1;
                let (from, ask) = (name(request.from()), format!("{:?}", request.ask));
                log::line("info", "refused", &[("from", &from), ("ask", &ask), ("why", refusal.why())]);
            }
            Note::LostMemory(stamp) => {
                let known = format!("{stamp:?}");
                log::line(
                    "error",
                    "memory",
                    &[("lost", "a data host knows a newer record"), ("known", &known)],
                );
            }
            Note::Replaced => log::line("warn", "memory", &[("lost", "an operator wants a new record")]),
            Note::Adopted(record) => {
                let (epoch, primary) = (record.epoch.to_string(), name(record.primary));
                log::line("warn", "adopted", &[("epoch", &epoch), ("primary", &primary)]);
            }
        }
    }

    fn serve(&mut self, (order, answer): Call) -> Result<(), String> {
        let value = match order {
            Order::Status => self.status(),
            Order::Rest => {
                let until = clock::now() + REST;
                self.probes.iter_mut().for_each(|probe| probe.rest(until));
                json!({ "ok": true })
            }
            // Who is not heard cannot tell what it knows, and without it the cluster would stand.
            Order::Replace => match self.silent() {
                Some(host) => {
                    json!({ "error": format!("{host} is not heard, and both data hosts have to tell what they know") })
                }
                None => {
                    self.take(Event::Replace)?;
                    json!({ "ok": true })
                }
            },
            Order::Adopt => {
                self.take(Event::Adopt)?;
                match self.state.record() {
                    Some(_) => json!({ "ok": true }),
                    None => json!({ "error": "no data host has told this arbiter what it knows" }),
                }
            }
            Order::Node(_) => json!({ "error": "this host is the arbiter" }),
        };
        let _ = answer.send(value);
        Ok(())
    }

    /// A data host that has said nothing for the fence time.
    fn silent(&self) -> Option<&str> {
        let (now, fence) = (clock::now(), self.common.config.times().fence());
        let silent = |site: &Site| {
            let contact = &self.state.contacts[site.index()];
            // The start of this agent counts as a sign of life for leases, not here.
            contact.order == (0, Time(0)) || now.past(contact.heard, fence)
        };
        let silent = Site::ALL.into_iter().find(silent);
        silent.map(|site| self.common.name(site))
    }

    /// Something of each data host, by name.
    fn each(&self, of: impl Fn(Site) -> Value) -> Value {
        Site::ALL.into_iter().map(|site| (self.common.name(site).to_owned(), of(site))).collect()
    }

    fn status(&self) -> Value {
        let now = clock::now();
        let ago = |at: Time| json!(now.since(at).as_millis());
        let contact = |site: Site| &self.state.contacts[site.index()];
        let (why, next) = match self.state.record() {
            Some(_) => ("keeps the record", None),
            None => (
                "has no memory and waits until both data hosts have told what they know",
                Some("pgagent arbiter adopt"),
            ),
        };
        json!({
            "me": self.common.config.me,
            "phase": "arbiter",
            "why": why,
            "next": next,
            "record": self.state.record(),
            "primary": self.state.record().map(|record| self.common.name(record.primary)),
            "incarnation": self.state.durable.incarnation,
            "heard_ms_ago": self.each(|site| ago(contact(site).heard)),
            "granted_ms_ago": self.each(|site| contact(site).granted.map_or(Value::Null, ago)),
            "probe": self.each(|site| json!(self.probes[site.index()].last.map(|(class, _)| class.name()))),
            "timing": self.common.config.times(),
            "other_settings": self.common.differing(),
        })
    }

    fn publish(&self) {
        let now = clock::now();
        let mut numbers = Numbers::of(false);
        let record = self.state.record();
        numbers.add("has_memory", "", u8::from(record.is_some()));
        numbers.add("epoch", "", record.map_or(0, |record| record.epoch));
        numbers.add("record_version", "", record.map_or(0, |record| record.stamp.version));
        numbers.add("in_sync", "", u8::from(record.is_some_and(|record| record.in_sync)));
        numbers.add("granted_total", "", self.granted);
        numbers.add("refused_total", "", self.refused);
        for site in Site::ALL {
            let name = &self.common.config.hosts[site.index()].name;
            let seen = now.since(self.state.contacts[site.index()].heard).as_secs_f64();
            numbers.add("last_seen_seconds", &format!("of=\"{name}\""), seen);
            if let Some((class, took)) = self.probes[site.index()].last {
                numbers.add("probe_result", &format!("of=\"{name}\",class=\"{}\"", class.name()), 1);
                numbers.add("probe_seconds", &format!("of=\"{name}\""), took.as_secs_f64());
            }
        }
        numbers.add("other_settings", "", self.common.differing.len());
        let _ = self.common.numbers.send(Arc::new(numbers));
    }
}
