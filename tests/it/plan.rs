//! `pgprov plan` and `up --dry-run` on an empty hypervisor.

use insta::assert_snapshot;

use crate::runner::Home;

const TOPOLOGY: &str = "lab: lab\nhosts:\n  m: { roles: [postgres] }\n";

#[test]
fn a_lab_that_is_not_there_yet() {
    let home = Home::new();
    home.write("lab.yaml", TOPOLOGY);
    let run = home.run(&["plan", "lab.yaml"]);
    assert_eq!((run.exit, run.stderr.as_str()), (4, "Make these changes with: pgprov up lab.yaml\n"));
    let (inside, outside): (Vec<&str>, Vec<&str>) =
        run.stdout.lines().partition(|line| line.starts_with("+ m: ") || line.starts_with("~ m: "));
    let counted = outside.len() - 1 + inside.iter().filter(|line| line.starts_with('+')).count();
    // The name of the image has a hash of everything in it.
    let hash = run.stdout.split("debian-13-").nth(1).map(|rest| &rest[..12]).unwrap();
    let outside = outside.join("\n").replace(hash, "HASH").replace(&counted.to_string(), "ALL");
    assert_snapshot!(outside, @"
    + make the storage pool
    + copy image debian-13-HASH into the pool
    + boot a machine of debian-13-HASH once and save it
    + make the data network
    + make the mgmt network
    + make the disk of m
    + define the VM of m
    + start m as a copy of the saved machine
    ALL changes
    ");
    for line in [
        "+ m: directory /etc/pgprov (new)",
        "+ m: file /etc/hosts (new)",
        "+ m: file /etc/postgresql/17/main/pg_hba.conf (new)",
        "+ m: make the data directory",
        "~ m: set the host name, because of /etc/hostname",
    ] {
        assert!(inside.contains(&line), "{line} is not in:\n{run}");
    }
    assert!(!home.path("state").exists(), "a plan makes nothing");
    assert!(!home.path("cache").exists(), "a plan makes nothing");
}

#[test]
fn a_dry_run_is_the_same_plan() {
    let home = Home::new();
    home.write("lab.yaml", TOPOLOGY);
    assert_eq!(
        home.run(&["up", "--dry-run", "lab.yaml"]).to_string(),
        home.run(&["plan", "lab.yaml"]).to_string()
    );
}

#[test]
fn all_hosts_of_a_new_lab_differ() {
    let home = Home::new();
    home.write("lab.yaml", TOPOLOGY);
    assert_snapshot!(home.run(&["diff", "lab.yaml"]), @r"
    exit 4
    -- stdout --
    m: is not there yet
    -- stderr --
    Install what is rendered with: pgprov up lab.yaml
    ");
    let json = home.run(&["diff", "-o", "json", "-q", "lab.yaml"]).json();
    assert_eq!(json, serde_json::json!({"files": [], "new_hosts": ["m"], "unreachable": []}));
}

#[test]
fn as_json() {
    let home = Home::new();
    home.write("lab.yaml", TOPOLOGY);
    let run = home.run(&["plan", "-o", "json", "-q", "lab.yaml"]);
    assert_eq!((run.exit, run.stderr.as_str()), (4, ""));
    let plan = run.json();
    assert_eq!(plan["lab"], "lab");
    assert_eq!(plan["steps"][0]["step"], "create_pool");
    assert_eq!(plan["hosts"][0]["host"], "m");
    assert_eq!(plan["hosts"][0]["files"][0]["reason"], "new");
    assert_eq!(plan["notes"], serde_json::json!([]));
}

#[test]
fn a_bad_topology_is_refused_before_libvirt_is_asked() {
    let home = Home::new().env("LIBVIRT_DEFAULT_URI", "qemu+unix:///system?socket=/no/such/socket");
    home.write("lab.yaml", "lab: lab\nhosts: {}\n");
    assert_snapshot!(home.run(&["plan", "lab.yaml"]), @"
    exit 3
    -- stderr --
    error: lab.yaml has errors
    lab.yaml:2:1: error: `hosts` must have at least 1 entry
      |
    2 | hosts: {}
      | ^^^^^
    ");
}

#[test]
fn no_hypervisor() {
    let home = Home::new().env("LIBVIRT_DEFAULT_URI", "qemu+unix:///system?socket=/no/such/socket");
    home.write("lab.yaml", TOPOLOGY);
    assert_snapshot!(home.run(&["plan", "lab.yaml"]), @"
    exit 1
    -- stderr --
    error: cannot connect to libvirt at qemu+unix:///system?socket=/no/such/socket: Failed to connect socket to '/no/such/socket': No such file or directory
    hint: start it with `sudo systemctl start libvirtd`; `make up` installs and starts it
    ");
    let run = home.run(&["plan", "lab.yaml", "--connect", "test:///default"]);
    assert_eq!(run.exit, 4, "the option wins over the variable: {run}");
    assert_snapshot!(home.run(&["plan", "lab.yaml", "--connect", "nonsense"]), @"
    exit 1
    -- stderr --
    error: cannot connect to libvirt at nonsense: no connection driver available for URI 'nonsense' does not include a driver name
    ");
}

/// A host with the addresses of a lab may be somebody's production network.
#[test]
fn a_subnet_that_is_taken() {
    let home = Home::new();
    // The test driver has a network `default` with this subnet.
    home.write("lab.yaml", format!("network: 192.168.122.0/24\n{TOPOLOGY}"));
    assert_snapshot!(home.run(&["plan", "lab.yaml"]), @"
    exit 1
    -- stderr --
    error: lab lab would take what is not its own
    what    name              belongs to
    subnet  192.168.122.0/24  libvirt network `default` (192.168.122.0/24)

    hint: choose another `lab` name, or other subnets with `network` and `management_network`
    ");
}
