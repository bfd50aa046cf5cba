//! Reads the documents of the repository.

use crate::runner::{files, read};

/// A fenced block of a document.
#[derive(Clone, Debug)]
pub struct Block {
    /// The document.
    pub file: String,
    /// The line of the fence, from 1.
    pub line: usize,
    /// What follows the fence: `sh`, `yaml`, ...
    pub language: String,
    /// What follows the language: for files, their names.
    pub name: String,
    /// The lines between the fences.
    pub text: String,
}

impl Block {
    /// Where it is, for messages.
    pub fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }
}

/// The documents.
pub fn documents() -> Vec<String> {
    files().into_iter().filter(|path| path.ends_with(".md")).collect()
}

/// The fenced blocks of a document.
pub fn blocks(file: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for (at, line) in read(file).lines().enumerate() {
        let fence = line.trim_start().strip_prefix("```");
        match (fence, open) {
            (Some(info), false) => {
                let (language, name) = info.trim().split_once(' ').unwrap_or((info.trim(), ""));
                let (language, name, text) = (language.to_owned(), name.trim().to_owned(), String::new());
                blocks.push(Block { file: file.to_owned(), line: at + 1, language, name, text });
                open = true;
            }
            (Some(_), true) => open = false,
            (None, true) => {
                let text = &mut blocks.last_mut().expect("a block is open").text;
                text.push_str(line);
                text.push('\n');
            }
            (None, false) => {}
        }
    }
    assert!(!open, "{file}: a fence is not closed");
    blocks
}

/// The blocks of all documents.
pub fn all_blocks() -> Vec<Block> {
    documents().iter().flat_map(|file| blocks(file)).collect()
}

/// The document without its fenced blocks, each replaced by empty lines.
pub fn prose(file: &str) -> String {
    let mut open = false;
    let mut text = String::new();
    for line in read(file).lines() {
        let fence = line.trim_start().starts_with("```");
        if !fence && !open {
            text.push_str(line);
        }
        text.push('\n');
        open ^= fence;
    }
    text
}
