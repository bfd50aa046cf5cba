//! Bad topologies with their exact findings, good ones without any.
#![expect(clippy::disallowed_methods, reason = "the texts under test are files")]

use std::{fs, path::Path};

use pgplan::{
    check::{Checked, INIT, Known, RoleInfo, check_text, schema},
    excerpt::render,
    finding::{Finding, Severity},
};

fn known() -> Known {
    let roles = ["arbiter", "backup", "base", "client", "etcd", "load", "monitor", "postgres"];
    Known { roles: roles.map(RoleInfo::from).to_vec() }
}

/// One file, one snapshot beside it. A glob without files fails.
#[test]
fn bad_topologies_have_exactly_these_findings() {
    insta::with_settings!({ snapshot_path => "bad", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::glob!("bad/*.yaml", |path| {
            let text = fs::read_to_string(path).unwrap();
            let file = path.file_name().unwrap().to_string_lossy();
            let Checked { topology, findings } = check_text(&text, &known());
            let errors = findings.iter().any(|finding| finding.severity == Severity::Error);
            assert!(!findings.is_empty(), "{file} has no findings");
            assert_eq!(topology.is_none(), errors, "{file}: a topology comes without errors only");
            insta::assert_snapshot!("findings", render(&findings, &file, &text));
        });
    });
}

#[test]
fn there_are_many_bad_topologies() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let files = fs::read_dir(folder).unwrap().filter(|file| {
        file.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "yaml")
    });
    assert!(files.count() >= 45);
}

#[test]
fn the_topologies_we_ship_have_no_findings() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../topologies");
    let mut seen = 0;
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        seen += 1;
        let text = fs::read_to_string(&path).unwrap();
        let Checked { topology, findings } = check_text(&text, &known());
        assert!(findings.is_empty(), "{}", render(&findings, &path.to_string_lossy(), &text));
        assert!(topology.is_some_and(|topology| !topology.hosts.is_empty()));
    }
    assert!(seen >= 2, "found {seen} topologies");
}

#[test]
fn the_starting_topology_has_no_findings() {
    let text = INIT.replace("NAME", "first");
    let Checked { topology, findings } = check_text(&text, &known());
    assert!(findings.is_empty(), "{}", render(&findings, "init.yaml", &text));
    assert_eq!(topology.unwrap().lab, "first");
}

#[test]
fn the_schema_is_stable() {
    insta::with_settings!({ omit_expression => true }, {
        insta::assert_snapshot!("schema", serde_json::to_string_pretty(&schema()).unwrap());
    });
}

#[test]
fn findings_are_data_too() {
    let Checked { findings, .. } =
        check_text("lab: x\nvm: { cpu: 2 }\nhosts: { m: { roles: [postgres] } }\n", &known());
    let json = serde_json::to_value(&findings).unwrap();
    let expected = serde_json::json!([{
        "severity": "error",
        "span": { "line": 2, "column": 7, "length": 3 },
        "path": "vm.cpu",
        "message": "unknown key `cpu` in `vm`",
        "hints": ["did you mean `cpus`?", "allowed: cpus, memory, disk"],
    }]);
    assert_eq!(json, expected);
}

#[test]
fn settings_are_handed_on_as_they_were_written() {
    let text = "lab: x\npostgres:\n  settings:\n    log_file_mode: 0640\n    jit: on\n    fsync: true\n    random_page_cost: 1.10\n\
                \x20   search_path: '\"$user\", public'\nhosts:\n  m: { roles: [postgres] }\n";
    let Checked { topology, findings } = check_text(text, &known());
    assert_eq!(findings, Vec::<Finding>::new());
    let settings = topology.unwrap().postgres.settings;
    let values: Vec<_> = settings.iter().map(|(name, value)| format!("{name}={}", value.0)).collect();
    assert_eq!(
        values,
        [
            "log_file_mode=0640",
            "jit=on",
            "fsync=true",
            "random_page_cost=1.10",
            "search_path=\"$user\", public"
        ]
    );
}
