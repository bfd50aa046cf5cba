//! Lines of logs with their times, from several hosts, in one order.

use std::collections::BTreeSet;

use pgplan::lab::BASE_ROLE;
use time::{Date, Month, PrimitiveDateTime, Time};

use super::evidence::LogLine;

/// Lines of a report at most: what was told around the events, not all of it.
const LINES_MAX: usize = 400;
/// Characters of a line that are kept.
const WIDTH_MAX: usize = 400;

/// The lines that begin with a time, as PostgreSQL (`2026-11-21 20:55:01.123 UTC [17] ...`) and journald
/// (`2026-11-21T20:55:01.123456+00:00 m pgagent[17]: ...`) write it, both in UTC. A line without one belongs to the line before.
/// `ahead`: seconds that the host's clock is ahead.
pub fn parse(host: &str, source: &str, text: &str, ahead: f64) -> Vec<LogLine> {
    let mut lines: Vec<LogLine> = Vec::new();
    for line in text.lines() {
        match (split(line), lines.last_mut()) {
            (Some((at, rest)), _) => lines.push(LogLine {
                at: at - ahead,
                host: host.to_owned(),
                source: source.to_owned(),
                text: cut(rest),
            }),
            (None, Some(last)) if last.text.chars().count() < WIDTH_MAX => {
                last.text.push(' ');
                last.text.push_str(&cut(line.trim()));
            }
            _ => {}
        }
    }
    lines
}

fn cut(text: &str) -> String {
    text.chars().take(WIDTH_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The time at the beginning of a line, in seconds since 1970, and the rest.
fn split(line: &str) -> Option<(f64, &str)> {
    let date = line.get(..10)?;
    let rest = line.get(10..)?.strip_prefix(['T', ' '])?;
    let end = rest.find(|c: char| !(c.is_ascii_digit() || matches!(c, ':' | '.'))).unwrap_or(rest.len());
    let (clock, rest) = rest.split_at(end);
    let mut parts = date.split('-');
    let mut number = || parts.next()?.parse::<i32>().ok();
    let (year, month, day) = (number()?, number()?, number()?);
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date = Date::from_calendar_date(year, month, u8::try_from(day).ok()?).ok()?;
    let mut parts = clock.split(':');
    let mut part = || parts.next();
    let (hour, minute, second) = (part()?.parse().ok()?, part()?.parse().ok()?, part()?.parse::<f64>().ok()?);
    let midnight = PrimitiveDateTime::new(date, Time::from_hms(hour, minute, 0).ok()?);
    // Zone, then what follows it: ` UTC [17] ...`, `+00:00 m ...`, `+0000 m ...`.
    let rest = rest.trim_start();
    let rest = rest.strip_prefix("UTC").or_else(|| Some(rest.strip_prefix('+')?.split_once(' ')?.1));
    Some((midnight.assume_utc().unix_timestamp() as f64 + second, rest?.trim_start()))
}

/// All of them in the order of time, each once; what is said again and again is left out when there are too many.
pub fn merge(lines: Vec<LogLine>) -> Vec<LogLine> {
    // The journal of a host also has what its agent says.
    let mut seen: BTreeSet<(u64, String, String)> = BTreeSet::new();
    let (general, mut own): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line.source == BASE_ROLE);
    let key = |line: &LogLine| (line.at.to_bits(), line.host.clone(), line.text.clone());
    seen.extend(own.iter().map(key));
    own.extend(general.into_iter().filter(|line| !seen.contains(&key(line))));
    let mut lines = own;
    lines.sort_by(|a, b| a.at.total_cmp(&b.at));
    for noise in
        [NOISE, &["checkpoint ", "LOG:  connection", "disconnection:", "received replication command"]]
    {
        if lines.len() > LINES_MAX {
            lines.retain(|line| !noise.iter().any(|noise| line.text.contains(noise)));
        }
    }
    let excess = lines.len().saturating_sub(LINES_MAX);
    lines.drain(..excess);
    lines
}

/// What every connection leaves in a log.
const NOISE: &[&str] = &["connection received:", "connection authenticated:", "connection authorized:"];
