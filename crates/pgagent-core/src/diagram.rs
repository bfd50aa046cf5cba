//! The state diagram of docs/failover.md, drawn from the table.

use std::fmt::Write;

use crate::node::{Phase, table::TABLE};

/// A Mermaid state diagram: each phase, each transition with its few words. What leads to `halted` from everywhere is
/// left out, because it would hide the rest.
pub fn mermaid() -> String {
    let mut out = String::from("stateDiagram-v2\n    [*] --> starting\n");
    for phase in Phase::ALL {
        let name = phase.name();
        if name.contains('-') {
            let _ = writeln!(out, "    state \"{name}\" as {}", id(phase));
        }
    }
    for row in TABLE.iter().filter(|row| row.to != Phase::Halted) {
        for from in row.from {
            let _ = writeln!(out, "    {} --> {}: {}", id(*from), id(row.to), row.name);
        }
    }
    out
}

/// A table of all transitions in Markdown.
pub fn table() -> String {
    let mut out = String::from("| from | to | when | because |\n|---|---|---|---|\n");
    for row in TABLE {
        let from: Vec<&str> = row.from.iter().map(|phase| phase.name()).collect();
        let from = if from.len() > 6 { "any with data".to_owned() } else { from.join(", ") };
        let _ = writeln!(out, "| {from} | {} | {} | {} |", row.to.name(), row.name, row.why);
    }
    out
}

fn id(phase: Phase) -> String {
    phase.name().replace('-', "_")
}
