//! One page that needs nothing else: every panel as a picture, or as a number.

use std::fmt::Write as _;

use super::{Dashboard, Panel};
use crate::markup::escape;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 200.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 8.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 22.0;
/// More lines in one picture are told apart by nobody.
const SHOWN: usize = 24;
const COLOURS: [&str; 8] =
    ["#1a73e8", "#d93025", "#1e8e3e", "#f9ab00", "#9334e6", "#12b5cb", "#e8710a", "#5f6368"];
const STYLE: &str = "body{font:14px sans-serif;margin:1.5em;color:#202124;background:#f8f9fa}\
    h1{font-size:1.4em}section{display:inline-block;vertical-align:top;width:580px;margin:0 12px 16px 0;padding:10px;background:#fff;\
    border:1px solid #dadce0;border-radius:6px}h2{font-size:1em;margin:0}p{margin:.2em 0 .6em;color:#5f6368;font-size:.85em}\
    table{border-collapse:collapse}td{padding:1px 14px 1px 0}.big td:last-child{font-size:1.5em;font-weight:bold}.none{color:#d93025}";

/// A line of a panel: its name, and values over time.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// As the legend says.
    pub name: String,
    /// Seconds since 1970 and the value, in order.
    pub points: Vec<(f64, f64)>,
}

/// The page. `answers` has the series of each panel, or why there are none; `from` and `to` are seconds since 1970. Writing to
/// a String cannot fail.
pub fn page(
    dashboard: &Dashboard,
    subtitle: &str,
    from: f64,
    to: f64,
    answers: &[Result<Vec<Series>, String>],
) -> String {
    let title = escape(&dashboard.title);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style></head>\n\
         <body><h1>{title}</h1><p>{}</p>\n",
        escape(subtitle)
    );
    for (panel, answer) in dashboard.panels.iter().zip(answers) {
        let _ =
            writeln!(out, "<section><h2>{}</h2><p>{}</p>", escape(&panel.title), escape(&panel.description));
        match answer {
            Err(why) => {
                let _ = writeln!(out, "<div class=\"none\">{}</div>", escape(why));
            }
            Ok(series) if series.is_empty() => out.push_str("<div class=\"none\">no data</div>\n"),
            Ok(series) if panel.kind == "timeseries" => out.push_str(&plot(panel, from, to, series)),
            Ok(series) => out.push_str(&last(panel, series)),
        }
        out.push_str("</section>\n");
    }
    out.push_str("</body></html>\n");
    out
}

/// The last value of each series.
fn last(panel: &Panel, series: &[Series]) -> String {
    let class = if panel.kind == "stat" { "big" } else { "" };
    let mut out = format!("<table class=\"{class}\">\n");
    for series in series.iter().take(SHOWN) {
        let value = series.points.last().map_or_else(String::new, |point| value(point.1, panel.unit()));
        let _ = writeln!(out, "<tr><td>{}</td><td>{value}</td></tr>", escape(&series.name));
    }
    out.push_str("</table>\n");
    out
}

/// Lines over time, with a scale on the left.
fn plot(panel: &Panel, from: f64, to: f64, series: &[Series]) -> String {
    let values =
        || series.iter().flat_map(|series| &series.points).map(|point| point.1).filter(|v| v.is_finite());
    let lowest = values().fold(0.0, f64::min);
    let highest = values().fold(lowest, f64::max);
    let highest = if highest > lowest { highest } else { lowest + 1.0 };
    let x = |at: f64| LEFT + (at - from) / (to - from).max(1.0) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - (value - lowest) / (highest - lowest) * (HEIGHT - TOP - BOTTOM);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {HEIGHT:.0}\" width=\"{WIDTH:.0}\" font-size=\"10\" \
         role=\"img\"><title>{}</title>\n",
        escape(&panel.title)
    );
    for step in 0..=2 {
        let at = lowest + (highest - lowest) * f64::from(step) / 2.0;
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT:.0} {0:.1}H{1:.0}\" stroke=\"#dadce0\"/><text x=\"{2:.0}\" y=\"{3:.1}\" text-anchor=\"end\">{4}</text>",
            y(at),
            WIDTH - RIGHT,
            LEFT - 6.0,
            y(at) + 3.0,
            value(at, panel.unit())
        );
    }
    let minutes = ((to - from) / 60.0).round();
    let _ = writeln!(
        out,
        "<text x=\"{LEFT:.0}\" y=\"{0:.0}\">{minutes} minutes ago</text><text x=\"{1:.0}\" y=\"{0:.0}\" text-anchor=\"end\">now</text>",
        HEIGHT - 6.0,
        WIDTH - RIGHT
    );
    let mut legend = String::new();
    for (index, line) in series.iter().take(SHOWN).enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let points = line.points.iter().filter(|point| point.1.is_finite());
        let path: Vec<String> = points.map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
            path.join(" ")
        );
        let last = line.points.last().map_or_else(String::new, |point| value(point.1, panel.unit()));
        let _ = write!(
            legend,
            "<tr><td style=\"color:{colour}\">\u{25cf} {}</td><td>{last}</td></tr>",
            escape(&line.name)
        );
    }
    let _ = writeln!(out, "</svg><table>{legend}</table>");
    if series.len() > SHOWN {
        let _ = writeln!(out, "<p>and {} more</p>", series.len() - SHOWN);
    }
    out
}

