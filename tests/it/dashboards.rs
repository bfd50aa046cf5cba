//! Dashboards and rules: made from one description, as dashboard-linter wants them, and asking only for what exists.

use std::collections::{BTreeMap, BTreeSet};

use pgplan::{schema, yaml::Limits};
use promql_parser::{
    label::{MatchOp, Matchers},
    parser::{self, Expr, VectorSelector},
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::runner::{files, read, repo};

/// dashboards/panels.yaml
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Description {
    dashboards: BTreeMap<String, Dashboard>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Dashboard {
    title: String,
    panels: Vec<Panel>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Panel {
    title: String,
    unit: String,
    kind: String,
    about: String,
    show: Vec<Query>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Query {
    query: String,
    legend: String,
}

/// What a variable of a dashboard is filled from, as Grafana writes it.
fn variable(name: &str, query: &str) -> Value {
    json!({
        "name": name, "label": name, "type": "query", "datasource": source(), "query": {"query": query, "refId": name},
        "definition": query, "refresh": 2, "multi": true, "includeAll": true, "allValue": ".+", "sort": 1, "hide": 0,
        "current": {"selected": true, "text": ["All"], "value": ["$__all"]}, "options": [], "regex": "", "skipUrlSync": false,
    })
}

fn source() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

fn made(name: &str, dashboard: &Dashboard) -> Value {
    let (mut x, mut y, mut row) = (0, 0, 0);
    let panels: Vec<Value> = dashboard
        .panels
        .iter()
        .enumerate()
        .map(|(index, panel)| {
            let (width, height) = if panel.kind == "stat" { (6, 5) } else { (12, 8) };
            if x + width > 24 {
                (x, y) = (0, y + row);
                row = 0;
            }
            let place = json!({"x": x, "y": y, "w": width, "h": height});
            x += width;
            row = row.max(height);
            made_panel(index + 1, panel, &place)
        })
        .collect();
    json!({
        "uid": format!("lab-{name}"), "id": null, "title": dashboard.title, "tags": ["lab"], "schemaVersion": 39, "version": 1,
        "editable": false, "graphTooltip": 1, "timezone": "utc", "refresh": "10s", "time": {"from": "now-30m", "to": "now"},
        "annotations": {"list": []}, "links": [], "panels": panels,
        "templating": {"list": [
            {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0, "options": [],
             "current": {"selected": true, "text": "Prometheus", "value": "lab-prometheus"}, "refresh": 1, "regex": ""},
            variable("job", "label_values(up, job)"),
            variable("instance", "label_values(up{job=~\"$job\"}, instance)"),
        ]},
    })
}

fn made_panel(id: usize, panel: &Panel, place: &Value) -> Value {
    let targets: Vec<Value> = panel
        .show
        .iter()
        .zip('A'..)
        .map(|(show, reference)| {
            let expr = show.query.replace("@i", "instance=~\"$instance\"").replace('@', "job=~\"$job\",instance=~\"$instance\"");
            let instant = panel.kind == "table";
            // A table of time series would show one series at a time.
            let format = if instant { "table" } else { "time_series" };
            json!({"refId": reference.to_string(), "expr": expr, "legendFormat": show.legend, "datasource": source(),
                   "instant": instant, "range": !instant, "format": format})
        })
        .collect();
    // All that the JSON schema of Grafana's own library calls required.
    let options = match panel.kind.as_str() {
        "stat" => {
            json!({"reduceOptions": {"calcs": ["lastNotNull"], "values": false}, "textMode": "auto", "colorMode": "value",
                   "graphMode": "area", "justifyMode": "auto", "orientation": "auto", "wideLayout": true,
                   "showPercentChange": false, "percentChangeColorMode": "standard"})
        }
        "timeseries" => {
            json!({"legend": {"showLegend": true, "displayMode": "list", "placement": "bottom", "calcs": []},
                   "tooltip": {"mode": "multi", "sort": "desc"}})
        }
        _ => json!({"showHeader": true, "frameIndex": 0}),
    };
    json!({
        "id": id, "title": panel.title, "description": panel.about, "type": panel.kind, "gridPos": place, "datasource": source(),
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []}, "options": options, "targets": targets,
    })
}

fn shipped() -> BTreeMap<String, Value> {
    let name = |path: &String| Some(path.strip_prefix("dashboards/")?.strip_suffix(".json")?.to_owned());
    let json =
        |path: &str| serde_json::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    files().iter().filter_map(|path| Some((name(path)?, json(path)))).collect()
}

#[test]
fn dashboards_are_current() {
    let (description, findings) =
        schema::load::<Description>(&read("dashboards/panels.yaml"), Limits::default()).finish();
    let description = description.unwrap_or_else(|| panic!("{findings:#?}"));
    assert!(findings.is_empty(), "{findings:#?}");
    let update = std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always");
    for (name, dashboard) in &description.dashboards {
        let path = format!("dashboards/{name}.json");
        let text = format!("{}\n", serde_json::to_string_pretty(&made(name, dashboard)).unwrap());
        if update {
            std::fs::write(repo(&path), &text).unwrap();
        }
        assert!(read(&path) == text, "{path} is out of date: run `make docs` and look at the difference");
    }
    let described: Vec<&String> = description.dashboards.keys().collect();
    assert_eq!(
        shipped().keys().collect::<Vec<_>>(),
        described,
        "dashboards/ has a file for each, and no other"
    );
}

/// The rules of dashboard-linter, and what Grafana trips over when files are provisioned.
#[test]
fn dashboards_follow_the_rules() {
    const UNITS: [&str; 7] = ["short", "s", "bytes", "Bps", "ops", "percentunit", "none"];
    let mut uids = BTreeSet::new();
    for (name, dashboard) in shipped() {
        assert!(uids.insert(dashboard["uid"].to_string()), "{name}: its uid is taken");
        assert_eq!(
            (dashboard["editable"].as_bool(), dashboard["id"].is_null()),
            (Some(false), true),
            "{name}"
        );
        assert!(
            dashboard["schemaVersion"].as_u64() >= Some(39) && dashboard.get("__inputs").is_none(),
            "{name}"
        );
        assert!(!dashboard.to_string().contains("${DS_"), "{name}: a source that an import would ask for");
        variables(&name, &dashboard);
        let mut taken = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            let place = format!("{name}: {}", panel["title"]);
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{place}: its id is taken");
            for key in ["title", "description"] {
                assert!(panel[key].as_str().is_some_and(|text| text.len() > 2), "{place} has no {key}");
            }
            let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap();
            assert!(UNITS.contains(&unit), "{place}: unit {unit}");
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{place}");
            assert!(
                panel["targets"].as_array().is_some_and(|targets| !targets.is_empty()),
                "{place} asks for nothing"
            );
            let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(at("x") + at("w") <= 24, "{place} is too far right");
            for cell in
                (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y)))
            {
                assert!(taken.insert(cell), "{place} lies on another panel");
            }
            for target in panel["targets"].as_array().unwrap() {
                let expr = target["expr"].as_str().unwrap();
                query_follows_the_rules(&place, expr);
            }
        }
    }
}

