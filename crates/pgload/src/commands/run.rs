//! `pgload run`.

use std::time::Duration;

use super::{Context, Verdict};
use crate::{
    cli,
    measure::measure,
    results::{Name, Results},
    run::{Live, Load, Options, Segment, Stop, live::millis},
    ui::Ui,
    workload::{Kind, Workload},
};

pub fn run(context: &Context, arguments: &cli::Run) -> anyhow::Result<Verdict> {
    let mut workload = Workload::load(&context.assets, &arguments.workload)?;
    workload.only(&arguments.statements)?;
    let name = Name::new();
    let options = options(context, arguments, &name);
    let stop = Stop::default();
    stop_on_signals(&stop)?;
    let results = measure(&context.target()?, &workload, &options, &name, &stop)?;
    let folder = results.save(&arguments.results)?;
    summary(context.ui, &results);
    context.ui.say(&format!("\nresults: {}", folder.display()));
    context.ui.document(&results.run)?;
    Ok(Verdict::Fine)
}

fn options(context: &Context, arguments: &cli::Run, name: &Name) -> Options {
    let load = match arguments.clients {
        Some(clients) => Load::Closed { clients, think: arguments.think },
        None => Load::Open {
            segments: arguments
                .rate
                .clone()
                .map_or_else(|| vec![Segment { from: 100.0, to: 100.0 }], |rate| rate.0),
            arrivals: arguments.arrivals.into(),
            connections: arguments.connections,
        },
    };
    let live = match (context.ui.live(), context.ui.quiet()) {
        (true, _) => Live::Screen,
        (false, false) => Live::Lines,
        (false, true) => Live::No,
    };
    Options {
        load,
        warmup: arguments.warmup,
        duration: arguments.duration.max(Duration::from_millis(1)),
        statements: arguments.count,
        seed: arguments.seed,
        tries: arguments.tries.max(1),
        deadline: arguments.deadline,
        pipeline: !arguments.no_pipeline,
        ledger: arguments.ledger.clone(),
        id: name.id.clone(),
        run: name.number,
        started: name.started.clone(),
        metrics: arguments.metrics,
        stage: arguments.stage.clone(),
        live,
        live_file: arguments.live.clone(),
    }
}

/// The first Ctrl-C or SIGTERM ends the run and keeps what was measured; the second ends the program.
///
/// # Errors
/// Signals cannot be caught.
pub fn stop_on_signals(stop: &Stop) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stop = stop.clone();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
            let Ok(mut terminate) = terminate else { return };
            for asked_before in [false, true] {
                tokio::select! {
                    _ = tokio::signal::ctrl_c() => {}
                    _ = terminate.recv() => {}
                }
                if asked_before {
                    std::process::exit(130);
                }
                stop.stop();
            }
        });
    })?;
    Ok(())
}

/// What came out, for people.
pub fn summary(ui: Ui, results: &Results) {
    let run = &results.run;
    let rows: Vec<Vec<String>> = run
        .statements
        .iter()
        .filter(|statement| statement.counts.all() > 0)
        .map(|statement| {
            let (counts, response) = (&statement.counts, &statement.response);
            let mut row = vec![statement.name.clone(), format!("{:.1}", statement.rate)];
            row.extend([response.p50, response.p95, response.p99, response.max].map(millis));
            row.extend([counts.ok, counts.weak, counts.idle].map(|count| count.to_string()));
            row.extend([counts.retries, counts.aborted, counts.indeterminate].map(|count| count.to_string()));
            row
        })
        .collect();
    let head = [
        "STATEMENT",
        "/S",
        "P50",
        "P95",
        "P99",
        "MAX",
        "OK",
        "WEAK",
        "IDLE",
        "RETRIES",
        "FAILED",
        "IN DOUBT",
    ];
    ui.table(&head, &rows);
    let rate: f64 = run.statements.iter().map(|statement| statement.rate).sum();
    ui.say(&format!(
        "\n{rate:.1} statements/s in {:.1} s ({}); client {:.0} % of a core, scheduler late by {:.2} ms (p99)",
        run.elapsed,
        run.load,
        run.cpu * 100.0,
        run.lag_p99 as f64 / 1e3
    ));
    if let Some(outage) = run.outage.as_ref().filter(|outage| outage.length() > 0.0) {
        let end = if outage.recovered { "" } else { ", still going on at the end" };
        let writes = run.statements.iter().any(|statement| statement.kind == Kind::Write);
        let what = if writes { "successful write" } else { "success" };
        let mut text =
            format!("longest time without a {what}: {:.3} s (at {:.3} s{end})", outage.length(), outage.from);
        for (which, error) in [("first", &outage.first_error), ("last", &outage.last_error)] {
            if let Some((at, error)) = error {
                text += &format!("\n  {which} error at {at:.3} s: {error}");
            }
        }
        ui.say(&text);
    }
    for row in &results.errors {
        ui.say(&format!(
            "error {} x{} in {} ({}): {}",
            row.code,
            row.count,
            row.statement.as_deref().unwrap_or("connect"),
            row.phase,
            row.message
        ));
    }
    for reason in &run.invalid {
        ui.say(&format!("INVALID: {reason}"));
    }
}