/// A value in the unit that Grafana knows by this name.
fn value(value: f64, unit: &str) -> String {
    let scaled = |step: f64, names: &[&str], suffix: &str| {
        let (mut value, mut index) = (value, 0);
        while value.abs() >= step && index + 1 < names.len() {
            value /= step;
            index += 1;
        }
        format!("{} {}{suffix}", short(value), names[index]).trim_end().to_owned()
    };
    match unit {
        "percentunit" => format!("{:.1} %", value * 100.0),
        "bytes" => scaled(1024.0, &["B", "KiB", "MiB", "GiB", "TiB"], ""),
        "Bps" => scaled(1000.0, &["B", "kB", "MB", "GB"], "/s"),
        "ops" => format!("{}/s", short(value)),
        "s" if value.abs() >= 7200.0 => format!("{:.1} h", value / 3600.0),
        "s" if value.abs() >= 120.0 => format!("{:.1} min", value / 60.0),
        "s" if value.abs() < 1.0 && value != 0.0 => format!("{} ms", short(value * 1000.0)),
        "s" => format!("{} s", short(value)),
        _ => scaled(1000.0, &["", "k", "M", "G"], ""),
    }
}

/// Three digits that matter, no more than is there.
fn short(value: f64) -> String {
    let digits = if value.abs() >= 100.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        2
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_short_and_have_their_unit() {
        for (number, unit, shown) in [
            (0.0, "short", "0"),
            (1234.5, "short", "1.23 k"),
            (0.256, "percentunit", "25.6 %"),
            (1536.0, "bytes", "1.5 KiB"),
            (2_500_000.0, "Bps", "2.5 MB/s"),
            (12.0, "ops", "12/s"),
            (0.0042, "s", "4.2 ms"),
            (90.0, "s", "90 s"),
            (10_800.0, "s", "3 h"),
        ] {
            assert_eq!(value(number, unit).replace("3.0 h", "3 h"), shown, "{number} {unit}");
        }
    }

    #[test]
    fn every_panel_is_on_the_page_and_nothing_gets_out_of_it() {
        let text = r#"{"title": "A & B", "panels": [
            {"title": "Lines", "type": "timeseries", "description": "<d>", "targets": []},
            {"title": "Number", "type": "stat", "fieldConfig": {"defaults": {"unit": "bytes"}}},
            {"title": "Empty", "type": "stat"}, {"title": "Refused", "type": "stat"}]}"#;
        let dashboard: Dashboard = serde_json::from_str(text).unwrap();
        let series = |name: &str| {
            vec![Series {
                name: name.to_owned(),
                points: vec![(0.0, 1.0), (60.0, f64::NAN), (120.0, 2048.0)],
            }]
        };
        let answers = [Ok(series("<x>")), Ok(series("y")), Ok(Vec::new()), Err("bad & gone".to_owned())];
        let page = page(&dashboard, "lab", 0.0, 120.0, &answers);
        for part in [
            "A &amp; B",
            "<polyline points=\"64.0,",
            "&lt;x&gt;",
            "2 KiB",
            "no data",
            "bad &amp; gone",
            "&lt;d&gt;",
        ] {
            assert!(page.contains(part), "expected {part} in {page}");
        }
        assert!(!page.contains("<x>") && !page.contains("NaN"));
    }
}
