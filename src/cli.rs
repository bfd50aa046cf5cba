//! The command line: types only. docs/cli.md is made from them.

mod backup;
mod dashboard;
mod fault;
mod ha;
mod image;
mod lesson;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use serde::{Deserialize, Serialize};

pub use backup::*;
pub use dashboard::*;
pub use fault::*;
pub use ha::*;
pub use image::*;
pub use lesson::*;

use crate::ui::{Color, Format};

/// Turns one topology YAML into a running PostgreSQL lab of virtual machines.
#[derive(Debug, Parser)]
#[command(
    name = "pgprov",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What it is about.
    #[command(flatten, next_help_heading = "Global options")]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// libvirt connection, e.g. qemu+ssh://root@host/system [default: $LIBVIRT_DEFAULT_URI or qemu:///system]
    #[arg(long, global = true, value_name = "URI")]
    pub connect: Option<String>,
    /// How to answer
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
    /// When to colour
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: Color,
    /// Print no progress and no remarks
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Folder whose roles/, templates/ and lessons/ add to the built-in ones, or replace them by name
    #[arg(long, global = true, env = "PGPROV_ASSETS", value_name = "DIR")]
    pub assets: Option<PathBuf>,
    /// Folder of the storage pool on the hypervisor, when it has to be made
    #[arg(long, global = true, env = "PGPROV_POOL_PATH", value_name = "DIR")]
    pub pool_path: Option<String>,
}

/// The verbs
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a commented topology to start from
    Init(Init),
    /// Check a topology and report everything that is wrong with it
    Validate(TopologyFile),
    /// Show what `up` would do; exit code 4 when there is something to do
    Plan(Plan),
    /// Show how installed files differ from rendered ones; exit code 4 when they do
    Diff(Diff),
    /// Create a lab, or bring it in line with its topology
    Up(Up),
    /// Show the hosts of a lab: roles, replication, lag
    Status(Status),
    /// Log in to a host, or run a command on it
    Ssh(Ssh),
    /// Run a command on several hosts at once
    Exec(Exec),
    /// Run psql on a host
    Psql(Psql),
    /// Show the logs of a host
    Logs(Logs),
    /// Put load on a lab with pgload, from its host with role `load`
    #[command(subcommand)]
    Load(Load),
    /// Render all files of all hosts into a folder, without a lab
    Render(Render),
    /// Draw the lab
    Graph(Graph),
    /// Look at a lab as it lives, and break it with a key
    Watch(Watch),
    /// Print an OpenSSH configuration for the hosts of a lab
    SshConfig(LabArg),
    /// Freeze a lab to disk, with its memory
    Suspend(LabArg),
    /// Wake a suspended lab
    Resume(LabArg),
    /// Save all hosts of a lab with their memory, to go back to
    #[command(subcommand)]
    Checkpoint(Checkpoint),
    /// Take a lab back to a checkpoint, whatever was done to it
    Reset(Reset),
    /// Break a host or the network on purpose, and heal it again
    #[command(subcommand)]
    Fault(Fault),
    /// Look at automatic failover, and steer it
    #[command(subcommand)]
    Ha(Ha),
    /// Make backups, list them, and prove that they can be restored
    #[command(subcommand)]
    Backup(Backup),
    /// Look at a lab that is watched, without Grafana
    #[command(subcommand)]
    Dashboard(Dashboard),
    /// Play lessons, which check themselves, and grade students
    #[command(subcommand)]
    Lesson(Lesson),
    /// Take a lab away: its hosts, networks, disks and secrets, and nothing else
    Destroy(Destroy),
    /// Build, list and remove images
    #[command(subcommand)]
    Image(Image),
    /// Print the hosts of a topology as the Vagrantfile needs them
    VagrantHosts(TopologyFile),
    /// Check this machine for everything that pgprov needs
    Doctor,
    /// Print the JSON Schema of topologies, for editors
    Schema,
    /// Print a completion script for a shell
    Completion(Completion),
}

/// A topology file
#[derive(Args, Debug)]
pub struct TopologyFile {
    /// Topology file
    #[arg(value_name = "TOPOLOGY")]
    pub file: PathBuf,
}

