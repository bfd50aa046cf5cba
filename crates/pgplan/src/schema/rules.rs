//! Rules for single values: names of types, patterns, formats, bounds.

use std::net::Ipv4Addr;

use serde_json::Value as Json;

use crate::{size::Bytes, subnet::Subnet};

/// A format of text that has a Rust type with an explanation of its own.
struct TextFormat {
    name: &'static str,
    /// What it is, in a sentence.
    what: &'static str,
    /// Always valid.
    example: &'static str,
    check: fn(&str) -> Result<(), String>,
}

const TEXT_FORMATS: [TextFormat; 3] = [
    TextFormat {
        name: "size",
        what: "a size such as `1GiB`",
        example: "1GiB",
        check: |text| text.parse::<Bytes>().map(drop),
    },
    TextFormat {
        name: "subnet",
        what: "a subnet such as `10.77.10.0/24`",
        example: "10.0.0.0/24",
        check: |text| text.parse::<Subnet>().map(drop),
    },
    TextFormat {
        name: "ipv4",
        what: "an IPv4 address such as `10.77.10.2`",
        example: "10.0.0.2",
        check: |text| {
            let error =
                |_| format!("`{text}` is not an IPv4 address: write four numbers, as in `10.77.10.2`");
            text.parse::<Ipv4Addr>().map(drop).map_err(error)
        },
    },
];

/// Formats of whole numbers with their ranges.
const INTEGER_FORMATS: [(&str, i128, i128); 8] = [
    ("uint8", 0, u8::MAX as i128),
    ("uint16", 0, u16::MAX as i128),
    ("uint32", 0, u32::MAX as i128),
    ("uint64", 0, u64::MAX as i128),
    ("uint", 0, u32::MAX as i128),
    ("int32", i32::MIN as i128, i32::MAX as i128),
    ("int64", i64::MIN as i128, i64::MAX as i128),
    ("double", i64::MIN as i128, i64::MAX as i128),
];

pub(super) fn is_format(name: &str) -> bool {
    TEXT_FORMATS.iter().any(|format| format.name == name)
        || INTEGER_FORMATS.iter().any(|format| format.0 == name)
}

fn text_format(schema: &Json) -> Option<&'static TextFormat> {
    let name = schema.get("format")?.as_str()?;
    TEXT_FORMATS.iter().find(|format| format.name == name)
}

/// The types that a schema allows; none when it allows all.
pub(super) fn types(schema: &Json) -> Vec<&str> {
    match schema.get("type") {
        Some(Json::String(one)) => vec![one],
        Some(Json::Array(several)) => several.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    }
}

/// Whether a schema allows a type.
pub(super) fn allows(schema: &Json, name: &str) -> bool {
    let types = types(schema);
    types.contains(&name) || types.is_empty() && choices(schema).is_none() && schema.get("anyOf").is_none()
}

/// The texts that a schema allows, when it is a choice.
pub(super) fn choices(schema: &Json) -> Option<Vec<&str>> {
    if let Some(text) = schema.get("const").and_then(Json::as_str) {
        return Some(vec![text]);
    }
    if let Some(texts) = schema.get("enum").and_then(Json::as_array) {
        return Some(texts.iter().filter_map(Json::as_str).collect());
    }
    // A mix of constants and lists of constants is what schemars makes of an enum of which some variants have docs.
    let branches = schema.get("oneOf")?.as_array()?;
    let of_each: Option<Vec<_>> = branches.iter().map(choices).collect();
    of_each.map(|all| all.concat())
}

/// What a schema wants, with article: `a whole number`, `a size such as ...`.
pub(super) fn wanted(schema: &Json) -> String {
    if let Some(choices) = choices(schema) {
        return if choices.len() == 1 {
            format!("`{}`", choices[0])
        } else {
            "one of the names allowed".to_owned()
        };
    }
    let name = |name: &&str| match *name {
        "string" => text_format(schema).map_or("text", |format| format.what),
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "`true` or `false`",
        "array" => "a list",
        "object" => "a mapping",
        _ => "empty",
    };
    let types = types(schema);
    let names: Vec<_> = types.iter().filter(|name| **name != "null").map(name).collect();
    names.join(" or ")
}

/// Checks text against the format of a schema: the type's own explanation when it does not fit.
pub(super) fn check_format(schema: &Json, text: &str) -> Result<(), String> {
    text_format(schema).map_or(Ok(()), |format| (format.check)(text))
}

/// Text that fits the format of a schema.
pub(super) fn example(schema: &Json) -> &'static str {
    text_format(schema).map_or("", |format| format.example)
}

/// What is wrong with the length of a text.
pub(super) fn check_length(schema: &Json, text: &str) -> Result<(), String> {
    let limit = |keyword| schema.get(keyword).and_then(Json::as_u64);
    let length = text.chars().count() as u64;
    match (limit("minLength"), limit("maxLength")) {
        (Some(1), _) if length == 0 => Err("must not be empty".to_owned()),
        (Some(min), _) if length < min => Err(format!("must have at least {min} characters")),
        (_, Some(max)) if length > max => Err(format!("must have at most {max} characters, has {length}")),
        _ => Ok(()),
    }
}

/// What is wrong with the size of a whole number.
pub(super) fn check_range(schema: &Json, number: i128) -> Result<(), String> {
    let limit = |keyword| schema.get(keyword).and_then(integer);
    let format = schema.get("format").and_then(Json::as_str);
    let format = format.and_then(|name| INTEGER_FORMATS.iter().find(|format| format.0 == name));
    let (lowest, highest) = format.map_or((i64::MIN.into(), u64::MAX.into()), |(_, min, max)| (*min, *max));
    let (min, max) = (limit("minimum").unwrap_or(lowest).max(lowest), limit("maximum"));
    if number < min || number > max.unwrap_or(highest) {
        return Err(match max {
            Some(max) => format!("must be between {min} and {max}"),
            None if number < min => format!("must be at least {min}"),
            None => format!("must be at most {highest}"),
        });
    }
    Ok(())
}

/// A whole number that is the smallest allowed or 0.
pub(super) fn smallest(schema: &Json) -> i64 {
    schema.get("minimum").and_then(Json::as_i64).unwrap_or(0).max(0)
}

fn integer(number: &Json) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}
