//! docs/failover.md is drawn from the code: `make docs` draws it anew.

use pgagent_core::{diagram, node::table::TABLE};

#[test]
fn the_diagram_and_the_table_are_those_of_the_code() {
    let want =
        [("diagram", format!("```mermaid\n{}```\n", diagram::mermaid())), ("transitions", diagram::table())];
    let old = document();
    let mut new = old.clone();
    for (name, text) in want {
        let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->\n"));
        let from = new.find(&begin).expect("the document has the mark") + begin.len();
        let to = new.find(&end).expect("the document has the mark's end");
        new.replace_range(from..to, &text);
    }
    if rewrite() && new != old {
        write(&new);
        return;
    }
    assert!(new == old, "docs/failover.md is not what the table says: make docs");
}

#[test]
fn every_transition_says_why() {
    for row in TABLE {
        assert!(row.why.len() > 30 && !row.why.ends_with('.'), "{row:?}");
        assert!(!row.from.is_empty() && !row.from.contains(&row.to), "{row:?}");
    }
}

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/failover.md");

#[expect(clippy::disallowed_methods, reason = "compares with a document")]
fn document() -> String {
    std::fs::read_to_string(PATH).expect("docs/failover.md can be read")
}

#[expect(clippy::disallowed_methods, reason = "draws the document anew")]
fn write(text: &str) {
    std::fs::write(PATH, text).expect("docs/failover.md can be written");
}

#[expect(clippy::disallowed_methods, reason = "asked for like the snapshots of insta")]
fn rewrite() -> bool {
    std::env::var("INSTA_UPDATE").is_ok_and(|value| value == "always")
}
