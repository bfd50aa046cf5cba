//! `pgprov doctor`: every prerequisite, with its remedy.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use pgplan::{machine::Accel, observed::PoolSeen, size::GIB};
use serde::Serialize;
use serde_json::json;

use crate::{
    cli::Global,
    error::{Error, Result},
    libvirt::Libvirt,
    state,
    ui::{self, Ui},
};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// Works, but not as well as it could.
    Notice,
    Missing,
}

#[derive(Clone, Debug, Serialize)]
struct Check {
    what: &'static str,
    verdict: Verdict,
    found: String,
    remedy: Option<String>,
}

/// Programs that pgprov runs, what for, and the Debian package that has them.
const PROGRAMS: [(&str, &str, &str); 6] = [
    ("mmdebstrap", "builds images", "mmdebstrap"),
    ("mke2fs", "builds images", "e2fsprogs"),
    ("qemu-img", "builds images", "qemu-utils"),
    ("qemu-system-x86_64", "runs hosts", "qemu-system-x86"),
    ("dnsmasq", "gives hosts their addresses", "dnsmasq-base"),
    ("ssh", "pgprov ssh and psql", "openssh-client"),
];
/// Older ones crash Debian 13 guests under emulation.
const QEMU_MAJOR: u32 = 8;

/// Checks everything and prints the table.
///
/// # Errors
/// Something is missing.
pub fn run(ui: &Ui, global: &Global) -> Result {
    let mut checks: Vec<Check> =
        PROGRAMS.iter().map(|(name, purpose, package)| program(name, purpose, package)).collect();
    checks.push(qemu_version());
    checks.push(same_page_merging());
    checks.push(state_directory());
    checks.extend(hypervisor(global));
    if ui.json() {
        ui.out_json(&json!({"checks": checks}));
    } else {
        let rows: Vec<Vec<String>> = checks
            .iter()
            .map(|check| {
                let sign = match check.verdict {
                    Verdict::Ok => "ok",
                    Verdict::Notice => "notice",
                    Verdict::Missing => "MISSING",
                };
                vec![
                    sign.to_owned(),
                    check.what.to_owned(),
                    check.found.clone(),
                    check.remedy.clone().unwrap_or_default(),
                ]
            })
            .collect();
        ui.out(&ui::table(&["", "WHAT", "FOUND", "REMEDY"], &rows));
    }
    let missing = checks.iter().filter(|check| check.verdict == Verdict::Missing).count();
    match missing {
        0 => Ok(()),
        count => Err(Error::failed(format!("{count} of {} checks failed", checks.len()))
            .hint("scripts/setup installs what is missing on Debian 12 and 13")),
    }
}

fn program(name: &'static str, purpose: &str, package: &str) -> Check {
    // Some of them are in sbin, which is not on every user's path.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    match dirs.map(|dir| dir.join(name)).find(|file| file.is_file()) {
        Some(file) => {
            Check { what: name, verdict: Verdict::Ok, found: file.display().to_string(), remedy: None }
        }
        None => Check {
            what: name,
            verdict: Verdict::Missing,
            found: format!("not there; it {purpose}"),
            remedy: Some(format!("apt-get install {package}")),
        },
    }
}

/// Hosts are copies of one memory: QEMU offers its pages to the kernel, which may keep equal ones once.
fn same_page_merging() -> Check {
    let what = "shared memory";
    match std::fs::read_to_string("/sys/kernel/mm/ksm/run").as_deref().map(str::trim) {
        Ok("1") => {
            Check { what, verdict: Verdict::Ok, found: "equal pages are merged".to_owned(), remedy: None }
        }
        Ok(_) => Check {
            what,
            verdict: Verdict::Notice,
            found: "every host has all of its memory for itself".to_owned(),
            remedy: Some(
                "echo 1 >/sys/kernel/mm/ksm/run saves memory, and costs some processor time".to_owned(),
            ),
        },
        Err(_) => Check {
            what,
            verdict: Verdict::Notice,
            found: "this kernel cannot merge equal pages".to_owned(),
            remedy: None,
        },
    }
}

