use super::layout::{BAR_HEIGHT, CARD_HEIGHT, CARD_WIDTH, Card, GUTTER, LEVEL, Layout, MARGIN, layout};
use super::{Health, Host, Mode, Network, Picture, Replication, Server};
use crate::markup::escape;

/// How many characters of each kind of text fit where they belong; longer ones are cut and shown whole as a tooltip.
const TAG_MAX: usize = 10;
const LINE_MAX: usize = 27;
const LABEL_MAX: usize = 23;
/// Where the wires meet a card, from its left or right edge and from its top or bottom.
const PORT: u32 = 40;
const SIDE_PORT: u32 = 22;

/// The colours of one scheme.
struct Palette {
    back: &'static str,
    card: &'static str,
    band: &'static str,
    line: &'static str,
    text: &'static str,
    muted: &'static str,
    accent: &'static str,
    on_accent: &'static str,
    data: &'static str,
    data_back: &'static str,
    mgmt: &'static str,
    mgmt_back: &'static str,
    bad: &'static str,
}

const LIGHT: Palette = Palette {
    back: "#ffffff",
    card: "#ffffff",
    band: "#eef2f7",
    line: "#94a3b8",
    text: "#0f172a",
    muted: "#475569",
    accent: "#0f5c8c",
    on_accent: "#ffffff",
    data: "#2563a8",
    data_back: "#dcebfa",
    mgmt: "#6b7280",
    mgmt_back: "#eceef1",
    bad: "#b42318",
};

const DARK: Palette = Palette {
    back: "#0d1520",
    card: "#162231",
    band: "#22324a",
    line: "#64748b",
    text: "#f1f5f9",
    muted: "#b4c0cf",
    accent: "#7cc4f5",
    on_accent: "#08131f",
    data: "#6aaef0",
    data_back: "#14304d",
    mgmt: "#9aa5b4",
    mgmt_back: "#243040",
    bad: "#ff9a8f",
};

impl Palette {
    fn rules(&self) -> String {
        let Self {
            back,
            card,
            band,
            line,
            text,
            muted,
            accent,
            on_accent,
            data,
            data_back,
            mgmt,
            mgmt_back,
            bad,
        } = self;
        format!(
            ".back{{fill:{back}}}.card{{fill:{card};stroke:{line}}}.band{{fill:{band}}}\
             .card.primary{{stroke:{accent}}}.band.primary{{fill:{accent};stroke:{accent}}}.head{{fill:{accent}}}.card.bad{{stroke:{bad}}}\
             text{{fill:{text}}}.muted{{fill:{muted}}}.on{{fill:{on_accent}}}.alarm{{fill:{bad}}}\
             .link{{stroke:{accent}}}.stopped{{stroke:{bad}}}\
             .head.stopped{{fill:{bad}}}.halo{{stroke:{back}}}\
             .bar.data{{fill:{data_back};stroke:{data}}}.bar.mgmt{{fill:{mgmt_back};stroke:{mgmt}}}\
             .wire.data{{stroke:{data}}}.wire.mgmt{{stroke:{mgmt}}}.port.data{{fill:{data}}}.port.mgmt{{fill:{mgmt}}}\
             .box{{fill:{back};stroke:{bad}}}"
        )
    }
}

/// What is the same in both schemes. The fonts are those of the reader's system: the picture loads nothing.
const SHAPES: &str = "text{font:13px system-ui,-apple-system,'Segoe UI','Noto Sans','DejaVu Sans',sans-serif}\
     text.title{font-size:26px;font-weight:700}text.name{font-size:17px;font-weight:700}\
     text.name.long{font-size:13px}\
     text.tagged{font-size:11px;font-weight:700;letter-spacing:.06em}text.strong{font-weight:700}\
     text.small{font-size:12px}text.code{font-family:ui-monospace,'DejaVu Sans Mono',monospace;font-size:12px}\
     text.halo{stroke-width:5px;stroke-linejoin:round}\
     .card{stroke-width:1.5}.card.primary{stroke-width:4}.card.bad{stroke-width:2.5;stroke-dasharray:7 5}\
     .bar{stroke-width:1.5}.box{stroke-width:1.5}\
     .wire{fill:none;stroke-width:2}.wire.cut{stroke-dasharray:3 4}.wire.mgmt{stroke-width:1.5}\
     .link{fill:none;stroke-width:3}.link.synchronous{stroke-width:5}.link.asynchronous{stroke-dasharray:10 6}\
     .link.logical{stroke-dasharray:2 6;stroke-linecap:round}.link.stopped{stroke-width:3}";

