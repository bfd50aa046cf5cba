//! Pictures: bars, lines and intervals as SVG that needs nothing else.

use std::fmt::Write as _;

/// Colours that are told apart by most eyes, on light and dark ground.
pub const COLOURS: [&str; 8] =
    ["#9aa0a6", "#4285f4", "#f29900", "#1e8e3e", "#a142f4", "#d93025", "#12a4af", "#7a5c3e"];
const ROW: f64 = 13.0;
const LEFT: f64 = 190.0;
const WIDTH: f64 = 900.0;

/// A series of figures with its name.
pub struct Series<'a> {
    /// In the legend.
    pub name: &'a str,
    /// One for each label, if there is one.
    pub values: Vec<Option<f64>>,
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn head(height: f64, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" font-family=\"sans-serif\" \
         font-size=\"11\" role=\"img\">\n<title>{0}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"15\" font-weight=\"bold\">{0}</text>\n",
        escape(title)
    )
}

fn legend(out: &mut String, names: &[&str], y: f64) {
    let mut x = 10.0;
    for (index, name) in names.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let _ = writeln!(
            out,
            "<rect x=\"{x:.0}\" y=\"{:.0}\" width=\"10\" height=\"10\" fill=\"{colour}\"/><text x=\"{:.0}\" y=\"{y:.0}\">{}</text>",
            y - 9.0,
            x + 14.0,
            escape(name)
        );
        x += 30.0 + 6.3 * name.chars().count() as f64;
    }
}

/// Milliseconds for people.
pub fn label(millis: f64) -> String {
    match millis {
        ..1.0 => format!("{millis:.2} ms"),
        ..100.0 => format!("{millis:.1} ms"),
        _ => format!("{millis:.0} ms"),
    }
}

/// A group of bars for each label, one bar a series, on a logarithmic scale of milliseconds.
pub fn bars(title: &str, labels: &[&str], series: &[Series]) -> String {
    let all = || series.iter().flat_map(|series| series.values.iter().flatten().copied());
    // Between a microsecond and three hours, whatever the figures are: each power of ten is a line.
    let least = all().fold(1e7, f64::min).max(1e-3);
    let most = all().fold(least * 10.0, f64::max).min(1e8);
    let (low, high) = (least.log10().floor(), most.log10().ceil());
    let group = ROW * series.len() as f64 + 8.0;
    let (top, height) = (64.0, 64.0 + group * labels.len() as f64 + 30.0);
    let x = |value: f64| LEFT + (value.max(1e-3).log10() - low) / (high - low) * (WIDTH - LEFT - 80.0);
    let mut out = head(height, title);
    legend(&mut out, &series.iter().map(|series| series.name).collect::<Vec<_>>(), 44.0);
    for power in low as i32..=high as i32 {
        let (at, value) = (x(10f64.powi(power)), 10f64.powi(power));
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.0}\" y2=\"{:.0}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{:.0}\" text-anchor=\"middle\" fill=\"#555\">{value} ms</text>",
            top - 6.0,
            height - 24.0,
            height - 8.0
        );
    }
    for (row, name) in labels.iter().enumerate() {
        let y = top + group * row as f64;
        let middle = y + ROW * series.len() as f64 / 2.0 + 4.0;
        let _ = writeln!(
            out,
            "<text x=\"{:.0}\" y=\"{middle:.0}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            escape(name)
        );
        for (index, series) in series.iter().enumerate() {
            let Some(value) = series.values.get(row).copied().flatten() else { continue };
            let (y, end) = (y + ROW * index as f64, x(value).max(LEFT + 1.0));
            let _ = writeln!(
                out,
                "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/><text x=\"{:.1}\" y=\"{:.1}\" font-size=\"9\" fill=\"#444\">{}</text>",
                end - LEFT,
                ROW - 2.0,
                COLOURS[index % COLOURS.len()],
                end + 3.0,
                y + ROW - 4.0,
                label(value)
            );
        }
    }
    out + "</svg>\n"
}

