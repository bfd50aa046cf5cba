//! The verbs for labs that exist: which lab and which host is meant, and what is said when there is none.

use insta::assert_snapshot;
use serde_json::json;

use crate::runner::Home;

const SHOP: &str = "lab: shop\nhosts:\n  m: { roles: [postgres] }\n  s: { roles: [postgres], follows: m }\n  client: { roles: [client] }\n";

#[test]
fn without_a_lab() {
    let home = Home::new();
    assert_snapshot!(home.run(&["status"]), @"
    exit 0
    -- stdout --
    no labs; make one: pgprov up topologies/lab.yaml
    ");
    assert_eq!(home.run(&["status", "-o", "json"]).json(), json!({"labs": {}, "machines": {}}));
    assert_snapshot!(home.run(&["ssh", "m"]), @"
    exit 2
    -- stderr --
    error: there is no lab
    hint: make one: pgprov up topologies/lab.yaml
    ");
    for verb in [
        &["exec", "--", "id"][..],
        &["psql", "m"],
        &["logs", "m"],
        &["graph"],
        &["ssh-config"],
        &["suspend"],
        &["resume"],
    ] {
        assert_eq!(home.run(verb).to_string(), home.run(&["ssh", "m"]).to_string(), "{verb:?}");
    }
    assert_snapshot!(home.run(&["status", "shop"]), @"
    exit 2
    -- stderr --
    error: there is no lab `shop`
    hint: make one: pgprov up topologies/lab.yaml
    ");
    assert_snapshot!(home.run(&["destroy", "shop", "--yes"]), @"
    exit 0
    -- stdout --
    there is no lab shop: nothing to destroy
    ");
}

#[test]
fn the_only_lab_is_meant_when_none_is_named() {
    let home = Home::new();
    home.make_lab(SHOP);
    let config = home.run(&["ssh-config"]);
    assert_eq!(config.exit, 0, "{config}");
    for same in [&["ssh-config", "shop"][..], &["ssh-config", "state/shop/topology.yaml"]] {
        assert_eq!(home.run(same).to_string(), config.to_string());
    }
    let by_variable = Home::new().env("PGPROV_LAB", "shop");
    by_variable.make_lab(SHOP);
    by_variable.make_lab(&SHOP.replace("lab: shop", "lab: wms"));
    assert_eq!(by_variable.run(&["ssh-config"]).to_string(), config.to_string());
    // By option, as verbs with other arguments have it, too; it wins over the variable.
    for by_option in [&["ssh-config", "--lab", "shop"][..], &["ssh-config", "-l", "shop"]] {
        let other = Home::new().env("PGPROV_LAB", "wms");
        other.make_lab(SHOP);
        other.make_lab(&SHOP.replace("lab: shop", "lab: wms"));
        assert_eq!(other.run(by_option).to_string(), config.to_string(), "{by_option:?}");
        assert_ne!(other.run(&["ssh-config"]).to_string(), config.to_string());
    }
    for verb in [&["status"][..], &["graph"], &["ha", "status"], &["destroy", "--yes"]] {
        let answer = Home::new().run(&[verb, &["--lab", "shop"][..]].concat()).to_string();
        assert!(answer.contains("there is no lab") && answer.contains("shop"), "{verb:?}: {answer}");
    }
}

#[test]
fn two_labs_and_none_is_named() {
    let home = Home::new();
    home.make_lab(SHOP);
    home.make_lab(&SHOP.replace("lab: shop", "lab: wms"));
    assert_snapshot!(home.run(&["psql", "m"]), @"
    exit 2
    -- stderr --
    error: there are 2 labs: say which one
    hint: labs: shop, wms
    ");
}

#[test]
fn a_name_or_file_that_is_no_lab() {
    let home = Home::new();
    home.make_lab(SHOP);
    assert_snapshot!(home.run(&["ssh-config", "shopp"]), @"
    exit 2
    -- stderr --
    error: there is no lab `shopp`
    hint: labs: shop
    ");
    assert_snapshot!(home.run(&["ssh-config", "../shop"]), @"
    exit 1
    -- stderr --
    error: cannot read ../shop
      caused by: No such file or directory (os error 2)
    ");
    home.write("bad.yaml", "lab: shop\nhosts: {}\n");
    assert_snapshot!(home.run(&["ssh-config", "bad.yaml"]), @"
    exit 3
    -- stderr --
    error: bad.yaml has errors
    hint: see `pgprov validate bad.yaml`, or give the name of the lab
    ");
}

#[test]
fn a_host_or_role_that_is_not_there() {
    let home = Home::new();
    home.make_lab(SHOP);
    assert_snapshot!(home.run(&["ssh", "n"]), @"
    exit 2
    -- stderr --
    error: lab shop has no host `n`
    hint: hosts: m, s, client
    ");
    for verb in [&["exec", "--host", "m", "--host", "n", "--", "id"][..], &["psql", "n"], &["logs", "n"]] {
        assert_eq!(home.run(verb).to_string(), home.run(&["ssh", "n"]).to_string(), "{verb:?}");
    }
    assert_snapshot!(home.run(&["logs", "m", "--role", "client"]), @"
    exit 2
    -- stderr --
    error: m has no log of that role
    hint: roles: base, postgres
    ");
}

#[test]
fn the_configuration_for_ssh() {
    let home = Home::new();
    home.make_lab(SHOP);
    let run = home.run(&["ssh-config"]);
    let first: Vec<&str> = run.stdout.lines().take(15).collect();
    assert_snapshot!(first.join("\n"), @"
    # Hosts of lab shop. Use with: ssh -F $HOME/state/shop/ssh_config shop-HOST

    Host shop-m
      HostName 10.103.5.88
      Port 22
      HostKeyAlias m
      User root
      IdentityFile $HOME/state/shop/id_ed25519
      IdentitiesOnly yes
      UserKnownHostsFile $HOME/state/shop/known_hosts
      GlobalKnownHostsFile /dev/null
      StrictHostKeyChecking yes
      ServerAliveInterval 5
      ServerAliveCountMax 6
    ");
}

/// The state of a lab is here, and its machines are not: as after a reinstallation of the hypervisor.
#[test]
fn a_lab_whose_hosts_are_gone() {
    let home = Home::new();
    home.make_lab(SHOP);
    assert_snapshot!(home.run(&["status", "shop"]), @"
    exit 0
    -- stdout --
    HOST    ROLE      STATE    ADDRESS       MGMT          POSTGRES  SYNC  LAG  UPTIME
    m       postgres  missing  10.103.4.88   10.103.5.88   -         -     -    -
    s       postgres  missing  10.103.4.160  10.103.5.160  -         -     -    -
    client  client    missing  10.103.4.146  10.103.5.146  -         -     -    -
    ");
    // It is the only lab with state here, but not one that the hypervisor has.
    assert_eq!(home.run(&["status"]).to_string(), home.run(&["status", "shop"]).to_string());
    assert_eq!(home.run(&["status", "--all", "-o", "json"]).json(), json!({"labs": {}, "machines": {}}));
    let status = home.run(&["status", "shop", "-o", "json"]).json();
    assert_eq!(status["hosts"][1]["name"], "s");
    assert_eq!(status["hosts"][1]["role"], "postgres");
    assert_eq!(status["hosts"][1]["state"], "missing");
    assert_eq!(status["hosts"][1]["follows"], "m");
    assert_eq!(status["hosts"][1]["postgres"], json!(null));
    let graph = home.run(&["graph", "--format", "mermaid"]);
    assert_snapshot!(graph, @r#"
    exit 0
    -- stdout --
    %% lab shop
    flowchart LR
      subgraph lab["pgprov-shop-data 10.103.4.0/24<br/>pgprov-shop-mgmt 10.103.5.0/24"]
        direction LR
        n0[("m · postgres<br/>✕ missing<br/>postgres<br/>data 10.103.4.88<br/>mgmt 10.103.5.88")]:::bad
        n1[("s · postgres<br/>✕ missing<br/>postgres<br/>data 10.103.4.160<br/>mgmt 10.103.5.160")]:::bad
        n2["client · client<br/>✕ missing<br/>client<br/>data 10.103.4.146<br/>mgmt 10.103.5.146"]:::bad
      end
      n0 --x|"asynchronous<br/>✕ not streaming<br/>slot pgprov_s"| n1
      classDef primary stroke-width:4px
      classDef good stroke-width:1.5px
      classDef bad stroke-width:2px,stroke-dasharray:6 4
    "#);
    let svg = home.run(&["graph", "--out", "lab.svg"]);
    assert_eq!(svg.to_string(), "exit 0\n-- stderr --\nWrote lab.svg.\n");
    assert!(home.read("lab.svg").starts_with("<svg "));
}

#[test]
fn a_lab_that_was_never_brought_up() {
    let home = Home::new();
    let state = home.make_lab(SHOP);
    std::fs::remove_file(state.topology()).unwrap();
    assert_snapshot!(home.run(&["ssh", "m"]), @"
    exit 1
    -- stderr --
    error: lab shop was never brought up: cannot read $HOME/state/shop/topology.yaml: No such file or directory (os error 2)
    hint: finish it with `pgprov up`, or take it away: pgprov destroy shop
    ");
}

/// Its roles came from a folder that this command was not told of.
#[test]
fn a_lab_with_roles_that_are_not_here() {
    let home = Home::new();
    home.make_lab("lab: shop\nhosts:\n  m: { roles: [postgres, heartbeat] }\n");
    assert_snapshot!(home.run(&["ssh-config"]), @"
    exit 3
    -- stderr --
    error: $HOME/state/shop/topology.yaml has errors
    $HOME/state/shop/topology.yaml:3:26: error: unknown role `heartbeat`
      |
    3 |   m: { roles: [postgres, heartbeat] }
      |                          ^^^^^^^^^
      = roles: agent, arbiter, backup, base, client, etcd, load, monitor, node-exporter, patroni, postgres, postgres-exporter
    hint: a lab with roles of its own needs the --assets that `up` had: set PGPROV_ASSETS
    ");
    home.write("course/roles/heartbeat.yaml", "role: heartbeat\nsummary: Beats.\n");
    assert_eq!(home.run(&["ssh-config", "--assets", "course"]).exit, 0);
}

#[test]
fn failover_of_a_lab_without() {
    let home = Home::new();
    home.make_lab(SHOP);
    assert_snapshot!(home.run(&["ha", "status"]), @"
    exit 2
    -- stderr --
    error: lab shop has no automatic failover
    hint: its topology needs `failover: { engine: pgagent }`: see docs/failover.md
    ");
    assert_eq!(home.run(&["ha", "promote", "s"]).exit, 2, "not without --accept-data-loss");
}

#[test]
fn destroy_asks_and_takes_the_state_away() {
    let home = Home::new();
    home.make_lab(SHOP);
    // There is nobody to ask.
    assert_snapshot!(home.run(&["destroy", "shop"]), @"
    exit 2
    -- stderr --
    lab shop: no hosts, its networks and secrets
    error: not confirmed
    hint: add --yes to do it without asking
    ");
    assert!(home.path("state/shop/topology.yaml").exists());
    assert_snapshot!(home.run(&["destroy", "--all", "--yes", "--quiet"]), @"
    exit 0
    -- stdout --
    lab shop is destroyed
    ");
    assert!(!home.path("state/shop").exists());
}

#[test]
fn what_is_not_ours_in_the_state_directory_is_left_alone() {
    let home = Home::new();
    home.write("state/shop/precious", "mine");
    assert_snapshot!(home.run(&["ssh-config", "shop"]), @"
    exit 1
    -- stderr --
    error: $HOME/state/shop is not the state of a lab made by this version of pgprov: no file `format`: No such file or directory (os error 2)
    ");
    assert_eq!(home.run(&["destroy", "--all", "--yes"]).exit, 0);
    assert_eq!(home.read("state/shop/precious"), "mine");
}

#[test]
fn images() {
    let home = Home::new();
    assert_snapshot!(home.run(&["image", "list"]), @"
    exit 0
    -- stdout --
    no images; `pgprov image build` makes one
    ");
    assert_eq!(home.run(&["image", "list", "-o", "json"]).json(), json!({"images": []}));
    assert_snapshot!(home.run(&["image", "remove", "debian-13-0123456789ab"]), @"
    exit 2
    -- stderr --
    error: there is no image debian-13-0123456789ab
    hint: `pgprov image list` shows them
    ");
    assert_snapshot!(home.run(&["image", "build", "debian-11"]), @"
    exit 2
    -- stderr --
    error: `debian-11` is neither a release nor a topology file
    hint: releases: debian-12, debian-13
    ");
}
