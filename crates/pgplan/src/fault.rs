//! Faults: breaks that a user asks for, and that stay until they are healed.
//!
//! A fault is data: what it is, and of which hosts. Some are done to the machine from outside, by the hypervisor; those of
//! the network between hosts are done inside, by one script a host that is made from all of them ([`network_script`]), so
//! that two faults of a host add up and one can be healed while the other stays.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::lab::{Host, Lab};

/// A break that stays until it is healed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case")]
pub enum Fault {
    /// The data cable is pulled: the link is down.
    Cut {
        /// The host.
        host: String,
    },
    /// The data cable leads to a network without anyone else: the link is up.
    Isolate {
        /// The host.
        host: String,
    },
    /// Hosts do not hear others on the data network.
    Partition {
        /// Those who do not hear.
        hosts: Vec<String>,
        /// Those who are not heard.
        from: Vec<String>,
        /// Whether `from` still hear `hosts`.
        one_way: bool,
    },
    /// What a host sends on the data network arrives later.
    Delay {
        /// The host.
        host: String,
        /// By how much, in milliseconds.
        milliseconds: u32,
        /// More or less, in milliseconds.
        jitter: u32,
    },
    /// What a host sends on the data network is lost at times.
    Loss {
        /// The host.
        host: String,
        /// Of 100 packets.
        percent: u8,
    },
    /// What a host sends on the data network is slow.
    Rate {
        /// The host.
        host: String,
        /// Kilobits per second.
        kbit: u32,
    },
    /// The power is cut.
    Kill {
        /// The host.
        host: String,
    },
    /// The CPUs stand still: it knows of nothing when it goes on.
    Pause {
        /// The host.
        host: String,
    },
    /// A service is stopped.
    StopService {
        /// The host.
        host: String,
        /// Its systemd unit.
        unit: String,
    },
    /// A file takes all the room that those who are not root may use.
    FillDisk {
        /// The host.
        host: String,
        /// A folder on the file system that is filled.
        path: String,
    },
    /// The disk reads and writes slowly.
    SlowDisk {
        /// The host.
        host: String,
        /// KiB per second.
        kib: u32,
    },
    /// The clock is wrong.
    Clock {
        /// The host.
        host: String,
        /// By how many seconds it is ahead.
        seconds: i64,
    },
}

/// A fault in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Number, unique as long as the fault is in force.
    pub id: u32,
    /// When it was caused, in seconds since 1970.
    pub since: u64,
    /// When it heals by itself, in seconds since 1970.
    pub until: Option<u64>,
    /// What it is.
    #[serde(flatten)]
    pub fault: Fault,
}

impl Fault {
    /// The hosts it is done to; of a partition those of both sides.
    pub fn hosts(&self) -> Vec<&str> {
        match self {
            Self::Partition { hosts, from, .. } => hosts.iter().chain(from).map(String::as_str).collect(),
            Self::Cut { host }
            | Self::Isolate { host }
            | Self::Delay { host, .. }
            | Self::Loss { host, .. }
            | Self::Rate { host, .. }
            | Self::Kill { host }
            | Self::Pause { host }
            | Self::StopService { host, .. }
            | Self::FillDisk { host, .. }
            | Self::SlowDisk { host, .. }
            | Self::Clock { host, .. } => vec![host],
        }
    }

    /// The verb that causes it.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Cut { .. } => "cut",
            Self::Isolate { .. } => "isolate",
            Self::Partition { .. } => "partition",
            Self::Delay { .. } => "delay",
            Self::Loss { .. } => "loss",
            Self::Rate { .. } => "rate",
            Self::Kill { .. } => "kill",
            Self::Pause { .. } => "pause",
            Self::StopService { .. } => "stop-service",
            Self::FillDisk { .. } => "fill-disk",
            Self::SlowDisk { .. } => "slow-disk",
            Self::Clock { .. } => "clock",
        }
    }

    /// Whether it is of the network between hosts, and therefore part of [`network_script`].
    pub fn is_network(&self) -> bool {
        matches!(self, Self::Partition { .. } | Self::Delay { .. } | Self::Loss { .. } | Self::Rate { .. })
    }

    /// Whether the host has no place on the data network.
    pub fn cuts_off(&self) -> bool {
        matches!(self, Self::Cut { .. } | Self::Isolate { .. })
    }

    /// Whether the one takes the place of the other: the same thing is done to the same hosts, if otherwise.
    pub fn replaces(&self, other: &Self) -> bool {
        let same = self.verb() == other.verb();
        match (self, other) {
            (Self::Partition { .. }, _) => self == other,
            (Self::StopService { host, unit }, Self::StopService { host: also, unit: same }) => {
                (host, unit) == (also, same)
            }
            (Self::FillDisk { host, path }, Self::FillDisk { host: also, path: same }) => {
                (host, path) == (also, same)
            }
            _ => same && self.hosts() == other.hosts(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut { host } => write!(out, "the data cable of {host} is pulled"),
            Self::Isolate { host } => write!(out, "{host} is alone on its data network"),
            Self::Partition { hosts, from, one_way } => {
                let (hosts, from) = (hosts.join(", "), from.join(", "));
                match one_way {
                    true => write!(out, "{hosts} cannot hear {from}, which can hear them"),
                    false => write!(out, "{hosts} and {from} cannot hear each other"),
                }
            }
            Self::Delay { host, milliseconds, jitter: 0 } => {
                write!(out, "what {host} sends arrives {milliseconds} ms later")
            }
            Self::Delay { host, milliseconds, jitter } => {
                write!(out, "what {host} sends arrives {milliseconds} ms later, more or less by {jitter} ms")
            }
            Self::Loss { host, percent } => write!(out, "{percent} % of what {host} sends are lost"),
            Self::Rate { host, kbit } => write!(out, "{host} sends no more than {kbit} kbit/s"),
            Self::Kill { host } => write!(out, "{host} has no power"),
            Self::Pause { host } => write!(out, "the CPUs of {host} stand still"),
            Self::StopService { host, unit } => write!(out, "{unit} is stopped on {host}"),
            Self::FillDisk { host, path } => write!(out, "the disk of {host} is full at {path}"),
            Self::SlowDisk { host, kib } => write!(out, "the disk of {host} does {kib} KiB/s"),
            Self::Clock { host, seconds } => {
                let way = if *seconds < 0 { "behind" } else { "ahead" };
                write!(out, "the clock of {host} is {} s {way}", seconds.unsigned_abs())
            }
        }
    }
}

