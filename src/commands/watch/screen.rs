//! What is drawn. Nothing is said by colour only.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Cell, Paragraph, Row, Sparkline, Table, Wrap},
};

use super::model::{Model, phase};
use crate::commands::{fault, status, status::HostStatus};

const KEYS: &str = "↑↓ host   c cut   i isolate   p pause   x power off   h heal host   H heal all   q quit";

/// Draws the whole screen.
pub fn draw(frame: &mut Frame, model: &Model) {
    let hosts = u16::try_from(model.hosts.len()).unwrap_or(u16::MAX).saturating_add(3);
    let faults = u16::try_from(model.faults.len().clamp(1, 6)).unwrap_or(1) + 2;
    let rows = Layout::vertical([
        Constraint::Length(hosts),
        Constraint::Length(faults),
        Constraint::Length(6),
        Constraint::Min(4),
        Constraint::Length(1),
    ]);
    let [hosts, faults, writes, events, keys] = rows.areas(frame.area());
    draw_hosts(frame, model, hosts);
    draw_faults(frame, model, faults);
    draw_writes(frame, model, writes);
    draw_events(frame, model, events);
    frame.render_widget(Paragraph::new(KEYS).style(Style::new().add_modifier(Modifier::DIM)), keys);
}

fn draw_hosts(frame: &mut Frame, model: &Model, area: Rect) {
    let header = ["", "HOST", "ROLE", "STATE", "ADDRESS", "POSTGRES", "SYNC", "LAG", "AGENT"];
    let rows = model.hosts.iter().enumerate().map(|(index, host)| {
        let mark = if index == model.chosen() { "▶" } else { " " };
        let row = status::row(host);
        let [_, role, state, address, _, postgres, sync, lag, _] = row.as_slice() else {
            return Row::new([mark.to_owned(), host.name.clone()]);
        };
        let cells = [mark, &host.name, role, state, address, postgres, sync, lag, phase(host)];
        Row::new(cells.map(|cell| Cell::from(cell.to_owned()))).style(style(host))
    });
    let widths = [1, 12, 9, 12, 15, 13, 13, 14, 12].map(Constraint::Length);
    let title = format!(" lab {} ", model.lab.name);
    let table = Table::new(rows, widths)
        .header(Row::new(header).style(Style::new().add_modifier(Modifier::BOLD)))
        .block(Block::bordered().title(title));
    frame.render_widget(table, area);
}

fn style(host: &HostStatus) -> Style {
    let serves = host.postgres.as_ref().is_none_or(|server| server.accepting);
    match (host.state.as_str(), host.role.as_str()) {
        ("running", "primary") if serves => Style::new().add_modifier(Modifier::BOLD),
        ("running", _) if serves => Style::new(),
        ("running" | "paused" | "saved", _) => Style::new().fg(Color::Yellow),
        _ => Style::new().fg(Color::Red),
    }
}

fn draw_faults(frame: &mut Frame, model: &Model, area: Rect) {
    let lines: Vec<Line> = match model.faults.as_slice() {
        [] => vec![Line::from("none")],
        all => all.iter().map(|record| Line::from(format!("✕ {}", fault::sentence(record)))).collect(),
    };
    let color = if model.faults.is_empty() { Style::new() } else { Style::new().fg(Color::Yellow) };
    frame.render_widget(Paragraph::new(lines).style(color).block(Block::bordered().title(" faults ")), area);
}

fn draw_writes(frame: &mut Frame, model: &Model, area: Rect) {
    let now = model.rates.back().copied().unwrap_or(0);
    let most = model.rates.iter().max().copied().unwrap_or(0);
    let width = usize::from(area.width.saturating_sub(2));
    let shown: Vec<u64> = model.rates.iter().rev().take(width).rev().copied().collect();
    let title = format!(" rows written per second: {now}, at most {most} ");
    frame.render_widget(
        Sparkline::default().data(&shown).max(most.max(1)).block(Block::bordered().title(title)),
        area,
    );
}

fn draw_events(frame: &mut Frame, model: &Model, area: Rect) {
    let line = |(time, text): &(u64, String)| {
        let time = format!("{:02}:{:02}:{:02} ", time / 3600, time / 60 % 60, time % 60);
        let alarm = text.chars().all(|char| !char.is_lowercase());
        let style =
            if alarm { Style::new().fg(Color::Red).add_modifier(Modifier::BOLD) } else { Style::new() };
        Line::from(vec![
            Span::styled(time, Style::new().add_modifier(Modifier::DIM)),
            Span::styled(crate::ui::printable(text), style),
        ])
    };
    let lines: Vec<Line> = model.events.iter().map(line).collect();
    let events = Paragraph::new(lines).wrap(Wrap { trim: true });
    frame.render_widget(events.block(Block::bordered().title(" what happened (UTC) ")), area);
}

#[cfg(test)]
mod tests {
    use pgplan::fault::{Fault, Record};
    use ratatui::{Terminal, backend::TestBackend};
    use serde_json::json;

    use super::*;
    use crate::commands::watch::model::News;

    fn text(model: &Model, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, model)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(row).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn hosts_faults_writes_and_events_are_on_the_screen() {
        let hosts = json!({"m": {"roles": ["postgres"]}, "s": {"roles": ["postgres"], "follows": "m"}, "client": {"roles": ["client"]}});
        let topology = serde_json::from_value(json!({"lab": "x", "hosts": hosts})).unwrap();
        let mut model = Model::new(pgplan::lab::derive(&topology, &Default::default()));
        let said = json!({"base": {"uptime_seconds": 7}, "postgres": {"accepting": true, "in_recovery": false, "version": "17.6 (Debian)"}});
        model.learn(News::Said("m".to_owned(), Ok(said.as_object().unwrap().clone())));
        model.faults =
            vec![Record { id: 1, since: 0, until: None, fault: Fault::Cut { host: "s".to_owned() } }];
        model.rates = [5, 10, 0].into();
        model.events = [(3661, "s is off".to_owned())].into();
        model.select(1);
        let screen = text(&model, 100, 24);
        for wanted in [
            "lab x",
            "m         primary",
            "17.6",
            "▶ s",
            "✕ the data cable of s is pulled, for",
            "rows written per second: 0, at most 10",
            "01:01:01 s is off",
            "q quit",
        ] {
            assert!(screen.contains(wanted), "expected {wanted:?} in\n{screen}");
        }
        // A terminal that is too small shows less, and nothing breaks.
        for (width, height) in [(1, 1), (20, 5), (300, 80)] {
            text(&model, width, height);
        }
    }
}
