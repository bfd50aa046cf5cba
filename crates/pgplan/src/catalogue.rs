//! The settings of PostgreSQL 12 to 18: which there are, and which values they take.
//!
//! The tables in `data/guc` are the output of `pg_settings` of each major version. `data/renamed.psv` knows names that
//! are gone and what to use now, `data/refused.psv` settings that do not belong into a topology.

mod value;

use std::{collections::BTreeMap, sync::LazyLock};

use crate::suggest::did_you_mean;
pub use value::{amount, check_text, check_value};

/// A setting of one major version.
#[derive(Debug)]
pub struct Setting {
    /// As PostgreSQL spells it.
    pub name: &'static str,
    /// When a change takes effect.
    pub context: Context,
    kind: Kind,
    /// Of a number without unit, e.g. `8kB`, `ms`.
    unit: Option<&'static str>,
    min: f64,
    max: f64,
    values: Vec<String>,
}

/// When a change of a setting takes effect, and who may make it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// Never: it tells something about the server.
    Internal,
    /// When the server is restarted.
    Postmaster,
    /// When the server reloads its files.
    Sighup,
    /// When the server reloads its files, in sessions that begin later.
    Backend,
    /// When the server reloads its files, for sessions that have not changed it themselves.
    User,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bool,
    Integer,
    Real,
    Text,
    Enum,
}

/// Why a setting cannot be used: a message and hints.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// What to do instead, one a line.
    pub hints: Vec<String>,
}

type Catalogue = BTreeMap<String, Setting>;

macro_rules! catalogues {
    ($($version:literal)*) => {
        [$(($version, LazyLock::new(|| parse(include_str!(concat!("../data/guc/pg", $version, ".psv")))))),*]
    };
}

/// By major version, oldest first; each is parsed when it is first asked for.
static CATALOGUES: [(u32, LazyLock<Catalogue>); 7] = catalogues!(12 13 14 15 16 17 18);
static REFUSED: LazyLock<BTreeMap<&str, &str>> =
    LazyLock::new(|| rows(include_str!("../data/refused.psv")).map(|[name, why]| (name, why)).collect());
static RENAMED: LazyLock<BTreeMap<&str, (&str, &str)>> = LazyLock::new(|| {
    rows(include_str!("../data/renamed.psv")).map(|[name, version, now]| (name, (version, now))).collect()
});

/// The major versions with a catalogue.
pub fn versions() -> impl Iterator<Item = u32> {
    CATALOGUES.iter().map(|(version, _)| *version)
}

/// The setting of that name (case does not matter) in a major version.
pub fn lookup(version: u32, name: &str) -> Option<&'static Setting> {
    catalogue(version)?.get(&name.to_ascii_lowercase())
}

/// The setting, if it can be set in a topology; `None` for settings of extensions that no catalogue knows.
///
/// # Errors
/// When there is no such setting in this version, or it is not the topology's to set.
pub fn resolve(version: u32, name: &str) -> Result<Option<&'static Setting>, Refusal> {
    let lower = name.to_ascii_lowercase();
    if let Some(why) = REFUSED.get(lower.as_str()) {
        return Err(refusal(format!("`{name}` cannot be set here"), Some((*why).to_owned())));
    }
    match lookup(version, name) {
        Some(setting) if setting.context == Context::Internal => {
            let why = "it tells something about the server".to_owned();
            Err(refusal(format!("`{name}` cannot be set"), Some(why)))
        }
        Some(setting) => Ok(Some(setting)),
        None if is_extension_setting(name) => Ok(None),
        None => Err(unknown(version, name, &lower)),
    }
}

impl Context {
    /// Whether a change needs a restart.
    pub fn needs_restart(self) -> bool {
        matches!(self, Self::Postmaster | Self::Internal)
    }
}

impl Setting {
    /// Whether the value is text that may be anything.
    pub fn is_text(&self) -> bool {
        self.kind == Kind::Text
    }
}

