//! Walks tree and schema together: JSON for serde on one side, findings on the other.

use std::collections::{HashMap, HashSet};

use regex_lite::Regex;
use serde_json::{Map, Number, Value as Json};

use super::{
    ALLOWED, choose,
    place::Place,
    rules::{allows, check_format, check_length, check_range, choices, example, smallest, wanted},
};
use crate::{
    finding::{Finding, Findings, Span},
    suggest::{closest, did_you_mean},
    yaml::{Entry, Kind, Node, Scalar, Value, short},
};

/// The good parts of `tree` as JSON and the paths of the others. Nothing when the root itself is bad.
pub(super) fn read(schema: &Json, tree: &Node, findings: &mut Findings) -> (Option<Json>, HashSet<String>) {
    let mut reader = Reader { root: schema, findings, holes: HashSet::new(), patterns: HashMap::new() };
    let json = reader.node(schema, tree, &Place::root(tree.span));
    (json, reader.holes)
}

struct Reader<'s, 'f> {
    /// The whole schema, for references.
    root: &'s Json,
    findings: &'f mut Findings,
    holes: HashSet<String>,
    patterns: HashMap<&'s str, Option<Regex>>,
}

impl<'s> Reader<'s, '_> {
    /// The JSON of a node; `None` after a finding about it.
    fn node(&mut self, schema: &'s Json, node: &Node, place: &Place<'_>) -> Option<Json> {
        let schema = self.resolve(schema);
        if let Some(branches) = union(schema) {
            return self.union(branches, node, place);
        }
        match &node.value {
            Value::Scalar(scalar) => self.scalar(schema, scalar, node, place),
            Value::Sequence(items) if allows(schema, "array") => self.array(schema, items, place),
            Value::Mapping(entries) if allows(schema, "object") => {
                let entries = entries.iter().map(|(name, entry)| (name.as_str(), entry));
                self.object(schema, entries.collect(), node, place)
            }
            _ => self.wrong_type(&[wanted(schema)], None, node, place),
        }
    }

    fn union(&mut self, branches: &'s [Json], node: &Node, place: &Place<'_>) -> Option<Json> {
        let root = self.root;
        let Some(branch) = choose::branch(branches, node, |schema| resolve(root, schema)) else {
            let wants: Vec<_> = branches.iter().map(|branch| wanted(self.resolve(branch))).collect();
            return self.wrong_type(&wants, None, node, place);
        };
        let resolved: Vec<_> = branches.iter().map(|branch| self.resolve(branch)).collect();
        if let Some((name, span, keys)) = no_key_fits(&resolved, node) {
            let path = place.key(name, span).path();
            let finding =
                Finding::error(span, path, format!("unknown key `{}`{}", short(name), place.inside()));
            let keys: Vec<_> = keys.iter().map(String::as_str).collect();
            return self.refuse(with_allowed(finding, name, &keys));
        }
        let tag = choose::tag(branches, |schema| resolve(root, schema));
        if let (Some((name, values)), Some(entries)) = (tag, node.mapping()) {
            let Some(entry) = entries.get(name) else {
                self.missing_key(None, name, place);
                return None;
            };
            let text = entry.node.scalar().map(|scalar| scalar.raw.as_str()).unwrap_or_default();
            if !values.contains(&text) {
                let place = place.key(name, entry.key);
                let message = format!("`{}` is not a value of {}", short(text), place.name());
                let finding = Finding::error(entry.node.span, place.path(), message);
                return self.refuse(with_allowed(finding, text, &values));
            }
        }
        self.node(branch, node, place)
    }

    fn scalar(&mut self, schema: &'s Json, scalar: &Scalar, node: &Node, place: &Place<'_>) -> Option<Json> {
        let text_too = allows(schema, "string") || choices(schema).is_some();
        let number_too = allows(schema, "number");
        match scalar.kind {
            Kind::Null if allows(schema, "null") => Some(Json::Null),
            Kind::Text if text_too => self.text(schema, &scalar.raw, node, place),
            // Where text and numbers are both allowed, what was written counts: 0777 stays what it is.
            Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_) if text_too && number_too => {
                Some(Json::String(scalar.raw.clone()))
            }
            Kind::Bool(value) if allows(schema, "boolean") => Some(Json::Bool(value)),
            Kind::Integer(number) if number_too || allows(schema, "integer") => {
                if let Err(problem) = check_range(schema, number) {
                    let message = format!("{} {problem}, found {}", place.name(), short(&scalar.raw));
                    return self.refuse(Finding::error(node.span, place.path(), message));
                }
                let signed = i64::try_from(number).map(Number::from);
                signed.or_else(|_| u64::try_from(number).map(Number::from)).ok().map(Json::Number)
            }
            Kind::Float(number) if number_too && number.is_finite() => {
                Number::from_f64(number).map(Json::Number)
            }
            _ => self.wrong_type(&[wanted(schema)], in_mapping(schema, scalar), node, place),
        }
    }

    fn text(&mut self, schema: &'s Json, text: &str, node: &Node, place: &Place<'_>) -> Option<Json> {
        let span = node.span;
        if let Some(choices) = choices(schema) {
            if !choices.contains(&text) {
                let message = format!("`{}` is not a value of {}", short(text), place.name());
                let finding = Finding::error(span, place.path(), message);
                return self.refuse(with_allowed(finding, text, &choices));
            }
        } else if let Err(problem) = check_format(schema, text) {
            return self.refuse(Finding::error(span, place.path(), shown(&problem)));
        } else if let Err(problem) = check_length(schema, text) {
            return self.refuse(Finding::error(span, place.path(), format!("{} {problem}", place.name())));
        } else if let Err(allowed) = self.pattern(schema, text) {
            let message = format!("`{}` is not allowed as {}", short(text), place.name());
            return self.refuse(Finding::error(span, place.path(), message).hint(allowed));
        }
        Some(Json::String(text.to_owned()))
    }

    /// Checks the pattern of a schema. The error says what is allowed.
    fn pattern(&mut self, schema: &'s Json, text: &str) -> Result<(), String> {
        let Some(pattern) = schema.get("pattern").and_then(Json::as_str) else { return Ok(()) };
        let regex = self.patterns.entry(pattern).or_insert_with(|| Regex::new(pattern).ok());
        if regex.as_ref().is_none_or(|regex| regex.is_match(text)) {
            return Ok(());
        }
        let words = schema.get(ALLOWED).and_then(Json::as_str);
        Err(words.map_or_else(
            || format!("allowed: text that matches {pattern}"),
            |words| format!("allowed: {words}"),
        ))
    }

    fn array(&mut self, schema: &'s Json, items: &[Node], place: &Place<'_>) -> Option<Json> {
        let limit = |keyword| schema.get(keyword).and_then(Json::as_u64).map(|limit| limit as usize);
        if limit("minItems").is_some_and(|min| items.len() < min) {
            let least = limit("minItems").unwrap_or(1);
            let message = format!("{} must have at least {}", place.name(), counted(least, "element"));
            self.findings.add(|| Finding::error(place.key, place.path(), message));
            self.hole(place);
        }
        if let Some(max) = limit("maxItems").filter(|max| items.len() > *max) {
            let message = format!(
                "{} must have at most {}, has {}",
                place.name(),
                counted(max, "element"),
                items.len()
            );
            return self.refuse(Finding::error(place.key, place.path(), message));
        }
        let item_schema = schema.get("items").unwrap_or(&Json::Bool(true));
        let unique = schema.get("uniqueItems") == Some(&Json::Bool(true));
        let mut seen = HashSet::new();
        let mut list = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let place = place.index(index, item.span);
            let json = self.node(item_schema, item, &place);
            if let Some(json) = json.as_ref().filter(|_| unique)
                && !seen.insert(json.to_string())
            {
                let name = item
                    .scalar()
                    .map_or_else(|| "this element".to_owned(), |s| format!("`{}`", short(&s.raw)));
                self.findings.add(|| {
                    Finding::error(item.span, place.path(), format!("{name} stands here a second time"))
                });
            }
            // A placeholder, so that the other elements keep their indexes.
            list.push(json.unwrap_or_else(|| {
                self.hole(&place);
                self.placeholder(item_schema)
            }));
        }
        Some(Json::Array(list))
    }

    fn object(
        &mut self,
        schema: &'s Json,
        entries: Vec<(&str, &Entry)>,
        node: &Node,
        place: &Place<'_>,
    ) -> Option<Json> {
        self.check_count(schema, entries.len(), place)?;
        let properties = schema.get("properties");
        let others = schema.get("additionalProperties").unwrap_or(&Json::Bool(true));
        let names = schema.get("propertyNames").map(|schema| self.resolve(schema));
        let mut object = Map::with_capacity(entries.len());
        let mut meant = Vec::new();
        for (name, entry) in entries {
            let property = properties.and_then(|properties| properties.get(name));
            if property.is_none() && others == &Json::Bool(false) {
                self.unknown_key(properties, name, entry.key, place, &mut meant);
                continue;
            }
            let place = place.key(name, entry.key);
            if let Some(Err(allowed)) = names.map(|names| self.name(names, name)) {
                let message = format!("`{}` is not allowed as a name{}", short(name), parent_of(&place));
                self.findings.add(|| Finding::error(entry.key, place.path(), message).hint(allowed));
            }
            match self.node(property.unwrap_or(others), &entry.node, &place) {
                Some(json) => {
                    object.insert(name.to_owned(), json);
                }
                None => self.hole(&place),
            }
        }
        let required = schema.get("required").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
        for name in required.iter().filter_map(Json::as_str) {
            if object.contains_key(name) {
                continue;
            }
            let key = place.key(name, place.key);
            let property = properties.and_then(|properties| properties.get(name));
            let present = node.mapping().is_some_and(|entries| entries.contains_key(name));
            // A misspelt key has its finding already.
            if !present && !meant.contains(&name) {
                self.missing_key(property, name, place);
            }
            self.hole(&key);
            let placeholder = property.map_or(Json::Null, |schema| self.placeholder(schema));
            object.insert(name.to_owned(), placeholder);
        }
        Some(Json::Object(object))
    }

    fn check_count(&mut self, schema: &Json, count: usize, place: &Place<'_>) -> Option<()> {
        let limit = |keyword| schema.get(keyword).and_then(Json::as_u64).map(|limit| limit as usize);
        if let Some(min) = limit("minProperties").filter(|min| count < *min) {
            let message = format!("{} must have at least {}", place.name(), counted(min, "entry"));
            self.findings.add(|| Finding::error(place.key, place.path(), message));
            self.hole(place);
        }
        if let Some(max) = limit("maxProperties").filter(|max| count > *max) {
            let message =
                format!("{} must have at most {}, has {count}", place.name(), counted(max, "entry"));
            self.refuse(Finding::error(place.key, place.path(), message))?;
        }
        Some(())
    }

    fn name(&mut self, schema: &'s Json, name: &str) -> Result<(), String> {
        if let Some(choices) = choices(schema).filter(|choices| !choices.contains(&name)) {
            return Err(format!("allowed: {}", choices.join(", ")));
        }
        check_length(schema, name)?;
        self.pattern(schema, name)
    }

    fn unknown_key(
        &mut self,
        properties: Option<&'s Json>,
        name: &str,
        span: Span,
        place: &Place<'_>,
        meant: &mut Vec<&'s str>,
    ) {
        let known =
            || properties.and_then(Json::as_object).into_iter().flat_map(Map::keys).map(String::as_str);
        // A guess compares with all names: not for thousands of keys.
        let guess = if self.findings.overflowed() { None } else { closest(name, known()) };
        if let Some(guess) = guess {
            meant.push(guess);
            self.hole(&place.key(guess, span));
        }
        let root = self.root;
        self.findings.add(|| {
            let path = place.key(name, span).path();
            let finding =
                Finding::error(span, path, format!("unknown key `{}`{}", short(name), place.inside()));
            let elsewhere = if guess.is_none() { elsewhere(root, name) } else { None };
            with_allowed(finding, name, &known().collect::<Vec<_>>())
                .hints_first(elsewhere.map(|path| format!("`{}` is a key of `{path}`", short(name))))
        });
    }

    fn missing_key(&mut self, schema: Option<&'s Json>, name: &str, place: &Place<'_>) {
        let description = schema.and_then(|schema| schema.get("description")).and_then(Json::as_str);
        self.findings.add(|| {
            let message = format!("the key `{name}` is missing{}", place.inside());
            let finding = Finding::error(place.key, place.key(name, place.key).path(), message);
            match description {
                Some(text) => finding.hint(format!("{name}: {}", first_sentence(text))),
                None => finding,
            }
        });
    }

    fn wrong_type(
        &mut self,
        wants: &[String],
        hint: Option<String>,
        node: &Node,
        place: &Place<'_>,
    ) -> Option<Json> {
        let mut wants: Vec<&str> = wants.iter().map(String::as_str).filter(|want| !want.is_empty()).collect();
        wants.dedup();
        let wants = wants.join(" or ");
        let raw = node.scalar().map(|scalar| scalar.raw.as_str()).filter(|raw| !raw.is_empty());
        let empty = node.scalar().is_some_and(|scalar| scalar.kind == Kind::Null);
        let found = raw.map_or_else(
            || node.kind_name().to_owned(),
            |raw| format!("{} (`{}`)", node.kind_name(), short(raw)),
        );
        let message = match empty {
            true if place.is_root() => format!("the file must be {wants}, found nothing"),
            true => format!("{} has no value: it must be {wants}", place.name()),
            false => format!("{} must be {wants}, found {found}", place.name()),
        };
        let hint = hint.or_else(|| match (raw, node.scalar().map(|scalar| scalar.kind)) {
            (Some(raw), Some(Kind::Text)) if wants.contains("`true`") => yes_or_no(raw),
            (Some(raw), Some(Kind::Text)) if wants.contains("number") && raw.parse::<f64>().is_ok() => {
                Some("write it without quotes".to_owned())
            }
            (Some(raw), Some(Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_))) if wants == "text" => {
                Some(format!("write `\"{}\"`", short(raw)))
            }
            (Some(raw), Some(Kind::Text)) if wants == "a list" => Some(format!("write `[{}]`", short(raw))),
            _ => None,
        });
        // An empty value has no width of its own: its key shows better where it is.
        let span = if empty { place.key } else { node.span };
        self.refuse(Finding::error(span, place.path(), message).hints_first(hint))
    }

    fn refuse(&mut self, finding: Finding) -> Option<Json> {
        self.findings.add(|| finding);
        None
    }

    fn hole(&mut self, place: &Place<'_>) {
        // After an overflow nobody asks, and there may be any number of holes.
        if !self.findings.overflowed() {
            self.holes.insert(place.path());
        }
    }

    /// A value that the type accepts, in place of one that is missing or bad.
    fn placeholder(&self, schema: &'s Json) -> Json {
        let schema = self.resolve(schema);
        if let Some(first) = union(schema).and_then(<[Json]>::first) {
            return self.placeholder(first);
        }
        if let Some(first) = choices(schema).and_then(|choices| choices.first().copied()) {
            return Json::String(first.to_owned());
        }
        if allows(schema, "null") {
            Json::Null
        } else if allows(schema, "string") {
            Json::String(example(schema).to_owned())
        } else if allows(schema, "object") {
            let properties = schema.get("properties");
            let required = schema.get("required").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
            let member = |name: &str| Some((name.to_owned(), self.placeholder(properties?.get(name)?)));
            Json::Object(required.iter().filter_map(Json::as_str).filter_map(member).collect())
        } else if allows(schema, "array") {
            Json::Array(Vec::new())
        } else if allows(schema, "boolean") {
            Json::Bool(false)
        } else {
            Json::from(smallest(schema))
        }
    }

    fn resolve(&self, schema: &'s Json) -> &'s Json {
        resolve(self.root, schema)
    }
}

