//! The report as Markdown. The page in HTML is made of the same text.

use std::fmt::Write as _;

use time::OffsetDateTime;

use super::evidence::{Acted, Checked, Done, Evidence, Fate, Mode, Outcome};

/// Name of the picture, which lies beside the report.
pub const PICTURE: &str = "timeline.svg";
/// Lines of the output of one command.
const OUTPUT_MAX: usize = 60;

/// The whole report. Writing to a String cannot fail.
pub fn markdown(evidence: &Evidence) -> String {
    let mut out = String::new();
    head(&mut out, evidence);
    steps(&mut out, evidence);
    if !evidence.writes.is_empty() || !evidence.roles.is_empty() {
        times(&mut out, evidence);
    }
    for (number, step) in evidence.steps.iter().enumerate() {
        details(&mut out, evidence, number + 1, step);
    }
    logs(&mut out, evidence);
    out
}

fn head(out: &mut String, evidence: &Evidence) {
    let failed = evidence.steps.iter().filter(|step| step.outcome != Outcome::Held).count();
    let result = match failed {
        0 => "**Everything held.**".to_owned(),
        1 => "**1 step did not hold.**".to_owned(),
        several => format!("**{several} steps did not hold.**"),
    };
    let mode = match evidence.mode {
        Mode::Demonstration => "as a demonstration",
        Mode::Interactive => "with a student",
        Mode::Check => "the present state only",
    };
    let _ = write!(
        out,
        "# {}\n\n{}\n\n{result} Lesson `{}` in lab `{}`, {mode}, {}, {:.0} s; pgprov {}.\n",
        evidence.title,
        evidence.goal,
        evidence.lesson,
        evidence.lab,
        moment(evidence.began),
        evidence.ended - evidence.began,
        evidence.version
    );
}

fn steps(out: &mut String, evidence: &Evidence) {
    out.push_str("\n## Results\n\n| step | result | checks held | seconds |\n|---|---|---|---|\n");
    for (number, step) in evidence.steps.iter().enumerate() {
        let held = step.checks.iter().filter(|check| check.held).count();
        let _ = writeln!(
            out,
            "| {}. {} | {} | {held} of {} | {:.1} |",
            number + 1,
            cell(&step.title),
            mark(step.outcome),
            step.checks.len(),
            step.ended - step.began
        );
    }
}

/// A word for it, with a sign that is seen from afar.
pub fn mark(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Held => "✓ held",
        Outcome::Failed => "✗ failed",
        Outcome::Skipped => "– skipped",
        Outcome::NotReached => "– not reached",
    }
}

fn times(out: &mut String, evidence: &Evidence) {
    let _ = write!(out, "\n## Times\n\n![Roles of the hosts and acknowledged writes over time]({PICTURE})\n");
    if evidence.writes.is_empty() {
        return;
    }
    let count = |fate| evidence.writes.iter().filter(|write| write.fate == fate).count();
    let rto = evidence.rto().map_or("none".to_owned(), |gap| {
        format!(
            "{:.1} s, from {:.1} s to {:.1} s",
            gap.seconds(),
            gap.from - evidence.began,
            gap.to - evidence.began
        )
    });
    let lost = match &evidence.lost {
        None => "nobody looked".to_owned(),
        Some(lost) if lost.is_empty() => "0".to_owned(),
        Some(lost) => format!("{}: {}", lost.len(), numbers(lost)),
    };
    let _ = write!(
        out,
        "\n| writer | |\n|---|---|\n| acknowledged writes | {} |\n| refused writes | {} |\n| outcome not known | {} |\n\
         | longest outage (RTO as a client saw it) | {rto} |\n| acknowledged and lost | {lost} |\n",
        evidence.acknowledged(),
        count(Fate::Failed),
        count(Fate::Unknown)
    );
    for gap in evidence.outages() {
        let inside = |write: &&super::evidence::Write| {
            write.fate != Fate::Ok && write.end > gap.from && write.begin < gap.to
        };
        let first =
            evidence.writes.iter().find(inside).map(|write| write.answer.as_str()).unwrap_or_default();
        let _ = write!(
            out,
            "\nNo write was acknowledged for {:.1} s, from {:.1} s on{}\n",
            gap.seconds(),
            gap.from - evidence.began,
            if first.is_empty() {
                ".".to_owned()
            } else {
                format!(". The first one was told: `{}`", code(first))
            }
        );
    }
}

