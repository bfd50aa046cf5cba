//! `pgprov ha`: automatic failover from outside. Asks the agents on the hosts, and tells them what the operator wants.

mod agents;
mod hosts;
mod patroni;
mod show;

use std::time::{Duration, Instant};

use agents::{Agents, View, newest};

use pgplan::topology::FailoverEngine;

use crate::{
    cli::{Global, Ha, HaArbiter, HaMaintenance, HaPromote, HaRejoin, HaSwitchover, HaWait, Switch},
    commands::context::OpenLab,
    error::{Error, Kind, Result},
    ui::Ui,
};

/// How long between two looks at all agents.
const TURN: Duration = Duration::from_millis(300);

/// Runs a verb.
///
/// # Errors
/// There is no such lab, it has no agents, an agent refuses, or what was asked for did not happen in time.
pub fn run(ui: &Ui, global: &Global, verb: &Ha) -> Result {
    let lab = match verb {
        Ha::Status(lab) | Ha::Explain(lab) | Ha::History(lab) | Ha::Show(lab) => lab.name(),
        Ha::Switchover(args) => args.lab.name(),
        Ha::Arbiter(HaArbiter::Replace(args) | HaArbiter::Adopt(args))
        | Ha::Pause(args)
        | Ha::Resume(args) => args.lab.name(),
        Ha::Maintenance(HaMaintenance { lab, .. })
        | Ha::Promote(HaPromote { lab, .. })
        | Ha::Rejoin(HaRejoin { lab, .. })
        | Ha::Reinit(HaRejoin { lab, .. }) => lab.lab.as_deref(),
    };
    let (open, assets) = OpenLab::find(global, lab)?;
    if open.lab.failover.engine == FailoverEngine::Patroni {
        return patroni::run(ui, &open, &assets, verb);
    }
    let mut agents = Agents::of(&open, &assets)?;
    match verb {
        Ha::Status(_) => show::status(ui, &open.lab.name, &agents.ask()),
        Ha::Explain(_) => show::explain(ui, &agents.ask()),
        Ha::Switchover(args) => switchover(ui, &mut agents, args)?,
        Ha::Maintenance(args) => maintenance(ui, &mut agents, args)?,
        Ha::Promote(args) => promote(ui, &open, &mut agents, args)?,
        Ha::Rejoin(args) => rejoin(ui, &open, &mut agents, args)?,
        Ha::Arbiter(HaArbiter::Replace(args)) => arbiter(ui, &mut agents, "replace", args.wait)?,
        Ha::Arbiter(HaArbiter::Adopt(args)) => arbiter(ui, &mut agents, "adopt", args.wait)?,
        Ha::Reinit(_) | Ha::Pause(_) | Ha::Resume(_) | Ha::History(_) | Ha::Show(_) => {
            return Err(Error::usage("that is a word for Patroni, and this lab has pgagent").hint(
                "there are `pgprov ha rejoin HOST`, `pgprov ha maintenance on` and `pgprov ha status`",
            ));
        }
    }
    Ok(())
}

/// The primary steps down for the standby, which has everything.
fn switchover(ui: &Ui, agents: &mut Agents<'_>, args: &HaSwitchover) -> Result {
    let wait = args.wait;
    let views = agents.ask();
    let ready = |view: &&View| view.is("sync") && view.agent.as_ref().is_some_and(|agent| agent.open);
    let Some(from) = views.iter().find(ready).map(|view| view.host.clone()) else {
        let error = Error::failed("no primary has a standby that can take over");
        return Err(sentences(&views).into_iter().fold(error, Error::hint));
    };
    if let Some(to) =
        args.to.as_ref().filter(|to| !views.iter().any(|view| view.host == **to && view.is("standby")))
    {
        return Err(Error::usage(format!("{to} is not the standby of {from}")));
    }
    let epoch = newest(&views).map_or(0, |record| record.epoch);
    let begun = Instant::now();
    let limit = begun + Duration::from_secs(wait.wait);
    let views = loop {
        agents.run(&from, "switchover")?;
        if wait.wait == 0 {
            ui.out(&format!("{from} was told to let its standby take over"));
            return Ok(());
        }
        let taken_over = |views: &[View]| {
            let later = newest(views).is_some_and(|record| record.epoch > epoch);
            later && opened(views).is_some_and(|open| open != from)
        };
        let mut closed = false;
        let views = until(agents, limit, "the standby to take over", |views| {
            let open = opened(views).as_ref() == Some(&from);
            closed |= !open;
            taken_over(views) || closed && open && in_sync(views)
        })?;
        if taken_over(&views) {
            break views;
        }
        ui.say(&format!(
            "{from} opened again, because its standby did not get everything in time: once more"
        ));
    };
    let to = opened(&views).unwrap_or_default();
    ui.say(&format!("{to} is primary ({:.1} s)", begun.elapsed().as_secs_f64()));
    until(agents, limit, &format!("{from} to follow {to}"), in_sync)?;
    ui.out(&format!("{to} is primary, {from} follows it in sync ({:.1} s)", begun.elapsed().as_secs_f64()));
    Ok(())
}

