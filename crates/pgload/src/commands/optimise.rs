//! `pgload optimise`.

use std::{fmt::Write as _, fs};

use anyhow::Context as _;

use super::{Context, Verdict, run::stop_on_signals};
use crate::{
    cli::Optimise,
    optimise::{self, Measured, Settings},
    run::Stop,
    stage::Stage,
    svg::{self, Series},
    workload::{Kind, Workload},
};

pub fn run(context: &Context, arguments: &Optimise) -> anyhow::Result<Verdict> {
    let ui = context.ui;
    let reads = Workload::load(&context.assets, &arguments.workload)?;
    let mut writes = Workload::load(&context.assets, "oltp")?;
    let changing = writes.statements.iter().filter(|statement| statement.kind == Kind::Write);
    let changing: Vec<String> = changing.map(|statement| statement.name.clone()).collect();
    writes.only(&changing)?;
    let mut stages = Stage::all(&context.assets)?;
    if !arguments.stages.is_empty() {
        for name in &arguments.stages {
            anyhow::ensure!(stages.iter().any(|stage| stage.name == *name), "there is no stage `{name}`");
        }
        stages.retain(|stage| arguments.stages.contains(&stage.name));
    }
    let settings = Settings {
        time: arguments.time,
        least: 5,
        most: 200,
        write_time: arguments.write_time,
        write_clients: 4,
        seed: arguments.seed,
        write_limit: 3.0,
    };
    let stop = Stop::default();
    stop_on_signals(&stop)?;
    let say = |text: &str| ui.note(text);
    let measured = optimise::optimise(&context.target()?, &reads, &writes, &stages, &settings, &stop, &say)?;
    let (head, rows) = table(&measured);
    let names: Vec<&str> = head.iter().map(String::as_str).collect();
    ui.table(&names, &rows);
    for stage in &measured[1..] {
        let kept = if stage.kept { "kept" } else { "taken back" };
        ui.say(&format!("{}: {kept}: {}", stage.stage, stage.reason));
    }
    fs::create_dir_all(&arguments.out).with_context(|| format!("cannot make {}", arguments.out.display()))?;
    let title = format!("{}: median by stage of optimisation", reads.name);
    for (name, text) in [
        ("optimise.json", serde_json::to_string_pretty(&measured)?),
        ("optimise.svg", picture(&title, &measured)),
        ("optimise.md", markdown(&measured)),
        ("optimise.html", svg::page(&title, &format!("{}{}", picture(&title, &measured), plans(&measured)))),
    ] {
        let path = arguments.out.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    ui.say(&format!("\nresults: {}", arguments.out.display()));
    ui.document(&measured)?;
    Ok(Verdict::Fine)
}

/// Statements in rows, stages in columns; then sizes and writes.
fn table(measured: &[Measured]) -> (Vec<String>, Vec<Vec<String>>) {
    let mut head = vec!["p50".to_owned()];
    head.extend(measured.iter().map(|stage| stage.stage.clone()));
    head.push("gain".to_owned());
    let best = measured.iter().rposition(|stage| stage.kept).unwrap_or(0);
    let mut rows = Vec::new();
    for (index, figure) in measured[0].figures.iter().enumerate() {
        let p50 = |stage: &Measured| stage.figures.get(index).map_or(0.0, |figure| figure.p50);
        let mut row = vec![figure.name.clone()];
        row.extend(measured.iter().map(|stage| svg::label(p50(stage))));
        row.push(format!("x{:.1}", p50(&measured[0]) / p50(&measured[best]).max(1e-3)));
        rows.push(row);
    }
    let mut more = |name: &str, of: &dyn Fn(&Measured) -> String| {
        let mut row = vec![name.to_owned()];
        row.extend(measured.iter().map(of));
        row.push(String::new());
        rows.push(row);
    };
    more("size", &|stage| format!("{:.0} MB", stage.bytes as f64 / 1e6));
    more("writes", &|stage| format!("{:.0}/s", stage.writes.rate));
    more("writes, WAL each", &|stage| format!("{:.1} kB", stage.writes.wal / 1e3));
    more("applied in", &|stage| format!("{:.1} s", stage.applied_in));
    more("verdict", &|stage| if stage.kept { "kept" } else { "taken back" }.to_owned());
    (head, rows)
}

fn markdown(measured: &[Measured]) -> String {
    let (head, rows) = table(measured);
    let mut out = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
    for row in rows {
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
    out
}

fn picture(title: &str, measured: &[Measured]) -> String {
    let labels: Vec<&str> = measured[0].figures.iter().map(|figure| figure.name.as_str()).collect();
    let series: Vec<Series> = measured
        .iter()
        .map(|stage| Series {
            name: &stage.stage,
            values: stage.figures.iter().map(|figure| Some(figure.p50)).collect(),
        })
        .collect();
    svg::bars(title, &labels, &series)
}

fn plans(measured: &[Measured]) -> String {
    let mut out = String::new();
    for stage in measured {
        let _ = write!(
            out,
            "<h2>{}</h2><p>{} {}</p>",
            svg::text(&stage.stage),
            svg::text(&stage.description),
            svg::text(&stage.reason)
        );
        for figure in &stage.figures {
            let changes = figure.changes.join("; ");
            let _ = write!(
                out,
                "<details><summary>{}: p50 {}, p95 {}. {}</summary><pre>{}</pre></details>",
                svg::text(&figure.name),
                svg::label(figure.p50),
                svg::label(figure.p95),
                svg::text(&changes),
                svg::text(&figure.plan.join("\n"))
            );
        }
    }
    out
}
