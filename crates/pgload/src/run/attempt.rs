//! One try of a statement or transaction, and what became of it.
//!
//! What is not obvious, each measured against real servers:
//! * The driver returns Ok for the COMMIT of a transaction that failed, though the server rolls back. So after any error
//!   ROLLBACK is sent, never COMMIT.
//! * A cancelled wait for a synchronous standby is a COMMIT with a warning: committed here, perhaps nowhere else.
//! * `statement_timeout` does not end that wait: only a deadline on this side does.
//! * A connection that is lost after COMMIT was sent says nothing about the commit.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    future::{join3, try_join_all},
};
use tokio::time::timeout;
use tokio_postgres::{
    Client, Error, Statement,
    types::{PgLsn, ToSql, Type},
};

use crate::{
    ledger::{Ledger, Position},
    rng::Rng,
    script::{Rows, Step},
    session::{Failure, Session},
    value::{AsSent, Value},
    workload::{Bound, Kind, Values, Workload},
};

/// What became of a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Acknowledged.
    Ok,
    /// Acknowledged with a warning: a standby may not have it.
    Weak(Failure),
    /// There was nothing to do, and nothing was done.
    Idle,
    /// It is certain that nothing was committed.
    Aborted(Failure),
    /// Nobody here can know.
    Indeterminate(Failure),
}

/// A statement as it is sent.
pub struct Prepared {
    /// Of the statement.
    pub name: Arc<str>,
    /// Whether it changes data.
    pub kind: Kind,
    steps: Vec<Step>,
    begin: Option<String>,
    ledger: bool,
}

/// Statements of one connection that the server has prepared, by statement and step; then the ledger's.
pub type Cache = Vec<Option<Statement>>;

const LEDGER: &str =
    "INSERT INTO pgload.ledger (run, client, seq, statement) VALUES ($1, $2, $3, $4) RETURNING lsn";

/// The ledger's part in a try.
pub struct Entry<'a> {
    /// Where it is noted.
    pub ledger: &'a Ledger,
    /// Of the intent.
    pub ticket: u64,
    /// Who tries.
    pub client: u32,
    /// Number among the client's transactions.
    pub seq: u64,
    /// Filled in by the try.
    pub position: Position,
}

impl Prepared {
    /// All statements of a workload; with a ledger, writes are transactions with one more row.
    pub fn all(workload: &Workload, ledger: bool) -> Vec<Self> {
        let prepare = |statement: &crate::workload::Statement| {
            let ledger = ledger && statement.kind == Kind::Write;
            let level = statement
                .isolation
                .as_ref()
                .map(|level| format!(" ISOLATION LEVEL {}", level.to_uppercase()));
            let read = if statement.kind == Kind::Read { " READ ONLY" } else { "" };
            let begin = (ledger || statement.is_transaction())
                .then(|| format!("BEGIN{}{read}", level.unwrap_or_default()));
            Self {
                name: statement.name.as_str().into(),
                kind: statement.kind,
                steps: statement.steps.clone(),
                begin,
                ledger,
            }
        };
        workload.statements.iter().map(prepare).collect()
    }
}

/// Whether an error says for certain that nothing was committed, when it is the answer to COMMIT or to a statement that
/// commits by itself. A server that is going down (57P0x) or a connection that broke says nothing.
fn is_definite(failure: &Failure) -> bool {
    let class = failure.code.get(..2).unwrap_or_default();
    failure.from_server
        && failure.code != "40003"
        && (matches!(
            class,
            "0A" | "21" | "22" | "23" | "25" | "26" | "28" | "2D" | "40" | "42" | "53" | "54" | "55" | "P0"
        ) || failure.code == "57014")
}

/// Whether the connection cannot be used any more.
pub fn is_fatal(failure: &Failure) -> bool {
    // 25006: the server became a standby, or always was one.
    !failure.from_server
        || failure.code.starts_with("57P")
        || failure.code.starts_with("08")
        || failure.code == "25006"
}

/// Whether another try may go better.
pub fn is_worth_retrying(failure: &Failure) -> bool {
    matches!(failure.code.as_str(), "40001" | "40P01" | "53300" | "55P03") || is_fatal(failure)
}

/// Makes one try, in `deadline`.
pub async fn attempt(
    session: &Session,
    statement: &Prepared,
    cache: &mut Cache,
    mut values: Values,
    entry: Option<&mut Entry<'_>>,
    pipeline: bool,
    deadline: Duration,
) -> Ended {
    let mut committing = false;
    let work = async {
        match &statement.begin {
            Some(begin) => {
                transaction(session, statement, begin, cache, &mut values, entry, pipeline, &mut committing)
                    .await
            }
            None => single(session, statement, cache, &values, &mut committing).await,
        }
    };
    match timeout(deadline, work).await {
        Ok(ended) => ended,
        Err(_) => {
            let failure = Failure::deadline(&statement.name, deadline);
            if committing { Ended::Indeterminate(failure) } else { Ended::Aborted(failure) }
        }
    }
}