/// The lab as an SVG picture that needs nothing else, in light or dark colours as the reader's system asks for.
#[must_use]
pub fn svg(picture: &Picture) -> String {
    let layout = layout(picture);
    let mut out = Vec::new();
    bar(&mut out, &layout, layout.data, "data", "data network", &picture.data, "PostgreSQL, agents, clients");
    bar(&mut out, &layout, layout.mgmt, "mgmt", "management network", &picture.mgmt, "pgprov, metrics");
    let mut ports = Vec::new();
    for (host, card) in picture.hosts.iter().zip(&layout.cards) {
        wires(&mut out, &mut ports, &layout, host, *card);
    }
    for (link, from, to) in &layout.arrows {
        arrow(&mut out, link, layout.cards[*from], layout.cards[*to]);
    }
    for (host, card) in picture.hosts.iter().zip(&layout.cards) {
        draw_host(&mut out, host, *card);
    }
    out.append(&mut ports);
    let mut y = faults(&mut out, &layout, &picture.faults);
    y = legend(&mut out, picture, y);
    let (width, height) = (layout.width, y + MARGIN / 2);

    let title = escape(&picture.lab);
    let mut head = vec![
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\">"
        ),
        format!("<title>{title}</title>"),
        format!("<desc>{}</desc>", escape(&summary(picture))),
        format!(
            "<style>{SHAPES}{}@media (prefers-color-scheme:dark){{{}}}</style>",
            LIGHT.rules(),
            DARK.rules()
        ),
        format!("<rect class=\"back\" width=\"{width}\" height=\"{height}\"/>"),
        text(MARGIN, 46, "title", &picture.lab, 40),
        anchored(width - MARGIN, 46, "muted", "end", &summary(picture), 70),
    ];
    head.append(&mut out);
    head.push("</svg>\n".to_owned());
    head.join("\n")
}

/// The picture in a sentence.
fn summary(picture: &Picture) -> String {
    let count = |count: usize, what: &str| match count {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    };
    let primaries: Vec<_> = picture
        .hosts
        .iter()
        .filter(|host| host.server == Some(Server::Primary))
        .map(|host| host.name.as_str())
        .collect();
    let primary = match primaries[..] {
        [] => "no primary".to_owned(),
        [one] => format!("primary {one}"),
        ref many => format!("primaries {}", many.join(", ")),
    };
    format!(
        "PostgreSQL lab · {} · {primary} · {}",
        count(picture.hosts.len(), "host"),
        count(picture.faults.len(), "fault")
    )
}

fn bar(
    out: &mut Vec<String>,
    layout: &Layout<'_>,
    y: u32,
    class: &str,
    what: &str,
    network: &Network,
    use_: &str,
) {
    let width = layout.width - 2 * MARGIN;
    out.push(format!(
        "<rect class=\"bar {class}\" x=\"{MARGIN}\" y=\"{y}\" width=\"{width}\" height=\"{BAR_HEIGHT}\" rx=\"6\"/>"
    ));
    let name = if network.name.is_empty() { what.to_owned() } else { format!("{what} {}", network.name) };
    out.push(text(MARGIN + 14, y + 20, "strong", &name, 44));
    out.push(anchored(layout.width / 2, y + 20, "code", "middle", &network.subnet, 24));
    out.push(anchored(layout.width - MARGIN - 14, y + 20, "small muted", "end", use_, 40));
}

