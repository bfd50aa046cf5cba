//! `pgload publish`.

use anyhow::Context as _;

use super::{Context, Verdict};
use crate::{cli::Publish, results::Results, session::Connector, store};

pub fn run(context: &Context, arguments: &Publish) -> anyhow::Result<Verdict> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let target = context.target()?;
    for path in &arguments.runs {
        let results = Results::read(path)?;
        runtime.block_on(async {
            let connector = Connector::new(target.clone(), String::new()).map_err(anyhow::Error::msg)?;
            let mut session =
                connector.connect().await.with_context(|| format!("cannot connect to {target}"))?;
            store::publish(&mut session.client, &context.assets, &results).await
        })?;
        context.ui.say(&format!("run {} is in schema pgload of {target}", results.run.id));
    }
    Ok(Verdict::Fine)
}
