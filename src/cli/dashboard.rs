//! The words of `pgprov dashboard`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::LabOption;

/// Verbs for dashboards
#[derive(Debug, Subcommand)]
pub enum Dashboard {
    /// List the dashboards there are
    List,
    /// Draw a dashboard from what Prometheus knows now, as one page that needs nothing else
    Preview(DashboardPreview),
}

/// Arguments of dashboard preview
#[derive(Args, Debug)]
pub struct DashboardPreview {
    /// The lab
    #[command(flatten)]
    pub lab: LabOption,
    /// Dashboard
    pub name: String,
    /// Minutes to look back
    #[arg(long, default_value_t = 15, value_name = "MINUTES", value_parser = clap::value_parser!(u64).range(1..=10080))]
    pub minutes: u64,
    /// File to write [default: NAME.html]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}