/// The wires between a host and the two bars: straight where nothing is in between, else beside the cards.
fn wires(out: &mut Vec<String>, ports: &mut Vec<String>, layout: &Layout<'_>, host: &Host, card: Card) {
    let mut wire = |class: &str, path: String, port: (u32, u32)| {
        out.push(format!("<path class=\"wire {class}\" d=\"{path}\"/>"));
        let class = class.split(' ').next().unwrap_or_default();
        ports.push(format!("<circle class=\"port {class}\" cx=\"{}\" cy=\"{}\" r=\"4\"/>", port.0, port.1));
    };
    if !host.data.is_empty() {
        let (from, class) = (layout.data + BAR_HEIGHT, if host.cut { "data cut" } else { "data" });
        if card.first {
            wire(class, format!("M{} {from}V{}", card.x + PORT, card.y), (card.x + PORT, card.y));
        } else {
            let (x, y) = (card.x - GUTTER, card.y + SIDE_PORT);
            wire(class, format!("M{x} {from}V{y}H{}", card.x), (card.x, y));
        }
    }
    if !host.mgmt.is_empty() {
        let to = layout.mgmt;
        if card.last {
            let x = card.right() - PORT;
            wire("mgmt", format!("M{x} {}V{to}", card.bottom()), (x, card.bottom()));
        } else {
            let (x, y) = (card.right() + GUTTER, card.bottom() - SIDE_PORT);
            wire("mgmt", format!("M{} {y}H{x}V{to}", card.right()), (card.right(), y));
        }
    }
    if host.cut {
        let (x, y) = if card.first {
            (card.x + PORT, (card.y + layout.data + BAR_HEIGHT) / 2 + 5)
        } else {
            (card.x - GUTTER + 8, card.y + SIDE_PORT - 8)
        };
        out.push(anchored(x, y, "strong alarm", "middle", "✕", 1));
        if card.first {
            out.push(text(x + 12, y, "small strong alarm", "cut off", 10));
        }
    }
}

/// An arrow from sender to receiver with its label at the receiver's end.
fn arrow(out: &mut Vec<String>, link: &Replication, from: Card, to: Card) {
    let class = if link.streaming { link.mode.word() } else { "stopped" };
    let lines = link.label();
    let tooltip = escape(&format!("{} to {}: {}", link.from, link.to, lines.join(", ")));
    let (y0, y1) = (from.middle(), to.middle());
    let (path, tip, centre) = if to.column > from.column {
        let (x0, x1) = (from.right(), to.x - 13);
        let level = to.x - LEVEL;
        let bend = format!("M{x0} {y0}C{} {y0} {} {y1} {level} {y1}H{x1}", x0 + 44, level.saturating_sub(44));
        (bend, (to.x - 2, -1), to.x - LEVEL / 2 - 8)
    } else {
        // Back or within a column, which only a lab in trouble has: round the right-hand side.
        let (x0, x1) = (from.right(), to.right());
        let outside = x0.max(x1) + 3 * GUTTER;
        let bend = format!("M{x0} {y0}C{outside} {y0} {outside} {y1} {} {y1}", x1 + 13);
        (bend, (x1 + 2, 1), outside)
    };
    let (x, direction) = tip;
    let back = if direction < 0 { x - 15 } else { x + 15 };
    out.push(format!("<g><title>{tooltip}</title><path class=\"link {class}\" d=\"{path}\"/>"));
    out.push(format!(
        "<path class=\"head {}\" d=\"M{x} {y1}L{back} {}V{}Z\"/></g>",
        if link.streaming { "" } else { "stopped" },
        y1 - 8,
        y1 + 8
    ));
    for (at, line) in (0..).zip(&lines) {
        let (y, class) = if at == 0 { (y1 - 12, "strong") } else { (y1 + 5 + 16 * at, "small") };
        let class = if line.starts_with('✕') { "small strong alarm" } else { class };
        // A wider copy in the colour of the background keeps the text apart from wires behind it.
        out.push(anchored(centre, y, &format!("{class} halo"), "middle", line, LABEL_MAX));
        out.push(anchored(centre, y, class, "middle", line, LABEL_MAX));
    }
}

fn draw_host(out: &mut Vec<String>, host: &Host, card: Card) {
    let primary = host.server == Some(Server::Primary);
    let class = match (host.health, primary) {
        (Health::Bad | Health::Unknown, _) => "bad",
        (_, true) => "primary",
        _ => "",
    };
    let (x, y, right) = (card.x, card.y, card.right());
    out.push(format!(
        "<g><title>{}</title>",
        escape(&format!("{}: {}, {}", host.name, host.role_list(), host.state))
    ));
    out.push(format!(
        "<rect class=\"card {class}\" x=\"{x}\" y=\"{y}\" width=\"{CARD_WIDTH}\" height=\"{CARD_HEIGHT}\" rx=\"10\"/>"
    ));
    let band = if primary { "band primary" } else { "band" };
    out.push(format!(
        "<path class=\"{band}\" d=\"M{} {}v-24a8 8 0 0 1 8-8h{}a8 8 0 0 1 8 8v24z\"/>",
        x + 2,
        y + 34,
        CARD_WIDTH - 20
    ));
    let on = if primary { "on" } else { "" };
    let tag = if primary { "★ PRIMARY".to_owned() } else { host.word().to_uppercase() };
    // About as wide as the letters are in the widest usual font.
    let room = (CARD_WIDTH as usize - 36).saturating_sub(9 * tag.chars().count().min(TAG_MAX));
    let (size, max) =
        if host.name.chars().count() * 12 <= room { ("", room / 12) } else { ("long", room / 9) };
    out.push(text(x + 14, y + 24, &format!("name {size} {on}"), &host.name, max));
    out.push(anchored(right - 14, y + 23, &format!("tagged {on}"), "end", &tag, TAG_MAX));
    let alarm = if matches!(host.health, Health::Bad) { "alarm" } else { "" };
    let state = format!("{} {}", host.health.sign(), host.state);
    out.push(text(x + 14, y + 56, &format!("strong {alarm}"), &state, LINE_MAX));
    let about = [host.detail.clone(), host.role_list()].into_iter().find(|about| !about.is_empty());
    out.push(text(x + 14, y + 76, "muted small", &about.unwrap_or_default(), LINE_MAX));
    for (row, (name, address)) in (0..).zip([("data", &host.data), ("mgmt", &host.mgmt)]) {
        if !address.is_empty() {
            let y = y + 100 + row * 19;
            out.push(text(x + 14, y, "small muted", name, 8));
            out.push(text(x + 58, y, "code", address, 19));
        }
    }
    out.push("</g>".to_owned());
}

