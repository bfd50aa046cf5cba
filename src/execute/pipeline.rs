//! The way of one host, and what it waits for on it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::bail;
use pgplan::plan::Step;
use tokio::sync::{Semaphore, watch};

use super::{
    End, Fleet, MadeFrom, Timing, World,
    inside::{after_a_jump, begin, boot_and_ask, configure, install},
    order::Need,
};
use crate::{observe::Answer, ui::Line};

/// How far a host is, for those that wait for it.
#[derive(Debug)]
pub(super) struct Progress {
    /// Whether it is made in this run.
    pub(super) fresh: bool,
    pub(super) end: Option<End>,
    /// What its tasks gave, by name.
    pub(super) given: BTreeMap<String, String>,
}

/// What a host was told: by which other one, the name and the value.
pub(super) type Told = Vec<(String, String, String)>;

/// How far a host is when its turn comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It was asked what it has.
    Asked,
    /// It got its files since.
    Installed,
    /// It did what needs no other host, and was asked again.
    Begun { can_log_in: bool },
}

/// A host that was not touched, because one that it needs failed.
#[derive(Debug, thiserror::Error)]
#[error("not configured, because {0} failed")]
pub(super) struct Skipped(pub(super) String);

/// The way of one host.
pub(super) struct Pipeline {
    pub(super) fleet: Arc<Fleet>,
    /// What starts it, where there is a hypervisor.
    pub(super) world: Option<Arc<World>>,
    pub(super) made_from: Arc<MadeFrom>,
    pub(super) rendered: usize,
    pub(super) start: Option<Step>,
    pub(super) fresh: bool,
    /// Whether it hears that a clock jumped: its own, or that of a host that it waits for.
    pub(super) told: bool,
    pub(super) answer: Option<Answer>,
    pub(super) waits: Vec<(String, Need, watch::Receiver<Progress>)>,
    /// What those hear that wait for this one.
    pub(super) progress: watch::Sender<Progress>,
    pub(super) line: Line,
}

impl Pipeline {
    pub(super) async fn run(mut self, boots: &Semaphore) -> anyhow::Result<(Timing, Answer)> {
        let host = self.fleet.hosts[self.rendered].host.clone();
        let started = self.start.is_some();
        let mut boot = Duration::ZERO;
        let mut slot = None;
        let mut answer = match self.answer.take() {
            Some(answer) => answer,
            None => {
                slot = Some(boots.acquire().await?);
                let begun = Instant::now();
                let (fleet, world, line) = (Arc::clone(&self.fleet), self.world.clone(), self.line.clone());
                let (rendered, start, fresh) = (self.rendered, self.start.take(), self.fresh);
                let made_from = Arc::clone(&self.made_from);
                let answer = tokio::task::spawn_blocking(move || {
                    boot_and_ask(&fleet, world.as_deref(), rendered, start.as_ref(), fresh, &made_from, &line)
                })
                .await??;
                boot = begun.elapsed();
                answer
            }
        };
        // One that was there before keeps its core until it is done, unless it waits itself, or others need it meanwhile; a new one
        // that does not wait gives it to the next at once, and one that does after it got its files. One that was there before
        // keeps its files until its turn: what it waits for may fail.
        let mut installed = 0;
        if self.fresh && self.waits.is_empty() && answer.port().is_some() {
            drop(slot.take());
        }
        if self.fresh && !self.waits.is_empty() {
            let (fleet, line, rendered) = (Arc::clone(&self.fleet), self.line.clone(), self.rendered);
            let install = move || install(&fleet, rendered, &answer, &line).map(|count| (answer, count));
            (answer, installed) = tokio::task::spawn_blocking(install).await??;
        }
        if !self.waits.is_empty() || self.fleet.hosts[self.rendered].together || installed > 0 {
            drop(slot.take());
        }
        if !self.waits.is_empty() {
            self.line.now("waiting for its turn");
        }
        // Logging in takes an emulated host a second, which it has while others are at work.
        let login = tokio::task::spawn_blocking(move || answer.reach().map(|()| answer));
        let told = self.all_told().await;
        if told.is_none() {
            self.all_ready().await?;
        }
        let begun = Instant::now();
        let mut answer = login.await??;
        let mut stage = if installed > 0 { Stage::Installed } else { Stage::Asked };
        if let Some(told) = told {
            let count;
            (answer, count, stage) = self.begin(answer, told).await?;
            installed += count;
        }
        let (fleet, line, rendered, told) = (self.fleet, self.line, self.rendered, self.told);
        let progress = self.progress;
        let (answer, changes) = tokio::task::spawn_blocking(move || {
            // Not before the hosts that it waits for have the right time, too.
            if told {
                after_a_jump(&fleet, rendered, &answer)?;
            }
            configure(&fleet, rendered, started, answer, stage, &progress, &line)
        })
        .await??;
        Ok((Timing { host, boot, configure: begun.elapsed(), changes: installed + changes }, answer))
    }

    /// Waits until all hosts that this one waits for are ready.
    async fn all_ready(&mut self) -> anyhow::Result<()> {
        for (name, need, receiver) in &mut self.waits {
            let end = receiver.wait_for(|progress| progress.end.is_some()).await.map(|progress| progress.end);
            match end {
                Ok(Some(End::Ready)) => {}
                Ok(Some(End::Unreachable)) if !self.fresh && *need == Need::Able => {}
                _ => bail!(Skipped(name.clone())),
            }
        }
        Ok(())
    }

    /// Waits until a new host has been told all that it needs to begin before those are ready that it waits for. Nothing when
    /// they are sooner ready than that, or it has nothing to do without them.
    async fn all_told(&mut self) -> Option<Told> {
        let names = self.fleet.hosts[self.rendered].begins.as_ref().filter(|_| self.fresh)?;
        let mut told = Told::new();
        for (host, need, receiver) in &mut self.waits {
            // What is given is worth nothing to one that is made of another image than the giver was.
            let has_all = |progress: &Progress| {
                names.iter().all(|name| progress.fresh && progress.given.contains_key(name))
            };
            let progress = receiver.wait_for(|progress| progress.end.is_some() || has_all(progress)).await;
            let progress = progress.ok().filter(|progress| *need == Need::Able && has_all(progress))?;
            told.extend(names.iter().map(|name| (host.clone(), name.clone(), progress.given[name].clone())));
        }
        (!self.waits.is_empty()).then_some(told)
    }

    /// Does what needs no other host to be ready, and then waits until they are.
    async fn begin(&mut self, mut answer: Answer, told: Told) -> anyhow::Result<(Answer, usize, Stage)> {
        let (fleet, line, rendered) = (Arc::clone(&self.fleet), self.line.clone(), self.rendered);
        let progress = self.progress.clone();
        let begun = tokio::task::spawn_blocking(move || {
            let (count, stage) = begin(&fleet, rendered, &mut answer, &told, &progress, &line)?;
            line.now("waiting for its turn");
            Ok((answer, count, stage))
        });
        let begun = begun.await?;
        // One of them may be why it failed, and is then the one to name.
        self.all_ready().await?;
        begun
    }
}
