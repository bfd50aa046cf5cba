//! A comparison as a page for people.

use std::fmt::Write as _;

use crate::{
    compare::{Change, Comparison, Verdict},
    plan,
    results::Results,
    run::SecondRow,
    svg::{self, Series},
};

/// Statements as pictures, figures, plans.
pub fn html(comparison: &Comparison, before: &[Results], after: &[Results]) -> String {
    let name = |runs: &[Results]| {
        runs.first().map_or(String::new(), |results| match results.run.stage.as_str() {
            "" => results.run.id.clone(),
            stage => format!("{stage} ({})", results.run.id),
        })
    };
    let (old, new) = (name(before), name(after));
    let rows = &comparison.rows;
    let labels: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    let series = |name: &'_ str, of: fn(&Change) -> f64| {
        let values = rows.iter().map(|row| Some(of(&row.p50) / 1e3)).collect();
        (name.to_owned(), values)
    };
    let pair = [series(&old, |change| change.before), series(&new, |change| change.after)];
    let pair = pair
        .each_ref()
        .map(|(name, values): &(String, Vec<Option<f64>>)| Series { name, values: values.clone() });
    let mut body = String::new();
    body += &svg::bars("Median response", &labels, &pair);
    let ratios: Vec<_> =
        rows.iter().map(|row| (row.name.as_str(), row.p50.ratio, row.p50.low, row.p50.high)).collect();
    body += &svg::intervals("Median, after divided by before, with 95 % confidence", &ratios);
    body += &table(comparison);
    if !comparison.remarks.is_empty() {
        body += "<h2>Remarks</h2><ul>";
        for remark in &comparison.remarks {
            let _ = write!(body, "<li>{}</li>", svg::text(remark));
        }
        body += "</ul>";
    }
    let sides = [(old.as_str(), before), (new.as_str(), after)];
    let rate = |rows: &[&SecondRow]| rows.iter().map(|row| row.counts.good() as f64).sum();
    let p99 = |rows: &[&SecondRow]| rows.iter().map(|row| row.latency.p99).max().unwrap_or(0) as f64 / 1e3;
    body += &time_series("Successes", "1/s", &sides, &rate);
    body += &time_series("Slowest statement's p99", "ms", &sides, &p99);
    body += "<h2>Plans that changed</h2>";
    for row in rows.iter().filter(|row| !row.plan.is_empty()) {
        let _ = write!(body, "<h3>{}</h3><ul>", svg::text(&row.name));
        for line in &row.plan {
            let _ = write!(body, "<li>{}</li>", svg::text(line));
        }
        body += "</ul>";
        for (side, runs) in &sides {
            let Some(plan) = runs.iter().find_map(|results| results.plans.get(&row.name)) else { continue };
            let (millis, hit, read) = plan::cost(plan);
            let shape = svg::text(&plan::shape(plan).join("\n"));
            let _ = write!(
                body,
                "<details><summary>{}: {millis:.1} ms, {hit} blocks hit, {read} read</summary><pre>{shape}</pre></details>",
                svg::text(side)
            );
        }
    }
    svg::page(&format!("{old} against {new}"), &body)
}

fn table(comparison: &Comparison) -> String {
    let mut out = "<table><tr><th>statement</th><th>runs</th><th>p50</th><th>change</th><th>p95</th><th>change</th><th>p99</th><th>change</th><th></th></tr>".to_owned();
    for row in &comparison.rows {
        let _ = write!(
            out,
            "<tr><td>{}</td><td class=n>{} / {}</td>",
            svg::text(&row.name),
            row.counts[0],
            row.counts[1]
        );
        for change in [&row.p50, &row.p95, &row.p99] {
            let _ = write!(
                out,
                "<td class=n>{} &rarr; {}</td><td class=n>x{:.2} ({:.2} to {:.2})</td>",
                svg::label(change.before / 1e3),
                svg::label(change.after / 1e3),
                change.ratio,
                change.low,
                change.high
            );
        }
        let class = verdict(row.verdict);
        let _ = write!(out, "<td class={class}>{class}</td></tr>");
    }
    out + "</table>"
}

/// In a word.
pub fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Faster => "faster",
        Verdict::Slower => "slower",
        Verdict::Same => "same",
    }
}

fn time_series(
    title: &str,
    unit: &str,
    sides: &[(&str, &[Results]); 2],
    value: &dyn Fn(&[&SecondRow]) -> f64,
) -> String {
    let series = sides.iter().filter_map(|(name, runs)| {
        let seconds = &runs.first()?.seconds;
        let last = seconds.last()?.second;
        let point = |second: u32| {
            let rows: Vec<&SecondRow> = seconds.iter().filter(|row| row.second == second).collect();
            (f64::from(second), value(&rows))
        };
        Some((*name, (0..=last).map(point).collect()))
    });
    let series: Vec<(&str, Vec<(f64, f64)>)> = series.collect();
    if series.is_empty() { String::new() } else { svg::lines(title, unit, &series) }
}
