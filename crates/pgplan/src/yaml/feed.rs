//! The characters of the text, with a limit on how far the scanner reads ahead.
//!
//! A collection in `[]` or `{}` may turn out to be a mapping key, so the scanner reads to its end before it emits
//! anything, looks at every open collection for each token, and inserts into what it has put aside: quadratic work.
//! Between two events it therefore gets a limited number of characters and of brackets, then the text ends.

use std::cell::Cell;

/// Characters between two events. Also the longest scalar.
const CHARS_MAX: usize = 256 * 1024;
/// Opening brackets between two events.
const OPENERS_MAX: usize = 1000;

/// What the scanner has read since the last event.
#[derive(Default)]
pub(super) struct Meter {
    chars: Cell<usize>,
    openers: Cell<usize>,
    exceeded: Cell<bool>,
}

impl Meter {
    /// An event has come: the scanner has decided what it has read.
    pub(super) fn reset(&self) {
        self.chars.set(0);
        self.openers.set(0);
    }

    /// Whether the text was cut off.
    pub(super) fn exceeded(&self) -> bool {
        self.exceeded.get()
    }

    fn admit(&self, c: char) -> bool {
        self.chars.set(self.chars.get() + 1);
        if matches!(c, '[' | '{') {
            self.openers.set(self.openers.get() + 1);
        }
        if self.chars.get() > CHARS_MAX || self.openers.get() > OPENERS_MAX {
            self.exceeded.set(true);
        }
        !self.exceeded.get()
    }
}

/// What is put before a document that is one `{}` or `[]`, as JSON is: after it the collection cannot be a key, so
/// that the scanner emits it piece by piece.
pub(super) const DOCUMENT_START: &str = "--- ";

/// Characters for the scanner. Columns of the line `shifted_line`, if any, are [`DOCUMENT_START`] too high.
pub(super) struct Feed<'a> {
    head: &'a str,
    tail: Option<&'a str>,
    /// Line, from 1, with [`DOCUMENT_START`] before it.
    pub(super) shifted_line: Option<usize>,
}

impl<'a> Feed<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let mut start = 0;
        for (number, line) in super::lines(text).enumerate() {
            if line.starts_with(['{', '[']) {
                return Self {
                    head: &text[..start],
                    tail: Some(&text[start..]),
                    shifted_line: Some(number + 1),
                };
            }
            let blank = line.trim_start();
            if !(blank.is_empty() || blank.starts_with('#')) {
                break;
            }
            start += line.len();
            start += if text[start..].starts_with("\r\n") { 2 } else { usize::from(start < text.len()) };
        }
        Self { head: text, tail: None, shifted_line: None }
    }

    pub(super) fn chars(&self, meter: &'a Meter) -> impl Iterator<Item = char> + 'a {
        let (start, tail) = self.tail.map_or(("", ""), |tail| (DOCUMENT_START, tail));
        self.head.chars().chain(start.chars()).chain(tail.chars()).take_while(|c| meter.admit(*c))
    }
}
