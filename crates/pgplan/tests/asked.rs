//! What roles ask for beyond their own host: users of the databases, and passwords.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is the failure")]

mod sources;

use pgplan::{
    check::check_text,
    lab::{Lab, Pins},
    render::{Roles, Sources},
};
use sources::roles;

const HOSTS: &str = "hosts: { m: { roles: [postgres] }, eye: { roles: [monitor] } }\n";

fn lab(roles: &Roles, text: &str) -> Lab {
    let checked = check_text(text, &roles.known());
    roles
        .derive(&checked.topology.unwrap_or_else(|| panic!("{:#?}", checked.findings)), &Pins::new())
        .unwrap()
}

/// The messages of all findings.
fn refusals(roles: &Roles, text: &str) -> Vec<String> {
    check_text(text, &roles.known()).findings.into_iter().map(|finding| finding.message).collect()
}

/// The sources of roles, from what their manifests have beyond name and summary.
fn parse(manifests: &[(&str, &str)]) -> Result<Roles, Vec<String>> {
    let text =
        |(role, more): &(&str, &str)| (format!("{role}.yaml"), format!("role: {role}\nsummary: s\n{more}\n"));
    let sources = Sources { roles: manifests.iter().map(text).collect(), ..Sources::default() };
    Roles::parse(&sources)
        .map_err(|bad| bad.into_iter().flat_map(|(_, findings)| findings).map(|it| it.message).collect())
}

#[test]
fn monitoring_asks_for_a_user_and_grafana_for_a_password() {
    let roles = roles();
    let users = |lab: &Lab| lab.postgres.users.iter().map(|it| it.name.clone()).collect::<Vec<_>>();
    let none = lab(&roles, "lab: x\nhosts: { m: { roles: [postgres] } }\n");
    assert_eq!((users(&none).len(), none.other_passwords.len()), (0, 0));
    let packages = lab(&roles, &format!("lab: x\nmonitoring: {{ engine: packages }}\n{HOSTS}"));
    assert_eq!((users(&packages), packages.other_passwords.len()), (vec!["monitor".to_owned()], 0));
    assert_eq!(packages.postgres.users[0].member_of, ["pg_monitor"]);
    let containers = lab(&roles, &format!("lab: x\nmonitoring: {{ engine: containers }}\n{HOSTS}"));
    assert_eq!(users(&containers), ["monitor"]);
    assert_eq!(containers.other_passwords.iter().collect::<Vec<_>>(), ["grafana-admin"]);
    assert!(containers.passwords().is_superset(&["monitor", "grafana-admin"].map(str::to_owned).into()));
}

#[test]
fn users_of_roles_are_nobody_elses() {
    let roles = roles();
    let taken = "`monitor` cannot be the name of a role: hosts with the role `postgres-exporter` make it for themselves";
    let users = format!("lab: x\npostgres: {{ users: [ {{ name: monitor }} ] }}\n{HOSTS}monitoring: {{}}\n");
    assert_eq!(refusals(&roles, &users), [taken]);
    let owner = "lab: x\npostgres: { databases: [ { name: d, owner: monitor } ] }\nhosts: { m: { roles: [postgres] } }\n";
    assert_eq!(refusals(&roles, owner), [taken]);
}

/// A role of one's own asks in the same way; one whose condition does not hold, or that no host has, asks for nothing.
#[test]
fn a_role_asks_where_a_host_has_it() {
    let roles = parse(&[
        ("base", ""),
        ("postgres", ""),
        (
            "pool",
            "database_users: [ { name: pool, attributes: [createdb] } ]\npasswords: [ { name: pool-admin } ]",
        ),
        ("never", "when: lab.name == 'other'\ndatabase_users: [ { name: nobody } ]"),
    ])
    .unwrap();
    let asked = lab(
        &roles,
        "lab: x\nhosts: { m: { roles: [postgres, never] }, p: { roles: [pool] }, q: { roles: [pool] } }",
    );
    assert_eq!(asked.postgres.users.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["pool"]);
    assert_eq!(asked.other_passwords.iter().collect::<Vec<_>>(), ["pool-admin"]);
    let without = lab(&roles, "lab: x\nhosts: { m: { roles: [postgres] } }");
    assert_eq!((without.postgres.users.len(), without.other_passwords.len()), (0, 0));
}

#[test]
fn two_roles_cannot_make_one_user() {
    let user = "database_users: [ { name: u } ]";
    assert_eq!(
        parse(&[("a", user), ("b", user)]).err().unwrap(),
        ["database_users: `u` is made by role `a` already"]
    );
    let own = parse(&[("a", "database_users: [ { name: replicator } ]")]).err().unwrap();
    assert_eq!(own, ["database_users: `replicator` is there on every server"]);
    let plain = parse(&[("a", "passwords: [ { name: plain } ]")]).err().unwrap();
    assert!(plain[0].contains("plain"), "{plain:?}");
}