/// Inside hosts: the script of their network faults, and the unit that runs it at every boot.
const SCRIPT_FILE: &str = "/etc/pgprov/fault.sh";
const UNIT: &str = "pgprov-fault.service";

/// Makes the network faults of a host inside it what they should be, whatever they were, now and at every boot: a script for
/// sh, as root.
pub fn network_script(lab: &Lab, host: &Host, faults: &[&Fault]) -> String {
    install(rules(lab, host, faults).as_deref())
}

/// The script of the faults themselves, which can run again; nothing when no fault of the network is the host's.
fn rules(lab: &Lab, host: &Host, faults: &[&Fault]) -> Option<String> {
    let mine: Vec<&Fault> = faults
        .iter()
        .copied()
        .filter(|fault| fault.is_network() && fault.hosts().contains(&host.name.as_str()))
        .collect();
    if mine.is_empty() {
        return None;
    }
    let deaf: Vec<String> = mine
        .iter()
        .flat_map(|fault| not_heard(fault, &host.name))
        .filter_map(|name| Some(format!("ip saddr {} drop", lab.host(name)?.data.address)))
        .collect();
    let netem: Vec<String> = mine.iter().filter_map(|fault| netem(fault)).collect();
    let mut script = format!(
        "#!/bin/sh\n\
         # Made by pgprov: the faults of this host's network. `pgprov fault heal` takes them away.\n\
         set -eu\n{CLEAR}"
    );
    if !deaf.is_empty() {
        script += &format!(
            "nft -f - <<'RULES'\ntable inet pgprov_fault {{\n  chain input {{\n    type filter hook input priority -300;\n    {}\n  }}\n}}\nRULES\n",
            deaf.join("\n    ")
        );
    }
    if !netem.is_empty() {
        script += &format!(
            "for tries in 1 2 3 4 5 6 7 8 9 10; do\n\
             \x20 for dir in /sys/class/net/*; do\n\
             \x20   if [ \"$(cat \"$dir/address\")\" = {} ]; then\n\
             \x20     exec tc qdisc replace dev \"${{dir##*/}}\" root netem {}\n\
             \x20   fi\n\
             \x20 done\n\
             \x20 sleep 1\n\
             done\n\
             echo 'no interface has the address of the data network' >&2\n\
             exit 1\n",
            host.data.mac,
            netem.join(" ")
        );
    }
    Some(script)
}

/// Takes away all network faults of a host: a script for sh, as root.
const CLEAR: &str = "nft -f - <<'RULES'\nadd table inet pgprov_fault\ndelete table inet pgprov_fault\nRULES\n\
for dir in /sys/class/net/*; do\n\
\x20 if tc qdisc show dev \"${dir##*/}\" | grep -q netem; then tc qdisc del dev \"${dir##*/}\" root; fi\n\
done\n";

/// Puts the script of the network faults in its place, where every boot finds it, and runs it; or takes all away.
fn install(script: Option<&str>) -> String {
    let wanted = format!("/etc/systemd/system/multi-user.target.wants/{UNIT}");
    let unit = format!("/etc/systemd/system/{UNIT}");
    let Some(script) = script else {
        return format!("set -eu\nrm -f {wanted} {unit} {SCRIPT_FILE}\n{CLEAR}");
    };
    format!(
        "set -eu\nmkdir -p /etc/pgprov\n\
         cat >{SCRIPT_FILE} <<'END OF SCRIPT'\n{script}END OF SCRIPT\n\
         cat >{unit} <<'END OF UNIT'\n\
         [Unit]\n\
         Description=Network faults that pgprov causes\n\
         Before=network.target\n\n\
         [Service]\n\
         Type=oneshot\n\
         ExecStart=/bin/sh {SCRIPT_FILE}\n\
         END OF UNIT\n\
         mkdir -p \"$(dirname {wanted})\"\n\
         ln -sf ../{UNIT} {wanted}\n\
         sync -f {SCRIPT_FILE}\n\
         exec sh {SCRIPT_FILE}\n"
    )
}

