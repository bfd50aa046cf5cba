//! Runs cases in order, reports each on a line, and leaves nothing behind.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a test program reports on its terminal")]

use std::{
    io::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    process::{self, ExitCode},
    sync::atomic::Ordering,
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow};
use tokio::signal::unix::{SignalKind, signal};

use crate::{command::STOP, suite::Suite};

/// Exit code after SIGINT or SIGTERM.
const INTERRUPTED: i32 = 130;

/// Something the product has to do.
pub struct Case {
    name: &'static str,
    run: fn(&Suite) -> Result<()>,
}

impl Case {
    /// A case of that name.
    pub const fn new(name: &'static str, run: fn(&Suite) -> Result<()>) -> Self {
        Self { name, run }
    }
}

/// The whole program: `--list` or words that select cases.
pub fn main(cases: &[Case]) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--list") {
        for case in cases {
            println!("{}", case.name);
        }
        return ExitCode::SUCCESS;
    }
    if std::env::var_os("PGPROV_E2E").is_none_or(|value| value != "1") {
        println!(
            "e2e: skipped, it needs virtual machines: run `make test-e2e`, with ARGS=WORD for the cases with that word"
        );
        return ExitCode::SUCCESS;
    }
    // `cargo test` passes its options on to every test program.
    let words: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let wanted =
        |case: &&Case| words.is_empty() || words.iter().any(|word| case.name.contains(word.as_str()));
    // A case that fails once in ten is a defect: `--repeat=10` looks for it.
    let times = args.iter().find_map(|arg| arg.strip_prefix("--repeat=")?.parse().ok()).unwrap_or(1);
    let chosen: Vec<&Case> =
        cases.iter().filter(wanted).flat_map(|case| std::iter::repeat_n(case, times)).collect();
    if chosen.is_empty() {
        eprintln!("e2e: no case has {words:?} in its name; `--list` shows all");
        return ExitCode::FAILURE;
    }
    let suite = match Suite::new() {
        Ok(suite) => suite,
        Err(error) => {
            eprintln!("e2e: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = on_signals() {
        eprintln!("e2e: {error:#}");
        return ExitCode::FAILURE;
    }
    println!("{}", suite.describe());
    let failed = run(&suite, &chosen);
    let cleaned = suite.clean_up();
    if let Err(error) = &cleaned {
        println!("could not clean up:\n{error:#}");
    }
    if STOP.load(Ordering::Relaxed) {
        println!("stopped");
        process::exit(INTERRUPTED);
    }
    if failed == 0 && cleaned.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs them all and returns how many failed.
fn run(suite: &Suite, cases: &[&Case]) -> usize {
    let begun = Instant::now();
    let (mut passed, mut failures) = (0, Vec::new());
    for (index, case) in cases.iter().enumerate() {
        if STOP.load(Ordering::Relaxed) {
            break;
        }
        print!("{:>3}/{} {:42}", index + 1, cases.len(), case.name);
        let _ = std::io::stdout().flush();
        let started = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| (case.run)(suite)));
        let result = result.unwrap_or_else(|panic| Err(anyhow!("panicked: {}", panic_text(panic.as_ref()))));
        let seconds = started.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                println!("{seconds:7.1} s  ok");
                passed += 1;
            }
            Err(error) => {
                let why = indented(&format!("{error:#}"));
                println!("{seconds:7.1} s  FAILED\n{why}");
                failures.push((case.name, why));
                if let Err(error) = suite.start_afresh() {
                    println!("{}", indented(&format!("could not take its labs away: {error:#}")));
                }
            }
        }
    }
    println!("{:.0} s in all", begun.elapsed().as_secs_f64());
    // Once more, because the end is what is looked at, and sometimes all that was kept.
    for (name, why) in &failures {
        println!("failed: {name}\n{why}");
    }
    println!("{passed} passed, {} failed", failures.len());
    failures.len()
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("      {line}\n")).collect::<String>().trim_end().to_owned()
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// The first signal ends the running case and cleans up; a second one ends the program at once.
fn on_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                if STOP.swap(true, Ordering::Relaxed) {
                    process::exit(INTERRUPTED);
                }
                eprintln!("\nstopping: taking the labs away; once more to leave them");
            }
        });
    });
    Ok(())
}
