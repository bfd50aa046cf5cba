//! What is shown while a run goes on. A thread of its own writes it: a terminal that does not take it must not stop the run.
#![expect(clippy::print_stderr, reason = "progress goes to standard error")]

use std::{cell::RefCell, rc::Rc, sync::mpsc, time::Duration};

use super::{
    Live, Stop,
    record::{Counts, Recorder, SecondRow},
};
use crate::ui;

/// Shows the last second once a second, until it is aborted or the run ends.
pub(super) async fn show(how: Live, recorder: Rc<RefCell<Recorder>>, stop: Stop) {
    if how == Live::No {
        return;
    }
    let (texts, queue) = mpsc::channel::<String>();
    let writer = std::thread::Builder::new().name("live".to_owned());
    if writer.spawn(move || queue.into_iter().for_each(|text| eprint!("{text}"))).is_err() {
        return;
    }
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.tick().await;
    // Seconds are ended on the second: look a moment later.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut above = 0;
    while !stop.is_set() {
        tick.tick().await;
        let recorder = recorder.borrow();
        let rows: Vec<&SecondRow> = recorder.last_second().collect();
        let mut text = summary(&recorder, &rows) + "\n";
        if how == Live::Screen {
            text = screen(&(text + &table(&recorder, &rows)), &mut above);
        }
        if texts.send(text).is_err() {
            return;
        }
    }
}

/// Puts a text in the place of the last one: as many lines up as that had, each cut to the terminal's width.
fn screen(text: &str, above: &mut usize) -> String {
    let size = rustix::termios::tcgetwinsize(std::io::stderr()).ok();
    let (width, height) = size.map_or((100, 40), |size| (size.ws_col.max(20), size.ws_row.max(5)));
    let up = if *above > 0 { format!("\x1b[{above}A") } else { String::new() };
    // One line less than the terminal has: otherwise it would scroll.
    let lines: Vec<String> = text
        .lines()
        .take(usize::from(height) - 1)
        .map(|line| line.chars().take(width.into()).collect())
        .collect();
    *above = lines.len();
    format!("{up}\r\x1b[J{}\n", lines.join("\n"))
}

fn summary(recorder: &Recorder, rows: &[&SecondRow]) -> String {
    let sum = |what: fn(&Counts) -> u64| rows.iter().map(|row| what(&row.counts)).sum::<u64>();
    let worst = rows.iter().map(|row| row.latency.p99).max().unwrap_or_default();
    let hosts = recorder.hosts.iter().zip(&recorder.connected).filter(|(_, count)| **count > 0);
    let hosts: Vec<String> = hosts.map(|(host, count)| format!("{host} x{count}")).collect();
    format!(
        "{:>5} s  {:>6}/s  slowest p99 {:>9}  failed {}  in doubt {}  retries {}  {}",
        recorder.seconds_ended(),
        sum(Counts::good),
        millis(worst),
        sum(|counts| counts.aborted),
        sum(|counts| counts.indeterminate),
        sum(|counts| counts.retries),
        if hosts.is_empty() { "not connected".to_owned() } else { hosts.join(", ") },
    )
}

fn table(recorder: &Recorder, rows: &[&SecondRow]) -> String {
    let lines = recorder.statements.iter().map(|statement| {
        let now = rows.iter().find(|row| row.statement == statement.name);
        let cell = |what: &dyn Fn(&SecondRow) -> String| now.map_or_else(|| "-".to_owned(), |row| what(row));
        vec![
            statement.name.clone(),
            cell(&|row| row.counts.good().to_string()),
            cell(&|row| millis(row.latency.p50)),
            cell(&|row| millis(row.latency.p99)),
            cell(&|row| millis(row.latency.max)),
            statement.total.retries.to_string(),
            (statement.total.aborted + statement.total.indeterminate).to_string(),
        ]
    });
    ui::table(&["STATEMENT", "/S", "P50", "P99", "MAX", "RETRIES", "FAILED"], &lines.collect::<Vec<_>>())
}

/// Microseconds for people.
pub fn millis(micros: u64) -> String {
    match micros {
        0..10_000 => format!("{:.2} ms", micros as f64 / 1e3),
        10_000..1_000_000 => format!("{:.0} ms", micros as f64 / 1e3),
        _ => format!("{:.1} s", micros as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_takes_the_place_of_the_one_before() {
        let mut above = 0;
        assert_eq!(screen("a\nb\n", &mut above), "\r\x1b[Ja\nb\n");
        assert_eq!(above, 2);
        assert_eq!(screen("c\n", &mut above), "\x1b[2A\r\x1b[Jc\n");
        assert_eq!(above, 1);
    }
}