/// Points joined by lines: seconds to the right, something upwards.
pub fn lines(title: &str, unit: &str, series: &[(&str, Vec<(f64, f64)>)]) -> String {
    let points = || series.iter().flat_map(|(_, points)| points);
    let end = points().map(|point| point.0).fold(1.0, f64::max);
    let most = points().map(|point| point.1).fold(1e-9, f64::max);
    let (height, top, bottom) = (260.0, 56.0, 26.0);
    let x = |at: f64| 60.0 + at / end * (WIDTH - 80.0);
    let y = |value: f64| height - bottom - value / most * (height - top - bottom);
    let mut out = head(height, title);
    legend(&mut out, &series.iter().map(|(name, _)| *name).collect::<Vec<_>>(), 42.0);
    for step in 0..=4 {
        let value = most * f64::from(step) / 4.0;
        let _ = writeln!(
            out,
            "<line x1=\"60\" x2=\"{:.0}\" y1=\"{2:.1}\" y2=\"{2:.1}\" stroke=\"#ddd\"/><text x=\"54\" y=\"{3:.1}\" text-anchor=\"end\" fill=\"#555\">{1:.4}</text>",
            WIDTH - 20.0,
            (value * 10.0).round() / 10.0,
            y(value),
            y(value) + 4.0
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\" fill=\"#555\">{unit}; 0 to {end:.0} s</text>",
        WIDTH - 20.0,
        height - 8.0
    );
    for (index, (_, points)) in series.iter().enumerate() {
        let path: Vec<String> =
            points.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
        let colour = COLOURS[index % COLOURS.len()];
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/>",
            path.join(" ")
        );
    }
    out + "</svg>\n"
}

/// Ratios with their intervals around 1, on a logarithmic scale.
pub fn intervals(title: &str, rows: &[(&str, f64, f64, f64)]) -> String {
    let reach =
        rows.iter().flat_map(|(_, _, low, high)| [low.max(1e-4).log10().abs(), high.max(1e-4).log10().abs()]);
    let reach = reach.fold(0.1, f64::max) * 1.05;
    let (top, row) = (40.0, 18.0);
    let height = top + row * rows.len() as f64 + 30.0;
    let x = |ratio: f64| LEFT + (ratio.max(1e-4).log10() + reach) / (2.0 * reach) * (WIDTH - LEFT - 90.0);
    let mut out = head(height, title);
    let _ = writeln!(
        out,
        "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1}\" y2=\"{2:.0}\" stroke=\"#888\"/><text x=\"{LEFT}\" y=\"{3:.0}\" fill=\"#1e8e3e\">faster</text><text x=\"{4:.0}\" y=\"{3:.0}\" text-anchor=\"end\" fill=\"#d93025\">slower</text>",
        x(1.0),
        top - 8.0,
        height - 24.0,
        height - 8.0,
        WIDTH - 90.0
    );
    for (index, (name, ratio, low, high)) in rows.iter().enumerate() {
        let y = top + row * index as f64 + 8.0;
        let colour = if *high < 1.0 {
            COLOURS[3]
        } else if *low > 1.0 {
            COLOURS[5]
        } else {
            COLOURS[0]
        };
        let _ = writeln!(
            out,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text><line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"2\"/><circle cx=\"{:.1}\" cy=\"{y}\" r=\"4\" fill=\"{colour}\"/><text x=\"{:.0}\" y=\"{:.0}\">x{ratio:.2}</text>",
            LEFT - 8.0,
            y + 4.0,
            escape(name),
            x(*low),
            x(*high),
            x(*ratio),
            WIDTH - 80.0,
            y + 4.0
        );
    }
    out + "</svg>\n"
}

/// A page with this inside. It needs nothing from anywhere.
pub fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title><style>\n\
         body {{ font: 14px/1.45 sans-serif; max-width: 960px; margin: 2em auto; padding: 0 1em; color: #222; background: #fff }}\n\
         table {{ border-collapse: collapse; margin: 1em 0 }} th, td {{ padding: .2em .7em; border-bottom: 1px solid #ddd; text-align: left }}\n\
         td.n {{ text-align: right; font-variant-numeric: tabular-nums }} .faster {{ color: #1e8e3e }} .slower {{ color: #d93025 }}\n\
         svg {{ width: 100%; margin: 1em 0 }} pre {{ overflow: auto; background: #f6f6f6; padding: .7em }}\n\
         </style></head><body><h1>{0}</h1>\n{body}\n</body></html>\n",
        escape(title)
    )
}

/// Text inside of a page.
pub fn text(text: &str) -> String {
    escape(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_complete_and_nothing_is_not_a_number() {
        let series = [
            Series { name: "a <b>", values: vec![Some(1.0), None] },
            Series { name: "c", values: vec![Some(0.0), Some(1e6)] },
        ];
        for picture in [
            bars("t & u", &["x", "y"], &series),
            bars("empty", &[], &[]),
            lines("l", "1/s", &[("a", vec![(0.0, 1.0), (2.0, 0.0)]), ("b", vec![])]),
            intervals("i", &[("x", 0.5, 0.4, 0.6), ("y", 1.0, 0.0, 2.0)]),
        ] {
            assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
            assert!(!picture.contains("NaN") && !picture.contains("inf"), "{picture}");
            assert!(!picture.contains("<b>"), "{picture}");
        }
    }
}
