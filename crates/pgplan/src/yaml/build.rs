//! Events -> tree.

use std::collections::HashMap;

use indexmap::{IndexMap, map::Entry as Slot};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span as Range, Tag};

use super::{
    Entry, Kind, Limits, Node, START, Scalar, Value,
    feed::{DOCUMENT_START, Feed, Meter},
    join, lines,
    scalar::resolve,
    short,
};
use crate::finding::{Finding, Findings, Span};

/// Reads the first and only document of `text`.
pub(super) fn build(text: &str, limits: Limits, findings: &mut Findings) -> Option<Node> {
    let meter = Meter::default();
    let feed = Feed::new(text);
    let mut parser = Parser::new_from_iter(feed.chars(&meter));
    let places =
        Places { widths: lines(text).map(|line| line.chars().count()).collect(), shifted: feed.shifted_line };
    let mut builder = Builder {
        places,
        limits,
        findings,
        open: Vec::new(),
        anchors: HashMap::new(),
        nodes: 0,
        documents: 0,
        root: None,
    };
    let mut last = START;
    while let Some(event) = parser.next_event() {
        if meter.exceeded() {
            let message = "more brackets or text in one piece than a reader can follow";
            let finding = || Finding::error(last, "", message).hint("write nested values as indented blocks");
            builder.findings.add(finding);
            return None;
        }
        meter.reset();
        let done = match event {
            Ok((event, range)) => {
                last = builder.places.point(range.start);
                builder.event(event, range)
            }
            // The scanner's own limit on brackets, reached before ours because it reads ahead.
            Err(error) if error.info().contains("recursion limit") => {
                Err(Box::new(builder.too_deep(builder.places.point(*error.marker()))))
            }
            Err(error) => Err(Box::new(syntax(&error, &builder.places))),
        };
        if let Err(finding) = done {
            builder.findings.add(|| *finding);
            return None;
        }
    }
    if builder.root.is_none() {
        builder.findings.add(|| Finding::error(START, "", "the file is empty"));
    }
    builder.root
}

/// Ends the reading: nothing after it can be understood.
type Fatal = Box<Finding>;

struct Builder<'f> {
    places: Places,
    limits: Limits,
    findings: &'f mut Findings,
    /// Collections that have begun, outermost first.
    open: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    nodes: usize,
    documents: usize,
    root: Option<Node>,
}

/// A collection that has begun.
struct Open {
    start: Marker,
    anchor: usize,
    /// Nodes inside, itself included.
    size: usize,
    /// Collections inside each other, itself included.
    height: usize,
    content: Content,
}

enum Content {
    Sequence(Vec<Node>),
    Mapping(IndexMap<String, Entry>, Key),
}

/// What a mapping waits for.
enum Key {
    /// The next node is a key.
    Wanted,
    /// The next node is the value of this key.
    Read(String, Span),
    /// The next node is the value of a key that was refused.
    Refused,
}

