//! What the agents said, for people and for programs.

use serde_json::json;

use super::agents::{Agent, Record, View, newest};
use crate::ui::{self, Ui};

/// All hosts in one table, the record below it, and what each host says.
pub fn status(ui: &Ui, lab: &str, views: &[View]) {
    let newest = newest(views);
    if ui.json() {
        let hosts: Vec<_> = views
            .iter()
            .map(|view| json!({ "host": view.host, "agent": view.all, "error": view.error }))
            .collect();
        let primary = newest.as_ref().and_then(|record| primary(views, record));
        let in_sync = newest.as_ref().is_some_and(|record| record.in_sync);
        ui.out_json(&json!({ "lab": lab, "primary": primary, "in_sync": in_sync, "hosts": hosts }));
        return;
    }
    ui.out(&table(ui, views));
    match &newest {
        Some(newest) => ui.out(&format!("\nrecord: {}", record(views, newest))),
        None => ui.out("\nrecord: none yet"),
    }
    for view in views {
        ui.out(&sentence(view));
    }
}

/// What each host says.
pub fn explain(ui: &Ui, views: &[View]) {
    if ui.json() {
        let rows: Vec<_> = views
            .iter()
            .map(|view| {
                let agent = view.agent.as_ref();
                json!({
                    "host": view.host,
                    "phase": agent.map(|agent| &agent.phase),
                    "why": agent.map(|agent| &agent.why).or(view.error.as_ref()),
                    "next": agent.and_then(|agent| agent.next.as_ref()),
                })
            })
            .collect();
        ui.out_json(&json!(rows));
        return;
    }
    for view in views {
        ui.out(&sentence(view));
    }
}

/// `m (sync): serves, and the standby can take over at any time`, and the command that helps.
pub fn sentence(view: &View) -> String {
    let text = match &view.agent {
        Some(agent) => {
            let next = agent.next.as_ref().map(|next| format!("; next: {}", from_outside(&view.host, next)));
            format!("{} ({}): {}{}", view.host, agent.phase, agent.why, next.unwrap_or_default())
        }
        None => format!("{}: {}", view.host, view.error.as_deref().unwrap_or("does not answer")),
    };
    ui::printable(&text)
}

/// A command of the agent's as it is typed here.
fn from_outside(host: &str, next: &str) -> String {
    match next.strip_prefix("pgagent ") {
        Some("promote --accept-data-loss") => format!("pgprov ha promote {host} --accept-data-loss"),
        Some("rejoin") => format!("pgprov ha rejoin {host}"),
        Some("status") => "pgprov ha status -o json".to_owned(),
        Some(words) => format!("pgprov ha {words}"),
        None => next.to_owned(),
    }
}

/// The record in a line.
pub fn record(views: &[View], record: &Record) -> String {
    let sync = if record.in_sync { "standby in sync" } else { "standby not in sync, nobody may take over" };
    let confirmed = if record.confirmed { "" } else { ", not confirmed" };
    let lossy = match record.lossy {
        0 => String::new(),
        times => format!(", {times} promotion(s) accepted the loss of data"),
    };
    let primary = primary(views, record).unwrap_or("?");
    let (incarnation, version) = (record.stamp.incarnation, record.stamp.version);
    format!(
        "epoch {}, primary {primary}{confirmed}, {sync}, version {incarnation}.{version}{lossy}",
        record.epoch
    )
}

fn primary<'a>(views: &'a [View], record: &Record) -> Option<&'a str> {
    let agents = views.iter().filter_map(|view| view.agent.as_ref());
    agents.filter(|agent| agent.record.as_ref() == Some(record)).find_map(|agent| agent.primary.as_deref())
}

fn table(ui: &Ui, views: &[View]) -> String {
    let rows: Vec<Vec<String>> = views.iter().map(row).collect();
    ui::titled(ui, &["HOST", "PHASE", "OPEN", "EPOCH", "HEARD", "LEASES", "PROBES"], &rows)
}

