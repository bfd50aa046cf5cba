//! Clients: each has a connection, makes statements happen, and comes back after failures.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    Ended, Load, Options, Prepared, Recorder, Stop,
    attempt::{self, Cache, Entry},
    record::Finished,
};
use crate::{
    ledger::{Ledger, Mark, Numbers, Position},
    rng::Rng,
    session::{Connector, Failure, Session},
    workload::{Bound, Kind},
};

/// Due when, which statement, and the numbers its parameters are drawn from.
type Job = (Instant, usize, Rng);

/// What all clients of a run share.
pub(super) struct Shared {
    pub connector: Rc<Connector>,
    pub bound: Bound,
    pub statements: Vec<Prepared>,
    pub ledger: Option<Ledger>,
    pub recorder: Rc<RefCell<Recorder>>,
    pub options: Options,
    pub queue: RefCell<VecDeque<Job>>,
    pub work: Notify,
    /// No new statements, but those in the queue.
    pub closing: Cell<bool>,
    /// Nothing more at all.
    pub give_up: Stop,
    pub begin: Instant,
}

/// Running clients.
pub(super) struct Workers {
    handles: Vec<JoinHandle<()>>,
    left: Rc<Cell<usize>>,
    done: Rc<Notify>,
}

/// First pause before connecting again; doubled up to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(640));

/// Starts all clients; the first has its connection already.
pub(super) fn start(shared: &Rc<Shared>, first: Session) -> Workers {
    let mut first = Some(first);
    let count = shared.options.load.connections();
    let (left, done) = (Rc::new(Cell::new(count as usize)), Rc::new(Notify::new()));
    let start = |number| {
        let (left, done) = (left.clone(), done.clone());
        let mut client = Client {
            number,
            shared: shared.clone(),
            session: None,
            caches: Vec::new(),
            numbers: Numbers::default(),
            rng: Rng::new(shared.options.seed, 102, number.into()),
        };
        if let Some(session) = first.take() {
            client.use_session(session);
        }
        tokio::task::spawn_local(async move {
            client.work().await;
            drop(client);
            left.set(left.get() - 1);
            if left.get() == 0 {
                done.notify_one();
            }
        })
    };
    let handles = (0..count).map(start).collect();
    Workers { handles, left, done }
}

impl Workers {
    /// Waits until all clients have done all they had to.
    pub async fn all_done(&self) {
        if self.left.get() > 0 {
            self.done.notified().await;
        }
    }

    /// Waits for what is unfinished, but no longer than `limit` and one deadline of a statement; then ends all. Returns how
    /// many clients were in the middle of something.
    pub async fn finish(self, shared: &Shared, limit: Duration) -> usize {
        if tokio::time::timeout(limit, self.all_done()).await.is_err() {
            shared.give_up.stop();
            let _ = tokio::time::timeout(shared.options.deadline.min(limit), self.all_done()).await;
        }
        let unfinished = self.left.get();
        for handle in self.handles {
            handle.abort();
            let _ = handle.await;
        }
        unfinished
    }
}

struct Client {
    number: u32,
    shared: Rc<Shared>,
    session: Option<Session>,
    caches: Vec<Cache>,
    numbers: Numbers,
    rng: Rng,
}

impl Client {
    async fn work(&mut self) {
        let shared = self.shared.clone();
        let mut done = 0;
        while !shared.give_up.is_set() {
            let job = match &shared.options.load {
                Load::Open { .. } => match self.next_due().await {
                    Some(job) => job,
                    None => return,
                },
                Load::Closed { .. } if shared.closing.get() => return,
                Load::Closed { .. } => {
                    let statement = shared.bound.statement(&mut self.rng);
                    (Instant::now(), statement, self.rng.clone())
                }
            };
            // The next statement's numbers do not depend on how many this one draws.
            self.rng.bits();
            self.serve(job).await;
            done += 1;
            if shared.options.statements.is_some_and(|most| done >= most) {
                return;
            }
            match &shared.options.load {
                Load::Closed { think, .. } if !think.is_zero() => sleep(*think).await,
                _ => {}
            }
        }
    }

    async fn next_due(&self) -> Option<Job> {
        loop {
            if let Some(job) = self.shared.queue.borrow_mut().pop_front() {
                return Some(job);
            }
            if self.shared.closing.get() || self.shared.give_up.is_set() {
                return None;
            }
            self.shared.work.notified().await;
        }
    }

