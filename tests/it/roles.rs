//! The example of docs/roles.md through the real engine, so that it works as it stands there.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use insta::assert_snapshot;
use pgplan::{
    check,
    lab::Pins,
    render::{RenderedHost, Roles},
    secrets::Secrets,
};

use crate::{
    markdown::blocks,
    runner::{Home, read},
};

/// The files of the example, in a folder for `--assets`, and its topology.
fn example() -> Home {
    let home = Home::new();
    let all = blocks("docs/roles.md");
    let files: Vec<_> = all.iter().filter(|block| !block.name.is_empty()).collect();
    assert!(files.len() >= 3, "docs/roles.md shows a manifest, templates and a topology");
    for file in files {
        home.write(&file.name, &file.text);
    }
    home
}

/// Every host of the example, as `up` would configure it.
fn rendered(home: &Home) -> Vec<RenderedHost> {
    let sources = pgprov::files::sources(Some(&home.path("course"))).unwrap();
    let roles = Roles::parse(&sources).unwrap_or_else(|bad| panic!("{bad:?}"));
    let checked = check::check_text(&home.read("course/lab.yaml"), &roles.known());
    assert_eq!(checked.findings, []);
    let lab = roles.derive(&checked.topology.unwrap(), &Pins::new()).unwrap();
    let secrets = Secrets::masked(lab.passwords(), lab.hosts.iter().map(|host| host.name.clone()));
    roles.render(&lab, &secrets).unwrap()
}

