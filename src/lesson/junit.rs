//! The results as JUnit XML, which graders and CI servers read: a test case a step.

use std::fmt::Write as _;

use super::evidence::{Done, Evidence, Outcome};
use crate::markup::escape;

/// The document. Writing to a String cannot fail.
pub fn xml(evidence: &Evidence) -> String {
    let count =
        |outcomes: &[Outcome]| evidence.steps.iter().filter(|step| outcomes.contains(&step.outcome)).count();
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" skipped=\"{}\" time=\"{:.3}\">\n",
        escape(&evidence.lesson),
        evidence.steps.len(),
        count(&[Outcome::Failed]),
        count(&[Outcome::Skipped, Outcome::NotReached]),
        evidence.ended - evidence.began
    );
    for step in &evidence.steps {
        let _ = write!(
            out,
            "  <testcase classname=\"{}\" name=\"{}\" time=\"{:.3}\"",
            escape(&evidence.lesson),
            escape(&step.name),
            step.ended - step.began
        );
        match step.outcome {
            Outcome::Held => out.push_str("/>\n"),
            Outcome::Skipped | Outcome::NotReached => out.push_str("><skipped/></testcase>\n"),
            Outcome::Failed => {
                let (message, details) = failure(step);
                let _ = writeln!(
                    out,
                    ">\n    <failure message=\"{}\">{}</failure>\n  </testcase>",
                    escape(&message),
                    escape(&details)
                );
            }
        }
    }
    out + "</testsuite>\n"
}

/// What failed, in a line, and what was seen.
pub fn failure(step: &Done) -> (String, String) {
    if let Some(act) = step.acts.iter().find(|act| act.error.is_some()) {
        let error = act.error.clone().unwrap_or_default();
        return (format!("`{}`: {error}", act.command.trim()), act.output.clone());
    }
    let check = step.checks.iter().find(|check| !check.held);
    check.map_or_else(
        || ("it did not hold".to_owned(), String::new()),
        |check| {
            (
                format!("expected: {}", check.what),
                format!("seen after {:.1} s: {}", check.waited, check.observed),
            )
        },
    )
}
