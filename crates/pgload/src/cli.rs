//! The command line: types only.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    data::Scale,
    run::{Arrivals, Segment},
};

/// Puts a warehouse backend's load on PostgreSQL, keeps what it measured, and proves that nothing was lost.
#[derive(Debug, Parser)]
#[command(
    name = "pgload",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten, next_help_heading = "Global options")]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Where to connect: a libpq URI or keywords, several hosts allowed [default: PG* variables, service files]
    #[arg(long, global = true, env = "PGLOAD_DSN", hide_env_values = true, value_name = "DSN")]
    pub dsn: Option<String>,
    /// Folder of SQL files that add to the built-in ones, or replace them by path (workloads/, optimize/, wms/)
    #[arg(long, global = true, env = "PGLOAD_SQL", value_name = "DIR")]
    pub sql: Option<PathBuf>,
    /// How to answer
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
    /// Print no progress
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// How to answer
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Tables and sentences
    #[default]
    Human,
    /// One JSON document
    Json,
}

/// The verbs
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the warehouse: schema wms, data, keys
    Init(Init),
    /// List workloads, or the statements of one
    Workloads(Workloads),
    /// Put a workload's load on the database and keep what was measured
    Run(Box<Run>),
    /// Compare ledgers with the database, and run the workload's checks
    Verify(Verify),
    /// Compare runs: the change of each statement with its confidence interval, and plans that changed
    Compare(Compare),
    /// Measure reads and writes before and after each stage of optimisation, and keep the stages that help
    #[command(alias = "optimize")]
    Optimise(Optimise),
    /// Propose indexes for statements that read, from their plans, and say what each would gain
    Advise(Advise),
    /// Store runs in a database, for Grafana and SQL
    Publish(Publish),
    /// Write the built-in SQL files into a folder, to read them and to copy from
    Sql(Sql),
}

/// Arguments of sql
#[derive(Args, Debug)]
pub struct Sql {
    /// Folder for schema, workloads and stages of optimisation
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Write nothing; exit code 3 when the files there are not those
    #[arg(long)]
    pub check: bool,
}

/// Arguments of init
#[derive(Args, Debug)]
pub struct Init {
    /// How much: 1 is about 100 MB, in steps of 1/16
    #[arg(long, default_value = "1", value_parser = scale)]
    pub scale: Scale,
    /// Names the data: the same seed makes the same data
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Connections that load at the same time [default: number of cores, at most 8]
    #[arg(short, long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Drop schema wms if it is there, whatever it holds
    #[arg(long)]
    pub replace: bool,
}

