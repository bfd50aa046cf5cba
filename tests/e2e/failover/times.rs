//! How long clients cannot write, by fault: from the ledger of a client, many runs of each, as a table for
//! docs/benchmarks.md. `PGPROV_ROUNDS` says how many, `PGPROV_FAULTS` which.
#![expect(clippy::print_stdout, reason = "its answer is a table")]

use std::{io::Write as _, time::Instant};

use anyhow::{Context as _, Result};

use super::{
    drill::Drill,
    ledger::{Fate, Try},
};
use crate::suite::Suite;

/// A fault: its name for people, and what brings it about on the primary, the first argument, or its standby.
type Fault = (&'static str, fn(&Drill<'_>, &str, &str) -> Result<()>);

const FAULTS: [Fault; 5] = [
    ("network of the primary cut", |drill, primary, _| drill.cable(primary, "down")),
    ("power of the primary cut", |drill, primary, _| drill.power_off(primary)),
    ("postmaster killed (SIGKILL)", |drill, primary, _| {
        drill.lab.exec(primary, "kill -KILL $(head -1 /var/lib/postgresql/*/main/postmaster.pid)").map(drop)
    }),
    ("switchover", |drill, _, _| drill.ha(&["switchover", "--wait", "60"]).limit(90).ok().map(drop)),
    ("network of the standby cut", |drill, _, standby| drill.cable(standby, "down")),
];

/// On a host whose cable is about to be pulled: how long its port stays open after that, in milliseconds.
const WATCH_GATE: &str = r#"rm -f /run/fenced; setsid timeout 100 bash -c '
    dev=$(ip -o -4 addr show | sed -n "s/^[0-9]*: \([^ ]*\) .* 10\.77\.10\..*/\1/p" | head -1)
    until [ "$(cat /sys/class/net/$dev/carrier)" = 0 ]; do sleep 0.1; done
    from=${EPOCHREALTIME/./}
    while nft list set inet pgagent clients | grep -q elements; do sleep 0.05; done
    echo $(( (${EPOCHREALTIME/./} - from) / 1000 )) >/run/fenced' >/dev/null 2>&1 </dev/null &"#;

/// One run of a fault.
struct Run {
    /// From the moment in which the primary lost its network until its port was closed.
    fenced: Option<f64>,
    /// The longest time without an acknowledged write, from the fault on.
    gap: f64,
    /// From mending until SYNC.
    sync: f64,
}

/// Runs all faults, and prints the table.
///
/// # Errors
/// An acknowledged write is lost, or the lab does not recover.
pub fn times(suite: &Suite) -> Result<()> {
    let number = |name: &str, otherwise| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
    };
    let rounds: usize = number("PGPROV_ROUNDS", 20);
    let wanted = std::env::var("PGPROV_FAULTS").unwrap_or_default();
    let chosen = FAULTS.iter().filter(|(name, _)| wanted.split(',').any(|word| name.contains(word)));
    let mut rows = Vec::new();
    for (name, fault) in chosen {
        let runs = of(suite, rounds, *fault).with_context(|| (*name).to_owned())?;
        rows.push((*name, runs));
        print(&rows);
    }
    Ok(())
}

/// Many runs of one fault in one lab, which is mended in between.
fn of(suite: &Suite, rounds: usize, fault: fn(&Drill<'_>, &str, &str) -> Result<()>) -> Result<Vec<Run>> {
    let drill = Drill::begin(suite)?;
    let (mut runs, mut changes, mut primary) = (Vec::new(), 0, "m".to_owned());
    for round in 0..rounds {
        let (old, other) = (primary.clone(), if primary == "m" { "s" } else { "m" });
        drill.lab.exec(&old, WATCH_GATE)?;
        drill.pause(3.0);
        let since = drill.now();
        fault(&drill, &old, other)?;
        drill.pause(2.0);
        drill.writes_go_on(90).with_context(|| format!("in round {round}"))?;
        drill.pause(1.0);
        let mended = Instant::now();
        for host in ["m", "s"] {
            drill.restore(host)?;
        }
        primary = drill.settled(240).with_context(|| format!("in round {round}"))?;
        let sync = mended.elapsed().as_secs_f64();
        changes += usize::from(primary != old);
        let fenced = drill.lab.exec(&old, "cat /run/fenced 2>/dev/null || true")?;
        let fenced = fenced.parse().ok().map(|milliseconds: f64| milliseconds / 1000.0);
        runs.push(Run { fenced, gap: gap(&drill.tries("writer")?, since), sync });
        print!("{:.1} ", runs.last().map_or(0.0, |run| run.gap));
        let _ = std::io::stdout().flush();
    }
    let told = drill.end(changes)?;
    println!("\n{} ok, {} in doubt, {} failed, 0 lost", told.ok, told.unknown, told.failed);
    Ok(runs)
}

/// The longest time between two acknowledgements of which the later one came after `since`.
pub fn gap(tries: &[Try], since: f64) -> f64 {
    let ok: Vec<f64> = tries.iter().filter(|it| it.fate() == Fate::Ok).map(|it| it.end).collect();
    ok.windows(2).filter(|pair| pair[1] >= since).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max)
}

fn print(rows: &[(&str, Vec<Run>)]) {
    println!(
        "\n\n| fault | runs | write gap p50, s | p95 | max | fenced p50, s | max | until SYNC again p50, s | p95 | max |\n\
         |---|---|---|---|---|---|---|---|---|---|"
    );
    for (name, runs) in rows {
        let sorted = |of: fn(&Run) -> Option<f64>| {
            let mut all: Vec<f64> = runs.iter().filter_map(of).collect();
            all.sort_by(f64::total_cmp);
            all
        };
        let at = |all: &[f64], share: f64| {
            let index = (all.len() as f64 * share).ceil() as usize;
            let value = all.get(index.clamp(1, all.len().max(1)) - 1);
            value.map_or_else(String::new, |seconds| format!("{seconds:.1}"))
        };
        let (gaps, fenced, syncs) =
            (sorted(|run| Some(run.gap)), sorted(|run| run.fenced), sorted(|run| Some(run.sync)));
        let cells = [
            runs.len().to_string(),
            at(&gaps, 0.5),
            at(&gaps, 0.95),
            at(&gaps, 1.0),
            at(&fenced, 0.5),
            at(&fenced, 1.0),
            at(&syncs, 0.5),
            at(&syncs, 0.95),
            at(&syncs, 1.0),
        ];
        println!("| {name} | {} |", cells.join(" | "));
    }
}

impl Drill<'_> {
    /// Plugs in and switches on what a fault took away.
    fn restore(&self, host: &str) -> Result<()> {
        let state = self.lab.suite.virsh(["domstate", &self.lab.domain(host)]).ok()?;
        if state.text() == "running" {
            return self.cable(host, "up");
        }
        self.power_on(host)?;
        self.awake(host, 120)
    }
}
