//! `pgprov dashboard`: what is shown of a lab, drawn from its own Prometheus. For places without Grafana.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use serde_json::{Value, json};
use ureq::Agent;

use super::context::OpenLab;
use crate::{
    cli::{Dashboard as Verb, DashboardPreview, Global},
    clock,
    dashboard::{Dashboard, Panel, Query, Series, page},
    error::{Error, Result},
    files,
    ui::{Ui, table},
};

/// The role of the host with Prometheus.
const ROLE: &str = "monitor";
/// How long one query may take.
const LIMIT: Duration = Duration::from_secs(20);
/// Points of a line.
const POINTS: u64 = 240;

/// What a panel shows, with how many series each of its queries gave; or why one was refused.
type Answer = std::result::Result<(Vec<Series>, Vec<usize>), String>;

/// Runs the verb.
///
/// # Errors
/// There is no such lab or dashboard, nobody watches the lab, Prometheus does not answer, or the page cannot be written.
pub fn run(ui: &Ui, global: &Global, verb: &Verb) -> Result {
    match verb {
        Verb::List => list(ui),
        Verb::Preview(args) => preview(ui, global, args),
    }
}

fn list(ui: &Ui) -> Result {
    let all = all()?;
    if ui.json() {
        let list: Vec<Value> = all
            .iter()
            .map(|(name, dashboard)| json!({"name": name, "title": dashboard.title, "panels": dashboard.panels.len()}))
            .collect();
        ui.out_json(&Value::Array(list));
        return Ok(());
    }
    let row = |(name, dashboard): (&String, &Dashboard)| {
        vec![name.clone(), dashboard.panels.len().to_string(), dashboard.title.clone()]
    };
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    ui.out(&table(&["DASHBOARD", "PANELS", "TITLE"], &rows));
    Ok(())
}

/// All dashboards by name.
fn all() -> Result<BTreeMap<String, Dashboard>> {
    files::dashboards()
        .into_iter()
        .map(|(name, text)| {
            let dashboard = serde_json::from_str(&text)
                .map_err(|error| Error::failed(format!("cannot read dashboard {name}: {error}")))?;
            Ok((name, dashboard))
        })
        .collect()
}

fn preview(ui: &Ui, global: &Global, args: &DashboardPreview) -> Result {
    let all = all()?;
    let dashboard = all.get(&args.name).ok_or_else(|| {
        let names: Vec<&str> = all.keys().map(String::as_str).collect();
        Error::usage(format!("there is no dashboard `{}`", args.name))
            .hint(format!("dashboards: {}", names.join(", ")))
    })?;
    let (open, _) = OpenLab::find(global, args.lab.lab.as_deref())?;
    let host = open.lab.with_role(ROLE).next().ok_or_else(|| {
        Error::usage(format!("nobody watches lab {}", open.lab.name)).hint(
            "add `monitoring: { engine: packages }` and the role, as in `client: { roles: [client, monitor] }`, and run `pgprov up` again",
        )
    })?;
    let prometheus = Prometheus::at(&format!("{}:9090", host.mgmt.address), args.minutes);
    let answers = dashboard.panels.iter().map(|panel| prometheus.panel(panel)).collect::<Result<Vec<_>>>()?;
    let empty: Vec<&str> = dashboard
        .panels
        .iter()
        .zip(&answers)
        .filter(|(_, answer)| answer.as_ref().map_or(true, |(series, _)| series.is_empty()))
        .map(|(panel, _)| panel.title.as_str())
        .collect();
    let subtitle = format!(
        "lab {}, the last {} minutes, as its Prometheus on {} knows them",
        open.lab.name, args.minutes, host.name
    );
    let shown: Vec<std::result::Result<Vec<Series>, String>> =
        answers.iter().map(|answer| answer.clone().map(|(series, _)| series)).collect();
    let text = page(dashboard, &subtitle, prometheus.from as f64, prometheus.to as f64, &shown);
    let file = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("{}.html", args.name)));
    fs::write(&file, text)
        .map_err(|error| Error::failed(format!("cannot write {}: {error}", file.display())))?;
    if ui.json() {
        let panels: Vec<Value> =
            dashboard.panels.iter().zip(&answers).map(|(panel, answer)| described(panel, answer)).collect();
        ui.out_json(&json!({"file": file, "panels": panels}));
        return Ok(());
    }
    let shown = dashboard.panels.len() - empty.len();
    ui.out(&format!("{}: {shown} of {} panels have data", file.display(), dashboard.panels.len()));
    if !empty.is_empty() {
        ui.say(&format!("without data: {}", empty.join(", ")));
    }
    Ok(())
}

fn described(panel: &Panel, answer: &Answer) -> Value {
    match answer {
        Ok((series, counts)) => {
            let query = |(query, count): (&Query, &usize)| json!({"query": query.expr, "series": count});
            let queries: Vec<Value> = panel.targets.iter().zip(counts).map(query).collect();
            json!({"title": panel.title, "series": series.len(), "queries": queries})
        }
        Err(why) => json!({"title": panel.title, "series": 0, "error": why}),
    }
}

/// The way to a lab's Prometheus, on the management network.
struct Prometheus {
    agent: Agent,
    address: String,
    from: u64,
    to: u64,
    minutes: u64,
    step: u64,
}

impl Prometheus {
    fn at(address: &str, minutes: u64) -> Self {
        let agent = Agent::config_builder()
            .timeout_global(Some(LIMIT))
            .http_status_as_error(false)
            .build()
            .new_agent();
        let to = clock::since_1970().as_secs();
        let seconds = minutes * 60;
        Self {
            agent,
            address: address.to_owned(),
            from: to.saturating_sub(seconds),
            to,
            minutes,
            step: (seconds / POINTS).max(5),
        }
    }

    /// The series of all queries of a panel, or why one was refused.
    fn panel(&self, panel: &Panel) -> Result<Answer> {
        let (mut all, mut counts) = (Vec::new(), Vec::new());
        for query in &panel.targets {
            let answer = self.ask(&query.promql(self.minutes))?;
            if answer["status"] != "success" {
                return Ok(Err(answer["error"].as_str().unwrap_or("Prometheus refused it").to_owned()));
            }
            let before = all.len();
            for series in answer["data"]["result"].as_array().into_iter().flatten() {
                let label = |name: &str| Some(series["metric"][name].as_str()?.to_owned());
                let points = series["values"].as_array().into_iter().flatten().filter_map(point).collect();
                all.push(Series { name: query.name(label), points });
            }
            counts.push(all.len() - before);
        }
        Ok(Ok((all, counts)))
    }

    fn ask(&self, promql: &str) -> Result<Value> {
        let url = format!("http://{}/api/v1/query_range", self.address);
        let form = [
            ("query", promql.to_owned()),
            ("start", self.from.to_string()),
            ("end", self.to.to_string()),
            ("step", self.step.to_string()),
        ];
        let answer = self.agent.post(&url).send_form(form);
        let text = answer.and_then(|mut answer| answer.body_mut().read_to_string()).map_err(|error| {
            Error::failed(format!("Prometheus at {} does not answer: {error}", self.address))
                .hint("`pgprov status` shows whether its host is up, `pgprov logs HOST --role monitor` what it says")
        })?;
        serde_json::from_str(&text).map_err(|error| {
            Error::failed(format!("cannot read the answer of Prometheus at {}: {error}", self.address))
        })
    }
}

/// `[1700000000.5, "1.5"]`
fn point(value: &Value) -> Option<(f64, f64)> {
    Some((value[0].as_f64()?, value[1].as_str()?.parse().ok()?))
}
