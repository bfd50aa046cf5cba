//! `pgload run`: statements at a rate or by clients, with everything that happens to them recorded.

mod attempt;
pub mod live;
mod metrics;
mod outage;
mod record;
mod schedule;
mod worker;

use std::{cell::RefCell, path::PathBuf, rc::Rc, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{sync::Notify, task::LocalSet, time::Instant};

pub use attempt::{Ended, Prepared};
pub use outage::Outage;
pub use record::{Counts, ErrorRow, Event, Latency, Measured, Recorder, SecondRow, StatementResult};
pub use schedule::{Arrivals, Segment};

use crate::{ledger::Ledger, session::Connector, target::Target, workload::Workload};
use worker::Shared;

/// Where the next statement comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Load {
    /// Statements start when they are due, whether others have ended or not; latency counts from then.
    Open {
        /// Rates one after the other.
        segments: Vec<Segment>,
        /// How gaps are drawn.
        arrivals: Arrivals,
        /// Connections that share the work.
        connections: u32,
    },
    /// Each client starts the next statement when its last has ended.
    Closed {
        /// How many.
        clients: u32,
        /// Pause after each statement.
        think: Duration,
    },
}

impl Load {
    /// Connections.
    pub fn connections(&self) -> u32 {
        match self {
            Self::Open { connections, .. } => *connections,
            Self::Closed { clients, .. } => *clients,
        }
    }
}

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where statements come from.
    pub load: Load,
    /// Before counting begins.
    pub warmup: Duration,
    /// Counting lasts.
    pub duration: Duration,
    /// End each client after so many statements, if that is sooner.
    pub statements: Option<u64>,
    /// Names the order of statements and their parameters.
    pub seed: u64,
    /// A statement is tried so often, as long as it is certain that nothing was committed.
    pub tries: u32,
    /// Of one try: after that its connection is given up.
    pub deadline: Duration,
    /// Send BEGIN, the ledger's row and the first statement together.
    pub pipeline: bool,
    /// Folder for the ledger.
    pub ledger: Option<PathBuf>,
    /// Names the run.
    pub id: String,
    /// Numbers it.
    pub run: i64,
    /// When it began, RFC 3339.
    pub started: String,
    /// Address to serve metrics on.
    pub metrics: Option<std::net::SocketAddr>,
    /// Name of the stage of optimisation, for results.
    pub stage: String,
    /// Whether to show what happens while it happens.
    pub live: Live,
    /// File that has the live view for programs, renewed once a second.
    pub live_file: Option<PathBuf>,
}

/// What is shown while a run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Live {
    /// Nothing.
    No,
    /// A line a second.
    Lines,
    /// A table that renews itself, on a terminal.
    Screen,
}

/// Ends a run before its time. From another thread or a signal, any number of times.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<StopInner>);

#[derive(Debug, Default)]
struct StopInner {
    now: std::sync::atomic::AtomicBool,
    news: Notify,
}

impl Stop {
    /// Asks for it.
    pub fn stop(&self) {
        self.0.now.store(true, std::sync::atomic::Ordering::Release);
        self.0.news.notify_waiters();
    }

    /// Whether it was asked for.
    pub fn is_set(&self) -> bool {
        self.0.now.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Waits until it is asked for.
    pub async fn wait(&self) {
        let news = self.0.news.notified();
        tokio::pin!(news);
        news.as_mut().enable();
        if !self.is_set() {
            news.await;
        }
    }
}

/// Unfinished work is waited for so long at the end.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs a workload. On one thread: what it costs is one core's time, and is reported.
///
/// # Errors
/// The first connection fails; a statement cannot be prepared or is given parameters it does not take; the ledger cannot
/// be written. What goes wrong later is counted, not returned.
pub fn run(target: &Target, workload: &Workload, options: &Options, stop: &Stop) -> anyhow::Result<Measured> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, run_here(target, workload, options, stop))
}

async fn run_here(
    target: &Target,
    workload: &Workload,
    options: &Options,
    stop: &Stop,
) -> anyhow::Result<Measured> {
    let connector =
        Rc::new(Connector::new(target.clone(), workload.session_setup()).map_err(anyhow::Error::msg)?);
    let session = connector.connect().await.with_context(|| format!("cannot connect to {target}"))?;
    if let Some(setup) = &workload.setup {
        session.client.batch_execute(setup).await.context("cannot run the workload's setup")?;
    }
    if options.ledger.is_some() {
        let sql = include_str!("../../../../sql/pgload/ledger.sql");
        session.client.batch_execute(sql).await.context("cannot make the ledger's table")?;
    }
    let bound = workload.bind(&session.client).await?;
    let statements = Prepared::all(workload, options.ledger.is_some());
    attempt::check(&session, &statements, &bound).await?;
    let ledger = match &options.ledger {
        Some(dir) => Some(Ledger::create(dir, options.run, &workload.name, &options.started)?),
        None => None,
    };
    let begin = Instant::now();
    let recorder = Rc::new(RefCell::new(Recorder::new(workload, target, options, begin)));
    let shared = Rc::new(Shared {
        connector,
        bound,
        statements,
        ledger,
        recorder: recorder.clone(),
        options: options.clone(),
        queue: RefCell::default(),
        work: Notify::new(),
        closing: std::cell::Cell::new(false),
        give_up: Stop::default(),
        begin,
    });
    let mut helpers = vec![tokio::task::spawn_local(record::tick(recorder.clone()))];
    if let Some(address) = options.metrics {
        let listener = tokio::net::TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
        helpers.push(tokio::task::spawn_local(metrics::serve(listener, recorder.clone())));
    }
    let view = (options.clone(), recorder.clone(), stop.clone());
    helpers.push(tokio::task::spawn_local(async move { live::show(&view.0, view.1, view.2).await }));
    let workers = worker::start(&shared, session);
    let end = begin + options.warmup + options.duration;
    if let Load::Open { segments, arrivals, .. } = &options.load {
        schedule::feed(&shared, segments, *arrivals, end, stop).await;
    } else {
        tokio::select! {
            () = tokio::time::sleep_until(end) => {}
            () = stop.wait() => {}
            () = workers.all_done() => {}
        }
    }
    recorder.borrow_mut().close(Instant::now());
    shared.closing.set(true);
    shared.work.notify_waiters();
    let unfinished = workers.finish(&shared, DRAIN).await;
    for helper in helpers {
        helper.abort();
        // Until it has ended it holds on to the recorder.
        let _ = helper.await;
    }
    let Ok(shared) = Rc::try_unwrap(shared) else { anyhow::bail!("a client is still running") };
    if let Some(ledger) = shared.ledger {
        ledger.finish()?;
    }
    drop(shared.recorder);
    let unserved = (shared.queue.into_inner().len() + unfinished) as u64;
    let recorder = recorder.replace(Recorder::new(workload, target, options, begin));
    Ok(recorder.finish(unserved, stop.is_set()))
}
