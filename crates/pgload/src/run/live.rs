//! What is shown while a run goes on. A thread of its own writes it: a terminal or a disk that does not take it must not
//! stop the run.
#![expect(clippy::print_stderr, reason = "progress goes to standard error")]

use std::{cell::RefCell, fs, path::PathBuf, rc::Rc, sync::mpsc, time::Duration};

use serde_json::{Value as Json, json};

use super::{
    Live, Options, Stop,
    record::{Counts, Recorder, SecondRow},
};
use crate::ui;

/// What the writing thread is given.
enum Output {
    Terminal(String),
    File(PathBuf, String),
}

impl Output {
    /// What goes wrong here is not worth a run.
    fn write(self) {
        match self {
            Self::Terminal(text) => eprint!("{text}"),
            Self::File(path, text) => {
                // Whoever reads it sees the old or the new, never a part.
                let new = path.with_extension("new");
                let _ = fs::write(&new, text).and_then(|()| fs::rename(&new, &path));
            }
        }
    }
}

/// Shows the last second once a second, until it is aborted or the run ends.
pub(super) async fn show(options: &Options, recorder: Rc<RefCell<Recorder>>, stop: Stop) {
    let how = options.live;
    if how == Live::No && options.live_file.is_none() {
        return;
    }
    let (outputs, queue) = mpsc::channel::<Output>();
    let writer = std::thread::Builder::new().name("live".to_owned());
    if writer.spawn(move || queue.into_iter().for_each(Output::write)).is_err() {
        return;
    }
    // Before the first second is over, there is already something to see.
    if let Some(path) = &options.live_file {
        let text = document(options, &recorder.borrow(), &[]).to_string();
        let _ = outputs.send(Output::File(path.clone(), text));
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
        let line = || summary(&recorder, &rows) + "\n";
        let terminal = match how {
            Live::No => None,
            Live::Lines => Some(line()),
            Live::Screen => Some(screen(&(line() + &table(&recorder, &rows)), &mut above)),
        };
        let file = options.live_file.clone();
        let file = file.map(|path| (path, document(options, &recorder, &rows).to_string()));
        let terminal = terminal.map(Output::Terminal);
        let file = file.map(|(path, text)| Output::File(path, text));
        for output in terminal.into_iter().chain(file) {
            if outputs.send(output).is_err() {
                return;
            }
        }
    }
}

/// The live view for programs. Times in microseconds; `total` counts warm-up too.
fn document(options: &Options, recorder: &Recorder, rows: &[&SecondRow]) -> Json {
    let of = |name: &str| rows.iter().find(|row| row.statement == name);
    let statements = recorder.statements.iter().map(|statement| {
        let now = of(&statement.name);
        json!({
            "name": statement.name,
            "last_second": now.map(|row| row.counts).unwrap_or_default(),
            "latency": now.map(|row| row.latency),
            "total": statement.total,
        })
    });
    let total = |what: fn(&Counts) -> u64| recorder.statements.iter().map(|s| what(&s.total)).sum::<u64>();
    let hosts = recorder.hosts.iter().zip(&recorder.connected);
    let info = |index: usize| &recorder.info[index].1;
    json!({
        "id": options.id,
        "workload": info(1),
        "stage": info(2),
        "started": options.started,
        "seconds": recorder.seconds_ended(),
        "of_seconds": (options.warmup + options.duration).as_secs(),
        "warmup_seconds": options.warmup.as_secs(),
        "rate": rows.iter().map(|row| row.counts.good()).sum::<u64>(),
        "ok": total(Counts::good),
        "failed": total(|counts| counts.aborted),
        "in_doubt": total(|counts| counts.indeterminate),
        "retries": total(|counts| counts.retries),
        "without_success_seconds": recorder.without_success(),
        "connected": hosts.map(|(host, count)| (host.clone(), json!(count))).collect::<serde_json::Map<_, _>>(),
        "statements": statements.collect::<Vec<_>>(),
    })
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
