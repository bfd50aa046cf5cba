//! What is done with runs and plans: stages, advice, comparison, results in a database.

use std::time::Duration;

use pgload::{
    advise::{self, How},
    assets::Assets,
    compare::{self, Verdict},
    optimise::{self, Settings},
    report,
    run::Stop,
    stage::Stage,
    store,
    workload::{Kind, Workload},
};

use crate::{
    run::{closed, go, options, warehouse, workload},
    server::{connect, psql, shared, target},
};

fn settings() -> Settings {
    Settings {
        time: Duration::from_millis(30),
        least: 2,
        most: 20,
        write_time: Duration::from_millis(300),
        write_clients: 2,
        seed: 1,
        write_limit: 1e9,
    }
}

fn schema(dsn: &str) -> String {
    psql(
        dsn,
        "SELECT string_agg(format('%s %s %s', relname, relkind, (SELECT string_agg(attname || ' ' || atttypid::regtype, ',' ORDER BY attname) \
         FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)), E'\\n' ORDER BY relname, relkind) \
         FROM pg_class c WHERE relnamespace = 'wms'::regnamespace AND relkind <> 'S'",
    )
}

#[test]
fn stages_return_the_same_and_can_be_taken_back_to_what_was() {
    let server = shared();
    let dsn = server.database();
    warehouse(&dsn);
    let assets = Assets::new(None).unwrap();
    let reads = Workload::load(&assets, "analytics").unwrap();
    let mut writes = Workload::load(&assets, "oltp").unwrap();
    let names: Vec<String> =
        writes.statements.iter().filter(|s| s.kind == Kind::Write).map(|s| s.name.clone()).collect();
    writes.only(&names).unwrap();
    let stages = Stage::all(&assets).unwrap();
    let before = schema(&dsn);
    let run = |stages: &[Stage]| {
        optimise::optimise(&target(&dsn), &reads, &writes, stages, &settings(), &Stop::default(), &|_| {})
            .unwrap()
    };
    let measured = run(&stages);
    assert_eq!(measured.len(), stages.len() + 1);
    for stage in &measured {
        assert!(!stage.reason.contains("something else"), "{}: {}", stage.stage, stage.reason);
        assert!(
            stage.figures.len() >= 12 && stage.figures.iter().all(|figure| figure.runs >= 2),
            "{}",
            stage.stage
        );
        assert!(stage.writes.rate > 0.0 && stage.bytes > 0);
    }
    let changed = measured[1].figures.iter().flat_map(|figure| &figure.changes);
    assert!(
        changed.clone().any(|change| change.contains("Seq Scan -> ")),
        "{:?}",
        changed.collect::<Vec<_>>()
    );
    // The checks still hold, on partitions and with copied columns.
    for (name, sql) in &writes.checks {
        assert_eq!(psql(&dsn, &format!("SET search_path = wms; {sql}")), "", "{name}");
    }
    // A run without stages takes back whatever is applied: down undoes up.
    assert_ne!(schema(&dsn), before);
    let all: Vec<Stage> = stages.iter().rev().cloned().collect();
    let applied = psql(&dsn, "SELECT count(*) FROM pgload.stage");
    assert_ne!(applied, "0");
    for name in psql(&dsn, "SELECT name FROM pgload.stage ORDER BY name DESC").lines() {
        let stage = all.iter().find(|stage| stage.name == name).unwrap();
        psql(&dsn, &format!("BEGIN; {}; COMMIT", stage.down));
    }
    assert_eq!(schema(&dsn), before);
    // A new warehouse has no stages.
    psql(&dsn, "DROP SCHEMA wms CASCADE");
    warehouse(&dsn);
    assert_eq!(psql(&dsn, "SELECT count(*) FROM pgload.stage"), "0");
}

#[test]
fn a_stage_that_changes_what_a_statement_returns_is_taken_back() {
    let server = shared();
    let dsn = server.database();
    psql(
        &dsn,
        "CREATE SCHEMA wms; CREATE TABLE wms.t AS SELECT g AS id, g % 10 AS n FROM generate_series(1, 20000) g",
    );
    let reads =
        workload("search_path: wms\nstatements: { total: { kind: read, sql: SELECT sum(n) FROM t } }");
    let stage = Stage {
        name: "01-wrong".to_owned(),
        description: "Forgets most.".to_owned(),
        up: "CREATE TABLE wms.few AS SELECT * FROM wms.t LIMIT 5".to_owned(),
        down: "DROP TABLE wms.few".to_owned(),
        refresh: String::new(),
        rewrites: vec![("total".to_owned(), "SELECT sum(n) FROM few".to_owned())],
    };
    let settings = Settings { write_time: Duration::ZERO, ..settings() };
    let measured =
        optimise::optimise(&target(&dsn), &reads, &reads, &[stage], &settings, &Stop::default(), &|_| {})
            .unwrap();
    assert!(
        !measured[1].kept && measured[1].reason.contains("something else for total"),
        "{}",
        measured[1].reason
    );
    assert_eq!(psql(&dsn, "SELECT to_regclass('wms.few') IS NULL"), "t");
}

/// The one index that helps, found in that way.
async fn proposes_the_index(dsn: &str, workload: &Workload, wanted: How) -> Vec<advise::Advice> {
    let session = connect(dsn).await;
    let (how, advice) = advise::advise(&session.client, workload, 1, wanted == How::Built).await.unwrap();
    assert_eq!(how, wanted);
    assert_eq!(advice.len(), 1, "{advice:?}");
    assert_eq!((advice[0].sql.as_str(), advice[0].statement.as_str()), ("CREATE INDEX ON t (owner)", "mine"));
    assert!(advice[0].after.unwrap() < advice[0].before / 5.0, "{advice:?}");
    advice
}

