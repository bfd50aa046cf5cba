//! One JSON object a line, on stderr: journald keeps them.

use std::io::Write;

/// Writes a line. Values are never secret.
pub fn line(level: &str, event: &str, fields: &[(&str, &str)]) {
    let mut object = serde_json::Map::new();
    object.insert("level".to_owned(), level.into());
    object.insert("event".to_owned(), event.into());
    object.insert("uptime".to_owned(), crate::clock::now().to_string().into());
    for (name, value) in fields {
        object.insert((*name).to_owned(), (*value).into());
    }
    let mut text = serde_json::Value::Object(object).to_string();
    text.push('\n');
    // Nobody reads: nothing to be done about it.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