/// The faults in a box of their own; returns where the rest begins.
fn faults(out: &mut Vec<String>, layout: &Layout<'_>, faults: &[String]) -> u32 {
    let top = layout.below + 24;
    if faults.is_empty() {
        return top;
    }
    let rows = u32::try_from(faults.len()).unwrap_or(u32::MAX).min(1000);
    let height = 20 + 20 * rows;
    out.push(format!(
        "<rect class=\"box\" x=\"{MARGIN}\" y=\"{top}\" width=\"{}\" height=\"{height}\" rx=\"6\"/>",
        layout.width - 2 * MARGIN
    ));
    for (row, fault) in (0..rows).zip(faults) {
        let y = top + 24 + 20 * row;
        out.push(text(MARGIN + 14, y, "strong alarm", "✕ fault", 10));
        out.push(text(MARGIN + 84, y, "", fault, 80));
    }
    top + height + 20
}

/// What lines and signs mean, as far as they are in the picture; returns where it ends.
fn legend(out: &mut Vec<String>, picture: &Picture, top: u32) -> u32 {
    let y = top + 12;
    let mut x = MARGIN;
    for (mode, meaning) in [
        (Mode::Synchronous, "synchronous: commits wait for it"),
        (Mode::Asynchronous, "asynchronous"),
        (Mode::Logical, "logical: tables"),
    ] {
        if picture.replication.iter().any(|link| link.mode == mode && link.streaming) {
            out.push(format!("<path class=\"link {}\" d=\"M{x} {}h34\"/>", mode.word(), y - 4));
            out.push(text(x + 44, y, "small muted", meaning, 40));
            x += 44 + 7 * length(meaning) + 22;
        }
    }
    for (health, meaning) in [
        (Health::Good, "good"),
        (Health::Warning, "in part"),
        (Health::Bad, "failed"),
        (Health::Unknown, "unknown"),
    ] {
        if picture.hosts.iter().any(|host| host.health == health) {
            out.push(text(x, y, "small muted", &format!("{} {meaning}", health.sign()), 20));
            x += 7 * length(meaning) + 34;
        }
    }
    y
}

/// The number of characters as a coordinate.
fn length(text: &str) -> u32 {
    u32::try_from(text.chars().count()).unwrap_or(u32::MAX)
}

fn text(x: u32, y: u32, class: &str, text: &str, max: usize) -> String {
    anchored(x, y, class, "start", text, max)
}

/// A text whose start, middle or end is at `x`, cut to `max` characters.
fn anchored(x: u32, y: u32, class: &str, anchor: &str, text: &str, max: usize) -> String {
    let class = class.split_whitespace().collect::<Vec<_>>().join(" ");
    let (shown, tooltip) = if text.chars().count() > max {
        let cut: String = text.chars().take(max.saturating_sub(1)).collect();
        (format!("{}…", escape(&cut)), format!("<title>{}</title>", escape(text)))
    } else {
        (escape(text), String::new())
    };
    let anchor = if anchor == "start" { String::new() } else { format!(" text-anchor=\"{anchor}\"") };
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    format!("<text{class}{anchor} x=\"{x}\" y=\"{y}\">{tooltip}{shown}</text>")
}
