use super::*;

fn read(text: &str) -> (Option<Node>, Vec<Finding>) {
    let mut findings = Findings::default();
    let node = parse(text, Limits::default(), &mut findings);
    (node, findings.into_sorted())
}

/// The tree as text, for comparing.
fn show(node: &Node) -> String {
    match &node.value {
        Value::Scalar(Scalar { raw, kind: Kind::Text }) => format!("{raw:?}"),
        Value::Scalar(Scalar { kind, .. }) => format!("{kind:?}"),
        Value::Sequence(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", ")),
        Value::Mapping(entries) => {
            let entries: Vec<_> =
                entries.iter().map(|(key, entry)| format!("{key}: {}", show(&entry.node))).collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

#[test]
fn scalars_are_those_of_the_core_schema() {
    for (text, expected) in [
        ("~", "Null"),
        ("Null", "Null"),
        ("TRUE", "Bool(true)"),
        ("on", "\"on\""),
        ("yes", "\"yes\""),
        ("017", "Integer(17)"),
        ("0o17", "Integer(15)"),
        ("-0x1", "\"-0x1\""),
        ("0x1F", "Integer(31)"),
        ("+12", "Integer(12)"),
        ("1e3", "Float(1000.0)"),
        (".5", "Float(0.5)"),
        ("-.inf", "Float(-inf)"),
        ("1.", "Float(1.0)"),
        (".", "\".\""),
        ("1.2.3", "\"1.2.3\""),
        ("1e", "\"1e\""),
        ("'12'", "\"12\""),
        ("\"true\"", "\"true\""),
        ("!!str 12", "\"12\""),
        ("!!int '12'", "Integer(12)"),
        ("99999999999999999999999999999999999999999", "Float(1e41)"),
        ("|\n  a\n  b\n", "\"a\\nb\\n\""),
    ] {
        let (node, findings) = read(text);
        assert_eq!((node.as_ref().map(show).as_deref(), findings), (Some(expected), vec![]), "{text}");
    }
}

#[test]
fn places_of_keys_and_values() {
    let text = "# ä comment\nhosts:\n  mé: { roles: [postgres, 'x'], follows: s }\nlast: |\n  text\n";
    let (node, findings) = read(text);
    assert_eq!(findings, vec![]);
    let node = node.unwrap();
    let at = |path: &[&str]| {
        let Location { path, key, value } = node.locate(path);
        format!(
            "{path} {}:{}+{} {}:{}+{}",
            key.line, key.column, key.length, value.line, value.column, value.length
        )
    };
    assert_eq!(at(&["hosts"]), "hosts 2:1+5 3:3+42");
    assert_eq!(at(&["hosts", "mé", "roles", "1"]), "hosts.mé.roles[1] 3:27+3 3:27+3");
    assert_eq!(at(&["hosts", "mé", "follows"]), "hosts.mé.follows 3:33+7 3:42+1");
    assert_eq!(at(&["hosts", "mé", "address"]), "hosts.mé.address 3:3+2 3:7+38");
    assert_eq!(at(&["last"]), "last 4:1+4 5:3+4");
}

#[test]
fn json_is_read_piece_by_piece_and_keeps_its_places() {
    let hosts: Vec<String> = (0..3000).map(|i| format!("\"h{i}\": {{\"roles\": [\"postgres\"]}}")).collect();
    let text = format!("# generated\n\n{{\"lab\": \"l\", \"hosts\": {{\n{}\n}}}}", hosts.join(",\n"));
    let (node, findings) = read(&text);
    assert_eq!(findings, vec![]);
    let node = node.unwrap();
    assert_eq!(node.locate(&["lab"]).value, Span { line: 3, column: 9, length: 3 });
    assert_eq!(node.locate(&["hosts", "h7"]).key, Span { line: 11, column: 1, length: 4 });
    assert_eq!(node.locate(&["hosts"]).path, "hosts");
}

#[test]
fn anchors_and_aliases_are_expanded() {
    let (node, findings) = read("a: &x {k: [1]}\nb: *x\nc: [*x, *x]\n");
    assert_eq!(findings, vec![]);
    let expected = "{a: {k: [Integer(1)]}, b: {k: [Integer(1)]}, c: [{k: [Integer(1)]}, {k: [Integer(1)]}]}";
    assert_eq!(show(&node.unwrap()), expected);
}

#[test]
fn line_ends_of_all_systems_count() {
    for end in ["\n", "\r\n", "\r"] {
        let text = format!("\u{feff}# c{end}{end}a: 1{end}b: [1,{end} 2]{end}");
        let (node, findings) = read(&text);
        assert_eq!(findings, vec![], "{end:?}");
        let node = node.unwrap();
        assert_eq!(node.locate(&["b", "1"]).value, Span { line: 5, column: 2, length: 1 }, "{end:?}");
        assert_eq!(lines(&text).count(), 6);
    }
}

/// Each line: text, tab, `line:column message`.
#[test]
fn what_is_refused() {
    for (text, expected) in [
        ("", "1:1 the file is empty"),
        ("# only a comment\n", "1:1 the file is empty"),
        ("a: 1\na: 2\n", "2:1 the key `a` stands here a second time"),
        ("a: {b: 1, 'b': 2}\n", "1:11 the key `b` stands here a second time"),
        ("a: 1\n---\nb: 2\n", "2:1 a second document begins here"),
        ("1: x\n", "1:1 a key must be text, found a number"),
        ("? [a]\n: x\n", "1:3 a key must be text, found a list"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "3:3 merge keys (`<<`) are not supported"),
        ("a: &x [*x]\n", "1:8 this alias stands inside the value that it repeats"),
        ("a: *nowhere\n", "1:4 no value above has an anchor (`&`) of this name"),
        ("a: !ruby/object:Gem x\n", "1:4 only the tags of YAML's core schema are allowed"),
        ("a: !!int x\n", "1:4 the tag `!!int` does not fit this value"),
        ("a: !!set {x}\n", "1:4 the tag `!!set` does not fit this value"),
        ("a: b\u{0}c\n", "1:5 the character U+0000 may not stand in YAML"),
        ("a: \u{1b}[31m\n", "1:4 the character U+001B may not stand in YAML"),
    ] {
        let (_, findings) = read(text);
        let shown: Vec<_> =
            findings.iter().map(|f| format!("{}:{} {}", f.span.line, f.span.column, f.message)).collect();
        assert_eq!(shown, [expected], "{text:?}");
    }
}

#[test]
fn bytes_that_are_not_utf8_have_a_place() {
    assert_eq!(decode("lab: ä".as_bytes()), Ok("lab: ä"));
    let finding = decode(b"lab: x\nhosts: \xff").unwrap_err();
    assert_eq!(finding.span, Span { line: 2, column: 8, length: 1 });
}

#[test]
fn hostile_text_ends_in_a_finding() {
    let bomb = {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..30 {
            let repeated = vec![format!("*a{}", i - 1); 9].join(", ");
            text += &format!("a{i}: &a{i} [{repeated}]\n");
        }
        text
    };
    let quoted_brackets = format!("a: [{}", "[\"]\",".repeat(200_000));
    for (name, text) in [
        ("alias bomb", bomb),
        ("brackets", "[".repeat(1 << 20)),
        ("brackets in a value", format!("a: {}", "[".repeat(1 << 20))),
        ("braces", "{".repeat(1 << 20)),
        ("keys", "{a: ".repeat(1 << 18)),
        ("brackets and closers in quotes", quoted_brackets),
        ("dashes", "- ".repeat(1 << 19)),
        ("question marks", "? ".repeat(1 << 19)),
        ("indentation", (0..1000).map(|i| format!("{}a:\n", " ".repeat(i))).collect()),
        (
            "tags",
            format!("%TAG ! tag:yaml.org,2002:{}\n---\n{}", "x".repeat(200_000), "- !a b\n".repeat(100_000)),
        ),
        ("too long", "a".repeat((4 << 20) + 1)),
        ("one long scalar", "a".repeat(4 << 20)),
        ("anchors", "- &a x\n".repeat(300_000)),
        ("controls", "\u{1}".repeat(1 << 20)),
    ] {
        let (node, findings) = read(&text);
        assert!(node.is_none() && !findings.is_empty(), "{name}");
        assert!(
            findings.iter().all(|f| f.message.len() < 500 && f.span.line >= 1 && f.span.column >= 1),
            "{name}"
        );
    }
}