/// A node with an anchor. `None` while it is still open.
struct Anchored(Option<(Node, usize, usize)>);

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, range: Range) -> Result<(), Fatal> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    let span = self.places.point(range.start);
                    let finding = Finding::error(span, "", "a second document begins here");
                    return Err(Box::new(finding.hint("put each document in a file of its own")));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let span = self.places.span(range.start, range.end);
                let kind = self.kind(&text, style, tag.as_deref(), span)?;
                let value = Value::Scalar(Scalar { raw: text.into_owned(), kind });
                self.complete(Node { span, value }, anchor, 1, 0)
            }
            Event::Alias(id) => self.alias(id, self.places.span(range.start, range.end)),
            Event::SequenceStart(anchor, tag) => {
                self.begin(range.start, anchor, tag.as_deref(), "seq", Content::Sequence(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                let content = Content::Mapping(IndexMap::new(), Key::Wanted);
                self.begin(range.start, anchor, tag.as_deref(), "map", content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(range.end),
        }
    }

    fn begin(
        &mut self,
        start: Marker,
        anchor: usize,
        tag: Option<&Tag>,
        expected: &str,
        content: Content,
    ) -> Result<(), Fatal> {
        let span = self.places.point(start);
        if self.open.len() >= self.limits.depth {
            return Err(Box::new(self.too_deep(span)));
        }
        if let Some(tag) = tag.map(core_tag).filter(|tag| *tag != Some(expected)) {
            return Err(Box::new(bad_tag(tag, span)));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, Anchored(None));
        }
        self.open.push(Open { start, anchor, size: 1, height: 1, content });
        Ok(())
    }

    fn end(&mut self, end: Marker) -> Result<(), Fatal> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let span = self.places.span(open.start, end);
        let value = match open.content {
            Content::Sequence(items) => Value::Sequence(items),
            Content::Mapping(entries, _) => Value::Mapping(entries),
        };
        // The nodes inside were counted as they came.
        self.nodes -= open.size - 1;
        self.complete(Node { span, value }, open.anchor, open.size, open.height)
    }

    fn alias(&mut self, id: usize, span: Span) -> Result<(), Fatal> {
        match self.anchors.get(&id) {
            Some(Anchored(Some((node, size, height)))) => {
                // Before the copy: this is what keeps a few lines from becoming billions of nodes.
                if self.nodes + size > self.limits.nodes {
                    return Err(Box::new(self.too_many(span)));
                }
                if self.open.len() + height > self.limits.depth {
                    return Err(Box::new(self.too_deep(span)));
                }
                let (node, size, height) = (node.clone(), *size, *height);
                self.complete(Node { span, ..node }, 0, size, height)
            }
            _ => {
                Err(Box::new(Finding::error(span, "", "this alias stands inside the value that it repeats")))
            }
        }
    }

    /// A node is complete: gives it to the collection it stands in.
    fn complete(&mut self, node: Node, anchor: usize, size: usize, height: usize) -> Result<(), Fatal> {
        self.nodes += size;
        if self.nodes > self.limits.nodes {
            return Err(Box::new(self.too_many(node.span)));
        }
        if anchor > 0 {
            // The copies count too, or anchors inside anchors would be free.
            self.nodes += size;
            self.anchors.insert(anchor, Anchored(Some((node.clone(), size, height))));
        }
        let Some((open, outer)) = self.open.split_last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.size += size;
        open.height = open.height.max(height + 1);
        match &mut open.content {
            Content::Sequence(items) => items.push(node),
            Content::Mapping(entries, key) => match std::mem::replace(key, Key::Wanted) {
                Key::Wanted => *key = read_key(node, outer, self.findings),
                Key::Read(name, span) => {
                    insert(entries, name, Entry { key: span, node }, outer, self.findings);
                }
                Key::Refused => {}
            },
        }
        Ok(())
    }

    fn kind(&self, text: &str, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Result<Kind, Fatal> {
        let plain = resolve(text);
        let Some(tag) = tag.map(core_tag) else {
            return Ok(if style == ScalarStyle::Plain { plain } else { Kind::Text });
        };
        match (tag, plain) {
            (Some("str"), _) => Ok(Kind::Text),
            (Some("null"), Kind::Null)
            | (Some("bool"), Kind::Bool(_))
            | (Some("int"), Kind::Integer(_))
            | (Some("float"), Kind::Float(_)) => Ok(plain),
            #[expect(clippy::cast_precision_loss, reason = "that is what a float is")]
            (Some("float"), Kind::Integer(number)) => Ok(Kind::Float(number as f64)),
            _ => Err(Box::new(bad_tag(tag, span))),
        }
    }

    fn too_deep(&self, span: Span) -> Finding {
        Finding::error(span, "", format!("values are nested deeper than {} levels", self.limits.depth))
    }

    fn too_many(&self, span: Span) -> Finding {
        Finding::error(
            span,
            "",
            format!("the file has more than {} values, aliases expanded", self.limits.nodes),
        )
    }
}

/// The path of a key in the mapping that stands in `outer`.
fn path(outer: &[Open], key: &str) -> String {
    let step = |path: String, open: &Open| match &open.content {
        Content::Sequence(items) => format!("{path}[{}]", items.len()),
        Content::Mapping(_, Key::Read(name, _)) => join(&path, name),
        Content::Mapping(..) => path,
    };
    join(&outer.iter().fold(String::new(), step), key)
}