/// What became of something that commits, from the error it ended with.
fn commit_failed(failure: Failure, kind: Kind) -> Ended {
    if kind == Kind::Read || is_definite(&failure) {
        Ended::Aborted(failure)
    } else {
        Ended::Indeterminate(failure)
    }
}

fn acknowledged(session: &Session, warnings_before: u32) -> Ended {
    if session.warnings() == warnings_before {
        return Ended::Ok;
    }
    let message = "committed with a warning: the wait for synchronous replication was cancelled".to_owned();
    Ended::Weak(Failure { code: "01000".to_owned(), message, from_server: true })
}

async fn single(
    session: &Session,
    statement: &Prepared,
    cache: &mut Cache,
    values: &Values,
    committing: &mut bool,
) -> Ended {
    if let Err(error) = prepare(&session.client, statement, cache).await {
        return Ended::Aborted(session.explain(error));
    }
    let warnings = session.warnings();
    *committing = statement.kind == Kind::Write;
    match step(&session.client, &statement.steps[0], cache[0].as_ref(), values).await {
        Ok(_) if statement.kind == Kind::Read => Ended::Ok,
        Ok(_) => acknowledged(session, warnings),
        Err(error) => commit_failed(session.explain(error), statement.kind),
    }
}

#[expect(clippy::too_many_arguments, reason = "one try, taken apart to be readable")]
async fn transaction(
    session: &Session,
    statement: &Prepared,
    begin: &str,
    cache: &mut Cache,
    values: &mut Values,
    mut entry: Option<&mut Entry<'_>>,
    pipeline: bool,
    committing: &mut bool,
) -> Ended {
    let client = &session.client;
    if let Err(error) = prepare(client, statement, cache).await {
        return Ended::Aborted(session.explain(error));
    }
    let stopped = match steps(client, statement, begin, cache, values, entry.as_deref_mut(), pipeline).await {
        Ok(stopped) => stopped,
        Err(error) => {
            let failure = session.explain(error);
            // Whether this arrives or not, nothing will be committed: COMMIT is never sent.
            if !is_fatal(&failure) {
                let _ = client.batch_execute("ROLLBACK").await;
            }
            return Ended::Aborted(failure);
        }
    };
    if stopped {
        return match client.batch_execute("ROLLBACK").await {
            Ok(()) => Ended::Idle,
            Err(error) => Ended::Aborted(session.explain(error)),
        };
    }
    if let Some(entry) = entry {
        entry.position.timeline = session.timeline;
        if let Err(message) = entry.ledger.wait(entry.ticket).await {
            let _ = client.batch_execute("ROLLBACK").await;
            return Ended::Aborted(Failure { code: "ledger".to_owned(), message, from_server: true });
        }
    }
    let warnings = session.warnings();
    *committing = statement.kind == Kind::Write;
    match client.batch_execute("COMMIT").await {
        Ok(()) => acknowledged(session, warnings),
        Err(error) => commit_failed(session.explain(error), statement.kind),
    }
}

/// BEGIN, the ledger's row, and all steps; true when a step found nothing to do.
async fn steps(
    client: &Client,
    statement: &Prepared,
    begin: &str,
    cache: &Cache,
    values: &mut Values,
    entry: Option<&mut Entry<'_>>,
    pipeline: bool,
) -> Result<bool, Error> {
    let first = &statement.steps[0];
    let note = async {
        match entry {
            Some(entry) => note(client, cache[statement.steps.len()].as_ref(), entry, &statement.name).await,
            None => Ok(()),
        }
    };
    let mut row = if pipeline {
        // All are sent before the first answer is there. When one fails, the server refuses those after it.
        let (begun, noted, row) =
            join3(client.batch_execute(begin), note, step(client, first, cache[0].as_ref(), values)).await;
        begun?;
        noted?;
        row?
    } else {
        client.batch_execute(begin).await?;
        note.await?;
        step(client, first, cache[0].as_ref(), values).await?
    };
    for (index, (now, prepared)) in statement.steps.iter().zip(cache).enumerate() {
        if index > 0 {
            row = step(client, now, prepared.as_ref(), values).await?;
        }
        match (now.rows, row.take()) {
            (Rows::Drop, _) => {}
            (_, Some(row)) => values.extend(row),
            (_, None) => return Ok(true),
        }
    }
    Ok(false)
}

