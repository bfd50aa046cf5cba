use indexmap::IndexMap;
use serde::Deserialize;

use super::*;
use crate::topology::Topology;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read by Debug only")]
struct Thing {
    name: String,
    #[schemars(range(min = 1, max = 64))]
    count: Option<u32>,
    #[serde(default)]
    port: u16,
    #[serde(default)]
    ratio: f64,
    #[serde(default)]
    flag: bool,
    #[serde(default)]
    #[schemars(extend("uniqueItems" = true))]
    tags: Vec<String>,
    #[serde(default)]
    when: Option<When>,
    #[serde(default)]
    parts: IndexMap<String, Part>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read by Debug only")]
struct Part {
    size: crate::size::Bytes,
    #[serde(default)]
    list: Vec<Part>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", tag = "kind", deny_unknown_fields)]
#[expect(dead_code, reason = "read by Debug only")]
enum When {
    Once { at: u32 },
    Never {},
}

/// Messages and hints on a line each, then the value.
fn check(text: &str) -> (Vec<String>, String) {
    let loaded = load::<Thing>(text, Limits::default());
    let value = loaded.value.as_ref().map_or_else(|| "none".to_owned(), |value| format!("{value:?}"));
    let line = |f: Finding| format!("{} | {} | {}", f.path, f.message, f.hints.join("; "));
    (loaded.findings.into_sorted().into_iter().map(line).collect(), value)
}

#[test]
fn a_good_text_is_the_value() {
    let (findings, value) = check(
        "name: x\ncount: 3\nport: 65535\nratio: 1\nflag: true\ntags: [a]\nwhen: {kind: once, at: 3}\nparts: {p: {size: 1GiB}}\n",
    );
    assert_eq!(findings, Vec::<String>::new());
    assert_eq!(
        value,
        "Thing { name: \"x\", count: Some(3), port: 65535, ratio: 1.0, flag: true, tags: [\"a\"], when: Some(Once { at: 3 }), \
         parts: {\"p\": Part { size: Bytes(1073741824), list: [] }} }"
    );
}

#[test]
fn all_findings_come_in_one_pass_and_the_rest_is_read() {
    let text = "nam: x\ncount: 65\nport: 65536\nratio: x\nflag: yes\ntags: [a, 1, a]\nwhen: {kind: sometimes}\n\
                parts: {p: {size: 1GB}, q: {list: [{size: 1GiB}, {}]}, r: 3}\nzzz: {size: 3}\n";
    let (findings, value) = check(text);
    let expected = [
        "nam | unknown key `nam` | did you mean `name`?; allowed: name, count, port, ratio, flag, tags, when, parts",
        "count | `count` must be between 1 and 64, found 65 | ",
        "port | `port` must be between 0 and 65535, found 65536 | ",
        "ratio | `ratio` must be a number, found text (`x`) | ",
        "flag | `flag` must be `true` or `false`, found text (`yes`) | write `true`",
        "tags[1] | element 2 of `tags` must be text, found a number (`1`) | write `\"1\"`",
        "tags[2] | `a` stands here a second time | ",
        "when.kind | `sometimes` is not a value of `kind` | allowed: once, never",
        "parts.p.size | `1GB` is not a size: write a number and KiB, MiB, GiB or TiB, as in `1GiB` | ",
        "parts.q.size | the key `size` is missing in `parts.q` | ",
        "parts.q.list[1].size | the key `size` is missing in `parts.q.list[1]` | ",
        "parts.r | `r` must be a mapping, found a number (`3`) | ",
        "zzz | unknown key `zzz` | allowed: name, count, port, ratio, flag, tags, when, parts",
    ];
    assert_eq!(findings, expected, "{findings:#?}");
    let value_expected = "Thing { name: \"\", count: None, port: 0, ratio: 0.0, flag: false, tags: [\"a\", \"\", \"a\"], \
                          when: None, parts: {\"p\": Part { size: Bytes(1073741824), list: [] }, \
                          \"q\": Part { size: Bytes(1073741824), list: [Part { size: Bytes(1073741824), list: [] }, \
                          Part { size: Bytes(1073741824), list: [] }] }} }";
    assert_eq!(value, value_expected);
}

#[test]
fn holes_are_known_with_all_inside_them() {
    let loaded = load::<Thing>("name: 1\nparts: {p: {size: 1GB}, q: 3}\n", Limits::default());
    for (path, hole) in [
        ("name", true),
        ("parts", false),
        ("parts.p.size", true),
        ("parts.p", false),
        ("parts.q.size", true),
        ("port", false),
    ] {
        assert_eq!(loaded.is_hole(path), hole, "{path}");
    }
    assert!(loaded.has_holes("parts") && loaded.has_holes("parts.p") && !loaded.has_holes("part"));
}

#[test]
fn a_root_of_the_wrong_type_is_a_finding() {
    let (findings, value) = check("- name\n");
    assert_eq!(
        (findings, value.as_str()),
        (vec![" | the file must be a mapping, found a list | ".to_owned()], "none")
    );
}

#[test]
fn our_types_use_supported_keywords_only() {
    assert_eq!(unsupported::<Topology>(), BTreeSet::new());
    assert_eq!(unsupported::<crate::role::Manifest>(), BTreeSet::new());
    assert_eq!(unsupported::<Thing>(), BTreeSet::new());
}
