//! The picture of a lesson: what each host was, when steps began, and acknowledged writes a second, over time.

use std::{collections::BTreeMap, fmt::Write as _};

use super::evidence::{Evidence, Fate, Outcome};
use crate::markup::escape;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 62.0;
const BAND: f64 = 26.0;
const WRITES: f64 = 120.0;
const PRIMARY: &str = "#1e8e3e";
const STANDBY: &str = "#8ab4f8";
const DOWN: &str = "#d93025";
const OUTAGE: &str = "#fde7e5";

/// The picture as SVG that needs nothing else. Writing to a String cannot fail.
pub fn svg(evidence: &Evidence) -> String {
    let mut hosts: BTreeMap<&str, Vec<(f64, &str)>> = BTreeMap::new();
    for role in &evidence.roles {
        hosts.entry(&role.host).or_default().push((role.from, &role.role));
    }
    let length = (evidence.ended - evidence.began).max(1.0);
    let x = |at: f64| LEFT + ((at - evidence.began) / length).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT);
    let bands = TOP + BAND * hosts.len() as f64;
    let (floor, height) = (bands + 16.0 + WRITES, bands + 16.0 + WRITES + 44.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" font-family=\"sans-serif\" \
         font-size=\"11\" role=\"img\">\n<title>{0}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"15\" font-weight=\"bold\">{0}</text>\n",
        escape(&evidence.title)
    );
    legend(&mut out);
    for gap in evidence.outages() {
        let (from, to) = (x(gap.from), x(gap.to));
        let _ = writeln!(
            out,
            "<rect x=\"{from:.1}\" y=\"{TOP:.0}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{OUTAGE}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"{DOWN}\">{:.1} s</text>",
            to - from,
            floor - TOP,
            f64::midpoint(from, to),
            floor - WRITES + 10.0,
            gap.seconds()
        );
    }
    for (row, (host, spans)) in hosts.iter().enumerate() {
        let y = TOP + BAND * row as f64;
        let _ = writeln!(
            out,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            y + 14.0,
            escape(host)
        );
        for (index, (from, role)) in spans.iter().enumerate() {
            let to = spans.get(index + 1).map_or(evidence.ended, |next| next.0);
            let colour = match *role {
                "primary" => PRIMARY,
                "standby" => STANDBY,
                _ => DOWN,
            };
            let _ = writeln!(
                out,
                "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"18\" fill=\"{colour}\"><title>{} is {} from {:.1} s on</title></rect>",
                x(*from),
                (x(to) - x(*from)).max(0.5),
                escape(host),
                escape(role),
                from - evidence.began
            );
        }
    }
    writes(&mut out, evidence, floor, &x);
    steps(&mut out, evidence, floor, &x);
    axis(&mut out, evidence, length, floor, &x);
    out + "</svg>\n"
}

fn legend(out: &mut String) {
    let all = [
        (PRIMARY, "primary"),
        (STANDBY, "standby"),
        (DOWN, "does not answer"),
        (OUTAGE, "no write acknowledged"),
    ];
    let mut left = 10.0;
    for (colour, name) in all {
        let _ = writeln!(
            out,
            "<rect x=\"{left:.0}\" y=\"30\" width=\"10\" height=\"10\" fill=\"{colour}\" stroke=\"#ccc\"/><text x=\"{:.0}\" y=\"39\">{name}</text>",
            left + 15.0
        );
        left += 40.0 + 6.2 * name.len() as f64;
    }
}

/// Bars, one a second.
fn writes(out: &mut String, evidence: &Evidence, floor: f64, x: &dyn Fn(f64) -> f64) {
    let mut seconds: BTreeMap<u64, u32> = BTreeMap::new();
    for write in evidence.writes.iter().filter(|write| write.fate == Fate::Ok && write.end >= evidence.began)
    {
        *seconds.entry((write.end - evidence.began) as u64).or_default() += 1;
    }
    let most = seconds.values().max().copied().unwrap_or(0);
    if most == 0 {
        return;
    }
    let mut path = String::new();
    for (second, count) in &seconds {
        let (from, to) = (x(evidence.began + *second as f64), x(evidence.began + *second as f64 + 1.0));
        let tall = f64::from(*count) / f64::from(most) * (WRITES - 16.0);
        let _ = write!(path, "M{from:.1} {floor:.1}V{:.1}H{to:.1}V{floor:.1}Z", floor - tall);
    }
    let _ = writeln!(
        out,
        "<path d=\"{path}\" fill=\"#5f6368\"/>\n<text x=\"{0:.0}\" y=\"{1:.1}\" text-anchor=\"end\">writes/s</text>\
         <text x=\"{0:.0}\" y=\"{2:.1}\" text-anchor=\"end\">{most}</text>",
        LEFT - 8.0,
        floor,
        floor - WRITES + 24.0
    );
}

/// A line where each step begins, with its number.
fn steps(out: &mut String, evidence: &Evidence, floor: f64, x: &dyn Fn(f64) -> f64) {
    let reached = evidence.steps.iter().enumerate().filter(|(_, step)| step.outcome != Outcome::NotReached);
    for (index, step) in reached {
        let at = x(step.began);
        let colour = if step.outcome == Outcome::Failed { DOWN } else { "#444" };
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.0}\" y2=\"{floor:.1}\" stroke=\"{colour}\" stroke-dasharray=\"2 3\"/>\
             <text x=\"{:.1}\" y=\"{:.0}\" fill=\"{colour}\">{}<title>{}</title></text>",
            TOP - 4.0,
            at + 2.0,
            TOP - 6.0,
            index + 1,
            escape(&step.title)
        );
    }
}

fn axis(out: &mut String, evidence: &Evidence, length: f64, floor: f64, x: &dyn Fn(f64) -> f64) {
    let step = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0];
    let step = step.into_iter().find(|step| length / step <= 12.0).unwrap_or(3600.0);
    let mut at = 0.0;
    while at <= length {
        let left = x(evidence.began + at);
        let _ = writeln!(
            out,
            "<line x1=\"{left:.1}\" x2=\"{left:.1}\" y1=\"{floor:.1}\" y2=\"{:.1}\" stroke=\"#888\"/>\
             <text x=\"{left:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555\">{at:.0} s</text>",
            floor + 4.0,
            floor + 18.0
        );
        at += step;
    }
    let _ = writeln!(
        out,
        "<text x=\"{LEFT:.0}\" y=\"{:.1}\" fill=\"#555\">numbers above are steps of the lesson</text>",
        floor + 36.0
    );
}