fn numbers(all: &[u64]) -> String {
    const SHOWN_MAX: usize = 20;
    let mut text: Vec<String> = all.iter().take(SHOWN_MAX).map(u64::to_string).collect();
    if all.len() > SHOWN_MAX {
        text.push("…".to_owned());
    }
    text.join(", ")
}

fn details(out: &mut String, evidence: &Evidence, number: usize, step: &Done) {
    let _ = write!(out, "\n## {number}. {} — {}\n", step.title, mark(step.outcome));
    if step.outcome == Outcome::NotReached {
        return;
    }
    if !step.text.is_empty() {
        let _ = write!(out, "\n{}\n", step.text.trim_end());
    }
    for act in &step.acts {
        acted(out, evidence, act);
    }
    if !step.checks.is_empty() {
        out.push_str("\n| check | result | seen | seconds |\n|---|---|---|---|\n");
    }
    for Checked { what, held, observed, waited } in &step.checks {
        let result = if *held { "✓" } else { "✗" };
        let _ = writeln!(
            out,
            "| {} | {result} | {} | {waited:.1} |",
            cell(what),
            cell(&first_lines(observed, 4))
        );
    }
    for check in step.checks.iter().filter(|check| !check.held) {
        let _ = write!(
            out,
            "\n**Expected**: {}. After {:.1} s this was seen:\n\n{}",
            check.what,
            check.waited,
            fenced(&check.observed)
        );
    }
    for hint in &step.hints {
        let _ = write!(out, "\n> **Hint**: {}\n", hint.replace('\n', "\n> "));
    }
}

fn acted(out: &mut String, evidence: &Evidence, act: &Acted) {
    let prompt = act.host.as_ref().map_or("$ ".to_owned(), |host| format!("{host}# "));
    let mut text = format!("{prompt}{}\n", act.command.trim_end());
    text.push_str(&first_lines(&act.output, OUTPUT_MAX));
    let _ = write!(
        out,
        "\n{:.1} s after the beginning, {:.1} s:\n\n{}",
        act.at - evidence.began,
        act.took,
        fenced(&text)
    );
    if let Some(error) = &act.error {
        let _ = write!(out, "\n**Failed**: {error}\n");
    }
}

fn logs(out: &mut String, evidence: &Evidence) {
    if evidence.logs.is_empty() {
        return;
    }
    out.push_str(
        "\n## Logs of all hosts\n\nSeconds since the beginning, host, what it is the log of, line.\n\n",
    );
    let mut text = String::new();
    for line in &evidence.logs {
        let _ = writeln!(
            text,
            "{:8.2}  {:8} {:9} {}",
            line.at - evidence.began,
            line.host,
            line.source,
            line.text
        );
    }
    out.push_str(&fenced(&text));
}

/// A block that nothing in the text ends.
fn fenced(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}text\n{}\n{fence}\n", printable(text.trim_end()))
}

/// A cell of a table: one line, without what would end it.
fn cell(text: &str) -> String {
    printable(text).replace('\n', " ⏎ ").replace('|', "\\|").replace('<', "&lt;")
}

fn code(text: &str) -> String {
    printable(text).replace(['`', '\n'], "'")
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

fn first_lines(text: &str, max: usize) -> String {
    let mut lines: Vec<&str> = text.trim_end().lines().collect();
    let more = lines.len().saturating_sub(max);
    lines.truncate(max);
    let mut text = lines.join("\n");
    if more > 0 {
        let _ = write!(text, "\n… {more} more lines");
    }
    text
}

/// A time for people: date, hour, minute and second in UTC.
pub fn moment(at: f64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(at as i64).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (date, clock) = (time.date(), time.time());
    format!("{date} {:02}:{:02}:{:02} UTC", clock.hour(), clock.minute(), clock.second())
}
