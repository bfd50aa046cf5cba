//! Runs: what is counted, retried and kept.

use std::{fs, path::Path, sync::Arc, time::Duration};

use pgload::{
    assets::Assets,
    data::Scale,
    init,
    ledger::Book,
    measure::measure,
    results::{Name, Results},
    run::{Arrivals, Live, Load, Options, Segment, Stop},
    verify::{self, Report, Violation},
    workload::Workload,
};
use tempfile::TempDir;

use crate::server::{connect, psql, shared, target, wait_for};

/// Options of a short run, as tests need them.
pub fn options(load: Load, duration: Duration) -> Options {
    let name = Name::new();
    Options {
        load,
        warmup: Duration::ZERO,
        duration,
        statements: None,
        seed: 1,
        tries: 20,
        deadline: Duration::from_secs(10),
        pipeline: true,
        ledger: None,
        id: name.id,
        run: name.number,
        started: name.started,
        metrics: None,
        stage: "test".to_owned(),
        live: Live::No,
        live_file: None,
    }
}

pub fn closed(clients: u32) -> Load {
    Load::Closed { clients, think: Duration::ZERO }
}

pub fn open(rate: f64, connections: u32) -> Load {
    Load::Open { segments: vec![Segment { from: rate, to: rate }], arrivals: Arrivals::Poisson, connections }
}

/// A workload that a user wrote: nothing but a YAML file.
pub fn workload(yaml: &str) -> Workload {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("workloads")).unwrap();
    fs::write(dir.path().join("workloads/mine.yaml"), format!("workload: mine\n{yaml}")).unwrap();
    Workload::load(&Assets::new(Some(dir.path())).unwrap(), "mine").unwrap()
}

pub fn go(dsn: &str, workload: &Workload, options: &Options) -> Results {
    let name = Name { id: "test".to_owned(), number: options.run, started: options.started.clone() };
    measure(&target(dsn), workload, options, &name, &Stop::default()).unwrap()
}

pub fn statement<'a>(results: &'a Results, name: &str) -> &'a pgload::results::Statement {
    results.run.statements.iter().find(|statement| statement.name == name).unwrap()
}

pub fn check(dsn: &str, ledger: &Path, workload: &Workload) -> (Vec<Report>, Vec<Violation>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let session = connect(dsn).await;
        session.client.batch_execute(&workload.session_setup()).await.unwrap();
        let mut reports = Vec::new();
        for book in Book::read_all(ledger).unwrap() {
            reports.push(verify::ledger(&session.client, &book).await.unwrap());
        }
        (reports, verify::checks(&session.client, workload).await.unwrap())
    })
}

/// A small warehouse.
pub fn warehouse(dsn: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let options = init::Options { seed: 1, scale: Scale::new(0.0625).unwrap(), jobs: 2, replace: false };
    let assets = Assets::new(None).unwrap();
    runtime.block_on(init::run(&target(dsn), &assets, &options, Arc::new(|_, _, _| {}))).unwrap();
}

pub fn ledger() -> TempDir {
    tempfile::tempdir().unwrap()
}

const COUNTER: &str = "
search_path: public
setup: CREATE TABLE IF NOT EXISTS counter (id int PRIMARY KEY, n int NOT NULL)
domains: { id: 'SELECT 1, 4' }
statements:
  count:
    kind: write
    isolation: serializable
    parameters: { id: { uniform: id } }
    sql: |
      --: keep
      SELECT n + 1 AS next FROM counter WHERE id = :id;
      UPDATE counter SET n = :next WHERE id = :id;
checks:
  nobody counts backwards: SELECT * FROM counter WHERE n < 0
";

#[test]
fn constraints_hold_and_nothing_is_lost_under_mixed_load() {
    let (server, dir) = (shared(), ledger());
    let dsn = server.database();
    warehouse(&dsn);
    let workload = Workload::load(&Assets::new(None).unwrap(), "mixed").unwrap();
    // Of each of six clients. `make verify` asks for more: at ten a second that is an hour's work.
    let statements = std::env::var("PGLOAD_STATEMENTS").map_or(150, |text| text.parse().unwrap());
    let mut options = options(closed(6), Duration::from_secs(3600));
    options.statements = Some(statements);
    options.ledger = Some(dir.path().to_owned());
    let results = go(&dsn, &workload, &options);
    let count =
        |what: fn(&pgload::results::Statement) -> u64| results.run.statements.iter().map(what).sum::<u64>();
    assert_eq!(count(|statement| statement.counts.all()), 6 * statements);
    assert_eq!(
        count(|statement| statement.counts.aborted + statement.counts.indeterminate),
        0,
        "{:?}",
        results.errors
    );
    let reports = results.run.statements.iter().filter(|statement| statement.counts.ok > 0).count();
    assert!(reports > 15, "only {reports} statements were run");
    // Every statement that writes does something, not just nothing without errors.
    for name in ["take_order", "pick", "pack", "ship", "receive", "buy", "move_stock"] {
        assert!(statement(&results, name).counts.ok > 0, "{name} never did anything");
    }
    let (reports, violations) = check(&dsn, dir.path(), &workload);
    assert!(reports[0].is_clean() && reports[0].kept > 200, "{:?}", reports[0]);
    assert_eq!(violations, []);
    // Every statement that reads has its plan.
    assert!(results.plans.len() >= 14, "{:?}", results.plans.keys());
}

