//! What a check makes of what was seen.

use regex_lite::Regex;

use super::Check;

/// Characters of an observation that are shown.
const SHOWN_MAX: usize = 600;

/// What was seen when a check looked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Whether the command succeeded.
    pub ok: bool,
    /// What it printed.
    pub text: String,
    /// What it complained about.
    pub complaint: String,
}

/// What a check says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it holds.
    pub held: bool,
    /// What was seen, for people.
    pub observed: String,
}

/// Compares what was printed with what is expected of it. `before`: what was printed when it was looked at first.
pub fn compare(check: &Check, seen: &Seen, before: Option<&str>) -> Verdict {
    let text = seen.text.trim_end();
    if let Some(pattern) = &check.fails {
        let said = format!("{}\n{}", seen.complaint.trim_end(), text);
        let held = !seen.ok && matches(pattern, &said);
        return Verdict { held, observed: shown(said.trim(), if seen.ok { "it succeeded" } else { "" }) };
    }
    if !seen.ok {
        let said = if seen.complaint.trim().is_empty() { text } else { seen.complaint.trim() };
        return Verdict { held: false, observed: shown(said, "it failed") };
    }
    let number = || text.lines().next().unwrap_or_default().trim().parse::<f64>().ok();
    let lines = text.lines().filter(|line| !line.is_empty()).count() as u64;
    let larger = || Some(number()? > before?.trim().lines().next()?.parse::<f64>().ok()?);
    let held = check.equals.as_ref().is_none_or(|wanted| text == wanted.trim_end())
        && check.matches.as_ref().is_none_or(|pattern| matches(pattern, text))
        && check.rows.is_none_or(|rows| rows == lines)
        && check.at_least.is_none_or(|least| number().is_some_and(|number| number >= least))
        && check.at_most.is_none_or(|most| number().is_some_and(|number| number <= most))
        && (!check.grows || larger() == Some(true));
    Verdict { held, observed: shown(text, "") }
}

fn matches(pattern: &str, text: &str) -> bool {
    Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text))
}

fn shown(text: &str, before: &str) -> String {
    let mut text = text.to_owned();
    if let Some((end, _)) = text.char_indices().nth(SHOWN_MAX) {
        text.truncate(end);
        text.push('…');
    }
    match (text.is_empty(), before.is_empty()) {
        (true, true) => "nothing was printed".to_owned(),
        (true, false) => before.to_owned(),
        (false, true) => text,
        (false, false) => format!("{before}: {text}"),
    }
}

/// What is expected, in words.
pub fn wanted(check: &Check) -> String {
    let mut parts = Vec::new();
    let mut part = |text: Option<String>| parts.extend(text);
    part(check.equals.as_ref().map(|text| format!("is `{}`", one_line(text))));
    part(check.matches.as_ref().map(|text| format!("matches /{text}/")));
    part(check.rows.map(|rows| format!("has {rows} rows")));
    part(check.at_least.map(|least| format!("is at least {least}")));
    part(check.at_most.map(|most| format!("is at most {most}")));
    part(check.grows.then(|| "grows".to_owned()));
    part(check.fails.as_ref().map(|text| format!("fails with /{text}/")));
    parts.join(" and ")
}

/// A text in one line, without the blanks that only indent it.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