fn variables(name: &str, dashboard: &Value) {
    let all = dashboard["templating"]["list"].as_array().unwrap();
    let find = |wanted: &str| {
        all.iter().find(|it| it["name"] == wanted).unwrap_or_else(|| panic!("{name}: no variable {wanted}"))
    };
    assert_eq!(find("datasource")["label"], "Data source", "{name}");
    assert_eq!(
        find("datasource")["current"]["value"],
        "lab-prometheus",
        "{name}: the uid of templates/monitor/datasource.yml"
    );
    assert!(read("templates/monitor/datasource.yml").contains("uid: lab-prometheus"));
    for wanted in ["job", "instance"] {
        let it = find(wanted);
        assert_eq!(
            (&it["label"], &it["multi"], &it["allValue"]),
            (&json!(wanted), &json!(true), &json!(".+")),
            "{name}"
        );
        assert_eq!(
            (&it["refresh"], &it["datasource"]["uid"]),
            (&json!(2), &json!("${datasource}")),
            "{name}"
        );
    }
}

/// Every selector of Prometheus' own series is narrowed by both variables; counters are only looked at as rates.
fn query_follows_the_rules(place: &str, expr: &str) {
    for (selector, counted, range) in selectors(place, expr) {
        let metric = selector.name.clone().unwrap_or_default();
        if range {
            let known = expr.contains("[$__rate_interval]") || expr.contains("[$__range]");
            assert!(known, "{place}: a rate over something else than $__rate_interval or $__range");
        }
        if metric.ends_with("_total") || metric.ends_with("_bucket") {
            assert!(counted, "{place}: {metric} is a counter, to be looked at as a rate");
        }
        if metric != "ALERTS" {
            assert!(
                matches(&selector.matchers, "instance"),
                "{place}: {metric} is not narrowed by $instance"
            );
            // Recording rules have the labels that they keep.
            assert!(
                metric.contains(':') || matches(&selector.matchers, "job"),
                "{place}: {metric} is not narrowed by $job"
            );
        }
    }
}

