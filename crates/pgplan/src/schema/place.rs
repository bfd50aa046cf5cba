//! Where the reader is: a path that costs nothing until it is shown.

use crate::{
    finding::Span,
    yaml::{join, short},
};

/// A node on the way from the root.
pub(super) struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    step: Step<'a>,
    /// The key of the node, or the node itself.
    pub(super) key: Span,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

impl<'a> Place<'a> {
    pub(super) fn root(span: Span) -> Self {
        Self { parent: None, step: Step::Root, key: span }
    }

    pub(super) fn key(&'a self, name: &'a str, span: Span) -> Self {
        Self { parent: Some(self), step: Step::Key(name), key: span }
    }

    pub(super) fn index(&'a self, index: usize, span: Span) -> Self {
        Self { parent: Some(self), step: Step::Index(index), key: span }
    }

    pub(super) fn is_root(&self) -> bool {
        self.parent.is_none()
    }

    /// `postgres.databases[0].name`
    pub(super) fn path(&self) -> String {
        let parent = self.parent.map(Place::path).unwrap_or_default();
        match self.step {
            Step::Root => parent,
            Step::Key(name) => join(&parent, name),
            Step::Index(index) => format!("{parent}[{index}]"),
        }
    }

    /// In a sentence: "`cpus`", "element 2 of `roles`", "the file".
    pub(super) fn name(&self) -> String {
        match (self.step, self.parent) {
            (Step::Key(name), _) => format!("`{}`", short(name)),
            (Step::Index(index), Some(parent)) => format!("element {} of {}", index + 1, parent.name()),
            _ => "the file".to_owned(),
        }
    }

    /// For sentences about keys: " in `hosts.m`", nothing for the root.
    pub(super) fn inside(&self) -> String {
        if self.is_root() { String::new() } else { format!(" in `{}`", self.path()) }
    }
}
