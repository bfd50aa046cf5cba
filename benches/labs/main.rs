//! Benches on real VMs, as ratios in one run: machines are noisy, a ratio to what the same machine does bare is not.
//!
//! Run with `make bench`; needs the sandbox and a built image, as the e2e tests do. Results go to docs/benchmarks.md.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

mod bare;
mod peers;

use std::{
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use bare::Way;
use pgplan::{check, host::HostPlan, lab::Pins, machine::ImagePart, render::Roles, secrets::Secrets};

/// What is measured in a round, in order.
const NAMES: [&str; 15] = [
    "4 VMs bare, to the greeting of sshd",
    "the same 4 VMs bare, until all take connections for SSH",
    "the same 4 VMs copied from the boot snapshot, to the greeting",
    "the same copied, until all take connections",
    "the same copied, until all are told who they are and plugged in, from where `up` goes on",
    "`pgprov up --boot` of lab.yaml",
    "`pgprov up` of lab.yaml, hosts copied",
    "`pgprov up` again, nothing to do",
    "`work_mem` edited: `pgprov up`, reload on 2 hosts",
    "`pgprov checkpoint save`, 4 hosts",
    "libvirt's own restore of 4 hosts, in parallel",
    "`pgprov reset`, 4 hosts",
    "`pgprov up` from checkpoint `ready`",
    "4 VMs of Debian's packages as they are bare, to the greeting of sshd",
    "4 VMs of a stock cloud image bare, to the greeting of sshd",
];

/// How often a quick command is repeated.
const REPEAT: usize = 7;
/// How long hosts that were restored are busy with waking up.
const AT_REST: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<()> {
    if std::env::var_os("PGPROV_BENCH").is_none() {
        println!("benches run on real VMs: make bench");
        return Ok(());
    }
    let pgprov = PathBuf::from(std::env::var_os("PGPROV").context("PGPROV must name the program")?);
    let only: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|part| name == part);
    if wanted("render") {
        render()?;
    }
    if wanted("up") {
        up(&pgprov, rounds())?;
    }
    // Parts of `up`: only when they are asked for.
    if only.iter().any(|part| part == "hosts") {
        hosts(&pgprov, rounds())?;
    }
    if only.iter().any(|part| part == "reset") {
        resets(&pgprov, rounds())?;
    }
    if wanted("ansible") {
        peers::edits(&pgprov)?;
    }
    if wanted("vagrant") {
        peers::machines(&pgprov)?;
    }
    Ok(())
}

fn rounds() -> usize {
    std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(3)
}

