//! The ledger: what was tried and what was answered, on this machine, so that it can be compared with the database.
//!
//! That a transaction may be there is on disk before its COMMIT is sent, its outcome after the answer came. In the
//! database, the same transaction inserts a row with the same number into `pgload.ledger`. So that no transaction has to
//! wait for the disk, a client's numbers are reserved ahead, in blocks: a reservation is on disk before the first number
//! of it is used. Lines about single transactions follow within milliseconds; should this machine lose its power in
//! between, the numbers that are reserved and have no line are in doubt.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File, OpenOptions},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use tokio::sync::Notify;
use tokio_postgres::types::PgLsn;

/// How an operation ended, as far as data is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mark {
    /// The server acknowledged the commit.
    Ok,
    /// It did, with a warning: the wait for a standby was cancelled.
    Weak,
    /// It is certain that nothing was committed.
    Aborted,
    /// Nothing had to be done.
    Idle,
    /// COMMIT was sent and no answer came.
    Doubt,
}

const MARKS: [(Mark, &str); 5] = [
    (Mark::Ok, "ok"),
    (Mark::Weak, "weak"),
    (Mark::Aborted, "aborted"),
    (Mark::Idle, "idle"),
    (Mark::Doubt, "doubt"),
];

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MARKS[*self as usize].1)
    }
}

/// Where the server stood when a row was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Of the server.
    pub timeline: u32,
    /// Where the WAL was then.
    pub lsn: u64,
}

enum Line {
    Reserved { client: u32, to: u64 },
    Intent { client: u32, seq: u64, statement: Arc<str> },
    Outcome { client: u32, seq: u64, mark: Mark, position: Position },
}

/// Writes a ledger.
pub struct Ledger {
    /// Numbers the run, in the database too.
    pub run: i64,
    begun: Instant,
    shared: Arc<Shared>,
    thread: std::thread::JoinHandle<std::io::Result<()>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// For the thread that writes: there is something to do. Waking it for each line would cost as much as a statement.
    work: Condvar,
    /// Lines on disk.
    durable: AtomicU64,
    failed: AtomicBool,
    news: Notify,
}

/// Lines that are not written yet, with the microseconds since the beginning.
#[derive(Default)]
struct Queue {
    lines: Vec<(u64, Line)>,
    /// All that were ever handed over.
    given: u64,
    /// Whether somebody waits for one of them.
    awaited: bool,
    /// No more will come.
    closed: bool,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// File of a run in a ledger's folder.
pub fn path(dir: &Path, run: i64) -> PathBuf {
    dir.join(format!("{run:016x}.ledger"))
}

impl Ledger {
    /// Begins the ledger of a run.
    ///
    /// # Errors
    /// The file cannot be made, or is there already.
    pub fn create(dir: &Path, run: i64, workload: &str, started: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let path = path(dir, run);
        let file = OpenOptions::new().append(true).create_new(true).open(&path);
        let mut file = file.with_context(|| format!("cannot make {}", path.display()))?;
        let header = format!("pgload-ledger\t1\t{run}\t{workload}\t{started}\n");
        file.write_all(header.as_bytes())
            .and_then(|()| file.sync_all())
            .context("cannot write the ledger")?;
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .with_context(|| format!("cannot sync {}", dir.display()))?;
        let shared = Arc::new(Shared::default());
        let thread = {
            let shared = shared.clone();
            std::thread::Builder::new().name("ledger".to_owned()).spawn(move || {
                let result = write_lines(file, &shared);
                shared.failed.store(result.is_err(), Ordering::Release);
                shared.news.notify_waiters();
                result
            })?
        };
        Ok(Self { run, begun: Instant::now(), shared, thread })
    }

    /// Reserves a client's numbers up to this one; the answer is for [`Self::wait`].
    fn reserve(&self, client: u32, to: u64) -> u64 {
        self.give(Line::Reserved { client, to })
    }

    /// Notes that a transaction is about to be tried.
    fn intent(&self, client: u32, seq: u64, statement: &Arc<str>) {
        self.give(Line::Intent { client, seq, statement: statement.clone() });
    }

    /// Notes what became of it.
    pub fn outcome(&self, client: u32, seq: u64, mark: Mark, position: Position) {
        self.give(Line::Outcome { client, seq, mark, position });
    }

    fn give(&self, line: Line) -> u64 {
        let micros = self.begun.elapsed().as_micros() as u64;
        let mut queue = self.shared.queue();
        let urgent = matches!(line, Line::Reserved { .. });
        let wake = urgent || queue.lines.is_empty();
        queue.lines.push((micros, line));
        queue.given += 1;
        queue.awaited |= urgent;
        let ticket = queue.given;
        drop(queue);
        // When the writer is gone, `wait` says so.
        if wake {
            self.shared.work.notify_one();
        }
        ticket
    }

