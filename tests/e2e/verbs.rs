//! The verbs for looking around and for working on hosts.

use anyhow::{Result, ensure};

use crate::{
    command::Program,
    identity::check_clocks,
    suite::{MAIN, Suite, host},
};

/// `exec` runs on several hosts at once and tells who failed.
pub fn exec_on_all_hosts(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let all = lab.exec_everywhere("hostname; echo \"it's $((6*7))\"")?;
    ensure!(all.len() == 4, "expected four answers, got {all:#?}");
    for (name, text) in &all {
        ensure!(*text == format!("{name}\nit's 42"), "expected the name of {name} and it's 42, got {text:?}");
    }
    let failed =
        lab.pgprov("exec", ["--host", "m", "--host", "s", "--", "test $(hostname) = m || exit 3"]).run()?;
    failed.exits(1)?.says("failed on s")?;
    let unknown = lab.pgprov("exec", ["--host", "nobody", "--", "true"]).run()?.exits(2)?;
    unknown.says("hosts: m, s, arbiter, client")?;
    let slow = lab.pgprov("exec", ["--host", "m", "--timeout", "2", "--", "echo began; sleep 60"]).run()?;
    ensure!(slow.code != Some(0) && slow.took.as_secs() < 20, "expected an end after 2 s of\n{slow}");
    slow.says("did not end within 2.0 s")?.says("began").map(drop)
}

/// `ssh` runs a command, and its exit status is that of the command.
pub fn ssh_runs_commands(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    lab.pgprov("ssh", ["client", "hostname"]).ok()?.prints("client")?;
    lab.pgprov("ssh", ["m", "exit", "7"]).run()?.exits(7)?;
    let both = lab.pgprov("ssh", ["s", "echo out; echo err >&2"]).ok()?;
    ensure!(both.text() == "out" && both.stderr.contains("err"), "expected out and err apart:\n{both}");
    lab.pgprov("ssh", ["s", "wc", "-c"]).input("12345").ok()?.prints("5").map(drop)
}

/// Arguments of `psql` arrive as they were given: quotes, dollars, backslashes, newlines.
pub fn psql_passes_arguments_on(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let sql = "select 'it''s', \"x\",\n  '$HOME `id` \\n * ; -- !'\nfrom (values (1)) t(\"x\")";
    let output = lab.pgprov("psql", ["m", "--", "-XAt", "-F", "\t|", "-c", sql]).ok()?;
    output.prints("it's\t|1\t|$HOME `id` \\n * ; -- !")?;
    let variable = "a 'b' \"c\" $d";
    let output = lab
        .pgprov("psql", ["m", "--", "-XAtq", "-v", &format!("v={variable}")])
        .input("select :'v';\n")
        .ok()?;
    output.prints(variable)?;
    let failed =
        lab.pgprov("psql", ["m", "--", "-v", "ON_ERROR_STOP=1", "-f", "-"]).input("select 1/0;\n").run()?;
    failed.exits(3)?.says("division by zero").map(drop)
}

/// `logs` shows what roles log, and the console.
pub fn logs_of_a_host(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    lab.try_psql("m", "select 'a line for the log' / 1")?;
    let server = lab.pgprov("logs", ["m", "--role", "postgres", "-n", "1000"]).ok()?;
    server.says("database system is ready to accept connections")?.says("a line for the log")?;
    let few = lab.pgprov("logs", ["m", "--role", "base", "-n", "3"]).ok()?;
    ensure!((1..=4).contains(&few.stdout.lines().count()), "expected three lines of\n{few}");
    // A quiet kernel says nothing there, and then the program says so.
    let console = lab.pgprov("logs", ["client", "--console"]).ok()?;
    ensure!(
        !console.stdout.is_empty() || console.stderr.contains("is empty"),
        "expected a console or a remark:\n{console}"
    );
    lab.pgprov("logs", ["m", "--role", "nobody"]).run()?.exits(2)?.says("roles: ").map(drop)
}

/// Plain ssh reaches hosts with the configuration that `ssh-config` prints.
pub fn ssh_config_for_plain_ssh(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let config = suite.pgprov(["ssh-config", lab.name]).ok()?;
    let file = suite.file("ssh_config", &config.stdout)?;
    let ssh = |host: &str| {
        Program::new("ssh").args(["-F"]).args([&file]).args([&lab.domain(host), "hostname"]).ok()
    };
    ssh("s")?.prints("s")?;
    ssh("arbiter")?.prints("arbiter").map(drop)
}

/// The lab as a picture and as text.
pub fn graph_of_the_lab(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let svg = suite.pgprov(["graph", lab.name]).ok()?;
    ensure!(svg.stdout.starts_with("<svg") && svg.text().ends_with("</svg>"), "expected an SVG:\n{svg}");
    for name in ["m", "s", "arbiter", "client"] {
        ensure!(svg.stdout.contains(&format!(">{name}<")), "expected {name} in\n{svg}");
    }
    let mermaid = suite.pgprov(["graph", lab.name, "--format", "mermaid"]).ok()?;
    ensure!(mermaid.stdout.contains("flowchart"), "expected a flowchart:\n{mermaid}");
    Ok(())
}

/// A suspended lab wakes with everything it had, at the right time, and goes on replicating.
pub fn suspend_and_resume(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    lab.streams("m", "s", "before the sleep")?;
    let began = lab.psql("m", "select pg_postmaster_start_time()")?;
    suite.pgprov(["suspend", lab.name]).limit(200).ok()?.says("pgprov resume lab")?;
    let asleep = lab.status()?;
    for name in ["m", "s", "arbiter", "client"] {
        ensure!(host(&asleep, name)?["state"] == "saved", "expected {name} to be saved in {asleep:#}");
    }
    // Clocks of sleeping hosts stand still; they sleep for longer than a stream may be silent.
    let silence = std::time::Duration::from_secs(12);
    std::thread::sleep(silence);
    suite.pgprov(["resume", lab.name]).limit(200).ok()?.says("lab lab is awake")?;
    // One that began before the sleep would be broken off by its timeout, some seconds later.
    let stream = "select pid from pg_stat_replication where state = 'streaming'";
    std::thread::sleep(std::time::Duration::from_secs(3));
    let began_with = lab.psql("m", stream)?;
    check_clocks(&lab)?;
    std::thread::sleep(silence);
    let goes_on = lab.psql("m", stream)?;
    ensure!(
        !goes_on.is_empty() && goes_on == began_with,
        "expected the stream of {began_with:?} to go on, it is {goes_on:?}"
    );
    let same = lab.psql("m", "select pg_postmaster_start_time()")?;
    ensure!(same == began, "expected the server that ran since {began}, it runs since {same}");
    lab.psql_becomes("s", "select count(*) from seen where mark = 'before the sleep'", "1")?;
    lab.streams("m", "s", "after the sleep")?;
    lab.is_as_its_topology_says()
}
