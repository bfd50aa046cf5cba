//! Stages of optimisation: SQL that is applied, SQL that takes it back, and statements written anew for it.
//!
//! A file `optimize/NN-name.sql` begins with a comment that says what it does. Lines `-- up`, `-- down`, `-- refresh` (run
//! before each measurement while the stage is applied) and `-- statement NAME` begin its parts.

use anyhow::{Context as _, bail, ensure};

use crate::assets::Assets;

/// A stage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stage {
    /// As `01-foreign-keys`.
    pub name: String,
    /// In a sentence.
    pub description: String,
    /// Applies it.
    pub up: String,
    /// Takes it back.
    pub down: String,
    /// Brings what it stores up to date.
    pub refresh: String,
    /// Statements that are other SQL with it, which returns the same.
    pub rewrites: Vec<(String, String)>,
}

impl Stage {
    /// All stages, in order.
    ///
    /// # Errors
    /// A file that is not as it must be.
    pub fn all(assets: &Assets) -> anyhow::Result<Vec<Self>> {
        let files =
            assets.folder("optimize").filter_map(|(name, text)| Some((name.strip_suffix(".sql")?, text)));
        files
            .map(|(name, text)| Self::parse(name, text).with_context(|| format!("optimize/{name}.sql")))
            .collect()
    }

    fn parse(name: &str, text: &str) -> anyhow::Result<Self> {
        let mut stage = Self { name: name.to_owned(), ..Self::default() };
        let mut part: Option<&mut String> = None;
        for line in text.lines() {
            let mark = line.strip_prefix("-- ").map(str::trim);
            match (mark, &part) {
                (Some("up"), _) => part = Some(&mut stage.up),
                (Some("down"), _) => part = Some(&mut stage.down),
                (Some("refresh"), _) => part = Some(&mut stage.refresh),
                (Some(mark), _) if mark.starts_with("statement ") => {
                    stage.rewrites.push((mark["statement ".len()..].to_owned(), String::new()));
                    part = stage.rewrites.last_mut().map(|(_, sql)| sql);
                }
                (Some(text), None) => {
                    stage.description = format!("{} {text}", stage.description).trim().to_owned();
                }
                _ => match &mut part {
                    Some(part) => {
                        part.push_str(line);
                        part.push('\n');
                    }
                    None if line.trim().is_empty() => {}
                    None => bail!("`{line}` is before the first part"),
                },
            }
        }
        ensure!(!stage.description.is_empty(), "does not say what it does: begin with a comment");
        ensure!(!stage.up.trim().is_empty() && !stage.down.trim().is_empty(), "needs `-- up` and `-- down`");
        Ok(stage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found() {
        let stage = Stage::parse(
            "01-x",
            "-- Does this\n-- and that.\n-- up\nCREATE 1;\n-- a remark\n-- down\nDROP 1;\n-- statement s\nSELECT 2\n",
        )
        .unwrap();
        assert_eq!(stage.description, "Does this and that.");
        assert_eq!((stage.up.as_str(), stage.down.as_str()), ("CREATE 1;\n-- a remark\n", "DROP 1;\n"));
        assert_eq!(stage.rewrites, [("s".to_owned(), "SELECT 2\n".to_owned())]);
        for bad in ["-- up\nx", "-- d\n-- up\nCREATE", "SELECT 1\n-- up\n"] {
            assert!(Stage::parse("x", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn built_in_stages_rewrite_statements_that_exist() {
        let assets = Assets::new(None).unwrap();
        let stages = Stage::all(&assets).unwrap();
        assert!(stages.len() >= 4);
        let mut workload = crate::workload::Workload::load(&assets, "analytics").unwrap();
        for stage in stages {
            for (name, sql) in &stage.rewrites {
                workload.rewrite(name, sql).unwrap();
            }
        }
    }
}
