//! Workloads as data: named statements, their parameters and how often each is run. See docs/load.md for the format.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio_postgres::{Client, types::Type};

use crate::{
    assets::Assets,
    data::hex,
    rng::{Ranks, Rng, Scatter},
    script::{self, Step},
    value::Value,
};

/// Whether a statement changes data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It does not.
    Read,
    /// It may.
    Write,
}

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    workload: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    search_path: Option<String>,
    #[serde(default)]
    setup: Option<String>,
    /// Other workloads, and the share of all statements each has.
    #[serde(default)]
    include: IndexMap<String, f64>,
    #[serde(default)]
    domains: IndexMap<String, String>,
    #[serde(default)]
    statements: IndexMap<String, StatementFile>,
    #[serde(default)]
    checks: IndexMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StatementFile {
    kind: Kind,
    #[serde(default = "one")]
    weight: f64,
    #[serde(default)]
    description: String,
    /// Share of rows it reads or changes, in words.
    #[serde(default)]
    selectivity: String,
    #[serde(default)]
    isolation: Option<String>,
    #[serde(default)]
    sql: Option<String>,
    #[serde(default)]
    file: Option<String>,
    #[serde(default)]
    parameters: IndexMap<String, ParameterFile>,
}

fn one() -> f64 {
    1.0
}

/// Exactly one of the first four says how it is drawn.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ParameterFile {
    /// All values alike.
    uniform: Option<Over>,
    /// Few values most of the time, spread over the domain.
    zipf: Option<Over>,
    /// The end of the domain most of the time: exponential, with a mean of 5 % of its length.
    recent: Option<Over>,
    one_of: Option<Vec<Scalar>>,
    weights: Option<Vec<f64>>,
    exponent: Option<f64>,
    /// An array of so many values, all different.
    count: Option<[u32; 2]>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Over {
    Range([i64; 2]),
    Domain(String),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Int(i64),
    Text(String),
}

/// A workload that is complete and checked, but knows no database yet.
#[derive(Clone, Debug)]
pub struct Workload {
    /// As it is called.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// For `SET search_path`.
    pub search_path: Option<String>,
    /// Makes what the workload needs, when the schema does not have it.
    pub setup: Option<String>,
    domains: IndexMap<String, String>,
    /// What is run.
    pub statements: Vec<Statement>,
    /// Queries that return what is wrong: no row when all is well.
    pub checks: IndexMap<String, String>,
    /// SHA-256 of everything that decides what is run.
    pub digest: String,
}

/// Something that is run: one statement, or a transaction of several.
#[derive(Clone, Debug)]
pub struct Statement {
    /// Unique.
    pub name: String,
    /// Whether it changes data.
    pub kind: Kind,
    /// How often, relative to the others.
    pub weight: f64,
    /// What it does.
    pub description: String,
    /// Share of rows, in words.
    pub selectivity: String,
    /// Isolation level, when not that of the server.
    pub isolation: Option<String>,
    /// What is sent.
    pub steps: Vec<Step>,
    parameters: IndexMap<String, ParameterFile>,
}