fn matches(matchers: &Matchers, label: &str) -> bool {
    matchers.matchers.iter().any(|matcher| {
        matcher.name == label && matcher.value == format!("${label}") && matches!(matcher.op, MatchOp::Re(_))
    })
}

/// The selectors of an expression: each with whether it is inside of a rate, and whether it has a range.
fn selectors(place: &str, expr: &str) -> Vec<(VectorSelector, bool, bool)> {
    let mut found = Vec::new();
    collect(&tree(place, expr), false, &mut found);
    found
}

fn tree(place: &str, expr: &str) -> Expr {
    let text = expr.replace("$__rate_interval", "1m").replace("$__range", "1h");
    parser::parse(&text).unwrap_or_else(|error| panic!("{place}: {expr}: {error}"))
}

fn collect(expr: &Expr, counted: bool, found: &mut Vec<(VectorSelector, bool, bool)>) {
    match expr {
        Expr::VectorSelector(selector) => found.push((selector.clone(), counted, false)),
        Expr::MatrixSelector(matrix) => found.push((matrix.vs.clone(), counted, true)),
        Expr::Aggregate(aggregate) => collect(&aggregate.expr, counted, found),
        Expr::Unary(unary) => collect(&unary.expr, counted, found),
        Expr::Paren(paren) => collect(&paren.expr, counted, found),
        Expr::Subquery(inner) => collect(&inner.expr, counted, found),
        Expr::Binary(binary) => {
            collect(&binary.lhs, counted, found);
            collect(&binary.rhs, counted, found);
        }
        Expr::Call(call) => {
            let counted = counted || matches!(call.func.name, "rate" | "irate" | "increase");
            for argument in &call.args.args {
                collect(argument, counted, found);
            }
        }
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => {}
    }
}

/// Alerts and recording rules as they stand in the template, by `- alert:` or `- record:`, with their expressions.
fn rules() -> Vec<(String, String)> {
    let text = read("templates/monitor/rules.yml");
    let mut rules: Vec<(String, String)> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("- alert: ").or_else(|| line.strip_prefix("- record: ")) {
            rules.push((name.to_owned(), String::new()));
        }
        if let Some(expr) = line.strip_prefix("expr: ") {
            rules.last_mut().unwrap().1 = serde_json::from_str(expr).unwrap();
        }
    }
    assert!(rules.len() > 40, "{rules:?}");
    rules
}

/// What the agent answers, from its source: `numbers.add("epoch", ...)`.
fn agent_metrics() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in ["arbiter", "data"] {
        for call in read(&format!("crates/pgagent/src/agent/{file}.rs")).split("numbers.add(").skip(1) {
            let name = call.trim_start().strip_prefix('"').and_then(|call| call.split('"').next());
            names.insert(format!("pgagent_{}", name.expect("a metric has a name")));
        }
    }
    assert!(names.contains("pgagent_epoch"), "{names:?}");
    names
}

