//! `pgprov validate`. What is wrong with which topology is tested in `crates/pgplan/tests`; here: how it is told.

use insta::assert_snapshot;
use serde_json::json;

use crate::runner::{Home, files, repo};

#[test]
fn a_good_topology() {
    let home = Home::new();
    home.write("lab.yaml", "lab: lab\nhosts:\n  m: { roles: [postgres] }\n");
    assert_snapshot!(home.run(&["validate", "lab.yaml"]), @"
    exit 0
    -- stdout --
    lab.yaml is valid
    ");
}

#[test]
fn all_that_is_wrong_in_one_pass() {
    let home = Home::new();
    home.write(
        "lab.yaml",
        "lab: lab\nflavour: big\nvm: { cpu: 2, memory: 64MiB }\npostgres:\n  settings: { wal_keep_segments: 10 }\n\
         hosts:\n  m: { roles: [postgres] }\n  s: { roles: [postgre], follows: n }\n",
    );
    assert_snapshot!(home.run(&["validate", "lab.yaml"]), @"
    exit 3
    -- stdout --
    lab.yaml:2:1: error: unknown key `flavour`
      |
    2 | flavour: big
      | ^^^^^^^
      = allowed: lab, image, vm, network, management_network, postgres, replication, failover, backup, monitoring, hosts

    lab.yaml:3:7: error: unknown key `cpu` in `vm`
      |
    3 | vm: { cpu: 2, memory: 64MiB }
      |       ^^^
      = did you mean `cpus`?
      = allowed: cpus, memory, disk

    lab.yaml:3:23: error: 64MiB of memory is too little: a host needs 384MiB at least
      |
    3 | vm: { cpu: 2, memory: 64MiB }
      |                       ^^^^^
      = kernel, systemd and PostgreSQL need that much to start

    lab.yaml:5:15: error: `wal_keep_segments` is gone since PostgreSQL 13
      |
    5 |   settings: { wal_keep_segments: 10 }
      |               ^^^^^^^^^^^^^^^^^
      = use wal_keep_size, in MB (a segment was 16MB)

    lab.yaml:8:16: error: unknown role `postgre`
      |
    8 |   s: { roles: [postgre], follows: n }
      |                ^^^^^^^
      = did you mean `postgres`?
      = roles: agent, arbiter, backup, base, client, etcd, load, monitor, node-exporter, patroni, postgres, postgres-exporter

    lab.yaml:8:35: error: there is no host `n`
      |
    8 |   s: { roles: [postgre], follows: n }
      |                                   ^
      = hosts with PostgreSQL: m
    -- stderr --
    error: lab.yaml has 6 errors
    ");
}

#[test]
fn as_json() {
    let home = Home::new();
    home.write("good.yaml", "lab: lab\nhosts: { m: { roles: [postgres] } }\n");
    home.write("bad.yaml", "lab: lab\nvm: { cpu: 2 }\nhosts: { m: { roles: [postgres] } }\n");
    let good = home.run(&["validate", "-o", "json", "good.yaml"]);
    assert_eq!((good.exit, good.json()), (0, json!({"file": "good.yaml", "valid": true, "findings": []})));
    assert_eq!(good.stderr, "");
    let bad = home.run(&["validate", "-o", "json", "bad.yaml"]);
    let finding = json!({
        "severity": "error",
        "span": { "line": 2, "column": 7, "length": 3 },
        "path": "vm.cpu",
        "message": "unknown key `cpu` in `vm`",
        "hints": ["did you mean `cpus`?", "allowed: cpus, memory, disk"],
    });
    assert_eq!(
        (bad.exit, bad.json()),
        (3, json!({"file": "bad.yaml", "valid": false, "findings": [finding]}))
    );
    assert_eq!(bad.stderr, "error: bad.yaml has 1 error\n");
}

#[test]
fn a_warning_leaves_the_topology_valid() {
    let home = Home::new();
    home.write("lab.yaml", "lab: lab\nnetwork: 8.8.8.0/24\nhosts:\n  m: { roles: [postgres] }\n");
    assert_snapshot!(home.run(&["validate", "lab.yaml"]), @"
    exit 0
    -- stdout --
    lab.yaml:2:10: warning: 8.8.8.0/24 is not private: the hosts, and this machine, lose what is there on the internet
      |
    2 | network: 8.8.8.0/24
      |          ^^^^^^^^^^
      = private ranges: 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16
    lab.yaml is valid
    ");
}

#[test]
fn files_that_cannot_be_read() {
    let home = Home::new();
    std::fs::create_dir(home.path("folder")).unwrap();
    assert_snapshot!(home.run(&["validate", "missing.yaml"]), @"
    exit 1
    -- stderr --
    error: cannot read missing.yaml
      caused by: No such file or directory (os error 2)
    ");
    assert_snapshot!(home.run(&["validate", "folder"]), @"
    exit 1
    -- stderr --
    error: cannot read folder
      caused by: Is a directory (os error 21)
    ");
    std::fs::File::create(home.path("huge.yaml")).unwrap().set_len(1 << 40).unwrap();
    assert_snapshot!(home.run(&["validate", "huge.yaml"]), @"
    exit 1
    -- stderr --
    error: huge.yaml is larger than such a file can be, 8 MiB
    ");
    // No size, and no end.
    assert_snapshot!(home.run(&["validate", "/dev/zero"]), @"
    exit 1
    -- stderr --
    error: /dev/zero is larger than such a file can be, 8 MiB
    ");
}

#[test]
fn files_that_are_no_topologies() {
    let home = Home::new();
    home.write("empty.yaml", "");
    assert_snapshot!(home.run(&["validate", "empty.yaml"]), @"
    exit 3
    -- stdout --
    empty.yaml:1:1: error: the file is empty
    -- stderr --
    error: empty.yaml has 1 error
    ");
    home.write("binary.yaml", b"\x7fELF\x02\x01\x01\0\0\xff\xfe");
    assert_snapshot!(home.run(&["validate", "binary.yaml"]), @"
    exit 3
    -- stdout --
    binary.yaml:1:1: error: the character U+007F may not stand in YAML
      |
    1 | �ELF�������
      | ^
      = remove it, or write it as an escape in double quotes

    binary.yaml:1:5: error: the character U+0002 may not stand in YAML
      |
    1 | �ELF�������
      |     ^
      = remove it, or write it as an escape in double quotes

    binary.yaml:1:6: error: the character U+0001 may not stand in YAML
      |
    1 | �ELF�������
      |      ^
      = remove it, or write it as an escape in double quotes

    binary.yaml:1:7: error: the character U+0001 may not stand in YAML
      |
    1 | �ELF�������
      |       ^
      = remove it, or write it as an escape in double quotes

    binary.yaml:1:8: error: the character U+0000 may not stand in YAML
      |
    1 | �ELF�������
      |        ^
      = remove it, or write it as an escape in double quotes
    -- stderr --
    error: binary.yaml has 5 errors
    ");
    home.write("image.yaml", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR");
    let image = home.run(&["validate", "image.yaml"]);
    assert_eq!(image.exit, 3, "{image}");
    assert!(!image.stdout.contains(['\x1a', '\0']), "{image}");
}

#[test]
fn a_topology_of_the_largest_size_is_answered() {
    let home = Home::new();
    home.write("lab.yaml", "a: [{{[".repeat(1_000_000));
    let run = home.run(&["validate", "lab.yaml"]);
    assert_eq!(run.exit, 3);
    assert!(run.stdout.len() < 100_000, "{} bytes of findings", run.stdout.len());
}

#[test]
fn every_topology_in_the_repository() {
    let home = Home::new();
    let topologies: Vec<String> =
        files().into_iter().filter(|path| path.starts_with("topologies/")).collect();
    assert!(topologies.len() >= 3, "{topologies:?}");
    for path in topologies {
        let run = home.run(&["validate", &repo(&path).to_string_lossy()]);
        let expected = format!("exit 0\n-- stdout --\n$REPO/{path} is valid\n");
        assert_eq!(run.to_string(), expected);
    }
}

#[test]
fn the_schema_is_json_that_names_the_keys() {
    let run = Home::new().run(&["schema"]);
    assert_eq!((run.exit, run.stderr.as_str()), (0, ""));
    let schema = run.json();
    assert_eq!(schema["title"], "pgprov topology");
    for key in ["lab", "image", "vm", "postgres", "replication", "hosts"] {
        assert!(schema["properties"][key].is_object(), "{key}");
    }
}