/// Arguments of workloads
#[derive(Args, Debug)]
pub struct Workloads {
    /// Show the statements of this one
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

/// What to run and how
#[derive(Args, Clone, Debug)]
pub struct Run {
    /// Name of the workload: see `pgload workloads`
    #[arg(short, long, default_value = "oltp", value_name = "NAME")]
    pub workload: String,
    /// Only these statements of it
    #[arg(long = "statement", value_name = "NAME")]
    pub statements: Vec<String>,
    /// Open loop: statements a second. `500`, steps `100,200,400`, a ramp `100..1000` [default: 100]
    #[arg(short, long, value_parser = rate, conflicts_with = "clients")]
    pub rate: Option<Rate>,
    /// Closed loop: so many clients, each starting a statement when its last has ended
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub clients: Option<u32>,
    /// Connections that share the work of an open loop
    #[arg(long, default_value = "16", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
    /// How gaps between statements of an open loop are drawn
    #[arg(long, value_enum, default_value = "poisson")]
    pub arrivals: ArrivalsArg,
    /// Pause of a client after each statement, as `10ms`
    #[arg(long, value_parser = duration, default_value = "0s", requires = "clients")]
    pub think: Duration,
    /// Run so long before counting begins
    #[arg(long, value_parser = duration, default_value = "5s", value_name = "TIME")]
    pub warmup: Duration,
    /// Count so long
    #[arg(short, long, value_parser = duration, default_value = "60s", value_name = "TIME")]
    pub duration: Duration,
    /// Stop each client after so many statements
    #[arg(long = "count", value_name = "N")]
    pub count: Option<u64>,
    /// Names the order of statements and their parameters
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Try a statement so often, as long as it is certain that nothing was committed
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub tries: u32,
    /// Give up a try, and its connection, after this time
    #[arg(long, value_parser = duration, default_value = "30s", value_name = "TIME")]
    pub deadline: Duration,
    /// Wait for the answer to BEGIN before sending more
    #[arg(long)]
    pub no_pipeline: bool,
    /// Note every write transaction in this folder before and after, for `pgload verify`
    #[arg(long, value_name = "DIR")]
    pub ledger: Option<PathBuf>,
    /// Name of the stage of optimisation that the database is in
    #[arg(long, default_value = "", value_name = "NAME")]
    pub stage: String,
    /// Folder in which a folder with the results is made
    #[arg(long, default_value = "results", value_name = "DIR")]
    pub results: PathBuf,
    /// Renew this file once a second with what the live view shows, as JSON
    #[arg(long, value_name = "FILE")]
    pub live: Option<PathBuf>,
    /// Serve metrics for Prometheus at this address
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics: Option<SocketAddr>,
}

/// Arguments of verify
#[derive(Args, Debug)]
pub struct Verify {
    /// Folder of the ledgers
    #[arg(long, value_name = "DIR")]
    pub ledger: PathBuf,
    /// Run the checks of this workload instead of those of the ledgers'
    #[arg(short, long, value_name = "NAME")]
    pub workload: Option<String>,
}

/// Arguments of compare
#[derive(Args, Debug)]
pub struct Compare {
    /// Folder of the run before; several of the same kind with commas
    #[arg(value_name = "BEFORE", value_delimiter = ',', num_args = 1, required = true)]
    pub before: Vec<PathBuf>,
    /// Folder of the run after; several of the same kind with commas
    #[arg(value_name = "AFTER", value_delimiter = ',', num_args = 1, required = true)]
    pub after: Vec<PathBuf>,
    /// Write a page with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Arguments of optimise
#[derive(Args, Debug)]
pub struct Optimise {
    /// Workload whose statements are measured; all of them only read
    #[arg(short, long, default_value = "analytics", value_name = "NAME")]
    pub workload: String,
    /// Only these stages, as `01-foreign-keys` [default: all of optimize/]
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub stages: Vec<String>,
    /// Run each statement for so long, five to 200 times
    #[arg(long, value_parser = duration, default_value = "3s", value_name = "TIME")]
    pub time: Duration,
    /// Measure writes at each stage for so long
    #[arg(long, value_parser = duration, default_value = "10s", value_name = "TIME")]
    pub write_time: Duration,
    /// Of parameters
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Folder for table, picture, page and figures
    #[arg(long, default_value = "results/optimise", value_name = "DIR")]
    pub out: PathBuf,
}

/// Arguments of advise
#[derive(Args, Debug)]
pub struct Advise {
    /// Workload whose statements are looked at
    #[arg(short, long, default_value = "analytics", value_name = "NAME")]
    pub workload: String,
    /// Of parameters
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Without HypoPG: build each index in a transaction and roll it back; writers wait meanwhile
    #[arg(long)]
    pub build: bool,
}

/// Arguments of publish
#[derive(Args, Debug)]
pub struct Publish {
    /// Folders of runs; --dsn says where they are stored
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,
}

/// How gaps are drawn
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ArrivalsArg {
    /// As if many independent users came by
    Poisson,
    /// All alike
    Uniform,
}

impl From<ArrivalsArg> for Arrivals {
    fn from(arrivals: ArrivalsArg) -> Self {
        match arrivals {
            ArrivalsArg::Poisson => Self::Poisson,
            ArrivalsArg::Uniform => Self::Uniform,
        }
    }
}

/// Rates, one after the other
#[derive(Clone, Debug)]
pub struct Rate(pub Vec<Segment>);

fn rate(text: &str) -> Result<Rate, String> {
    Segment::parse(text).map(Rate)
}

fn scale(text: &str) -> Result<Scale, String> {
    Scale::new(text.parse().map_err(|_| format!("`{text}` is not a number"))?)
}

/// Parses `500ms`, `10s`, `5m`, `1h`.
///
/// # Errors
/// Anything else.
pub fn duration(text: &str) -> Result<Duration, String> {
    let error = || format!("`{text}` is not a time: write a number and ms, s, m or h, as in `10s`");
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let (number, unit) = units
        .iter()
        .find_map(|(name, unit)| text.strip_suffix(name).map(|number| (number, unit)))
        .ok_or_else(error)?;
    let seconds = number.trim().parse::<f64>().map_err(|_| error())? * unit;
    if (0.0..1e9).contains(&seconds) { Ok(Duration::from_secs_f64(seconds)) } else { Err(error()) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        for bad in ["", "5", "s", "-1s", "1 day"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
