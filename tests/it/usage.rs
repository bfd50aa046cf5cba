//! Help, completion, and command lines that are wrong.

use insta::assert_snapshot;

use crate::runner::Home;

#[test]
fn help_and_version() {
    let home = Home::new();
    assert_snapshot!(home.run(&["-h"]), @"
    exit 0
    -- stdout --
    Turns one topology YAML into a running PostgreSQL lab of virtual machines

    Usage: pgprov [OPTIONS] <COMMAND>

    Commands:
      init           Write a commented topology to start from
      validate       Check a topology and report everything that is wrong with it
      plan           Show what `up` would do; exit code 4 when there is something to do
      diff           Show how installed files differ from rendered ones; exit code 4 when they do
      up             Create a lab, or bring it in line with its topology
      status         Show the hosts of a lab: roles, replication, lag
      ssh            Log in to a host, or run a command on it
      exec           Run a command on several hosts at once
      psql           Run psql on a host
      logs           Show the logs of a host
      load           Put load on a lab with pgload, from its host with role `load`
      render         Render all files of all hosts into a folder, without a lab
      graph          Draw the lab
      watch          Look at a lab as it lives, and break it with a key
      ssh-config     Print an OpenSSH configuration for the hosts of a lab
      suspend        Freeze a lab to disk, with its memory
      resume         Wake a suspended lab
      checkpoint     Save all hosts of a lab with their memory, to go back to
      reset          Take a lab back to a checkpoint, whatever was done to it
      fault          Break a host or the network on purpose, and heal it again
      ha             Look at automatic failover, and steer it
      backup         Make backups, list them, and prove that they can be restored
      dashboard      Look at a lab that is watched, without Grafana
      lesson         Play lessons, which check themselves, and grade students
      destroy        Take a lab away: its hosts, networks, disks and secrets, and nothing else
      image          Build, list and remove images
      vagrant-hosts  Print the hosts of a topology as the Vagrantfile needs them
      doctor         Check this machine for everything that pgprov needs
      schema         Print the JSON Schema of topologies, for editors
      completion     Print a completion script for a shell

    Options:
      -h, --help     Print help (see more with '--help')
      -V, --version  Print version

    Global options:
          --connect <URI>    libvirt connection, e.g. qemu+ssh://root@host/system [default:
                             $LIBVIRT_DEFAULT_URI or qemu:///system]
      -o, --output <FORMAT>  How to answer [default: human] [possible values: human, json]
          --color <WHEN>     When to colour [default: auto] [possible values: auto, always, never]
      -q, --quiet            Print no progress and no remarks
          --assets <DIR>     Folder whose roles/, templates/ and lessons/ add to the built-in ones, or
                             replace them by name [env: PGPROV_ASSETS=]
          --pool-path <DIR>  Folder of the storage pool on the hypervisor, when it has to be made [env:
                             PGPROV_POOL_PATH=]
    ");
    let run = home.run(&["--version"]);
    assert_eq!(run.to_string(), format!("exit 0\n-- stdout --\npgprov {}\n", env!("CARGO_PKG_VERSION")));
    // The words for somebody who types nothing are no answer, so they go to the other stream.
    let run = home.run(&[]);
    assert_eq!((run.exit, run.stdout.as_str()), (2, ""));
    assert!(run.stderr.starts_with("Turns one topology YAML into a running PostgreSQL lab"), "{run}");
}

#[test]
fn help_of_a_verb() {
    assert_snapshot!(Home::new().run(&["up", "-h"]), @"
    exit 0
    -- stdout --
    Create a lab, or bring it in line with its topology

    Usage: pgprov up [OPTIONS] <TOPOLOGY>

    Arguments:
      <TOPOLOGY>  Topology file, or a plan that `plan --out` saved

    Options:
          --dry-run                 Show the plan and stop, as `pgprov plan` does
          --restart <WHICH>         What becomes of restarts [default: auto] [possible values: auto,
                                    never, rolling]
          --hosts <INVENTORY>       Inventory of machines that are there already, instead of VMs that
                                    pgprov makes [default: those of the last `up`]
      -y, --yes                     Do what interrupts or destroys hosts without asking
          --boot                    Boot new hosts, instead of copying them from a machine that was
                                    booted once and saved
          --no-checkpoint           Neither start from checkpoint `ready` nor make it
          --boot-timeout <SECONDS>  Seconds that one host may take to boot and answer [default: 600]
      -h, --help                    Print help (see more with '--help')

    Global options:
          --connect <URI>    libvirt connection, e.g. qemu+ssh://root@host/system [default:
                             $LIBVIRT_DEFAULT_URI or qemu:///system]
      -o, --output <FORMAT>  How to answer [default: human] [possible values: human, json]
          --color <WHEN>     When to colour [default: auto] [possible values: auto, always, never]
      -q, --quiet            Print no progress and no remarks
          --assets <DIR>     Folder whose roles/, templates/ and lessons/ add to the built-in ones, or
                             replace them by name [env: PGPROV_ASSETS=]
          --pool-path <DIR>  Folder of the storage pool on the hypervisor, when it has to be made [env:
                             PGPROV_POOL_PATH=]
    ");
}

#[test]
fn command_lines_that_are_wrong() {
    let home = Home::new();
    assert_snapshot!(home.run(&["stauts"]), @"
    exit 2
    -- stderr --
    error: unrecognized subcommand 'stauts'

      tip: some similar subcommands exist: 'fault', 'status'

    Usage: pgprov [OPTIONS] <COMMAND>

    For more information, try '--help'.
    ");
    assert_snapshot!(home.run(&["up"]), @"
    exit 2
    -- stderr --
    error: the following required arguments were not provided:
      <TOPOLOGY>

    Usage: pgprov up <TOPOLOGY>

    For more information, try '--help'.
    ");
    assert_snapshot!(home.run(&["up", "lab.yaml", "--boot-timeout", "soon"]), @"
    exit 2
    -- stderr --
    error: invalid value 'soon' for '--boot-timeout <SECONDS>': invalid digit found in string

    For more information, try '--help'.
    ");
    assert_snapshot!(home.run(&["status", "-o", "xml"]), @"
    exit 2
    -- stderr --
    error: invalid value 'xml' for '--output <FORMAT>'
      [possible values: human, json]

    For more information, try '--help'.
    ");
    assert_snapshot!(home.run(&["destroy"]), @"
    exit 2
    -- stderr --
    error: the following required arguments were not provided:
      <LAB>

    Usage: pgprov destroy <LAB>

    For more information, try '--help'.
    ");
    assert_snapshot!(home.run(&["destroy", "lab", "--all"]), @"
    exit 2
    -- stderr --
    error: the argument '[LAB]' cannot be used with '--all'

    Usage: pgprov destroy <LAB>

    For more information, try '--help'.
    ");
    assert_snapshot!(home.run(&["exec", "--host", "m"]), @"
    exit 2
    -- stderr --
    error: the following required arguments were not provided:
      <COMMAND>...

    Usage: pgprov exec --host <HOST> -- <COMMAND>...

    For more information, try '--help'.
    ");
}

#[test]
fn completion_for_every_shell() {
    let home = Home::new();
    for (shell, sign) in [
        ("bash", "complete -F _pgprov"),
        ("elvish", "edit:completion:arg-completer[pgprov]"),
        ("fish", "complete -c pgprov"),
        ("powershell", "Register-ArgumentCompleter -Native -CommandName 'pgprov'"),
        ("zsh", "#compdef pgprov"),
    ] {
        let run = home.run(&["completion", shell]);
        assert_eq!((run.exit, run.stderr.as_str()), (0, ""), "{shell}");
        assert!(run.stdout.contains(sign) && run.stdout.contains("ssh-config"), "{shell}: {run}");
    }
    assert_eq!(home.run(&["completion", "cmd"]).exit, 2);
}

#[test]
fn doctor_lists_every_check_with_its_remedy() {
    // A hypervisor of another kind, and no programs: whatever is installed here, this machine cannot run labs.
    let home = Home::new().env("PATH", "/nowhere");
    let run = home.run(&["doctor", "-o", "json"]);
    assert_eq!(run.exit, 1, "{run}");
    let answer = run.json();
    let checks = answer["checks"].as_array().unwrap();
    let names: Vec<&str> = checks.iter().map(|check| check["what"].as_str().unwrap()).collect();
    for name in [
        "mmdebstrap",
        "qemu-img",
        "ssh",
        "state directory",
        "libvirt",
        "acceleration",
        "memory",
        "storage pool",
    ] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    for check in checks.iter().filter(|check| check["verdict"] == "missing") {
        assert!(check["remedy"].is_string(), "{check}");
    }
    let missing = checks.iter().filter(|check| check["verdict"] == "missing").count();
    assert_eq!(
        run.stderr,
        format!(
            "error: {missing} of {} checks failed\nhint: scripts/setup installs what is missing on Debian 12 and 13\n",
            checks.len()
        )
    );
}

#[test]
fn doctor_without_libvirt() {
    let home = Home::new().env("LIBVIRT_DEFAULT_URI", "qemu+unix:///system?socket=/no/such/socket");
    let run = home.run(&["doctor", "-o", "json"]);
    let answer = run.json();
    let libvirt =
        answer["checks"].as_array().unwrap().iter().find(|check| check["what"] == "libvirt").unwrap();
    assert_eq!(libvirt["verdict"], "missing");
    assert!(libvirt["remedy"].as_str().unwrap().contains("systemctl start libvirtd"), "{libvirt}");
}