    fn use_session(&mut self, session: Session) {
        self.shared.recorder.borrow_mut().connected(self.number, session.host, session.timeline);
        self.caches = vec![Cache::new(); self.shared.statements.len()];
        self.session = Some(session);
    }

    fn lose_session(&mut self) {
        if let Some(session) = self.session.take() {
            self.shared.recorder.borrow_mut().disconnected(session.host);
        }
    }

    /// Connects, however long it takes, unless the run ends.
    async fn connect(&mut self) -> Option<Failure> {
        let mut pause = BACKOFF.0;
        while self.session.is_none() {
            let shared = self.shared.clone();
            let result = tokio::select! {
                result = shared.connector.connect() => result,
                () = shared.give_up.wait() => Err(Failure::connection("the run ended".to_owned())),
            };
            match result {
                Ok(session) => self.use_session(session),
                Err(failure) => {
                    if shared.give_up.is_set() {
                        return Some(failure);
                    }
                    shared.recorder.borrow_mut().error(None, "connect", &failure);
                    // Jitter, so that not all clients come back at once.
                    sleep(pause.mul_f64(0.5 + self.rng.unit())).await;
                    pause = (pause * 2).min(BACKOFF.1);
                }
            }
        }
        None
    }

    /// Makes a statement happen, with retries as long as it is certain that nothing was committed.
    async fn serve(&mut self, (due, index, rng): Job) {
        let shared = self.shared.clone();
        let statement = &shared.statements[index];
        let values = shared.bound.values(index, &mut rng.clone());
        let mut entry = match &shared.ledger {
            Some(ledger) if statement.kind == Kind::Write => {
                let (seq, ticket) = self.numbers.take(ledger, self.number, &statement.name);
                Some(Entry { ledger, ticket, client: self.number, seq, position: Position::default() })
            }
            _ => None,
        };
        let mut tries = 0;
        // Of the first try: waiting for a connection is a part of the service.
        let started = Instant::now();
        let ended = loop {
            if let Some(failure) = self.connect().await {
                break Ended::Aborted(failure);
            }
            let Some(session) = &self.session else { continue };
            tries += 1;
            let options = &shared.options;
            let cache = &mut self.caches[index];
            let work = attempt::attempt(
                session,
                statement,
                cache,
                values.clone(),
                entry.as_mut(),
                options.pipeline,
                options.deadline,
            );
            let ended = work.await;
            let (Ended::Aborted(failure) | Ended::Indeterminate(failure)) = &ended else { break ended };
            shared.recorder.borrow_mut().error(Some(index), phase(&ended), failure);
            if attempt::is_fatal(failure) || session.client.is_closed() {
                self.give_up_session(failure).await;
            }
            let again = matches!(ended, Ended::Aborted(_)) && attempt::is_worth_retrying(failure);
            if !again || tries >= options.tries || shared.give_up.is_set() {
                break ended;
            }
            shared.recorder.borrow_mut().retried(index, &failure.code);
            let most = Duration::from_millis(1 << tries.min(6));
            sleep(most.mul_f64(self.rng.unit())).await;
        };
        if let Some(entry) = entry {
            let mark = match &ended {
                Ended::Ok => Mark::Ok,
                Ended::Weak(_) => Mark::Weak,
                Ended::Idle => Mark::Idle,
                Ended::Aborted(_) => Mark::Aborted,
                Ended::Indeterminate(_) => Mark::Doubt,
            };
            entry.ledger.outcome(entry.client, entry.seq, mark, entry.position);
        }
        let finished = Finished { statement: index, due, started, ended: &ended, tries };
        shared.recorder.borrow_mut().finished(&finished, Instant::now());
    }

    /// A connection whose statement did not answer in time is asked to stop, so that the server does not go on with it.
    async fn give_up_session(&mut self, failure: &Failure) {
        let late = failure.code == "deadline";
        let session = self.session.take();
        if let Some(session) = session {
            self.shared.recorder.borrow_mut().disconnected(session.host);
            if late {
                self.shared.connector.abandon(session).await;
            }
        }
        self.lose_session();
    }
}

fn phase(ended: &Ended) -> &'static str {
    match ended {
        Ended::Indeterminate(_) => "commit",
        _ => "statement",
    }
}