fn row(view: &View) -> Vec<String> {
    let dash = || "-".to_owned();
    let Some(agent) = &view.agent else {
        return [vec![view.host.clone(), "no answer".to_owned()], vec![dash(); 5]].concat();
    };
    let open = match (view.holds_data(), agent.open) {
        (false, _) => dash(),
        (true, true) => "yes".to_owned(),
        (true, false) => "no".to_owned(),
    };
    let epoch = agent.record.as_ref().map_or_else(dash, |record| record.epoch.to_string());
    let phase = if agent.maintenance { format!("{}, maintenance", agent.phase) } else { agent.phase.clone() };
    vec![view.host.clone(), phase, open, epoch, heard(agent), leases(agent), probes(agent)]
}

fn heard(agent: &Agent) -> String {
    let ago = |(host, ms): (&String, &u64)| format!("{host} {}", seconds(*ms));
    agent.heard_ms_ago.iter().map(ago).collect::<Vec<_>>().join(", ")
}

fn leases(agent: &Agent) -> String {
    let running = agent.lease_ms.iter().filter(|(_, ms)| **ms > 0);
    let text = running.map(|(host, ms)| format!("{host} {}", seconds(*ms))).collect::<Vec<_>>().join(", ");
    if text.is_empty() { "-".to_owned() } else { text }
}

fn probes(agent: &Agent) -> String {
    let one = |(host, class): (&String, &Option<String>)| Some(format!("{host} {}", class.as_ref()?));
    let text = agent.probe.iter().filter_map(one).collect::<Vec<_>>().join(", ");
    if text.is_empty() { "-".to_owned() } else { text }
}

fn seconds(ms: u64) -> String {
    match ms {
        0..=9_999 => format!("{:.1} s", ms as f64 / 1000.0),
        _ => format!("{} s", ms / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::{Color, Format};

    fn view(host: &str, all: serde_json::Value) -> View {
        let agent = serde_json::from_value(all.clone()).unwrap();
        View { host: host.to_owned(), agent: Some(agent), all: Some(all), error: None }
    }

    fn lab() -> Vec<View> {
        let record = json!({ "stamp": { "incarnation": 1, "version": 7 }, "epoch": 3, "in_sync": true, "confirmed": true, "lossy": 1 });
        let old = json!({ "stamp": { "incarnation": 1, "version": 6 }, "epoch": 3, "in_sync": false, "confirmed": true });
        let primary = json!({
            "phase": "sync", "open": true, "record": old, "primary": "m", "lease_ms": { "s": 0, "arbiter": 1800 },
            "heard_ms_ago": { "s": 30_000, "arbiter": 120 }, "probe": { "s": "timeout" }, "why": "serves",
        });
        let arbiter = json!({
            "phase": "arbiter", "record": record, "primary": "m", "heard_ms_ago": { "m": 90, "s": 40 },
            "probe": { "m": "answered", "s": null }, "why": "keeps the record", "next": "pgagent arbiter adopt",
        });
        let lost =
            View { host: "s".to_owned(), agent: None, all: None, error: Some("cannot reach it".to_owned()) };
        vec![view("m", primary), lost, view("arbiter", arbiter)]
    }

    #[test]
    fn a_table_of_all_hosts() {
        let ui = Ui::new(Format::Human, Color::Never, true, true);
        assert_eq!(
            table(&ui, &lab()),
            "HOST     PHASE      OPEN  EPOCH  HEARD               LEASES         PROBES\n\
             m        sync       yes   3      arbiter 0.1 s, s 30 s  arbiter 1.8 s  s timeout\n"
                .replace("HEARD               LEASES", "HEARD                  LEASES")
                + "s        no answer  -     -      -                      -              -\n\
                   arbiter  arbiter    -     3      m 0.1 s, s 0.0 s       -              m answered\n"
        );
    }

    #[test]
    fn the_newest_record_is_shown_whoever_knows_it() {
        let views = lab();
        let newest = newest(&views).unwrap();
        assert_eq!(
            record(&views, &newest),
            "epoch 3, primary m, standby in sync, version 1.7, 1 promotion(s) accepted the loss of data"
        );
    }

    #[test]
    fn commands_are_those_of_this_side() {
        assert_eq!(
            lab().iter().map(sentence).collect::<Vec<_>>(),
            [
                "m (sync): serves",
                "s: cannot reach it",
                "arbiter (arbiter): keeps the record; next: pgprov ha arbiter adopt"
            ]
        );
        assert_eq!(
            from_outside("s", "pgagent promote --accept-data-loss"),
            "pgprov ha promote s --accept-data-loss"
        );
    }
}