fn read_key(node: Node, outer: &[Open], findings: &mut Findings) -> Key {
    let span = node.span;
    let Value::Scalar(Scalar { raw, kind }) = node.value else {
        let message = format!("a key must be text, found {}", node.kind_name());
        findings.add(|| Finding::error(span, "", message));
        return Key::Refused;
    };
    if raw == "<<" {
        let finding = || Finding::error(span, path(outer, "<<"), "merge keys (`<<`) are not supported");
        findings.add(|| finding().hint("write the keys out; an alias may stand for a whole value"));
        return Key::Refused;
    }
    if kind != Kind::Text {
        let message = format!("a key must be text, found {}", kind.name());
        let hint = (!raw.is_empty()).then(|| format!("write `\"{}\"`", short(&raw)));
        findings.add(|| Finding {
            hints: hint.into_iter().collect(),
            ..Finding::error(span, path(outer, &raw), message)
        });
    }
    Key::Read(raw, span)
}

fn insert(
    entries: &mut IndexMap<String, Entry>,
    name: String,
    entry: Entry,
    outer: &[Open],
    findings: &mut Findings,
) {
    match entries.entry(name) {
        Slot::Vacant(slot) => {
            slot.insert(entry);
        }
        Slot::Occupied(slot) => findings.add(|| {
            let first = slot.get().key;
            let message = format!("the key `{}` stands here a second time", short(slot.key()));
            Finding::error(entry.key, path(outer, slot.key()), message)
                .hint(format!("first on line {}, column {}", first.line, first.column))
        }),
    }
}

/// The name of a tag of the core schema; `None` for others.
fn core_tag(tag: &Tag) -> Option<&str> {
    match (tag.handle.as_str(), tag.suffix.as_str()) {
        ("tag:yaml.org,2002:", suffix) => Some(suffix),
        ("", "!") | ("!", "") => Some("str"),
        ("", whole) => whole.strip_prefix("tag:yaml.org,2002:"),
        _ => None,
    }
}

fn bad_tag(tag: Option<&str>, span: Span) -> Finding {
    let message = match tag {
        Some(name) => format!("the tag `!!{}` does not fit this value", short(name)),
        None => "only the tags of YAML's core schema are allowed".to_owned(),
    };
    Finding::error(span, "", message).hint("allowed: !!str, !!int, !!float, !!bool, !!null, !!seq, !!map")
}

fn syntax(error: &ScanError, places: &Places) -> Finding {
    /// Words of the parser's message, and what to do.
    const HINTS: [(&str, &str); 6] = [
        ("tab", "indent with spaces"),
        ("mapping values are not allowed", "put text with `: ` in it in quotes; check the indentation"),
        ("expected ':'", "put text with `: ` in it in quotes; check the indentation"),
        ("quoted scalar", "close the quotes"),
        ("flow sequence", "close the `[`, and put a comma between the elements"),
        ("flow mapping", "close the `{`, and put a comma between the entries"),
    ];
    let place = places.point(*error.marker());
    if error.info().contains("unknown anchor") {
        return Finding::error(place, "", "no value above has an anchor (`&`) of this name");
    }
    let finding = Finding::error(place, "", format!("not valid YAML: {}", short_info(error)));
    match HINTS.iter().find(|(words, _)| error.info().contains(words)) {
        Some((_, hint)) => finding.hint(*hint),
        None => finding,
    }
}

/// The parser's message with its first clause (what it was doing) kept short.
fn short_info(error: &ScanError) -> String {
    error.info().chars().take(200).flat_map(super::visible).collect()
}

/// From the parser's marks to ours.
struct Places {
    /// Characters of each line.
    widths: Vec<usize>,
    shifted: Option<usize>,
}

impl Places {
    fn point(&self, mark: Marker) -> Span {
        let shift = if self.shifted == Some(mark.line()) { DOCUMENT_START.len() } else { 0 };
        // At the end of the text the mark can be on a line that does not exist.
        let line = mark.line().clamp(1, self.widths.len().max(1));
        let width = self.widths.get(line - 1).copied().unwrap_or(0);
        let column = if line < mark.line() { width } else { mark.col().saturating_sub(shift).min(width) };
        Span { line, column: column + 1, length: 1 }
    }

    /// From `start` to `end`, or to the end of the line.
    fn span(&self, start: Marker, end: Marker) -> Span {
        let point = self.point(start);
        let width = self.widths.get(point.line - 1).copied().unwrap_or(0);
        let rest = (width + 1).saturating_sub(point.column);
        let length = if start.line() == end.line() {
            end.index().saturating_sub(start.index()).min(rest)
        } else {
            rest
        };
        Span { length: length.max(1), ..point }
    }
}