impl Workload {
    /// Reads a workload of the built-in or the user's files.
    ///
    /// # Errors
    /// There is none of this name; whatever is wrong with it, with its place.
    pub fn load(assets: &Assets, name: &str) -> anyhow::Result<Self> {
        let path = format!("workloads/{name}.yaml");
        let text = assets.text(&path).map_err(|_| {
            let names: Vec<&str> = names(assets).collect();
            let near = names.iter().min_by_key(|known| strsim::osa_distance(known, name));
            let near = near.filter(|known| strsim::osa_distance(known, name) <= 2);
            let hint = near.map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
            anyhow::anyhow!("there is no workload `{name}`{hint} There are: {}", names.join(", "))
        })?;
        let file: File = serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("{path}: {error}"))?;
        ensure!(file.workload == name, "{path}: says it is workload `{}`", file.workload);
        let mut workload = Self {
            name: file.workload,
            description: file.description,
            search_path: file.search_path,
            setup: file.setup,
            domains: file.domains,
            statements: Vec::new(),
            checks: file.checks,
            digest: String::new(),
        };
        for (name, statement) in file.statements {
            let statement = Statement::new(assets, &workload.name, &name, statement);
            workload.statements.push(statement.with_context(|| format!("{path}: statement {name}"))?);
        }
        for (other, share) in file.include {
            let other = Self::load(assets, &other).with_context(|| format!("{path}: include"))?;
            workload.take_in(other, share).with_context(|| format!("{path}: include"))?;
        }
        workload.check().with_context(|| path.clone())?;
        workload.digest = workload.compute_digest();
        Ok(workload)
    }

    /// Adds another workload, whose statements together have this weight.
    fn take_in(&mut self, other: Self, share: f64) -> anyhow::Result<()> {
        let sum: f64 = other.statements.iter().map(|statement| statement.weight).sum();
        for mut statement in other.statements {
            ensure!(self.statement(&statement.name).is_none(), "statement {} is there twice", statement.name);
            statement.weight *= share / sum;
            self.statements.push(statement);
        }
        self.domains.extend(other.domains);
        self.checks.extend(other.checks);
        self.search_path = self.search_path.take().or(other.search_path);
        self.setup = self.setup.take().or(other.setup);
        Ok(())
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.statements.is_empty(), "has no statements");
        for statement in &self.statements {
            let name = &statement.name;
            ensure!(
                statement.weight >= 0.0 && statement.weight.is_finite(),
                "statement {name}: weight is negative"
            );
            for (parameter, file) in &statement.parameters {
                file.check(self).with_context(|| format!("statement {name}: parameter {parameter}"))?;
            }
        }
        Ok(())
    }

    /// What decides what is run, without remarks and weights of files it came from.
    fn compute_digest(&self) -> String {
        let mut digest = Sha256::new();
        for statement in &self.statements {
            digest.update(format!(
                "{} {:?} {} {:?} {:?} {:?}\n",
                statement.name,
                statement.kind,
                statement.weight,
                statement.isolation,
                statement.steps,
                statement.parameters
            ));
        }
        digest.update(format!("{:?}", self.domains));
        hex(&digest.finalize())
    }

    /// A statement by name.
    pub fn statement(&self, name: &str) -> Option<&Statement> {
        self.statements.iter().find(|statement| statement.name == name)
    }

    /// Keeps only these statements.
    ///
    /// # Errors
    /// One of them does not exist.
    pub fn only(&mut self, names: &[String]) -> anyhow::Result<()> {
        for name in names {
            ensure!(self.statement(name).is_some(), "workload {} has no statement `{name}`", self.name);
        }
        if !names.is_empty() {
            self.statements.retain(|statement| names.contains(&statement.name));
            self.digest = self.compute_digest();
        }
        Ok(())
    }

    /// Runs other SQL for a statement from now on, with the same parameters.
    ///
    /// # Errors
    /// There is no such statement; what is wrong with the SQL.
    pub fn rewrite(&mut self, name: &str, sql: &str) -> anyhow::Result<()> {
        let statement = self.statements.iter_mut().find(|statement| statement.name == name);
        let statement = statement.with_context(|| format!("there is no statement `{name}` to rewrite"))?;
        statement.steps = script::parse(sql).map_err(|error| anyhow::anyhow!("statement {name}: {error}"))?;
        statement.check()?;
        Ok(())
    }

    /// SQL for each new connection.
    pub fn session_setup(&self) -> String {
        self.search_path.as_ref().map_or_else(String::new, |path| format!("SET search_path = {path}"))
    }

    /// Looks the domains up in a database and makes everything ready to draw.
    ///
    /// # Errors
    /// A domain's query fails or returns something else than one row of two numbers or days.
    pub async fn bind(&self, client: &Client) -> anyhow::Result<Bound> {
        let mut domains = BTreeMap::new();
        for (name, sql) in &self.domains {
            let range =
                Range::look_up(client, sql).await.with_context(|| format!("cannot look up domain {name}"))?;
            domains.insert(name.clone(), range);
        }
        let draws = self.statements.iter().map(|statement| {
            let draw = |(name, file): (&String, &ParameterFile)| Ok((name.clone(), file.bind(&domains)?));
            statement.parameters.iter().map(draw).collect::<anyhow::Result<Vec<_>>>()
        });
        let weights = Ranks::weighted(self.statements.iter().map(|statement| statement.weight));
        Ok(Bound { draws: draws.collect::<anyhow::Result<_>>()?, weights })
    }
}

