//! SQL scripts: several statements, `:name` parameters, and directives in comments.
//!
//! A directive stands in a comment that begins with `--:` and is about the next statement:
//!   `--: keep`          the columns of its row are parameters of the following statements
//!   `--: keep or stop`  the same; when there is no row, the transaction ends there, rolled back, with nothing done

/// What happens with the rows of a statement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rows {
    /// Read and dropped.
    #[default]
    Drop,
    /// The columns of the first become parameters; that there is none is an error.
    Keep,
    /// The columns of the first become parameters; when there is none, the transaction ends.
    KeepOrStop,
}

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// With `$1`, `$2`, ... in place of names.
    pub sql: String,
    /// Names by number.
    pub parameters: Vec<String>,
    /// What happens with its rows.
    pub rows: Rows,
}

/// Takes a script apart.
///
/// # Errors
/// A directive that does not exist, a quote or comment that does not end, no statement at all.
pub fn parse(text: &str) -> Result<Vec<Step>, String> {
    let mut parser = Parser { rest: text, ..Parser::default() };
    parser.run()?;
    if parser.steps.is_empty() {
        return Err("has no statement".to_owned());
    }
    Ok(parser.steps)
}

#[derive(Default)]
struct Parser<'a> {
    rest: &'a str,
    sql: String,
    parameters: Vec<String>,
    rows: Rows,
    steps: Vec<Step>,
}

impl<'a> Parser<'a> {
    fn run(&mut self) -> Result<(), String> {
        while let Some(char) = self.rest.chars().next() {
            if let Some(comment) = self.rest.strip_prefix("--") {
                let end = comment.find('\n').unwrap_or(comment.len());
                if let Some(directive) = comment[..end].strip_prefix(':') {
                    self.directive(directive.trim())?;
                }
                self.rest = &comment[end..];
            } else if self.rest.starts_with("/*") {
                self.through(2, "*/")?;
            } else if char == '\'' || char == '"' {
                self.through(1, &char.to_string())?;
            } else if let Some(tag) = dollar_tag(self.rest) {
                self.through(tag.len(), tag)?;
            } else if self.rest.starts_with("::") {
                self.take(2);
            } else if let (':', Some(name)) =
                (char, name_at(&self.rest[1..]).filter(|_| self.may_be_parameter()))
            {
                self.rest = &self.rest[1 + name.len()..];
                let known = self.parameters.iter().position(|known| known == name);
                let number = known.unwrap_or_else(|| {
                    self.parameters.push(name.to_owned());
                    self.parameters.len() - 1
                });
                self.sql.push_str(&format!("${}", number + 1));
            } else if char == ';' {
                self.rest = &self.rest[1..];
                self.end();
            } else {
                self.take(char.len_utf8());
            }
        }
        self.end();
        Ok(())
    }

    fn directive(&mut self, words: &str) -> Result<(), String> {
        self.rows = match words {
            "keep" => Rows::Keep,
            "keep or stop" => Rows::KeepOrStop,
            other => return Err(format!("has the directive `{other}`: it can be `keep` or `keep or stop`")),
        };
        Ok(())
    }

    /// `a[1:n]` is a slice, not a parameter.
    fn may_be_parameter(&self) -> bool {
        !self.sql.ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ']')
    }

    fn take(&mut self, bytes: usize) {
        self.sql.push_str(&self.rest[..bytes]);
        self.rest = &self.rest[bytes..];
    }

    /// Takes everything up to and including `end`, which is looked for after the first `skip` bytes.
    fn through(&mut self, skip: usize, end: &str) -> Result<(), String> {
        let at =
            self.rest[skip..].find(end).ok_or_else(|| format!("has no {end} to end what begins with it"))?;
        self.take(skip + at + end.len());
        Ok(())
    }

    fn end(&mut self) {
        let sql = self.sql.trim().to_owned();
        self.sql.clear();
        let (parameters, rows) = (std::mem::take(&mut self.parameters), std::mem::take(&mut self.rows));
        if !sql.is_empty() {
            self.steps.push(Step { sql, parameters, rows });
        }
    }
}

/// `$$` or `$tag$` at the beginning of a text.
fn dollar_tag(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('$')?;
    let name = inner.find('$').map(|end| &inner[..end])?;
    let plain =
        name.chars().all(|c| c.is_alphanumeric() || c == '_') && !name.starts_with(|c: char| c.is_numeric());
    plain.then(|| &text[..name.len() + 2])
}

fn name_at(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    text[..end].starts_with(|c: char| c.is_ascii_alphabetic() || c == '_').then(|| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_directives_and_statements_are_found_and_nothing_else() {
        let steps = parse(
            "-- a remark; with :nothing\n--: keep or stop\nSELECT a::int, ':no', \"x:y\", $$;:no$$, b[1:2]\n  FROM t WHERE i = :id AND j > :from_day AND k = :id;\n\
             UPDATE t SET s = 'it''s; :no' /* ; :no */ WHERE i=:id;\n ; ",
        )
        .unwrap();
        assert_eq!(steps.len(), 2);
        assert_eq!(steps[0].rows, Rows::KeepOrStop);
        assert_eq!(
            steps[0].sql,
            "SELECT a::int, ':no', \"x:y\", $$;:no$$, b[1:2]\n  FROM t WHERE i = $1 AND j > $2 AND k = $1"
        );
        assert_eq!(steps[0].parameters, ["id", "from_day"]);
        assert_eq!(
            (steps[1].rows, steps[1].parameters.as_slice()),
            (Rows::Drop, ["id".to_owned()].as_slice())
        );
        assert!(steps[1].sql.ends_with("WHERE i=$1"));
    }

    #[test]
    fn mistakes_are_refused() {
        for (text, said) in
            [("", "no statement"), ("--: kep\nSELECT 1", "`kep`"), ("SELECT 'a", "has no '"), ("/* x", "*/")]
        {
            assert!(parse(text).unwrap_err().contains(said), "{text}");
        }
    }
}
