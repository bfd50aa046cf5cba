//! Whether PostgreSQL would accept a value: the rules of its configuration reader.

use super::{Kind, Setting};
use crate::{suggest::did_you_mean, yaml::short};

/// Checks the text of a value (as in postgresql.conf, without quotes) for type, unit and range.
///
/// # Errors
/// What is wrong with the value and what is allowed, in one sentence.
pub fn check_value(setting: &Setting, text: &str) -> Result<(), String> {
    check_text(text)?;
    match setting.kind {
        Kind::Text => Ok(()),
        Kind::Bool if is_bool(text) => Ok(()),
        Kind::Bool => Err(format!("`{}` is not a boolean: write on or off", short(text))),
        Kind::Enum => check_enum(setting, text),
        Kind::Integer | Kind::Real => check_number(setting, text),
    }
}

/// Checks that a value fits in a line of postgresql.conf.
///
/// # Errors
/// When it has control characters such as line ends, or is too long.
pub fn check_text(text: &str) -> Result<(), String> {
    const BYTES_MAX: usize = 8192;
    if let Some(c) = text.chars().find(|c| c.is_control()) {
        return Err(format!(
            "a value must be on one line without control characters, found U+{:04X}",
            u32::from(c)
        ));
    }
    if text.len() > BYTES_MAX {
        return Err(format!("a value must have at most {BYTES_MAX} bytes, has {}", text.len()));
    }
    Ok(())
}

/// PostgreSQL takes any unique beginning of a word, in any case.
fn is_bool(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let begins = |word: &str, least: usize| text.len() >= least && word.starts_with(&text);
    let words = [("true", 1), ("false", 1), ("yes", 1), ("no", 1), ("on", 2), ("off", 2), ("1", 1), ("0", 1)];
    words.iter().any(|(word, least)| begins(word, *least))
}

fn check_enum(setting: &Setting, text: &str) -> Result<(), String> {
    // Accepted, but not shown in pg_settings.
    const HIDDEN: [(&str, &str); 10] = [
        ("wal_level", "archive"),
        ("wal_level", "hot_standby"),
        ("client_min_messages", "debug"),
        ("client_min_messages", "info"),
        ("log_min_messages", "debug"),
        ("log_min_error_statement", "debug"),
        // These depend on how PostgreSQL was built; Debian's packages have them.
        ("wal_compression", "lz4"),
        ("wal_compression", "zstd"),
        ("default_toast_compression", "lz4"),
        ("io_method", "io_uring"),
    ];
    const SWITCH: [&str; 6] = ["true", "false", "yes", "no", "1", "0"];
    let is = |value: &str| value.eq_ignore_ascii_case(text);
    let has = |wanted: &str| setting.values.iter().any(|value| value == wanted);
    let is_switch = has("on") && has("off") && SWITCH.iter().any(|value| is(value));
    let is_hidden = HIDDEN.iter().any(|(name, value)| *name == setting.name && is(value));
    if setting.values.iter().any(|value| is(value)) || is_switch || is_hidden {
        return Ok(());
    }
    let values: Vec<_> = setting.values.iter().filter(|v| !v.is_empty()).map(String::as_str).collect();
    let guess =
        did_you_mean(text, values.iter().copied()).map(|guess| format!(", {guess}")).unwrap_or_default();
    Err(format!(
        "`{}` is not a value of `{}`{guess} (allowed: {})",
        short(text),
        setting.name,
        values.join(", ")
    ))
}

/// Units of memory, in bytes.
const MEMORY: [(&str, f64); 5] =
    [("TB", 1_099_511_627_776.0), ("GB", 1_073_741_824.0), ("MB", 1_048_576.0), ("kB", 1024.0), ("B", 1.0)];
/// Units of time, in microseconds.
const TIME: [(&str, f64); 6] = [
    ("d", 86_400_000_000.0),
    ("h", 3_600_000_000.0),
    ("min", 60_000_000.0),
    ("s", 1_000_000.0),
    ("ms", 1000.0),
    ("us", 1.0),
];

/// The units a setting takes, and how much one of its own unit is.
pub(super) fn units(setting: &Setting) -> Option<(&'static [(&'static str, f64)], f64)> {
    let unit = setting.unit?;
    let table: &[_] = if TIME.iter().any(|(name, _)| *name == unit) { &TIME } else { &MEMORY };
    let digits = unit.find(|c: char| !c.is_ascii_digit()).unwrap_or(0);
    let count: f64 = if digits == 0 { 1.0 } else { unit[..digits].parse().ok()? };
    let (_, size) = table.iter().find(|(name, _)| *name == &unit[digits..])?;
    Some((table, count * size))
}