/// Names of all workloads.
pub fn names(assets: &Assets) -> impl Iterator<Item = &str> {
    assets.folder("workloads").filter_map(|(name, _)| name.strip_suffix(".yaml"))
}

impl Statement {
    fn new(assets: &Assets, workload: &str, name: &str, file: StatementFile) -> anyhow::Result<Self> {
        let sql = match (&file.sql, &file.file) {
            (Some(_), Some(_)) => bail!("has both sql and file"),
            (Some(sql), None) => sql,
            (None, path) => {
                let path = path.clone().unwrap_or_else(|| format!("{workload}/{name}.sql"));
                assets.text(&format!("workloads/{path}"))?
            }
        };
        let statement = Self {
            name: name.to_owned(),
            kind: file.kind,
            weight: file.weight,
            description: file.description,
            selectivity: file.selectivity,
            isolation: file.isolation,
            steps: script::parse(sql).map_err(anyhow::Error::msg)?,
            parameters: file.parameters,
        };
        statement.check()?;
        Ok(statement)
    }

    /// Names in the SQL are parameters, or may be columns that an earlier statement kept.
    fn check(&self) -> anyhow::Result<()> {
        if let Some(level) = &self.isolation {
            let levels = ["read committed", "repeatable read", "serializable"];
            ensure!(
                levels.contains(&level.as_str()),
                "isolation `{level}` is not one of {}",
                levels.join(", ")
            );
        }
        let mut kept = false;
        for step in &self.steps {
            for name in &step.parameters {
                ensure!(kept || self.parameters.contains_key(name), "`:{name}` is no parameter");
            }
            kept |= step.rows != script::Rows::Drop;
        }
        for name in self.parameters.keys() {
            let used = self.steps.iter().any(|step| step.parameters.contains(name));
            ensure!(used, "parameter {name} is not used");
        }
        Ok(())
    }

    /// Whether it is sent inside of BEGIN and COMMIT.
    pub fn is_transaction(&self) -> bool {
        self.steps.len() > 1 || self.isolation.is_some()
    }
}

impl ParameterFile {
    fn check(&self, workload: &Workload) -> anyhow::Result<()> {
        let over = [&self.uniform, &self.zipf, &self.recent];
        let ways = over.iter().filter(|way| way.is_some()).count() + usize::from(self.one_of.is_some());
        ensure!(ways == 1, "needs exactly one of uniform, zipf, recent, one_of");
        for over in over.into_iter().flatten() {
            match over {
                Over::Range([low, high]) => ensure!(low <= high, "its range is empty"),
                Over::Domain(name) => {
                    ensure!(workload.domains.contains_key(name), "there is no domain `{name}`");
                }
            }
        }
        let values = self.one_of.as_ref().map_or(0, Vec::len);
        ensure!(self.one_of.is_none() || values > 0, "one_of has no values");
        if let Some(weights) = &self.weights {
            ensure!(weights.len() == values, "weights are for one_of, one each");
        }
        ensure!(self.exponent.is_none() || self.zipf.is_some(), "exponent is for zipf");
        if let Some([low, high]) = self.count {
            ensure!(
                (1..=1000).contains(&low) && (low..=1000).contains(&high),
                "count is [least, most] up to 1000"
            );
        }
        Ok(())
    }

    fn bind(&self, domains: &BTreeMap<String, Range>) -> anyhow::Result<Draw> {
        let range = |over: &Over| match over {
            Over::Range([low, high]) => Range { low: *low, high: *high, days: false },
            Over::Domain(name) => {
                domains.get(name).copied().unwrap_or(Range { low: 0, high: 0, days: false })
            }
        };
        let how = if let Some(over) = &self.uniform {
            How::Uniform(range(over))
        } else if let Some(over) = &self.recent {
            How::Recent(range(over))
        } else if let Some(over) = &self.zipf {
            let range = range(over);
            let n = range.len();
            ensure!(n <= 20_000_000, "a zipf parameter over {n} values would need too much memory");
            let ranks = match self.exponent {
                Some(exponent) => Ranks::zipf_with(n as usize, exponent),
                None => Ranks::zipf(n as usize),
            };
            How::Zipf(range, ranks, Scatter::new(n))
        } else {
            let values = self.one_of.clone().unwrap_or_default();
            let weights = self.weights.clone().unwrap_or_else(|| vec![1.0; values.len()]);
            let value = |scalar: Scalar| match scalar {
                Scalar::Int(int) => Value::Int(int),
                Scalar::Text(text) => Value::Text(text),
            };
            How::OneOf(values.into_iter().map(value).collect(), Ranks::weighted(weights))
        };
        Ok(Draw { how, count: self.count })
    }
}