    /// Waits until a line is on disk.
    ///
    /// # Errors
    /// The disk refused: nothing may be committed any more.
    pub async fn wait(&self, ticket: u64) -> Result<(), String> {
        loop {
            let news = self.shared.news.notified();
            tokio::pin!(news);
            // Registered before looking, so that nothing is missed in between.
            news.as_mut().enable();
            if self.shared.durable.load(Ordering::Acquire) >= ticket {
                return Ok(());
            }
            if self.shared.failed.load(Ordering::Acquire) {
                return Err("the ledger cannot be written".to_owned());
            }
            news.await;
        }
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// The disk refused.
    pub fn finish(self) -> anyhow::Result<()> {
        self.shared.queue().closed = true;
        self.shared.work.notify_one();
        let result = self.thread.join().map_err(|_| anyhow::anyhow!("the ledger's thread panicked"))?;
        result.context("cannot write the ledger")
    }
}

/// Numbers of a client that are reserved at a time.
const BLOCK: u64 = 256;

/// Numbers a client's transactions.
#[derive(Debug, Default)]
pub struct Numbers {
    last: u64,
    /// Last number of the block in use, and of the next; with their tickets.
    block: (u64, u64),
    next: (u64, u64),
}

impl Numbers {
    /// The next transaction's number, and the ticket that has to be waited for before its COMMIT.
    pub fn take(&mut self, ledger: &Ledger, client: u32, statement: &Arc<str>) -> (u64, u64) {
        self.last += 1;
        if self.last > self.block.0 {
            // The next block was reserved half a block ago, except at the beginning.
            if self.next.0 < self.last {
                self.next = (self.last + BLOCK - 1, ledger.reserve(client, self.last + BLOCK - 1));
            }
            self.block = self.next;
        }
        if self.last + BLOCK / 2 > self.block.0 && self.next.0 == self.block.0 {
            let to = self.block.0 + BLOCK;
            self.next = (to, ledger.reserve(client, to));
        }
        ledger.intent(client, self.last, statement);
        (self.last, self.block.1)
    }
}

/// How long lines that nobody waits for may stay in memory.
const LINGER: Duration = Duration::from_millis(50);

fn write_lines(file: File, shared: &Shared) -> std::io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 16, file);
    loop {
        let mut queue = shared.queue();
        while queue.lines.is_empty() && !queue.closed {
            queue = shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        // The first line is there: others may join it, unless somebody waits.
        let waiting = |queue: &mut Queue| !queue.awaited && !queue.closed;
        let (mut queue, _) =
            shared.work.wait_timeout_while(queue, LINGER, waiting).unwrap_or_else(PoisonError::into_inner);
        let lines = std::mem::take(&mut queue.lines);
        let (given, closed) = (queue.given, queue.closed);
        queue.awaited = false;
        drop(queue);
        for (micros, line) in &lines {
            write_line(&mut out, *micros, line)?;
        }
        if closed {
            writeln!(out, "E")?;
        }
        out.flush()?;
        out.get_ref().sync_data()?;
        shared.durable.fetch_max(given, Ordering::Release);
        shared.news.notify_waiters();
        if closed {
            return Ok(());
        }
    }
}

fn write_line(out: &mut impl std::io::Write, micros: u64, line: &Line) -> std::io::Result<()> {
    match line {
        Line::Reserved { client, to } => writeln!(out, "R\t{client}\t{to}"),
        Line::Intent { client, seq, statement } => writeln!(out, "I\t{client}\t{seq}\t{micros}\t{statement}"),
        Line::Outcome { client, seq, mark, position } => {
            let Position { timeline, lsn } = position;
            writeln!(out, "O\t{client}\t{seq}\t{micros}\t{mark}\t{timeline}\t{}", PgLsn::from(*lsn))
        }
    }
}

/// A transaction in a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name of the statement.
    pub statement: String,
    /// `None`: the program ended before the answer.
    pub mark: Option<Mark>,
    /// When the outcome was written (the intent, if there is none), microseconds from the beginning.
    pub micros: u64,
    /// Where the server stood.
    pub position: Position,
}

/// A ledger that was read.
#[derive(Debug)]
pub struct Book {
    /// Numbers the run.
    pub run: i64,
    /// Of the run.
    pub workload: String,
    /// When it began, RFC 3339.
    pub started: String,
    /// By client and number.
    pub entries: BTreeMap<(u32, u64), Entry>,
    /// The last number each client may have used without a line: none when the ledger was ended properly.
    pub reserved: BTreeMap<u32, u64>,
}

