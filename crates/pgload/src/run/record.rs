//! Counts and histograms of a run: of each statement, each second and each block of seconds.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Ended, Load, Options, Outage, outage::Watch};
use crate::{
    session::Failure,
    target::Target,
    workload::{Kind, Workload},
};

/// Microseconds that a histogram can hold; longer counts as this.
const MICROS_MAX: u64 = 600_000_000;
/// Blocks that a run is divided into for confidence intervals, at most.
const BLOCKS: u32 = 40;
/// Upper bounds of the buckets of Prometheus' histograms: 100 microseconds doubled up to 52 s.
pub(super) const BUCKETS: usize = 20;
/// Connections and disconnections that are kept.
const EVENTS: usize = 10_000;

/// How often something ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Acknowledged.
    pub ok: u64,
    /// Acknowledged with a warning: the wait for a standby was cancelled.
    pub weak: u64,
    /// Nothing to do.
    pub idle: u64,
    /// Certainly not committed, all tries failed.
    pub aborted: u64,
    /// Unknown.
    pub indeterminate: u64,
    /// Tries after the first.
    pub retries: u64,
}

impl Counts {
    /// Statements that did what they were to do.
    pub fn good(&self) -> u64 {
        self.ok + self.weak + self.idle
    }

    /// All that ended.
    pub fn all(&self) -> u64 {
        self.good() + self.aborted + self.indeterminate
    }

    fn add(&mut self, ended: &Ended) {
        match ended {
            Ended::Ok => self.ok += 1,
            Ended::Weak(_) => self.weak += 1,
            Ended::Idle => self.idle += 1,
            Ended::Aborted(_) => self.aborted += 1,
            Ended::Indeterminate(_) => self.indeterminate += 1,
        }
    }
}

/// Latency of a statement, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Mean.
    pub mean: f64,
    /// Half took no longer.
    pub p50: u64,
    /// Nine of ten.
    pub p90: u64,
    /// 95 of 100.
    pub p95: u64,
    /// 99 of 100.
    pub p99: u64,
    /// 999 of 1000.
    pub p999: u64,
    /// All.
    pub max: u64,
}

impl Latency {
    /// Of a histogram.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            mean: histogram.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max(),
        }
    }
}

/// A statement's results, without warm-up.
#[derive(Clone, Debug)]
pub struct StatementResult {
    /// Of the statement.
    pub name: String,
    /// Whether it changes data.
    pub kind: Kind,
    /// How it ended.
    pub counts: Counts,
    /// From when it was due to its end, over all tries.
    pub response: Histogram<u64>,
    /// From when it was begun.
    pub service: Histogram<u64>,
    /// Response of each block of the run, for confidence intervals.
    pub blocks: Vec<Histogram<u64>>,
}

/// A statement in a second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecondRow {
    /// From the beginning of the run, warm-up included.
    pub second: u32,
    /// Of the statement.
    pub statement: String,
    /// Ended in it.
    pub counts: Counts,
    /// Response.
    pub latency: Latency,
}

/// Errors of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorRow {
    /// Of the statement; none for connecting.
    pub statement: Option<String>,
    /// `connect`, `statement` or `commit`.
    pub phase: String,
    /// SQLSTATE.
    pub code: String,
    /// How many.
    pub count: u64,
    /// Seconds from the beginning.
    pub first: f64,
    /// Seconds from the beginning.
    pub last: f64,
    /// The first one's.
    pub message: String,
}

/// A connection that was made or lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Seconds from the beginning.
    pub at: f64,
    /// Of the host.
    pub host: String,
    /// `connected` or `lost`.
    pub what: String,
    /// Of the server, when connected.
    pub timeline: u32,
}

/// What a run has measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// In the order of the workload.
    pub statements: Vec<StatementResult>,
    /// Time series.
    pub seconds: Vec<SecondRow>,
    /// Errors by statement, phase and SQLSTATE.
    pub errors: Vec<ErrorRow>,
    /// Connections.
    pub events: Vec<Event>,
    /// The longest time without a successful write.
    pub outage: Option<Outage>,
    /// Seconds that were counted.
    pub elapsed: f64,
    /// Of one core, 1 is all of it, in those seconds.
    pub cpu: f64,
    /// How late statements came into the queue, microseconds.
    pub lag_p99: u64,
    /// Due, but not done at the end.
    pub unserved: u64,
    /// Ended by request.
    pub interrupted: bool,
    /// Why the figures must not be trusted.
    pub invalid: Vec<String>,
}