/// Whom the host does not hear.
fn not_heard<'a>(fault: &'a Fault, host: &str) -> &'a [String] {
    let Fault::Partition { hosts, from, one_way } = fault else { return &[] };
    let among = |names: &[String]| names.iter().any(|name| name == host);
    match (among(hosts), among(from) && !one_way) {
        (true, _) => from,
        (_, true) => hosts,
        _ => &[],
    }
}

fn netem(fault: &Fault) -> Option<String> {
    match fault {
        Fault::Delay { milliseconds, jitter: 0, .. } => Some(format!("delay {milliseconds}ms")),
        Fault::Delay { milliseconds, jitter, .. } => Some(format!("delay {milliseconds}ms {jitter}ms")),
        Fault::Loss { percent, .. } => Some(format!("loss {percent}%")),
        Fault::Rate { kbit, .. } => Some(format!("rate {kbit}kbit")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::lab::derive;

    fn lab() -> Lab {
        let hosts = json!({"m": {"roles": ["postgres"]}, "s": {"roles": ["postgres"], "follows": "m"}, "a": {"roles": []}});
        derive(&serde_json::from_value(json!({"lab": "x", "hosts": hosts})).unwrap(), &Default::default())
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn drops(host: &str, fault: &Fault) -> Vec<String> {
        let lab = lab();
        let script = rules(&lab, lab.host(host).unwrap(), &[fault]).unwrap_or_default();
        let address =
            |line: &str| Some(line.trim().strip_prefix("ip saddr ")?.strip_suffix(" drop")?.to_owned());
        let dropped: Vec<String> = script.lines().filter_map(address).collect();
        let name = |address: &String| lab.hosts.iter().find(|host| host.data.address.to_string() == *address);
        dropped.iter().map(|address| name(address).unwrap().name.clone()).collect()
    }

    #[test]
    fn a_partition_makes_both_sides_deaf_and_a_one_way_partition_only_one() {
        let both = Fault::Partition { hosts: names(&["m"]), from: names(&["s", "a"]), one_way: false };
        assert_eq!(drops("m", &both), ["s", "a"]);
        assert_eq!(drops("s", &both), ["m"]);
        assert_eq!(drops("a", &both), ["m"]);
        let one = Fault::Partition { hosts: names(&["m"]), from: names(&["s"]), one_way: true };
        assert_eq!(drops("m", &one), ["s"]);
        assert!(drops("s", &one).is_empty() && drops("a", &one).is_empty());
    }

    #[test]
    fn faults_of_one_interface_add_up() {
        let lab = lab();
        let host = lab.host("m").unwrap();
        let delay = Fault::Delay { host: "m".into(), milliseconds: 50, jitter: 10 };
        let loss = Fault::Loss { host: "m".into(), percent: 5 };
        let rate = Fault::Rate { host: "m".into(), kbit: 512 };
        let script = rules(&lab, host, &[&delay, &loss, &rate]).unwrap();
        assert!(script.contains("root netem delay 50ms 10ms loss 5% rate 512kbit\n"), "{script}");
        assert!(script.contains(&format!("= {} ]", host.data.mac)), "{script}");
        let script = rules(&lab, host, &[&loss]).unwrap();
        assert!(script.contains("root netem loss 5%\n"), "{script}");
        let cut = Fault::Cut { host: "m".into() };
        assert_eq!(rules(&lab, host, &[&cut]), None);
        assert_eq!(rules(&lab, lab.host("s").unwrap(), &[&loss]), None);
    }

    #[test]
    fn the_same_thing_done_again_takes_the_place_of_the_first() {
        let delay = |host: &str, milliseconds| Fault::Delay { host: host.into(), milliseconds, jitter: 0 };
        assert!(delay("m", 5).replaces(&delay("m", 50)));
        assert!(!delay("m", 5).replaces(&delay("s", 5)));
        assert!(!delay("m", 5).replaces(&Fault::Cut { host: "m".into() }));
        let stop = |unit: &str| Fault::StopService { host: "m".into(), unit: unit.into() };
        assert!(stop("cron").replaces(&stop("cron")) && !stop("cron").replaces(&stop("ssh")));
        let part = |one_way| Fault::Partition { hosts: names(&["m"]), from: names(&["s"]), one_way };
        assert!(part(true).replaces(&part(true)) && !part(true).replaces(&part(false)));
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let record = Record {
            id: 3,
            since: 7,
            until: Some(9),
            fault: Fault::Clock { host: "m".into(), seconds: -300 },
        };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(text, r#"{"id":3,"since":7,"until":9,"fault":"clock","host":"m","seconds":-300}"#);
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        assert_eq!(record.fault.to_string(), "the clock of m is 300 s behind");
    }
}