#[test]
fn serialization_failures_are_retried_until_they_succeed_and_counted_once() {
    let server = shared();
    let dsn = server.database();
    psql(
        &dsn,
        "CREATE TABLE counter (id int PRIMARY KEY, n int NOT NULL); INSERT INTO counter SELECT g, 0 FROM generate_series(1, 4) g",
    );
    let workload = workload(COUNTER);
    let mut options = options(closed(8), Duration::from_secs(60));
    options.statements = Some(60);
    options.tries = 1000;
    let results = go(&dsn, &workload, &options);
    let counts = statement(&results, "count").counts;
    assert_eq!((counts.ok, counts.aborted, counts.indeterminate), (480, 0, 0));
    assert!(counts.retries > 0, "no two clients met");
    assert!(results.errors.iter().any(|row| row.code == "40001"), "{:?}", results.errors);
    assert_eq!(psql(&dsn, "SELECT sum(n) FROM counter"), "480");
}

#[test]
fn retries_have_an_end() {
    let server = shared();
    let dsn = server.database();
    let workload = workload(
        "statements: { fail: { kind: write, sql: \"DO $$ BEGIN RAISE serialization_failure; END $$\" } }",
    );
    let mut options = options(closed(1), Duration::from_secs(60));
    (options.statements, options.tries) = (Some(3), 4);
    let results = go(&dsn, &workload, &options);
    let counts = statement(&results, "fail").counts;
    assert_eq!((counts.ok, counts.aborted, counts.retries), (0, 3, 9));
    assert_eq!(results.errors[0].count, 12);
}

#[test]
fn a_stall_is_seen_in_an_open_loop_and_hidden_by_a_closed_one() {
    let server = shared();
    let dsn = server.database();
    psql(&dsn, "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let workload = workload("statements: { look: { kind: read, sql: SELECT * FROM t WHERE id = 1 } }");
    let p99 = |load: Load| {
        let dsn = dsn.clone();
        let stall = std::thread::spawn({
            let dsn = dsn.clone();
            move || {
                std::thread::sleep(Duration::from_millis(1500));
                psql(&dsn, "BEGIN; LOCK TABLE t; SELECT pg_sleep(0.7); COMMIT");
            }
        });
        let results = go(&dsn, &workload, &options(load, Duration::from_secs(4)));
        stall.join().unwrap();
        statement(&results, "look").response.p99
    };
    // One second in four is a stall: more than 1 % of what was due is late by hundreds of milliseconds.
    let open = p99(open(200.0, 4));
    assert!(open > 400_000, "p99 of the open loop: {open} us");
    let closed = p99(closed(1));
    assert!(closed < 100_000, "p99 of the closed loop: {closed} us");
}

#[test]
fn results_are_kept_when_a_run_is_stopped_and_read_again() {
    let server = shared();
    let dsn = server.database();
    let workload = workload("statements: { one: { kind: read, sql: SELECT 1 } }");
    let stop = Stop::default();
    let stopper = {
        let stop = stop.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(1300));
            stop.stop();
        })
    };
    let name = Name::new();
    let options = options(open(300.0, 2), Duration::from_secs(100));
    let results = measure(&target(&dsn), &workload, &options, &name, &stop).unwrap();
    stopper.join().unwrap();
    assert!(results.run.interrupted && (1.0..5.0).contains(&results.run.elapsed), "{}", results.run.elapsed);
    let dir = ledger();
    let folder = results.save(dir.path()).unwrap();
    let again = Results::read(&folder).unwrap();
    assert_eq!(again.histograms["one"].response, results.histograms["one"].response);
    assert_eq!(again.run.statements[0].counts, results.run.statements[0].counts);
    assert!(again.plans.contains_key("one"));
    let good = |results: &Results| results.seconds.iter().map(|row| row.counts.good()).sum::<u64>();
    assert_eq!(good(&again), good(&results));
    let seconds = fs::read_to_string(folder.join("seconds.csv")).unwrap();
    assert!(seconds.lines().count() >= 2 && seconds.lines().nth(1).unwrap().contains(",one,"), "{seconds}");
    assert!(again.run.environment.server.contains("PostgreSQL"));
}

