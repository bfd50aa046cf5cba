//! `pgprov watch`: the lab as it lives, on a screen; keys break a host and heal it.
//!
//! Each host is asked by a thread of its own over one SSH connection that stays open, on the management network: a host that
//! hangs holds up nobody else. [`model`] is what is known, [`screen`] what is drawn of it.

mod model;
mod screen;

use std::{
    io::IsTerminal as _,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use model::{Model, News};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
};

use super::{
    context::{OpenLab, target, this_program},
    status,
};
use crate::{
    cli::{Global, Watch},
    error::{Error, Result},
    fault::Store,
    ui::Ui,
};

/// How long the screen waits for a key before it draws what is new.
const TURN: Duration = Duration::from_millis(200);

/// Shows the screen until the user leaves it.
///
/// # Errors
/// There is no such lab, libvirt does not answer, or standard output is no terminal.
pub fn run(ui: &Ui, global: &Global, args: &Watch) -> Result {
    if ui.json() || !std::io::stdout().is_terminal() {
        return Err(Error::usage("watch needs a terminal to draw on")
            .hint("for programs there is `pgprov status -o json`"));
    }
    let (open, assets) = OpenLab::find(global, args.lab.name())?;
    let rendered = open.rendered(&assets)?;
    let libvirt = open.hypervisor(global, "hypervisor to watch")?;
    libvirt.observe(&open.lab.name)?;
    let interval = Duration::from_secs(args.interval);
    let (sender, receiver) = channel();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for host in &open.lab.hosts {
            let (sender, target, stop) = (sender.clone(), target(&open.state, host)?, &stop);
            let scripts = status::scripts(&rendered, &host.name);
            scope.spawn(move || {
                let mut session = None;
                every(interval, stop, || {
                    let answer = status::ask(&target, &mut session, scripts);
                    if answer.is_err() {
                        session = None;
                    }
                    sender.send(News::Said(target.name.clone(), answer)).is_ok()
                });
            });
        }
        let looks = sender.clone();
        let (libvirt, lab, store, stop) = (&libvirt, &open.lab.name, Store::new(&open.state), &stop);
        scope.spawn(move || {
            every(interval, stop, || {
                let seen = libvirt.observe(lab).map_err(anyhow::Error::from);
                let news = seen.and_then(|infra| Ok(News::Seen(Box::new(infra), store.list()?)));
                looks.send(news.unwrap_or_else(|error| News::Happened(format!("{error:#}")))).is_ok()
            });
        });
        let mut terminal = ratatui::init();
        let shown = show(&mut terminal, Model::new(open.lab.clone()), &receiver, &sender, global);
        ratatui::restore();
        stop.store(true, Ordering::Relaxed);
        shown
    })?;
    Ok(())
}

/// Does something over and over, until it says that it was enough.
fn every(interval: Duration, stop: &AtomicBool, mut work: impl FnMut() -> bool) {
    while !stop.load(Ordering::Relaxed) && work() {
        let next = Instant::now() + interval;
        while Instant::now() < next && !stop.load(Ordering::Relaxed) {
            thread::sleep(TURN.min(interval));
        }
    }
}

fn show(
    terminal: &mut DefaultTerminal,
    mut model: Model,
    receiver: &Receiver<News>,
    sender: &Sender<News>,
    global: &Global,
) -> anyhow::Result<()> {
    loop {
        while let Ok(news) = receiver.try_recv() {
            model.learn(news);
        }
        terminal.draw(|frame| screen::draw(frame, &model)).context("cannot draw")?;
        if !event::poll(TURN).context("cannot read keys")? {
            continue;
        }
        let Event::Key(key) = event::read().context("cannot read keys")? else { continue };
        if key.kind != KeyEventKind::Press {
            continue;
        }
        let interrupted = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            _ if interrupted => return Ok(()),
            KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
            KeyCode::Down | KeyCode::Char('j') => model.select(1),
            KeyCode::Up | KeyCode::Char('k') => model.select(-1),
            KeyCode::Char(letter) => {
                if let Some(words) = words(letter, &model.selected().name) {
                    model.learn(News::Happened(format!("pgprov {}", words.join(" "))));
                    start(global, &model.lab.name, words, sender.clone())?;
                }
            }
            _ => {}
        }
    }
}

/// The command that a key stands for.
fn words(key: char, host: &str) -> Option<Vec<String>> {
    let words = match key {
        'c' => vec!["fault", "cut", host],
        'i' => vec!["fault", "isolate", host],
        'p' => vec!["fault", "pause", host],
        'x' => vec!["fault", "kill", host],
        'h' => vec!["fault", "heal", host],
        'H' => vec!["fault", "heal", "--all"],
        _ => return None,
    };
    Some(words.into_iter().map(str::to_owned).collect())
}

/// Runs a command of ours beside the screen; what it says becomes news.
fn start(global: &Global, lab: &str, words: Vec<String>, sender: Sender<News>) -> anyhow::Result<()> {
    let mut command = this_program(global)?;
    command.args(&words).args(["--quiet", "--color", "never", "--lab", lab]);
    thread::spawn(move || {
        let said = match command.output() {
            Ok(output) => {
                let text = [output.stdout, output.stderr].concat();
                String::from_utf8_lossy(&text).lines().next().unwrap_or("done").to_owned()
            }
            Err(error) => format!("cannot run it: {error}"),
        };
        // The screen may have been left meanwhile.
        let _ = sender.send(News::Happened(said));
    });
    Ok(())
}