fn check_number(setting: &Setting, text: &str) -> Result<(), String> {
    let number = number(setting, text)?;
    // pg_settings prints the largest double with six digits.
    let max = if setting.max > 1e308 { f64::MAX } else { setting.max };
    if number.is_finite() && number >= setting.min && number <= max {
        return Ok(());
    }
    let units = units(setting);
    let (min, max) = (show(setting.min, units), show(setting.max, units));
    Err(format!("`{}` is outside the range of `{}`: {min} .. {max}", short(text), setting.name))
}

/// The value of a number in bytes or microseconds, or plain when the setting has no unit; `None` when it is none.
pub fn amount(setting: &Setting, text: &str) -> Option<f64> {
    let is_number = matches!(setting.kind, Kind::Integer | Kind::Real);
    let own = units(setting).map_or(1.0, |(_, own)| own);
    number(setting, text).ok().filter(|_| is_number).map(|number| number * own)
}

/// The number in the unit of the setting.
fn number(setting: &Setting, text: &str) -> Result<f64, String> {
    let units = units(setting);
    let integer = setting.kind == Kind::Integer;
    let names =
        |table: &[(&str, f64)]| table.iter().rev().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let error = || {
        let what = if integer { "a whole number" } else { "a number" };
        match units {
            Some((table, _)) => {
                format!("`{}` is not {what} with a unit (allowed: {})", short(text), names(table))
            }
            None => format!("`{}` is not {what}", short(text)),
        }
    };
    let (mut number, rest) = scan(text, integer).ok_or_else(error)?;
    let unit = rest.trim_matches(is_space);
    if !unit.is_empty() {
        let Some((table, own)) = units else {
            let looks_like_unit = unit.chars().all(char::is_alphabetic);
            return Err(if looks_like_unit { format!("`{}` takes no unit", setting.name) } else { error() });
        };
        let factor = table.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        number *= factor.ok_or_else(|| {
            let spelt = table.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
            let meant = spelt.map_or_else(
                || format!("`{}` is not a unit of `{}`", short(unit), setting.name),
                |(name, _)| format!("`{}` is not a unit, did you mean `{name}`?", short(unit)),
            );
            format!("{meant} (allowed: {})", names(table))
        })? / own;
    }
    Ok(if integer { number.round_ties_even() } else { number })
}

/// The number at the beginning and what follows. Whole numbers may be octal (017) or hexadecimal (0x1F).
fn scan(text: &str, integer: bool) -> Option<(f64, &str)> {
    let text = text.trim_start_matches(is_space);
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let sign = if text.starts_with('-') { -1.0 } else { 1.0 };
    if integer {
        let lower = unsigned.get(..2).map(str::to_ascii_lowercase);
        let (digits, radix) = match lower.as_deref() {
            Some("0x") => (&unsigned[2..], 16),
            Some(start) if start.starts_with('0') && start.ends_with(|c: char| c.is_ascii_digit()) => {
                (unsigned, 8)
            }
            _ => (unsigned, 10),
        };
        let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
        let fractional = radix != 16 && digits[end..].starts_with(['.', 'e', 'E']);
        if radix != 10 && !fractional {
            #[expect(
                clippy::cast_precision_loss,
                reason = "numbers that lose precision are out of every range"
            )]
            let number = u64::from_str_radix(&digits[..end], radix).ok()? as f64;
            return Some((sign * number, &digits[end..]));
        }
    }
    let digits_end = |from: usize| {
        unsigned[from..].find(|c: char| !c.is_ascii_digit()).map_or(unsigned.len(), |end| from + end)
    };
    let mut end = digits_end(0);
    let mut digits = end;
    if unsigned[end..].starts_with('.') {
        let fraction = digits_end(end + 1);
        digits += fraction - end - 1;
        end = fraction;
    }
    if digits == 0 {
        return None;
    }
    if unsigned[end..].starts_with(['e', 'E']) {
        let sign = usize::from(unsigned[end + 1..].starts_with(['-', '+']));
        let exponent = digits_end(end + 1 + sign);
        if exponent > end + 1 + sign {
            end = exponent;
        }
    }
    let number: f64 = unsigned[..end].parse().ok()?;
    Some((sign * number, &unsigned[end..]))
}

fn is_space(c: char) -> bool {
    c.is_ascii_whitespace()
}

/// A bound in the largest unit that is exact: 16 of 8kB is `128kB`.
fn show(number: f64, units: Option<(&[(&str, f64)], f64)>) -> String {
    let Some((table, own)) = units.filter(|_| number > 0.0) else {
        return if number.abs() >= 1e15 { format!("{number:e}") } else { number.to_string() };
    };
    let amount = number * own;
    let exact = table.iter().find(|(_, size)| amount >= *size && amount % size == 0.0);
    exact.map_or_else(|| number.to_string(), |(name, size)| format!("{}{name}", amount / size))
}