fn qemu_version() -> Check {
    let what = "QEMU version";
    let output = Command::new("qemu-system-x86_64").arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let version = text.split_whitespace().nth(3).unwrap_or("unknown").to_owned();
    let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
    if major >= QEMU_MAJOR {
        return Check { what, verdict: Verdict::Ok, found: version, remedy: None };
    }
    let remedy = format!(
        "install QEMU {QEMU_MAJOR} or newer; on Debian 12 from bookworm-backports, as scripts/setup does"
    );
    Check { what, verdict: Verdict::Missing, found: version, remedy: Some(remedy) }
}

fn state_directory() -> Check {
    let what = "state directory";
    let ready = state::root().map_err(anyhow::Error::from).and_then(|root| {
        crate::durable::private_dir(&root)?;
        Ok(root)
    });
    match ready {
        Ok(root) => Check { what, verdict: Verdict::Ok, found: root.display().to_string(), remedy: None },
        Err(error) => Check {
            what,
            verdict: Verdict::Missing,
            found: format!("{error:#}"),
            remedy: Some("set PGPROV_STATE_DIR to a folder of yours".to_owned()),
        },
    }
}

fn hypervisor(global: &Global) -> Vec<Check> {
    let inventory = Libvirt::connect(global.connect.as_deref())
        .and_then(|libvirt| Ok((libvirt.uri().to_owned(), libvirt.inventory()?)));
    let (uri, inventory) = match inventory {
        Ok(both) => both,
        Err(error) => {
            let remedy = error.hint().map(str::to_owned);
            return vec![Check {
                what: "libvirt",
                verdict: Verdict::Missing,
                found: error.to_string(),
                remedy,
            }];
        }
    };
    let seen = &inventory.hypervisor;
    let ok = |what, found| Check { what, verdict: Verdict::Ok, found, remedy: None };
    let mut checks =
        vec![ok("libvirt", format!("{uri}: libvirt {}, QEMU {}", seen.libvirt_version, seen.qemu_version))];
    checks.push(match seen.accel {
        Accel::Kvm => ok("acceleration", "KVM".to_owned()),
        Accel::Emulated => Check {
            what: "acceleration",
            verdict: Verdict::Notice,
            found: format!("none: {}", seen.accel_reason.as_deref().unwrap_or("unknown")),
            remedy: Some(
                "enable virtualisation in the firmware or the outer VM; labs work without, ten times slower"
                    .to_owned(),
            ),
        },
    });
    let memory = format!("{:.1} GiB of {:.1} GiB free", gib(seen.memory_available.0), gib(seen.memory.0));
    checks.push(ok("memory", memory));
    checks.push(match &inventory.pool {
        PoolSeen::Missing => ok("storage pool", "none yet; `up` makes it".to_owned()),
        PoolSeen::Ours { active: true, path, free } => {
            ok("storage pool", format!("{path}, {:.1} GiB free", gib(free.0)))
        }
        PoolSeen::Ours { active: false, path, .. } => Check {
            what: "storage pool",
            verdict: Verdict::Missing,
            found: format!("{path}, stopped, and does not start"),
            remedy: Some("see why: virsh pool-start pgprov".to_owned()),
        },
        PoolSeen::Foreign(owner) => Check {
            what: "storage pool",
            verdict: Verdict::Missing,
            found: format!("the name pgprov is taken: {owner}"),
            remedy: Some("rename or remove that pool".to_owned()),
        },
    });
    if seen.arch != "x86_64" {
        let remedy = Some("connect to an x86_64 hypervisor with --connect".to_owned());
        checks.push(Check {
            what: "architecture",
            verdict: Verdict::Missing,
            found: seen.arch.clone(),
            remedy,
        });
    }
    if !Path::new("/etc/debian_version").exists() {
        let found = "this is not Debian; images are built with its package tools".to_owned();
        checks.push(Check { what: "operating system", verdict: Verdict::Notice, found, remedy: None });
    }
    checks
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / GIB as f64
}