fn resolve<'s>(root: &'s Json, schema: &'s Json) -> &'s Json {
    let target = schema.get("$ref").and_then(Json::as_str).and_then(|target| target.strip_prefix("#/$defs/"));
    target.and_then(|name| root.get("$defs")?.get(name)).unwrap_or(schema)
}

/// The branches of a union; an enum of constants is none.
fn union(schema: &Json) -> Option<&[Json]> {
    let branches = schema.get("anyOf").or_else(|| schema.get("oneOf").filter(|_| choices(schema).is_none()));
    branches.and_then(Json::as_array).map(Vec::as_slice)
}

/// How to write a value that stands where a mapping with one key is wanted.
fn in_mapping(schema: &Json, scalar: &Scalar) -> Option<String> {
    let properties = schema.get("properties").and_then(Json::as_object).filter(|keys| keys.len() == 1)?;
    let key = properties.keys().next().filter(|_| scalar.kind != Kind::Null)?;
    Some(format!("write `{{ {key}: {} }}`", short(&scalar.raw)))
}

/// The keys of all mappings among the branches, when the node is a mapping and has none of them.
fn no_key_fits<'n>(branches: &[&Json], node: &'n Node) -> Option<(&'n str, Span, Vec<String>)> {
    let properties = branches.iter().filter_map(|branch| branch.get("properties")?.as_object());
    let mut keys: Vec<String> = Vec::new();
    for key in properties.flat_map(Map::keys).filter(|_| branches.len() > 1) {
        if !keys.contains(key) {
            keys.push(key.clone());
        }
    }
    let (first, entry) = node.mapping()?.first()?;
    let fits = keys.is_empty() || node.mapping()?.keys().any(|key| keys.contains(key));
    (!fits).then_some((first.as_str(), entry.key, keys))
}

