//! `pgprov logs`: what the roles of a host logged, or its serial console.

use std::time::Duration;

use super::context::OpenLab;
use crate::{
    cli::{Global, Logs},
    error::{Error, Result},
    ui::{self, Ui},
};

/// More than any sensible number of lines.
const CONSOLE_BYTES: u64 = 256 << 10;
const LIMIT: Duration = Duration::from_secs(60);

/// Prints the last lines.
///
/// # Errors
/// There is no such lab, host or role; or the host does not answer.
pub fn run(ui: &Ui, global: &Global, args: &Logs) -> Result {
    let (open, assets) = OpenLab::find(global, args.lab.lab.as_deref())?;
    let host = open.host(&args.host)?;
    if args.console {
        let libvirt = open.hypervisor(global, "console")?;
        let tail = libvirt.console_tail(&open.lab.name, &host.name, CONSOLE_BYTES)?.unwrap_or_default();
        if tail.trim().is_empty() {
            ui.say(&format!(
                "The console of {} is empty, as it is when a host boots without trouble.",
                host.name
            ));
        }
        let lines: Vec<&str> = tail.lines().collect();
        let from = lines.len().saturating_sub(args.lines as usize);
        ui.out(&ui::printable(&lines[from..].join("\n")));
        return Ok(());
    }
    let rendered = open.rendered(&assets)?;
    let all = rendered.iter().find(|r| r.host == host.name).map(|r| r.logs.as_slice()).unwrap_or_default();
    let wanted: Vec<_> =
        all.iter().filter(|(role, _)| args.role.as_ref().is_none_or(|wanted| wanted == role)).collect();
    if wanted.is_empty() {
        let roles: Vec<&str> = all.iter().map(|(role, _)| role.as_str()).collect();
        return Err(Error::usage(format!("{} has no log of that role", host.name))
            .hint(format!("roles: {}", roles.join(", "))));
    }
    let session = open.connect(host)?;
    for (role, script) in &wanted {
        let script = format!("LINES={}\n{script}", args.lines);
        let output = session.run("sh -s", script.as_bytes(), &mut |_| {}, LIMIT)?;
        if wanted.len() > 1 {
            ui.out(&ui.style("1", &format!("== {role}")));
        }
        ui.out(&ui::printable(&String::from_utf8_lossy(&output.stdout)));
    }
    Ok(())
}
