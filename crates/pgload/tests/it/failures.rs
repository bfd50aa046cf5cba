//! Servers that crash, hang and lie; connections that break at the worst moment.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use pgload::{ledger::Mark, measure::measure, results::Name, run::Stop, session::Connector};

use crate::{
    run::{check, closed, go, ledger, open, options, statement, workload},
    server::{Server, psql, shared, target, wait_for},
};

const INSERT: &str = "
setup: CREATE TABLE IF NOT EXISTS t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int)
domains: { hundred: 'SELECT 1, 100' }
statements:
  add:
    kind: write
    parameters: { number: { uniform: hundred } }
    sql: INSERT INTO t (n) VALUES (:number)
";

#[test]
fn deleted_rows_are_found() {
    let (server, dir) = (shared(), ledger());
    let dsn = server.database();
    let workload = workload(INSERT);
    let mut options = options(closed(2), Duration::from_secs(60));
    (options.statements, options.ledger) = (Some(20), Some(dir.path().to_owned()));
    go(&dsn, &workload, &options);
    assert!(check(&dsn, dir.path(), &workload).0[0].is_clean());
    psql(&dsn, "DELETE FROM pgload.ledger WHERE (client, seq) IN ((0, 3), (1, 7))");
    psql(
        &dsn,
        &format!(
            "INSERT INTO pgload.ledger (run, client, seq, statement) VALUES ({}, 9, 1, 'ghost')",
            options.run
        ),
    );
    let report = check(&dsn, dir.path(), &workload).0.remove(0);
    let lost: Vec<_> = report.lost.iter().map(|t| (t.client, t.seq)).collect();
    assert_eq!(lost, [(0, 3), (1, 7)]);
    assert_eq!((report.kept, report.unexpected.len()), (38, 1));
}

/// With synchronous_commit off, a crash takes back what was acknowledged: the ledger must say so.
#[test]
fn acknowledged_commits_that_a_crash_rolls_back_are_found_and_the_run_goes_on() {
    // Nothing but this test may write the WAL out; autovacuum does with each of its commits.
    let server = Server::start(&[
        "synchronous_commit = off",
        "wal_writer_delay = 10s",
        "wal_writer_flush_after = 1GB",
        "bgwriter_delay = 10s",
        "autovacuum = off",
    ]);
    let (dsn, dir) = (server.database(), ledger());
    let workload = workload(INSERT);
    let mut options = options(open(200.0, 4), Duration::from_secs(6));
    options.ledger = Some(dir.path().to_owned());
    let results = thread::scope(|scope| {
        let run = scope.spawn(|| go(&dsn, &workload, &options));
        thread::sleep(Duration::from_millis(2000));
        psql(&dsn, "CHECKPOINT");
        thread::sleep(Duration::from_millis(1000));
        server.down("immediate");
        thread::sleep(Duration::from_millis(700));
        server.up();
        run.join().unwrap()
    });
    let outage = results.run.outage.as_ref().unwrap();
    assert!(outage.recovered && outage.length() > 0.7 && outage.from > 2.0, "{outage:?}");
    assert!(outage.first_error.is_some() && outage.last_error.is_some());
    assert!(results.errors.iter().any(|row| row.phase == "connect"), "{:?}", results.errors);
    let report = check(&dsn, dir.path(), &workload).0.remove(0);
    assert!(!report.lost.is_empty(), "{report:?}");
    assert!(report.kept > 200, "{report:?}");
    assert!(report.lost.iter().all(|t| t.timeline == 1 && t.lsn != "0/0"), "{:?}", report.lost[0]);
    // Latency counts from when statements were due, so the outage is in it.
    assert!(statement(&results, "add").response.max > 700_000);
}

/// A proxy that cuts a connection when a COMMIT goes through it: before the server has it, or after.
struct Proxy {
    port: u16,
    cut: Arc<AtomicBool>,
}

