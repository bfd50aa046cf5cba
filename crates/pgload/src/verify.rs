//! `pgload verify`: ledgers against the database, and the workload's checks.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde::Serialize;
use tokio_postgres::{Client, SimpleQueryMessage, types::PgLsn};

use crate::{
    ledger::{Book, Mark, Position},
    workload::Workload,
};

/// A transaction, and what the ledger knows about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Transaction {
    /// Of the run.
    pub client: u32,
    /// Among the client's transactions.
    pub seq: u64,
    /// Name of the statement.
    pub statement: String,
    /// Timeline of the server when it was acknowledged.
    pub timeline: u32,
    /// Where the WAL was.
    pub lsn: String,
}

/// A ledger against the database.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Of the run, as its ledger's file is called.
    pub run: String,
    /// Acknowledged and there.
    pub kept: u64,
    /// Acknowledged with a warning and there.
    pub weak_kept: u64,
    /// Acknowledged and not there.
    pub lost: Vec<Transaction>,
    /// Acknowledged with a warning and not there: that warning said so.
    pub weak_lost: Vec<Transaction>,
    /// Nobody knew, and there.
    pub doubt_kept: u64,
    /// Nobody knew, and not there.
    pub doubt_absent: u64,
    /// Certainly not committed, and not there.
    pub aborted: u64,
    /// There, though the ledger says aborted or idle, or never heard of it: an error of pgload or of the server.
    pub unexpected: Vec<Transaction>,
    /// Neighbours of a client that stand in the wrong order in the WAL.
    pub disordered: u64,
    /// Seconds between neighbouring acknowledged writes, the longest.
    pub longest_gap: f64,
}

impl Report {
    /// Whether everything acknowledged is there and nothing else.
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.unexpected.is_empty() && self.disordered == 0
    }
}

/// Compares a ledger with the database.
///
/// # Errors
/// The server's.
pub async fn ledger(client: &Client, book: &Book) -> anyhow::Result<Report> {
    let sql = "SELECT client, seq, statement, lsn FROM pgload.ledger WHERE run = $1 ORDER BY client, seq";
    let exists: bool = client.query_one("SELECT to_regclass('pgload.ledger') IS NOT NULL", &[]).await?.get(0);
    let rows = if exists { client.query(sql, &[&book.run]).await? } else { Vec::new() };
    let mut present: BTreeMap<(u32, u64), (String, u64)> = BTreeMap::new();
    for row in rows {
        let (who, seq) = (row.get::<_, i32>(0) as u32, row.get::<_, i64>(1) as u64);
        present.insert((who, seq), (row.get(2), row.get::<_, PgLsn>(3).into()));
    }
    Ok(compare(book, &present))
}

fn compare(book: &Book, present: &BTreeMap<(u32, u64), (String, u64)>) -> Report {
    let mut report = Report { run: format!("{:016x}", book.run), ..Report::default() };
    let transaction = |key: &(u32, u64), statement: &str, position: Position| Transaction {
        client: key.0,
        seq: key.1,
        statement: statement.to_owned(),
        timeline: position.timeline,
        lsn: PgLsn::from(position.lsn).to_string(),
    };
    let mut acknowledged = Vec::new();
    for (key, entry) in &book.entries {
        let there = present.contains_key(key);
        let this = || transaction(key, &entry.statement, entry.position);
        if matches!(entry.mark, Some(Mark::Ok | Mark::Weak)) {
            acknowledged.push(entry.micros);
        }
        match (entry.mark, there) {
            (Some(Mark::Ok), true) => report.kept += 1,
            (Some(Mark::Ok), false) => report.lost.push(this()),
            (Some(Mark::Weak), true) => report.weak_kept += 1,
            (Some(Mark::Weak), false) => report.weak_lost.push(this()),
            (Some(Mark::Doubt) | None, true) => report.doubt_kept += 1,
            (Some(Mark::Doubt) | None, false) => report.doubt_absent += 1,
            (Some(Mark::Aborted | Mark::Idle), false) => report.aborted += 1,
            (Some(Mark::Aborted | Mark::Idle), true) => report.unexpected.push(this()),
        }
    }
    for (key, (statement, lsn)) in present {
        let reserved = book.reserved.get(&key.0).is_some_and(|last| key.1 <= *last);
        if !book.entries.contains_key(key) && reserved {
            // This machine stopped before the line about it was on disk.
            report.doubt_kept += 1;
        } else if !book.entries.contains_key(key) {
            report.unexpected.push(transaction(key, statement, Position { timeline: 0, lsn: *lsn }));
        }
    }
    // A client does one thing after the other, so its rows are in the WAL in the order of their numbers.
    let rows: Vec<(u32, u64)> = present.iter().map(|((client, _), (_, lsn))| (*client, *lsn)).collect();
    let disordered = rows.windows(2).filter(|pair| pair[0].0 == pair[1].0 && pair[0].1 > pair[1].1);
    report.disordered = disordered.count() as u64;
    acknowledged.sort_unstable();
    let gap = acknowledged.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    report.longest_gap = gap as f64 / 1e6;
    report
}

