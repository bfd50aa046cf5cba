//! The words of `pgprov fault`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::LabOption;

/// Verbs for faults
#[derive(Debug, Subcommand)]
pub enum Fault {
    /// What stays until it is healed
    #[command(flatten)]
    Cause(Cause),
    /// Kill a process of a host with SIGKILL; there is nothing to heal
    KillProcess(FaultKillProcess),
    /// List the faults in force
    List(LabOption),
    /// Undo the faults of a host, or all of them
    Heal(FaultHeal),
}

/// Verbs for faults that stay until they are healed
#[derive(Debug, Subcommand)]
pub enum Cause {
    /// Pull the data cable of a host
    Cut(FaultHost),
    /// Lead the data cable of a host to a network without anyone else: its link stays up
    Isolate(FaultHost),
    /// Let hosts and others not hear each other on the data network
    Partition(FaultPartition),
    /// Let what a host sends on the data network arrive later
    Delay(FaultDelay),
    /// Let some of what a host sends on the data network be lost
    Loss(FaultLoss),
    /// Limit how fast a host sends on the data network
    Rate(FaultRate),
    /// Cut the power of a host
    Kill(FaultHost),
    /// Let the CPUs of a host stand still: it goes on as if nothing had been
    Pause(FaultHost),
    /// Stop a service of a host
    StopService(FaultService),
    /// Take all room on a disk of a host
    FillDisk(FaultDisk),
    /// Let the disk of a host read and write slowly
    SlowDisk(FaultSlowDisk),
    /// Set the clock of a host wrong
    Clock(FaultClock),
}

/// Options of every fault
#[derive(Args, Debug)]
pub struct FaultOptions {
    /// The lab
    #[command(flatten)]
    pub lab: LabOption,
    /// Heal it by itself after this time, e.g. 30s or 2m
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub lasting: Option<Duration>,
}

/// A fault of one host
#[derive(Args, Debug)]
pub struct FaultHost {
    /// Host to break
    pub host: String,
    /// The lab, and how long
    #[command(flatten)]
    pub options: FaultOptions,
}

/// Arguments of fault partition
#[derive(Args, Debug)]
pub struct FaultPartition {
    /// Hosts of one side
    #[arg(required = true, value_name = "HOST")]
    pub hosts: Vec<String>,
    /// Hosts of the other side
    #[arg(long, required = true, num_args = 1.., value_name = "HOST")]
    pub from: Vec<String>,
    /// Those of the other side still hear them
    #[arg(long)]
    pub one_way: bool,
    /// The lab, and how long
    #[command(flatten)]
    pub options: FaultOptions,
}

/// Arguments of fault delay
#[derive(Args, Debug)]
pub struct FaultDelay {
    /// Host to break
    pub host: String,
    /// By how much, e.g. 50ms
    #[arg(value_parser = humantime::parse_duration)]
    pub delay: Duration,
    /// More or less, e.g. 10ms
    #[arg(long, value_name = "DURATION", default_value = "0ms", value_parser = humantime::parse_duration)]
    pub jitter: Duration,
    /// The lab, and how long
    #[command(flatten)]
    pub options: FaultOptions,
}

/// Arguments of fault loss
#[derive(Args, Debug)]
pub struct FaultLoss {
    /// Host to break
    pub host: String,
    /// How much, e.g. 10%
    #[arg(value_parser = percent)]
    pub percent: u8,
    /// The lab, and how long
    #[command(flatten)]
    pub options: FaultOptions,
}

/// Arguments of fault rate
#[derive(Args, Debug)]
pub struct FaultRate {
    /// Host to break
    pub host: String,
    /// How fast, e.g. 256kbit or 1mbit
    #[arg(value_parser = kbit)]
    pub rate: u32,
    /// The lab, and how long
    #[command(flatten)]
    pub options: FaultOptions,
}

/// Arguments of fault stop-service
#[derive(Args, Debug)]
pub struct FaultService {
    /// Host to break
    pub host: String,
    /// systemd unit, e.g. postgresql@17-main or pgagent
    pub unit: String,
    /// The lab, and how long
    #[command(flatten)]
    pub options: FaultOptions,
}

/// Arguments of fault kill-process
#[derive(Args, Debug)]
pub struct FaultKillProcess {
    /// Host to break
    pub host: String,
    /// Name of the process; of several with that name, the oldest
    #[arg(default_value = "postgres")]
    pub name: String,
    /// The lab
    #[command(flatten)]
    pub lab: LabOption,
}

/// Arguments of fault fill-disk
#[derive(Args, Debug)]
pub struct FaultDisk {
    /// Host to break
    pub host: String,
    /// Folder on the disk to fill
    #[arg(default_value = "/var/lib")]
    pub path: String,
    /// The lab, and how long
    #[command(flatten)]
    pub options: FaultOptions,
}

/// Arguments of fault slow-disk
#[derive(Args, Debug)]
pub struct FaultSlowDisk {
    /// Host to break
    pub host: String,
    /// KiB per second
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub kib: u32,
    /// The lab, and how long
    #[command(flatten)]
    pub options: FaultOptions,
}

/// Arguments of fault clock
#[derive(Args, Debug)]
pub struct FaultClock {
    /// Host to break
    pub host: String,
    /// How far ahead or behind, e.g. +5m or -30s
    #[arg(allow_hyphen_values = true, value_parser = offset)]
    pub offset: i64,
    /// The lab, and how long
    #[command(flatten)]
    pub options: FaultOptions,
}

/// Arguments of fault heal
#[derive(Args, Debug)]
pub struct FaultHeal {
    /// Host to heal; a partition that it is part of is healed as a whole
    #[arg(required_unless_present_any = ["all", "due"])]
    pub host: Option<String>,
    /// Heal everything
    #[arg(long, conflicts_with = "host")]
    pub all: bool,
    /// The lab
    #[command(flatten)]
    pub lab: LabOption,
    /// Wait until the fault of this number is due, and heal it
    #[arg(long, hide = true, conflicts_with_all = ["host", "all"])]
    pub due: Option<u32>,
}

fn percent(text: &str) -> Result<u8, String> {
    match text.strip_suffix('%').unwrap_or(text).trim().parse() {
        Ok(percent @ 1..=100) => Ok(percent),
        _ => Err("a whole number of per cent from 1% to 100% is needed".to_owned()),
    }
}

fn kbit(text: &str) -> Result<u32, String> {
    let number = |digits: &str| digits.trim().parse::<u32>().ok().filter(|number| *number > 0);
    let rate = match (text.strip_suffix("kbit"), text.strip_suffix("mbit")) {
        (Some(digits), _) => number(digits),
        (_, Some(digits)) => number(digits).and_then(|number| number.checked_mul(1000)),
        _ => None,
    };
    rate.ok_or_else(|| "a number with its unit is needed: 256kbit, 1mbit".to_owned())
}

fn offset(text: &str) -> Result<i64, String> {
    let (sign, duration) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(rest), _) => (1, rest),
        (_, Some(rest)) => (-1, rest),
        _ => return Err("say which way with a sign: +5m is ahead, -30s is behind".to_owned()),
    };
    let duration = humantime::parse_duration(duration).map_err(|error| error.to_string())?;
    match i64::try_from(duration.as_secs()) {
        Ok(seconds @ 1..=31_536_000) => Ok(sign * seconds),
        _ => Err("from one second to one year".to_owned()),
    }
}
