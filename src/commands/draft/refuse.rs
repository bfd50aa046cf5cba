//! Why nothing is begun.

use pgplan::{lab::Lab, observed::Infra, plan::Shortage};

use crate::{
    error::{Error, Result},
    state::LabState,
    ui,
};

/// That the hypervisor has not what the plan needs.
pub fn no_room(lab: &str, shortages: &[Shortage]) -> Error {
    let rows: Vec<Vec<String>> = shortages
        .iter()
        .map(|s| vec![s.what.to_owned(), s.needed.clone(), s.available.clone(), s.remedy.to_owned()])
        .collect();
    let table = ui::table(&["", "needed", "available", "remedy"], &rows);
    Error::failed(format!("there is not enough room for lab {lab}\n{table}"))
}

/// Refuses a lab that would take what belongs to somebody else.
///
/// # Errors
/// It would: the table says what and whose.
pub fn refuse_clashes(infra: &Infra, lab: &Lab) -> Result {
    let clashes = infra.clashes(lab);
    if clashes.is_empty() {
        return Ok(());
    }
    let rows: Vec<Vec<String>> = clashes
        .iter()
        .map(|clash| vec![clash.what.to_owned(), clash.name.clone(), clash.owner.clone()])
        .collect();
    let table = ui::table(&["what", "name", "belongs to"], &rows);
    Err(Error::failed(format!("lab {} would take what is not its own\n{table}", lab.name))
        .hint("choose another `lab` name, or other subnets with `network` and `management_network`"))
}

/// Hosts without their secrets cannot be managed: their passwords and keys are gone.
///
/// # Errors
/// There are such hosts.
pub fn refuse_orphans(infra: &Infra, state: Option<&LabState>, lab: &str) -> Result {
    let known = state.is_some_and(|state| state.secrets().exists());
    if known || (infra.domains.is_empty() && infra.disks.is_empty()) {
        return Ok(());
    }
    let message = format!("lab {lab} exists on this hypervisor, but its state directory is not here");
    let hint =
        format!("set PGPROV_STATE_DIR to where it was made, or take the lab away: pgprov destroy {lab}");
    Err(Error::failed(message).hint(hint))
}