/// Arguments of diff
#[derive(Args, Debug)]
pub struct Diff {
    /// Topology file
    #[arg(value_name = "TOPOLOGY")]
    pub file: PathBuf,
    /// Inventory of machines that are there already, instead of VMs that pgprov makes [default: those of the last `up`]
    #[arg(long, value_name = "INVENTORY")]
    pub hosts: Option<PathBuf>,
}

/// Arguments of plan
#[derive(Args, Debug)]
pub struct Plan {
    /// Topology file
    #[arg(value_name = "TOPOLOGY")]
    pub file: PathBuf,
    /// What becomes of restarts
    #[arg(long, value_enum, default_value_t, value_name = "WHICH")]
    pub restart: Restart,
    /// Inventory of machines that are there already, instead of VMs that pgprov makes [default: those of the last `up`]
    #[arg(long, value_name = "INVENTORY")]
    pub hosts: Option<PathBuf>,
    /// Save the plan; `pgprov up FILE.json` then makes exactly these changes, or none when anything is different by then
    #[arg(long, value_name = "FILE.json")]
    pub out: Option<PathBuf>,
}

/// What becomes of restarts
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Restart {
    /// Servers that have to be restarted are, one after the other, standbys first
    #[default]
    Auto,
    /// None is: `plan` and `status` say what waits for it
    Never,
    /// All servers are, one after the other, standbys first
    Rolling,
}

/// A lab by name or topology
#[derive(Args, Clone, Debug, Default)]
pub struct LabArg {
    /// Name of the lab, or its topology file [default: the only lab there is]
    #[arg(value_name = "LAB", env = "PGPROV_LAB")]
    lab: Option<String>,
    /// The same: other verbs take the lab by this option, because they have arguments of another kind
    #[arg(short = 'l', long = "lab", value_name = "LAB", id = "lab by option", hide_short_help = true)]
    by_option: Option<String>,
}

impl LabArg {
    /// The lab that was asked for; none is the only one there is.
    pub fn name(&self) -> Option<&str> {
        self.by_option.as_deref().or(self.lab.as_deref())
    }
}

/// Arguments of status
#[derive(Args, Debug)]
pub struct Status {
    /// The lab
    #[command(flatten)]
    pub lab: LabArg,
    /// List the labs of the hypervisor instead, also those made by others
    #[arg(short, long)]
    pub all: bool,
}

/// A lab by option
#[derive(Args, Clone, Debug, Default)]
pub struct LabOption {
    /// Name of the lab, or its topology file [default: the only lab there is]
    #[arg(short, long = "lab", value_name = "LAB", env = "PGPROV_LAB")]
    pub lab: Option<String>,
}

/// Arguments of init
#[derive(Args, Debug)]
pub struct Init {
    /// File to write
    #[arg(value_name = "FILE", default_value = "lab.yaml")]
    pub file: PathBuf,
}

/// Arguments of up
#[derive(Args, Debug)]
pub struct Up {
    /// Topology file, or a plan that `plan --out` saved
    #[arg(value_name = "TOPOLOGY")]
    pub file: PathBuf,
    /// Show the plan and stop, as `pgprov plan` does
    #[arg(long)]
    pub dry_run: bool,
    /// What becomes of restarts
    #[arg(long, value_enum, default_value_t, value_name = "WHICH")]
    pub restart: Restart,
    /// Inventory of machines that are there already, instead of VMs that pgprov makes [default: those of the last `up`]
    #[arg(long, value_name = "INVENTORY")]
    pub hosts: Option<PathBuf>,
    /// Do what interrupts or destroys hosts without asking
    #[arg(short, long)]
    pub yes: bool,
    /// Boot new hosts, instead of copying them from a machine that was booted once and saved
    #[arg(long)]
    pub boot: bool,
    /// Neither start from checkpoint `ready` nor make it
    #[arg(long)]
    pub no_checkpoint: bool,
    /// Seconds that one host may take to boot and answer
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    pub boot_timeout: u64,
}

