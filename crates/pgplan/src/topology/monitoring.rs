//! `monitoring:`, who watches the lab and how.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Exporters on every host, and Prometheus on the host with role `monitor`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Monitoring {
    /// Where Prometheus comes from.
    pub engine: MonitoringEngine,
    /// Seconds between two looks at each target.
    #[schemars(range(min = 1, max = 300))]
    pub scrape_seconds: u32,
    /// Days that are kept.
    #[schemars(range(min = 1, max = 3650))]
    pub retention_days: u32,
    /// With engine containers: a tar on the monitor host to load the images from, as `docker save` makes it; without it they are
    /// pulled.
    #[schemars(regex(pattern = r"^/[A-Za-z0-9._/-]{1,200}$"), extend("x-allowed" = "an absolute path"))]
    pub images: Option<String>,
}

/// Where Prometheus comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MonitoringEngine {
    /// Prometheus of the Debian release, without Grafana: for places where no image of a container can be had.
    #[default]
    Packages,
    /// Prometheus and Grafana in containers of their own, from one docker-compose.yml; needs docker on the host.
    Containers,
}

impl Default for Monitoring {
    fn default() -> Self {
        Self { engine: MonitoringEngine::default(), scrape_seconds: 15, retention_days: 7, images: None }
    }
}
