//! What is shown while a run goes on.
#![expect(clippy::print_stderr, reason = "progress goes to standard error")]

use std::{cell::RefCell, io::Stderr, rc::Rc, time::Duration};

use ratatui::{
    Terminal, TerminalOptions, Viewport,
    backend::CrosstermBackend,
    layout::Constraint,
    style::Style,
    text::Line,
    widgets::{Row, Table},
};

use super::{
    Live, Stop,
    record::{Counts, Recorder, SecondRow},
};

/// Shows the last second once a second, until it is aborted or the run ends.
pub(super) async fn show(how: Live, recorder: Rc<RefCell<Recorder>>, stop: Stop) {
    let mut screen = match how {
        Live::No => return,
        Live::Lines => None,
        Live::Screen => screen(recorder.borrow().statements.len()),
    };
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.tick().await;
    // Seconds are ended on the second: look a moment later.
    tokio::time::sleep(Duration::from_millis(50)).await;
    while !stop.is_set() {
        tick.tick().await;
        let recorder = recorder.borrow();
        let rows: Vec<&SecondRow> = recorder.last_second().collect();
        let summary = summary(&recorder, &rows);
        match &mut screen {
            Some(screen) => {
                let _ =
                    screen.draw(|frame| frame.render_widget(table(&recorder, &rows, &summary), frame.area()));
            }
            None => eprintln!("{summary}"),
        }
    }
}

/// Leaves the terminal as it was.
pub(super) fn restore(how: Live) {
    if how == Live::Screen {
        eprintln!();
    }
}

fn screen(statements: usize) -> Option<Terminal<CrosstermBackend<Stderr>>> {
    let height = u16::try_from(statements + 3).ok()?;
    let options = TerminalOptions { viewport: Viewport::Inline(height) };
    Terminal::with_options(CrosstermBackend::new(std::io::stderr()), options).ok()
}

fn summary(recorder: &Recorder, rows: &[&SecondRow]) -> String {
    let sum = |what: fn(&Counts) -> u64| rows.iter().map(|row| what(&row.counts)).sum::<u64>();
    let worst = rows.iter().map(|row| row.latency.p99).max().unwrap_or_default();
    let hosts = recorder.hosts.iter().zip(&recorder.connected).filter(|(_, count)| **count > 0);
    let hosts: Vec<String> = hosts.map(|(host, count)| format!("{host} x{count}")).collect();
    format!(
        "{:>5} s  {:>6}/s  slowest p99 {:>9}  failed {}  in doubt {}  retries {}  {}",
        rows.first().map_or(0, |row| row.second + 1),
        sum(Counts::good),
        millis(worst),
        sum(|counts| counts.aborted),
        sum(|counts| counts.indeterminate),
        sum(|counts| counts.retries),
        if hosts.is_empty() { "not connected".to_owned() } else { hosts.join(", ") },
    )
}

fn table<'a>(recorder: &'a Recorder, rows: &[&'a SecondRow], summary: &str) -> Table<'a> {
    let lines = recorder.statements.iter().map(|statement| {
        let now = rows.iter().find(|row| row.statement == statement.name);
        let cell = |what: &dyn Fn(&SecondRow) -> String| now.map_or_else(|| "-".to_owned(), |row| what(row));
        let failed = statement.total.aborted + statement.total.indeterminate;
        let row = Row::new([
            statement.name.clone(),
            cell(&|row| row.counts.good().to_string()),
            cell(&|row| millis(row.latency.p50)),
            cell(&|row| millis(row.latency.p99)),
            cell(&|row| millis(row.latency.max)),
            statement.total.retries.to_string(),
            failed.to_string(),
        ]);
        if failed > 0 { row.style(Style::new().yellow()) } else { row }
    });
    let head =
        Row::new(["statement", "/s", "p50", "p99", "max", "retries", "failed"]).style(Style::new().bold());
    let columns = [26, 8, 10, 10, 10, 9, 8].map(Constraint::Length);
    Table::new(lines, columns)
        .header(head)
        .block(ratatui::widgets::Block::new().title(Line::from(summary.to_owned())))
}

/// Microseconds for people.
pub fn millis(micros: u64) -> String {
    match micros {
        0..10_000 => format!("{:.2} ms", micros as f64 / 1e3),
        10_000..1_000_000 => format!("{:.0} ms", micros as f64 / 1e3),
        _ => format!("{:.1} s", micros as f64 / 1e6),
    }
}
