//! What hosts do one after the other: restarts.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context as _;
use pgplan::{host::apply, plan::Turn};

use super::{Fleet, inside::run_bundle};
use crate::observe::{self, Answer};

/// Lets each host run its handler when it is its turn, and asks it again after.
///
/// # Errors
/// The first that fails, with what it said. The hosts whose turn had not come yet have their old files then, if they can be
/// reached.
pub fn turns(
    fleet: &Arc<Fleet>,
    turns: &[Turn],
    answers: &mut BTreeMap<String, Answer>,
) -> anyhow::Result<()> {
    if let Some(lost) = turns.iter().find(|turn| !answers.contains_key(&turn.host)) {
        let mut text = format!("nobody does `{}`, because {} failed", lost.call.what, lost.host);
        text.push_str(&give_up(fleet, turns, answers));
        anyhow::bail!(text);
    }
    for (done, turn) in turns.iter().enumerate() {
        if let Err(error) = take(fleet, turn, answers) {
            let mut text = format!("{}: {error:#}", turn.host);
            text.push_str(&give_up(fleet, &turns[done + 1..], answers));
            anyhow::bail!(text);
        }
    }
    Ok(())
}

/// Those whose turn does not come get their old files back: what is said of each, a line before each.
fn give_up(fleet: &Fleet, turns: &[Turn], answers: &BTreeMap<String, Answer>) -> String {
    let there = turns.iter().filter(|turn| answers.contains_key(&turn.host));
    let said = there.map(|turn| match put_back(fleet, turn, answers) {
        Ok(()) => format!("\n{}: goes on as before, with its old files", turn.host),
        Err(error) => format!("\n{}: {error:#}", turn.host),
    });
    said.collect()
}

/// The handler of a turn: the index of its host, and its own.
fn place(fleet: &Fleet, turn: &Turn) -> anyhow::Result<(usize, usize)> {
    let place = fleet.hosts.iter().enumerate().find(|(_, host)| host.host == turn.host);
    let (host, rendered) = place.with_context(|| format!("a turn of an unknown host, {}", turn.host))?;
    let (handler, _) =
        rendered.handler(&turn.call.what).with_context(|| format!("no handler {}", turn.call.what))?;
    Ok((host, handler))
}

fn take(fleet: &Fleet, turn: &Turn, answers: &mut BTreeMap<String, Answer>) -> anyhow::Result<()> {
    let (host, handler) = place(fleet, turn)?;
    let rendered = &fleet.hosts[host];
    let answer = answers.get_mut(&turn.host).context("its turn came, but it could not be asked before")?;
    let line = fleet.ui.line(&turn.host, fleet.width());
    let seconds = u64::from(rendered.handlers[handler].seconds);
    let bundle = apply::roll(rendered, handler, turn.asked);
    let done = run_bundle(answer, rendered, &bundle, &observe::script(rendered), seconds, None, &line)
        .and_then(|said| observe::told(&said, rendered, answer.target()));
    match done {
        Ok((facts, _)) => {
            answer.facts = facts;
            line.done(&turn.call.to_string());
            Ok(())
        }
        Err(error) => {
            line.failed("failed");
            Err(error)
        }
    }
}

fn put_back(fleet: &Fleet, turn: &Turn, answers: &BTreeMap<String, Answer>) -> anyhow::Result<()> {
    let (host, handler) = place(fleet, turn)?;
    let rendered = &fleet.hosts[host];
    let answer = answers.get(&turn.host).context("it has its new files, and could not be asked")?;
    let line = fleet.ui.line(&turn.host, fleet.width());
    let seconds = u64::from(rendered.handlers[handler].seconds);
    run_bundle(answer, rendered, &apply::put_back(rendered, handler), "", seconds, None, &line)?;
    line.drop_quietly();
    Ok(())
}