impl Proxy {
    fn start(server: u16, forward_commit: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let cut = Arc::new(AtomicBool::new(false));
        let armed = cut.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, upstream) =
                    (client.unwrap(), TcpStream::connect(("127.0.0.1", server)).unwrap());
                let (mut down, mut back) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
                thread::spawn(move || {
                    let mut part = [0; 65536];
                    while let Ok(read @ 1..) = back.read(&mut part) {
                        if down.write_all(&part[..read]).is_err() {
                            break;
                        }
                    }
                    let _ = down.shutdown(Shutdown::Both);
                });
                let armed = armed.clone();
                thread::spawn(move || pump(client, upstream, &armed, forward_commit));
            }
        });
        Self { port, cut }
    }
}

fn pump(mut client: TcpStream, mut upstream: TcpStream, armed: &AtomicBool, forward_commit: bool) {
    let mut part = [0; 65536];
    while let Ok(read @ 1..) = client.read(&mut part) {
        let commit = part[..read].windows(6).any(|bytes| bytes == b"COMMIT");
        let cut = commit && armed.swap(false, Ordering::SeqCst);
        if cut {
            let _ = client.shutdown(Shutdown::Both);
        }
        if (!cut || forward_commit) && upstream.write_all(&part[..read]).is_err() {
            break;
        }
        if cut {
            // The server must have time to commit before it sees the end.
            thread::sleep(Duration::from_millis(100));
            break;
        }
    }
    let _ = upstream.shutdown(Shutdown::Both);
}

#[test]
fn a_connection_lost_during_commit_leaves_doubt_not_failure() {
    let server = shared();
    for forward in [true, false] {
        let (dsn, dir) = (server.database(), ledger());
        let workload = workload(INSERT);
        let proxy = Proxy::start(server.port, forward);
        let through = dsn.replace(&format!("port={}", server.port), &format!("port={}", proxy.port));
        assert_ne!(through, dsn);
        let mut options = options(closed(1), Duration::from_secs(60));
        (options.statements, options.ledger) = (Some(10), Some(dir.path().to_owned()));
        proxy.cut.store(true, Ordering::SeqCst);
        let results = go(&through, &workload, &options);
        let counts = statement(&results, "add").counts;
        assert_eq!((counts.ok, counts.indeterminate, counts.aborted), (9, 1, 0), "{:?}", results.errors);
        assert_eq!(results.errors[0].phase, "commit");
        let report = check(&dsn, dir.path(), &workload).0.remove(0);
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(
            (report.kept, report.doubt_kept, report.doubt_absent),
            (9, u64::from(forward), u64::from(!forward))
        );
        // Tried once and not again: that would have made two rows of one order.
        assert_eq!(psql(&dsn, "SELECT count(*) FROM t"), if forward { "10" } else { "9" });
    }
}

/// While COMMIT waits for a synchronous standby that is not there.
#[test]
fn what_happens_to_a_waiting_commit_is_told_apart() {
    let server = Server::start(&["synchronous_standby_names = 's'"]);
    let dsn = server.database_async();
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let workload = workload(INSERT);
    psql(
        &dsn,
        "SET synchronous_commit = local; CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int)",
    );
    let ledger_table =
        concat!("SET synchronous_commit = local;", include_str!("../../../../sql/pgload/ledger.sql"));
    psql(&dsn, ledger_table);
    for (what, expected) in [("cancel", Mark::Weak), ("terminate", Mark::Doubt), ("nothing", Mark::Doubt)] {
        let dir = ledger();
        let mut options = options(closed(1), Duration::from_secs(60));
        (options.statements, options.ledger) = (Some(1), Some(dir.path().to_owned()));
        options.deadline = Duration::from_secs(if what == "nothing" { 1 } else { 20 });
        let results = thread::scope(|scope| {
            let run = scope.spawn(|| go(&dsn, &workload, &options));
            if what != "nothing" {
                wait_for("a commit that waits", || psql(&dsn, waiting) == "1");
                psql(
                    &dsn,
                    &format!(
                        "SELECT pg_{what}_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
                    ),
                );
            }
            run.join().unwrap()
        });
        let counts = statement(&results, "add").counts;
        let (weak, doubt) = (u64::from(expected == Mark::Weak), u64::from(expected == Mark::Doubt));
        assert_eq!(
            (counts.ok, counts.weak, counts.indeterminate),
            (0, weak, doubt),
            "{what}: {:?}",
            results.errors
        );
        let report = check(&dsn, dir.path(), &workload).0.remove(0);
        assert_eq!((report.weak_kept, report.doubt_kept), (weak, doubt), "{what}: {report:?}");
    }
}

