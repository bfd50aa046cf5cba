//! What holds for every text: shared by the property tests and the fuzz target.

use pgplan::{
    check::{Checked, Known, RoleInfo, check_text},
    excerpt::render,
    finding::FINDINGS_MAX,
    lab, yaml,
};

fn known() -> Known {
    let roles = ["arbiter", "base", "client", "postgres"];
    Known { roles: roles.map(RoleInfo::from).to_vec() }
}

/// What holds for every text. The fuzz target checks the same.
pub fn hold(text: &str) -> Checked {
    let checked = check_text(text, &known());
    assert!(checked.topology.is_some() || !checked.findings.is_empty(), "no topology and no reason");
    assert!(checked.findings.len() <= FINDINGS_MAX + 1);
    let widths: Vec<usize> =
        yaml::lines(text.strip_prefix('\u{feff}').unwrap_or(text)).map(|line| line.chars().count()).collect();
    for finding in &checked.findings {
        let span = finding.span;
        assert!(span.line >= 1 && span.column >= 1 && span.length >= 1, "{finding:?}");
        let width = widths.get(span.line - 1);
        assert!(width.is_some_and(|width| span.column <= width + 1), "{finding:?} is outside the text");
        assert!(finding.message.len() < 4000, "{finding:?}");
    }
    let shown = render(&checked.findings, "file", text);
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    if let Some(topology) = &checked.topology {
        // What has passed can be derived: each host has its addresses.
        assert_eq!(lab::derive(topology, &lab::Pins::new()).hosts.len(), topology.hosts.len());
    }
    checked
}