fn catalogue(version: u32) -> Option<&'static Catalogue> {
    CATALOGUES.iter().find(|(number, _)| *number == version).map(|(_, catalogue)| &**catalogue)
}

/// Why `name` is not in the catalogue of `version`.
fn unknown(version: u32, name: &str, lower: &str) -> Refusal {
    let shown = crate::yaml::short(name);
    let known_by = |wanted: &dyn Fn(u32) -> bool| {
        CATALOGUES.iter().find(|(number, catalogue)| wanted(*number) && catalogue.contains_key(lower))
    };
    if let Some((gone, now)) = RENAMED.get(lower) {
        let hint = if now.is_empty() { "remove it".to_owned() } else { format!("use {now}") };
        return refusal(format!("`{shown}` is gone since PostgreSQL {gone}"), Some(hint));
    }
    if let Some((from, _)) = known_by(&|number| number > version) {
        let message = format!("`{shown}` exists from PostgreSQL {from} on; this lab has {version}");
        return refusal(message, Some("remove it, or take an image with a later PostgreSQL".to_owned()));
    }
    if known_by(&|number| number < version).is_some() {
        return refusal(format!("`{shown}` is gone in PostgreSQL {version}"), Some("remove it".to_owned()));
    }
    let names = catalogue(version).into_iter().flatten().filter(|(_, s)| s.context != Context::Internal);
    let guess = did_you_mean(name, names.map(|(_, setting)| setting.name));
    let guess =
        guess.or_else(|| Some(format!("the settings of PostgreSQL {version}: SELECT name FROM pg_settings")));
    refusal(format!("unknown PostgreSQL setting `{shown}`"), guess)
}

fn refusal(message: String, hint: Option<String>) -> Refusal {
    Refusal { message, hints: hint.into_iter().collect() }
}

/// Whether the name is one that PostgreSQL accepts for a setting of an extension: identifiers joined by dots.
fn is_extension_setting(name: &str) -> bool {
    let identifier = |part: &str| {
        let mut chars = part.chars();
        chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$')
    };
    name.contains('.') && name.len() < 128 && name.split('.').all(identifier)
}

/// The rows of a table after its header. A row of another width is left out, which the tests notice.
fn rows<const WIDTH: usize>(table: &'static str) -> impl Iterator<Item = [&'static str; WIDTH]> {
    let row = |line: &'static str| line.split('|').collect::<Vec<_>>().try_into().ok();
    table.lines().skip(1).filter_map(row)
}

fn parse(table: &'static str) -> Catalogue {
    let setting = |[name, context, kind, unit, _boot, min, max, values]: [&'static str; 8]| {
        Some(Setting {
            name,
            context: match context {
                "internal" => Context::Internal,
                "postmaster" => Context::Postmaster,
                "sighup" => Context::Sighup,
                "backend" | "superuser-backend" => Context::Backend,
                "superuser" | "user" => Context::User,
                _ => return None,
            },
            kind: match kind {
                "bool" => Kind::Bool,
                "integer" => Kind::Integer,
                "real" => Kind::Real,
                "enum" => Kind::Enum,
                "string" => Kind::Text,
                _ => return None,
            },
            unit: (!unit.is_empty()).then_some(unit),
            min: min.parse().unwrap_or(f64::NEG_INFINITY),
            max: max.parse().unwrap_or(f64::INFINITY),
            values: array(values),
        })
    };
    rows(table).filter_map(setting).map(|setting| (setting.name.to_ascii_lowercase(), setting)).collect()
}

/// The elements of an array as PostgreSQL prints it: `{a,"b c",""}`. None of them has a comma or a quote inside.
fn array(text: &str) -> Vec<String> {
    let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or_default();
    let elements = inner.split(',').filter(|element| !element.is_empty());
    elements.map(|element| element.trim_matches('"').to_owned()).collect()
}

#[cfg(test)]
mod tests;
