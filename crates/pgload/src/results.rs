//! A run's results: a folder of plain files.
//!
//! ```text
//! run.json          what was run, where, and what came out
//! seconds.csv       time series, a row a statement and second
//! errors.csv        errors by statement, phase and SQLSTATE
//! histograms.json   HDR histograms (V2, deflated, base64) of each statement and block
//! plans/NAME.json   EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) of each statement that reads
//! ```

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hdrhistogram::{
    Histogram,
    serialization::{Deserializer, Serializer as _, V2DeflateSerializer},
};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{
    environment::{Counters, Environment},
    run::{Counts, ErrorRow, Event, Latency, Measured, Outage, SecondRow},
    workload::Kind,
};

/// Of these files.
pub const FORMAT: u32 = 1;

/// A statement in `run.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Statement {
    /// Unique.
    pub name: String,
    /// Whether it changes data.
    pub kind: Kind,
    /// How it ended.
    pub counts: Counts,
    /// Successes a second.
    pub rate: f64,
    /// From when it was due, microseconds.
    pub response: Latency,
    /// From when it was begun, microseconds.
    pub service: Latency,
}

/// `run.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Of the files.
    pub format: u32,
    /// Unique: time and a random part.
    pub id: String,
    /// Numbers the run in ledgers.
    pub number: i64,
    /// RFC 3339.
    pub started: String,
    /// Of the workload.
    pub workload: String,
    /// SHA-256 of everything that decides what was run.
    pub workload_digest: String,
    /// Stage of optimisation.
    pub stage: String,
    /// Connected to, without password.
    pub target: String,
    /// Rate or clients, in words: runs with different loads cannot be compared.
    pub load: String,
    /// Of the order of statements and their parameters.
    pub seed: u64,
    /// Seconds that were counted.
    pub elapsed: f64,
    /// Cores that the client used.
    pub cpu: f64,
    /// Microseconds.
    pub lag_p99: u64,
    /// Due, but not done at the end.
    pub unserved: u64,
    /// Ended by request.
    pub interrupted: bool,
    /// Why the figures must not be trusted; empty when they can be.
    pub invalid: Vec<String>,
    /// The longest time without a successful write.
    pub outage: Option<Outage>,
    /// In the order of the workload.
    pub statements: Vec<Statement>,
    /// Connections made and lost.
    pub events: Vec<Event>,
    /// Where.
    pub environment: Environment,
    /// What the server's counters grew by.
    pub counters: Counters,
}

/// Everything of a run.
#[derive(Clone, Debug)]
pub struct Results {
    /// Summary.
    pub run: Run,
    /// Time series.
    pub seconds: Vec<SecondRow>,
    /// Errors.
    pub errors: Vec<ErrorRow>,
    /// Response by statement; the blocks of the run.
    pub histograms: BTreeMap<String, Histograms>,
    /// By statement.
    pub plans: BTreeMap<String, Json>,
}

/// Of a statement.
#[derive(Clone, Debug)]
pub struct Histograms {
    /// All of the run.
    pub response: Histogram<u64>,
    /// Without waiting to be begun.
    pub service: Histogram<u64>,
    /// Responses of each block.
    pub blocks: Vec<Histogram<u64>>,
}

/// What names a run.
#[derive(Clone, Debug)]
pub struct Name {
    /// Unique.
    pub id: String,
    /// Numbers it in ledgers.
    pub number: i64,
    /// RFC 3339.
    pub started: String,
}

impl Name {
    /// A new one, from the clock.
    pub fn new() -> Self {
        let now = time::OffsetDateTime::now_utc();
        let number = (now.unix_timestamp_nanos() as i64) & i64::MAX;
        let format = time::macros::format_description!("[year][month][day]T[hour][minute][second]");
        let rfc = time::macros::format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
        );
        let text = |result: Result<String, _>| result.unwrap_or_default();
        Self {
            id: format!("{}-{:04x}", text(now.format(format)), (number >> 8) & 0xffff),
            number,
            started: text(now.format(rfc)),
        }
    }
}

impl Default for Name {
    fn default() -> Self {
        Self::new()
    }
}

impl Results {
    /// From what was measured; `run` has everything but that.
    pub fn new(mut run: Run, measured: Measured, plans: BTreeMap<String, Json>) -> Self {
        let elapsed = measured.elapsed.max(1e-9);
        let mut histograms = BTreeMap::new();
        for statement in measured.statements {
            run.statements.push(Statement {
                rate: statement.counts.good() as f64 / elapsed,
                response: Latency::of(&statement.response),
                service: Latency::of(&statement.service),
                name: statement.name.clone(),
                kind: statement.kind,
                counts: statement.counts,
            });
            let all = Histograms {
                response: statement.response,
                service: statement.service,
                blocks: statement.blocks,
            };
            histograms.insert(statement.name, all);
        }
        run.elapsed = measured.elapsed;
        run.cpu = measured.cpu;
        run.lag_p99 = measured.lag_p99;
        run.unserved = measured.unserved;
        run.interrupted = measured.interrupted;
        run.invalid = measured.invalid;
        run.outage = measured.outage;
        run.events = measured.events;
        Self { run, seconds: measured.seconds, errors: measured.errors, histograms, plans }
    }