#[test]
fn the_example_renders() {
    let home = example();
    let run = home.run(&["render", "course/lab.yaml", "--assets", "course"]);
    assert_eq!(run.exit, 0, "{run}");
    assert_snapshot!(home.read("rendered/client/usr/local/bin/heartbeat"), @r#"
    #!/bin/sh
    # A connection for each beat, so that a primary that moved is found again.
    beat() { psql -XAtqw -c "$1" service=course-rw; }
    until beat 'create table if not exists heartbeat (at timestamptz not null default now())'; do sleep 1; done
    while sleep 1; do
      beat 'insert into heartbeat default values'
    done
    "#);
    assert_snapshot!(home.read("rendered/client/etc/systemd/system/heartbeat.service"), @"
    # Written by pgprov for lab course. Do not edit: change the topology and run `pgprov up`.
    [Unit]
    Description=A row a second

    [Service]
    ExecStart=/usr/local/bin/heartbeat
    Restart=always

    [Install]
    WantedBy=multi-user.target
    ");
}

#[test]
fn its_host_waits_for_the_servers_and_knows_its_handlers() {
    let hosts = rendered(&example());
    let client = hosts.iter().find(|host| host.host == "client").unwrap();
    assert_eq!(client.waits_for, ["m", "s"]);
    let task = client.tasks.iter().find(|task| task.name.contains("heartbeat")).unwrap();
    assert_eq!(task.starts.as_deref(), Some("heartbeat.service"));
    let handler = client.handlers.iter().find(|handler| handler.name == "restart the heartbeat").unwrap();
    assert_eq!(handler.unit.as_deref(), Some("heartbeat.service"));
    assert!(client.logs.iter().any(|(role, _)| role == "heartbeat"));
}

#[test]
fn its_scripts_are_shell() {
    for host in rendered(&example()) {
        let tasks = host.tasks.iter().flat_map(|task| [&task.unless, &task.run]);
        let others = host.handlers.iter().map(|handler| &handler.run);
        let scripts =
            tasks.chain(others).chain(host.status.iter().chain(&host.logs).map(|(_, script)| script));
        for script in scripts
            .chain(host.files.iter().filter(|file| file.path.contains("/bin/")).map(|file| &file.content))
        {
            let mut shell =
                Command::new("sh").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            let output = shell.wait_with_output().unwrap();
            assert!(output.status.success(), "{}\n{script}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// examples/pgbouncer: a package, secrets and certificates, and no Rust.
#[test]
fn a_role_with_a_package_renders() {
    let home = Home::new();
    for file in ["lab.yaml", "roles/pgbouncer.yaml", "templates/pgbouncer/pgbouncer.ini"]
        .into_iter()
        .chain(["templates/pgbouncer/userlist.txt"])
    {
        home.write(&format!("pooled/{file}"), read(&format!("examples/pgbouncer/{file}")));
    }
    let run = home.run(&["render", "pooled/lab.yaml", "--assets", "pooled"]);
    assert_eq!(run.exit, 0, "{run}");
    assert_snapshot!(home.read("rendered/m/etc/pgbouncer/pgbouncer.ini"), @"
    # Written by pgprov for lab pooled. Do not edit: change the topology and run `pgprov up`.
    ; Whoever asks for a database of the server gets one of a few connections to it, for as long as a transaction lasts.
    [databases]
    * = host=/run/postgresql port=5432

    [pgbouncer]
    listen_addr = 10.68.66.99
    listen_port = 6432
    unix_socket_dir = /run/postgresql
    pool_mode = transaction
    default_pool_size = 5
    max_client_conn = 200
    ; Drivers that prepare statements may do so in transaction mode, too. PgBouncer of Debian 12 cannot.
    max_prepared_statements = 100
    ignore_startup_parameters = extra_float_digits
    auth_type = scram-sha-256
    auth_file = /etc/pgbouncer/userlist.txt
    client_tls_sslmode = require
    client_tls_cert_file = /etc/pgbouncer/host.crt
    client_tls_key_file = /etc/pgbouncer/host.key
    ");
    assert_snapshot!(home.read("rendered/m/etc/pgbouncer/userlist.txt"), @r#""shop" "********""#);
}

/// examples/containers: a file that is installed as it is, whatever is in it, and said to be missing when it is.
#[test]
fn a_role_with_a_file_of_its_own_renders() {
    let home = Home::new();
    for file in ["lab.yaml", "roles/docker.yaml"] {
        home.write(&format!("contained/{file}"), read(&format!("examples/containers/{file}")));
    }
    let render = ["render", "contained/lab.yaml", "--assets", "contained"];
    let run = home.run(&render);
    assert_eq!(run.exit, 1, "{run}");
    assert_snapshot!(run.stderr.trim(), @"error: rendering /srv/images/monitoring.tar of role docker on client: there is no `files/monitoring.tar` in the folder that --assets or PGPROV_ASSETS names");
    let images = [0, 159, 146, 150, 255, 10];
    home.write("contained/files/monitoring.tar", images);
    let run = home.run(&render);
    assert_eq!(run.exit, 0, "{run}");
    assert_eq!(std::fs::read(home.path("rendered/client/srv/images/monitoring.tar")).unwrap(), images);
    let unit = home.read("rendered/client/etc/systemd/system/monitoring-containers.service");
    assert!(unit.contains("--project-name contained-monitoring down"), "{unit}");
}

/// The PATCH for Patroni's dynamic configuration, with jq as hosts have it: what differs is set, what was applied and is no
/// longer wanted goes, what somebody else made stays, and once it was applied there is nothing to do.
#[test]
fn dynamic_configuration_is_merged_three_ways() {
    let program = include_str!("../../templates/patroni/merge.jq");
    let program: String =
        program.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    let merge = |mode: &str, live: &str, wanted: &str| {
        let output = Command::new("jq")
            .args([
                "-nrc",
                "--arg",
                "mode",
                mode,
                "--argjson",
                "live",
                live,
                "--argjson",
                "wanted",
                wanted,
                &program,
            ])
            .output()
            .expect("jq, which `scripts/setup --test` installs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let wanted = r#"{"ttl": 30, "postgresql": {"parameters": {"work_mem": "8MB", "auto_explain.x": "1"}}}"#;
    let live = r#"{"ttl": 30, "loop_wait": 9, "postgresql": {"parameters": {"work_mem": "4MB", "jit": "off", "theirs": "1"}},
        "pgprov": {"applied": [["ttl"], ["loop_wait"], ["postgresql", "parameters", "work_mem"],
            ["postgresql", "parameters", "jit"], ["postgresql", "parameters", "gone"]]}}"#;
    assert_snapshot!(merge("lines", live, wanted), @r"
    ~ postgresql.parameters.work_mem: 4MB -> 8MB
    + postgresql.parameters.auto_explain.x = 1
    - loop_wait (9)
    - postgresql.parameters.jit (off)
    ");
    let patch: serde_json::Value = serde_json::from_str(&merge("patch", live, wanted)).unwrap();
    assert_eq!(
        patch,
        serde_json::json!({
            "loop_wait": null,
            "postgresql": { "parameters": { "work_mem": "8MB", "auto_explain.x": "1", "jit": null } },
            "pgprov": { "applied": [["ttl"], ["postgresql", "parameters", "work_mem"], ["postgresql", "parameters", "auto_explain.x"]] },
        })
    );
    let applied = r#"{"ttl": 30, "postgresql": {"parameters": {"work_mem": "8MB", "auto_explain.x": "1", "theirs": "1"}},
        "pgprov": {"applied": [["ttl"], ["postgresql", "parameters", "work_mem"], ["postgresql", "parameters", "auto_explain.x"]]}}"#;
    assert_eq!(merge("patch", applied, wanted), "{}\n");
}