/// Numbers, or days since 1970-01-01, both ends included.
#[derive(Clone, Copy, Debug)]
struct Range {
    low: i64,
    high: i64,
    days: bool,
}

impl Range {
    async fn look_up(client: &Client, sql: &str) -> anyhow::Result<Self> {
        let row = client.query_one(sql, &[]).await?;
        ensure!(row.len() == 2, "it returns {} columns instead of 2", row.len());
        let days = row.columns()[0].type_() == &Type::DATE;
        let mut ends = [0; 2];
        for (index, end) in ends.iter_mut().enumerate() {
            let crate::value::AsSent(ty, bytes) = row.try_get(index)?;
            let bytes = bytes.context("it returns NULL: is the table empty? `pgload init` fills it")?;
            *end = match ty {
                Type::INT2 => i16::from_be_bytes(bytes[..].try_into()?).into(),
                Type::INT4 => i32::from_be_bytes(bytes[..].try_into()?).into(),
                Type::INT8 => i64::from_be_bytes(bytes[..].try_into()?),
                Type::DATE => i64::from(i32::from_be_bytes(bytes[..].try_into()?)) + 10_957,
                other => bail!("it returns type {other} instead of integers or dates"),
            };
        }
        ensure!(ends[0] <= ends[1], "it is empty");
        Ok(Self { low: ends[0], high: ends[1], days })
    }

    fn len(self) -> u64 {
        (self.high - self.low) as u64 + 1
    }
}

#[derive(Debug)]
enum How {
    Uniform(Range),
    Recent(Range),
    Zipf(Range, Ranks, Scatter),
    OneOf(Vec<Value>, Ranks),
}

#[derive(Debug)]
struct Draw {
    how: How,
    count: Option<[u32; 2]>,
}

impl Draw {
    fn int(&self, rng: &mut Rng) -> (i64, bool) {
        match &self.how {
            How::Uniform(range) => (rng.range(range.low, range.high), range.days),
            How::Recent(range) => {
                let back = rng.exponential(range.len() as f64 / 20.0) as i64;
                ((range.high - back).max(range.low), range.days)
            }
            How::Zipf(range, ranks, scatter) => {
                (range.low + scatter.at(ranks.draw(rng) as u64) as i64 - 1, range.days)
            }
            How::OneOf(values, ranks) => match values[ranks.draw(rng)] {
                Value::Int(value) => (value, false),
                _ => (0, false),
            },
        }
    }

    fn value(&self, rng: &mut Rng) -> Value {
        if let Some([low, high]) = self.count {
            let wanted = rng.range(low.into(), high.into()) as usize;
            let mut values = Vec::with_capacity(wanted);
            // A domain may have fewer values than are wanted.
            for _ in 0..wanted * 20 {
                let (value, _) = self.int(rng);
                if !values.contains(&value) {
                    values.push(value);
                }
                if values.len() == wanted {
                    break;
                }
            }
            return Value::Ints(values);
        }
        if let How::OneOf(values, ranks) = &self.how {
            return values[ranks.draw(rng)].clone();
        }
        match self.int(rng) {
            (days, true) => Value::Day(days as i32),
            (value, false) => Value::Int(value),
        }
    }
}

/// A workload that knows the database it is for.
#[derive(Debug)]
pub struct Bound {
    draws: Vec<Vec<(String, Draw)>>,
    weights: Ranks,
}

/// Values by name.
pub type Values = Vec<(String, Value)>;

impl Bound {
    /// Index of the next statement.
    pub fn statement(&self, rng: &mut Rng) -> usize {
        self.weights.draw(rng)
    }

    /// Values of all parameters of a statement.
    pub fn values(&self, statement: usize, rng: &mut Rng) -> Values {
        self.draws[statement].iter().map(|(name, draw)| (name.clone(), draw.value(rng))).collect()
    }
}
