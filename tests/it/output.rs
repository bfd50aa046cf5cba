//! Who sees what: answers on stdout, remarks on stderr, colours only where they are wanted.

use std::{io::Read as _, process::Stdio};

use insta::assert_snapshot;
use pgprov::{
    commands,
    error::{self, Error, Kind},
    ui::{Color, Format, Ui},
};

use crate::runner::Home;

const BAD: &str = "lab: lab\nhosts: {}\n";

fn with_lab() -> Home {
    let home = Home::new();
    home.make_lab("lab: lab\nhosts: { m: { roles: [postgres] } }\n");
    home.write("bad.yaml", BAD);
    home
}

#[test]
fn colours_are_for_terminals_unless_asked_for() {
    let home = with_lab();
    let coloured = |arguments: &[&str]| {
        let run = home.run(arguments);
        (run.stdout.contains('\x1b'), run.stderr.contains('\x1b'))
    };
    assert_eq!(coloured(&["status", "lab"]), (false, false));
    assert_eq!(coloured(&["status", "lab", "--color", "always"]), (true, false));
    assert_eq!(coloured(&["status", "lab", "--color", "never"]), (false, false));
    assert_eq!(coloured(&["status", "lab", "--color", "always", "-o", "json"]), (false, false));
    assert_eq!(coloured(&["validate", "bad.yaml"]), (false, false));
    assert!(coloured(&["validate", "bad.yaml", "--color", "always"]).1);
}

/// On a terminal, made by `script`: NO_COLOR turns colours off, and --color wins over it.
#[test]
fn no_color_on_a_terminal() {
    let home = with_lab();
    let on_terminal = |arguments: &str, no_color: &str| {
        let line = format!("{} {arguments}", env!("CARGO_BIN_EXE_pgprov"));
        let mut command = home.command(&[]);
        let environment: Vec<_> =
            command.get_envs().filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned()))).collect();
        command = std::process::Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).env_clear().envs(environment).env("NO_COLOR", no_color);
        let output = command
            .current_dir(home.path(""))
            .stdin(Stdio::null())
            .output()
            .expect("script, of util-linux, runs");
        String::from_utf8(output.stdout).unwrap().contains("\x1b[1m")
    };
    assert!(on_terminal("status lab", ""), "an empty NO_COLOR is none");
    assert!(!on_terminal("status lab", "1"));
    assert!(on_terminal("status lab --color always", "1"));
}

#[test]
fn quiet_silences_remarks_but_neither_answers_nor_errors() {
    let home = with_lab();
    let graph = home.run(&["graph", "--out", "lab.svg", "--quiet"]);
    assert_eq!(graph.to_string(), "exit 0\n");
    home.write("lab.yaml", "lab: other\nhosts: { m: { roles: [postgres] } }\n");
    let (loud, quiet) = (home.run(&["plan", "lab.yaml"]), home.run(&["plan", "-q", "lab.yaml"]));
    assert_eq!((quiet.exit, &quiet.stdout), (4, &loud.stdout));
    assert_snapshot!(loud.stderr, @"Make these changes with: pgprov up lab.yaml");
    assert_eq!(quiet.stderr, "");
    assert_snapshot!(home.run(&["validate", "bad.yaml", "--quiet"]), @"
    exit 3
    -- stdout --
    bad.yaml:2:1: error: `hosts` must have at least 1 entry
      |
    2 | hosts: {}
      | ^^^^^
    -- stderr --
    error: bad.yaml has 1 error
    ");
}

/// `pgprov ... | head`: the reader goes away in the middle.
#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    let home = with_lab();
    for arguments in [&["schema"][..], &["completion", "bash"], &["status", "lab"], &["validate", "bad.yaml"]]
    {
        let mut child =
            home.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let status = child.wait().unwrap();
        assert_eq!((status.code(), stderr.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

/// `pgprov ... 2>&1 | head`: what was to be said is lost, what was to be done is not.
#[test]
fn nobody_reads_what_is_said_on_the_side() {
    let home = with_lab();
    for (arguments, exit) in
        [(&["graph", "--out", "lab.svg"][..], 0), (&["validate", "missing.yaml"], 1), (&["ssh", "nobody"], 2)]
    {
        let mut child =
            home.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stderr.take());
        assert_eq!(child.wait().unwrap().code(), Some(exit), "{arguments:?}");
    }
    assert!(home.path("lab.svg").exists());
}

/// docs/exit-codes.md, as far as a test without virtual machines can go. 5 is for waits, see `ssh::Error::is_timeout`.
#[test]
fn exit_codes() {
    let home = with_lab();
    home.write("new.yaml", "lab: new\nhosts: { m: { roles: [postgres] } }\n");
    for (exit, arguments) in [
        (0, &["status", "lab"][..]),
        (1, &["validate", "missing.yaml"]),
        (2, &["validate"]),
        (2, &["ssh", "nobody"]),
        (3, &["validate", "bad.yaml"]),
        (3, &["up", "bad.yaml"]),
        (4, &["plan", "new.yaml"]),
    ] {
        let run = home.run(arguments);
        assert_eq!(run.exit, exit, "{arguments:?}: {run}");
    }
}

/// A panic is a defect of pgprov, not a failure of what it was asked to do. The real program has none to show.
#[test]
fn a_defect_has_an_exit_code_of_its_own() {
    let ui = Ui::new(Format::Human, Color::Never, true, false);
    assert_eq!(commands::exit_code(&ui, || panic!("on purpose")), error::EXIT_BUG);
    assert_eq!(commands::exit_code(&ui, || Ok(())), error::EXIT_OK);
    assert_eq!(
        commands::exit_code(&ui, || Err(Error::new(Kind::Timeout, "on purpose"))),
        error::EXIT_TIMEOUT
    );
}
