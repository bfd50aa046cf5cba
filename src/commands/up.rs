//! `pgprov up`: observe, plan, execute, observe again, until there is nothing left to do.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use pgplan::plan::Step;

use super::{
    checkpoint,
    draft::{Draft, Mode},
    plan::Saved,
    status,
};

use crate::{
    cli::{self, Global, Up},
    error::{Error, Result},
    execute::Timing,
    ui::Ui,
};

/// Rounds of plan and execution before giving up: one is enough unless the world moves meanwhile.
const ROUNDS: usize = 3;

/// Brings the lab in line with its topology.
///
/// # Errors
/// The topology has errors, something is missing on this machine, a step failed, or consent was not given.
pub fn run(ui: &Ui, global: &Global, args: &Up) -> Result {
    let saved = Saved::read(&args.file)?;
    let (file, restart, machines) = match &saved {
        Some(saved) => (saved.topology.as_path(), saved.restart, saved.hosts.as_deref()),
        None => (args.file.as_path(), args.restart, args.hosts.as_deref()),
    };
    if args.dry_run {
        return super::plan::run(
            ui,
            global,
            &cli::Plan { file: file.to_owned(), restart, hosts: args.hosts.clone(), out: None },
        );
    }
    let begun = Instant::now();
    let mode = Mode::Apply { boot_limit: Duration::from_secs(args.boot_timeout), by_boot: args.boot };
    checkpoint::finish_pending(ui, global, file)?;
    let mut draft = Draft::new(ui, global, file, machines, mode)?.with_restart(restart.into());
    let mut restored = None;
    if saved.is_none() && !args.boot && !args.no_checkpoint && draft.is_put_away()? {
        let wanted = draft.digest_of_hosts()?;
        // Going back needs the lab's lock.
        drop(draft);
        restored = checkpoint::from_ready(ui, global, file)?;
        // Hosts that had all of that, and were seen to live since, need not be asked whether they have it.
        let in_line = restored.as_ref().is_some_and(|ready| ready.in_line.as_ref() == Some(&wanted));
        draft = if in_line && restart != cli::Restart::Rolling {
            Draft::new(ui, global, file, None, Mode::Restore)?
        } else {
            Draft::new(ui, global, file, machines, mode)?.with_restart(restart.into())
        };
    }
    if let Some(Err(refusal)) = saved.map(|saved| saved.refuse_other(&draft)) {
        draft.abandon()?;
        return Err(refusal);
    }
    draft.warn_of_faults(ui)?;
    let has_other_hosts = draft.plan.steps.iter().any(Step::changes_hosts);
    let mut changes = usize::from(restored.is_some());
    let mut timings: Vec<Timing> = Vec::new();
    let mut agreed = BTreeSet::new();
    for round in 0..=ROUNDS {
        for note in draft.plan.notes.iter().filter(|_| round == 0) {
            ui.warn(note);
        }
        if draft.plan.is_empty() {
            break;
        }
        if round == ROUNDS {
            return Err(Error::failed(format!(
                "after {ROUNDS} rounds there is still something to do:\n{}",
                draft.plan
            )));
        }
        // What comes to light only later needs consent as well.
        let disruptive = draft.plan.disruptive();
        if round == 0 || disruptive.iter().any(|what| !agreed.contains(what)) {
            if let Err(refusal) = draft.admit(ui, args.yes) {
                draft.abandon()?;
                return Err(refusal);
            }
            agreed.extend(disruptive);
        }
        let steps = draft.plan.steps.len() + draft.plan.turns.len();
        // A checkpoint comes between, and stops the hosts.
        let is_shown = !ui.json() && (args.no_checkpoint || !has_other_hosts);
        let done = draft.execute(is_shown)?;
        changes += steps + done.iter().map(|timing| timing.changes).sum::<usize>();
        timings.extend(done);
        draft.observe_again()?;
    }
    draft.finish()?;
    let elapsed = begun.elapsed();
    if has_other_hosts && !args.no_checkpoint {
        draft.make_ready(ui);
    }
    report(ui, &mut draft, changes, &timings, elapsed)
}

fn report(ui: &Ui, draft: &mut Draft, changes: usize, timings: &[Timing], elapsed: Duration) -> Result {
    let lab = draft.lab().clone();
    let seconds = elapsed.as_secs_f64();
    if ui.json() {
        let hosts: Vec<_> = timings
            .iter()
            .map(|t| serde_json::json!({"host": t.host, "boot_seconds": t.boot.as_secs_f64(), "configure_seconds": t.configure.as_secs_f64()}))
            .collect();
        ui.out_json(
            &serde_json::json!({"lab": lab.name, "changes": changes, "seconds": seconds, "hosts": hosts}),
        );
        return Ok(());
    }
    if changes == 0 {
        ui.out(&format!("lab {} is as its topology says: 0 changes ({seconds:.1} s)", lab.name));
        return Ok(());
    }
    let status = draft.status();
    ui.out(&format!("\nlab {} is up: {changes} changes in {seconds:.1} s\n", lab.name));
    ui.out(&status::table(ui, &status));
    ui.out(&draft.connect_lines());
    Ok(())
}
