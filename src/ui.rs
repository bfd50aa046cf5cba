//! The only door to the terminal: data on stdout, everything else on stderr.
#![expect(clippy::print_stderr, reason = "this module is where printing is done")]

use std::{
    io::{IsTerminal, Write},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::error::{Error, Kind};

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How reading commands answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Tables and sentences.
    #[default]
    Human,
    /// One JSON document.
    Json,
}

/// The terminal.
#[derive(Clone)]
pub struct Ui {
    format: Format,
    color_out: bool,
    color_err: bool,
    quiet: bool,
    live: bool,
    started: Instant,
    bars: Arc<Mutex<MultiProgress>>,
}

/// One line of progress: an image, a network, a host.
#[derive(Clone)]
pub struct Line {
    ui: Ui,
    name: String,
    bar: Option<ProgressBar>,
    started: Instant,
}

impl Ui {
    /// A terminal as the user wants it.
    pub fn new(format: Format, color: Color, quiet: bool, no_color_env: bool) -> Self {
        let color = |terminal: bool| match color {
            Color::Auto => terminal && !no_color_env,
            Color::Always => true,
            Color::Never => false,
        };
        let live = std::io::stderr().is_terminal() && !quiet;
        let target = if live { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self {
            format,
            color_out: color(std::io::stdout().is_terminal()),
            color_err: color(std::io::stderr().is_terminal()),
            quiet,
            live,
            started: Instant::now(),
            bars: Arc::new(Mutex::new(MultiProgress::with_draw_target(target))),
        }
    }

    /// Whether the answer is JSON.
    pub fn json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints the answer. A reader that went away (`| head`) ends the program quietly.
    pub fn out(&self, text: &str) {
        let mut stdout = std::io::stdout().lock();
        let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        if write!(stdout, "{text}{newline}").and_then(|()| stdout.flush()).is_err() {
            std::process::exit(0);
        }
    }

    /// Prints the answer as JSON.
    pub fn out_json(&self, value: &serde_json::Value) {
        self.out(&serde_json::to_string_pretty(value).unwrap_or_default());
    }

    /// A side remark, not printed with --quiet.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            self.err(text);
        }
    }

    /// A warning.
    pub fn warn(&self, text: &str) {
        self.err(&format!("{} {text}", self.paint("33", "warning:")));
    }

    /// A failure: what, why, what to do. Pending changes are none, only a remark.
    pub fn error(&self, error: &Error) {
        let mut causes = error.cause.chain().map(ToString::to_string);
        let first = causes.next().unwrap_or_default();
        if error.kind == Kind::Pending {
            self.say(&printable(&first));
            return;
        }
        self.err(&format!("{} {}", self.paint("1;31", "error:"), printable(&first)));
        for cause in causes.filter(|cause| !first.contains(cause.as_str())) {
            self.err(&format!("  caused by: {}", printable(&cause)));
        }
        for hint in &error.hints {
            self.err(&format!("{} {hint}", self.paint("36", "hint:")));
        }
    }

    /// A defect in pgprov, which has said on stderr where it was.
    pub fn bug(&self) {
        self.err(&format!(
            "{} this is a defect in pgprov; please report the lines above",
            self.paint("1;31", "error:")
        ));
    }

    /// Text for stdout in an ANSI style, when stdout is coloured.
    pub fn style(&self, code: &str, text: &str) -> String {
        if self.color_out { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color_err { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn err(&self, text: &str) {
        let bars = self.bars.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A reader that went away (`2>&1 | head`) does not stop what is being done.
        let _ = bars.suspend(|| writeln!(std::io::stderr().lock(), "{text}"));
    }

    /// Starts a line of progress.
    pub fn line(&self, name: &str, width: usize) -> Line {
        let bar = self.live.then(|| {
            let bars = self.bars.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let bar = bars.add(ProgressBar::new_spinner());
            let template = format!("  {{spinner}} {{prefix:{width}}} {{elapsed:>4}}  {{wide_msg}}");
            bar.set_style(
                ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Line { ui: self.clone(), name: format!("{name:width$}"), bar, started: Instant::now() }
    }

    /// Asks a question on the terminal; `false` when there is nobody to ask.
    pub fn confirm(&self, question: &str) -> bool {
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return false;
        }
        eprint!("{question} [y/N] ");
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
    }
}

impl Line {
    /// What is going on now: replaces the line on a terminal, is a line of its own elsewhere.
    pub fn now(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None => self.plain(text),
        }
    }

    /// A figure that changes often: shown on a terminal only.
    pub fn tick(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
    }

    /// The line is finished.
    pub fn done(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let seconds = self.started.elapsed().as_secs_f64();
        self.ui.say(&format!("  {} {}  {seconds:6.1} s  {text}", self.ui.paint("32", "✓"), self.name));
    }

    /// The line ended badly.
    pub fn failed(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let seconds = self.started.elapsed().as_secs_f64();
        self.ui.say(&format!("  {} {}  {seconds:6.1} s  {text}", self.ui.paint("31", "✗"), self.name));
    }

    /// The line is not worth a result.
    pub fn drop_quietly(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn plain(&self, text: &str) {
        let seconds = self.ui.started.elapsed().as_secs_f64();
        self.ui.say(&format!("[{seconds:6.1} s] {} {text}", self.name.trim_end()));
    }
}

/// A table: columns as wide as they need to be, no trailing spaces.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.chars().count())))
            .collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = line(&mut header.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// A [`table`] whose header stands out on a terminal.
pub fn titled(ui: &Ui, header: &[&str], rows: &[Vec<String>]) -> String {
    let text = table(header, rows);
    match text.split_once('\n') {
        Some((first, rest)) => format!("{}\n{rest}", ui.style("1", first)),
        None => text,
    }
}

/// Text from outside without control characters that could drive the terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '�' } else { c }).collect()
}