/// Arguments of ssh
#[derive(Args, Debug)]
pub struct Ssh {
    /// The lab
    #[command(flatten)]
    pub lab: LabOption,
    /// Host to log in to
    pub host: String,
    /// Command to run there [default: a shell]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Arguments of exec
#[derive(Args, Debug)]
pub struct Exec {
    /// The lab
    #[command(flatten)]
    pub lab: LabOption,
    /// Host to run it on, may be repeated [default: all]
    #[arg(long = "host", value_name = "HOST")]
    pub hosts: Vec<String>,
    /// Seconds the command may take
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    pub timeout: u64,
    /// Command, run by a shell on each host
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Arguments of psql
#[derive(Args, Debug)]
pub struct Psql {
    /// The lab
    #[command(flatten)]
    pub lab: LabOption,
    /// Host to run psql on: as user postgres on a database host, else as root
    pub host: String,
    /// Arguments of psql
    #[arg(last = true, allow_hyphen_values = true, value_name = "ARGS")]
    pub args: Vec<String>,
}

/// Arguments of logs
#[derive(Args, Debug)]
pub struct Logs {
    /// The lab
    #[command(flatten)]
    pub lab: LabOption,
    /// Host whose logs to show
    pub host: String,
    /// Only the log of this role [default: all roles of the host that keep one]
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,
    /// How many lines of each
    #[arg(short = 'n', long, default_value_t = 50, value_name = "COUNT")]
    pub lines: u32,
    /// Show the serial console instead; works when SSH does not
    #[arg(long)]
    pub console: bool,
}

/// Verbs for load
#[derive(Debug, Subcommand)]
pub enum Load {
    /// Make the warehouse that workloads work on
    Init(LoadInit),
    /// Start a run and follow it; it goes on when this program ends
    Run(LoadRun),
    /// Show the run that goes on, and those that ended
    Status(LoadHost),
    /// End the run that goes on, and keep what it measured
    Stop(LoadStop),
    /// Compare two runs: the change of each statement, and plans that changed
    Compare(LoadCompare),
    /// Compare what was acknowledged with the database: nothing may be lost
    Verify(LoadHost),
}

/// Where pgload runs
#[derive(Args, Clone, Debug, Default)]
pub struct LoadHost {
    /// The lab
    #[command(flatten)]
    pub lab: LabOption,
    /// Host that pgload runs on [default: the first with role `load`]
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
}

/// Arguments of load init
#[derive(Args, Debug)]
pub struct LoadInit {
    /// Where
    #[command(flatten)]
    pub on: LoadHost,
    /// How much: 1 is about 100 MB, in steps of 1/16
    #[arg(long, default_value = "1", value_name = "SCALE")]
    pub scale: String,
    /// Names the data: the same seed makes the same data
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Drop the warehouse that is there
    #[arg(long)]
    pub replace: bool,
}

/// Arguments of load run
#[derive(Args, Debug)]
pub struct LoadRun {
    /// Where
    #[command(flatten)]
    pub on: LoadHost,
    /// Workload: oltp, analytics, mixed, or one of your own
    #[arg(short, long, default_value = "mixed", value_name = "NAME")]
    pub workload: String,
    /// Statements a second, whether others have ended or not: `50`, steps `50,100`, a ramp `10..100` [default: 100]
    #[arg(short, long, value_name = "RATE", conflicts_with = "clients")]
    pub rate: Option<String>,
    /// Instead: so many clients, each starting a statement when its last has ended
    #[arg(short, long, value_name = "N")]
    pub clients: Option<u32>,
    /// Run so long before counting begins
    #[arg(long, default_value = "5s", value_name = "TIME")]
    pub warmup: String,
    /// Count so long
    #[arg(short, long, default_value = "60s", value_name = "TIME")]
    pub duration: String,
    /// Note every transaction that writes, for `load verify`
    #[arg(long)]
    pub ledger: bool,
    /// Name of the stage of optimisation that the database is in
    #[arg(long, value_name = "NAME")]
    pub stage: Option<String>,
    /// Do not follow it: `load status` and `load stop` find it
    #[arg(long)]
    pub detach: bool,
    /// Folder for the results [default: load/ in the state directory of the lab]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// More options of `pgload run`
    #[arg(last = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    pub more: Vec<String>,
}

/// Arguments of load stop
#[derive(Args, Debug)]
pub struct LoadStop {
    /// Where
    #[command(flatten)]
    pub on: LoadHost,
    /// Folder for the results [default: load/ in the state directory of the lab]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Arguments of load compare
#[derive(Args, Debug)]
pub struct LoadCompare {
    /// Where
    #[command(flatten)]
    pub on: LoadHost,
    /// Run before: its id or the end of it, or a folder; several of the same kind with commas [default: the last but one]
    #[arg(value_name = "BEFORE", requires = "after")]
    pub before: Option<String>,
    /// Run after [default: the last]
    #[arg(value_name = "AFTER")]
    pub after: Option<String>,
    /// Write a page with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Arguments of render
#[derive(Args, Debug)]
pub struct Render {
    /// Topology file
    #[arg(value_name = "TOPOLOGY")]
    pub file: PathBuf,
    /// Folder to write to; one folder a host inside
    #[arg(long, default_value = "rendered", value_name = "DIR")]
    pub out: PathBuf,
    /// Inventory of machines that are there already, instead of VMs that pgprov makes [default: those of the last `up`]
    #[arg(long, value_name = "INVENTORY")]
    pub hosts: Option<PathBuf>,
    /// With the secrets of the lab, byte for byte as `up` installs them, readable by you only [default: masked]
    #[arg(long)]
    pub secrets: bool,
}

/// Arguments of graph
#[derive(Args, Debug)]
pub struct Graph {
    /// The lab
    #[command(flatten)]
    pub lab: LabArg,
    /// What to draw it as
    #[arg(long, value_enum, default_value_t)]
    pub format: GraphFormat,
    /// File to write [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Arguments of watch
#[derive(Args, Debug)]
pub struct Watch {
    /// The lab
    #[command(flatten)]
    pub lab: LabArg,
    /// Seconds between two looks at a host
    #[arg(long, default_value_t = 2, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=60))]
    pub interval: u64,
}

/// Format of a graph
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum GraphFormat {
    /// A picture for browsers and slides
    #[default]
    Svg,
    /// Text that Markdown viewers draw
    Mermaid,
}

/// Arguments of destroy
#[derive(Args, Debug)]
pub struct Destroy {
    /// Name of the lab, or its topology file
    #[arg(value_name = "LAB", env = "PGPROV_LAB", required_unless_present_any = ["all", "lab by option"])]
    lab: Option<String>,
    /// The same, as with other verbs
    #[arg(short = 'l', long = "lab", value_name = "LAB", id = "lab by option", hide_short_help = true)]
    by_option: Option<String>,
    /// Every lab on this hypervisor
    #[arg(long, conflicts_with_all = ["lab", "lab by option"])]
    pub all: bool,
    /// Keep its checkpoints and secrets: the next `up` starts from checkpoint `ready`
    #[arg(long)]
    pub keep_checkpoints: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

impl Destroy {
    /// The lab that was asked for.
    pub fn name(&self) -> Option<&str> {
        self.by_option.as_deref().or(self.lab.as_deref())
    }
}

/// Verbs for checkpoints
#[derive(Debug, Subcommand)]
pub enum Checkpoint {
    /// Save the lab as it is now; it stands still for some seconds
    Save(CheckpointSave),
    /// List checkpoints and what they cost
    List(LabOption),
    /// Remove a checkpoint
    Remove(CheckpointRemove),
}

/// Arguments of checkpoint save
#[derive(Args, Debug)]
pub struct CheckpointSave {
    /// The lab
    #[command(flatten)]
    pub lab: LabOption,
    /// Name of the checkpoint
    pub name: String,
    /// Make it anew when it exists
    #[arg(long)]
    pub replace: bool,
}

/// Arguments of checkpoint remove
#[derive(Args, Debug)]
pub struct CheckpointRemove {
    /// The lab
    #[command(flatten)]
    pub lab: LabOption,
    /// Name of the checkpoint
    pub name: String,
}

/// Arguments of reset
#[derive(Args, Debug)]
pub struct Reset {
    /// The lab
    #[command(flatten)]
    pub lab: LabOption,
    /// Name of the checkpoint [default: ready, which `up` makes]
    pub name: Option<String>,
    /// Destroy hosts that the checkpoint does not have without asking
    #[arg(short, long)]
    pub yes: bool,
}

/// Arguments of completion
#[derive(Args, Debug)]
pub struct Completion {
    /// The shell
    pub shell: Shell,
}

impl From<Restart> for pgplan::plan::Restart {
    fn from(restart: Restart) -> Self {
        match restart {
            Restart::Auto => Self::Auto,
            Restart::Never => Self::Never,
            Restart::Rolling => Self::Rolling,
        }
    }
}