#[test]
fn the_first_host_that_will_do_is_found_whatever_the_others_do() {
    let server = shared();
    let read_only = Server::start(&["default_transaction_read_only = on"]);
    let refused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // Accepts, by its backlog, and stays silent, as a host that hangs.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let ports = [refused, silent.local_addr().unwrap().port(), read_only.port, server.port];
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    let dsn = format!(
        "host=127.0.0.1,127.0.0.1,127.0.0.1,127.0.0.1 port={} user=postgres dbname=postgres connect_timeout=1 ",
        ports.join(",")
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let find = |attrs: &str| {
        let connector =
            Connector::new(target(&format!("{dsn} target_session_attrs={attrs}")), String::new()).unwrap();
        runtime.block_on(connector.connect()).map(|session| session.host)
    };
    let begun = Instant::now();
    assert_eq!(find("read-write"), Ok(3));
    assert_eq!((find("any"), find("read-only"), find("primary")), (Ok(2), Ok(2), Ok(2)));
    assert_eq!(find("prefer-standby"), Ok(2));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let failure = find("standby").unwrap_err();
    for said in ["refused", "no answer in 1.0 s", "is a primary"] {
        assert!(failure.message.contains(said), "{said} is not in {failure}");
    }
}

#[test]
fn load_moves_to_the_other_host_when_the_first_goes_away() {
    let (first, second) = (Server::start(&[]), Server::start(&["default_transaction_read_only = on"]));
    for server in [&first, &second] {
        server.sql("postgres", "BEGIN READ WRITE; CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int); COMMIT");
    }
    let dsn = format!(
        "host=127.0.0.1,127.0.0.1 port={},{} user=postgres dbname=postgres target_session_attrs=read-write",
        first.port, second.port
    );
    let yaml = INSERT.replace(
        "setup: CREATE TABLE IF NOT EXISTS t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int)",
        "",
    );
    let workload = workload(&yaml);
    let options = options(open(100.0, 4), Duration::from_secs(4));
    let stop = Stop::default();
    let results = thread::scope(|scope| {
        let run = scope.spawn(|| measure(&target(&dsn), &workload, &options, &Name::new(), &stop).unwrap());
        thread::sleep(Duration::from_millis(1200));
        first.down("immediate");
        thread::sleep(Duration::from_millis(500));
        // Promotion, as far as a client sees it.
        second.sql("postgres", "ALTER SYSTEM SET default_transaction_read_only = off");
        second.sql("postgres", "SELECT pg_reload_conf()");
        run.join().unwrap()
    });
    let outage = results.run.outage.as_ref().unwrap();
    assert!(outage.recovered && (0.4..3.0).contains(&outage.length()), "{outage:?}");
    let on = |server: &Server| {
        results
            .run
            .events
            .iter()
            .any(|event| event.what == "connected" && event.host.ends_with(&format!(":{}", server.port)))
    };
    assert!(on(&first) && on(&second), "{:?}", results.run.events);
    let written: u64 = second.sql("postgres", "SELECT count(*) FROM t").parse().unwrap();
    assert!(written > 100, "{written}");
    // Nothing that was due is missing: it waited.
    let counts = statement(&results, "add").counts;
    assert_eq!(counts.aborted + results.run.unserved, 0, "{counts:?}");
}
