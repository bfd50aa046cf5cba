//! `pgload verify`.

use anyhow::Context as _;
use serde_json::json;

use super::{Context, Verdict};
use crate::{
    cli::Verify,
    ledger::Book,
    session::Connector,
    verify::{self, Report, Transaction},
    workload::Workload,
};

pub fn run(context: &Context, arguments: &Verify) -> anyhow::Result<Verdict> {
    let books = Book::read_all(&arguments.ledger)?;
    let mut names: Vec<&str> = match &arguments.workload {
        Some(name) => vec![name],
        None => books.iter().map(|book| book.workload.as_str()).collect(),
    };
    names.sort_unstable();
    names.dedup();
    let workloads = names.into_iter().map(|name| Workload::load(&context.assets, name));
    let workloads = workloads.collect::<anyhow::Result<Vec<_>>>()?;
    let target = context.target()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (reports, violations) = runtime.block_on(async {
        let mut reports = Vec::new();
        let mut violations = Vec::new();
        let setup = workloads.first().map(Workload::session_setup).unwrap_or_default();
        let connector = Connector::new(target.clone(), setup).map_err(anyhow::Error::msg)?;
        let session = connector.connect().await.with_context(|| format!("cannot connect to {target}"))?;
        for book in &books {
            reports.push(verify::ledger(&session.client, book).await?);
        }
        for workload in &workloads {
            violations.extend(verify::checks(&session.client, workload).await?);
        }
        anyhow::Ok((reports, violations))
    })?;
    for report in &reports {
        describe(context, report);
    }
    let checks: usize = workloads.iter().map(|workload| workload.checks.len()).sum();
    for violation in &violations {
        context.ui.say(&format!(
            "VIOLATED: {}: {} rows, as {}",
            violation.check, violation.rows, violation.example
        ));
    }
    context.ui.say(&format!("{} of {checks} checks of the data hold", checks - violations.len()));
    context.ui.document(&json!({"ledgers": reports, "violations": violations}))?;
    let clean = reports.iter().all(Report::is_clean) && violations.is_empty();
    Ok(if clean { Verdict::Fine } else { Verdict::Bad })
}

fn describe(context: &Context, report: &Report) {
    let mut lines = vec![format!("run {}", report.run)];
    for (count, text) in [
        (report.kept, "acknowledged and present"),
        (report.lost.len() as u64, "acknowledged and LOST"),
        (report.weak_kept, "acknowledged with a warning and present"),
        (report.weak_lost.len() as u64, "acknowledged with a warning and absent"),
        (report.doubt_kept, "in doubt and present"),
        (report.doubt_absent, "in doubt and absent"),
        (report.aborted, "not committed and absent"),
        (report.unexpected.len() as u64, "present and NOT EXPECTED"),
        (report.disordered, "in the wrong order"),
    ] {
        lines.push(format!("{count:>9}  {text}"));
    }
    lines.push(format!("longest time between acknowledged writes: {:.3} s", report.longest_gap));
    let list = |lines: &mut Vec<String>, what: &str, transactions: &[Transaction]| {
        for t in transactions.iter().take(20) {
            lines.push(format!(
                "{what}: {} {}/{}, timeline {}, at {}",
                t.statement, t.client, t.seq, t.timeline, t.lsn
            ));
        }
    };
    list(&mut lines, "LOST", &report.lost);
    list(&mut lines, "lost after a warning", &report.weak_lost);
    list(&mut lines, "NOT EXPECTED", &report.unexpected);
    context.ui.say(&lines.join("\n"));
}