    /// Writes them into `dir`/ID; returns that folder.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&self, dir: &Path) -> anyhow::Result<PathBuf> {
        let dir = dir.join(&self.run.id);
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        fs::create_dir_all(dir.join("plans")).with_context(|| format!("cannot make {}", dir.display()))?;
        write("seconds.csv", self.seconds_csv())?;
        write("errors.csv", self.errors_csv())?;
        write("histograms.json", serde_json::to_string(&self.encode()?)?)?;
        for (name, plan) in &self.plans {
            write(&format!("plans/{name}.json"), serde_json::to_string_pretty(plan)?)?;
        }
        // Last: a folder with it is complete.
        write("run.json", serde_json::to_string_pretty(&self.run)?)?;
        Ok(dir)
    }

    fn encode(&self) -> anyhow::Result<BTreeMap<&str, BTreeMap<&str, Vec<String>>>> {
        let mut serializer = V2DeflateSerializer::new();
        let mut encode = |histogram: &Histogram<u64>| {
            let mut bytes = Vec::new();
            serializer
                .serialize(histogram, &mut bytes)
                .map_err(|error| anyhow::anyhow!("cannot encode: {error:?}"))?;
            anyhow::Ok(BASE64.encode(bytes))
        };
        let mut all = BTreeMap::new();
        for (name, of) in &self.histograms {
            let blocks = of.blocks.iter().map(&mut encode).collect::<anyhow::Result<_>>()?;
            let one = BTreeMap::from([
                ("response", vec![encode(&of.response)?]),
                ("service", vec![encode(&of.service)?]),
                ("blocks", blocks),
            ]);
            all.insert(name.as_str(), one);
        }
        Ok(all)
    }

    fn seconds_csv(&self) -> String {
        let mut out = "second,statement,ok,weak,idle,aborted,indeterminate,retries,mean_us,p50_us,p95_us,p99_us,max_us\n".to_owned();
        for SecondRow { second, statement, counts: c, latency: l } in &self.seconds {
            let _ = writeln!(
                out,
                "{second},{statement},{},{},{},{},{},{},{:.0},{},{},{},{}",
                c.ok,
                c.weak,
                c.idle,
                c.aborted,
                c.indeterminate,
                c.retries,
                l.mean,
                l.p50,
                l.p95,
                l.p99,
                l.max
            );
        }
        out
    }

    fn errors_csv(&self) -> String {
        let mut out = "statement,phase,sqlstate,count,first_s,last_s,message\n".to_owned();
        for row in &self.errors {
            let message = row.message.replace('"', "\"\"").replace('\n', " ");
            let statement = row.statement.as_deref().unwrap_or("");
            let _ = writeln!(
                out,
                "{statement},{},{},{},{:.3},{:.3},\"{message}\"",
                row.phase, row.code, row.count, row.first, row.last
            );
        }
        out
    }

    /// Reads a run's folder.
    ///
    /// # Errors
    /// Not such a folder, or not of a format that is known.
    pub fn read(dir: &Path) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let run: Run = serde_json::from_str(&read("run.json")?)
            .with_context(|| format!("cannot read {}", dir.join("run.json").display()))?;
        ensure!(run.format == FORMAT, "{} is of format {}, not {FORMAT}", dir.display(), run.format);
        let encoded: BTreeMap<String, BTreeMap<String, Vec<String>>> =
            serde_json::from_str(&read("histograms.json")?)?;
        let mut decoder = Deserializer::new();
        let mut decode = |text: &String| {
            let bytes = BASE64.decode(text)?;
            let result = decoder.deserialize::<u64, _>(&mut bytes.as_slice());
            result.map_err(|error| anyhow::anyhow!("cannot decode a histogram: {error:?}"))
        };
        let mut histograms = BTreeMap::new();
        for (name, of) in encoded {
            let mut list = |key: &str| -> anyhow::Result<Vec<Histogram<u64>>> {
                of.get(key).into_iter().flatten().map(&mut decode).collect()
            };
            let (response, service) = (list("response")?, list("service")?);
            let first = |list: Vec<_>| list.into_iter().next().context("a histogram is missing");
            let all =
                Histograms { response: first(response)?, service: first(service)?, blocks: list("blocks")? };
            histograms.insert(name, all);
        }
        let mut plans = BTreeMap::new();
        for statement in &run.statements {
            if let Ok(text) = read(&format!("plans/{}.json", statement.name)) {
                plans.insert(statement.name.clone(), serde_json::from_str(&text)?);
            }
        }
        let seconds = read("seconds.csv")?.lines().skip(1).filter_map(parse_second).collect();
        let errors = read("errors.csv")?.lines().skip(1).filter_map(parse_error).collect();
        Ok(Self { run, seconds, errors, histograms, plans })
    }
}

/// A line of `seconds.csv`.
fn parse_second(line: &str) -> Option<SecondRow> {
    let fields: Vec<&str> = line.split(',').collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(SecondRow {
        second: number(0)? as u32,
        statement: (*fields.get(1)?).to_owned(),
        counts: Counts {
            ok: number(2)?,
            weak: number(3)?,
            idle: number(4)?,
            aborted: number(5)?,
            indeterminate: number(6)?,
            retries: number(7)?,
        },
        latency: Latency {
            mean: number(8)? as f64,
            p50: number(9)?,
            p95: number(10)?,
            p99: number(11)?,
            max: number(12)?,
            ..Latency::default()
        },
    })
}

/// A line of `errors.csv`; only the message may have commas.
fn parse_error(line: &str) -> Option<ErrorRow> {
    let fields: Vec<&str> = line.splitn(7, ',').collect();
    let [statement, phase, code, count, first, last, message] = fields[..] else { return None };
    let message = message.strip_prefix('"')?.strip_suffix('"')?;
    Some(ErrorRow {
        statement: (!statement.is_empty()).then(|| statement.to_owned()),
        phase: phase.to_owned(),
        code: code.to_owned(),
        count: count.parse().ok()?,
        first: first.parse().ok()?,
        last: last.parse().ok()?,
        message: message.replace("\"\"", "\""),
    })
}