/// `up` of lab.yaml, with hosts booted and with hosts copied, against booting the same VMs bare until their sshd greets;
/// then `up` with nothing to do, an edit, `reset` against libvirt's own restore, and `up` from a checkpoint. In turns, so
/// that all see the same noise.
fn up(pgprov: &Path, rounds: usize) -> anyhow::Result<()> {
    let state = tempfile::tempdir()?;
    let topology = Path::new("topologies/lab.yaml");
    let run = |args: &[&str]| timed(pgprov, state.path(), args);
    let image = image_in_pool(pgprov, state.path())?;
    let stock =
        std::env::var_os("PGPROV_STOCK").context("PGPROV_STOCK must name what scripts/stock-image made")?;
    let plain =
        std::env::var_os("PGPROV_PLAIN").context("PGPROV_PLAIN must name what scripts/plain-image made")?;
    let part = |folder: &std::ffi::OsStr, name: &str| Path::new(folder).join(name);
    let stock = [(ImagePart::Qcow2, part(&stock, "disk.qcow2"))];
    let plain = [
        (ImagePart::Qcow2, part(&plain, "disk.qcow2")),
        (ImagePart::Kernel, part(&plain, "vmlinuz")),
        (ImagePart::Initrd, part(&plain, "initrd.img")),
    ];
    let _stock = bare::Image::upload(bare::STOCK, &stock)?;
    let _plain = bare::Image::upload(bare::PLAIN, &plain)?;
    let mut times: [Vec<Duration>; 15] = Default::default();
    for round in 1..=rounds {
        let [
            bare,
            bare_open,
            copied,
            copied_open,
            copied_told,
            booted,
            whole,
            again,
            edit,
            save,
            restore,
            reset,
            ready,
            plain,
            stock,
        ] = &mut times;
        let reached = bare::hosts(topology, &image, Way::Boot)?;
        bare.push(reached.greets);
        bare_open.push(reached.open);
        plain.push(bare::hosts(topology, &image, Way::Plain)?.greets);
        stock.push(bare::hosts(topology, &image, Way::Stock)?.greets);
        let reached = bare::hosts(topology, &image, Way::Copy)?;
        copied.push(reached.greets);
        copied_open.push(reached.open);
        copied_told.push(reached.told);
        booted.push(run(&["up", "--boot", "--no-checkpoint", "topologies/lab.yaml"])?);
        run(&["destroy", "lab", "--yes"])?;
        whole.push(run(&["up", "--no-checkpoint", "topologies/lab.yaml"])?);
        for _ in 0..REPEAT {
            again.push(run(&["up", "topologies/lab.yaml"])?);
        }
        for memory in 5..5 + REPEAT {
            edit.push(edited(pgprov, state.path(), topology, memory)?);
        }
        save.push(run(&["checkpoint", "save", "ready", "--lab", "lab"])?);
        thread::sleep(AT_REST);
        restore.push(bare::restore("lab")?);
        thread::sleep(AT_REST);
        reset.push(run(&["reset", "--lab", "lab"])?);
        run(&["destroy", "lab", "--yes"])?;
        // One that `up` made itself and that fits the topology, unlike the one above.
        run(&["up", "topologies/lab.yaml"])?;
        run(&["destroy", "lab", "--yes", "--keep-checkpoints"])?;
        ready.push(run(&["up", "topologies/lab.yaml"])?);
        run(&["destroy", "lab", "--yes"])?;
        let last: Vec<String> =
            times.iter().map(|all| format!("{:.2}", all.last().map_or(0.0, Duration::as_secs_f64))).collect();
        println!("round {round}: {}", last.join(" "));
    }
    println!(
        "| what | median s | min s | max s | ratio to bare boot | to that of plain packages | to that of a stock image |"
    );
    println!("|---|---|---|---|---|---|---|");
    let [base, plain, stock] = [0, 13, 14].map(|index| median(&times[index]));
    for (name, times) in NAMES.iter().zip(&times) {
        let all = seconds(times);
        let (min, max) =
            (all.iter().copied().fold(f64::MAX, f64::min), all.iter().copied().fold(0.0, f64::max));
        let typical = median(times);
        println!(
            "| {name} | {typical:.2} | {min:.2} | {max:.2} | {:.2} | {:.2} | {:.2} |",
            typical / base,
            typical / plain,
            typical / stock
        );
    }
    Ok(())
}

/// What `up` takes against booting the same VMs bare, without the rest, and so with more rounds.
fn hosts(pgprov: &Path, rounds: usize) -> anyhow::Result<()> {
    let state = tempfile::tempdir()?;
    let topology = Path::new("topologies/lab.yaml");
    let run = |args: &[&str]| timed(pgprov, state.path(), args);
    let image = image_in_pool(pgprov, state.path())?;
    let mut ratios = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    for round in 1..=rounds {
        let bare = bare::hosts(topology, &image, Way::Boot)?.greets.as_secs_f64();
        let copied = bare::hosts(topology, &image, Way::Copy)?;
        let whole = run(&["up", "--no-checkpoint", "topologies/lab.yaml"])?.as_secs_f64();
        run(&["destroy", "lab", "--yes"])?;
        let [told, open, greets] = [copied.told, copied.open, copied.greets].map(|time| time.as_secs_f64());
        println!(
            "round {round}: bare {bare:.1} s; copied: told {told:.1}, open {open:.1}, greets {greets:.1}; up {whole:.1}: {:.2} x",
            whole / bare
        );
        for (ratios, time) in ratios.iter_mut().zip([told, open, greets, whole]) {
            ratios.push(Duration::from_secs_f64(time / bare));
        }
    }
    let [told, open, greets, whole] = ratios.map(|ratios| median(&ratios));
    println!("medians, to bare boot: told {told:.2}, open {open:.2}, greets {greets:.2}, up {whole:.2}");
    Ok(())
}