/// Where else in the file a key of this name belongs, two levels down at most: `postgres`, `hosts.NAME`.
fn elsewhere(root: &Json, name: &str) -> Option<String> {
    let properties = root.get("properties")?.as_object()?;
    properties.iter().find_map(|(parent, schema)| {
        let schema = resolve(root, schema);
        if schema.get("properties").is_some_and(|members| members.get(name).is_some()) {
            return Some(parent.clone());
        }
        let member = resolve(root, schema.get("additionalProperties")?);
        member.get("properties")?.get(name).map(|_| format!("{parent}.NAME"))
    })
}

fn with_allowed(finding: Finding, word: &str, allowed: &[&str]) -> Finding {
    let guess = did_you_mean(word, allowed.iter().copied());
    let list = (!allowed.is_empty()).then(|| format!("allowed: {}", allowed.join(", ")));
    finding.hints_first(guess).hints_last(list)
}

fn parent_of(place: &Place<'_>) -> String {
    let path = place.path();
    path.rsplit_once('.').map_or_else(String::new, |(parent, _)| format!(" in `{parent}`"))
}

/// YAML 1.1's other booleans.
fn yes_or_no(raw: &str) -> Option<String> {
    let value = match raw.to_ascii_lowercase().as_str() {
        "yes" | "on" | "y" | "true" => true,
        "no" | "off" | "n" | "false" => false,
        _ => return None,
    };
    Some(format!("write `{value}`"))
}

fn counted(count: usize, thing: &str) -> String {
    match (count, thing) {
        (1, _) => format!("1 {thing}"),
        (_, "entry") => format!("{count} entries"),
        _ => format!("{count} {thing}s"),
    }
}

fn first_sentence(text: &str) -> &str {
    let end = text.find(". ").unwrap_or(text.len());
    text[..end].trim_end_matches('.')
}

/// An explanation that quotes the user's text: made safe to show.
fn shown(problem: &str) -> String {
    problem.chars().take(300).flat_map(crate::yaml::visible).collect()
}

impl Finding {
    fn hints_first(mut self, hint: Option<String>) -> Self {
        self.hints.splice(0..0, hint);
        self
    }

    fn hints_last(mut self, hint: Option<String>) -> Self {
        self.hints.extend(hint);
        self
    }
}
