//! Dashboards: the JSON files of dashboards/ as far as this program reads them. Pure; `commands::dashboard` asks Prometheus.

mod page;

use serde::Deserialize;

pub use self::page::{Series, page};

/// What Grafana puts in for its own variable: some scrapes at the interval that labs have.
const RATE_INTERVAL: &str = "1m";

/// A dashboard.
#[derive(Clone, Debug, Deserialize)]
pub struct Dashboard {
    /// Its title.
    pub title: String,
    /// In the order in which they are shown.
    pub panels: Vec<Panel>,
}

/// A panel of a dashboard.
#[derive(Clone, Debug, Deserialize)]
pub struct Panel {
    /// Its title.
    pub title: String,
    /// One sentence.
    #[serde(default)]
    pub description: String,
    /// How it is drawn: `timeseries`, `stat`, `table`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it asks for.
    #[serde(default)]
    pub targets: Vec<Query>,
    /// Where its unit stands.
    #[serde(default, rename = "fieldConfig")]
    field_config: FieldConfig,
}

/// A query of a panel.
#[derive(Clone, Debug, Deserialize)]
pub struct Query {
    /// PromQL with Grafana's variables in it.
    pub expr: String,
    /// How series are called: `{{instance}}`.
    #[serde(default, rename = "legendFormat")]
    pub legend: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct FieldConfig {
    #[serde(default)]
    defaults: Defaults,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Defaults {
    #[serde(default)]
    unit: String,
}

impl Panel {
    /// Grafana's name of the unit: `bytes`, `percentunit`, `s`.
    pub fn unit(&self) -> &str {
        &self.field_config.defaults.unit
    }
}

impl Query {
    /// PromQL for the whole lab and that many minutes: as Grafana asks when its variables stand on `All`.
    pub fn promql(&self, minutes: u64) -> String {
        self.expr
            .replace("$__rate_interval", RATE_INTERVAL)
            .replace("$__range", &format!("{minutes}m"))
            .replace("$job", ".+")
            .replace("$instance", ".+")
    }

    /// The name of a series: the legend with its labels put in.
    pub fn name(&self, label: impl Fn(&str) -> Option<String>) -> String {
        let mut name = String::new();
        let mut rest = self.legend.as_str();
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((key, after)) = after.split_once("}}") else { break };
            name.push_str(before);
            name.push_str(&label(key.trim()).unwrap_or_default());
            rest = after;
        }
        name.push_str(rest);
        name.trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_asked_for_the_whole_lab() {
        let query = Query {
            expr: "rate(x{job=~\"$job\",instance=~\"$instance\"}[$__rate_interval]) / increase(y[$__range])"
                .to_owned(),
            legend: "{{instance}} of {{ lab }}, {{none}}!".to_owned(),
        };
        assert_eq!(query.promql(30), "rate(x{job=~\".+\",instance=~\".+\"}[1m]) / increase(y[30m])");
        let label = |key: &str| matches!(key, "instance" | "lab").then(|| format!("<{key}>"));
        assert_eq!(query.name(label), "<instance> of <lab>, !");
    }
}