/// What `reset` takes against libvirt's own restore of the same hosts, in turns, of a lab at rest.
fn resets(pgprov: &Path, rounds: usize) -> anyhow::Result<()> {
    let state = tempfile::tempdir()?;
    let run = |args: &[&str]| timed(pgprov, state.path(), args);
    run(&["up", "topologies/lab.yaml"])?;
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        thread::sleep(AT_REST);
        let restore = bare::restore("lab")?.as_secs_f64();
        thread::sleep(AT_REST);
        let reset = run(&["reset", "--lab", "lab"])?.as_secs_f64();
        println!(
            "round {round}: libvirt's restore {restore:.2} s, reset {reset:.2} s: {:.2} x",
            reset / restore
        );
        ratios.push(Duration::from_secs_f64(reset / restore));
    }
    println!("median, to libvirt's own restore: {:.2}", median(&ratios));
    run(&["destroy", "lab", "--yes"]).map(drop)
}

/// Puts the image and its boot snapshot into the pool, and returns its name. That is done once per machine, not once per lab: it is
/// no part of any figure.
fn image_in_pool(pgprov: &Path, state: &Path) -> anyhow::Result<String> {
    timed(pgprov, state, &["up", "--no-checkpoint", "topologies/lab.yaml"])?;
    let image = bare::image_of("lab")?;
    timed(pgprov, state, &["destroy", "lab", "--yes"])?;
    Ok(image)
}

/// Seconds that `up` takes after `work_mem` was edited.
fn edited(pgprov: &Path, state: &Path, topology: &Path, memory: usize) -> anyhow::Result<Duration> {
    let setting = format!("  settings:\n    work_mem: {memory}MB\n");
    let text = std::fs::read_to_string(topology)?.replace("  settings:\n", &setting);
    let file = state.join("edited.yaml");
    std::fs::write(&file, text)?;
    timed(pgprov, state, &["up", &file.display().to_string()])
}

/// Check, derive, render and plan growing topologies: it must grow no faster than the number of hosts.
fn render() -> anyhow::Result<()> {
    let sources = pgprov::files::sources(None)?;
    let roles = Roles::parse(&sources).map_err(|bad| anyhow::anyhow!("{bad:?}"))?;
    let known = roles.known();
    println!("| hosts | check, ms | check + render + plan, ms | ms per host |");
    println!("|---|---|---|---|");
    for hosts in [10, 100, 1000] {
        let text = topology(hosts);
        let (mut checks, mut all) = (Vec::new(), Vec::new());
        for _ in 0..REPEAT {
            let begun = Instant::now();
            let checked = check::check_text(&text, &known);
            let topology = checked.topology.with_context(|| format!("{:?}", checked.findings))?;
            checks.push(begun.elapsed());
            let lab = roles.derive(&topology, &Pins::new())?;
            let secrets = Secrets::masked(lab.passwords(), lab.hosts.iter().map(|host| host.name.clone()));
            let rendered = roles.render(&lab, &secrets)?;
            let changes: usize = rendered.iter().map(|host| HostPlan::new(host, None).len()).sum();
            ensure!(changes > lab.hosts.len(), "a plan without changes");
            all.push(begun.elapsed());
        }
        let total = median(&all) * 1000.0;
        println!(
            "| {hosts} | {:.1} | {total:.1} | {:.3} |",
            median(&checks) * 1000.0,
            total / f64::from(hosts)
        );
    }
    Ok(())
}

fn topology(hosts: u32) -> String {
    let mut text = "lab: big\nnetwork: 10.96.0.0/16\nmanagement_network: 10.97.0.0/16\nhosts:\n  p: { roles: [postgres] }\n".to_owned();
    for index in 1..hosts {
        let upstream = if index < 10 { "p".to_owned() } else { format!("s{}", index / 10) };
        text.push_str(&format!("  s{index}: {{ roles: [postgres], follows: {upstream} }}\n"));
    }
    text
}

fn timed(pgprov: &Path, state: &Path, args: &[&str]) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let output = Command::new(pgprov).args(args).env("PGPROV_STATE_DIR", state.join("state")).output()?;
    let elapsed = begun.elapsed();
    // Why one run took three times as long as the others is asked when it is over.
    let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench.log");
    let said =
        format!("{elapsed:.1?}: pgprov {}\n{}\n", args.join(" "), String::from_utf8_lossy(&output.stderr));
    OpenOptions::new().create(true).append(true).open(log)?.write_all(said.as_bytes())?;
    ensure!(
        output.status.success(),
        "pgprov {} failed:\n{}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(elapsed)
}

fn seconds(times: &[Duration]) -> Vec<f64> {
    times.iter().map(Duration::as_secs_f64).collect()
}

fn median(times: &[Duration]) -> f64 {
    let mut all = seconds(times);
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or_default()
}
