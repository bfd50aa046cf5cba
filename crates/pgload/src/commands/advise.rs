//! `pgload advise`.

use anyhow::Context as _;
use serde_json::json;

use super::{Context, Verdict};
use crate::{
    advise::{self, How},
    cli::Advise,
    session::Connector,
    workload::Workload,
};

pub fn run(context: &Context, arguments: &Advise) -> anyhow::Result<Verdict> {
    let workload = Workload::load(&context.assets, &arguments.workload)?;
    let target = context.target()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (how, advice) = runtime.block_on(async {
        let connector =
            Connector::new(target.clone(), workload.session_setup()).map_err(anyhow::Error::msg)?;
        let session = connector.connect().await.with_context(|| format!("cannot connect to {target}"))?;
        advise::advise(&session.client, &workload, arguments.seed, arguments.build).await
    })?;
    let rows: Vec<Vec<String>> = advice
        .iter()
        .map(|advice| {
            let after = advice.after.map_or_else(|| "not tried".to_owned(), |after| format!("{after:.0}"));
            let factor =
                advice.after.map_or_else(String::new, |after| format!("x{:.2}", after / advice.before));
            vec![advice.statement.clone(), format!("{:.0}", advice.before), after, factor, advice.sql.clone()]
        })
        .collect();
    context.ui.table(&["STATEMENT", "COST", "WITH INDEX", "CHANGE", "INDEX"], &rows);
    context.ui.say(match how {
        How::Hypothetical => "tried with HypoPG; what writing costs more is not in it: `pgload optimise` measures that",
        How::Built => "tried by building and rolling back; what writing costs more is not in it: `pgload optimise` measures that",
        How::Untried => "not tried: install HypoPG, or let --build make each index and roll it back",
    });
    context.ui.document(&json!({"how": how, "advice": advice}))?;
    Ok(Verdict::Fine)
}