/// As `pgprov load status` reads it, from outside.
#[test]
fn the_live_file_has_what_happens_now() {
    let (server, dir) = (shared(), ledger());
    let dsn = server.database();
    let workload = workload("statements: { one: { kind: read, sql: SELECT 1 } }");
    let mut options = options(open(200.0, 2), Duration::from_secs(60));
    let file = dir.path().join("live.json");
    options.live_file = Some(file.clone());
    let (id, stop) = (options.id.clone(), Stop::default());
    let run = {
        let stop = stop.clone();
        std::thread::spawn(move || measure(&target(&dsn), &workload, &options, &Name::new(), &stop).unwrap())
    };
    let read = || serde_json::from_slice::<serde_json::Value>(&fs::read(&file).ok()?).ok();
    wait_for("a second with statements", || read().is_some_and(|live| live["rate"].as_u64() > Some(50)));
    let live = read().unwrap();
    stop.stop();
    run.join().unwrap();
    assert_eq!((live["id"].as_str(), live["of_seconds"].as_u64()), (Some(id.as_str()), Some(60)), "{live:#}");
    assert_eq!(live["workload"], "mine");
    assert!(live["without_success_seconds"].as_f64() < Some(5.0), "{live:#}");
    let one = &live["statements"][0];
    assert_eq!(one["name"], "one");
    assert!(
        one["total"]["ok"].as_u64() >= live["rate"].as_u64() && one["latency"]["p99"].is_u64(),
        "{live:#}"
    );
    assert!(live["connected"].as_object().unwrap().values().any(|count| count == 2), "{live:#}");
}

#[test]
fn metrics_are_served_while_a_run_goes_on() {
    let server = shared();
    let dsn = server.database();
    let workload = workload("statements: { one: { kind: read, sql: SELECT 1 } }");
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut options = options(open(200.0, 2), Duration::from_secs(60));
    options.metrics = Some(address);
    let stop = Stop::default();
    let run = {
        let stop = stop.clone();
        std::thread::spawn(move || measure(&target(&dsn), &workload, &options, &Name::new(), &stop).unwrap())
    };
    let get = |path: &str| {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(address).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    };
    let counted = |text: &str| {
        text.contains("pgload_ops_total{query=\"one\",stage=\"test\",outcome=\"ok\"} ")
            && !text.contains("outcome=\"ok\"} 0\n")
    };
    wait_for("a statement in /metrics", || get("/metrics").is_some_and(|text| counted(&text)));
    let text = get("/metrics").unwrap();
    for name in [
        "pgload_response_time_seconds_bucket{query=\"one\",stage=\"test\",le=\"0.0001\"}",
        "pgload_run_info{run=",
        "pgload_connections{host=",
        "pgload_retries_total{sqlstate=\"40001\"} 0",
        "pgload_retries_total{sqlstate=\"40P01\"} 0",
    ] {
        assert!(text.contains(name), "{name} is not in\n{text}");
    }
    assert!(get("/other").unwrap().starts_with("HTTP/1.1 404"));
    stop.stop();
    run.join().unwrap();
}

#[test]
fn statements_that_cannot_work_are_refused_before_the_run() {
    let server = shared();
    let dsn = server.database();
    for (statement, said) in [
        ("sql: SELECT 1 FROM nowhere", "\"nowhere\" does not exist"),
        ("sql: 'SELECT :x::date', parameters: { x: { uniform: [1, 2] } }", "`:x` is of type date"),
        ("sql: '--: keep\n\n    SELECT 1 AS a;\n\n    SELECT :b::int'", "keeps a column `b`"),
    ] {
        let workload = workload(&format!("statements: {{ it: {{ kind: read, {statement} }} }}"));
        let error = measure(
            &target(&dsn),
            &workload,
            &options(closed(1), Duration::from_secs(1)),
            &Name::new(),
            &Stop::default(),
        );
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains(said) && error.contains("statement it"), "{error}");
    }
}

/// The example of the documentation, as a user would copy it.
#[test]
fn the_workload_in_the_documentation_works() {
    let document = include_str!("../../../../docs/load.md");
    let block =
        document.split("```yaml my-sql/workloads/shop.yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let server = shared();
    let dsn = server.database();
    warehouse(&dsn);
    let workload = workload(block.strip_prefix("workload: shop\n").unwrap());
    let mut options = options(closed(1), Duration::from_secs(60));
    options.statements = Some(20);
    assert_eq!(statement(&go(&dsn, &workload, &options), "price_of").counts.ok, 20);
}