/// What the queries of ours give: `lab_slot_active` for `- active: { usage: GAUGE, ... }` under `lab_slot:`.
fn metrics_of_queries() -> BTreeSet<String> {
    let (mut names, text, mut query) = (BTreeSet::new(), read("templates/monitor/queries.yaml"), "");
    for line in text.lines() {
        if let Some(name) = line.strip_suffix(':').filter(|name| name.starts_with("lab_")) {
            query = name;
        }
        if let Some((name, about)) = line.strip_prefix("    - ").and_then(|line| line.split_once(": ")) {
            names.extend((!about.contains("usage: LABEL")).then(|| format!("{query}_{name}")));
        }
    }
    assert!(names.contains("lab_server_in_recovery") && names.contains("lab_slot_lost"), "{names:?}");
    names
}

/// The metrics of a scrape.
fn scraped(name: &str) -> BTreeSet<String> {
    let text = read(&format!("tests/it/data/monitoring/{name}.txt"));
    // What nothing has happened to yet is announced, without a figure.
    let name = |line: &str| {
        let line = line.strip_prefix("# TYPE ").unwrap_or(line);
        line.split(['{', ' ']).next().filter(|name| *name != "#").map(str::to_owned)
    };
    text.lines().filter_map(name).collect()
}

/// A Debian release that hosts may have: scrapes of its exporters, and how metrics begin that it has no program for.
struct Release {
    name: &'static str,
    scrapes: &'static [&'static str],
    without: &'static [&'static str],
}

const RELEASES: [Release; 2] = [
    Release {
        name: "Debian 12",
        scrapes: &["postgres_exporter-0.11.1-pg15", "node_exporter-1.5.0", "live-pgload"],
        without: &["patroni_", "etcd_"],
    },
    Release {
        name: "Debian 13",
        scrapes: &["live-postgres", "live-node", "live-pgload", "live-patroni", "live-etcd"],
        without: &[],
    },
];

impl Release {
    /// All metrics that there are, recorded ones too.
    fn metrics(&self) -> BTreeSet<String> {
        let mut known: BTreeSet<String> = self.scrapes.iter().flat_map(|name| scraped(name)).collect();
        for one in ["pg_up", "node_load1", "pgload_ops_total"] {
            assert!(known.contains(one), "{}: {one} is in no scrape", self.name);
        }
        known.extend(["up", "ALERTS"].map(str::to_owned));
        known.extend(agent_metrics());
        known.extend(metrics_of_queries());
        known.extend(metrics_of_backups());
        for (name, expr) in rules().into_iter().filter(|(name, _)| name.contains(':')) {
            known.extend(missing(&tree(&name, &expr), &known).is_none().then_some(name));
        }
        known
    }
}

/// What the backup script writes for the node exporter, whatever the release.
fn metrics_of_backups() -> BTreeSet<String> {
    scraped("live-node").into_iter().filter(|name| name.starts_with("pg_backup_")).collect()
}

/// The metric for the lack of which an expression has no answer: of `or`, one side will do.
fn missing(expr: &Expr, known: &BTreeSet<String>) -> Option<String> {
    if let Expr::Binary(binary) = expr
        && binary.op.id() == parser::token::T_LOR
    {
        return missing(&binary.lhs, known).and(missing(&binary.rhs, known));
    }
    let parts: Vec<&Expr> = match expr {
        Expr::VectorSelector(selector) => {
            return selector.name.clone().filter(|name| !known.contains(name));
        }
        Expr::MatrixSelector(matrix) => return matrix.vs.name.clone().filter(|name| !known.contains(name)),
        Expr::Aggregate(aggregate) => vec![&aggregate.expr],
        Expr::Unary(unary) => vec![&unary.expr],
        Expr::Paren(paren) => vec![&paren.expr],
        Expr::Subquery(inner) => vec![&inner.expr],
        Expr::Binary(binary) => vec![&binary.lhs, &binary.rhs],
        Expr::Call(call) => call.args.args.iter().map(AsRef::as_ref).collect(),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => Vec::new(),
    };
    parts.into_iter().find_map(|part| missing(part, known))
}