/// A check of the workload that found something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Of the check.
    pub check: String,
    /// How many rows it returned.
    pub rows: usize,
    /// The first of them.
    pub example: String,
}

/// Runs all checks of a workload in one snapshot.
///
/// # Errors
/// The server's.
pub async fn checks(client: &Client, workload: &Workload) -> anyhow::Result<Vec<Violation>> {
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let mut violations = Vec::new();
    for (check, sql) in &workload.checks {
        let messages =
            client.simple_query(sql).await.with_context(|| format!("cannot run check `{check}`"))?;
        let rows: Vec<_> = messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            })
            .collect();
        if let Some(first) = rows.first() {
            let columns = first.columns().iter().enumerate();
            let columns: Vec<String> = columns
                .map(|(index, column)| format!("{} {}", column.name(), first.get(index).unwrap_or("null")))
                .collect();
            violations.push(Violation {
                check: check.clone(),
                rows: rows.len(),
                example: columns.join(", "),
            });
        }
    }
    client.batch_execute("COMMIT").await?;
    Ok(violations)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Entry;

    #[test]
    fn every_combination_has_its_name() {
        let mut book = Book {
            run: 5,
            workload: String::new(),
            started: String::new(),
            entries: BTreeMap::new(),
            reserved: BTreeMap::from([(3, 10)]),
        };
        let marks = [
            Some(Mark::Ok),
            Some(Mark::Weak),
            Some(Mark::Aborted),
            Some(Mark::Idle),
            Some(Mark::Doubt),
            None,
        ];
        let mut present = BTreeMap::new();
        for (seq, mark) in (0..).zip(marks.into_iter().chain(marks)) {
            let entry =
                Entry { statement: "s".into(), mark, micros: seq * 1_000_000, position: Position::default() };
            book.entries.insert((1, seq), entry);
            if seq < 6 {
                present.insert((1, seq), ("s".to_owned(), 100 + seq));
            }
        }
        present.insert((2, 0), ("s".to_owned(), 1));
        present.insert((3, 10), ("s".to_owned(), 1));
        present.insert((3, 11), ("s".to_owned(), 2));
        let report = compare(&book, &present);
        assert_eq!((report.kept, report.weak_kept, report.doubt_kept), (1, 1, 3));
        assert_eq!((report.doubt_absent, report.aborted), (2, 2));
        let seqs = |list: &[Transaction]| list.iter().map(|t| (t.client, t.seq)).collect::<Vec<_>>();
        assert_eq!(seqs(&report.lost), [(1, 6)]);
        assert_eq!(seqs(&report.weak_lost), [(1, 7)]);
        assert_eq!(seqs(&report.unexpected), [(1, 2), (1, 3), (2, 0), (3, 11)]);
        assert_eq!((report.disordered, report.longest_gap), (0, 5.0));
        assert!(!report.is_clean());
        present.insert((1, 0), ("s".to_owned(), 103));
        assert_eq!(compare(&book, &present).disordered, 1);
    }
}