/// Something that ended.
pub struct Finished<'a> {
    /// Index.
    pub statement: usize,
    /// When it should have begun.
    pub due: Instant,
    /// When it did.
    pub started: Instant,
    /// How it ended.
    pub ended: &'a Ended,
    /// How many it took.
    pub tries: u32,
}

pub(super) struct PerStatement {
    pub name: String,
    kind: Kind,
    counts: Counts,
    response: Histogram<u64>,
    service: Histogram<u64>,
    block: Histogram<u64>,
    blocks: Vec<Histogram<u64>>,
    second: Histogram<u64>,
    second_counts: Counts,
    /// Warm-up included, as counters only grow.
    pub total: Counts,
    pub buckets: [u64; BUCKETS],
    pub sum_micros: u64,
}

/// Records a run while it goes on.
pub struct Recorder {
    begin: Instant,
    counting_from: Instant,
    closed: Option<Instant>,
    open_loop: bool,
    pub(super) hosts: Vec<String>,
    pub(super) connected: Vec<u64>,
    pub(super) statements: Vec<PerStatement>,
    pub(super) retries: BTreeMap<String, u64>,
    pub(super) info: [(&'static str, String); 4],
    lag: Histogram<u64>,
    lag_second: u64,
    seconds: Vec<SecondRow>,
    seconds_ended: u32,
    errors: BTreeMap<(Option<usize>, &'static str, String), ErrorRow>,
    events: Vec<Event>,
    watch: Watch,
    watch_reads: bool,
    block: (Duration, Instant),
    cpu: (Option<f64>, f64),
}

fn histogram(digits: u8) -> Histogram<u64> {
    // Cannot fail: the bounds are constants that the crate accepts.
    let mut histogram = Histogram::new_with_max(MICROS_MAX, digits)
        .unwrap_or_else(|_| unreachable!("bounds of a histogram are constants"));
    histogram.auto(true);
    histogram
}

/// Seconds of processor time of this process.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

impl Recorder {
    /// For a run that begins now.
    pub fn new(workload: &Workload, target: &Target, options: &Options, begin: Instant) -> Self {
        let per_statement = |statement: &crate::workload::Statement| PerStatement {
            name: statement.name.clone(),
            kind: statement.kind,
            counts: Counts::default(),
            response: histogram(3),
            service: histogram(3),
            block: histogram(3),
            blocks: Vec::new(),
            second: histogram(2),
            second_counts: Counts::default(),
            total: Counts::default(),
            buckets: [0; BUCKETS],
            sum_micros: 0,
        };
        let counting_from = begin + options.warmup;
        Self {
            begin,
            counting_from,
            closed: None,
            open_loop: matches!(options.load, Load::Open { .. }),
            hosts: target.hosts.iter().map(ToString::to_string).collect(),
            connected: vec![0; target.hosts.len()],
            statements: workload.statements.iter().map(per_statement).collect(),
            // There from the start, so that a rate sees the first one.
            retries: ["40001", "40P01"].map(|code| (code.to_owned(), 0)).into(),
            info: [
                ("run", format!("{:016x}", options.run)),
                ("workload", workload.name.clone()),
                ("stage", options.stage.clone()),
                ("seed", options.seed.to_string()),
            ],
            lag: histogram(3),
            lag_second: 0,
            seconds: Vec::new(),
            seconds_ended: 0,
            errors: BTreeMap::new(),
            events: Vec::new(),
            watch: Watch::default(),
            watch_reads: workload.statements.iter().all(|statement| statement.kind == Kind::Read),
            block: ((options.duration / BLOCKS).max(Duration::from_secs(1)), counting_from),
            cpu: (None, 0.0),
        }
    }

    fn since(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.begin).as_secs_f64()
    }

    fn start_counting(&mut self, now: Instant) {
        if self.cpu.0.is_none() && now >= self.counting_from {
            self.cpu.0 = Some(cpu_seconds());
        }
    }

    /// A statement came into the queue.
    pub fn lag(&mut self, due: Instant, now: Instant) {
        let micros = now.saturating_duration_since(due).as_micros() as u64;
        self.lag_second = self.lag_second.max(micros);
        if due >= self.counting_from {
            self.lag.saturating_record(micros);
        }
    }

    /// A client has a connection.
    pub fn connected(&mut self, _client: u32, host: usize, timeline: u32) {
        self.connected[host] += 1;
        self.event(host, "connected", timeline);
    }

    /// It lost it.
    pub fn disconnected(&mut self, host: usize) {
        self.connected[host] = self.connected[host].saturating_sub(1);
        self.event(host, "lost", 0);
    }

    fn event(&mut self, host: usize, what: &str, timeline: u32) {
        if self.events.len() < EVENTS {
            let at = self.since(Instant::now());
            self.events.push(Event { at, host: self.hosts[host].clone(), what: what.to_owned(), timeline });
        }
    }

    /// An error, of a statement or of connecting.
    pub fn error(&mut self, statement: Option<usize>, phase: &'static str, failure: &Failure) {
        let at = self.since(Instant::now());
        self.watch.error(at, &failure.to_string());
        let name = statement.map(|index| self.statements[index].name.clone());
        let row = self.errors.entry((statement, phase, failure.code.clone())).or_insert_with(|| ErrorRow {
            statement: name,
            phase: phase.to_owned(),
            code: failure.code.clone(),
            count: 0,
            first: at,
            last: at,
            message: failure.message.clone(),
        });
        row.count += 1;
        row.last = at;
    }

    /// A statement is tried again.
    pub fn retried(&mut self, statement: usize, code: &str) {
        *self.retries.entry(code.to_owned()).or_default() += 1;
        let statement = &mut self.statements[statement];
        statement.second_counts.retries += 1;
        statement.total.retries += 1;
    }

    /// A statement ended.
    pub fn finished(&mut self, finished: &Finished, now: Instant) {
        self.start_counting(now);
        let at = self.since(now);
        let micros = |from: Instant| now.saturating_duration_since(from).as_micros() as u64;
        let (response, service) = (micros(finished.due), micros(finished.started));
        let statement = &mut self.statements[finished.statement];
        let good = matches!(finished.ended, Ended::Ok | Ended::Weak(_) | Ended::Idle);
        // That there was nothing to do says nothing about whether writing is possible.
        if matches!(finished.ended, Ended::Ok | Ended::Weak(_))
            && (self.watch_reads || statement.kind == Kind::Write)
        {
            self.watch.ok(at);
        }
        statement.second_counts.add(finished.ended);
        statement.total.add(finished.ended);
        if good {
            statement.second.saturating_record(response);
            statement.sum_micros += response;
            let bucket = (0..BUCKETS).find(|bucket| response <= 100 << bucket);
            if let Some(bucket) = bucket {
                statement.buckets[bucket] += 1;
            }
        }
        // A closed loop counts what ends before the end, an open one what was due before it.
        let late = !self.open_loop && self.closed.is_some_and(|end| now > end);
        if finished.due >= self.counting_from && !late {
            statement.counts.add(finished.ended);
            statement.counts.retries += u64::from(finished.tries.saturating_sub(1));
            if good {
                statement.response.saturating_record(response);
                statement.service.saturating_record(service);
                statement.block.saturating_record(response);
            }
        }
    }

    /// Ends the second, and the block when it is over.
    pub(super) fn end_second(&mut self, now: Instant) {
        self.start_counting(now);
        let second = (self.since(now) - 0.5).max(0.0) as u32;
        self.lag_second = 0;
        self.seconds_ended = second + 1;
        for statement in &mut self.statements {
            let counts = std::mem::take(&mut statement.second_counts);
            if counts.all() > 0 || counts.retries > 0 {
                let latency = Latency::of(&statement.second);
                self.seconds.push(SecondRow { second, statement: statement.name.clone(), counts, latency });
                statement.second.reset();
            }
        }
        if now.saturating_duration_since(self.block.1) >= self.block.0 && self.closed.is_none() {
            self.block.1 = now;
            self.end_block();
        }
    }

    fn end_block(&mut self) {
        for statement in &mut self.statements {
            statement.blocks.push(std::mem::replace(&mut statement.block, histogram(3)));
        }
    }

    /// Seconds that have ended.
    pub(super) fn seconds_ended(&self) -> u32 {
        self.seconds_ended
    }

    /// Rows of the last full second; none when nothing ended in it.
    pub(super) fn last_second(&self) -> impl Iterator<Item = &SecondRow> {
        let last = self.seconds_ended;
        self.seconds.iter().rev().take_while(move |row| row.second + 1 == last)
    }

    /// Seconds since the last successful write; since the last success of anything when nothing writes.
    pub(super) fn without_success(&self) -> f64 {
        (self.since(Instant::now()) - self.watch.last_ok()).max(0.0)
    }

    /// How late the scheduler is, at worst, in this second; microseconds.
    pub(super) fn lag_now(&self) -> u64 {
        self.lag_second
    }

    /// No new statements from here on.
    pub fn close(&mut self, now: Instant) {
        self.closed = Some(now);
        self.cpu.1 = cpu_seconds();
    }

    /// What was measured.
    pub fn finish(mut self, unserved: u64, interrupted: bool) -> Measured {
        let now = Instant::now();
        self.end_second(now);
        // What is left of the last block joins it, unless it is as long as one.
        let end = self.closed.unwrap_or(now);
        if end.saturating_duration_since(self.block.1) >= self.block.0.mul_f64(0.9) {
            self.end_block();
        }
        for statement in &mut self.statements {
            match statement.blocks.last_mut() {
                Some(last) => last.add(&statement.block).unwrap_or_default(),
                None => statement.blocks.push(statement.block.clone()),
            }
        }
        let elapsed = end.saturating_duration_since(self.counting_from).as_secs_f64();
        let cpu = self.cpu.0.map_or(0.0, |from| (self.cpu.1 - from) / elapsed.max(1e-9));
        let statement = |statement: PerStatement| StatementResult {
            name: statement.name,
            kind: statement.kind,
            counts: statement.counts,
            response: statement.response,
            service: statement.service,
            blocks: statement.blocks,
        };
        let mut measured = Measured {
            outage: self.watch.clone().worst(end.saturating_duration_since(self.begin).as_secs_f64()),
            seconds: self.seconds,
            errors: self.errors.into_values().collect(),
            events: self.events,
            elapsed,
            cpu,
            lag_p99: self.lag.value_at_quantile(0.99),
            unserved,
            interrupted,
            invalid: Vec::new(),
            statements: self.statements.into_iter().map(statement).collect(),
        };
        measured.invalid = invalid(&measured, self.open_loop);
        measured
    }
}

/// Why the figures of a run must not be trusted: the client could not do what it was to do.
fn invalid(measured: &Measured, open_loop: bool) -> Vec<String> {
    let mut reasons = Vec::new();
    let all: u64 = measured.statements.iter().map(|statement| statement.counts.all()).sum();
    if measured.elapsed <= 0.0 || all == 0 {
        reasons.push("nothing was counted: the run ended during warm-up".to_owned());
    }
    if open_loop && measured.lag_p99 > 1_000 {
        let lag = measured.lag_p99 as f64 / 1e3;
        reasons
            .push(format!("statements came into the queue {lag:.1} ms late (p99): the client is too busy"));
    }
    let most = if open_loop { 0.7 } else { 0.95 };
    if measured.cpu > most {
        reasons.push(format!(
            "the client used {:.0} % of its core: it may be what was measured",
            measured.cpu * 100.0
        ));
    }
    if measured.unserved > 0 {
        let unserved = measured.unserved;
        reasons.push(format!(
            "{unserved} statements were due and not done at the end: the rate is more than this database can do"
        ));
    }
    reasons
}

/// Ends each second when it is over.
pub(super) async fn tick(recorder: Rc<RefCell<Recorder>>) {
    let begin = recorder.borrow().begin;
    for second in 1.. {
        tokio::time::sleep_until(begin + Duration::from_secs(second)).await;
        recorder.borrow_mut().end_second(Instant::now());
    }
}
