//! `pgprov render`: the files of all hosts. Their content is tested in `crates/pgplan/tests`; here: that they get there.

use std::{fs, path::Path};

use insta::assert_snapshot;

use crate::runner::{Home, repo};

const TOPOLOGY: &str = "lab: lab\nreplication: { mode: synchronous }\npostgres: { databases: [ { name: wms, owner: wms } ] }\n\
                        hosts:\n  m: { roles: [postgres] }\n  s: { roles: [postgres], follows: m }\n  client: { roles: [client] }\n";

fn tree(dir: &Path, below: &str, out: &mut Vec<String>) {
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = format!("{below}{}", path.file_name().unwrap().to_string_lossy());
        if path.is_dir() { tree(&path, &format!("{name}/"), out) } else { out.push(name) }
    }
}

#[test]
fn a_folder_a_host_with_every_file_of_its_roles() {
    let home = Home::new();
    home.write("lab.yaml", TOPOLOGY);
    let run = home.run(&["render", "lab.yaml"]);
    let mut files = Vec::new();
    tree(&home.path("rendered"), "", &mut files);
    assert_eq!(
        run.to_string(),
        format!("exit 0\n-- stdout --\n{} files of 3 hosts in rendered\n", files.len())
    );
    let of = |host: &str| -> Vec<&str> { files.iter().filter_map(|file| file.strip_prefix(host)).collect() };
    for file in ["etc/hosts", "etc/pgprov/ca.crt", "etc/postgresql-common/pg_service.conf", "root/.pgpass"] {
        assert!(of("client/").contains(&file), "{file} is not in {files:?}");
    }
    for file in [
        "conf.d/10-reload.conf",
        "conf.d/20-restart.conf",
        "conf.d/90-user.conf",
        "pg_hba.conf",
        "server.key",
    ] {
        let file = format!("etc/postgresql/17/main/{file}");
        assert!(of("m/").contains(&file.as_str()), "{file} is not in {files:?}");
    }
    assert_eq!(of("s/"), of("m/"), "primary and standby have the same files");
}

#[test]
fn files_say_who_wrote_them_and_hold_no_secret() {
    let home = Home::new();
    home.write("lab.yaml", TOPOLOGY);
    assert_eq!(home.run(&["render", "lab.yaml", "--out", "out"]).exit, 0);
    let header = "# Written by pgprov for lab lab. Do not edit: change the topology and run `pgprov up`.\n";
    let conf = "out/m/etc/postgresql/17/main";
    for file in ["pg_hba.conf", "postgresql.conf", "conf.d/10-reload.conf", "conf.d/20-restart.conf"] {
        assert!(home.read(&format!("{conf}/{file}")).starts_with(header), "{file}");
    }
    assert!(home.read(&format!("{conf}/conf.d/90-user.conf")).starts_with("# Yours: "));
    assert_snapshot!(home.read("out/client/root/.pgpass"), @"
    # Written by pgprov for lab lab. Do not edit: change the topology and run `pgprov up`.
    *:*:*:postgres:********
    *:*:*:replicator:********
    *:*:*:wms:********
    ");
    assert_snapshot!(home.read(&format!("{conf}/server.key")), @"
    -----BEGIN PRIVATE KEY-----
    ********
    -----END PRIVATE KEY-----
    ");
}

#[test]
fn there_are_no_secrets_without_a_lab() {
    let home = Home::new();
    home.write("lab.yaml", TOPOLOGY);
    assert_snapshot!(home.run(&["render", "--secrets", "lab.yaml"]), @r"
    exit 2
    -- stderr --
    error: lab lab has no secrets: `up` makes them
    hint: render without --secrets, or bring the lab up first
    ");
    assert!(!home.path("rendered").exists());
}

/// What a teacher does who wants another message on the hosts: a template of the same name replaces ours.
#[test]
fn assets_replace_templates_by_name() {
    let home = Home::new();
    home.write("lab.yaml", TOPOLOGY);
    home.write("course/templates/base/motd", "{{ host.name }}: be gentle\n");
    let run = home.run(&["render", "lab.yaml", "--assets", "course"]);
    assert_eq!(run.exit, 0, "{run}");
    assert_eq!(home.read("rendered/s/etc/motd"), "s: be gentle\n");
}

#[test]
fn assets_that_cannot_be_used() {
    let home = Home::new();
    home.write("lab.yaml", TOPOLOGY);
    home.write(
        "course/roles/watch.yaml",
        "role: watch\nsummary: Watches.\nfile: []\nfiles:\n  - { path: /x, template: no/such }\n",
    );
    assert_snapshot!(home.run(&["render", "lab.yaml", "--assets", "course"]), @"
    exit 3
    -- stderr --
    error: role manifests or templates have errors
    roles/watch.yaml:3:1: error: unknown key `file`
      |
    3 | file: []
      | ^^^^
      = did you mean `files`?
      = allowed: role, summary, when, uses, after, after_if, together, packages, database_users, passwords, directories, files, tasks, handlers, refuse, resumed, timeouts, rest, status, logs
    ");
    home.write(
        "course/roles/watch.yaml",
        "role: watch\nsummary: Watches.\nfiles:\n  - { path: /x, template: watch/x, notify: [shout] }\n",
    );
    home.write("course/templates/watch/x", "{{ host.name");
    assert_snapshot!(home.run(&["render", "lab.yaml", "--assets", "course"]), @"
    exit 3
    -- stderr --
    error: role manifests or templates have errors
    roles/watch.yaml:1:1: error: there is no handler `shout`
      |
    1 | role: watch
      | ^
    templates/watch/x:1:13: error: Unexpected end of input
      |
    1 | {{ host.name
      |             ^
    ");
    // One that is fine until it is rendered.
    home.write(
        "course/roles/watch.yaml",
        "role: watch\nsummary: Watches.\nfiles:\n  - { path: /x, content: '{{ nobody.name }}' }\n",
    );
    home.write("course/templates/watch/x", "");
    home.write("lab.yaml", TOPOLOGY.replace("[client]", "[client, watch]"));
    assert_snapshot!(home.run(&["render", "lab.yaml", "--assets", "course"]), @"
    exit 1
    -- stderr --
    error: rendering /x of role watch on client: error: Variable `nobody` is not defined. Available variables: ca_certificate, host, hosts_with, kept_slots, lab, lab_hosts, own_vms, passwords, pg, postgres_hosts, primary, role_attributes, slot, slot_names, slot_prefix, slots, stock_image, tls, users
     --> __tera_one_off:1:4
      |
    1 | {{ nobody.name }}
      |    ^^^^^^
    ");
}

#[test]
fn a_bad_topology_is_not_rendered() {
    let home = Home::new();
    home.write("lab.yaml", "lab: lab\nhosts: { m: { roles: [postgres], folows: x } }\n");
    assert_snapshot!(home.run(&["render", "lab.yaml"]), @"
    exit 3
    -- stderr --
    error: lab.yaml has errors
    lab.yaml:2:34: error: unknown key `folows` in `hosts.m`
      |
    2 | hosts: { m: { roles: [postgres], folows: x } }
      |                                  ^^^^^^
      = did you mean `follows`?
      = allowed: roles, follows, address, settings, description
    ");
    assert!(!home.path("rendered").exists());
}

#[test]
fn every_topology_renders() {
    let home = Home::new();
    for entry in fs::read_dir(repo("topologies")).unwrap() {
        let path = entry.unwrap().path();
        let run = home.run(&["render", &path.to_string_lossy(), "--out", "out"]);
        assert_eq!(run.exit, 0, "{run}");
    }
}
