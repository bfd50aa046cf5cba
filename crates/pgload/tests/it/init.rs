//! Schema and data.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use pgload::{
    assets::Assets,
    data::Scale,
    init::{self, Options, Progress, Report},
};

use crate::server::{psql, shared, target};

fn options(seed: u64, jobs: usize) -> Options {
    Options { seed, scale: Scale::new(0.125).unwrap(), jobs, replace: false }
}

fn load(dsn: &str, options: &Options, progress: Progress) -> anyhow::Result<Report> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(init::run(&target(dsn), &Assets::new(None)?, options, progress))
}

fn silent() -> Progress {
    Arc::new(|_, _, _| {})
}

/// Content of every table, whatever the order of its rows on disk.
fn content(dsn: &str) -> String {
    let tables = psql(
        dsn,
        "SELECT relname FROM pg_class WHERE relnamespace = 'wms'::regnamespace AND relkind = 'r' ORDER BY 1",
    );
    let table = |name: &str| {
        let sql = format!(
            "SELECT '{name}', count(*), md5(string_agg(t::text, '' ORDER BY t::text)) FROM wms.{name} t"
        );
        psql(dsn, &sql) + "\n"
    };
    tables.lines().map(table).collect()
}

#[test]
fn the_same_seed_loads_the_same_data_and_init_again_changes_nothing() {
    let server = shared();
    let (one, two) = (server.database(), server.database());
    let first = load(&one, &options(7, 1), silent()).unwrap();
    let second = load(&two, &options(7, 4), silent()).unwrap();
    assert_eq!(first.digest, second.digest);
    assert_eq!(content(&one), content(&two));
    let tables = psql(
        &one,
        "SELECT count(*) FROM pg_class WHERE relnamespace = 'wms'::regnamespace AND relkind = 'r'",
    );
    assert!(tables.parse::<u32>().unwrap() >= 14, "{tables}");
    // No index but those of keys.
    let indexes = "SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = indrelid \
                   WHERE relnamespace = 'wms'::regnamespace \
                   AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)";
    assert_eq!(psql(&one, indexes), "0");

    let again = load(&one, &options(7, 1), silent()).unwrap();
    assert_eq!((again.rows, &again.digest), (0, &first.digest));
    let refused = load(&one, &options(8, 1), silent()).unwrap_err().to_string();
    assert!(refused.contains("seed 7") && refused.contains("--replace"), "{refused}");
}

#[test]
fn sums_agree_in_generated_data() {
    let server = shared();
    let dsn = server.database();
    load(&dsn, &options(1, 2), silent()).unwrap();
    let workload = pgload::workload::Workload::load(&Assets::new(None).unwrap(), "oltp").unwrap();
    assert!(workload.checks.len() >= 5);
    for (name, sql) in &workload.checks {
        assert_eq!(psql(&dsn, &format!("SET search_path = wms; {sql}")), "", "{name}");
    }
}

#[test]
fn loading_goes_on_where_it_was_interrupted() {
    let server = shared();
    let (dsn, whole) = (server.database(), server.database());
    let expected = load(&whole, &options(3, 2), silent()).unwrap();
    // The first connection is cut after its first part, in the middle of all.
    let port = dsn.clone();
    let calls = AtomicU64::new(0);
    let cut: Progress = Arc::new(move |_, _, _| {
        if calls.fetch_add(1, Ordering::Relaxed) == 0 {
            psql(
                &port,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                         WHERE datname = current_database() AND application_name = 'pgload'",
            );
        }
    });
    load(&dsn, &options(3, 1), cut).unwrap_err();
    assert_eq!(psql(&dsn, "SELECT complete FROM wms.dataset"), "f");
    let report = load(&dsn, &options(3, 2), silent()).unwrap();
    assert!(report.parts_kept > 0 && report.rows > 0, "{report:?}");
    assert_eq!(report.digest, expected.digest);
    assert_eq!(content(&dsn), content(&whole));
}