impl Book {
    /// Reads a ledger. A last line without its end was being written when the machine stopped, and does not count.
    ///
    /// # Errors
    /// Not a ledger; a line that cannot be.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut lines = whole.lines();
        let header: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
        let ["pgload-ledger", "1", run, workload, started] = header[..] else {
            bail!("{} is not a ledger", path.display())
        };
        let mut book = Self {
            run: run.parse()?,
            workload: workload.to_owned(),
            started: started.to_owned(),
            entries: BTreeMap::new(),
            reserved: BTreeMap::new(),
        };
        for (number, line) in (2..).zip(lines) {
            book.line(line).with_context(|| format!("{}:{number}", path.display()))?;
        }
        Ok(book)
    }

    /// Reads all ledgers of a folder.
    ///
    /// # Errors
    /// There is none; one cannot be read.
    pub fn read_all(dir: &Path) -> anyhow::Result<Vec<Self>> {
        let list = || format!("cannot read {}", dir.display());
        let mut books = Vec::new();
        for entry in fs::read_dir(dir).with_context(list)? {
            let path = entry.with_context(list)?.path();
            if path.extension().is_some_and(|extension| extension == "ledger") {
                books.push(Self::read(&path)?);
            }
        }
        ensure!(!books.is_empty(), "there is no ledger in {}", dir.display());
        books.sort_by_key(|book| book.started.clone());
        Ok(books)
    }

    fn line(&mut self, line: &str) -> anyhow::Result<()> {
        match line.split('\t').collect::<Vec<_>>()[..] {
            ["R", client, to] => {
                self.reserved.insert(client.parse()?, to.parse()?);
            }
            ["E"] => self.reserved.clear(),
            ["I", client, seq, micros, statement] => {
                let entry = Entry {
                    statement: statement.to_owned(),
                    mark: None,
                    micros: micros.parse()?,
                    position: Position::default(),
                };
                let old = self.entries.insert((client.parse()?, seq.parse()?), entry);
                ensure!(old.is_none(), "transaction {client}/{seq} is there twice");
            }
            ["O", client, seq, micros, mark, timeline, lsn] => {
                let entry = self.entries.get_mut(&(client.parse()?, seq.parse()?));
                let entry = entry.with_context(|| format!("transaction {client}/{seq} has no intent"))?;
                let known = MARKS.iter().find(|(_, text)| *text == mark).map(|(mark, _)| *mark);
                entry.mark = Some(known.with_context(|| format!("`{mark}` is no outcome"))?);
                entry.micros = micros.parse()?;
                let lsn: PgLsn =
                    lsn.parse().map_err(|_| anyhow::anyhow!("`{lsn}` is no position in the WAL"))?;
                entry.position = Position { timeline: timeline.parse()?, lsn: lsn.into() };
            }
            _ => bail!("cannot read `{line}`"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_a_torn_line_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::create(dir.path(), 77, "oltp", "2026-11-21T00:00:00Z").unwrap();
        let name: Arc<str> = "pick".into();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut numbers = Numbers::default();
        for mark in [Mark::Ok, Mark::Weak, Mark::Aborted, Mark::Idle, Mark::Doubt] {
            let (seq, ticket) = numbers.take(&ledger, 3, &name);
            runtime.block_on(ledger.wait(ticket)).unwrap();
            // On disk before the outcome is known.
            let book = Book::read(&path(dir.path(), 77)).unwrap();
            assert!(book.reserved[&3] >= seq);
            ledger.outcome(3, seq, mark, Position { timeline: 2, lsn: 0x1_0000_0abc });
        }
        ledger.intent(4, 0, &name);
        ledger.finish().unwrap();
        let mut file = OpenOptions::new().append(true).open(path(dir.path(), 77)).unwrap();
        file.write_all(b"O\t4\t0\t12").unwrap();

        let book = &Book::read_all(dir.path()).unwrap()[0];
        let marks: Vec<Option<Mark>> = book.entries.values().map(|entry| entry.mark).collect();
        let expected = [Mark::Ok, Mark::Weak, Mark::Aborted, Mark::Idle, Mark::Doubt].map(Some);
        assert_eq!(marks, [&expected[..], &[None]].concat());
        assert_eq!(book.entries[&(3, 1)].position, Position { timeline: 2, lsn: 0x1_0000_0abc });
        assert!(book.reserved.is_empty(), "the ledger was ended properly");
        assert_eq!((book.run, book.workload.as_str()), (77, "oltp"));
        assert!(Ledger::create(dir.path(), 77, "oltp", "").is_err(), "a ledger is never written over");
    }

    #[test]
    fn every_number_is_reserved_before_it_may_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::create(dir.path(), 5, "w", "s").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (mut numbers, name): (_, Arc<str>) = (Numbers::default(), "s".into());
        for expected in 1..=BLOCK * 5 {
            let (seq, ticket) = numbers.take(&ledger, 1, &name);
            assert_eq!(seq, expected);
            if seq % 64 == 1 || seq % BLOCK == 0 {
                runtime.block_on(ledger.wait(ticket)).unwrap();
                let reserved = Book::read(&path(dir.path(), 5)).unwrap().reserved[&1];
                assert!((seq..=seq + 2 * BLOCK).contains(&reserved), "{seq}: {reserved}");
            }
        }
        ledger.finish().unwrap();
        assert_eq!(Book::read(&path(dir.path(), 5)).unwrap().entries.len() as u64, BLOCK * 5);
    }

    #[test]
    fn what_is_no_ledger_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let write = |text: &str| fs::write(path(dir.path(), 1), text).unwrap();
        let header = "pgload-ledger\t1\t1\tw\ts\n";
        for text in [
            "",
            "hello\n",
            "pgload-ledger\t2\t1\tw\ts\n",
            &format!("{header}O\t1\t1\t5\tok\t1\t0/0\n"),
            &format!("{header}X\n"),
        ] {
            write(text);
            assert!(Book::read(&path(dir.path(), 1)).is_err(), "{text:?}");
        }
    }
}
