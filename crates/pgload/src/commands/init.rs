//! `pgload init`.

use std::{sync::Arc, time::Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::{Context, Verdict};
use crate::{
    cli::Init,
    init::{self, Options, Progress},
};

pub fn run(context: &Context, arguments: &Init) -> anyhow::Result<Verdict> {
    let ui = context.ui;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = Options {
        seed: arguments.seed,
        scale: arguments.scale,
        jobs: arguments.jobs.unwrap_or(cores.min(8)),
        replace: arguments.replace,
    };
    let bar = ProgressBar::with_draw_target(
        None,
        if ui.live() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
    );
    if let Ok(style) = ProgressStyle::with_template("loading {wide_bar} {pos}/{len} parts  {msg}  {eta}") {
        bar.set_style(style);
    }
    let begun = Instant::now();
    let progress: Progress = {
        let bar = bar.clone();
        Arc::new(move |done, all, rows| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
            bar.set_message(if done < all {
                format!("{rows} rows")
            } else {
                "keys and statistics".to_owned()
            });
        })
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(init::run(&context.target()?, &context.assets, &options, progress))?;
    bar.finish_and_clear();
    let seconds = begun.elapsed().as_secs_f64();
    let megabytes = report.bytes as f64 / 1e6;
    if report.rows == 0 {
        ui.say(&format!("schema wms is there already: {megabytes:.0} MB, digest {}", report.digest));
    } else {
        ui.say(&format!(
            "schema wms: {} rows in {seconds:.1} s, {megabytes:.0} MB, digest {}",
            report.rows, report.digest
        ));
    }
    ui.document(&json!({
        "rows": report.rows,
        "parts_kept": report.parts_kept,
        "bytes": report.bytes,
        "digest": report.digest,
        "seconds": seconds,
    }))?;
    Ok(Verdict::Fine)
}
