//! The only door to the terminal: answers on stdout, everything else on stderr.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this module is where printing is done")]

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;

use crate::cli::{Format, Global};

/// The terminal.
#[derive(Clone, Copy, Debug)]
pub struct Ui {
    format: Format,
    quiet: bool,
}

impl Ui {
    /// As the user wants it.
    pub fn new(global: &Global) -> Self {
        Self { format: global.output, quiet: global.quiet }
    }

    /// Whether the answer is JSON.
    pub fn json(self) -> bool {
        self.format == Format::Json
    }

    /// Whether progress can be drawn.
    pub fn live(self) -> bool {
        std::io::stderr().is_terminal() && !self.quiet
    }

    /// Whether nothing but the answer is wanted.
    pub fn quiet(self) -> bool {
        self.quiet
    }

    /// A part of the answer for people.
    pub fn say(self, text: &str) {
        if !self.json() {
            println!("{text}");
        }
    }

    /// The answer for programs.
    ///
    /// # Errors
    /// None that a caller could do anything about.
    pub fn document(self, document: &impl Serialize) -> anyhow::Result<()> {
        if self.json() {
            println!("{}", serde_json::to_string_pretty(document)?);
        }
        Ok(())
    }

    /// A remark.
    pub fn note(self, text: &str) {
        if !self.quiet {
            eprintln!("{text}");
        }
    }

    /// Rows under a head, columns as wide as need be; numbers are to the right.
    pub fn table(self, head: &[&str], rows: &[Vec<String>]) {
        if self.json() {
            return;
        }
        print!("{}", table(head, rows));
        let _ = std::io::stdout().flush();
    }

    /// Why the program fails.
    pub fn error(error: &anyhow::Error) {
        eprintln!("error: {error:#}");
    }
}

/// Rows under a head, as text.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |text: &str| text.chars().count();
    let mut widths: Vec<usize> = head.iter().map(|text| width(text)).collect();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            widths[column] = widths[column].max(width(cell));
        }
    }
    let number =
        |text: &str| text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+' || c == 'x');
    let right: Vec<bool> =
        (0..head.len()).map(|column| rows.iter().all(|row| number(&row[column]))).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells = cells.enumerate().map(|(column, cell)| match right[column] {
            true => format!("{cell:>0$}", widths[column]),
            false => format!("{cell:<0$}", widths[column]),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut head.iter().copied());
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}