/// Every expression of rules and dashboards, with where it stands.
fn asked() -> Vec<(String, String)> {
    let mut asked = rules();
    for (name, dashboard) in shipped() {
        for panel in dashboard["panels"].as_array().unwrap() {
            let place = format!("{name}: {}", panel["title"]);
            let targets = panel["targets"].as_array().unwrap();
            let expr = |target: &Value| (place.clone(), target["expr"].as_str().unwrap().to_owned());
            asked.extend(targets.iter().map(expr));
        }
    }
    asked
}

/// A query that an exporter has no figures for, makes a panel or an alert that is silently dead: in each release that hosts
/// may have, there must be an answer to each. And no query asks for what none of them has.
#[test]
fn every_query_has_an_answer_in_every_release() {
    let mut anywhere = BTreeSet::new();
    for release in RELEASES {
        let known = release.metrics();
        for (place, expr) in asked() {
            let without = |(it, ..): &(VectorSelector, bool, bool)| {
                release.without.iter().any(|start| name(it).starts_with(start))
            };
            if selectors(&place, &expr).iter().any(without) {
                continue;
            }
            if let Some(metric) = missing(&tree(&place, &expr), &known) {
                panic!("{place}: no exporter of {} has {metric}", release.name);
            }
        }
        anywhere.extend(known);
    }
    for (place, expr) in asked() {
        for (selector, ..) in selectors(&place, &expr) {
            let metric = name(&selector);
            assert!(anywhere.contains(&metric), "{place}: no exporter of a supported release has {metric}");
        }
    }
}

fn name(selector: &VectorSelector) -> String {
    selector.name.clone().unwrap_or_default()
}

#[test]
fn one_side_of_or_is_enough() {
    let known = BTreeSet::from(["a".to_owned()]);
    let said = |expr: &str| missing(&tree("test", expr), &known);
    for answered in ["a", "a or b", "sum(rate(b[1m]) or rate(a[1m]))", "1 - (b or a) > 0"] {
        assert_eq!(said(answered), None, "{answered}");
    }
    for silent in
        ["b", "a + b", "(a or b) / b", "b or b", "a unless b", "sum by (x) (rate(b[1m]))", "absent(b)"]
    {
        assert_eq!(said(silent), Some("b".to_owned()), "{silent}");
    }
}

/// Each alert says what to do, has a case for `promtool test rules` in which it fires, and keeps quiet in a lab that is well:
/// with a figure of everything that it asks for, as it would be quiet for the lack of them, too.
#[test]
fn every_alert_has_a_runbook_and_tests() {
    let data = |name: &str| read(&format!("tests/it/data/monitoring/{name}.yml"));
    let (text, cases, well) =
        (read("templates/monitor/rules.yml"), data("rules-test"), data("rules-quiet-test"));
    let alerts: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert_eq!(text.matches("          runbook: \"").count(), alerts.len());
    let rules: BTreeMap<String, String> = rules().into_iter().collect();
    for alert in alerts {
        let fires = format!("        alertname: {alert}\n        exp_alerts:\n          - exp_labels: ");
        assert_eq!(cases.matches(&fires).count(), 1, "{alert} has no test, or several");
        assert_eq!(
            well.matches(&format!(", alertname: {alert}, exp_alerts: [] }}")).count(),
            1,
            "{alert} is not known to be quiet, or is twice"
        );
        for metric in figures(&rules, alert) {
            assert!(well.contains(&format!("\"{metric}{{")), "{alert} is quiet for the lack of {metric}");
        }
    }
}

/// What an alert asks exporters for, in the end.
fn figures(rules: &BTreeMap<String, String>, rule: &str) -> BTreeSet<String> {
    let of = |metric: String| match metric.contains(':') {
        true => figures(rules, &metric),
        false => BTreeSet::from([metric]),
    };
    selectors(rule, &rules[rule]).iter().flat_map(|(selector, ..)| of(name(selector))).collect()
}
