//! The words of `pgprov ha`.

use clap::{Args, Subcommand, ValueEnum};

use super::{LabArg, LabOption};

/// Verbs for automatic failover
#[derive(Debug, Subcommand)]
pub enum Ha {
    /// Show what the agents know: the record, who is open, who hears whom
    Status(LabArg),
    /// Say of each host why nothing moves, and which command helps
    Explain(LabArg),
    /// Let the standby take over in good order: nothing is lost, nothing has to be copied
    Switchover(HaSwitchover),
    /// Nobody is promoted and the primary goes on alone, for work on the standby, until it is switched off
    Maintenance(HaMaintenance),
    /// Make a host primary although acknowledged commits may be lost
    Promote(HaPromote),
    /// Give a standby a fresh copy of the primary's data
    Rejoin(HaRejoin),
    /// The arbiter's record
    #[command(subcommand)]
    Arbiter(HaArbiter),
    /// Patroni: give a replica a fresh copy of the leader's data
    Reinit(HaRejoin),
    /// Patroni: leave PostgreSQL alone until it is resumed; nobody takes over meanwhile
    Pause(HaLab),
    /// Patroni: take care of PostgreSQL again
    Resume(HaLab),
    /// Patroni: who led when, by timeline
    History(LabArg),
    /// Patroni: its dynamic configuration as it is in force
    Show(LabArg),
}

/// Verbs for the arbiter
#[derive(Debug, Subcommand)]
pub enum HaArbiter {
    /// Let the arbiter forget its record and make it anew from what both database hosts know
    Replace(HaLab),
    /// Let an arbiter without memory believe the one database host that answers
    Adopt(HaLab),
}

/// A lab, and how long to wait
#[derive(Args, Debug)]
pub struct HaLab {
    /// The lab
    #[command(flatten)]
    pub lab: LabArg,
    /// How long
    #[command(flatten)]
    pub wait: HaWait,
}

/// Arguments of ha switchover
#[derive(Args, Debug)]
pub struct HaSwitchover {
    /// The lab
    #[command(flatten)]
    pub lab: LabArg,
    /// Host to take over [default: the standby that can]
    #[arg(long, value_name = "HOST")]
    pub to: Option<String>,
    /// How long
    #[command(flatten)]
    pub wait: HaWait,
}

/// How long to wait
#[derive(Args, Clone, Copy, Debug)]
pub struct HaWait {
    /// Seconds to wait until it is done; 0 does not wait
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub wait: u64,
}

/// Arguments of ha maintenance
#[derive(Args, Debug)]
pub struct HaMaintenance {
    /// The lab
    #[command(flatten)]
    pub lab: LabOption,
    /// On or off
    #[arg(value_enum)]
    pub switch: Switch,
    /// How long
    #[command(flatten)]
    pub wait: HaWait,
}

/// On or off
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Begin
    On,
    /// End
    Off,
}

/// Arguments of ha promote
#[derive(Args, Debug)]
pub struct HaPromote {
    /// The lab
    #[command(flatten)]
    pub lab: LabOption,
    /// Host to make primary
    pub host: String,
    /// Commits that were acknowledged may be lost: the arbiter does not know that this host has them
    #[arg(long, required = true)]
    pub accept_data_loss: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// How long
    #[command(flatten)]
    pub wait: HaWait,
}

/// Arguments of ha rejoin
#[derive(Args, Debug)]
pub struct HaRejoin {
    /// The lab
    #[command(flatten)]
    pub lab: LabOption,
    /// The standby
    pub host: String,
    /// How long
    #[command(flatten)]
    pub wait: HaWait,
}
