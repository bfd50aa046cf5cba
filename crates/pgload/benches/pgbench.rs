//! pgload against pgbench: the same TPC-B-like statements, prepared, eight connections, the client on one core, in turns
//! against the same server. Prints a table for docs/benchmarks.md.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot go on fails; its answer is printed"
)]

#[path = "../tests/it/server.rs"]
#[expect(dead_code, reason = "made for the tests, which need more of it")]
mod server;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

const CLIENTS: &str = "8";

/// What one run of a client came to.
#[derive(Clone, Copy, Debug)]
struct Figures {
    rate: f64,
    /// Microseconds of processor time a transaction, of the client.
    cpu: f64,
    /// Microseconds.
    p50: f64,
    p95: f64,
    p99: f64,
}

fn main() {
    let number = |name: &str, default: u32| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (rounds, seconds) = (number("ROUNDS", 7), number("ROUND_SECONDS", 8));
    let server = server::Server::start(&[
        "shared_buffers = 256MB",
        "max_wal_size = 4GB",
        "autovacuum = off",
        "fsync = on",
    ]);
    let dsn = server.database();
    let tools = server::binaries();
    let made = Command::new(tools.join("pgbench"))
        .args(["-i", "-q", "-s", "20", &dsn])
        .stderr(Stdio::null())
        .status();
    assert!(made.unwrap().success());
    let dir = tempfile::tempdir().unwrap();
    let kinds = ["pgbench", "pgload", "pgload, ledger", "pgload, one by one"];
    let mut all: Vec<Vec<Figures>> = vec![Vec::new(); kinds.len()];
    for round in 0..rounds {
        for step in 0..kinds.len() {
            // Another order each time: what follows a checkpoint is not always the same.
            let index = (step + round as usize) % kinds.len();
            let figures = match index {
                0 => pgbench(&tools, &dsn, seconds, dir.path()),
                1 => pgload(&dsn, seconds, dir.path(), &[]),
                2 => pgload(
                    &dsn,
                    seconds,
                    dir.path(),
                    &["--ledger", &dir.path().join("ledger").display().to_string()],
                ),
                _ => pgload(&dsn, seconds, dir.path(), &["--no-pipeline"]),
            };
            all[index].push(figures);
        }
    }
    println!("| client | tps, median | rate to pgbench's | CPU a transaction, us | p50 | p95 | p99 |");
    println!("|---|---|---|---|---|---|---|");
    for (index, name) in kinds.iter().enumerate() {
        let of = |what: fn(&Figures) -> f64| median(all[index].iter().map(what).collect());
        let ratio = |what: fn(&Figures) -> f64| {
            median(all[index].iter().zip(&all[0]).map(|(one, other)| what(one) / what(other)).collect())
        };
        println!(
            "| {name} | {:.0} | {:.3} | {:.1} | {:.2} ms, x{:.3} | {:.2} ms, x{:.3} | {:.2} ms, x{:.3} |",
            of(|f| f.rate),
            ratio(|f| f.rate),
            of(|f| f.cpu),
            of(|f| f.p50) / 1e3,
            ratio(|f| f.p50),
            of(|f| f.p95) / 1e3,
            ratio(|f| f.p95),
            of(|f| f.p99) / 1e3,
            ratio(|f| f.p99),
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs a command line on one core; what it printed, and the seconds of processor time it took.
fn timed(command: &[String], dir: &Path) -> (String, f64) {
    let output = Command::new("bash")
        .args(["-c", "TIMEFORMAT='cpu %U %S'; time taskset -c 1 \"$@\" 2>/dev/null", "bash"])
        .args(command)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{command:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    let cpu = said.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap();
    let cpu = cpu.split(' ').map(|number| number.parse::<f64>().unwrap()).sum();
    (String::from_utf8(output.stdout).unwrap(), cpu)
}

fn pgbench(tools: &Path, dsn: &str, seconds: u32, dir: &Path) -> Figures {
    let program = tools.join("pgbench").display().to_string();
    let seconds = seconds.to_string();
    let words = [
        &program,
        "-n",
        "-M",
        "prepared",
        "-c",
        CLIENTS,
        "-j",
        "1",
        "-T",
        &seconds,
        "-l",
        "--log-prefix=bench",
        dsn,
    ];
    let (_, cpu) = timed(&words.map(str::to_owned), dir);
    let mut latencies = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("bench.") {
            let text = fs::read_to_string(&path).unwrap();
            latencies
                .extend(text.lines().map(|line| line.split(' ').nth(2).unwrap().parse::<f64>().unwrap()));
            fs::remove_file(path).unwrap();
        }
    }
    latencies.sort_by(f64::total_cmp);
    let count = latencies.len() as f64;
    let at = |quantile: f64| latencies[((count * quantile) as usize).min(latencies.len() - 1)];
    let rate = count / seconds.parse::<f64>().unwrap();
    Figures { rate, cpu: cpu * 1e6 / count, p50: at(0.5), p95: at(0.95), p99: at(0.99) }
}

fn pgload(dsn: &str, seconds: u32, dir: &Path, more: &[&str]) -> Figures {
    let (program, seconds) = (env!("CARGO_BIN_EXE_pgload"), format!("{seconds}s"));
    let words = [
        program, "run", "-w", "tpcb", "-c", CLIENTS, "--warmup", "0s", "-d", &seconds, "-q", "-o", "json",
        "--dsn", dsn,
    ];
    let words: Vec<String> = words.iter().chain(more).map(|word| (*word).to_owned()).collect();
    let (text, cpu) = timed(&words, dir);
    let run: serde_json::Value = serde_json::from_str(&text).unwrap();
    let statement = &run["statements"][0];
    let count = statement["counts"]["ok"].as_f64().unwrap();
    let at = |name: &str| statement["response"][name].as_f64().unwrap();
    Figures {
        rate: statement["rate"].as_f64().unwrap(),
        cpu: cpu * 1e6 / count,
        p50: at("p50"),
        p95: at("p95"),
        p99: at("p99"),
    }
}