#[test]
fn an_index_that_helps_is_proposed_with_what_it_gains_and_none_is_left_behind() {
    let server = shared();
    let dsn = server.database();
    psql(
        &dsn,
        "CREATE TABLE t AS SELECT g AS id, g % 5000 AS owner, 0 AS same FROM generate_series(1, 50000) g; ANALYZE t",
    );
    let workload = workload(
        "statements:\n  mine: { kind: read, sql: SELECT * FROM t WHERE owner = 7 }\n  all: { kind: read, sql: SELECT sum(id) FROM t WHERE same = 0 }",
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(proposes_the_index(&dsn, &workload, How::Built));
    assert_eq!(psql(&dsn, "SELECT count(*) FROM pg_indexes WHERE tablename = 't'"), "0");
}

/// With HypoPG nothing is built; without it (package postgresql-15-hypopg) there is nothing to test.
#[test]
fn with_hypopg_nothing_is_built_and_the_planner_is_asked_all_the_same() {
    let server = shared();
    let dsn = server.database();
    if psql(&dsn, "SELECT count(*) FROM pg_available_extensions WHERE name = 'hypopg'") == "0" {
        eprintln!("HypoPG is not installed: not tested");
        return;
    }
    psql(
        &dsn,
        "CREATE EXTENSION hypopg; \
         CREATE TABLE t AS SELECT g AS id, g % 5000 AS owner, 0 AS same FROM generate_series(1, 50000) g; ANALYZE t",
    );
    let workload = workload(
        "statements:\n  mine: { kind: read, parameters: { who: { uniform: [1, 4000] } }, sql: SELECT * FROM t WHERE owner = :who }\n  \
all: { kind: read, sql: SELECT sum(id) FROM t WHERE same = 0 }",
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let advice = runtime.block_on(async {
        // CREATE INDEX would wait for whoever writes to the table: that it ends is the proof that none was built.
        let writer = connect(&dsn).await;
        writer.client.batch_execute("BEGIN; LOCK TABLE t IN ROW EXCLUSIVE MODE").await.unwrap();
        let asked = proposes_the_index(&dsn, &workload, How::Hypothetical);
        let advice = tokio::time::timeout(Duration::from_secs(60), asked)
            .await
            .expect("it waits for a writer: it builds");
        writer.client.batch_execute("ROLLBACK").await.unwrap();
        advice
    });
    // What it promised holds when the index is there.
    psql(&dsn, "CREATE INDEX ON t (owner); ANALYZE t");
    let real = runtime.block_on(async {
        let session = connect(&dsn).await;
        let bound = workload.bind(&session.client).await.unwrap();
        let values = bound.values(0, &mut pgload::rng::Rng::new(1, 106, 1));
        let step = &workload.statements[0].steps[0];
        let plan = pgload::plan::explain(&session.client, step, &values, false).await.unwrap();
        pgload::plan::Node::top(&plan).unwrap().number("Total Cost")
    });
    let promised = advice[0].after.unwrap();
    assert!((0.5..2.0).contains(&(real / promised)), "promised {promised}, is {real}");
}

#[test]
fn a_faster_statement_is_called_faster_with_its_plan_and_runs_are_stored() {
    let server = shared();
    let dsn = server.database();
    psql(
        &dsn,
        "CREATE TABLE t AS SELECT g AS id, g % 4000 AS owner FROM generate_series(1, 200000) g; ANALYZE t",
    );
    let workload = workload(
        "statements:\n  look: { kind: read, sql: SELECT * FROM t WHERE owner = 7 }\n  one: { kind: read, sql: SELECT 1 }",
    );
    let mut options = options(closed(1), Duration::from_millis(2500));
    let before = go(&dsn, &workload, &options);
    psql(&dsn, "CREATE INDEX t_owner ON t (owner); ANALYZE t");
    options.stage = "index".to_owned();
    let mut after = go(&dsn, &workload, &options);
    after.run.id = "after".to_owned();
    let (before, after) = ([before], [after]);
    let comparison = compare::compare(&before, &after);
    let look = &comparison.rows[0];
    assert_eq!(look.verdict, Verdict::Faster, "{look:?}");
    assert!(
        look.p50.high < 0.5 && look.p50.low <= look.p50.ratio && look.p50.ratio <= look.p50.high,
        "{look:?}"
    );
    assert!(look.plan.iter().any(|line| line.contains("t t: Seq Scan -> ")), "{:?}", look.plan);
    assert!(comparison.rows[1].plan.is_empty() && comparison.remarks.is_empty(), "{comparison:?}");
    let page = report::html(&comparison, &before, &after);
    for part in ["<svg", "look", "Seq Scan on t", "t_owner", "95 % confidence"] {
        assert!(page.contains(part), "{part}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let assets = Assets::new(None).unwrap();
    // Twice: the second replaces the first.
    for results in before.iter().chain(&after).chain(&after) {
        runtime.block_on(async {
            let mut session = connect(&dsn).await;
            store::publish(&mut session.client, &assets, results).await.unwrap();
        });
    }
    let stored = "SELECT r.id, s.ok > 0, s.plan IS NOT NULL, sum(x.ok) - s.ok BETWEEN 0 AND 1 FROM pgload.run r \
                  JOIN pgload.statement s ON s.run = r.id JOIN pgload.second x ON x.run = r.id AND x.statement = s.name \
                  WHERE s.name = 'look' GROUP BY r.id, s.ok, s.plan ORDER BY 1";
    assert_eq!(psql(&dsn, stored), "after|t|t|t\ntest|t|t|t");
}