/// Both hosts are told, the standby first: it has to hear of it before anything is done to it.
fn maintenance(ui: &Ui, agents: &mut Agents<'_>, args: &HaMaintenance) -> Result {
    let on = args.switch == Switch::On;
    let word = if on { "on" } else { "off" };
    let views = agents.ask();
    let mut data: Vec<&View> = views.iter().filter(|view| view.holds_data()).collect();
    data.sort_by_key(|view| view.agent.as_ref().is_some_and(|agent| agent.open));
    let mut told = Vec::new();
    for view in data {
        agents.run(&view.host, &format!("maintenance {word}"))?;
        told.push(view.host.clone());
    }
    let silent: Vec<&str> =
        views.iter().filter(|view| view.agent.is_none()).map(|view| view.host.as_str()).collect();
    for host in &silent {
        ui.warn(&format!(
            "{host} does not answer: if it has data, say `pgagent maintenance {word}` there when it is back"
        ));
    }
    if told.is_empty() {
        return Err(Error::failed("no host with data answers"));
    }
    if args.wait.wait > 0 {
        let limit = Instant::now() + Duration::from_secs(args.wait.wait);
        let what = if on { "the primary to go on alone" } else { "the standby to be in sync" };
        until(agents, limit, what, |views| {
            if on { views.iter().any(|view| view.is("solo")) } else { in_sync(views) }
        })?;
    }
    ui.out(&match on {
        true => format!(
            "maintenance is on ({}): nobody is promoted, the primary goes on alone; end it with: pgprov ha maintenance off",
            told.join(", ")
        ),
        false => format!("maintenance is off ({})", told.join(", ")),
    });
    Ok(())
}

/// The operator's word against the record.
fn promote(ui: &Ui, open: &OpenLab, agents: &mut Agents<'_>, args: &HaPromote) -> Result {
    let host = open.host(&args.host)?.name.clone();
    let question = format!("Make {host} primary, although acknowledged commits may be lost?");
    if !args.yes && !ui.confirm(&question) {
        return Err(Error::usage("not without a yes").hint("--yes does not ask"));
    }
    agents.run(&host, "promote --accept-data-loss")?;
    if args.wait.wait > 0 {
        let limit = Instant::now() + Duration::from_secs(args.wait.wait);
        until(agents, limit, &format!("{host} to be primary"), |views| {
            opened(views).as_ref() == Some(&host)
        })?;
    }
    ui.out(&format!("{host} is primary; `pgprov ha status` shows for ever that commits may have been lost"));
    Ok(())
}

/// A fresh copy for a standby.
fn rejoin(ui: &Ui, open: &OpenLab, agents: &mut Agents<'_>, args: &HaRejoin) -> Result {
    let host = open.host(&args.host)?.name.clone();
    let begun = Instant::now();
    agents.run(&host, "rejoin")?;
    if args.wait.wait > 0 {
        let limit = begun + Duration::from_secs(args.wait.wait);
        until(agents, limit, &format!("{host} to follow again, in sync"), |views| {
            let follows = views.iter().any(|view| view.host == host && view.is("standby"));
            follows && in_sync(views)
        })?;
    }
    ui.out(&format!("{host} follows with a fresh copy ({:.1} s)", begun.elapsed().as_secs_f64()));
    Ok(())
}

/// What is said to the arbiter ends with a record.
fn arbiter(ui: &Ui, agents: &mut Agents<'_>, word: &str, wait: HaWait) -> Result {
    let views = agents.ask();
    let Some(host) = views.iter().find(|view| view.is("arbiter")).map(|view| view.host.clone()) else {
        let error = Error::failed("no arbiter answers");
        return Err(sentences(&views).into_iter().fold(error, Error::hint));
    };
    agents.run(&host, &format!("arbiter {word}"))?;
    let mut views = agents.ask();
    if wait.wait > 0 {
        let limit = Instant::now() + Duration::from_secs(wait.wait);
        views = until(agents, limit, "the arbiter to have a record", |views| {
            views.iter().any(|view| view.host == host && view.record().is_some())
        })?;
    }
    let record = newest(&views).map_or_else(|| "none yet".to_owned(), |record| show::record(&views, &record));
    ui.out(&format!("{host} has a new record: {record}"));
    Ok(())
}

/// The host on which clients may write.
fn opened(views: &[View]) -> Option<String> {
    let open = |view: &&View| view.agent.as_ref().is_some_and(|agent| agent.open);
    views.iter().find(open).map(|view| view.host.clone())
}

/// The standby may take over, and both sides are at rest.
fn in_sync(views: &[View]) -> bool {
    let at = |phase| views.iter().any(|view| view.is(phase));
    at("sync") && at("standby") && newest(views).is_some_and(|record| record.in_sync)
}

/// Looks again and again until it is so.
fn until(
    agents: &mut Agents<'_>,
    limit: Instant,
    what: &str,
    mut is_so: impl FnMut(&[View]) -> bool,
) -> Result<Vec<View>> {
    let begun = Instant::now();
    loop {
        let views = agents.ask();
        if is_so(&views) {
            return Ok(views);
        }
        if Instant::now() >= limit {
            let waited = begun.elapsed().as_secs();
            let error = Error::new(Kind::Timeout, format!("waited {waited} s for {what}"));
            return Err(sentences(&views).into_iter().fold(error, Error::hint));
        }
        std::thread::sleep(TURN);
    }
}

/// What each host says, for hints.
fn sentences(views: &[View]) -> Vec<String> {
    views.iter().map(show::sentence).collect()
}