async fn note(
    client: &Client,
    prepared: Option<&Statement>,
    entry: &mut Entry<'_>,
    name: &str,
) -> Result<(), Error> {
    let Some(prepared) = prepared else { return Ok(()) };
    let (who, seq) = (entry.client as i32, entry.seq as i64);
    let row = client.query_one(prepared, &[&entry.ledger.run, &who, &seq, &name]).await?;
    entry.position.lsn = row.get::<_, PgLsn>(0).into();
    Ok(())
}

/// Prepares what is not prepared yet on this connection, all at once.
async fn prepare(client: &Client, statement: &Prepared, cache: &mut Cache) -> Result<(), Error> {
    if !cache.is_empty() {
        return Ok(());
    }
    let texts = statement.steps.iter().map(|step| step.sql.as_str());
    let texts = texts.chain(statement.ledger.then_some(LEDGER));
    let all = try_join_all(texts.map(|sql| client.prepare(sql))).await?;
    *cache = all.into_iter().map(Some).collect();
    Ok(())
}

/// Runs a step; returns the columns of its row, by name, when they are to be kept.
async fn step(
    client: &Client,
    step: &Step,
    prepared: Option<&Statement>,
    values: &Values,
) -> Result<Option<Values>, Error> {
    let Some(prepared) = prepared else { return Ok(None) };
    let parameters = step.parameters.iter().map(|name| {
        // The last of a name: a later statement may keep a column under the name of a parameter.
        let value = values.iter().rev().find(|(known, _)| known == name).map_or(&MISSING, |(_, value)| value);
        value as &(dyn ToSql + Sync)
    });
    let parameters: Vec<&(dyn ToSql + Sync)> = parameters.collect();
    if step.rows == Rows::Drop {
        client.execute(prepared, &parameters).await?;
        return Ok(None);
    }
    let rows = client.query_raw(prepared, parameters).await?;
    let mut rows = std::pin::pin!(rows);
    let first = rows.next().await.transpose()?;
    // A stream that has ended must not be asked again.
    while first.is_some() && rows.try_next().await?.is_some() {}
    first
        .map(|row| {
            let column = |(index, column): (usize, &tokio_postgres::Column)| {
                let AsSent(ty, bytes) = row.try_get(index)?;
                Ok((column.name().to_owned(), Value::Raw(ty, bytes)))
            };
            row.columns().iter().enumerate().map(column).collect()
        })
        .transpose()
}

/// A column that no statement kept; [`check`] refuses such scripts before the run.
const MISSING: Value = Value::Raw(Type::TEXT, None);

/// Prepares every statement once and looks whether the types of its parameters are those of the values.
///
/// # Errors
/// The server refuses a statement; a value does not fit; a name is kept by no statement before.
pub async fn check(session: &Session, statements: &[Prepared], bound: &Bound) -> anyhow::Result<()> {
    for (index, statement) in statements.iter().enumerate() {
        let mut known: Vec<(String, Value)> = bound.values(index, &mut Rng::new(0, 0, 0));
        for (number, step) in (1..).zip(&statement.steps) {
            let place = || format!("statement {}, step {number}", statement.name);
            let prepared =
                session.client.prepare(&step.sql).await.map_err(Failure::from).with_context(place)?;
            for (name, ty) in step.parameters.iter().zip(prepared.params()) {
                let value = known.iter().rev().find(|(known, _)| known == name);
                let (_, value) = value
                    .with_context(|| format!("{}: no statement before keeps a column `{name}`", place()))?;
                ensure!(value.fits(ty), "{}: `:{name}` is of type {ty}, which {value:?} is not", place());
            }
            if step.rows != Rows::Drop {
                let column = |column: &tokio_postgres::Column| {
                    (column.name().to_owned(), Value::Raw(column.type_().clone(), None))
                };
                known.extend(prepared.columns().iter().map(column));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_that_rule_a_commit_out_are_definite() {
        let server =
            |code: &str| Failure { code: code.to_owned(), message: String::new(), from_server: true };
        for code in ["40001", "40P01", "23505", "25006", "57014", "53100", "P0001"] {
            assert!(is_definite(&server(code)), "{code}");
        }
        for code in ["57P01", "57P02", "08006", "40003", "XX000", "58030"] {
            assert!(!is_definite(&server(code)), "{code}");
        }
        assert!(!is_definite(&Failure::connection("connection closed".into())));
        assert!(!is_definite(&Failure { from_server: false, ..server("40001") }));
        assert!(matches!(commit_failed(server("57P01"), Kind::Write), Ended::Indeterminate(_)));
        assert!(matches!(commit_failed(server("57P01"), Kind::Read), Ended::Aborted(_)));
    }
}
