//! What clients were told, try by try, and what that means.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};

/// Clients for [`super::drill::Drill`]: the loop of lessons.
pub const LOOP: &str = include_str!("../../../src/commands/lesson/loop.sh");

/// One try of a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Try {
    /// Its number.
    pub number: u64,
    /// When it began, in seconds on the client's clock.
    pub begin: f64,
    /// When its answer was there.
    pub end: f64,
    /// The first line of it.
    pub answer: String,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Acknowledged: it has to be there for ever.
    Ok,
    /// It may be there or not.
    Unknown,
    /// It is not there.
    Failed,
}

impl Try {
    /// What a writer may conclude. Whatever is not plainly one or the other is not known.
    pub fn fate(&self) -> Fate {
        match self.answer.as_str() {
            "ok" => Fate::Ok,
            text if text.starts_with("ERROR:") || text.starts_with("psql: error: connection to server") => {
                Fate::Failed
            }
            _ => Fate::Unknown,
        }
    }
}

/// All tries of one client.
pub fn read(text: &str) -> Result<Vec<Try>> {
    let line = |line: &str| {
        let mut parts = line.splitn(4, ' ');
        let mut next = || parts.next().with_context(|| format!("expected four words in {line:?}"));
        let (number, begin, end) = (next()?.parse()?, next()?.parse()?, next()?.parse()?);
        Ok(Try { number, begin, end, answer: next()?.to_owned() })
    };
    // The last one may be half written.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(line).collect()
}

/// Numbers of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Acknowledged writes.
    pub ok: usize,
    /// Writes that may be there.
    pub unknown: usize,
    /// Writes that are not.
    pub failed: usize,
    /// The longest time between two acknowledgements, in seconds.
    pub gap: f64,
}

/// Adds up.
pub fn summary(tries: &[Try]) -> Summary {
    let count = |fate| tries.iter().filter(|it| it.fate() == fate).count();
    let ok: Vec<f64> = tries.iter().filter(|it| it.fate() == Fate::Ok).map(|it| it.end).collect();
    let gap = ok.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
    Summary { ok: ok.len(), unknown: count(Fate::Unknown), failed: count(Fate::Failed), gap }
}

/// Fails when an acknowledged row is missing, or a failed one is there.
pub fn verify(tries: &[Try], there: &BTreeSet<u64>) -> Result<()> {
    let of = |fate| tries.iter().filter(move |it| it.fate() == fate);
    let lost: Vec<&Try> = of(Fate::Ok).filter(|it| !there.contains(&it.number)).collect();
    ensure!(lost.is_empty(), "{} acknowledged rows are lost: {lost:?}", lost.len());
    let ghosts: Vec<&Try> = of(Fate::Failed).filter(|it| there.contains(&it.number)).collect();
    ensure!(ghosts.is_empty(), "{} rows that failed are there: {ghosts:?}", ghosts.len());
    Ok(())
}

/// Fails when hosts said in turns that they are primaries: each may have begun once, at each failover. `seen` has what the
/// observer of each host was told.
pub fn one_primary_at_a_time(seen: &[(&str, Vec<Try>)], changes: usize) -> Result<()> {
    let open = |(host, tries): &(&str, Vec<Try>)| {
        let open = tries.iter().filter(|it| it.answer == "primary");
        open.map(|it| (it.end, (*host).to_owned())).collect::<Vec<_>>()
    };
    let mut all: Vec<(f64, String)> = seen.iter().flat_map(open).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let turns: Vec<_> = all.windows(2).filter(|pair| pair[0].1 != pair[1].1).collect();
    ensure!(turns.len() <= changes, "hosts took writes in turns, {changes} changes were made: {turns:?}");
    Ok(())
}
