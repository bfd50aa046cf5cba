//! pgload against pgbench: the same TPC-B-like statements, prepared, eight connections, the client on one core, in turns
//! against the same server. Prints tables for docs/benchmarks.md.
//!
//! pgbench runs twice in each round: how far it is from itself is how far the machine lets anything be told. Whether
//! percentiles are right does not depend on that in the second table, where the server sleeps for a time that is drawn:
//! there, the percentiles are known.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot go on fails; its answer is printed"
)]

#[path = "../tests/it/server.rs"]
#[expect(dead_code, reason = "made for the tests, which need more of it")]
mod server;

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const CLIENTS: &str = "8";

/// What one run of a client came to.
#[derive(Clone, Copy, Debug)]
struct Figures {
    rate: f64,
    /// Microseconds of processor time a transaction, of the client.
    cpu: f64,
    /// The mean and quantiles of the latency, in microseconds.
    mean: f64,
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
        "max_wal_size = 16GB",
        // What happens once in a while would be in one client's figures and not in the other's.
        "checkpoint_timeout = 1h",
        "full_page_writes = off",
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
    let bench = Bench { tools, dsn, seconds, dir: dir.path().to_owned(), runs: Cell::new(0) };
    let ledger = dir.path().join("ledger").display().to_string();
    let kinds: [(&str, &dyn Fn() -> Figures); 5] = [
        ("pgbench", &|| bench.pgbench(&[])),
        ("pgbench again", &|| bench.pgbench(&[])),
        ("pgload, `--no-pipeline`", &|| bench.pgload("tpcb", &["--no-pipeline"])),
        ("pgload", &|| bench.pgload("tpcb", &[])),
        ("pgload, ledger", &|| bench.pgload("tpcb", &["--ledger", &ledger])),
    ];
    table(&kinds, rounds);
    println!();
    fs::create_dir(dir.path().join("workloads")).unwrap();
    let yaml = "workload: sleep\nstatements:\n  sleep: { kind: read, parameters: { ms: { uniform: [1, 50] } }, \
                sql: 'SELECT pg_sleep(:ms::int / 1000.0)' }\n";
    fs::write(dir.path().join("workloads/sleep.yaml"), yaml).unwrap();
    fs::write(dir.path().join("sleep.sql"), "\\set ms random(1, 50)\nSELECT pg_sleep(:ms::int / 1000.0);\n")
        .unwrap();
    let (script, sql) =
        (dir.path().join("sleep.sql").display().to_string(), dir.path().display().to_string());
    let kinds: [(&str, &dyn Fn() -> Figures); 2] = [
        ("pgbench, sleeps of 1 to 50 ms", &|| bench.pgbench(&["-f", &script])),
        ("pgload, the same", &|| bench.pgload("sleep", &["--sql", &sql])),
    ];
    table(&kinds, rounds);
}

/// Runs all kinds in turns and prints what they came to; ratios are to the first of the same round.
/// Their number is a prime, so that every order has all of them.
fn table(kinds: &[(&str, &dyn Fn() -> Figures)], rounds: u32) {
    let mut all: Vec<Vec<Figures>> = vec![Vec::new(); kinds.len()];
    for round in 0..rounds as usize {
        // Each time another one is first and has others as neighbours: what one leaves behind, the next pays for.
        let stride = 1 + round % (kinds.len() - 1);
        for step in 0..kinds.len() {
            let index = (round + step * stride) % kinds.len();
            all[index].push(kinds[index].1());
        }
    }
    println!(
        "| client | tps | CPU a transaction, us | rate to pgbench's | time accounted for | p50 | p95 | p99 |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (index, (name, _)) in kinds.iter().enumerate() {
        let of = |what: fn(&Figures) -> f64| quartiles(all[index].iter().map(what))[1];
        let ratio = |what: fn(&Figures) -> f64| {
            let pairs = all[index].iter().zip(&all[0]);
            let [low, middle, high] = quartiles(pairs.map(|(one, other)| what(one) / what(other)));
            format!("x{middle:.3} ({low:.2} to {high:.2})")
        };
        println!(
            "| {name} | {:.0} | {:.1} | {} | {:.0} % | {:.2} ms, {} | {:.2} ms, {} | {:.2} ms, {} |",
            of(|f| f.rate),
            of(|f| f.cpu),
            ratio(|f| f.rate),
            // A closed loop: a connection is always within some transaction. What is missing from 100 % was not measured.
            of(|f| f.rate * f.mean / 1e6 / CLIENTS.parse::<f64>().unwrap() * 100.0),
            of(|f| f.p50) / 1e3,
            ratio(|f| f.p50),
            of(|f| f.p95) / 1e3,
            ratio(|f| f.p95),
            of(|f| f.p99) / 1e3,
            ratio(|f| f.p99),
        );
    }
}

/// A quarter is below, half is below, three quarters are.
fn quartiles(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|part| values[(values.len() * part / 4).min(values.len() - 1)])
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

/// What both clients are given.
struct Bench {
    tools: PathBuf,
    dsn: String,
    seconds: u32,
    dir: PathBuf,
    /// Counts the runs of pgload: each draws anew, as pgbench does by itself.
    runs: Cell<u32>,
}

impl Bench {
    fn pgbench(&self, more: &[&str]) -> Figures {
        let program = self.tools.join("pgbench").display().to_string();
        let seconds = self.seconds.to_string();
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
        ];
        let words: Vec<String> =
            words.iter().chain(more).chain(&[self.dsn.as_str()]).map(|word| (*word).to_owned()).collect();
        let (_, cpu) = timed(&words, &self.dir);
        let mut latencies = Vec::new();
        for entry in fs::read_dir(&self.dir).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_string_lossy().starts_with("bench.") {
                let text = fs::read_to_string(&path).unwrap();
                let latency = |line: &str| line.split(' ').nth(2).unwrap().parse::<f64>().unwrap();
                latencies.extend(text.lines().map(latency));
                fs::remove_file(path).unwrap();
            }
        }
        latencies.sort_by(f64::total_cmp);
        let count = latencies.len() as f64;
        let at = |quantile: f64| latencies[((count * quantile) as usize).min(latencies.len() - 1)];
        let rate = count / f64::from(self.seconds);
        let mean = latencies.iter().sum::<f64>() / count;
        Figures { rate, cpu: cpu * 1e6 / count, mean, p50: at(0.5), p95: at(0.95), p99: at(0.99) }
    }

    fn pgload(&self, workload: &str, more: &[&str]) -> Figures {
        let (program, seconds) = (env!("CARGO_BIN_EXE_pgload"), format!("{}s", self.seconds));
        self.runs.set(self.runs.get() + 1);
        let seed = self.runs.get().to_string();
        let words = [
            program, "run", "-w", workload, "-c", CLIENTS, "--warmup", "0s", "-d", &seconds, "-q", "-o",
            "json", "--seed", &seed, "--dsn", &self.dsn,
        ];
        let words: Vec<String> = words.iter().chain(more).map(|word| (*word).to_owned()).collect();
        let (text, cpu) = timed(&words, &self.dir);
        let run: serde_json::Value = serde_json::from_str(&text).unwrap();
        let statement = &run["statements"][0];
        let count = statement["counts"]["ok"].as_f64().unwrap();
        let at = |name: &str| statement["response"][name].as_f64().unwrap();
        let rate = statement["rate"].as_f64().unwrap();
        Figures {
            rate,
            cpu: cpu * 1e6 / count,
            mean: at("mean"),
            p50: at("p50"),
            p95: at("p95"),
            p99: at("p99"),
        }
    }
}
