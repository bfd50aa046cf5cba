//! A run with everything around it: server's counters before and after, plans, environment.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use serde_json::Value as Json;
use tokio::time::timeout;

use crate::{
    environment::{Counters, Environment},
    plan,
    results::{FORMAT, Name, Results, Run},
    rng::Rng,
    run::{self, Load, Options, Stop},
    session::{Connector, Session},
    target::Target,
    workload::{Kind, Workload},
};

/// Runs and collects. On a thread without a runtime.
///
/// # Errors
/// Those of [`run::run`]. When the server is gone afterwards, plans and counters are missing, and that is no error.
pub fn measure(
    target: &Target,
    workload: &Workload,
    options: &Options,
    name: &Name,
    stop: &Stop,
) -> anyhow::Result<Results> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let before = runtime.block_on(async {
        let session = connect(target, workload).await?;
        Counters::read(&session.client).await.context("cannot read the server's counters")
    })?;
    let measured = run::run(target, workload, options, stop)?;
    let (counters, environment, plans) = runtime.block_on(async {
        match connect(target, workload).await {
            // A server that hangs must not hold up the results.
            Ok(session) => (
                within(options.deadline, Counters::read(&session.client)).await.since(&before),
                within(options.deadline, Environment::read(&session.client)).await,
                plans(&session, workload, options.seed, options.deadline).await.unwrap_or_default(),
            ),
            Err(_) => Default::default(),
        }
    });
    let run = Run {
        format: FORMAT,
        id: name.id.clone(),
        number: name.number,
        started: name.started.clone(),
        workload: workload.name.clone(),
        workload_digest: workload.digest.clone(),
        stage: options.stage.clone(),
        target: target.to_string(),
        load: describe(options),
        seed: options.seed,
        elapsed: 0.0,
        cpu: 0.0,
        lag_p99: 0,
        unserved: 0,
        interrupted: false,
        invalid: Vec::new(),
        outage: None,
        statements: Vec::new(),
        events: Vec::new(),
        environment,
        counters,
    };
    Ok(Results::new(run, measured, plans))
}

async fn connect(target: &Target, workload: &Workload) -> anyhow::Result<Session> {
    let connector = Connector::new(target.clone(), workload.session_setup()).map_err(anyhow::Error::msg)?;
    connector.connect().await.with_context(|| format!("cannot connect to {target}"))
}

/// What is asked for, or nothing when there is no answer in time.
async fn within<T: Default, E>(limit: Duration, work: impl Future<Output = Result<T, E>>) -> T {
    timeout(limit, work).await.ok().and_then(Result::ok).unwrap_or_default()
}

/// Explains every statement that reads, with the first parameters of this seed, each in `limit`.
///
/// # Errors
/// A domain cannot be looked up. Statements that cannot be explained are left out.
pub async fn plans(
    session: &Session,
    workload: &Workload,
    seed: u64,
    limit: Duration,
) -> anyhow::Result<BTreeMap<String, Json>> {
    let late = || format!("no answer in {:.0} s", limit.as_secs_f64());
    // The server gives up a statement that takes too long, so that the next can be explained.
    let prepare = async {
        session.client.batch_execute(&format!("SET statement_timeout = {}", limit.as_millis())).await?;
        workload.bind(&session.client).await
    };
    let bound = timeout(limit, prepare).await.with_context(late)??;
    let mut plans = BTreeMap::new();
    for (index, statement) in workload.statements.iter().enumerate() {
        if statement.kind == Kind::Write || statement.steps.len() > 1 {
            continue;
        }
        let values = bound.values(index, &mut Rng::new(seed, 103, 0));
        let plan = plan::explain(&session.client, &statement.steps[0], &values, true);
        match timeout(limit + Duration::from_secs(2), plan).await {
            Ok(Ok(plan)) => {
                plans.insert(statement.name.clone(), plan);
            }
            Ok(Err(_)) => {}
            Err(_) => break,
        }
    }
    Ok(plans)
}

/// The load in words.
fn describe(options: &Options) -> String {
    match &options.load {
        Load::Open { segments, arrivals, connections } => {
            let rate = |segment: &run::Segment| match segment.from == segment.to {
                true => format!("{}", segment.from),
                false => format!("{}..{}", segment.from, segment.to),
            };
            let rates: Vec<String> = segments.iter().map(rate).collect();
            format!("open loop, {}/s, {arrivals:?}, {connections} connections", rates.join(","))
        }
        Load::Closed { clients, think } => format!("closed loop, {clients} clients, think time {think:?}"),
    }
}
