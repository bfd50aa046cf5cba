use std::collections::HashMap;

use super::{Health, Host, Mode, Picture, Server};

/// The lab as a Mermaid flowchart, for Markdown that is rendered by a forge or an editor.
#[must_use]
pub fn mermaid(picture: &Picture) -> String {
    let mut lines = vec![format!("%% lab {}", plain(&picture.lab)), "flowchart LR".to_owned()];
    let networks =
        [&picture.data, &picture.mgmt].map(|network| format!("{} {}", network.name, network.subnet));
    lines.push(format!("  subgraph lab[\"{}\"]", label(&networks)));
    lines.push("    direction LR".to_owned());
    // Names of hosts may be words of the language, so the nodes are numbered.
    for (at, host) in picture.hosts.iter().enumerate() {
        lines.push(format!("    n{at}{}:::{}", node(host), class(host)));
    }
    lines.push("  end".to_owned());
    let number: HashMap<&str, usize> =
        picture.hosts.iter().enumerate().map(|(at, host)| (host.name.as_str(), at)).collect();
    for link in &picture.replication {
        let (Some(from), Some(to)) = (number.get(link.from.as_str()), number.get(link.to.as_str())) else {
            continue;
        };
        let arrow = match (link.streaming, link.mode) {
            (false, _) => "--x",
            (true, Mode::Synchronous) => "==>",
            (true, Mode::Asynchronous) => "-->",
            (true, Mode::Logical) => "-.->",
        };
        lines.push(format!("  n{from} {arrow}|\"{}\"| n{to}", label(&link.label())));
    }
    if !picture.faults.is_empty() {
        let mut faults = vec!["▲ faults".to_owned()];
        faults.extend(picture.faults.iter().cloned());
        lines.push(format!("  faults{{{{\"{}\"}}}}:::bad", label(&faults)));
    }
    for style in
        ["primary stroke-width:4px", "good stroke-width:1.5px", "bad stroke-width:2px,stroke-dasharray:6 4"]
    {
        lines.push(format!("  classDef {style}"));
    }
    lines.join("\n") + "\n"
}

/// The shape of a host and its text: a cylinder where there is a database.
fn node(host: &Host) -> String {
    let mut lines =
        vec![format!("{} · {}", host.name, host.word()), format!("{} {}", host.health.sign(), host.state)];
    for text in [&host.detail, &host.role_list()] {
        if !text.is_empty() {
            lines.push(text.clone());
        }
    }
    let cut = if host.cut { " ✕ cut" } else { "" };
    for (name, address) in [("data", format!("{}{cut}", host.data)), ("mgmt", host.mgmt.clone())] {
        if !address.is_empty() {
            lines.push(format!("{name} {address}"));
        }
    }
    let label = label(&lines);
    if host.server.is_some() { format!("[(\"{label}\")]") } else { format!("[\"{label}\"]") }
}

fn class(host: &Host) -> &'static str {
    match (host.health, host.server) {
        (Health::Bad | Health::Unknown, _) => "bad",
        (_, Some(Server::Primary)) => "primary",
        _ => "good",
    }
}

/// Lines of a quoted label.
fn label(lines: &[String]) -> String {
    lines.iter().map(|line| escape(&plain(line))).collect::<Vec<_>>().join("<br/>")
}

/// Mermaid's own entities, for everything that means something in a label.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '"' | '#' | '<' | '>' | '&' | '`' | '\\' | ';' | '|' | '%' => {
                escaped.push_str(&format!("#{};", u32::from(char)));
            }
            _ => escaped.push(char),
        }
    }
    escaped
}

fn plain(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}
